"""Results: one JSON for each evaluation, and tables that say no more than the JSONs do."""

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.errors import DataError
from tests.trainer.tiny import make_dataset, one_process, tiny_bundle, tiny_config
from trainer.cli import main
from trainer.data.folder import split_good
from trainer.export import export
from trainer.plots import draw_passes, draw_scales, draw_seeds, draw_weights
from trainer.results import Result, on_set, read_results, result_of_bundle, write_result
from trainer.results_page import write_page
from trainer.run import commits, create, open_run
from trainer.tables import as_trained, config_name, differences, log, per_defect, spread, summary, ways
from trainer.train import train

COMMITTED = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/, run/ and bundle/."""
    root = tmp_path_factory.mktemp("results")
    tiny_bundle(root)
    return root


def result(**changes: Any) -> Result:
    """A result made up: seed 0 of a run on the set `bolts`."""
    figures = {
        "n_good": 3,
        "n_defect": 4,
        "macs": None,
        "params": 10,
        "latency_ms": {"p50": 4.0, "p95": 5.0},
        **dict.fromkeys(("image_ap", "image_f1_max", "pixel_f1_max", "pixel_auroc", "aupro", "aupro_005"), 0.5),
        "image_auroc": 0.9,
        "pixel_ap": None,
        "per_defect": {"bent": {"image_auroc": 0.75, "pixel_ap": None}},
    }
    values = {
        "set": "bolts",
        "method": "diffusionad",
        "profile": "edge",
        "backend": "torch",
        "precision": "fp32",
        "seed": 0,
        "weights": "0" * 64,
        "commit": "abc",
        "made_at": "2026-01-01T00:00:00Z",
        "variant": {"kind": "norm_guided", "t_s": 200, "t_b": 400, "w": 1.0},
        "config": {"diffusion": {"t_s": 200, "t_b": 400, "w": 1.0}, "optim": {"batch": 8}},
        "training": {"images": 5, "steps": 1000, "minutes": 10.0},
        "figures": figures | changes.pop("figures", {}),
        **changes,
    }
    return Result.model_validate(values)


def rows(table: str) -> list[Mapping[str, str]]:
    """The rows of a Markdown table by its header."""
    header, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_an_evaluation_of_a_run_is_kept_with_all_that_made_it(root: Path, tmp_path: Path) -> None:
    command = ["evaluate", root / "run", "--data", root / "data", "--json", tmp_path / "e.json"]
    assert main([str(word) for word in [*command, "--results", tmp_path / "results", "--note", "quiet cores"]]) == 0
    (kept,) = read_results(tmp_path / "results")
    evaluation = json.loads((tmp_path / "e.json").read_text())
    assert {name: evaluation[name] for name in ("method", "profile", "backend", "precision", "seed")} == {
        name: getattr(kept, name) for name in ("method", "profile", "backend", "precision", "seed")
    }
    assert kept.figures.model_dump(exclude={"memory_mb"}).items() <= evaluation.items()
    assert (kept.set, kept.training.steps, kept.training.images, kept.note) == ("data", 6, 6, "quiet cores")
    assert kept.config["optim"]["batch"] == 4
    assert kept.commit == json.loads((root / "run/images.json").read_text())["commit"]
    assert as_trained(kept)
    assert 0 < (kept.training.waited or 0) < 1
    assert re.search(r", \d+ threads?, (bf16|fp32)", kept.training.computed or "")


def test_code_that_went_on_with_a_training_is_told_by_its_results_and_its_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = create(tmp_path / "run", tiny_config(), split_good(make_dataset(tmp_path / "data"), 0.25, 0), 0)
    for commit, minutes in (("one", 1e-9), ("two", 1e-9), ("two", math.inf)):
        monkeypatch.setattr("trainer.train.source_version", lambda commit=commit: commit)
        train(run, one_process(), minutes, resume=commit == "two", workers=0)
    export(run.path, tmp_path / "bundle")
    for subject in ("run", "bundle"):
        command = ["evaluate", tmp_path / subject, "--data", tmp_path / "data", "--results", tmp_path / "results"]
        assert main([str(word) for word in command]) == 0
    for kept in read_results(tmp_path / "results"):
        assert (kept.commit, kept.training.commits) == ("two", ["one", "two"])
        assert "| one, two |" in log([kept])


def test_of_a_checkpoint_of_old_the_commit_is_what_the_run_was_begun_with(root: Path) -> None:
    run = open_run(root / "run")
    assert commits(run, {}) == (run.commit,)
    assert commits(replace(run, commit=None), {}) == ()


def test_an_evaluation_of_a_bundle_is_kept_under_its_engine(root: Path, tmp_path: Path) -> None:
    command = ["evaluate", root / "bundle", "--data", root / "data", "--results", tmp_path]
    assert main([str(word) for word in command]) == 0
    (kept,) = read_results(tmp_path)
    bundle = open_bundle(root / "bundle")
    assert (kept.weights, kept.backend, kept.figures.macs) == (bundle.digest, "onnxruntime", bundle.manifest.macs)
    assert "onnxruntime-fp32" in kept.file_name()
    assert as_trained(kept)


def test_a_run_and_its_bundle_on_the_same_engine_are_one_row(root: Path, tmp_path: Path) -> None:
    for subject, *backend in (("run",), ("bundle", "--backend", "torch")):
        command = ["evaluate", root / subject, "--data", root / "data", "--results", tmp_path, *backend]
        assert main([str(word) for word in command]) == 0
    found = read_results(tmp_path)
    (row,) = rows(summary(found))
    assert (row["seeds"], len(found)) == ("1", 2)
    assert [row["training"] for row in rows(per_defect(found, "image_auroc"))] == ["6 images, 6 steps"]
    assert differences(found) == ""


@pytest.mark.parametrize("told", [{}, {"sha256": "a" * 64}])
def test_bundles_of_other_trainings_are_other_rows(told: dict[str, Any]) -> None:
    """Of old they do not tell the configuration: then other networks do."""
    one = result(backend="onnxruntime", config={"top_k": 10, **told}, figures={"macs": 5})
    other = {"top_k": 10, **({"sha256": "b" * 64} if told else {})}
    two = result(backend="onnxruntime", config=other, weights="1" * 64, figures={"macs": 5 if told else 6})
    assert [row["seeds"] for row in rows(summary([one, two]))] == ["1", "1"]


def test_a_bundle_of_before_tells_what_its_manifest_has(root: Path) -> None:
    manifest = open_bundle(root / "bundle").manifest
    roi = {"x": 0, "y": 0, "w": 8, "h": 8}
    before = {"config_sha256": None, "max_steps": None, "max_minutes": None}
    facts = {"method": "diffusionad", "profile": "tiny", "backend": "onnxruntime", "precision": "fp32", "seed": 0}
    evaluation = facts | result(figures={"macs": 5}).figures.model_dump()
    names = set()
    for changes, pretrained in ((before, None), ({**before, "roi": roi}, None), (before, "lite0")):
        training = type(manifest.training).model_validate(manifest.training.model_dump() | changes)
        old = manifest.model_copy(update={"training": training, "pretrained": pretrained})
        kept = result_of_bundle(old, root / "data", evaluation)
        assert set(kept.config) <= {"input", "diffusion", "top_k", "roi", "pretrained"}
        names.add(config_name(kept))
    assert len(names) == 3


def test_a_result_reads_back_as_it_was_written_and_the_same_weights_have_one_place(tmp_path: Path) -> None:
    path = write_result(tmp_path, result())
    assert re.fullmatch(
        r"bolts/edge-norm-guided-t_s-200-t_b-400-w-1-seed0-[0-9a-f]{8}\.json", str(path.relative_to(tmp_path))
    )
    assert read_results(tmp_path) == [result()]


def test_the_same_weights_measured_again_lie_beside_and_the_last_counts(tmp_path: Path) -> None:
    """The log has them all, also those of one second, in their order."""
    again = [result(note=str(n), figures={"image_auroc": n / 100}) for n in range(12)]
    paths = [write_result(tmp_path, r) for r in again]
    assert len(set(paths)) == 12
    found = read_results(tmp_path)
    assert [row["note"] for row in rows(log(found))] == [str(n) for n in range(12)]
    (row,) = rows(summary(found))
    assert (row["seeds"], row["image AUROC"]) == ("1", "0.110")


@pytest.mark.parametrize(
    "other", [{"config": {"top_k": 150}}, {"weights": "1" * 64}, {"seed": 1}, {"images_sha256": "1" * 64}]
)
def test_another_configuration_other_weights_or_images_have_a_place_of_their_own(
    other: dict[str, Any], tmp_path: Path
) -> None:
    assert write_result(tmp_path, result()) != write_result(tmp_path, result(**other))
    assert len(read_results(tmp_path)) == 2


@pytest.mark.parametrize(("text", "expected"), [("{", "is not JSON"), ("{}", "set: Field required")])
def test_a_file_that_is_no_result_is_named(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(DataError, match=rf"odd\.json.*{expected}"):
        read_results(tmp_path)


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    body = result().model_dump(mode="json", by_alias=True)
    (tmp_path / "odd.json").write_text(json.dumps({**body, "sead": 1}))
    with pytest.raises(DataError, match="sead"):
        read_results(tmp_path)


def test_no_results_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "text"),
    [([0.5], "0.500"), ([0.4, 0.6], "0.500 ± 0.141"), ([None, 0.25], "0.250"), ([None], "-"), ([], "-")],
)
def test_the_spread_is_the_sample_standard_deviation(values: list[float | None], text: str) -> None:
    assert spread(values) == text


def test_seeds_are_one_row_and_another_configuration_is_another() -> None:
    seeds = [result(seed=seed, figures={"image_auroc": value}) for seed, value in enumerate((0.90, 0.92, 0.94))]
    other = result(config={"diffusion": {"t_s": 200, "t_b": 400, "w": 1.0}, "optim": {"batch": 16}})
    first, second = rows(summary([*seeds, other]))
    assert (first["seeds"], first["image AUROC"], first["pixel AP"]) == ("3", "0.920 ± 0.020", "-")
    assert (second["seeds"], second["image AUROC"]) == ("1", "0.900")
    assert rows(differences([*seeds, other])) == [
        {"key": "optim.batch", first["config"]: "8", second["config"]: "16"},
    ]
    assert differences(seeds) == ""


def test_a_seed_that_was_measured_again_is_no_spread_and_stays_in_the_log() -> None:
    seeds = [result(seed=seed, weights=str(i) * 64, figures={"image_auroc": value})
             for i, (seed, value) in enumerate(((0, 0.5), (0, 0.90), (1, 0.92)))]  # fmt: skip
    (row,) = rows(summary(seeds))
    assert (row["seeds"], row["image AUROC"]) == ("2", "0.910 ± 0.014")
    assert len(rows(log(seeds))) == 3


def test_a_training_that_had_less_or_went_on_is_no_seed_of_the_others() -> None:
    of = {"images": 100, "steps": 8000, "processes": 1}
    trainings = [
        of | {"minutes": 60.0},
        of | {"minutes": 59.8},
        of | {"minutes": 10.0},
        of | {"images": 50, "minutes": 60},
    ]
    seeds = [result(seed=seed, weights=str(seed) * 64, training=t) for seed, t in enumerate(trainings)]
    again = result(seed=0, weights="9" * 64, training=of | {"minutes": 115.0})
    assert [row["seeds"] for row in rows(summary([*seeds, again]))] == ["2", "1", "1", "1"]
    told = [row["training"] for row in rows(per_defect([*seeds, again], "image_auroc"))]
    assert told == ["100 images, 60 min", "100 images, 10 min", "50 images, 60 min", "100 images, 115 min"]


def _trainings(*trainings: dict[str, Any], config: dict[str, Any] | None = None) -> list[str]:
    """What the table says that trainings of 100 images had, each of a seed of its own; a row each."""
    found = [
        result(seed=seed, weights=str(seed) * 64, training={"images": 100, "steps": 10} | training)
        for seed, training in enumerate(trainings)
    ]
    if config is not None:
        found = [r.model_copy(update={"config": config}) for r in found]
    return [row["training"] for row in rows(per_defect(found, "image_auroc"))]


def test_short_trainings_are_not_seeds_of_each_other() -> None:
    assert _trainings({"minutes": 0.5}, {"minutes": 2.0}, {"minutes": 10.02}, {"minutes": 14.0}) == [
        f"100 images, {minutes} min" for minutes in ("0.5", "2", "10", "14")
    ]


def test_trainings_that_were_given_the_same_minutes_are_seeds_of_each_other_however_long_a_step_took() -> None:
    given = [{"minutes": 12.5, "max_minutes": 12.5}, {"minutes": 14.9, "max_minutes": 12.5}, {"minutes": 12.6}]
    assert _trainings(*given, {"minutes": 13.0, "max_minutes": 13.0}) == ["100 images, 12.5 min", "100 images, 13 min"]


def test_a_training_that_was_stopped_early_is_no_seed_of_those_that_had_their_time() -> None:
    stopped = {"minutes": 20.0, "max_minutes": 60.0}
    assert len(_trainings({"minutes": 60.0, "max_minutes": 60.0}, stopped)) == 2


def test_trainings_that_did_all_their_steps_are_seeds_of_each_other_however_long_they_took() -> None:
    config = {"optim": {"steps": 1000}}
    done = [{"steps": 1000, "minutes": minutes} for minutes in (20.0, 55.0)]
    assert _trainings(*done, {"steps": 900, "minutes": 52.0}, config=config) == [
        "100 images, 1,000 steps",
        "100 images, 52 min",
    ]


@pytest.mark.parametrize("minutes", [25, 30, 34.99, 45, 85])
def test_trainings_of_the_same_minutes_are_seeds_of_each_other_although_each_takes_its_last_step(minutes: int) -> None:
    of = {"images": 100, "steps": 8000, "processes": 1}
    seeds = [
        result(seed=seed, weights=str(seed) * 64, training=of | {"minutes": minutes + 0.01 * seed}) for seed in range(3)
    ]
    assert [row["seeds"] for row in rows(summary(seeds))] == ["3"]


def test_a_way_to_reconstruct_that_was_measured_again_counts_once_and_as_it_was_last() -> None:
    one_step = {"kind": "one_step", "t": 200}
    seeds = [result(seed=seed, variant=one_step, weights=str(i) * 64, figures={"image_auroc": value, "latency_ms": ms})
             for i, (seed, value, ms) in enumerate(((0, 0.5, {"p50": 9.0}), (0, 0.90, {"p50": 4.0}),
                                                    (1, 0.92, {"p50": 4.0})))]  # fmt: skip
    (row,) = rows(ways(seeds, cost=True))
    assert (row["seeds"], row["image AUROC"], row["images/s"]) == ("2", "0.910 ± 0.014", "250")


@pytest.mark.parametrize(
    "draw",
    [draw_passes, draw_scales, draw_weights, draw_seeds],
    ids=["passes", "scales", "weights", "seeds"],
)
def test_a_plot_has_of_each_seed_the_last_result(draw: Callable[[Path, list[Result]], None], tmp_path: Path) -> None:
    old, new = (
        [result(weights=weights * 64, variant=variant, figures={"image_auroc": value})
         for variant in ({"kind": "one_step", "t": 200}, {"kind": "norm_guided", "t_s": 200, "t_b": 400, "w": 1.0})]
        for weights, value in (("1", 0.5), ("2", 0.9))
    )  # fmt: skip
    draw(tmp_path / "both.png", [*old, *new])
    draw(tmp_path / "last.png", new)
    draw(tmp_path / "first.png", old)
    pictures = {name: (tmp_path / f"{name}.png").read_bytes() for name in ("both", "last", "first")}
    assert pictures["both"] == pictures["last"] != pictures["first"]


ONE_STEP = {"kind": "one_step", "t": 200}
GUIDED = {"kind": "norm_guided", "t_s": 200, "t_b": 400, "w": 1.0}


def _ablated(seed: int, *variants: dict[str, Any], weights: str = "0", auroc: float = 0.9) -> list[Result]:
    made = {"seed": seed, "weights": weights * 64, "figures": {"image_auroc": auroc}}
    return [result(variant=variant, **made) for variant in variants]


def test_ways_are_compared_on_the_seeds_that_all_of_them_have() -> None:
    alone = _ablated(1, GUIDED, weights="1", auroc=0.1)
    (one, other) = rows(ways([*_ablated(0, ONE_STEP, GUIDED), *alone], cost=False))
    assert (one["seeds"], one["image AUROC"]) == (other["seeds"], other["image AUROC"]) == ("1", "0.900")


def test_ways_are_compared_on_the_same_weights() -> None:
    """Where a seed was trained anew and measured in its own way only, its other ways are of the weights of before."""
    anew = _ablated(0, GUIDED, weights="1", auroc=0.1)
    found = rows(ways([*_ablated(0, ONE_STEP, GUIDED), *anew], cost=False))
    assert [row["image AUROC"] for row in found] == ["0.900", "0.900"]


@pytest.mark.parametrize("prediction", ["x0", "eps"])
def test_an_auto_encoder_is_in_the_ablation_of_what_predicts_noise_too(prediction: str, tmp_path: Path) -> None:
    """It predicts the image itself, whatever they do."""
    today = tiny_config().model_dump(mode="json")
    diffusion = {**today["diffusion"], "prediction": prediction, "w": 1.0}
    auto = {**today, "diffusion": {**diffusion, "prediction": "x0", "diffuse": False}}
    measured = [result(config={**today, "diffusion": diffusion}), result(config=auto, variant={"kind": "auto_encoder"})]
    text = write_page(measured, tmp_path).read_text()
    (ways_,) = [part for part in text.split("### ") if "ways to reconstruct" in part]
    assert {row["way"].split(",")[0] for row in rows(ways_.split("\n\n")[1])} == {"auto-encoder", "norm-guided"}


def test_an_ablation_without_guidance_has_no_plot_of_its_weights(tmp_path: Path) -> None:
    pair = [result(variant={"kind": "one_step", "t": t}) for t in (200, 400)]
    text = write_page(pair, tmp_path).read_text()
    assert "-scales.png" in text
    assert "-weights.png" not in text


def test_an_auto_encoder_is_compared_by_its_seed_as_its_weights_are_its_own() -> None:
    auto_encoder = _ablated(0, {"kind": "auto_encoder"}, weights="2")
    both = [*_ablated(0, ONE_STEP, GUIDED), *_ablated(1, ONE_STEP, GUIDED, weights="1")]
    assert [row["seeds"] for row in rows(ways([*both, *auto_encoder], cost=False))] == ["1", "1", "1"]
    assert [row["seeds"] for row in rows(ways(both, cost=False))] == ["2", "2"]


def test_a_key_that_has_come_since_does_not_part_the_seeds() -> None:
    """Its default is what was done before."""
    today = tiny_config().model_dump(mode="json")
    before = {**today, "diffusion": {key: value for key, value in today["diffusion"].items() if key != "diffuse"}}
    (row,) = rows(summary([result(config=before), result(config=today, seed=1)]))
    assert row["seeds"] == "2"


@pytest.mark.parametrize(("w", "trained"), [(1.0, "norm_guided"), (0.0, "one_step")])
def test_the_weight_says_whether_guidance_was_trained(w: float, trained: str) -> None:
    config = {"diffusion": {"t_s": 200, "t_b": 400, "w": w}}
    for variant in ({"kind": "one_step", "t": 200}, {"kind": "norm_guided", "t_s": 200, "t_b": 400, "w": 1.0}):
        assert as_trained(result(config=config, variant=variant)) == (variant["kind"] == trained)
    assert not as_trained(result(config=config, variant={"kind": "one_step", "t": 400}))


def test_another_method_needs_no_variant() -> None:
    patchcore = result(method="patchcore", profile="efficientnet-lite0", variant=None, config={"coreset": 0.1})
    assert as_trained(patchcore)
    assert [row["method"] for row in rows(summary([result(), patchcore]))] == [
        "diffusionad `edge`",
        "patchcore `efficientnet-lite0`",
    ]


def test_every_class_of_defect_has_its_column() -> None:
    two = result(seed=1, figures={"per_defect": {"bent": {"image_auroc": 0.25}, "cut": {"image_auroc": 1.0}}})
    (row,) = rows(per_defect([result(), two], "image_auroc"))
    assert (row["bent"], row["cut"]) == ("0.500 ± 0.354", "1.000")


def test_the_log_has_every_evaluation_in_order() -> None:
    results = [result(seed=2, note="first"), result(seed=1, variant={"kind": "one_step", "t": 200})]
    assert [(row["seed"], row["way"], row["note"]) for row in rows(log(results))] == [
        ("2", "norm-guided, t_s 200, t_b 400, w 1", "first"),
        ("1", "one step from 200", ""),
    ]


def test_the_page_names_no_picture_that_is_not_there(tmp_path: Path) -> None:
    one_step = result(variant={"kind": "one_step", "t": 200})
    page = write_page([result(), result(seed=1), one_step, result(set="nuts")], tmp_path)
    text = page.read_text()
    named = {line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert len(named) == 5  # of each set its own, and three of the ablation of one
    assert named == {path.name for path in tmp_path.glob("*.png")}


def test_sets_whose_folders_have_the_same_name_are_not_mixed(root: Path, tmp_path: Path) -> None:
    """They are told apart by their images, and results of before belong to the one that came first."""
    (tmp_path / "other").mkdir()
    shutil.copytree(root / "data", tmp_path / "other/data")
    (tmp_path / "other/data/test/good/000.png").unlink()
    for data in (root / "data", tmp_path / "other/data"):
        command = ["evaluate", root / "run", "--data", data, "--results", tmp_path / "results"]
        assert main([str(word) for word in command]) == 0
    one, other = read_results(tmp_path / "results")
    assert (one.set, other.set, len({one.file_name(), other.file_name()})) == ("data", "data", 2)
    assert on_set([one, other], tmp_path / "other/data") == [r for r in (one, other) if r.figures.n_good == 2]
    text = write_page([result(set="data"), one, other], tmp_path / "page").read_text()
    assert re.findall("^## (.*)", text, re.MULTILINE) == ["data", f"data-{(other.images_sha256 or '')[:6]}"]


def test_a_set_whose_name_is_no_utf_8_has_a_printable_one(root: Path, tmp_path: Path) -> None:
    data, kept = tmp_path / os.fsdecode(b"L\xf6cher"), tmp_path / "kept"
    shutil.copytree(root / "data", data)
    assert main([*map(str, ("evaluate", root / "run", "--data")), str(data), "--results", str(kept)]) == 0
    (found,) = read_results(kept)
    assert found.set == r"L\udcf6cher"
    assert result(set=os.fsdecode(b"L\xf6cher")).set == found.set  # of before
    assert main(["results", str(kept), "--out", str(tmp_path / "page")]) == 0
    assert "## L\\udcf6cher" in (tmp_path / "page/results.md").read_text(encoding="utf-8")


def test_a_note_or_a_class_cannot_break_a_table(tmp_path: Path) -> None:
    odd = result(note="a|b\nc\\", figures={"per_defect": {"x|y": {"image_auroc": 0.5, "pixel_ap": None}}}, set="my set")
    text = write_page([odd], tmp_path).read_text()
    assert r"| a\|b c\\ |" in text
    assert r"| x\|y |" in text
    assert "![my set](my%20set.png)" in text
    assert (tmp_path / "my set.png").is_file()


def test_the_committed_results_are_results_and_lie_where_they_belong() -> None:
    found = read_results(COMMITTED)
    assert found
    for kept in found:
        path = COMMITTED / kept.file_name()
        assert path.is_file(), path
        assert kept.commit or kept.figures.macs is not None  # bundles of before do not tell it
        assert '"/' not in path.read_text(), f"{path} holds a path of the machine that made it"


def test_the_committed_results_make_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", str(COMMITTED), "--out", str(tmp_path)]) == 0
    text = (tmp_path / "results.md").read_text()
    assert all(f"## {kept.set}" in text for kept in read_results(COMMITTED))
    assert str(tmp_path / "results.md") in capsys.readouterr().out


def test_the_data_set_is_named_by_its_folder(root: Path, tmp_path: Path) -> None:
    make_dataset(tmp_path / "screws")
    command = ["evaluate", root / "run", "--data", tmp_path / "screws", "--results", tmp_path / "results"]
    assert main([str(word) for word in command]) == 0
    assert [kept.set for kept in read_results(tmp_path / "results")] == ["screws"]

"""From a run to a bundle with INT8: what is chosen on which images, what is told, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_ad.backends.base import OUTPUTS, one_at_a_time, open_backend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig
from edge_ad.core.layout import Layout
from edge_ad.errors import BackendError, DataError
from edge_ad.images import sha256_file
from edge_ad.records import RawOutput
from tests.bundles import NOT_HERE
from tests.quantising import run_plainly
from tests.trainer.tiny import make_dataset, one_process, tiny_config
from trainer import quantise as module
from trainer.cli import main
from trainer.config import SynthesisConfig
from trainer.data.folder import load_tiles, split_good
from trainer.export import export, make_int8
from trainer.golden import golden_images
from trainer.qdq import convolutions, with_outputs
from trainer.quantise import (
    Bounds,
    Change,
    Scheme,
    Tuning,
    compare,
    gain_errors,
    make_scheme,
    make_tuning,
    map_error,
    open_session,
    quantise,
    rank_by_sensitivity,
    run_all,
    score_correlation,
    within,
)
from trainer.results import read_results
from trainer.run import Run, create
from trainer.train import train

ANYTHING = Bounds(map_error=float("inf"), score_correlation=-1.0, loss=1.0)
CERTAIN = (0.0, 0.0, 0.0)  # the errors of gains that are known exactly


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("int8")
    data = make_dataset(root / "data", n_train=12)
    run = create(root / "run", tiny_config(), split_good(data, 0.25, 0), 0)
    train(run, one_process(), None, resume=False, workers=0)
    return run


@pytest.fixture(scope="module")
def bundle(run: Run) -> Bundle:
    """Six steps of training do not make a network that bears INT8 well: any change is allowed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.export.Bounds", lambda: ANYTHING)
        return export(run.path, run.path.parent / "bundle", int8_data=run.path.parent / "data")


@pytest.fixture(scope="module")
def fp32(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load(bundle.model_path("fp32"))


@pytest.fixture(scope="module")
def tuning(run: Run) -> Tuning:
    good = load_tiles(sorted((run.path / "calibration_split").iterdir()), None, Layout(32, 32))
    return make_tuning(good, run.config.synthesis, 0)


# --- the bundle -------------------------------------------------------------------------------------------------


def test_the_bundle_holds_both_graphs_and_says_how_int8_was_made(run: Run, bundle: Bundle) -> None:
    summary = bundle.manifest.int8
    assert summary is not None
    assert {"model.onnx", "model.int8.onnx"} <= set(bundle.manifest.files)
    assert summary.images_sha256
    assert set(summary.images_sha256) == set(run.calibration_sha256)  # of all good images those that training held out
    assert (summary.int8_layers, summary.fp32_layers) == (22, ())
    assert "convolutions in INT8 | 22" in (bundle.path / "MODEL_CARD.md").read_text()


def test_only_the_images_that_ranges_are_made_of_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    monkeypatch.setattr("trainer.export.RANGE_IMAGES", 2)
    monkeypatch.setattr("trainer.export.quantise", lambda _model, good, *_: read.append(len(good)))
    made = make_int8(run, onnx.ModelProto(), run.path.parent / "data")
    assert made.images_sha256 == tuple(sorted(run.calibration_sha256)[:2])
    assert read == [2]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_every_engine_of_int8_meets_the_golden_outputs(bundle: Bundle, name: str) -> None:
    try:
        backend = open_backend(bundle, BackendConfig.model_validate({"name": name, "precision": "int8", "threads": 1}))
    except BackendError as error:
        if not NOT_HERE.search(str(error)):
            raise
        pytest.skip(str(error))
    assert backend.run(golden_images(3, 32, 32)).score.shape == (3,)
    backend.close()


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_every_engine_computes_what_the_int8_graph_says(bundle: Bundle, name: str) -> None:
    """Cut off in 16 bits, as on a CPU without VNNI, codes of all 8 bits move these maps by 0.01 to 0.02 in the mean."""
    images = golden_images(8, 32, 32)
    graph = bundle.model_path("int8").read_bytes()
    said = one_at_a_time(lambda image: RawOutput(*run_plainly(graph, image, OUTPUTS)), images)
    try:
        backend = open_backend(bundle, BackendConfig.model_validate({"name": name, "precision": "int8", "threads": 1}))
    except BackendError as error:
        if not NOT_HERE.search(str(error)):
            raise
        pytest.skip(str(error))
    found = one_at_a_time(backend.run, images)
    backend.close()
    assert np.abs(found.anomaly_map - said.anomaly_map).mean() < 0.003
    assert np.abs(found.reconstruction - said.reconstruction).mean() < 0.001


def test_int8_is_another_graph_than_fp32(bundle: Bundle) -> None:
    backends = [open_backend(bundle, BackendConfig(precision=precision)) for precision in ("fp32", "int8")]
    fp32, int8 = (backend.run(golden_images(2, 32, 32)) for backend in backends)
    assert np.abs(fp32.anomaly_map - int8.anomaly_map).max() > 0


def test_the_same_run_gives_the_same_int8_graph(run: Run, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.export.Bounds", lambda: ANYTHING)
        again = export(run.path, tmp_path / "again", int8_data=run.path / "calibration_split")
    assert sha256_file(again.model_path("int8")) == sha256_file(bundle.model_path("int8"))


def quantise_with(rule: str, fp32: onnx.ModelProto, tuning: Tuning) -> float:
    """The map error when there is one rule only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RANGE_RULES", {rule: module.RANGE_RULES[rule]})
        return quantise(fp32, tuning.images[:2], tuning, ANYTHING).change.map_error


# --- the choice -------------------------------------------------------------------------------------------------


def test_defects_are_put_on_the_good_images_that_were_given_and_nowhere_else(tuning: Tuning) -> None:
    n = len(tuning.images) // 2
    good, bad = tuning.images[:n], tuning.images[n:]
    assert not tuning.masks[:n].any()
    assert tuning.masks[n:].any(axis=(1, 2)).all()
    far = ~tuning.masks[n:]
    assert (good[far] == bad[far]).mean() > 0.9  # beside soft edges


def test_the_layer_that_alone_changes_most_is_the_first_to_stay(fp32: onnx.ModelProto, tuning: Tuning) -> None:
    """A range that clips everything is planted in front of one layer."""
    layers = list(convolutions(fp32))
    ranges = dict.fromkeys(module.quantised_tensors(fp32, layers), 8.0)
    planted = "segmenter.head"
    ranges[convolutions(fp32)[planted].input[0]] = 1e-3
    reference = run_all(fp32, tuning.images)
    assert rank_by_sensitivity(fp32, Scheme(ranges, {}), layers, tuning, reference)[0] == planted


def test_layers_go_back_to_fp32_until_the_change_is_within_bounds(
    fp32: onnx.ModelProto, tuning: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = [False, False, True]
    monkeypatch.setattr(module, "_bears", lambda *_: outcomes.pop(0))
    found = quantise(fp32, tuning.images[:2], tuning, Bounds())
    assert len(found.fp32_layers) == 2
    assert set(found.int8_layers) == set(convolutions(fp32)) - set(found.fp32_layers)


def test_of_the_rules_for_ranges_the_one_that_changes_the_maps_least_is_taken(
    fp32: onnx.ModelProto, tuning: Tuning
) -> None:
    found = quantise(fp32, tuning.images[:2], tuning, ANYTHING)
    again = {rule: quantise_with(rule, fp32, tuning) for rule in module.RANGE_RULES}
    assert found.range_rule == min(again, key=again.__getitem__)
    assert found.change.map_error == again[found.range_rule]


def test_with_its_shift_a_layer_gives_what_it_gives_in_fp32_in_the_mean(fp32: onnx.ModelProto, tuning: Tuning) -> None:
    """Over the images that it is from, with a range that clips: each layer alone."""
    layers = list(convolutions(fp32))
    ranges = dict.fromkeys(module.quantised_tensors(fp32, layers), 1.0)
    images = [*tuning.images[:: module.SHIFT_STRIDE]]
    scheme = make_scheme(fp32, layers, ranges, tuning.images)

    def mean(graph: onnx.ModelProto, output: str) -> NDArray[np.float32]:
        session = open_session(with_outputs(graph, [output]))
        seen = [session.run([output], {"image": image[None]})[0] for image in images]
        return np.concatenate(seen).mean(axis=(0, 2, 3))

    for layer in (layers[0], layers[-1]):
        output = convolutions(fp32)[layer].output[0]
        without, shifted = (mean(one.graph(fp32, [layer]), output) for one in (Scheme(ranges, {}), scheme))
        assert np.abs(without - mean(fp32, output)).max() > 1e-3
        assert shifted == pytest.approx(mean(fp32, output), abs=1e-4)


def test_a_network_that_bears_no_int8_is_refused(fp32: onnx.ModelProto, tuning: Tuning) -> None:
    with pytest.raises(DataError, match="no layer of this network bears INT8"):
        quantise(fp32, tuning.images[:1], tuning, Bounds(score_correlation=2.0))


def test_nothing_changes_between_equal_outputs(fp32: onnx.ModelProto, tuning: Tuning) -> None:
    output = run_all(fp32, tuning.images)
    assert compare(output, output, tuning.masks) == Change(0.0, 1.0, 0.0, 0.0, 0.0)
    assert gain_errors(output, output, tuning.masks) == (0.0, 0.0, 0.0)
    assert within(Change(0.0, 1.0, 0.0, 0.0, 0.0), CERTAIN, Bounds())


@pytest.mark.parametrize("figure", range(3), ids=["image AUROC", "pixel AP", "AUPRO"])
def test_a_loss_that_chance_explains_is_none_and_a_larger_one_is(figure: int) -> None:
    gains = [-0.01 if place == figure else 0.0 for place in range(3)]
    change = Change(0.0, 1.0, *gains)
    assert not within(change, CERTAIN, Bounds())
    assert within(change, [-gain / 2 for gain in gains], Bounds())  # twice that is the loss
    assert not within(change, [-gain / 4 for gain in gains], Bounds())


@pytest.mark.parametrize("change", [Change(0.0, 0.9, 0.0, 0.0, 0.0), Change(0.1, 1.0, 0.0, 0.0, 0.0)])
def test_no_chance_explains_scores_or_maps_that_differ(change: Change) -> None:
    assert not within(change, (1.0, 1.0, 1.0), Bounds())


def test_the_error_of_a_gain_is_that_of_a_mean_over_pairs() -> None:
    """Of one pixel for each image, a good one below its defect in INT8 or not, image AUROC is nearly such a mean."""
    random = np.random.default_rng(0)
    pairs = 64
    masks = np.repeat([False, True], pairs)[:, None, None] & np.ones((1, 8, 8), bool)
    masks[:, 4:] = False

    def drawn() -> RawOutput:
        score = np.concatenate([random.normal(0.0, 1, pairs), random.normal(1.0, 1, pairs)]).astype(np.float32)
        maps = random.random((2 * pairs, 8, 8), np.float32)
        return RawOutput(maps, score, np.zeros((2 * pairs, 8, 8, 3), np.float32))

    draws = [(drawn(), drawn()) for _ in range(40)]
    seen = np.std([compare(one, other, masks).image_auroc for one, other in draws])
    told = np.mean([gain_errors(one, other, masks)[0] for one, other in draws])
    assert told == pytest.approx(seen, rel=0.3)


def test_one_pair_of_images_tells_no_error(fp32: onnx.ModelProto, tuning: Tuning) -> None:
    output = run_all(fp32, tuning.images[[0, len(tuning.images) // 2]])
    assert gain_errors(output, output, tuning.masks[[0, len(tuning.images) // 2]]) == (0.0, 0.0, 0.0)


def test_the_map_error_is_told_in_standard_deviations_of_the_logits_of_fp32() -> None:
    """Logits of -2 and 2 have a standard deviation of 2, of which an error of 0.5 is a quarter, on any scale."""

    def output(*logits: float) -> RawOutput:
        likely = 1 / (1 + np.exp(-np.float64(logits)))
        return RawOutput(likely.astype(np.float32)[None, None], *(np.zeros(1, np.float32) for _ in range(2)))

    for shift in (0.0, -3.0):
        found, reference = output(shift - 1.5, shift + 1.5), output(shift - 2.0, shift + 2.0)
        assert map_error(found, reference) == pytest.approx(0.25, rel=1e-4)
    assert map_error(output(0.0, 0.0), output(0.0, 0.0)) == 0.0
    assert map_error(output(0.001, 0.001), output(0.0, 0.0)) == pytest.approx(0.1, rel=1e-2)  # of SMALLEST_SPREAD
    certain = output(100.0, -1000.0)  # 1 and 0: no logit is infinite
    assert np.isfinite(map_error(certain, output(0.0, 1.0)))


def test_scores_that_do_not_vary_are_not_correlated() -> None:
    flat, steep = np.zeros(3, np.float32), np.arange(3, dtype=np.float32)
    assert (score_correlation(flat, steep), score_correlation(steep, 2 * steep)) == (0.0, pytest.approx(1.0))
    assert score_correlation(flat, flat) == 1.0


def test_more_images_than_needed_are_left_out() -> None:
    many = np.zeros((module.TUNING_IMAGES + 5, 32, 32, 3), np.uint8)
    many[:, 8:24, 8:24] = 200
    assert len(make_tuning(many, SynthesisConfig(), 0).images) == 2 * module.TUNING_IMAGES


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_tells_the_change_on_test_images(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trainer.export.Bounds", lambda: ANYTHING)
    data = run.path.parent / "data"
    arguments = ["export", run.path, "--out", tmp_path / "bundle", "--precision", "int8"]
    arguments += [
        "--calibration-data",
        run.path / "calibration_split",
        "--test-data",
        data,
        "--results",
        tmp_path / "results",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("int8: 22 of 22 convolutions; ranges by ")
    assert lines[1].startswith("on good images and synthetic defects: score correlation ")
    summary = open_bundle(tmp_path / "bundle").manifest.int8
    assert summary is not None
    assert summary.aupro_change is not None
    assert lines[1].endswith(f", AUPRO {summary.aupro_change:+.4f}")
    assert f", {summary.aupro_change:+.4f}, on the same |" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        *("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro", "aupro_005", "score")
    ]
    kept = read_results(tmp_path / "results")
    assert {(r.backend, r.precision) for r in kept} == {("onnxruntime", "fp32"), ("onnxruntime", "int8")}
    assert {r.weights for r in kept} == {open_bundle(tmp_path / "bundle").digest}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "int8"], "--precision int8 needs --calibration-data: "),
        (["--precision", "fp16"], "fp16 is made on the device, from the fp32 bundle: edge-ad build"),
        (["--calibration-data", "x"], "--calibration-data and --test-data are for --precision int8"),
        (["--precision", "int8", "--calibration-data", "x", "--results", "x"], "--results keeps what --test-data says"),
        (["--precision", "int8", "--calibration-data", "TRAINED"], "the network was trained on all 1 images of"),
        (["--precision", "int8", "--calibration-data", "nowhere"], "no such folder: nowhere"),
        (
            ["--precision", "int8", "--calibration-data", "HELD_OUT", "--test-data", "nowhere"],
            "no such folder: nowhere",
        ),
    ],
)
def test_what_cannot_be_quantised_is_one_line(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    data = run.path.parent / "data" / "train" / "good"
    seen = next(path for path in sorted(data.iterdir()) if sha256_file(path) in run.train_sha256)
    (trained / seen.name).symlink_to(seen)
    folders = {"TRAINED": str(trained), "HELD_OUT": str(run.path / "calibration_split")}
    more = [folders.get(argument, argument) for argument in arguments]
    assert main(["export", str(run.path), "--out", str(tmp_path / "bundle"), *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("change", "borne", "asked"),
    [
        (Change(0.0, 1.0, 0.0, 0.0, 0.0), True, False),  # no error could take it back
        (Change(0.1, 1.0, -0.01, 0.0, 0.0), False, False),  # nor excuse the maps
        (Change(0.0, 1.0, -0.01, 0.0, 0.0), True, True),
        (Change(0.0, 1.0, -0.05, 0.0, 0.0), False, True),
    ],
)
def test_errors_of_losses_are_asked_for_where_they_decide(
    fp32: onnx.ModelProto, tuning: Tuning, monkeypatch: pytest.MonkeyPatch, change: Change, borne: bool, asked: bool
) -> None:
    seen: list[bool] = []

    def errors(*_: object) -> tuple[float, float, float]:
        seen.append(True)
        return 0.01, 0.01, 0.01

    monkeypatch.setattr(module, "gain_errors", errors)
    found = module.Quantised(fp32, "largest", (), (), change)
    assert module._bears(found, tuning, run_all(fp32, tuning.images), Bounds()) == borne
    assert bool(seen) == asked

"""Which tiles elongated good images want, and that a run has them from its training to the station."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.scores import distinct, score_images
from edge_ad.backends.base import open_backend
from edge_ad.bundle import TileGrid, open_bundle
from edge_ad.config import BackendConfig
from edge_ad.core.layout import Layout
from edge_ad.images import write_png
from tests.trainer.tiny import part, tiny_config
from trainer import config as configs
from trainer.cli import main
from trainer.config import TrainConfig
from trainer.data.folder import list_test, load_canvases, load_tiles, split_good
from trainer.data.grid import MOST, UNEVEN, as_found, tiles_along, with_grid
from trainer.data.samples import Samples, Tiles
from trainer.data.symmetry import FEWEST, find_symmetries
from trainer.evaluate import open_subject
from trainer.evaluate import score_images as evaluate_images
from trainer.run import open_run

SIDES = st.integers(1, 5000)
FOUND = {"height": 32, "width": 32, "grid": "found", "tiles": {"overlap": 8}}
STILL = {"rotate_deg": 0, "shift": 0, "zoom": 0, "brightness": 0, "contrast": 0}
TURNING = Layout(32, 32, "stretch", 1, 2, 8, turns=True)


def lying(seed: int, height: int = 40, width: int = 80) -> NDArray[np.uint8]:
    return np.hstack([part(seed, height), part(seed + 500, height)])[:, :width]


def standing(seed: int, height: int = 80, width: int = 40) -> NDArray[np.uint8]:
    return np.ascontiguousarray(lying(seed, width, height).transpose(1, 0, 2))


def write(folder: Path, images: list[NDArray[np.uint8]]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:03d}.png" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        write_png(path, image)
    return paths


def found(paths: list[Path], **given_input: object) -> TileGrid:
    return with_grid(tiny_config(input=FOUND | given_input), paths).input.tiles


# --- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ((900, 900), 1),
        ((960, 1280), 1),  # 4:3
        ((2048, 2448), 1),
        ((1080, 1920), 2),
        ((1920, 1080), 2),
        ((244, 600), 2),
        ((64, 300), 1),  # little is lost: it is hardly shrunk
        ((512, 4096), 7),
        ((20, 20000), 8),  # no more
        ((325, 455), 1),  # 7:5 to the pixel
        ((325, 456), 2),
    ],
)
def test_what_cameras_give(size: tuple[int, int], count: int) -> None:
    assert tiles_along(*size, 256, 32) == count


@given(SIDES, SIDES, st.sampled_from([32, 64, 256]), st.sampled_from([0, 8, 16]))
def test_they_are_the_fewest_that_keep_the_detail_of_the_shorter_side(
    height: int, width: int, tile: int, overlap: int
) -> None:
    count = tiles_along(height, width, tile, overlap)
    assert count == tiles_along(width, height, tile, overlap)
    shorter, longer = sorted((height, width))

    def keeps(tiles: int) -> bool:
        return Fraction(longer, tiles * tile - (tiles - 1) * overlap) <= UNEVEN * max(1, Fraction(shorter, tile))

    assert keeps(count) or count == MOST
    assert count == 1 or not keeps(count - 1)


@given(SIDES, SIDES, st.sampled_from([32, 64, 256]), st.sampled_from([0, 8, 16]))
def test_as_many_do_for_a_letterbox(height: int, width: int, tile: int, overlap: int) -> None:
    """It shrinks by at most UNEVEN times as much as its shorter side alone would, but for half a pixel."""
    count = tiles_along(height, width, tile, overlap)
    content = Layout(tile, tile, "letterbox", 1, count, overlap, turns=True).content(height, width)
    longer = max(content.height, content.width) + 0.5
    assert count == MOST or max(height, width) / longer <= UNEVEN * max(1, Fraction(min(height, width), tile))


def test_a_tenth_of_elongated_images_may_go_without(tmp_path: Path) -> None:
    square, wide = [part(i, 40) for i in range(18)], [lying(i) for i in range(3)]
    assert found(write(tmp_path / "few", square + wide[:2])) == TileGrid(overlap=8)
    assert found(write(tmp_path / "more", square + wide)) == TileGrid(rows=1, columns=2, overlap=8, turns=True)


def test_of_many_images_some_are_looked_at_all_over_the_set(tmp_path: Path) -> None:
    paths = write(tmp_path, [part(i % 5, 40) for i in range(150)] + [lying(i % 5) for i in range(50)])
    assert found(paths).columns == 2


def test_the_region_of_interest_is_what_counts(tmp_path: Path) -> None:
    paths = write(tmp_path, [part(i, 80) for i in range(2)])
    config = tiny_config(input=FOUND, data={"roi": {"x": 0, "y": 10, "w": 80, "h": 40}})
    assert with_grid(config, paths).input.tiles.columns == 2
    assert found(paths).columns == 1


@pytest.mark.parametrize(
    "given_input",
    [
        {"grid": "given"},
        {"tiles": {"rows": 2, "columns": 1, "overlap": 8}},
        {"width": 64},
    ],
    ids=["not to be found", "tiles are given", "tiles are not square"],
)
def test_what_somebody_has_thought_of_stays(tmp_path: Path, given_input: dict[str, object]) -> None:
    paths = write(tmp_path, [lying(i) for i in range(2)])
    config = tiny_config(input=FOUND | given_input)
    assert with_grid(config, paths).input.tiles == config.input.tiles


def test_a_resolved_configuration_says_what_there_is_not_how_it_was_found(tmp_path: Path) -> None:
    """So that parts that want a single tile are trained by the configuration that they always had."""
    single = tiny_config(input=FOUND | {"grid": "given"})
    assert with_grid(tiny_config(input=FOUND), write(tmp_path, [part(0, 40)])) == single


def test_what_was_found_before_is_not_looked_for_again() -> None:
    left_open, two = tiny_config(input=FOUND), TileGrid(rows=1, columns=2, overlap=8, turns=True)
    assert as_found(left_open, two).input.tiles == two
    assert as_found(left_open, TileGrid(overlap=8)) == tiny_config(input=FOUND | {"grid": "given"})
    by_hand = TileGrid(rows=2, columns=2, overlap=8)  # no search finds these
    assert as_found(left_open, by_hand) == left_open
    given = tiny_config(input=FOUND | {"grid": "given"})
    assert as_found(given, two) == given
    thought_of = tiny_config(input=FOUND | {"tiles": by_hand.model_dump()})
    assert as_found(thought_of, by_hand) == with_grid(thought_of, [])
    assert as_found(thought_of, two).input.tiles == by_hand


def test_no_seed_decides(tmp_path: Path) -> None:
    images = [part(i, 40) for i in range(8)] + [lying(0)]
    write(tmp_path, images)
    assert {tuple(split_good(tmp_path, 0.2, seed).good()) for seed in range(5)} == {
        tuple(split_good(tmp_path, 0.0, 0).good())
    }
    assert len(split_good(tmp_path, 0.2, 0).good()) == 9


def test_an_overlap_that_is_too_wide_for_the_tiles_is_made_to_fit(tmp_path: Path) -> None:
    assert found(write(tmp_path, [lying(0)]), tiles={"overlap": 32}).overlap == 16


# --- images that lie and stand --------------------------------------------------------------------------------------


def test_each_canvas_lies_as_its_image_does_and_its_tiles_with_it(tmp_path: Path) -> None:
    paths = write(tmp_path, [lying(0), standing(1), lying(2)])
    canvases = load_canvases(paths, None, TURNING, tmp_path)
    assert [canvas.shape for canvas in canvases] == [(32, 56, 3), (56, 32, 3), (32, 56, 3)]
    tiles = Tiles(canvases, TURNING)
    cut = np.stack([tiles[i] for i in range(len(tiles))])
    as_the_graph_sees_them = load_tiles(paths, None, TURNING)
    assert sorted(tile.tobytes() for tile in cut) == sorted(tile.tobytes() for tile in as_the_graph_sees_them)
    assert np.array_equal(cut[2], canvases[1][:32])
    assert np.array_equal(cut[3], canvases[1][24:])


def test_samples_come_from_inside_each_canvas(tmp_path: Path) -> None:
    canvases = load_canvases(write(tmp_path, [lying(0), standing(1)]), None, TURNING, tmp_path)
    samples = Samples(canvases, [], tiny_config(data=STILL), 0, TURNING)
    places = {
        canvas[top : top + 32, left : left + 32].tobytes()
        for canvas in canvases
        for top in range(canvas.shape[0] - 31)
        for left in range(canvas.shape[1] - 31)
    }
    seen = {samples[i][0].numpy().tobytes() for i in range(60)}
    assert seen <= places
    assert len(seen) > 8  # they are moved


def test_images_that_lie_and_that_stand_have_a_symmetry_each() -> None:
    rng = np.random.default_rng(0)
    noise = [
        rng.integers(0, 256, (32, 56, 3), dtype=np.uint8) for _ in range(2 * FEWEST)
    ]  # any mirror image is as good
    ramp = np.repeat(np.linspace(0, 250, 56, dtype=np.uint8)[:, None], 32, axis=1)
    slopes = [np.dstack([ramp] * 3) for _ in range(FEWEST + 1)]  # none from top to bottom
    found = find_symmetries(noise + slopes)
    assert found.of(32, 56).top_bottom
    assert not found.of(56, 32).top_bottom
    assert found.of(56, 32).left_right
    assert "images that stand" in str(found)
    assert find_symmetries(noise).of(56, 32) == find_symmetries(noise).of(32, 56)  # nothing is known of others
    samples = Samples(
        noise[:1] + slopes[:1], [], tiny_config(data=STILL), 0, Layout(32, 32, "stretch", 1, 2, 8, True), found
    )
    tops = [int(samples[i][0][:4].float().mean()) - int(samples[i][0][-4:].float().mean()) for i in range(80)]
    assert max(tops) < 120  # a slope is never turned over: that would be 143 and more


# --- from the training to the station -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ of images that lie and stand, run/ and bundle/; half size first."""
    root = tmp_path_factory.mktemp("grid")
    write(
        root / "data/train/good", [lying(i, 96, 190) for i in range(4)] + [standing(10 + i, 180, 90) for i in range(4)]
    )
    write(root / "data/test/good", [lying(20, 96, 190), standing(21, 180, 90)])
    optim = {"batch": 4, "steps": 6, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "half_size": 0.5}
    config = tiny_config(input=FOUND | {"height": 64, "width": 64}, optim=optim)
    (root / "c.yaml").write_text(configs.dump(config))
    arguments = ["--data", str(root / "data"), "--config", str(root / "c.yaml")]
    assert main(["train", *arguments, "--out", str(root / "run")]) == 0
    assert main(["export", str(root / "run"), "--out", str(root / "bundle")]) == 0
    return root


def test_a_run_has_what_was_found_and_so_has_its_bundle(root: Path) -> None:
    config: TrainConfig = open_run(root / "run").config
    layout = Layout(64, 64, "stretch", 1, 2, 8, turns=True)
    assert config.input.frame_layout() == layout
    manifest = open_bundle(root / "bundle").manifest
    assert manifest.input.frame_layout() == layout
    assert manifest.frame_macs == 2 * manifest.macs
    card = (root / "bundle/MODEL_CARD.md").read_text()
    assert "1 x 2 tiles of a frame that share 8 pixels; 2 x 1 where it is taller than wide" in card
    assert f"GMACs a tile, {manifest.frame_macs / 1e9:.2f} a frame" in card


def test_run_bundle_and_calibration_give_an_image_the_same_score(root: Path) -> None:
    images = list_test(root / "data")
    scored = {
        name: evaluate_images(open_subject(root / name, None, "fp32", None), images) for name in ("run", "bundle")
    }
    assert {s.anomaly_map.shape for s in scored["bundle"]} == {(64, 120), (120, 64)}
    scores = {name: [s.score for s in found] for name, found in scored.items()}
    assert scores["run"] == pytest.approx(scores["bundle"], rel=1e-4)
    bundle = open_bundle(root / "bundle")
    backend = open_backend(bundle, BackendConfig())
    calibrated = score_images(distinct([image.path for image in images]), backend, bundle.manifest, None)
    assert calibrated.scores.tolist() == scores["bundle"]


def test_preview_draws_the_grid_that_will_be_trained(root: Path, tmp_path: Path) -> None:
    arguments = ["--data", str(root / "data"), "--config", str(root / "c.yaml"), "--out", str(tmp_path / "p.png")]
    assert main(["preview", *arguments, "--count", "1"]) == 0
    assert (tmp_path / "p-grid.png").exists()


def test_the_same_command_with_resume_goes_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(root / "data"), "--config", str(root / "c.yaml"), "--out", str(root / "run")]
    assert main(["train", *arguments, "--resume"]) == 0
    assert main(["train", *arguments, "--resume", "--set", "input.grid=given"]) == 2
    assert "another value of input.tiles" in capsys.readouterr().err


def test_training_says_which_tiles_it_takes(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(root / "data"), "--config", str(root / "c.yaml"), "--out", str(tmp_path / "run")]
    assert main(["train", *arguments, "--set", "optim.steps=1"]) == 0
    said = capsys.readouterr().out
    assert "tiles of 64 x 64, 2 x the compute of one" in said

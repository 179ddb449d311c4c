"""Tiles and letterbox in training and evaluation: all is trained on that is looked at, and scores are the station's."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibration.scores import distinct, score_images
from edge_ad.backends.base import open_backend
from edge_ad.bundle import open_bundle
from edge_ad.config import BackendConfig, RegionConfig
from edge_ad.core.layout import Box, Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.errors import ConfigError, DataError
from edge_ad.frames import frame_graph
from edge_ad.images import read_image, write_png
from edge_ad.pipeline import Pipeline
from edge_ad.records import Frame, Roi
from tests.trainer.tiny import one_process, part, tiny_config
from trainer import config as configs
from trainer.cli import main
from trainer.config import DataConfig
from trainer.data import folder
from trainer.data.folder import list_test, load_canvases, load_tiles, split_good
from trainer.data.grid import with_grid
from trainer.data.samples import Samples, Tiles
from trainer.data.variation import draw_variation
from trainer.detail import WORTH_TILES, detail, finer, levels, scale
from trainer.evaluate import open_subject
from trainer.evaluate import score_images as evaluate_images
from trainer.metrics import area_mask, pixel_metrics
from trainer.run import create
from trainer.train import train

SAME = {"rotate_deg": 0, "shift": 0, "zoom": 0, "brightness": 0, "contrast": 0}
OPTIM = {"batch": 4, "steps": 6, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "ema": 0.9}
INPUT = {"height": 64, "width": 64, "fit": "letterbox", "tiles": {"rows": 2, "columns": 3, "overlap": 16}}
LAYOUT = Layout(64, 64, "letterbox", 2, 3, 16)


def wide_part(seed: int, height: int = 90, width: int = 170) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.hstack([part(1000 * place + seed, height) for place in range(3)])[:, :width])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ of images of three shapes, run/ and bundle/: letterbox, tiles, half size first."""
    root = tmp_path_factory.mktemp("tiles")
    _make_data(root / "data")
    config = tiny_config(input=INPUT, optim={**OPTIM, "half_size": 0.5})
    run = create(root / "run", config, split_good(root / "data", 0.25, 0), 0)
    train(run, one_process(), None, resume=False, workers=0)
    assert main(["export", str(run.path), "--out", str(root / "bundle")]) == 0
    return root


def _make_data(data: Path) -> None:
    for sub in ("train/good", "test/good", "test/hole", "ground_truth/hole"):
        (data / sub).mkdir(parents=True)
    for i in range(6):
        write_png(data / f"train/good/{i}.png", wide_part(i))
    for i, (height, width) in enumerate([(90, 170), (60, 170), (90, 100)]):
        write_png(data / f"test/good/{i}.png", wide_part(50 + i, height, width))
        bad, mask = wide_part(60 + i, height, width), np.zeros((height, width), np.uint8)
        cv2.circle(mask, (40 + 10 * i, 30), 7, 255, -1)
        bad[mask > 0] = 0
        write_png(data / f"test/hole/{i}.png", bad)
        write_png(data / f"ground_truth/hole/{i}_mask.png", mask)


# --- one way for all ------------------------------------------------------------------------------------------------


def test_evaluation_calibration_and_the_station_give_an_image_the_same_score(root: Path, tmp_path: Path) -> None:
    scores = tmp_path / "s.csv"
    assert main(["evaluate", str(root / "bundle"), "--data", str(root / "data"), "--scores", str(scores)]) == 0
    with scores.open() as stream:
        evaluated = {Path(row["file"]): float(row["score"]) for row in csv.DictReader(stream)}
    assert len(evaluated) == 6
    bundle = open_bundle(root / "bundle")
    assert bundle.manifest.input.frame_layout() == LAYOUT
    backend = open_backend(bundle, BackendConfig())
    pipeline = Pipeline(frame_graph(backend, bundle.manifest), None, RegionConfig())
    on_the_station = {path: pipeline.step(Frame("top", 1, read_image(path), 0, 0)).decision.score for path in evaluated}
    calibrated = score_images(distinct(list(evaluated)), backend, bundle.manifest, None)
    assert evaluated == on_the_station
    assert list(evaluated.values()) == calibrated.scores.tolist()


def test_a_run_scores_as_its_bundle_does(root: Path) -> None:
    images = list_test(root / "data")
    run, bundle = (
        [s.score for s in evaluate_images(open_subject(root / name, None, "fp32", None), images)]
        for name in ("run", "bundle")
    )
    assert run == pytest.approx(bundle, rel=1e-4)


def test_masks_go_the_way_of_the_image_and_padding_is_no_pixel_of_the_figures(root: Path) -> None:
    subject = open_subject(root / "bundle", "onnxruntime", "fp32", None)
    scored = [s for s in evaluate_images(subject, list_test(root / "data")) if s.image.defect]
    shapes = [s.anomaly_map.shape for s in scored]
    assert shapes == [(85, 160), (56, 160), (112, 124)]  # none is the canvas, 112 x 160
    for s, shape in zip(scored, shapes, strict=True):
        mask = cv2.imread(str(s.image.mask), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(s.mask, area_mask(mask, *shape))  # type: ignore[arg-type]
    figures = pixel_metrics([s.mask for s in scored if s.mask is not None], [s.anomaly_map for s in scored])
    assert figures.aupro is not None


def test_the_report_and_the_int8_graph_know_tiles(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "report"
    assert main(["evaluate", str(root / "bundle"), "--data", str(root / "data"), "--report", str(page)]) == 0
    assert (page / "index.html").exists()
    card = (root / "bundle/MODEL_CARD.md").read_text()
    assert "2 x 3 tiles of a frame that share 16 pixels; a frame of another shape keeps its shape" in card


def test_the_compute_of_a_frame_is_that_of_its_tiles(root: Path) -> None:
    manifest = open_bundle(root / "bundle").manifest
    assert open_subject(root / "bundle", "onnxruntime", "fp32", None).facts["macs"] == 6 * manifest.macs


# --- samples --------------------------------------------------------------------------------------------------------


def test_each_turn_through_the_data_shows_every_tile_once() -> None:
    layout = Layout(32, 32, rows=2, columns=3, overlap=0)
    canvases = np.stack(
        [np.random.default_rng(i).integers(0, 255, (*layout.canvas, 3), dtype=np.uint8) for i in (1, 2)]
    )
    config = tiny_config(data=SAME, optim={**OPTIM, "anomalous": 0})
    samples = Samples(canvases, [], config, 0, layout)
    for turn in range(2):
        seen = Counter(samples[12 * turn + i][0].numpy().tobytes() for i in range(12))
        assert seen == Counter(canvas[box.slices].tobytes() for canvas in canvases for box in layout.boxes())


def test_a_tile_moves_by_up_to_half_the_overlap_and_the_places_of_the_grid_are_among_its_places() -> None:
    layout = Layout(32, 32, rows=3, columns=1, overlap=4)
    y, x = np.indices(layout.canvas, np.uint8)  # a pixel tells where it is
    canvas = np.stack([y, x, np.zeros_like(y)], axis=-1)[None]
    samples = Samples(canvas, [], tiny_config(data=SAME, optim={**OPTIM, "anomalous": 0}), 0, layout)
    tops = {int(samples[i][0][0, 0, 0]) for i in range(300)}
    assert tops == {0, 1, 2, *range(26, 31), *range(54, 57)}
    assert {int(samples[i][0][0, 0, 1]) for i in range(300)} == {0}


@pytest.mark.parametrize("seed", range(5))
def test_a_tile_of_a_varied_image_is_the_same_tile_of_the_whole_varied_image(seed: int) -> None:
    """What lies beside the tile comes in when the part moves: no border is invented inside the image."""
    image = cv2.GaussianBlur(np.random.default_rng(seed).integers(0, 256, (80, 120, 3), dtype=np.uint8), (0, 0), 2)
    config = DataConfig(rotate_deg=20, shift=0.05, zoom=0.1)
    box = Box(30, 50, 32, 40)
    variation = draw_variation(80, 120, config, np.random.default_rng(seed))
    whole, tile = variation.moved(image, Box(0, 0, 80, 120)), variation.moved(image, box)
    assert np.abs(tile.astype(int) - whole[box.slices].astype(int)).max() <= 1


def test_synthetic_defects_are_put_on_tiles_and_cut_from_tiles() -> None:
    layout = Layout(32, 32, rows=2, columns=2, overlap=8)
    canvases = np.stack([part(i, layout.canvas[0]) for i in range(3)])
    samples = Samples(canvases, [], tiny_config(), 0, layout)
    drawn = [samples[i] for i in samples.anomalous_indices(10)]
    assert {(clean.shape, image.shape, mask.shape) for clean, image, mask in drawn} == {
        ((32, 32, 3), (32, 32, 3), (32, 32))
    }
    changed = [not torch.equal(clean, image) and bool(mask.any()) for clean, image, mask in drawn]
    assert sum(changed) >= 8  # an invisible draw may stay good


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_with_a_foreground_no_defect_of_a_tile_lies_beside_the_part(rows: int) -> None:
    """A tile's own border is seldom even, and never tells the part from its ground where it cuts through it."""
    layout = Layout(64, 64, rows=rows, columns=rows, overlap=16)
    size = layout.canvas[0]
    canvas = np.full((size, size, 3), 40, np.uint8)
    cv2.circle(canvas, (size // 2, size // 2), size // 4, (170, 180, 190), -1)
    synthesis = {"perlin": 0.5, "blob": 0.5, "foreground": True, "visible": 0.02}
    config = tiny_config(data={**SAME, "flip": True}, synthesis=synthesis)
    samples = Samples([canvas], [], config, 0, layout)
    drawn = [samples[i] for i in samples.anomalous_indices(60)]
    for clean, image, mask in drawn:
        assert not (mask.bool() & (clean[..., 0] == 40)).any()
        assert torch.equal(clean, image) or mask.any()  # a tile of ground alone stays a good one
    assert sum(bool(mask.any()) for _, _, mask in drawn) > 25


def test_the_first_few_tiles_are_of_many_images_and_many_places(tmp_path: Path) -> None:
    layout = Layout(32, 32, rows=2, columns=2, overlap=8)
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for i, path in enumerate(paths):
        write_png(path, part(i, layout.canvas[0]))
    tiles = load_tiles(paths, None, layout)
    assert tiles.shape == (16, 32, 32, 3)
    for i in range(4):
        assert np.array_equal(tiles[i], preprocess(read_image(paths[i]), None, layout)[i])
    for most in (2, 5, 99):
        assert np.array_equal(load_tiles(paths, None, layout, most), tiles[:most])


# --- memory ---------------------------------------------------------------------------------------------------------


def in_a_mapped_file(array: NDArray[np.uint8]) -> bool:
    base = array.base
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    return isinstance(base, np.memmap)


def test_canvases_beyond_the_budget_lie_in_a_file_that_nobody_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        write_png(path, wide_part(i))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    in_memory = load_canvases(paths, None, LAYOUT, scratch)
    monkeypatch.setattr(folder, "IN_MEMORY_BYTES", sum(canvas.nbytes for canvas in in_memory) - 1)
    in_a_file = load_canvases(paths, None, LAYOUT, scratch)
    assert all(in_a_mapped_file(canvas) for canvas in in_a_file)
    assert not any(in_a_mapped_file(canvas) for canvas in in_memory)
    assert np.array_equal(in_a_file, in_memory)
    assert list(scratch.iterdir()) == []
    assert np.array_equal(Tiles(in_a_file, LAYOUT)[7], in_memory[1][LAYOUT.boxes()[1].slices])


def test_no_room_for_that_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "IN_MEMORY_BYTES", 0)
    with pytest.raises(DataError, match=r"need 0 GB at their canvas' size, and .*nowhere cannot take them"):
        load_canvases([tmp_path / "a.png"], None, LAYOUT, tmp_path / "nowhere")


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "size", "said"),
    [
        (
            Layout(256, 256, overlap=32),
            (2048, 2048),
            "a defect below 16 px may be lost. input.tiles: {rows: 3, columns: 3}",
        ),
        (Layout(256, 256, overlap=32), (256, 256), "No detail is lost."),
        (Layout(256, 256, overlap=32), (64, 64), "No detail is lost."),
        (Layout(256, 256, overlap=32), (100, 900), "stretched by 9.0: input.fit: letterbox keeps the shape"),
        (Layout(256, 256, "letterbox", overlap=32), (100, 900), "89% of it padding"),
        (Layout(256, 256, "letterbox", 1, 4, 32), (256, 928), "No detail is lost."),
        (
            Layout(256, 256, "stretch", 8, 8, 32),
            (4096, 4096),
            "1 px of it is 2.25 px: a defect below 4.49 px may be lost.",
        ),
        (Layout(256, 256, overlap=32), (257, 257), "No detail is lost."),
        (Layout(256, 256, overlap=32), (260, 260), "1 px of it is 1.02 px: a defect below 2.03 px may be lost."),
        (Layout(256, 256, overlap=32), (260, 520), "{rows: 1, columns: 3} would keep 2.03 px, at 3 x the compute."),
    ],
)
def test_one_line_says_what_becomes_of_small_defects(
    tmp_path: Path, layout: Layout, size: tuple[int, int], said: str
) -> None:
    write_png(tmp_path / "a.png", np.zeros((*size, 3), np.uint8))
    line = detail(tmp_path / "a.png", None, layout, found=False)
    assert said in line
    assert "\n" not in line


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(64, 64), (130, 130), (179, 179), (180, 180), (100, 900), (1080, 1920), (3000, 4096)])
def test_the_grid_that_is_advised_sees_more_but_never_more_than_there_is(fit: str, size: tuple[int, int]) -> None:
    layout = Layout(128, 128, fit, overlap=32)  # type: ignore[arg-type]
    better = finer(*size, layout)
    if better is None:
        assert max(scale(*size, layout)) < WORTH_TILES
        return
    assert WORTH_TILES * max(1, *scale(*size, better)) <= max(scale(*size, layout))
    assert better.canvas[0] <= max(size[0], layout.canvas[0]) + layout.height
    assert better.canvas[1] <= max(size[1], layout.canvas[1]) + layout.width


def test_the_grid_that_is_advised_turns_where_the_present_one_does(tmp_path: Path) -> None:
    layout = Layout(256, 256, "stretch", 1, 2, 32, turns=True)
    said = set()
    for size in ((976, 2400), (2400, 976)):
        write_png(tmp_path / "a.png", np.zeros((*size, 3), np.uint8))
        line = detail(tmp_path / "a.png", None, layout, found=True)
        said.add(line.split(" would keep")[0].split(". ")[-1])
    assert said == {"input.tiles: {rows: 2, columns: 5, turns: true}"}


@pytest.mark.parametrize("size", [(64, 260), (64, 1100), (60, 600), (244, 600), (1080, 1920), (2048, 2048)])
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_no_other_grid_along_the_longer_side_is_advised_than_was_found(
    tmp_path: Path, fit: str, size: tuple[int, int]
) -> None:
    write_png(tmp_path / "a.png", np.zeros((*size, 3), np.uint8))
    config = tiny_config(input={"height": 32, "width": 32, "fit": fit, "grid": "found", "tiles": {"overlap": 4}})
    layout = with_grid(config, [tmp_path / "a.png"]).input.frame_layout()
    line = detail(tmp_path / "a.png", None, layout, found=True)
    assert "input.tiles with another grid" not in line
    assert "{rows: 1," not in line


def dark_image(path: Path, brightest: int, dtype: type[np.unsignedinteger]) -> Path:
    """A ramp from 0 to `brightest`, with two hot pixels."""
    image = np.tile(np.linspace(0, brightest, 300), (300, 1)).astype(dtype)
    image[7, :2] = np.iinfo(dtype).max
    assert cv2.imwrite(str(path), image)
    return path


@pytest.mark.parametrize(
    ("brightest", "dtype", "used"),
    [
        ((1 << 12) - 1, np.uint16, 16),
        ((1 << 10) - 1, np.uint16, 4),
        (20, np.uint8, 20),
        ((1 << 16) - 1, np.uint16, None),
        (16 * ((1 << 12) - 1), np.uint16, None),  # as is advised
        (40, np.uint8, None),
    ],
)
def test_images_too_dark_to_learn_from_are_told(
    tmp_path: Path, brightest: int, dtype: type[np.unsignedinteger], used: int | None
) -> None:
    dark = [dark_image(tmp_path / f"{i}.png", brightest, dtype) for i in range(3)]
    said = levels(dark, None)
    assert (said is None) == (used is None)
    assert said is None or (f"levels 0 to {used} of 255 are used: " in said and "scale by 16" in said)
    bright = tmp_path / "bright.png"
    write_png(bright, np.full((300, 300, 3), 99, np.uint8))
    assert levels([*dark, bright], None) is None  # together they do not lack contrast


def test_the_region_of_interest_is_what_must_be_bright(tmp_path: Path) -> None:
    image = np.full((60, 60, 3), 9, np.uint8)
    image[:, 30:] = 200
    write_png(tmp_path / "a.png", image)
    assert levels([tmp_path / "a.png"], None) is None
    assert levels([tmp_path / "a.png"], Roi(x=0, y=0, w=30, h=60)) is not None


def test_train_and_preview_tell_of_dark_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good"
    good.mkdir()
    for i in range(4):
        write_png(good / f"{i}.png", part(i) // 16)
    config = tmp_path / "c.yaml"
    config.write_text(configs.dump(tiny_config(optim={**OPTIM, "steps": 1})))
    arguments = ["--data", str(good), "--config", str(config)]
    for more in (["train", "--out", str(tmp_path / "run")], ["preview", "--out", str(tmp_path / "p.png")]):
        assert main([*more, *arguments]) == 0
        assert capsys.readouterr().out.count("of 255 are used") == 1


def test_train_says_it_and_preview_draws_the_grid(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(configs.dump(tiny_config(input=INPUT, optim={**OPTIM, "steps": 1})))
    arguments = ["--data", str(root / "data"), "--config", str(config)]
    assert main(["train", *arguments, "--out", str(tmp_path / "run")]) == 0
    assert "images of 170 x 90 px, as the first is -> canvas of 160 x 112 px (2 x 3 tiles" in capsys.readouterr().out
    assert main(["preview", *arguments, "--out", str(tmp_path / "p.png"), "--count", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"look at {tmp_path / name}" for name in ("p.png", "p-grid.png")]
    assert cv2.imread(str(tmp_path / "p-grid.png")).shape == (112, 160, 3)


def test_tiles_can_be_set_on_the_command_line_and_what_cannot_be_is_one_line() -> None:
    config = configs.override(tiny_config(), ["input.tiles={rows: 2, columns: 2, overlap: 8}", "input.fit=letterbox"])
    assert config.input.frame_layout() == Layout(32, 32, "letterbox", 2, 2, 8)
    for change, reason in {
        "input.fit=crop": "input.fit",
        "input.tiles.rows=2": "an overlap of 32 is more than half of a tile of 32 pixels",
        "input.tiles={rows: 10, columns: 10}": "10 x 10 are more than 64",
        "input.tiles.overlap=7": "input.tiles.overlap",
    }.items():
        with pytest.raises(ConfigError, match=reason):
            configs.override(tiny_config(), [change])

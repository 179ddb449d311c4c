"""Synthetic anomalies: what always holds of a mask, a source and a paste."""

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.config import SynthesisConfig
from trainer.synthesis import sources
from trainer.synthesis.foreground import foreground
from trainer.synthesis.masks import blob_mask, draw_mask, perlin_noise, scratch_mask
from trainer.synthesis.paste import anomalous, paste

seeds = st.integers(0, 2**32 - 1)
ALL_KINDS = SynthesisConfig(
    perlin=0.4, blob=0.3, scratch=0.3, perlin_combined=0.5, cut_paste=0.5, missing=0.5, visible=0.02
)


def _image(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(seeds, st.integers(0, 5), st.integers(0, 5))
def test_perlin_noise_is_bounded_and_zero_on_its_lattice(seed: int, rows: int, columns: int) -> None:
    """A gradient noise vanishes at lattice points (Perlin 1985)."""
    noise = perlin_noise(64, 64, 2**rows, 2**columns, np.random.default_rng(seed))
    assert np.abs(noise).max() <= 1.5
    assert np.abs(noise[:: 64 // 2**rows, :: 64 // 2**columns]).max() < 1e-5


@given(seeds)
@settings(max_examples=50)
def test_a_drawn_mask_is_never_empty(seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert draw_mask(64, 96, ALL_KINDS, rng).any()
    assert blob_mask(64, 96, rng).any()
    assert scratch_mask(64, 96, rng).any()


def _drawn(**changes: object) -> list[np.ndarray]:
    """Sixty masks of a configuration, 128 x 128."""
    config = SynthesisConfig.model_validate(changes)
    return [draw_mask(128, 128, config, np.random.default_rng(i)) for i in range(60)]


def _pieces(mask: np.ndarray) -> int:
    return cv2.connectedComponents(mask.astype(np.uint8))[0] - 1


def _breadth(mask: np.ndarray) -> float:
    """The shorter side of the smallest rectangle around a mask, turned as it likes, pixels."""
    return min(cv2.minAreaRect(np.argwhere(mask).astype(np.float32))[1])


def test_two_perlin_masks_unite_or_intersect_as_told() -> None:
    united, met = (
        [mask.mean() for mask in _drawn(perlin_combined=1, perlin_union=union, perlin_threshold=0.2)]
        for union in (1, 0)
    )
    single = [mask.mean() for mask in _drawn(perlin_threshold=0.2)]
    assert np.mean(met) < np.mean(single) < np.mean(united)


def test_finer_perlin_noise_has_more_pieces() -> None:
    coarse, fine = (np.mean([_pieces(m) for m in _drawn(perlin_scales=scales)]) for scales in ((0, 1), (5, 5)))
    assert fine > 4 * coarse


def test_blobs_and_scratches_are_as_many_as_large_and_as_wide_as_told() -> None:
    blobs = {"perlin": 0, "blob": 1}
    assert max(_pieces(mask) for mask in _drawn(**blobs, blobs=1)) == 1
    assert max(_pieces(mask) for mask in _drawn(**blobs, blobs=9, blob_sizes=(0.02, 0.04))) > 4
    assert max(mask.sum() for mask in _drawn(**blobs, blobs=1, blob_sizes=(0.02, 0.04))) < 0.05**2 * 128**2
    scratches = {"perlin": 0, "scratch": 1}
    thin, wide = (
        [cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, 3).max() for m in _drawn(**scratches, scratch_widths=w)]
        for w in ((1,), (0, 0, 0, 0, 0, 0, 1))
    )
    assert max(thin) < 2 < 3 < np.median(wide)
    short = _drawn(**scratches, scratch_widths=(1,), scratch_lengths=(0.05, 0.1))
    assert max(mask.sum() for mask in short) < 0.2 * 128
    straight, bent = (
        [_breadth(mask) for mask in _drawn(**scratches, scratch_widths=(1,), scratch_wander=w)] for w in (0, 3)
    )
    assert max(straight) < 3 < np.median(bent)


@pytest.mark.parametrize("cells", [2, 16])
def test_a_shuffled_image_keeps_the_cells_that_were_told(cells: int) -> None:
    image = _image(0)
    shuffled = sources.shuffle_grid(image, np.random.default_rng(3), cells)
    places = range(0, 64, 64 // cells)

    def cut(picture: np.ndarray) -> set[bytes]:
        return {picture[y : y + 64 // cells, x : x + 64 // cells].tobytes() for y in places for x in places}

    assert cut(shuffled) == cut(image)


@given(seeds, st.floats(0, 1))
def test_a_paste_changes_nothing_outside_a_hard_mask(seed: int, keep: float) -> None:
    rng = np.random.default_rng(seed)
    image, source, mask = _image(seed), _image(seed + 1), rng.random((64, 64)) < 0.2
    pasted = paste(image, source, mask, keep, 0.0)
    assert np.array_equal(pasted[~mask], image[~mask])


def test_a_paste_follows_equation_1() -> None:
    """Under the mask: keep x image + (1 - keep) x source."""
    image, source = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 200, np.uint8)
    assert (paste(image, source, np.ones((4, 4), bool), 0.25, 0.0) == 175).all()


def test_a_soft_edge_rises_to_both_sides_of_the_border_alike() -> None:
    """As the integral of a Gaussian: half on the border, 16 and 84 % one sigma from it."""
    image, source = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[:, 32:] = True
    row = paste(image, source, mask, 0.0, 4.0)[32, :, 0].astype(int)
    assert (np.diff(row) >= 0).all()
    assert np.abs(row + row[::-1] - 200).max() <= 1
    assert row[27:29].mean() == pytest.approx(200 * 0.159, abs=5)  # pixels 27 and 28 meet a sigma from the border


@given(seeds)
@settings(max_examples=40)
def test_every_labelled_pixel_is_near_a_visible_change(seed: int) -> None:
    image = _image(seed)
    pasted, label = anomalous([image], image, [], False, ALL_KINDS, np.random.default_rng(seed))
    changed = np.abs(pasted.astype(int) - image).max(axis=2) >= 0.02 * 255
    padded = np.pad(changed, 1)
    near = np.any([padded[y : y + 64, x : x + 64] for y in range(3) for x in range(3)], axis=0)
    assert not (label & ~near).any()


def test_an_anomaly_that_cannot_be_seen_gives_an_empty_mask_not_an_endless_search() -> None:
    """Cut-paste within a constant image."""
    flat = np.full((64, 64, 3), 128, np.uint8)
    config = SynthesisConfig(texture=0, self_augment=0, cut_paste=1, visible=0.5)
    image, label = anomalous([flat], flat, [], False, config, np.random.default_rng(0))
    assert not label.any()
    assert np.array_equal(image, flat)


@given(seeds)
@settings(max_examples=30)
def test_grey_parts_get_grey_defects(seed: int) -> None:
    image = np.repeat(_image(seed)[..., :1], 3, axis=2)
    pasted, _ = anomalous([image], image, [], True, ALL_KINDS, np.random.default_rng(seed))
    assert (pasted == pasted[..., :1]).all()


@pytest.mark.parametrize("operation", sources.OPERATIONS)
def test_every_operation_keeps_shape_and_type_and_leaves_its_input_alone(operation: object) -> None:
    image = _image(3)
    before = image.copy()
    after = operation(image, np.random.default_rng(0))  # type: ignore[operator]
    assert (after.shape, after.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before)


@given(seeds)
def test_the_grid_shuffle_moves_pixels_and_loses_none(seed: int) -> None:
    image = _image(seed)
    shuffled = sources.shuffle_grid(image, np.random.default_rng(seed))
    assert np.array_equal(np.sort(shuffled.reshape(-1, 3), axis=0), np.sort(image.reshape(-1, 3), axis=0))


def test_the_same_generator_gives_the_same_anomaly() -> None:
    image = _image(5)
    a, b = (anomalous([image], image, [], False, ALL_KINDS, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(a[0], b[0])
    assert np.array_equal(a[1], b[1])


@given(st.integers(8, 200), st.integers(8, 200), seeds)
def test_a_crop_of_any_texture_has_the_asked_size(height: int, width: int, seed: int) -> None:
    assert sources.random_crop(_image(1), height, width, np.random.default_rng(seed)).shape == (height, width, 3)


def _on_ground(size: int, centre: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A dark disc with a bright hole, on a bright, slightly grainy ground."""
    rng = np.random.default_rng(seed)
    image = rng.normal(230, 3, (128, 128, 3)).clip(0, 255).astype(np.uint8)
    cv2.circle(image, centre, size, (60, 50, 40), -1)
    cv2.circle(image, centre, size // 4, (230, 230, 230), -1)
    return image


@given(st.integers(12, 50), st.integers(55, 70), st.integers(55, 70))
@settings(max_examples=30)
def test_the_foreground_is_the_part_with_its_holes(size: int, x: int, y: int) -> None:
    wanted = np.zeros((128, 128), np.uint8)
    cv2.circle(wanted, (x, y), size, 1, -1)
    found = foreground(_on_ground(size, (x, y)))
    assert (found != wanted.astype(bool)).mean() < 0.01


@given(seeds)
@settings(max_examples=20)
def test_a_texture_that_fills_the_frame_is_all_foreground(seed: int) -> None:
    assert foreground(_image(seed)).all()
    assert foreground(np.full((64, 64, 3), 90, np.uint8)).all()  # nothing but ground: then defects may be anywhere


@given(seeds)
@settings(max_examples=30)
def test_with_a_foreground_no_defect_lies_beside_the_part(seed: int) -> None:
    image = _on_ground(30, (64, 64))
    part = foreground(image)
    _, mask = anomalous([image], image, [], False, ALL_KINDS, np.random.default_rng(seed), part)
    assert not (mask & ~part).any()


@given(seeds, st.integers(0, 255))
@settings(max_examples=30)
def test_a_missing_piece_is_filled_with_what_surrounds_it(seed: int, level: int) -> None:
    rng = np.random.default_rng(seed)
    image, mask = np.full((64, 64, 3), level, np.uint8), blob_mask(64, 64, rng)
    image[mask] = 255 - level
    assert np.abs(sources.overgrown(image, mask).astype(int) - level).max() <= 1


def _draws(config: SynthesisConfig, image: np.ndarray, count: int = 40) -> list[tuple[np.ndarray, np.ndarray]]:
    """Defects on an image, each from a seed of its own."""
    return [anomalous([image], image, [], False, config, np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize(("least", "most"), [(0.0, 0.2), (0.5, 0.5), (0.2, 0.9)])
def test_the_original_keeps_between_the_least_and_the_largest_weight(least: float, most: float) -> None:
    """The same draw with none of the original left tells what was pasted."""
    image, kept = _image(0), []
    draws = (_draws(SynthesisConfig(keep_min=keep[0], keep_max=keep[1]), image) for keep in ((0.0, 0.0), (least, most)))
    for (source, mask), (pasted, _) in zip(*draws, strict=True):
        whole, left = (changed[mask].astype(float) - image[mask] for changed in (source, pasted))
        kept.append(1 - (whole * left).sum() / np.square(whole).sum())
    assert least - 0.02 < min(kept) < least + 0.1
    assert most - 0.1 < max(kept) < most + 0.02


def test_a_defect_has_the_soft_edge_that_is_asked_for() -> None:
    """It reaches beyond the mask; a hard one does not. What is labelled is the same."""
    image = _image(0)
    hard, soft = (_draws(SynthesisConfig(blob=1, perlin=0, soft_edge_px=px), image) for px in (0.0, 2.0))
    for (sharp, mask), (blurred, label) in zip(hard, soft, strict=True):
        assert np.array_equal(mask, label)
        assert (sharp[~mask] == image[~mask]).all()
        assert (blurred[~mask] != image[~mask]).any()


def _areas(count: int = 200, **config: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.array([draw_mask(64, 64, SynthesisConfig(**config), rng).mean() for _ in range(count)])


def test_combined_perlin_masks_unite_or_intersect_two() -> None:
    """Near threshold 0 a mask has half of the area, a union of two 3/4, an intersection 1/4; each comes as often."""
    one, two = (_areas(perlin_threshold=0.01, perlin_combined=share) for share in (0.0, 1.0))
    assert ((one > 0.4) & (one < 0.6)).mean() > 0.7
    assert ((two > 0.4) & (two < 0.6)).mean() < 0.15
    assert 0.3 < (two < 0.35).mean() < 0.6
    assert 0.3 < (two > 0.65).mean() < 0.6


def test_a_higher_threshold_leaves_less_of_a_perlin_mask() -> None:
    areas = [_areas(perlin_threshold=threshold).mean() for threshold in (0.1, 0.3, 0.5, 0.7)]
    assert all(low > 1.7 * high for low, high in itertools.pairwise(areas))


def test_scratches_are_thin() -> None:
    """One pixel wide about half of the time, else two or three; a little more where one bends and meets itself."""
    config, rng = SynthesisConfig(perlin=0, scratch=1), np.random.default_rng(0)
    masks = [draw_mask(256, 256, config, rng).astype(np.uint8) for _ in range(100)]
    reach = np.array([cv2.distanceTransform(mask, cv2.DIST_C, 3).max() for mask in masks])  # to what is outside
    assert 0.3 < (reach == 1).mean() < 0.9
    assert (reach <= 3).mean() > 0.9


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_asked_share_of_self_augmented_sources_is_shuffled(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not shuffled is where it was: a stain."""
    monkeypatch.setattr(sources, "augment", lambda image, _: image)
    image = _image(0)
    config = SynthesisConfig(texture=0, self_augment=1, shuffle=share, keep_min=0, keep_max=0)
    moved = [not np.array_equal(pasted, image) for pasted, _ in _draws(config, image, 300)]
    assert np.mean(moved) == pytest.approx(share, abs=0.1)


def test_a_missing_piece_leaves_no_trace_of_what_was_there() -> None:
    """Whatever is under the mask, the result is the same; on an even image it is that image."""
    config = SynthesisConfig(perlin=0, blob=1, texture=0, self_augment=0, missing=1, keep_min=0, keep_max=0)
    image = cv2.GaussianBlur(_image(0), (0, 0), 3)
    for seed, (filled, mask) in enumerate(_draws(config, image)):
        other = np.where(mask[..., None], _image(1), image)
        again, _ = anomalous([other], other, [], False, config, np.random.default_rng(seed))
        assert np.array_equal(filled, again)
    flat = np.full((64, 64, 3), 128, np.uint8)
    assert all(np.abs(filled.astype(int) - 128).max() <= 1 for filled, _ in _draws(config, flat))

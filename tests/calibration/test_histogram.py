"""Rules of the histogram: every image is in it, the threshold is marked once, and the picture shows it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from calibration.histogram import BAR_CELLS, BINS, HEIGHT, RED, WIDTH, picture, text

scores_ = hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-1e3, 1e3, width=32))


@given(scores_, st.data())
def test_every_image_is_counted_and_the_threshold_marked_once(scores: NDArray[np.float32], data: st.DataObject) -> None:
    threshold = float(data.draw(st.sampled_from(scores.tolist())))
    lines = text(scores, threshold)
    assert len(lines) == BINS
    assert sum(int(line.split("|")[1].replace("#", "").split("<-")[0]) for line in lines) == len(scores)
    assert [f"<- threshold {threshold:.6g}" in line for line in lines].count(True) == 1


def test_one_image_is_at_least_one_cell_and_no_image_is_none() -> None:
    lines = text(np.array([0.0] * 1000 + [1.0]), 1.0)
    assert lines[-1].count("#") == 1
    assert lines[0].count("#") == BAR_CELLS
    assert all("#" not in line for line in lines[1:-1])


@given(scores_, st.data())
def test_the_picture_shows_the_threshold_as_a_line_from_top_to_axis(
    scores: NDArray[np.float32], data: st.DataObject
) -> None:
    drawn = picture(scores, float(data.draw(st.sampled_from(scores.tolist()))), "59 good images")
    assert drawn.shape == (HEIGHT, WIDTH, 3)
    assert drawn.dtype == np.uint8
    assert (drawn == RED).all(axis=2).sum(axis=0).max() >= 300

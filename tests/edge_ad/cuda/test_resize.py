"""Rules of the fused kernel: its pixels are those of the CPU's preparation, from one source on host and GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_ad.core.layout import Layout
from edge_ad.core.preprocess import preprocess
from edge_ad.cuda.resize import NVCC_OPTIONS, compile_kernel, cubin_path, find_nvcc, source_code
from edge_ad.errors import BackendError
from edge_ad.records import Roi
from tests.edge_ad.cuda.host_kernel import Shrink, on_host


@pytest.fixture(scope="session")
def shrink(tmp_path_factory: pytest.TempPathFactory) -> Shrink:
    """The kernel's source, compiled by the host's compiler."""
    return on_host(tmp_path_factory.mktemp("area"))


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1080, 1920), (256, 256)),  # halved twice, then a fraction in both directions
        ((1081, 1920), (256, 256)),  # a fraction in both directions
        ((2048, 2048), (256, 256)),  # halved three times, and no more to do
        ((4096, 3072), (256, 256)),  # halved three times, then boxes
        ((1000, 1000), (256, 256)),
        ((512, 512), (256, 256)),  # halved once: ties round up
        ((768, 1025), (256, 205)),  # 3 x 5: ties round to even
        ((514, 514), (257, 257)),
        ((256, 512), (256, 256)),  # one axis as it is
        ((257, 300), (256, 256)),
        ((480, 640), (192, 192)),
        ((256, 256), (256, 256)),  # BGR to RGB, and nothing else
    ],
    ids=str,
)
def test_frames_shrink_to_the_pixels_of_opencv(
    shrink: Shrink, source: tuple[int, int], target: tuple[int, int]
) -> None:
    frame = noise(*source)
    assert np.array_equal(shrink(frame, *target), preprocess(frame, None, Layout(*target)))


@settings(max_examples=60)
@given(
    target=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    more=st.tuples(st.integers(0, 60), st.integers(0, 60)),
)
def test_any_frame_that_shrinks_gets_the_pixels_of_opencv(
    shrink: Shrink, target: tuple[int, int], more: tuple[int, int]
) -> None:
    frame = noise(target[0] + more[0], target[1] + more[1])
    assert np.array_equal(shrink(frame, *target), preprocess(frame, None, Layout(*target)))


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_frame_stays_as_flat(shrink: Shrink, value: int) -> None:
    frame = np.full((333, 777, 3), value, np.uint8)
    assert (shrink(frame, 64, 64) == value).all()


def test_a_region_of_interest_is_read_in_place(shrink: Shrink) -> None:
    """Rows of a part of a frame lie further apart than they are long."""
    frame, roi = noise(300, 400), Roi(37, 21, 200, 150)
    part = frame[roi.y : roi.y + roi.h, roi.x : roi.x + roi.w]
    assert np.array_equal(shrink(part, 64, 64), preprocess(frame, roi, Layout(64, 64)))


@pytest.mark.parametrize("sm", ["sm_87", "sm_89", "sm_110", "sm_120"])
def test_the_kernel_compiles_for_orin_ada_thor_and_blackwell(sm: str) -> None:
    if find_nvcc() is None:
        pytest.skip("no nvcc here")
    assert compile_kernel(sm).startswith(b"\x7fELF")


def test_an_architecture_that_nvcc_does_not_know_is_one_line() -> None:
    if find_nvcc() is None:
        pytest.skip("no nvcc here")
    with pytest.raises(BackendError, match=r"nvcc refused area_resize.cu for sm_1: .*") as refused:
        compile_kernel("sm_1")
    assert "\n" not in str(refused.value)


def test_without_nvcc_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BackendError, match="there is no nvcc: install"):
        compile_kernel("sm_87")


def test_another_source_or_architecture_is_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cubin_path(tmp_path, "sm_87")
    assert cubin_path(tmp_path, "sm_110") != here
    assert cubin_path(tmp_path, "sm_87") == here
    changed = f"{source_code()}// changed"
    monkeypatch.setattr("edge_ad.cuda.resize.source_code", lambda: changed)
    assert cubin_path(tmp_path, "sm_87") != here


@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("__version__", "4.8.0"),
        ("getBuildInformation", lambda: "Version control: 5.0.0, of another vendor"),
        ("getCPUFeaturesLine", lambda: "NEON"),
        ("useOptimized", lambda: False),
    ],
)
def test_another_opencv_is_another_file_for_the_proof_was_against_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, other: object
) -> None:
    here = cubin_path(tmp_path, "sm_87")
    assert f"cv{cv2.__version__}" in here.name
    monkeypatch.setattr(cv2, what, other)
    assert cubin_path(tmp_path, "sm_87") != here


def test_nothing_is_fused_that_opencv_rounds_twice() -> None:
    assert "--fmad=false" in NVCC_OPTIONS

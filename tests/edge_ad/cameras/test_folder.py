"""Rules of the folder camera: every image exactly once, in order of name, damaged and late ones included."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loguru import logger

from edge_ad.cameras import folder as folders
from edge_ad.cameras.base import EndOfFrames, Picture, Unreadable
from edge_ad.cameras.folder import Folder
from edge_ad.config import FolderCamera
from edge_ad.errors import CameraError
from edge_ad.images import write_png
from tests.station import write_parts

SETTLED_S = 0.2  # shorter, or this would take long


@pytest.fixture(autouse=True)
def _settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "SETTLED_S", SETTLED_S)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """What is logged, each line with its level."""
    lines: list[str] = []
    handler = logger.add(lambda line: lines.append(line.rstrip("\n")), format="{level} {message}")
    yield lines
    logger.remove(handler)


def folder_camera(path: Path, at_end: str = "stop", resume_after: str | None = None) -> Folder:
    config = FolderCamera.model_validate({"kind": "folder", "name": "top", "path": path, "at_end": at_end})
    return Folder(config, resume_after)


def read_all(camera: Folder) -> list[Picture | Unreadable]:
    camera.open()
    shots = []
    while True:
        try:
            shot = camera.read()
        except EndOfFrames:
            return shots
        if shot is not None:
            shots.append(shot)


def next_shot(camera: Folder) -> Picture | Unreadable:
    while True:
        shot = camera.read()
        if shot is not None:
            return shot


def test_every_image_comes_once_in_order_of_name_and_then_the_end(tmp_path: Path) -> None:
    truth = write_parts(tmp_path, 5)
    (tmp_path / "notes.txt").write_text("not an image")
    assert [shot.part_id for shot in read_all(folder_camera(tmp_path))] == list(truth)


def test_a_hidden_file_is_no_part(tmp_path: Path) -> None:
    """As a file manager leaves it, or a program that has not finished writing."""
    write_parts(tmp_path, 2)
    (tmp_path / "._part-1.png").write_bytes(b"\0\5\x16\7")
    assert [type(shot) for shot in read_all(folder_camera(tmp_path))] == [Picture, Picture]


def test_it_goes_on_after_the_last_part_that_has_its_result(tmp_path: Path) -> None:
    parts = list(write_parts(tmp_path, 5))
    assert names(read_all(folder_camera(tmp_path, resume_after=parts[2]))) == parts[3:]
    assert read_all(folder_camera(tmp_path, resume_after=parts[4])) == []


def test_a_damaged_image_is_delivered_as_unreadable_and_named(tmp_path: Path) -> None:
    write_parts(tmp_path, 3)
    (tmp_path / "part-0001.png").write_bytes(b"\x89PNG of a kind")
    _, damaged, last = read_all(folder_camera(tmp_path))
    assert isinstance(damaged, Unreadable)
    assert damaged.part_id == "part-0001.png"
    assert str(tmp_path / "part-0001.png") in damaged.detail
    assert isinstance(last, Picture)


@pytest.mark.parametrize("make", [False, True])
def test_a_folder_that_is_missing_or_holds_no_image_is_a_camera_fault(tmp_path: Path, make: bool) -> None:
    path = tmp_path / "parts"
    if make:
        path.mkdir()
    with pytest.raises(CameraError, match=str(path)):
        folder_camera(path).open()


def write(folder: Path, *names: str) -> None:
    for name in names:
        write_png(folder / name, np.full((8, 8, 3), 9, np.uint8))


def read_for(camera: Folder, seconds: float = 5 * SETTLED_S) -> list[Picture | Unreadable]:
    """What comes within so many seconds."""
    end_s = time.monotonic() + seconds
    shots = []
    while time.monotonic() < end_s:
        shot = camera.read()
        if shot is not None:
            shots.append(shot)
    return shots


def names(shots: list[Picture | Unreadable]) -> list[str | None]:
    return [shot.part_id for shot in shots]


@pytest.mark.parametrize("there_at_open", [True, False])
def test_waiting_it_takes_a_file_only_when_it_grows_no_more_one_that_was_there_at_first_too(
    tmp_path: Path, there_at_open: bool
) -> None:
    write(tmp_path, "a.png")
    data = (tmp_path / "a.png").read_bytes()
    camera = folder_camera(tmp_path, at_end="wait")
    if not there_at_open:
        camera.open()
    with (tmp_path / "b.png").open("wb", buffering=0) as growing:
        growing.write(data[:20])
        if there_at_open:
            camera.open()
        early = []
        for byte in data[20:40]:
            early.append(camera.read())
            growing.write(bytes([byte]))
        growing.write(data[40:])
    (late,) = read_for(camera)
    assert names([shot for shot in early if shot is not None]) == ["a.png"]
    assert isinstance(late, Picture)  # complete, not half of it
    assert late.part_id == "b.png"
    assert read_for(camera) == []


def test_waiting_sizes_are_compared_half_a_second_apart_however_long_the_parts_before_took(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    camera = folder_camera(tmp_path, at_end="wait")
    camera.open()
    assert next_shot(camera).part_id == "a.png"
    time.sleep(5 * SETTLED_S)
    (tmp_path / "b.png").write_bytes(b"half")
    assert [camera.read(), camera.read()] == [None, None]  # the first scan, and none that comes at once


def test_numbers_in_names_count_by_their_value(tmp_path: Path) -> None:
    write(tmp_path, "part-10.png", "part-9.png", "part-8.png", "part-09.png", "a1b2.png", "a1b10.png")
    right = ["a1b2.png", "a1b10.png", "part-8.png", "part-09.png", "part-9.png", "part-10.png"]
    assert names(read_all(folder_camera(tmp_path))) == right


def test_waiting_what_came_while_it_was_away_is_taken_and_what_is_left_out_is_said(
    tmp_path: Path, log: list[str]
) -> None:
    write(tmp_path, "part-8.png", "part-9.png")
    write(tmp_path, "part-10.png", "part-11.png", "part-1.png")
    camera = folder_camera(tmp_path, at_end="wait", resume_after="part-9.png")
    camera.open()
    assert names(read_for(camera)) == ["part-10.png", "part-11.png"]
    (said,) = log
    assert said.startswith("WARNING camera top: 3 files that sort up to part-9.png count as inspected; if the newest, ")
    assert said.endswith("part-1.png, was not, name it anew")


def test_waiting_a_file_with_an_earlier_name_is_taken_and_none_comes_again_after_a_restart(tmp_path: Path) -> None:
    write(tmp_path, "c.png")
    camera = folder_camera(tmp_path, at_end="wait")
    camera.open()
    assert next_shot(camera).part_id == "c.png"
    write(tmp_path, "b.png")
    late = next_shot(camera)
    assert (late.part_id, late.resume_after) == ("b.png", "c.png")
    write(tmp_path, "d.png")
    again = folder_camera(tmp_path, at_end="wait", resume_after=late.resume_after)
    again.open()
    assert names(read_for(again)) == ["d.png"]


def test_opened_again_it_knows_what_it_has_taken_and_takes_what_came_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    write(folder, "b.png", "c.png")
    camera = folder_camera(folder, at_end="wait")
    camera.open()
    assert names(read_for(camera)) == ["b.png", "c.png"]
    folder.rename(tmp_path / "away")
    with pytest.raises(CameraError, match="cannot read the folder"):
        read_for(camera)
    camera.close()
    with pytest.raises(CameraError, match="cannot read the folder"):
        camera.open()
    (tmp_path / "away").rename(folder)
    write(folder, "a.png")
    camera.open()
    assert names(read_for(camera)) == ["a.png"]


def test_a_folder_that_is_mounted_late_is_not_inspected_again(tmp_path: Path) -> None:
    camera = folder_camera(tmp_path, at_end="wait", resume_after="b.png")
    camera.open()
    write(tmp_path, "a.png", "b.png", "c.png")
    assert names(read_for(camera)) == ["c.png"]


def test_a_file_that_goes_while_the_folder_is_read_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "b.png")
    listed = [tmp_path / "a.png", tmp_path / "b.png"]
    monkeypatch.setattr(Path, "iterdir", lambda _self: iter(listed))
    assert names(read_all(folder_camera(tmp_path))) == ["b.png"]


def test_waiting_a_file_that_goes_before_it_is_read_is_left_out_and_taken_when_it_is_back(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "c.png")
    camera = folder_camera(tmp_path, at_end="wait")
    camera.open()
    assert next_shot(camera).part_id == "a.png"
    (tmp_path / "b.png").rename(tmp_path / "b.tmp")
    assert names(read_for(camera)) == ["c.png"]
    (tmp_path / "b.tmp").rename(tmp_path / "b.png")
    assert names(read_for(camera)) == ["b.png"]


def test_of_a_folder_that_is_read_once_a_file_that_goes_still_gets_its_result(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png")
    camera = folder_camera(tmp_path)
    camera.open()
    (tmp_path / "a.png").unlink()
    gone = next_shot(camera)
    assert isinstance(gone, Unreadable)
    assert gone.part_id == "a.png"

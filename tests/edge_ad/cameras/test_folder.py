"""Rules of the folder camera: every image exactly once, in order of name, damaged ones included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_ad.cameras.base import EndOfFrames, Picture, Unreadable
from edge_ad.cameras.folder import Folder
from edge_ad.config import FolderCamera
from edge_ad.errors import CameraError
from edge_ad.images import write_png
from tests.station import write_parts


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


def test_it_goes_on_after_the_last_part_that_has_its_result(tmp_path: Path) -> None:
    names = list(write_parts(tmp_path, 5))
    assert [shot.part_id for shot in read_all(folder_camera(tmp_path, resume_after=names[2]))] == names[3:]
    assert read_all(folder_camera(tmp_path, resume_after=names[4])) == []


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


def test_waiting_it_takes_each_new_file_once_and_only_when_it_is_complete(tmp_path: Path) -> None:
    camera = folder_camera(tmp_path, at_end="wait")
    camera.open()
    assert camera.read() is None
    write_png(tmp_path / "a.png", np.full((8, 8, 3), 9, np.uint8))
    data = (tmp_path / "a.png").read_bytes()
    growing = (tmp_path / "b.png").open("wb", buffering=0)
    for piece in (data[:20], data[20:40]):
        growing.write(piece)
        seen = next_shot(camera) if piece == data[20:40] else camera.read()
    assert isinstance(seen, Picture)
    assert seen.part_id == "a.png"
    growing.write(data[40:])
    growing.close()
    later = next_shot(camera)
    assert isinstance(later, Picture)  # complete, not half of it
    assert later.part_id == "b.png"
    assert camera.read() is None

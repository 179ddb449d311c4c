"""Rules of the simulation: its recordings in order, at its rate, each part under a number of its own, none twice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cameras.base import Delivered, EndOfFrames, Picture, RecordedScore, Unreadable
from edge_ad.cameras.playback import Playback
from edge_ad.config import SimulatedCamera
from edge_ad.errors import CameraError, ConfigError
from edge_ad.images import read_image
from tests.station import config, write_parts

SCORES = "file,label,score,verdict\n/data/good/a.png,good,0.25,ok\n/data/bad/b.png,blob,0.75,\n"


def playback(resume_after: str | None = None, **values: Any) -> Playback:
    fields = {"kind": "simulated", "name": "top", "rate_hz": 1000, **values}
    camera = Playback(SimulatedCamera.model_validate(fields), resume_after)
    camera.open()
    return camera


def read(camera: Playback, count: int) -> list[Delivered]:
    shots: list[Delivered] = []
    while len(shots) < count:
        shot = camera.read()
        if shot is not None:
            shots.append(shot)
    return shots


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    path = tmp_path / "scores.csv"
    path.write_text(SCORES)
    return path


def test_recorded_scores_are_played_in_order_from_the_first_again_after_the_last(scores: Path) -> None:
    assert read(playback(scores=scores), 5) == [
        RecordedScore("a.png#1", 0.25),
        RecordedScore("b.png#2", 0.75),
        RecordedScore("a.png#3", 0.25),
        RecordedScore("b.png#4", 0.75),
        RecordedScore("a.png#5", 0.25),
    ]


def test_it_waits_after_its_count_if_it_shall(scores: Path) -> None:
    camera = playback(scores=scores, count=2, at_end="wait")
    read(camera, 2)
    assert [camera.read() for _ in range(5)] == [None] * 5


def test_it_ends_after_its_count_restarts_included(scores: Path) -> None:
    camera = playback(scores=scores, count=2)
    read(camera, 2)
    with pytest.raises(EndOfFrames):
        camera.read()
    with pytest.raises(EndOfFrames):
        playback("b.png#2", scores=scores, count=2).read()


def test_it_goes_on_behind_the_last_part_that_has_its_result(scores: Path) -> None:
    assert read(playback("b.png#1208", scores=scores), 2) == [
        RecordedScore("a.png#1209", 0.25),
        RecordedScore("b.png#1210", 0.75),
    ]


@pytest.mark.parametrize("part_id", [None, "part-7.png", "serial#", "#x"])
def test_behind_a_part_that_was_no_simulation_it_begins_at_one(scores: Path, part_id: str | None) -> None:
    assert read(playback(part_id, scores=scores), 1) == [RecordedScore("a.png#1", 0.25)]


def test_frames_are_played_likewise_a_damaged_one_too(tmp_path: Path) -> None:
    write_parts(tmp_path, 2)
    (tmp_path / "part-0002.png").write_bytes(b"damaged")
    first, second, damaged, again = read(playback(frames=tmp_path), 4)
    assert isinstance(first, Picture)
    assert (first.image == read_image(tmp_path / "part-0000.png")).all()
    assert isinstance(damaged, Unreadable)
    ids = [shot.part_id for shot in (first, second, damaged, again)]
    assert ids == ["part-0000.png#1", "part-0001.png#2", "part-0002.png#3", "part-0000.png#4"]


def test_a_spreadsheets_mark_before_the_first_column_is_not_part_of_its_name(scores: Path) -> None:
    scores.write_text(SCORES, encoding="utf-8-sig")
    assert read(playback(scores=scores), 1) == [RecordedScore("a.png#1", 0.25)]


def test_a_score_that_the_model_could_not_give_is_played_as_such(scores: Path) -> None:
    scores.write_text("file,score\na.png,nan\n")
    (shot,) = read(playback(scores=scores), 1)
    assert isinstance(shot, RecordedScore)
    assert math.isnan(shot.score)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.png,good\n", "it has 'file', 'label'"),
        ("file;score\na.png;0,25\n", "separated by commas; it has 'file;score'"),
        ("", "it has none"),
        ("file,score\n", "no rows"),
        ("file,score\na.png,high\n", "'high'"),
        ("file,score\na.png\n", "no recorded scores"),
        (None, "No such file"),
    ],
)
def test_what_is_no_recording_is_named_in_one_line(scores: Path, text: str | None, said: str) -> None:
    scores.unlink() if text is None else scores.write_text(text)
    with pytest.raises(CameraError, match=said) as refusal:
        playback(scores=scores)
    assert str(scores) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("values", [{}, {"scores": "a.csv", "frames": "images"}])
def test_it_plays_either_scores_or_frames(tmp_path: Path, values: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="give either scores or frames"):
        config(tmp_path, {"kind": "simulated", **values})


@pytest.mark.parametrize("kind", ["folder", "file", "simulated"])
def test_only_a_station_with_a_real_camera_has_something_to_play_instead(tmp_path: Path, kind: str) -> None:
    camera = {"kind": kind, "scores" if kind == "simulated" else "path": "parts"}
    with pytest.raises(ConfigError, match="simulate is for a station with a real camera"):
        config(tmp_path, camera, {"simulate": {"scores": "scores.csv"}})


def test_what_is_played_instead_does_not_end_the_daemon(tmp_path: Path) -> None:
    """It would begin in the same mode again, and end at once: the way back is a command."""
    camera, plays = {"kind": "v4l2", "device": "/dev/video0"}, {"scores": "scores.csv", "count": 5}
    with pytest.raises(ConfigError, match=r"simulate\.at_end to wait"):
        config(tmp_path, camera, {"simulate": plays})
    assert config(tmp_path, camera, {"simulate": {**plays, "at_end": "wait"}}).simulate is not None


def test_what_is_played_instead_bears_the_name_of_the_camera(tmp_path: Path) -> None:
    camera = {"kind": "v4l2", "device": "/dev/video0"}
    station = config(tmp_path, camera, {"simulate": {"scores": "scores.csv", "rate_hz": 7}})
    assert station.source("run") == station.source("pause") == station.camera
    source = station.source("simulate")
    assert isinstance(source, SimulatedCamera)
    assert (source.name, source.scores, source.rate_hz) == ("top", tmp_path / "scores.csv", 7)

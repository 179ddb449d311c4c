"""bdSeq and the position outlive the process, also where there is no room on the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_ad.errors import ConfigError
from edge_ad.sparkplug.state_file import StateFile


def test_each_connect_gets_the_next_number_over_restarts_and_0_after_255(tmp_path: Path) -> None:
    """tck-id-topics-nbirth-bdseq-increment."""
    seen = []
    for _ in range(26):
        file = StateFile(tmp_path / "state" / "sparkplug.state")
        seen += [file.next_bdseq() for _ in range(10)]
        file.close()
    assert seen == [*range(256), *range(4)]


def test_the_position_is_kept(tmp_path: Path) -> None:
    first = StateFile(tmp_path / "sparkplug.state")
    first.settle(12_345_678_901)
    first.close()
    second = StateFile(tmp_path / "sparkplug.state")
    assert second.settled_id == 12_345_678_901
    assert second.next_bdseq() == 0


def test_without_room_it_goes_on_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    file = StateFile(tmp_path / "sparkplug.state")
    with monkeypatch.context() as without_room:
        without_room.setattr(os, "pwrite", full)
        assert [file.next_bdseq(), file.next_bdseq()] == [0, 1]
        file.settle(7)
    assert file.next_bdseq() == 2
    file.close()
    again = StateFile(tmp_path / "sparkplug.state")
    assert (again.next_bdseq(), again.settled_id) == (3, 7)


def test_it_never_grows(tmp_path: Path) -> None:
    file = StateFile(tmp_path / "sparkplug.state")
    sizes = set()
    for number in range(300):
        file.next_bdseq()
        file.settle(10**number if number < 20 else number)
        sizes.add((tmp_path / "sparkplug.state").stat().st_size)
    assert len(sizes) == 1


@pytest.mark.parametrize("content", [b"\0" * 25, b"12", b"abc 00000000000000000001\n", b"x" * 4000])
def test_a_damaged_file_begins_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sparkplug.state").write_bytes(content)
    file = StateFile(tmp_path / "sparkplug.state")
    assert (file.settled_id, file.next_bdseq()) == (0, 0)
    file.close()
    assert StateFile(tmp_path / "sparkplug.state").next_bdseq() == 1


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="see state_dir"):
        StateFile(tmp_path / "file" / "sparkplug.state")

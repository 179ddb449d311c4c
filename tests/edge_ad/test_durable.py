"""Rules of what must survive a power cut: a file is what it was or what it was to be, whoever else writes it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_ad.durable import write_whole


def test_what_was_there_is_replaced(tmp_path: Path) -> None:
    for data in (b"old", b"", b"new"):
        write_whole(tmp_path / "file", data)
        assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_file_and_its_name_are_on_the_disk_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real: Callable[[int], None] = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    write_whole(tmp_path / "file", b"data")
    file, folder = synced
    assert Path(file).name.startswith(".file.")
    assert folder == str(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o600), (0o750, 0o640), (0o2777, 0o644)])
def test_what_root_writes_can_be_as_its_folder_but_is_for_the_owner_alone_to_write(
    tmp_path: Path, folder: int, file: int
) -> None:
    os.chown(tmp_path, 65534, 65533)
    tmp_path.chmod(folder)
    write_whole(tmp_path / "file", b"data", as_its_folder=True)
    status = (tmp_path / "file").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (65534, 65533, file)


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    write_whole(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"old")]


def test_two_that_write_at_once_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have written before one renames."""
    barrier, real = threading.Barrier(2), os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (real(descriptor), barrier.wait(10))[0])
    failed: list[BaseException] = []

    def write(data: bytes) -> None:
        try:
            write_whole(tmp_path / "file", data)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert (tmp_path / "file").read_bytes() in (b"one", b"two")
    assert len(list(tmp_path.iterdir())) == 1

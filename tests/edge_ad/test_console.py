"""Rules of every console script: one line for a mistake, the documented exit codes, progress that fits the stream."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_ad.console import BROKEN_PIPE, INTERRUPTED, OPENCV_LOG_LEVEL, Parser, make_room, run_command, tracked
from edge_ad.errors import BackendError, CalibrationError, ConfigError
from tests.daemons import clean_environment


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("error", "code"), [(CalibrationError("no store"), 2), (BackendError("no store"), 1)])
def test_our_errors_become_one_line_and_their_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> int:
        raise error

    assert run_command(command) == code
    assert capsys.readouterr() == ("", "error: no store\n")


def test_ctrl_c_ends_with_130_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> int:
        raise KeyboardInterrupt

    assert run_command(command) == INTERRUPTED
    assert capsys.readouterr().err == "interrupted\n"


def test_an_unknown_error_keeps_its_traceback() -> None:
    def command() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command)


def _raise(error: OSError) -> int:
    raise error


def test_what_the_file_system_refuses_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert run_command(lambda: (tmp_path / "none" / "file").write_text("x")) == 2
    refused = f"error: {tmp_path / 'none' / 'file'}: No such file or directory; give another path, or mend this one\n"
    assert capsys.readouterr().err == refused
    assert run_command(lambda: _raise(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))) == 2
    assert capsys.readouterr().err == "error: No space left on device; free some, then run it again\n"
    with pytest.raises(OSError, match="reset"):  # of no file: a fault of the program
        run_command(lambda: _raise(ConnectionResetError(errno.ECONNRESET, "reset")))
    monkeypatch.setenv("INVOCATION_ID", "0")  # a service: it is to be started again
    with pytest.raises(FileNotFoundError):
        run_command(lambda: (tmp_path / "none" / "file").write_text("x"))


def test_wrong_arguments_are_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="edge-ad-x")
    parser.add_argument("--rate", type=float)
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--rate", "much"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: argument --rate: invalid float value: 'much' (see edge-ad-x --help)"
    ]


def test_progress_is_one_moving_line_on_a_terminal() -> None:
    stream = Terminal()
    assert list(tracked("abc", "work", stream)) == ["a", "b", "c"]
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("] 3/3\n")


@pytest.mark.parametrize(("total", "lines"), [(0, 0), (3, 3), (1000, 10)])
def test_progress_is_at_most_ten_plain_lines_elsewhere(total: int, lines: int) -> None:
    stream = io.StringIO()
    assert list(tracked(range(total), "work", stream)) == list(range(total))
    assert len(stream.getvalue().splitlines()) == lines
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize(("encoding", "written"), [("ascii", r"M\xfcller"), ("latin-1", "Müller"), ("utf-8", "Müller")])
def test_what_standard_output_cannot_carry_is_escaped(encoding: str, written: str) -> None:
    """A service or a terminal may have a locale of its own."""
    program = [sys.executable, "-c", "from edge_ad.console import say; say('M\\xfcller')"]
    ended = subprocess.run(program, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (ended.stdout.decode(encoding), ended.stderr) == (f"{written}\n", b"")


def read_truncated(path: Path, before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own that reads an image of which half is missing."""
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    data = cv2.imencode(path.suffix, image)[1].tobytes()
    path.write_bytes(data[: len(data) // 2])
    program = (
        f"{before}\nfrom pathlib import Path\nfrom edge_ad.console import run_command\ndef command():\n"
        f"  from edge_ad.images import read_image\n  read_image(Path({str(path)!r}))\n"
        "raise SystemExit(run_command(command))"
    )
    without = {name: value for name, value in clean_environment().items() if name != OPENCV_LOG_LEVEL}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env={**without, **environment})


@pytest.mark.parametrize("before", ["", "import cv2"])
@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_of_a_truncated_image_the_only_line_is_our_own(tmp_path: Path, suffix: str, before: str) -> None:
    """But for libpng, which writes to standard error by itself."""
    path = tmp_path / f"part{suffix}"
    ended = read_truncated(path, before)
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("libpng ")]
    assert lines == [f"error: cannot decode {path}: not an image, or damaged; remove it or save it again"]


def test_opencvs_log_is_there_for_whoever_asks_for_it(tmp_path: Path) -> None:
    assert "[ERROR" in read_truncated(tmp_path / "part.tif", OPENCV_LOG_LEVEL="WARNING").stderr


def test_a_reader_that_went_away_is_no_error() -> None:
    program = (
        "from edge_ad.console import run_command, say\n"
        "raise SystemExit(run_command(lambda: [say('line') for _ in range(100_000)] and 0))"
    )
    command = f'{sys.executable} -c "{program}" | head -1; exit ${{PIPESTATUS[0]}}'
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("line\n", "", BROKEN_PIPE)


@pytest.mark.parametrize("name", ["kept.json", "new/kept.json"])
def test_what_this_user_may_not_write_is_found_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "kept.json").touch()
    make_room("--json", tmp_path / name)
    refused = tmp_path / ("kept.json" if name == "kept.json" else "new")
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != refused and real(path, mode))
    with pytest.raises(ConfigError, match=r"--json.*this user may not write"):
        make_room("--json", tmp_path / name)

"""What a console script says and how it ends: the one place of this package that writes to the terminal."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TextIO, TypeVar

from edge_ad.errors import ConfigError, EdgeAdError, UsageError
from edge_ad.names import printable

Item = TypeVar("Item")

INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
BROKEN_PIPE = 141  # 128 + SIGPIPE
BAR_CELLS = 30
OPENCV_LOG_LEVEL = "OPENCV_LOG_LEVEL"  # OpenCV's own variable


def say(line: str) -> None:
    """Write one line of results to standard output; what a terminal's or pipe's encoding cannot carry is escaped."""
    sys.stdout.write(f"{printable(line, sys.stdout.encoding or 'utf-8')}\n")
    sys.stdout.flush()


def complain(line: str) -> None:
    """Write one line of notes or errors to standard error, apart from the results."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def write_json(path: Path, body: Mapping[str, object]) -> None:
    """Write what `--json` asks for, into a folder that is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


def make_room(option: str, file: Path) -> None:
    """Make the folder of a file that an option names, before the work whose outcome goes there.

    Raises:
        ConfigError: a folder where the file should be, or one that this user may not write.
        OSError: the folder cannot be made.
    """
    if file.is_dir():
        raise ConfigError(f"{option} {file} is a folder: name a file")
    make_folder(option, file.parent)
    if file.exists() and not os.access(file, os.W_OK):
        raise ConfigError(f"{option} {file}: this user may not write it")


def make_folder(option: str, folder: Path) -> None:
    """Make a folder that an option names, before the work whose outcome goes there.

    Raises:
        ConfigError: this user may not write into it.
        OSError: it cannot be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{option}: this user may not write into {folder}")


def under_journal(environment: Mapping[str, str], stream: TextIO) -> bool:
    """Whether journald reads a stream and takes a prefix <N> for the priority of a line (sd-daemon(3)).

    Shells of a desktop session inherit the variables too, so a terminal never counts.
    """
    return ("JOURNAL_STREAM" in environment or "INVOCATION_ID" in environment) and not stream.isatty()


def _silence_opencv() -> None:
    """What it says of an image that it cannot read, our own line says; who sets OPENCV_LOG_LEVEL hears it as well."""
    if os.environ.setdefault(OPENCV_LOG_LEVEL, "SILENT") != "SILENT":
        return
    loaded = getattr(sys.modules.get("cv2"), "utils", None)  # else it reads the variable when it is loaded
    logging = getattr(loaded, "logging", None)  # some builds have none
    if logging is not None:
        logging.setLogLevel(logging.LOG_LEVEL_SILENT)


def run_command(command: Callable[[], int]) -> int:
    """Run the body of a console script and return its exit code.

    An error of our own tree becomes one line and that error's exit code; Ctrl-C becomes one line and 130.
    A reader that went away (`| head`) ends it quietly. What the file system refuses a person's command (a file where a
    folder should be, no right, no space) is one line and 2; a service keeps the traceback and the code that has it
    restarted. Anything else is a fault of the program and keeps its traceback.
    """
    _silence_opencv()
    try:
        return command()
    except EdgeAdError as error:
        complain(f"{'<3>' if under_journal(os.environ, sys.stderr) else ''}error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it ends
        return BROKEN_PIPE
    except OSError as error:
        no_space = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if under_journal(os.environ, sys.stderr) or not (error.filename or no_space):
            raise
        where = f"{error.filename}: " if error.filename else ""
        todo = "free some, then run it again" if no_space else "give another path, or mend this one"
        complain(f"error: {where}{error.strerror}; {todo}")
        return UsageError.exit_code


def add_frame_size(parser: argparse._ActionsContainer) -> None:
    """Add `--frame WIDTHxHEIGHT`, which becomes (width, height): the pixels of the camera that a benchmark plays."""
    size = "1920x1080"
    parser.add_argument(
        "--frame", metavar="WxH", type=_frame_size, default=size, help=f"the camera's pixels (default: {size})"
    )


def _frame_size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT in pixels, as 1920x1080, got {text}")
    return int(found[1]), int(found[2])


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses with one line instead of the whole usage text."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the arguments and exit with 2."""
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def tracked(items: Sequence[Item], label: str, stream: TextIO | None = None) -> Iterator[Item]:
    """Yield the items and show how far the work is: a bar on a terminal, a plain line at each tenth elsewhere."""
    stream = sys.stderr if stream is None else stream
    show = _show_bar if stream.isatty() else _show_tenths
    for done, item in enumerate(items):
        show(stream, label, done, len(items))
        yield item
    show(stream, label, len(items), len(items))


def _show_bar(stream: TextIO, label: str, done: int, total: int) -> None:
    filled = BAR_CELLS * done // total if total else BAR_CELLS
    end = "\n" if done == total else ""
    stream.write(f"\r{label} [{'#' * filled:<{BAR_CELLS}}] {done}/{total}{end}")
    stream.flush()


def _show_tenths(stream: TextIO, label: str, done: int, total: int) -> None:
    if done and 10 * done // total > 10 * (done - 1) // total:
        stream.write(f"{label} {done}/{total}\n")
        stream.flush()

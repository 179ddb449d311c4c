"""Rules of the state directory: one daemon at a time, free again when that ends, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_ad.errors import BusyError, ConfigError
from edge_ad.lock import in_use, locked, noted

HOLD = """
import sys, time
from pathlib import Path
from edge_ad.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with locked(state), pytest.raises(BusyError, match=f"process {os.getpid()}"), locked(state):
        pass
    with locked(state):
        pass


def test_a_killed_holder_leaves_the_directory_free(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {holder.pid}"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(tmp_path):
            pass


def test_whether_somebody_holds_it_can_be_seen_from_outside(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert not in_use(state)
    with locked(state):
        assert in_use(state)
    assert not in_use(state)


def test_whether_somebody_holds_what_one_may_not_see_is_for_the_caller_to_say(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert in_use(tmp_path / "file" / "state")
    assert not in_use(tmp_path / "file" / "state", if_unknown=False)
    with locked(tmp_path / "state"):
        assert in_use(tmp_path / "state", if_unknown=False)


def test_a_directory_that_cannot_be_made_is_the_configurations_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state_dir"), locked(tmp_path / "file" / "state"):
        pass


def test_what_the_holder_has_noted_can_be_read_from_outside_while_it_holds(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert noted(state) == ""
    with locked(state) as note:
        assert noted(state) == ""
        note("a" * 64)
        assert noted(state) == "a" * 64
        with pytest.raises(BusyError, match=f"process {os.getpid()}\\)"), locked(state):
            pass
    assert noted(state) == ""
    with locked(state):  # what the last one has noted is not its own
        assert noted(state) == ""

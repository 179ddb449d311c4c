"""The benchmark of the daemon's start: it ends, also where the daemon does not start."""

from pathlib import Path

import pytest

from benchmarks.startup import bare, main, wait_for_result
from edge_ad.errors import BackendError
from tests.daemons import running_daemon


def test_what_is_no_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(tmp_path / "typo")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'typo'} is not a bundle" in line


def test_a_precision_that_the_bundle_has_not_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--backend", "openvino", "--precision", "int8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds no int8 model" in line


def test_an_engine_that_is_not_installed_is_one_line() -> None:
    with pytest.raises(BackendError, match=r"the bare imports failed: .*nosuchengine"):
        bare("nosuchengine")


def test_a_daemon_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    with (
        running_daemon(tmp_path / "no-station.yaml") as daemon,
        pytest.raises(BackendError, match=r"the daemon ended with 2; .*no-station\.yaml"),
    ):
        wait_for_result(daemon, lambda: False)


def test_a_daemon_that_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    with running_daemon(tmp_path / "no-station.yaml") as daemon, pytest.raises(BackendError, match="no result within"):
        wait_for_result(daemon, lambda: False, deadline_s=0.0)

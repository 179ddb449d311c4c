"""`edge-ad plc-sim` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.broker import Broker
from tests.daemons import DEADLINE_S, clean_environment, wait_until


class PlcSim:
    """A virtual PLC that listens to a station until it has heard enough; gone at the end of a `with` block.

    Args:
        folder: where its output and its report go.
        broker: to connect to.
        arguments: the station, and options of the command.
    """

    def __init__(self, folder: Path, broker: Broker, *arguments: str) -> None:
        self._output, self._report = folder / "plc-sim.txt", folder / "plc-sim.json"
        program = [*broker.inside, sys.executable, "-m", "edge_ad.cli", "plc-sim"]
        command = [*program, *arguments, "--json", str(self._report)]
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--host", broker.host, "--port", str(broker.port)],
                stdout=output,
                stderr=output,
                env=clean_environment(),
            )

    def __enter__(self) -> PlcSim:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def said(self) -> str:
        """All that it has printed."""
        return self._output.read_text()

    def wait_until_it_said(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text so often."""
        wait_until(lambda: self.said().count(text) >= times or self.process.poll() is not None)
        assert self.said().count(text) >= times, self.said()

    def interrupt(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(DEADLINE_S)

    def report(self) -> dict[str, Any]:
        """What it wrote as JSON."""
        body: dict[str, Any] = json.loads(self._report.read_text())
        return body

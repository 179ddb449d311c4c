"""An input line announces each edge once, at the time that the kernel gives it; what is missing is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge_ad.config import GpioTrigger
from edge_ad.errors import ConfigError, EdgeAdError, TriggerError
from edge_ad.gpio import GpioLine, open_line

gpiod = pytest.importorskip("gpiod", reason="gpiod is not installed")
RISING = 1


class Edges:
    """A requested line whose edges are those of a list; what they are made of is gpiod's own."""

    def __init__(self, *batches: list[tuple[int, int]]) -> None:
        self._batches = list(batches)
        self.released = False

    def wait_edge_events(self, _timeout_s: float) -> bool:
        return bool(self._batches)

    def read_edge_events(self) -> list[object]:
        return [gpiod.EdgeEvent(RISING, at_ns, 3, number, number) for at_ns, number in self._batches.pop(0)]

    def release(self) -> None:
        self.released = True


def test_each_edge_is_a_part_at_the_time_that_the_kernel_gives_it() -> None:
    line = GpioLine(Edges([(10, 1)], [(20, 2), (30, 3)]), "line 3")
    assert [line.wait(0.0), line.wait(0.0), line.wait(0.0)] == [[10], [20, 30], []]


def test_edges_that_the_kernel_could_not_keep_are_parts_all_the_same() -> None:
    line = GpioLine(Edges([(10, 1), (50, 4)]), "line 3")
    assert line.wait(0.0) == [10, 50, 50, 50]


def test_a_line_that_cannot_be_read_any_more_is_named() -> None:
    class Gone(Edges):
        def wait_edge_events(self, _timeout_s: float) -> bool:
            raise OSError(19, "No such device")

    with pytest.raises(TriggerError, match="GPIO line 3 cannot be read: No such device"):
        GpioLine(Gone(), "line 3").wait(0.0)


@pytest.mark.parametrize(
    ("chip", "said", "error"), [("missing", "no GPIO chip", TriggerError), ("file", "cannot be had", ConfigError)]
)
def test_without_the_chip_there_is_one_line_that_says_so(
    tmp_path: Path, chip: str, said: str, error: type[EdgeAdError]
) -> None:
    (tmp_path / "file").write_text("no chip")
    config = GpioTrigger(kind="gpio", chip=str(tmp_path / chip), line=3)
    with pytest.raises(error, match=said) as raised:
        open_line(config)
    assert str(tmp_path / chip) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_gpiod_the_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(ConfigError, match=r"edge-ad\[gpio\]"):
        open_line(GpioTrigger(kind="gpio", line=3))


def test_closing_it_gives_the_line_back() -> None:
    edges = Edges()
    GpioLine(edges, "line 3").close()
    assert edges.released

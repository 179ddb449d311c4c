"""Names that are no UTF-8, as a ZIP from Windows brings them: shown, never a crash."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest

from edge_ad.console import say
from edge_ad.names import printable
from edge_ad.pictures import captioned

LATIN_1 = os.fsdecode(b"kratz\xfcr.png")


def test_a_name_stays_as_it_is_where_it_can_be_written() -> None:
    assert printable("Kratzer tief ü/000.png") == "Kratzer tief ü/000.png"
    assert printable(LATIN_1) == r"kratz\udcfcr.png"


def test_a_caption_takes_any_name() -> None:
    picture = np.zeros((8, 300, 3), np.uint8)
    assert np.array_equal(captioned(picture, LATIN_1), captioned(picture, printable(LATIN_1)))


def test_a_line_takes_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", terminal)
    say(LATIN_1)
    assert terminal.buffer.getvalue() == b"kratz\\udcfcr.png\n"  # type: ignore[attr-defined]

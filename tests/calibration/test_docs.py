"""What docs/calibration.md promises is what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from scipy import stats

from calibration.threshold import guarantee, required_images

TEXT = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")


def rows() -> list[list[float]]:
    """The numbers of the table: wish in %, then n for 90, 95 and 99 %, then n for the 5th largest score."""
    lines = re.findall(r"^\| ([\d.]+) % \|(.+)\|$", TEXT, re.MULTILINE)
    return [[float(wish), *(int(n.replace(",", "")) for n in ns.split("|"))] for wish, ns in lines]


def test_the_table_of_sample_sizes_is_what_fit_needs() -> None:
    assert len(rows()) == 6
    for wish, *needed, _ in rows():
        assert needed == [required_images(wish / 100, confidence) for confidence in (0.90, 0.95, 0.99)]


def test_the_last_column_is_the_smallest_n_with_the_5th_largest_score_as_threshold() -> None:
    for wish, *_, n in rows():
        assert guarantee(int(n), wish / 100, 0.95).rank == n - 4
        assert guarantee(int(n) - 1, wish / 100, 0.95).rank > n - 1 - 4


def test_the_example_is_the_real_output() -> None:
    promise = guarantee(120, 0.05, 0.95)
    assert promise.rank == 119
    reached = f"{100 * promise.reached_confidence:.4g} % confidence (wanted 95 %)"
    assert f"at most 5 % with {reached}; expected {100 * promise.expected_rate:.4g} %" in TEXT


def test_the_drift_hint_is_rare_while_the_wish_holds() -> None:
    """More than 5 alarms of 200 good parts at a true 1 %: 1.6 %. 2 or more are common."""
    assert stats.binom.sf(5, 200, 0.01) < 0.02
    assert stats.binom.sf(1, 200, 0.01) > 0.5

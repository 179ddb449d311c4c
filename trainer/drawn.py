"""Text of people's own, as matplotlib draws it."""

from __future__ import annotations

from collections.abc import Callable

from matplotlib.font_manager import FontProperties, findfont, get_font


def drawn(text: str) -> str:
    r"""A name for a plot: no `$` begins a formula, and what the font has no sign for is escaped, as in \u5212."""
    known = get_font(findfont(FontProperties())).get_char_index
    return "".join(_sign(sign, known) for sign in text).replace("$", r"\$")


def _sign(sign: str, known: Callable[[int], int]) -> str:
    return sign if known(ord(sign)) else sign.encode("ascii", "backslashreplace").decode("ascii")

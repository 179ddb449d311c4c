"""Names of files as text that can be written anywhere."""

from __future__ import annotations

from pathlib import Path


def printable(text: str | Path) -> str:
    r"""A path, or a text with names in it, in which bytes that are no UTF-8 are escaped: kratz\udcfcr.png.

    Python keeps such bytes (a ZIP from Windows brings them) as surrogates, which files and standard output refuse and
    on which OpenCV crashes. It is for reading: only the path itself opens the file.
    """
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")

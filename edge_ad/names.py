"""Names of files as text that can be written anywhere."""

from __future__ import annotations

from pathlib import Path


def printable(text: str | Path, encoding: str = "utf-8") -> str:
    r"""A path, or a text with names in it, in which what `encoding` cannot carry is escaped: kratz\udcfcr.png.

    Python keeps bytes that are no UTF-8 (a ZIP from Windows brings them) as surrogates, which files and standard output
    refuse and on which OpenCV crashes. It is for reading: only the path itself opens the file.
    """
    return str(text).encode(encoding, "backslashreplace").decode(encoding)

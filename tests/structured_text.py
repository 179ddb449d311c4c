"""Runs the Structured Text of docs/plc.md: just enough of IEC 61131-3 for it.

Every statement becomes the Python statement of the same meaning. INT is not limited to 16 bits here, LREAL is Python's
float, a STRING is an array of bytes that ends at the first 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

TOKEN = re.compile(r"'[^']*'|T#\d+M?S|16#[0-9A-F]+|\d+\.\d+|\d+|[A-Za-z_]\w*|:=|<>|<=|>=|\.\.|[^\s\w]")
COMMENT = re.compile(r"\(\*.*?\*\)", re.DOTALL)
DECLARATION = re.compile(r"([\w, ]+?)\s*:\s*(\w+)")
WORDS = {"=": "==", "<>": "!=", ":=": "=", "AND": "and", "OR": "or", "NOT": "not", "TRUE": "True", "FALSE": "False"}
FUNCTIONS: dict[str, Callable[..., Any]] = {"LEN": len, "BYTE_TO_INT": int, "INT_TO_LREAL": float}
FUNCTIONS |= {"LREAL_TO_INT": int, "LREAL_TO_UDINT": int}
FUNCTIONS |= {"CONCAT": lambda a, b: String(a + b), "UDINT_TO_STRING": lambda n: String(str(n).encode("ascii"))}
INDENTS = {"IF": "THEN", "ELSIF": "THEN", "WHILE": "DO", "FOR": "DO"}  # keyword -> what ends its condition


class String(bytearray):
    """A STRING that grows as it is written."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.extend(bytes(max(0, index + 1 - len(self))))
        super().__setitem__(index, value)

    def text(self) -> str:
        """Up to the first 0."""
        return bytes(self).split(b"\0")[0].decode("ascii")


class Timer:
    """A TON: Q once IN has been TRUE for PT seconds; `now` is moved by the test."""

    now = 0.0

    def __init__(self) -> None:
        self.Q = False
        self._since: float | None = None

    def __call__(self, IN: bool, PT: float) -> None:
        self._since = (self.now if self._since is None else self._since) if IN else None
        self.Q = self._since is not None and self.now - self._since >= PT


ZERO: dict[str, Callable[[], Any]] = {"INT": int, "UDINT": int, "BOOL": bool, "LREAL": float, "TON": Timer}
ZERO |= {"STRING": String, "ARRAY": lambda: None}


def tokens(source: str) -> list[str]:
    """The tokens of a source, without comments."""
    return TOKEN.findall(COMMENT.sub(" ", source))


class FunctionBlock:
    """An instance of a function block with its methods; each `call` runs its body once, as a cycle of a controller."""

    def __init__(self, source: str) -> None:
        head, *methods = re.split(r"^METHOD ", COMMENT.sub(" ", source), flags=re.MULTILINE)
        names = [method.split()[0] for method in methods]
        declared, body = _split(head)
        self._run = self._compile("Body", {}, body)
        self.variables = SimpleNamespace(**{name: ZERO[kind]() for name, kind in declared.items()})
        for name, method in zip(names, methods, strict=True):
            setattr(self.variables, name, partial(self._compile(name, *_split(method)), self.variables))

    def call(self, **inputs: Any) -> SimpleNamespace:
        """Run the body on these inputs; returns all variables."""
        vars(self.variables).update(inputs)
        self._run(self.variables)
        return self.variables

    def _compile(self, name: str, local: dict[str, str], body: str) -> Callable[..., Any]:
        """A method as a Python function of the block's variables and its own inputs, its first local variables."""
        lines = [f"    {line}" for line in _statements(tokens(body), {*local, name})]
        scope: dict[str, Any] = {**FUNCTIONS, "String": String}
        exec("\n".join(["def run(s, l):", *lines, "    return"]), scope)

        def method(block: SimpleNamespace, *arguments: Any) -> Any:
            values = {variable: ZERO[kind]() for variable, kind in local.items()}
            here = SimpleNamespace(**{**values, **dict(zip(values, arguments, strict=False)), name: None})
            scope["run"](block, here)
            return getattr(here, name)

        return method


def _split(source: str) -> tuple[dict[str, str], str]:
    """The variables (name -> type) and the body."""
    declared: dict[str, str] = {}
    blocks = re.findall(r"^VAR[ \w]*\n(.*?)^END_VAR\n", source, flags=re.MULTILINE | re.DOTALL)
    for names, kind in (found for block in blocks for found in DECLARATION.findall(block)):
        declared |= {name.strip(): kind for name in names.split(",")}
    return declared, source[source.rindex("END_VAR\n") + len("END_VAR\n") :]


def _statements(source: list[str], local: set[str]) -> Iterator[str]:
    """Python lines for tokens of Structured Text."""
    depth, words = 0, iter(source)
    for word in words:
        if word in ("END_IF", "END_WHILE", "END_FOR"):
            depth -= 1
        elif word == "ELSE":
            yield "    " * (depth - 1) + "else:"
        elif word in INDENTS:
            condition = _until(words, INDENTS[word])
            depth -= word == "ELSIF"
            yield "    " * depth + _head(word, condition, local)
            depth += 1
        elif word != ";":
            statement = [word, *_until(words, ";")]
            yield "    " * depth + {"EXIT": "break", "RETURN": "return"}.get(word, _python(statement, local))


def _head(word: str, condition: list[str], local: set[str]) -> str:
    if word == "FOR":
        start, end = condition.index(":="), condition.index("TO")
        first, last = _python(condition[start + 1 : end], local), _python(condition[end + 1 :], local)
        return f"for {_python(condition[:start], local)} in range({first}, {last} + 1):"
    return f"{ {'IF': 'if', 'ELSIF': 'elif', 'WHILE': 'while'}[word] } {_python(condition, local)}:"


def _until(words: Iterator[str], end: str) -> list[str]:
    return list(iter(lambda: next(words), end))


def _python(source: list[str], local: set[str]) -> str:
    """An expression or an assignment; names of parameters and what follows a point stay as they are."""
    out, parentheses = [], 0
    for before, word, after in zip(["", *source], source, [*source[1:], ""], strict=False):
        parentheses += (word == "(") - (word == ")")
        bare = before == "." or (parentheses and after == ":=")
        out.append(word if bare else _word(word, local))
    return " ".join(out)


def _word(word: str, local: set[str]) -> str:
    if word in WORDS or word in FUNCTIONS:
        return WORDS.get(word, word)
    if word.startswith("'"):
        return f"String({word[1:-1].encode('ascii')!r})"
    if word.startswith("T#"):
        return f"{float(word.strip('T#MS')) / (1000 if 'MS' in word else 1)}"
    if word.startswith("16#"):
        return f"0x{word[3:]}"
    return f"{'l' if word in local else 's'}.{word}" if word[0].isalpha() else word

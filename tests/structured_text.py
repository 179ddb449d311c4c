"""Runs a function block in Structured Text, as docs/plc.md has one: just enough of IEC 61131-3 for it.

Every statement becomes the Python statement of the same meaning. INT is not limited to 16 bits here, LREAL is Python's
float, a STRING is an array of bytes that ends at the first 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

TOKEN = re.compile(r"'[^']*'|16#[0-9A-F]+|\d+\.\d+|\d+|[A-Za-z_]\w*|:=|<>|<=|>=|\.\.|[^\s\w]")
COMMENT = re.compile(r"\(\*.*?\*\)", re.DOTALL)
DECLARATION = re.compile(r"([\w, ]+?)\s*:\s*(\w+)")
WORDS = {"=": "==", "<>": "!=", ":=": "=", "AND": "and", "OR": "or", "NOT": "not", "TRUE": "True", "FALSE": "False"}
FUNCTIONS: dict[str, Callable[..., Any]] = {"LEN": len, "BYTE_TO_INT": int, "INT_TO_LREAL": float, "LREAL_TO_INT": int}
INDENTS = {"IF": "THEN", "ELSIF": "THEN", "WHILE": "DO", "FOR": "DO"}  # keyword -> what ends its condition


class String(bytearray):
    """A STRING that grows as it is written."""

    def __setitem__(self, index: Any, value: Any) -> None:
        self.extend(bytes(max(0, index + 1 - len(self))))
        super().__setitem__(index, value)

    def text(self) -> str:
        """Up to the first 0."""
        return bytes(self).split(b"\0")[0].decode("ascii")


ZERO: dict[str, Callable[[], Any]] = {"INT": int, "BOOL": bool, "LREAL": float, "STRING": String, "ARRAY": lambda: None}


def tokens(source: str) -> list[str]:
    """The tokens of a source, without comments."""
    return TOKEN.findall(COMMENT.sub(" ", source))


class FunctionBlock:
    """A function block with its methods; `call` runs its body on inputs and returns all its variables."""

    def __init__(self, source: str) -> None:
        head, *methods = re.split(r"^METHOD ", COMMENT.sub(" ", source), flags=re.MULTILINE)
        self._names = [re.match(r"\w+", method)[0] for method in methods]  # type: ignore[index]
        self._declared, body = _split(head)
        self._run = self._compile("Body", {}, body)
        self._methods = {
            name: self._compile(name, *_split(method)) for name, method in zip(self._names, methods, strict=True)
        }

    def call(self, **inputs: Any) -> dict[str, Any]:
        block = SimpleNamespace(**{name: ZERO[kind]() for name, kind in self._declared.items()})
        vars(block).update(inputs)
        for name, method in self._methods.items():
            setattr(block, name, lambda *arguments, method=method: method(block, *arguments))
        self._run(block)
        return {name: getattr(block, name) for name in self._declared}

    def _compile(self, name: str, local: dict[str, str], body: str) -> Callable[..., Any]:
        """A method as a Python function of the block and the method's inputs, which are its first variables."""
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
    blocks = re.findall(r"^VAR\w*\n(.*?)^END_VAR\n", source, flags=re.MULTILINE | re.DOTALL)
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
    return " ".join(_word(word, local) for word in source)


def _word(word: str, local: set[str]) -> str:
    if word in WORDS or word in FUNCTIONS:
        return WORDS.get(word, word)
    if word.startswith("'"):
        return f"String({word[1:-1].encode('ascii')!r})"
    if word.startswith("16#"):
        return f"0x{word[3:]}"
    return f"{'l' if word in local else 's'}.{word}" if word[0].isalpha() else word

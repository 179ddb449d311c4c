"""Payloads from outside, read with their types: whatever comes, it is what was promised or a MalformedError."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, cast


class MalformedError(ValueError):
    """A payload that is not what its topic promises."""


@dataclass(frozen=True, slots=True)
class Body:
    """A JSON object; each reader raises MalformedError where a field is missing or of another type."""

    fields: Mapping[str, object]

    def text(self, key: str) -> str:
        """A text."""
        value = self.fields.get(key)
        return value if isinstance(value, str) else self._wrong(key, "text")

    def text_or_none(self, key: str) -> str | None:
        """A text, or null."""
        return None if key in self.fields and self.fields[key] is None else self.text(key)

    def one_of(self, key: str, allowed: Sequence[str]) -> str:
        """One of these texts."""
        value = self.text(key)
        return value if value in allowed else self._wrong(key, " or ".join(allowed))

    def number(self, key: str, at_least: int | None = None) -> int:
        """A whole number, in its range."""
        value = self.fields.get(key)
        fits = isinstance(value, int) and not isinstance(value, bool) and (at_least is None or value >= at_least)
        return cast(int, value) if fits else self._wrong(key, "a whole number in its range")

    def number_or_none(self, key: str) -> int | None:
        """A whole number, or null."""
        return None if key in self.fields and self.fields[key] is None else self.number(key)

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self.fields.get(key)
        return value if isinstance(value, bool) else self._wrong(key, "true or false")

    def inner(self, key: str) -> Body:
        """A JSON object."""
        value = self.fields.get(key)
        return Body(value) if isinstance(value, dict) else self._wrong(key, "an object")

    def inner_list(self, key: str) -> list[Body]:
        """A list of JSON objects."""
        value = self.fields.get(key)
        fits = isinstance(value, list) and all(isinstance(each, dict) for each in value)
        return [Body(each) for each in cast("list[dict[str, object]]", value)] if fits else self._wrong(key, "a list")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        value = self.fields.get(key)
        fits = isinstance(value, list) and all(isinstance(each, str) for each in value)
        return tuple(cast("list[str]", value)) if fits else self._wrong(key, "a list of texts")

    def digest(self, without: Collection[str]) -> bytes:
        """A hash of all fields but these."""
        kept = {key: value for key, value in self.fields.items() if key not in without}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).digest()

    def _wrong(self, key: str, wanted: str) -> NoReturn:
        raise MalformedError(f"{key} is not {wanted}")


def parse(payload: bytes) -> Body:
    """A payload as the JSON object that it has to be, ASCII only.

    Raises:
        MalformedError: it is not.
    """
    try:
        body = json.loads(payload.decode("ascii"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"not ASCII JSON: {error}") from error
    if not isinstance(body, dict):
        raise MalformedError("not a JSON object")
    return Body(body)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")

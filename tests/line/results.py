"""What a consumer makes of the result topic: copies agree, numbers have no gap, every part has one result."""

from __future__ import annotations

import json
from typing import Any

from tests.broker import Received

MAY_DIFFER = {"published_ms", "historical"}  # between the copies of a result

Result = dict[str, Any]


def results(received: list[Received]) -> dict[int, Result]:
    """The distinct results by `seq`; fails where two copies disagree."""
    by_seq: dict[int, Result] = {}
    for message in received:
        if not message.topic.endswith("/result"):
            continue
        body = {key: value for key, value in json.loads(message.payload).items() if key not in MAY_DIFFER}
        assert by_seq.setdefault(body["seq"], body) == body, "two copies of a result disagree"
    return by_seq


def assert_gapless(by_seq: dict[int, Result]) -> None:
    """Fail unless the numbers are 1, 2, 3 ... without a gap."""
    assert sorted(by_seq) == list(range(1, len(by_seq) + 1))


def verdicts(by_seq: dict[int, Result]) -> dict[str, str]:
    """Part -> verdict; fails where a part has two results."""
    of_part: dict[str, str] = {}
    for result in by_seq.values():
        assert result["part_id"] not in of_part, f"{result['part_id']} has two results"
        of_part[result["part_id"]] = result["verdict"]
    return of_part

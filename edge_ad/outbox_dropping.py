"""Drops rows of an outbox file by their worth (core/dropping.py): a gap record takes the place of a result."""

from __future__ import annotations

from dataclasses import dataclass

from edge_ad.core.dropping import MAY_GO, gap_instead, joined
from edge_ad.core.messages import ResultBody
from edge_ad.outbox_file import OutboxFile


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was dropped: so many results, by which there are so many rows less."""

    results: int = 0
    rows: int = 0


def drop_least(file: OutboxFile, after_id: int, limit: int) -> Dropped:
    """Drop up to `limit` unsent results that are worth least; the caller has opened a transaction.

    Args:
        file: of the outbox.
        after_id: rows up to this id may have been sent, so they and their gap records stay as they are.
        limit: results that go at a time.

    Raises:
        DiskFullError: there is no room even for that; the transaction has to be given up.
    """
    for worth in MAY_GO:
        rows = file.worth_least(worth, after_id, limit)
        if rows:
            bodies = [(row.id, row.body) for row in rows if row.body is not None and "seq" in row.body]
            return Dropped(len(bodies), sum(_replace(file, row_id, body, after_id) for row_id, body in bodies))
    return Dropped()


def _replace(file: OutboxFile, row_id: int, body: ResultBody, after_id: int) -> int:
    """Put a gap record in the place of a result, as one with its neighbours where they are such; the rows saved."""
    gap, place, saved = gap_instead(body), row_id, 0
    before, after = file.neighbours(row_id)
    if before is not None and before.id > after_id and (whole := joined(before.body, gap)) is not None:
        gap, place, saved = whole, before.id, saved + 1
        file.delete(row_id)
    if after is not None and (whole := joined(gap, after.body)) is not None:
        gap, saved = whole, saved + 1
        file.delete(after.id)
    file.replace_gap(place, gap)
    return saved

"""What a command asks of the frame path: handed over once the command is on disk."""

from __future__ import annotations

from dataclasses import dataclass

from edge_ad.records import Mode, Trigger


@dataclass(frozen=True, slots=True)
class SetMode:
    """Work in this mode from now on; the outbox keeps it over restarts."""

    mode: Mode


Order = SetMode | Trigger

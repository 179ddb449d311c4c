"""What a command asks of the frame path: handed over once the command is on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_ad.records import Mode, Trigger


@dataclass(frozen=True, slots=True)
class SetMode:
    """Work in this mode from now on; the outbox keeps it over restarts."""

    mode: Mode


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Keep the next frame. Its command is answered, and on disk, when it is done.

    Attributes:
        correlation_id: of the command.
        by: who asks, as he says.
    """

    correlation_id: str
    by: str | None


@dataclass(frozen=True, slots=True)
class Done:
    """How an order ended whose command waits for that.

    Attributes:
        correlation_id: of the command.
        refusal: why nothing came of it; empty if something did.
        details: what the reply tells.
    """

    correlation_id: str
    refusal: str = ""
    details: Mapping[str, object] | None = None


Order = SetMode | Trigger  # what a command leads to at once, and the outbox keeps
LoopOrder = SetMode | TakeSnapshot  # what the inference loop carries out, on its turns

"""How much memory a model takes: growth of the process, since libraries of different size are loaded in any case."""

from __future__ import annotations

import gc
from pathlib import Path

from edge_ad.memory import give_back_freed

STATUS = Path("/proc/self/status")
RESET_PEAK = "5"  # proc(5): to clear_refs, sets the peak to what is resident now


def start_mb() -> float | None:
    """What is resident now, MB, and begin to watch the peak; None where the system does not tell (no Linux)."""
    if not STATUS.exists():
        return None
    gc.collect()
    give_back_freed()
    Path("/proc/self/clear_refs").write_text(RESET_PEAK, encoding="ascii")
    return _field_mb("VmRSS")


def grown_mb(start: float | None) -> float | None:
    """From `start_mb` to the peak since then, MB."""
    return None if start is None else round(_field_mb("VmHWM") - start, 1)


def _field_mb(name: str) -> float:
    line = next(line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024 / 1e6

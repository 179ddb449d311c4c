"""`edge-ad bench`: every engine in a process of its own, in interleaved rounds (docs/bench.md)."""

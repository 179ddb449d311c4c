"""What a process has freed, the system gets back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# Pieces below the size that the C library maps one by one; the last one stays, so that the heap cannot shrink from its
# end.
FREED = """
import psutil
from edge_ad.memory import give_back_freed
pieces = [bytes([1]) * 65536 for _ in range(1000)]
del pieces[:-1]
before = psutil.Process().memory_info().rss
give_back_freed()
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library is not glibc")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50e6

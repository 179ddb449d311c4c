"""Which sources run: a result without that cannot be repeated."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from edge_ad import __version__

ROOT = Path(__file__).parents[1]


def source_version() -> str:
    """The commit that runs, with `-dirty` behind it where files differ from it; the release outside of a checkout."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return f"edge-ad {__version__}"
    describe = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    command = [git, "--no-optional-locks", "-C", str(ROOT), *describe]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own arguments
    return ended.stdout.strip() if ended.returncode == 0 else f"edge-ad {__version__}"

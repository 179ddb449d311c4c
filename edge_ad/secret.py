"""Passwords and keys come from files, or from systemd's credentials; never from the configuration itself."""

from __future__ import annotations

import os
from pathlib import Path

from edge_ad.errors import ConfigError


def credential(path: Path) -> Path:
    """Where a secret lies: the systemd credential of the file's name where there is one, else the file."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials is not None and (Path(credentials) / path.name).is_file():
        return Path(credentials) / path.name
    return path


def read_secret(path: Path) -> str:
    """Read a password, or a user name, from its `credential`.

    One trailing line break is not part of it.

    Raises:
        ConfigError: the file cannot be read, or is not text.
    """
    path = credential(path)
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigError(f"cannot read the password file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the password file {path} is not UTF-8 text: write the password on one line") from error

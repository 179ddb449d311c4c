"""Passwords come from files, or from systemd's credentials; never from the configuration itself."""

from __future__ import annotations

import os
from pathlib import Path

from edge_ad.errors import ConfigError


def read_secret(path: Path) -> str:
    """Read a password: the systemd credential of the file's name where there is one, else the file.

    One trailing line break is not part of the password.

    Raises:
        ConfigError: the file cannot be read, or is not text.
    """
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials is not None and (Path(credentials) / path.name).is_file():
        path = Path(credentials) / path.name
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigError(f"cannot read the password file {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"the password file {path} is not UTF-8 text: write the password on one line") from error

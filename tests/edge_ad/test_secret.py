"""Rules of secrets: systemd's credential first, else the file; a mistake names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad.errors import ConfigError
from edge_ad.secret import read_secret


def test_the_line_break_at_the_end_is_not_part_of_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "password").write_text(" s p \n")
    assert read_secret(tmp_path / "password") == " s p "


def test_a_credential_of_the_same_name_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").mkdir()
    (tmp_path / "password").write_text("file")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    assert read_secret(tmp_path / "password") == "file"
    (tmp_path / "credentials" / "password").write_text("credential")
    assert read_secret(tmp_path / "password") == "credential"


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path / "password")):
        read_secret(tmp_path / "password")
    (tmp_path / "password").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=str(tmp_path / "password")):
        read_secret(tmp_path / "password")

"""Rules of the engine store: what is in service is whole and proved, and nothing but a finished build changes it."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from edge_ad.durable import TEMPORARY
from edge_ad.engines import store
from edge_ad.engines.key import EngineKey
from edge_ad.engines.store import EngineRecord, NoEngineError
from edge_ad.errors import BackendError
from tests.edge_ad.engines.test_key import KEY


def put(folder: Path, plan: bytes, key: EngineKey = KEY) -> EngineRecord:
    """As a build does."""
    with store.building(folder, key):
        path = store.write_plan(folder, key, plan)
        record = EngineRecord(
            schema="edge-ad/engine/1",
            key=key,
            plan=path.name,
            sha256=hashlib.sha256(plan).hexdigest(),
            bytes=len(plan),
            built_at="2026-11-22T08:00:00Z",
            build_s=61.5,
            golden_errors={"anomaly_map": 0.001},
        )
        store.switch(folder, record)
    return record


def test_what_was_put_in_service_is_found_and_read(tmp_path: Path) -> None:
    record = put(tmp_path, b"engine")
    assert store.in_service(tmp_path, KEY) == record
    assert store.read_plan(tmp_path, record) == b"engine"
    assert store.records(tmp_path) == [record]


def test_where_nothing_was_built_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoEngineError, match="no engine of bundle 3f3f3f3f3f3f in fp16 has been built yet"):
        store.in_service(tmp_path, KEY)
    assert store.records(tmp_path) == []


def test_an_engine_of_another_software_is_not_served_and_says_of_which(tmp_path: Path) -> None:
    put(tmp_path, b"engine")
    with pytest.raises(NoEngineError, match=r"built for something else \(TensorRT 10\.3\.0 -> 10\.7\.0\)"):
        store.in_service(tmp_path, replace(KEY, tensorrt="10.7.0"))


@pytest.mark.parametrize("text", ["", "{}", "null", "not JSON", '{"schema": "edge-ad/engine/2"}'])
def test_a_record_that_cannot_be_read_is_no_engine_and_no_crash(tmp_path: Path, text: str) -> None:
    put(tmp_path, b"engine")
    (tmp_path / KEY.slot / store.RECORD).write_text(text)
    with pytest.raises(NoEngineError, match="cannot be read") as refused:
        store.in_service(tmp_path, KEY)
    assert "\n" not in str(refused.value)
    assert store.records(tmp_path) == []


def test_a_damaged_or_lost_engine_is_no_engine(tmp_path: Path) -> None:
    record = put(tmp_path, b"engine")
    (tmp_path / KEY.slot / record.plan).write_bytes(b"enginE")
    with pytest.raises(NoEngineError, match="was damaged"):
        store.read_plan(tmp_path, record)
    (tmp_path / KEY.slot / record.plan).unlink()
    with pytest.raises(NoEngineError, match="cannot be read"):
        store.read_plan(tmp_path, record)


def test_a_new_engine_beside_the_one_in_service_changes_nothing_until_the_switch(tmp_path: Path) -> None:
    old = put(tmp_path, b"old")
    store.write_plan(tmp_path, KEY, b"new")
    assert store.read_plan(tmp_path, store.in_service(tmp_path, KEY)) == b"old"
    assert store.in_service(tmp_path, KEY) == old


def test_the_switch_removes_what_it_replaces_and_nothing_of_others(tmp_path: Path) -> None:
    other = put(tmp_path, b"other", replace(KEY, precision="int8"))
    put(tmp_path, b"old")
    new = put(tmp_path, b"new")
    assert [path.name for path in (tmp_path / KEY.slot).glob("*.plan")] == [new.plan]
    assert store.read_plan(tmp_path, other) == b"other"


def test_the_same_engine_built_again_leaves_the_one_in_service_alone_until_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal bytes have one name: of the file in service. Its bytes go to the disk last, and the disk is full."""
    record = put(tmp_path, b"engine")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(BackendError, match=r"cannot write .*\.plan: No space left on device"):
        store.write_plan(tmp_path, KEY, b"engine")
    assert store.read_plan(tmp_path, store.in_service(tmp_path, KEY)) == b"engine"
    names = {path.name for path in (tmp_path / KEY.slot).iterdir()}
    assert names == {store.RECORD, store.LOCK_FILE, record.plan}


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    put(tmp_path, b"old")
    left = tmp_path / KEY.slot / f".0123456789ab.plan.0badcafe{TEMPORARY}"
    left.write_bytes(b"half of an eng")
    put(tmp_path, b"new")
    assert not left.exists()


def test_the_folders_are_private(tmp_path: Path) -> None:
    folder = store.engines_dir(tmp_path / "state")
    put(folder, b"engine")
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / KEY.slot)} == {0o700}


def test_a_station_may_read_what_root_built_for_it(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    state = tmp_path / "state"
    state.mkdir(mode=0o750)
    os.chown(state, 65534, 65533)
    folder = store.engines_dir(state)
    put(folder, b"engine")
    made = [folder, *folder.rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(65534, 65533)}
    assert {path.stat().st_mode & 0o777 for path in made} == {0o700, 0o600}
    assert {path.name for path in made} >= {KEY.slot, store.RECORD, store.LOCK_FILE}


def test_an_engine_of_another_user_is_one_line_with_the_remedy_and_is_not_built_again(tmp_path: Path) -> None:
    folder = store.engines_dir(tmp_path / "state")
    put(folder, b"engine")
    (folder / KEY.slot).chmod(0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)  # root reads everything
    try:
        said = rf"cannot read .*engine\.json: Permission denied; .*: sudo chown -R {os.geteuid()}:\d+ {folder}$"
        with pytest.raises(BackendError, match=said) as refused:
            store.in_service(folder, KEY)
        with pytest.raises(BackendError, match=r"cannot use .*: Permission denied; .*: sudo chown -R"):
            put(folder, b"other")
    finally:
        os.seteuid(me)
        (folder / KEY.slot).chmod(0o700)
    assert not isinstance(refused.value, NoEngineError)


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_systemds_state_directory_comes_first_then_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "user"))
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path / 'unit'}:/elsewhere")
    assert store.engines_dir() == tmp_path / "unit" / "engines"
    with monkeypatch.context() as homeless:
        homeless.delenv("XDG_STATE_HOME")
        homeless.setattr(Path, "home", no_home)
        assert store.engines_path() == tmp_path / "unit" / "engines"
        homeless.delenv("STATE_DIRECTORY")
        with pytest.raises(BackendError, match="this user has no home: set"):
            store.engines_path()
    monkeypatch.delenv("STATE_DIRECTORY")
    assert store.engines_dir() == tmp_path / "user" / "edge-ad" / "engines"
    assert store.engines_dir(tmp_path / "given") == tmp_path / "given" / "engines"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match=r"cannot make .* \(Not a directory\): give --state-dir"):
        store.engines_dir(tmp_path / "file")

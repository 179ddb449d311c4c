"""Rules of the engine key: an engine serves where nothing differs, and what differs is said."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_ad.bundle import open_bundle
from edge_ad.cuda.device import DeviceFacts
from edge_ad.engines import build
from edge_ad.engines.key import EngineKey, differences
from tests.bundles import make_bundle

KEY = EngineKey(
    bundle="3f" * 32,
    builder="torch_tensorrt",
    precision="fp16",
    shape=(1, 256, 256, 3),
    device="Orin",
    sm="sm_87",
    multiprocessors=8,
    memory_gib=8,
    cuda="12.6",
    tensorrt="10.3.0",
    torch="2.8.0",
    torch_tensorrt="2.8.0",
)
CHANGED: dict[str, object] = {
    "bundle": "4a" * 32,
    "builder": "tensorrt",
    "precision": "int8",
    "shape": (1, 192, 192, 3),
    "device": "NVIDIA Thor",
    "sm": "sm_110",
    "multiprocessors": 16,
    "memory_gib": 64,
    "cuda": "13.0",
    "tensorrt": "10.7.0",
    "torch": None,
    "torch_tensorrt": "2.13.0",
    "recipe": 0,
}


def test_the_same_facts_are_no_difference() -> None:
    assert differences(KEY, replace(KEY)) == ""


@pytest.mark.parametrize("field", [field.name for field in fields(EngineKey)])
def test_each_single_fact_that_differs_is_named_with_both_values(field: str) -> None:
    other = replace(KEY, **{field: CHANGED[field]})  # type: ignore[arg-type]
    said = differences(KEY, other)
    assert said.endswith(f"{getattr(KEY, field)} -> {CHANGED[field]}")
    assert "\n" not in said
    assert said.count("->") == 1


@pytest.mark.parametrize("field", ["torch", "torch_tensorrt"])
def test_what_only_builds_may_be_missing_where_an_engine_runs_but_not_be_another(field: str) -> None:
    missing, other = replace(KEY, **{field: None}), replace(KEY, **{field: "2.13.0"})  # type: ignore[arg-type]
    assert differences(KEY, missing, to_run=True) == ""
    assert differences(KEY, missing).endswith("2.8.0 -> None")
    assert differences(KEY, other, to_run=True).endswith("2.8.0 -> 2.13.0")
    assert differences(KEY, replace(missing, cuda="12.8"), to_run=True) == "CUDA 12.6 -> 12.8"


def test_all_that_differs_is_on_one_line() -> None:
    other = replace(KEY, tensorrt="10.7.0", cuda="12.8")
    assert differences(KEY, other) == "CUDA 12.6 -> 12.8, TensorRT 10.3.0 -> 10.7.0"


def test_modules_of_one_family_are_told_apart_in_words() -> None:
    """Every Jetson Orin module calls itself Orin, sm_87."""
    assert differences(KEY, replace(KEY, multiprocessors=16, memory_gib=64)) == (
        "multiprocessors 8 -> 16, GPU memory in GiB 8 -> 64"
    )


def test_the_key_of_a_build_says_which_module_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "load_tensorrt", lambda: SimpleNamespace(__version__="10.3.0"))
    bundle = open_bundle(make_bundle(tmp_path / "bundle"))
    facts = DeviceFacts(
        "Orin", (8, 7), 7620 << 20, "12.6", integrated=True, can_map_host_memory=True, multiprocessors=8
    )
    small, large = (
        build.current_key(bundle, "tensorrt", "fp16", found)
        for found in (facts, replace(facts, memory_bytes=62799 << 20, multiprocessors=16))
    )
    assert differences(small, large) == "multiprocessors 8 -> 16, GPU memory in GiB 8 -> 64"


def test_bundle_builder_and_precision_have_places_of_their_own_and_versions_replace_each_other() -> None:
    apart = {replace(KEY, **{field: CHANGED[field]}).slot for field in ("bundle", "builder", "precision")}  # type: ignore[arg-type]
    assert len(apart | {KEY.slot}) == 4
    assert replace(KEY, tensorrt="11.0").slot == KEY.slot

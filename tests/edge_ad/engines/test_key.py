"""Rules of the engine key: an engine serves where nothing differs, and what differs is said."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from edge_ad.engines.key import EngineKey, differences

KEY = EngineKey(
    bundle="3f" * 32,
    builder="torch_tensorrt",
    precision="fp16",
    shape=(1, 256, 256, 3),
    device="Orin",
    sm="sm_87",
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


def test_all_that_differs_is_on_one_line() -> None:
    other = replace(KEY, tensorrt="10.7.0", cuda="12.8")
    assert differences(KEY, other) == "CUDA 12.6 -> 12.8, TensorRT 10.3.0 -> 10.7.0"


def test_bundle_builder_and_precision_have_places_of_their_own_and_versions_replace_each_other() -> None:
    apart = {replace(KEY, **{field: CHANGED[field]}).slot for field in ("bundle", "builder", "precision")}  # type: ignore[arg-type]
    assert len(apart | {KEY.slot}) == 4
    assert replace(KEY, tensorrt="11.0").slot == KEY.slot

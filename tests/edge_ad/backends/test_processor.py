"""What the processor is asked before INT8 is computed on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_ad import doctor
from edge_ad.backends import openvino, processor
from edge_ad.backends.base import open_backend
from edge_ad.bundle import open_bundle
from edge_ad.config import BackendConfig
from edge_ad.errors import BackendError
from tests.bundles import make_bundle

HASWELL = "processor\t: 0\nflags\t\t: fpu sse4_2 avx f16c avx2 fma bmi2\nbugs\t\t: spectre_v2\n"
SKYLAKE = "processor\t: 0\nflags\t\t: avx2 avx512f avx512bw avx512vl\n"
ALDER_LAKE = "processor\t: 0\nflags\t\t: avx2 avx_vnni\n"
ICE_LAKE = "processor\t: 0\nflags\t\t: avx2 avx512f avx512_vnni\n"


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "whole"),
    [
        ("x86_64", HASWELL, False),
        ("x86_64", SKYLAKE, False),
        ("x86_64", ALDER_LAKE, True),
        ("x86_64", ICE_LAKE, True),
        ("aarch64", "processor\t: 0\nFeatures\t: fp asimd asimddp\n", True),
    ],
)
def test_sums_are_whole_where_the_processor_adds_in_32_bits(
    machine: str, cpuinfo: str, whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: machine)
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    assert processor.sums_int8_whole() is whole


def test_where_nothing_is_known_of_the_processor_the_golden_outputs_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_CPUINFO", tmp_path / "none")
    assert processor.sums_int8_whole()


def test_openvino_refuses_int8_whose_sums_would_be_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(openvino, "sums_int8_whole", lambda: False)
    bundle = open_bundle(make_bundle(tmp_path / "bundle", int8=True))
    with pytest.raises(BackendError, match=r"no VNNI.* set precision: fp32, or set backend: \{name: onnxruntime\}"):
        open_backend(bundle, BackendConfig(name="openvino", precision="int8"))
    open_backend(bundle, BackendConfig(name="openvino", precision="fp32")).close()


@pytest.mark.parametrize(("whole", "said"), [(True, False), (False, True)])
def test_doctor_says_where_openvino_has_no_int8(whole: bool, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "sums_int8_whole", lambda: whole)
    assert ("no VNNI, so openvino has no INT8" in dict(doctor.system())["CPU"]) == said

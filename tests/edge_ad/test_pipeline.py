"""Rules of the frame path: what travels with a frame, what each stage takes, and what is not inspected."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from edge_ad.backends.base import Backend, open_backend
from edge_ad.bundle import Bundle, open_bundle
from edge_ad.config import BackendConfig, RegionConfig
from edge_ad.frames import frame_graph
from edge_ad.pipeline import Pipeline
from edge_ad.records import Decision, Frame, Missed, Region, Roi, Scored, Thresholds, Trigger
from tests.bundles import make_bundle
from tests.station import HEIGHT, THRESHOLD, WIDTH, part

TRIGGER = Trigger("T-1", at_ns=3_000_000)
CALIBRATED = Thresholds(THRESHOLD, THRESHOLD, record=9)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(make_bundle(tmp_path_factory.mktemp("pipeline") / "bundle"))


@pytest.fixture(scope="module")
def backend(bundle: Bundle) -> Iterator[Backend]:
    opened = open_backend(bundle, BackendConfig(threads=1))
    yield opened
    opened.close()


def pipeline_of(bundle: Bundle, backend: Backend, roi: Roi | None = None, start_ns: int = 0) -> Pipeline:
    """A pipeline whose clock moves on by 1 ms each time it is read."""
    ticks = iter(range(start_ns, start_ns + 10**9, 10**6))
    pipeline = Pipeline(frame_graph(backend, bundle.manifest), roi, RegionConfig(), lambda: next(ticks))
    pipeline.thresholds = CALIBRATED
    return pipeline


def frame(*, defect: bool, seed: int = 1) -> Frame:
    image = part(seed, defect=defect)
    about = {"captured_ns": 5_000_000, "captured_monotonic_ns": 0, "part_id": "P-1"}
    return Frame("top", 17, image, **about, trigger=TRIGGER, resume_after="P-9")  # type: ignore[arg-type]


def test_what_names_the_part_travels_from_the_frame_to_the_event(bundle: Bundle, backend: Backend) -> None:
    event = pipeline_of(bundle, backend).step(frame(defect=False))
    assert (event.camera, event.frame_id, event.part_id, event.trigger, event.captured_ns) == (
        ("top", 17, "P-1", TRIGGER, 5_000_000)
    )
    assert event.resume_after == "P-9"


@pytest.mark.parametrize("seed", range(5))
def test_a_dark_blob_is_a_defect_with_a_region_on_it_and_a_clean_part_is_ok(
    bundle: Bundle, backend: Backend, seed: int
) -> None:
    pipeline = pipeline_of(bundle, backend)
    assert pipeline.step(frame(defect=False, seed=seed)).decision.verdict == "ok"
    shot = frame(defect=True, seed=seed)
    decision = pipeline.step(shot).decision
    assert decision.verdict == "defect"
    region = decision.regions[0]
    assert shot.image[region.y + region.h // 2, region.x + region.w // 2].max() == 10


def test_the_same_frame_gives_the_same_decision(bundle: Bundle, backend: Backend) -> None:
    pipeline = pipeline_of(bundle, backend)
    assert pipeline.step(frame(defect=True)).decision == pipeline.step(frame(defect=True)).decision


def test_each_stage_has_its_time(bundle: Bundle, backend: Backend) -> None:
    pipeline = pipeline_of(bundle, backend, start_ns=5 * 10**6)
    latency = pipeline.step(frame(defect=False)).latency_ms
    assert latency == {"trigger": 2.0, "queue": 5.0, "pre": 1.0, "engine": 1.0, "post": 1.0}


def test_without_a_calibration_nothing_is_judged_and_a_new_one_applies_at_once(
    bundle: Bundle, backend: Backend
) -> None:
    pipeline = pipeline_of(bundle, backend)
    pipeline.thresholds = None
    decision = pipeline.step(frame(defect=True)).decision
    assert (decision.verdict, decision.reason) == ("not_inspected", "uncalibrated")
    assert decision.score is not None
    pipeline.thresholds = CALIBRATED
    assert pipeline.step(frame(defect=True)).decision.calibration == 9


def test_a_missed_part_gets_its_result_without_the_engine(bundle: Bundle, backend: Backend) -> None:
    event = pipeline_of(bundle, backend).step(Missed("top", 18, 123, 0, "unreadable", "P-2"))
    assert event.decision == Decision("not_inspected", "unreadable", None, None)
    assert (event.frame_id, event.part_id, list(event.latency_ms)) == (18, "P-2", ["queue"])


def test_a_frame_that_the_roi_leaves_is_not_inspected(bundle: Bundle, backend: Backend) -> None:
    pipeline = pipeline_of(bundle, backend, Roi(0, 0, WIDTH + 1, HEIGHT))
    decision = pipeline.step(frame(defect=False)).decision
    assert (decision.verdict, decision.reason) == ("not_inspected", "roi_outside_frame")


def test_only_the_roi_is_judged_and_regions_are_in_full_frame_pixels(bundle: Bundle, backend: Backend) -> None:
    clean = frame(defect=False)
    image = clean.image.copy()
    image[0:8, 0:8] = 10
    image[32:40, 40:48] = 10
    shot = replace(clean, image=image)
    decision = pipeline_of(bundle, backend, Roi(32, 24, 32, 24)).step(shot).decision
    (region,) = decision.regions
    assert abs(region.x - 40) <= 1
    assert abs(region.y - 32) <= 1
    assert pipeline_of(bundle, backend, Roi(0, 24, 32, 24)).step(shot).decision.verdict == "ok"


def scored(score: float) -> Scored:
    return Scored("top", 17, captured_ns=123, captured_monotonic_ns=0, score=score, part_id="P-1")


@pytest.mark.parametrize(("score", "verdict"), [(0.25, "ok"), (THRESHOLD, "ok"), (0.75, "defect")])
def test_a_recorded_score_is_judged_as_the_same_score_of_a_frame_would_be(
    bundle: Bundle, backend: Backend, score: float, verdict: str
) -> None:
    event = pipeline_of(bundle, backend).step(scored(score))
    assert (event.part_id, event.decision.verdict, event.decision.score) == ("P-1", verdict, score)
    assert (event.decision.threshold, event.decision.calibration) == (THRESHOLD, 9)
    whole = Region(0, 0, bundle.manifest.input.width, bundle.manifest.input.height, 32 * 32, score)
    assert event.decision.regions == ((whole,) if verdict == "defect" else ())


def test_a_recorded_score_is_not_inspected_without_a_calibration_or_where_it_is_none(
    bundle: Bundle, backend: Backend
) -> None:
    pipeline = pipeline_of(bundle, backend)
    assert pipeline.step(scored(float("nan"))).decision == Decision("not_inspected", "model_fault", None, None)
    pipeline.thresholds = None
    assert pipeline.step(scored(0.25)).decision == Decision("not_inspected", "uncalibrated", 0.25, None)

"""Rules of configs/station: each kind of camera has its example, and each example is a valid configuration."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from edge_ad import config
from edge_ad.cameras.base import KINDS

EXAMPLES = sorted((Path(__file__).parents[1] / "configs" / "station").iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_loads(path: Path) -> None:
    assert config.load(path).camera.kind == path.stem


def test_every_kind_of_camera_has_its_example_and_its_opener() -> None:
    union, _ = get_args(config.Camera)
    kinds = {get_args(camera.model_fields["kind"].annotation)[0] for camera in get_args(union)}
    assert kinds == {path.stem for path in EXAMPLES} == set(KINDS)

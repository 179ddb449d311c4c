"""The stream of training samples."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from tests.trainer.tiny import part, tiny_config
from trainer.data.samples import Samples, stream


@pytest.fixture
def threads_of_opencv():
    """OpenCV with a thread pool whose threads have run; as it was before, afterwards."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    cv2.resize(
        cv2.GaussianBlur(np.zeros((1024, 1024, 3), np.uint8), (0, 0), 3), (256, 256), interpolation=cv2.INTER_AREA
    )
    time.sleep(0.5)  # until they wait for more work
    yield
    cv2.setNumThreads(before)


@pytest.mark.timeout(60)
def test_samples_come_whatever_opencv_has_done_before(threads_of_opencv):
    """Workers are forks: they must not wait for threads of OpenCV that only the parent has."""
    config = tiny_config()
    good = np.stack([cv2.resize(part(i), (32, 32)) for i in range(4)])
    batch = next(stream(Samples(good, [], config, seed=0), config.optim.batch, 0, 2, workers=1))
    assert batch.image.shape == (4, 3, 32, 32)

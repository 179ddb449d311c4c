"""The stream of training samples."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
import torch

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


def test_the_good_image_of_a_defect_image_is_without_the_defect():
    """It is what `good` gives, and the two differ under the mask alone."""
    samples = Samples(np.stack([part(i, 32) for i in range(4)]), [], tiny_config(synthesis={}), seed=0)
    seen = 0
    for index in samples.anomalous_indices(10):
        clean, image, mask = samples[index]
        torch.testing.assert_close(clean.permute(2, 0, 1) / 255, samples.good(index))
        differs = (clean != image).any(dim=2)
        assert not (differs & (mask == 0)).any()
        seen += bool(differs.any())
    assert seen >= 8  # a draw may be invisible


def test_a_piece_of_any_good_image_is_pasted():
    """Not of the image itself alone: a dark part gets bright pieces too."""
    config = tiny_config(
        synthesis={"texture": 0, "self_augment": 0, "cut_paste": 1, "keep_min": 0, "keep_max": 0},
        optim={"batch": 4, "steps": 6, "denoiser_lr": 1e-3, "segmenter_lr": 1e-3, "anomalous": 1.0},
    )
    levels = (20, 220)  # below and above 90 they stay, whatever is done to the brightness of a piece
    samples = Samples(np.stack([np.full((32, 32, 3), level, np.uint8) for level in levels]), [], config, seed=0)
    pairs = []
    for index in range(60):
        clean, image, mask = samples[index]
        pairs.append((bool(clean.max() > 90), bool(image[mask > 0].max() > 90)))
    assert set(pairs) == {(False, False), (False, True), (True, False), (True, True)}

"""Folding loses nothing and means the same to a frame and to an image."""

import pytest
import torch

from trainer.maths.fold import fold, folded_frame, unfold


@pytest.mark.parametrize("f", [1, 2, 4])
def test_unfolding_gives_the_image_back(f: int) -> None:
    image = torch.rand(2, 3, 16, 24)
    assert fold(image, f).shape == (2, 3 * f * f, 16 // f, 24 // f)
    assert torch.equal(unfold(fold(image, f), f), image)


@pytest.mark.parametrize("f", [1, 2, 4])
def test_a_frame_is_folded_as_its_image_is(f: int) -> None:
    frame = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    assert torch.equal(folded_frame(frame, f), fold(frame.permute(0, 3, 1, 2).float() / 255, f))


def test_a_channel_is_a_colour_of_a_pixel_of_the_square() -> None:
    image = torch.arange(2 * 4 * 4, dtype=torch.float32).reshape(1, 2, 4, 4)
    colour, y, x = 1, 0, 1
    assert torch.equal(fold(image, 2)[0, colour * 4 + y * 2 + x], image[0, colour, y::2, x::2])

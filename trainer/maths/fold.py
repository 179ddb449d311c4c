"""Folding: the pixels of each square of f x f as channels, which all maths of a method and both its networks work on.

Diffusion, guidance and losses treat every pixel alike, so they mean the same folded. Channel c f^2 + y f + x is colour
c of the pixel (y, x) in its square.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def fold(image: Tensor, f: int) -> Tensor:
    """(N, C, H, W), H and W multiples of f -> (N, C f^2, H / f, W / f)."""
    return F.pixel_unshuffle(image, f) if f > 1 else image


def unfold(folded: Tensor, f: int) -> Tensor:
    """(N, C f^2, h, w) -> (N, C, h f, w f), the inverse of `fold`."""
    return F.pixel_shuffle(folded, f) if f > 1 else folded


def folded_frame(frame: Tensor, f: int) -> Tensor:
    """uint8 (N, H, W, 3) -> (N, 3 f^2, H / f, W / f) in 0..1, in one movement; TensorRT moves no bytes, only floats."""
    n, height, width, colours = frame.shape
    squares = frame.float().reshape(n, height // f, f, width // f, f, colours).permute(0, 5, 2, 4, 1, 3)
    return squares.reshape(n, colours * f * f, height // f, width // f) / 255

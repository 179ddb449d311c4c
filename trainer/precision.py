"""Which precision torch computes in: FP32 that is FP32, and bfloat16 only where the device has instructions for it."""

from __future__ import annotations

import torch

# x86 and ARM, by the names of torch.cpu.get_capabilities(). AVX-512 alone is not among them: it unpacks to float32.
_BF16_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"})


def computes_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 itself: where it only emulates that, float32 is many times faster."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return True
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return any(known.get(name, False) for name in _BF16_INSTRUCTIONS)
    # An older torch tells less: whether oneDNN takes bfloat16 at all, with AVX-512 or ARM's instructions.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def keep_fp32() -> None:
    """Have torch compute FP32 as such: by itself it convolves in TF32 on GPUs, which has 10 bits of fraction."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False

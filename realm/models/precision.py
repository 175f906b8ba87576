"""Which arithmetic the hardware has."""

from __future__ import annotations

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself. On a CPU that doesn't it is many times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    told = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}  # torch 2.11 has none
    return bool(told.get("avx512_bf16") or told.get("amx_bf16"))

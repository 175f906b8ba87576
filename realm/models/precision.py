"""Which arithmetic the hardware has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 itself. On a CPU that doesn't it is many times slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # torch 2.11 has none
        return False
    told: Mapping[str, Any] = torch.cpu.get_capabilities()
    return bool(told.get("avx512_bf16") or told.get("amx_bf16"))

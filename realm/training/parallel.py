"""Several processes as one: the same losses and gradients as a single process on the whole batch.

Where the caller has joined a `torch.distributed` process group; without one every function here is the identity.
Ranks are *global* ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(x_ND: Tensor) -> Tensor:
    """Float[N, D] of each rank -> Float[W*N, D] in rank order, differentiable: gradients return to their owners.

    With it an in-batch softmax sees the global batch. Every rank must bring the same N.
    """
    if world_size() == 1:
        return x_ND
    gathered: Tensor = _Gather.apply(x_ND)
    return gathered


class _Gather(torch.autograd.Function):
    """Gather forward; backward, every rank gets what all ranks' losses say about its block."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor) -> Tensor:
        blocks = [torch.empty_like(x_ND) for _ in range(world_size())]
        dist.all_gather(blocks, x_ND.contiguous())
        ctx.size = len(x_ND)
        return torch.cat(blocks)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient_MD = gradients[0].contiguous().clone()
        dist.all_reduce(gradient_MD)
        return gradient_MD[rank() * ctx.size : (rank() + 1) * ctx.size]


def average_gradients(parameters: Iterable[nn.Parameter], weight: float = 1.0) -> None:
    """Replace each gradient by its sum over the ranks, divided by the sum of their weights.

    weight: how many terms this rank's gradients are the sum of. A parameter that a rank did not use counts as zero
    there.
    """
    alone = world_size() == 1
    if not alone:
        weight_1 = torch.tensor([weight], device=_device())
        dist.all_reduce(weight_1)
        weight = float(weight_1)
    for parameter in parameters:
        if alone and parameter.grad is None:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        if not alone:
            dist.all_reduce(parameter.grad)
        parameter.grad /= max(weight, 1.0)


def anywhere(flag: bool) -> bool:
    """Whether the flag is set on any rank. Every rank must ask."""
    if world_size() == 1:
        return flag
    flag_1 = torch.tensor([int(flag)], device=_device())
    dist.all_reduce(flag_1, dist.ReduceOp.MAX)
    return bool(flag_1)


def together(lines: list[str]) -> list[str]:
    """The lines of all ranks, in rank order. Every rank must ask."""
    if world_size() == 1:
        return lines
    found: list[list[str]] = [[] for _ in range(world_size())]
    dist.all_gather_object(found, lines)
    return [line for part in found for line in part]


def broadcast(parameters: Iterable[nn.Parameter]) -> None:
    """Give every rank the parameters of rank 0."""
    if world_size() == 1:
        return
    with torch.no_grad():
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def _device() -> str:
    """Where a collective's tensors must lie."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"

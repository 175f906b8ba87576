"""Several processes as one: the same losses and gradients as a single process on the whole batch.

Where the caller has joined a `torch.distributed` process group; without one every function here is the identity.
Ranks are *global* ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
BUCKET = 1 << 23
"""Elements that are summed over the ranks at a time: small gradients one by one would cost their latency each."""


class Gathered(NamedTuple):
    """What all ranks brought, and where this rank's part of it begins."""

    all_MD: Tensor
    first: int


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(x_ND: Tensor) -> Gathered:
    """Float[N, D] of each rank -> Float[M, D] in rank order, differentiable: gradients return to their owners.

    With it an in-batch softmax sees the global batch. Ranks may bring different N; D is the same.
    """
    if world_size() == 1:
        return Gathered(x_ND, 0)
    sizes = [torch.zeros(1, dtype=torch.long, device=_device()) for _ in range(world_size())]
    dist.all_gather(sizes, torch.tensor([len(x_ND)], device=_device()))
    sizes_W = [int(size) for size in sizes]
    return Gathered(_Gather.apply(x_ND, sizes_W), sum(sizes_W[: rank()]))


class _Gather(torch.autograd.Function):
    """Gather forward; backward, every rank gets what all ranks' losses say about its block."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, sizes_W: list[int]) -> Tensor:
        # Blocks of one size, because that is what every backend can gather.
        block_ND = x_ND.new_zeros(max(sizes_W), *x_ND.shape[1:])
        block_ND[: len(x_ND)] = x_ND
        blocks = [torch.empty_like(block_ND) for _ in sizes_W]
        dist.all_gather(blocks, block_ND)
        ctx.sizes_W = sizes_W
        return torch.cat([block[:size] for block, size in zip(blocks, sizes_W, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient_MD = gradients[0].contiguous().clone()
        dist.all_reduce(gradient_MD)
        first = sum(ctx.sizes_W[: rank()])
        return gradient_MD[first : first + ctx.sizes_W[rank()]], None


def average_gradients(parameters: Iterable[nn.Parameter], weight: float = 1.0) -> None:
    """Replace each gradient by its sum over the ranks, divided by the sum of their weights.

    weight: how many terms this rank's gradients are the sum of. A parameter that a rank did not use counts as zero
    there.
    """
    alone = world_size() == 1
    learning = [p for p in parameters if not alone or p.grad is not None]
    for parameter in learning:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if not alone:
        weight = float(total(torch.tensor([weight], dtype=torch.float64)))
        for bucket in _buckets([p.grad for p in learning if p.grad is not None]):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
    if weight > 1.0:
        torch._foreach_div_([p.grad for p in learning if p.grad is not None], weight)


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """In their order; those of a bucket have one type and device."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        like = not bucket or (bucket[0].dtype, bucket[0].device) == (gradient.dtype, gradient.device)
        if bucket and (not like or sum(map(Tensor.numel, bucket)) + gradient.numel() > BUCKET):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def total(values: Tensor) -> Tensor:
    """The sum over the ranks, not differentiable. Every rank must ask."""
    if world_size() == 1:
        return values
    summed = values.detach().to(_device(), copy=True)
    dist.all_reduce(summed)
    return summed.to(values.device)


def anywhere(flag: bool) -> bool:
    """Whether the flag is set on any rank. Every rank must ask."""
    if world_size() == 1:
        return flag
    flag_1 = torch.tensor([int(flag)], device=_device())
    dist.all_reduce(flag_1, dist.ReduceOp.MAX)
    return bool(flag_1)


def everyone(value: T) -> list[T]:
    """What each rank brought, in rank order. Every rank must ask."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def together(lines: list[str]) -> list[str]:
    """The lines of all ranks, in rank order. Every rank must ask."""
    return [line for part in everyone(lines) for line in part]


def of_rank_0(numbers: list[float]) -> list[float]:
    """The numbers of rank 0, exactly; the others bring as many. Every rank must ask."""
    if world_size() == 1:
        return numbers
    told = torch.tensor(numbers, dtype=torch.float64, device=_device())
    dist.broadcast(told, 0)
    return told.tolist()


def own_draws(seed: int, step: int) -> None:
    """Set the ranks' random numbers (dropout) apart, as a function of the step: equal masks on all of them would be a
    smaller draw than one process makes. Rank 0 goes on with its own."""
    if rank() > 0:
        key = np.random.SeedSequence((abs(seed), step, rank()))
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))


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

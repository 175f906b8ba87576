"""What the machine allows: matrix products and reads of memory, as contestants beside those that are judged."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks.core.timing import Contestant, seconds_of

Shape = tuple[int, int, int]
SHAPES = ((1024, 1024, 1024), (2048, 512, 2048), (512, 512, 512), (4096, 384, 1536))
"""Rows, inner, columns. The last is a feed-forward layer of a small encoder."""
SMALL = ((128, 128, 128),)
READ_BYTES = 1 << 28
"""More than any cache."""


def products(flops: float, dtype: torch.dtype = torch.float32, *, small: bool = False) -> Contestant:
    """The time of so many floating-point operations at the rate of the machine's best matrix product.

    small: measured on a product that takes no time, for a quick run.
    """
    shape, run = _best_product(torch.get_num_threads(), dtype, SMALL if small else SHAPES)
    own = 2.0 * shape[0] * shape[1] * shape[2]
    name = "" if dtype == torch.float32 else f" in {str(dtype).removeprefix('torch.')}"
    return Contestant(who=f"matrix products{name}", role="limit", run=run, scale=flops / own)


def reads(size: float, *, small: bool = False) -> Contestant:
    """The time of reading so many bytes once."""
    own = READ_BYTES >> 8 if small else READ_BYTES
    run = _best_read(torch.get_num_threads(), own)
    return Contestant(who="memory bandwidth", role="limit", run=run, scale=size / own)


def rates() -> dict[str, float]:
    """Floating-point operations and bytes a second, now."""
    found = {}
    for name, dtype in (("matrix_flops", torch.float32), ("matrix_flops_bfloat16", torch.bfloat16)):
        shape, run = _best_product(torch.get_num_threads(), dtype, SHAPES)
        found[name] = 2.0 * shape[0] * shape[1] * shape[2] / _least(run)
    found["read_bytes"] = READ_BYTES / _least(_best_read(torch.get_num_threads(), READ_BYTES))
    return found


def layer_flops(lengths: Tensor, *, layers: int, hidden: int, inner: int) -> float:
    """Forward, of texts of these numbers of tokens: four projections, two feed-forward products, two of attention."""
    length_N = lengths.double()
    products = 2 * length_N.sum() * (4 * hidden * hidden + 2 * hidden * inner)
    return float(layers * (products + 4 * hidden * (length_N**2).sum()))


@cache
def _best_product(threads: int, dtype: torch.dtype, shapes: tuple[Shape, ...]) -> tuple[Shape, Callable[[], object]]:
    """The shape with the highest rate. `threads` is torch's number, by which this is remembered."""
    found = []
    for rows, inner, columns in shapes:
        a, b = torch.rand(rows, inner).to(dtype), torch.rand(inner, columns).to(dtype)
        run = partial(torch.mm, a, b, out=torch.empty(rows, columns, dtype=dtype))
        found.append((_least(run) / (rows * inner * columns), (rows, inner, columns), run))
    _, shape, run = min(found, key=lambda one: one[0])
    return shape, run


@cache
def _best_read(threads: int, size: int) -> Callable[[], object]:
    """The fastest of three plain reads: which it is differs between processors."""
    flat = torch.rand(size // 4)
    return min((flat.view(torch.int64).max, flat.sum, flat.max), key=_least)


def _least(run: Callable[[], object], times: int = 3) -> float:
    run()
    return min(seconds_of(run) for _ in range(times))

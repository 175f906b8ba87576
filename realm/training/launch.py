"""Where several processes come from: what a launcher tells each of them, and how they join.

torchrun, or any launcher that sets its variables, starts one process a device; without one there is a single process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from realm.errors import TrainingError, UsageError
from realm.training.ranks import Patience, Ranks

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is, and where they meet."""

    rank: int
    size: int
    local_rank: int
    """Among those of its machine; it chooses the device."""
    address: str
    port: int


def find_place(environ: Mapping[str, str]) -> Place | None:
    """What a launcher tells in the environment; None for a single process. UsageError where that is inconsistent."""
    given = {name: environ[name] for name in VARIABLES if environ.get(name)}
    if "WORLD_SIZE" not in given and "RANK" not in given:
        return None
    told = ", ".join(f"{name}={value}" for name, value in given.items())
    instead = "start with torchrun, which sets them all, or unset WORLD_SIZE and RANK for a single process"
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if name in given and not given[name].isdecimal():
            raise UsageError(f"found {told}: expected a whole number for {name}; {instead}")
        numbers[name] = int(given.get(name, 0))
    size, rank, local_rank = numbers["WORLD_SIZE"], numbers["RANK"], numbers["LOCAL_RANK"]
    if size == 1 and rank == 0:
        return None
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UsageError(f"found {told} and no {', '.join(missing)}: expected all of them; {instead}")
    if not 0 <= local_rank <= rank < size or not 0 < numbers["MASTER_PORT"] < 1 << 16:
        raise UsageError(f"found {told}: expected LOCAL_RANK <= RANK < WORLD_SIZE and a port below 65536; {instead}")
    return Place(rank, size, local_rank, given["MASTER_ADDR"], numbers["MASTER_PORT"])


def one_process(what: str, environ: Mapping[str, str] | None = None) -> Ranks:
    """For work that one process does. UsageError under a launcher of several."""
    place = find_place(os.environ if environ is None else environ)
    if place is not None:
        raise UsageError(
            f"found WORLD_SIZE={place.size}: {what} runs in one process; start it without torchrun, or unset "
            "WORLD_SIZE and RANK"
        )
    return Ranks()


@contextmanager
def joined(patience: Patience | None = None) -> Iterator[Ranks]:
    """This process among those that a launcher started, `torch.distributed` initialised; alone without a launcher.

    An error in the block ends all ranks. It comes out on the rank where it happened first; the others end with
    SystemExit. Tensors of a CPU are summed by gloo, those of CUDA devices by NCCL.

    UsageError: the environment is inconsistent. TrainingError: a process did not come, failed, or went silent.
    """
    place = find_place(os.environ)
    if place is None:
        yield Ranks()
        return
    ranks = _join(place, patience or Patience())
    try:
        yield ranks
    except BaseException as error:
        told = ranks.fail(error)
        if told is None:
            raise SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1) from None
        if told is error:
            raise
        raise told from error
    import torch.distributed as dist

    dist.destroy_process_group()
    ranks.leave()


def _join(place: Place, patience: Patience) -> Ranks:
    import torch
    import torch.distributed as dist
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    # torchrun's agent hosts the store itself, and says so.
    hosts = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        meeting = TCPStore(
            place.address,
            place.port,
            place.size,
            is_master=hosts,
            timeout=timedelta(seconds=patience.meeting),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except RuntimeError as error:
        raise TrainingError(
            f"rank {place.rank} of {place.size} found no rank 0 at {place.address}:{place.port} within "
            f"{patience.meeting:g} seconds ({str(error).splitlines()[0]}): start all processes with the same "
            "MASTER_ADDR and MASTER_PORT, those of the machine of rank 0"
        ) from None
    ranks = Ranks(
        PrefixStore("realm", meeting),
        place.rank,
        place.size,
        local_rank=place.local_rank,
        hosts_store=hosts,
        patience=patience,
        abort=lambda: os._exit(1),
    )
    try:
        ranks.meet()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("sums", meeting),
            rank=place.rank,
            world_size=place.size,
            timeout=timedelta(seconds=patience.collective),
        )
    except BaseException as error:
        told = ranks.fail(error)
        if told is None:
            raise SystemExit(1) from None
        raise told from None
    return ranks

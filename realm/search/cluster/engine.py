"""Ray behind seven functions: processes on several machines, calls to them, and the news that one is lost.

A *worker* is an object of some class in a process of its own on some machine of the cluster (Ray's actor), a *call* is
the answer of one of its methods that is yet to come (Ray's object reference). None of these functions waits for a
machine, but for `wait` and `result`, which say how long.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import socket
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from realm.errors import MissingLibraryError, RealmError, TrainingError, UnavailableError

Worker = Any
Call = Any
PROBE = 5.0
"""Seconds that a cluster's head may take to answer at all."""


class Needs(NamedTuple):
    """What a worker takes of its machine, in Ray's book-keeping."""

    cpus: float = 1.0
    gpus: float = 0.0


class WorkerLost(Exception):
    """A worker, or the machine it was on, is gone; the message says why. Its work has to be done by another."""


def require() -> None:
    """MissingLibraryError: Ray is not installed. Does not import it, which takes a second."""
    if importlib.util.find_spec("ray") is None:
        raise MissingLibraryError("ray", "ray", "working on several machines")


def connect(address: str | None = None) -> None:
    """Join a cluster: that at `address` or RAY_ADDRESS, or the one this machine is part of; else start one here.

    One that was started here ends with this process. UnavailableError: nobody answers at the address.
    """
    require()
    place = address or os.environ.get("RAY_ADDRESS") or ""
    _probe(place)
    # Before the import. Ray would otherwise report its use to its makers where it starts a cluster, and hide the
    # accelerators of a machine from a process that asks for none.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own coming versions
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        raise _absent(place or "this machine", error) from error


def _probe(place: str) -> None:
    """UnavailableError: nobody listens at HOST:PORT. Ray would try for minutes."""
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or "/" in place:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE).close()
    except OSError as error:
        raise _absent(place, error) from error


def _absent(place: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"no Ray cluster answers at {place} ({error}): expected one that `ray start --head` began; see `ray status`"
    )


def start(kind: type, arguments: Sequence[Any], needs: Needs, *, node: str | None = None, calls: int = 2) -> Worker:
    """Have a worker made somewhere, on `node` if it has room. It may take long, and its first call answers then.

    kind: a class at the top of a module that every machine has. calls: how many it may work on at once.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    place: Any = "SPREAD"
    if node is not None:
        place = NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
    options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus, "max_concurrency": calls, "scheduling_strategy": place}
    # A lost worker is replaced here, where it is known what it was doing, and not by Ray.
    return ray.remote(kind).options(max_restarts=0, max_task_retries=0, **options).remote(*arguments)


def ask(worker: Worker, method: str, *arguments: Any) -> Call:
    """Have a worker do something."""
    return getattr(worker, method).remote(*arguments)


def wait(calls: Sequence[Call], seconds: float) -> list[Call]:
    """The calls that are answered, or failed; as soon as there is one, and after `seconds` none."""
    import ray

    if not calls:
        return []
    done, rest = ray.wait(list(calls), num_returns=1, timeout=seconds)
    if done and rest:
        done += ray.wait(rest, num_returns=len(rest), timeout=0)[0]
    return list(done)


def result(call: Call) -> Any:
    """The answer of a call that `wait` gave. WorkerLost: there will be none. Else what its method raised."""
    import ray

    try:
        return ray.get(call)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RealmError):
            raise cause from None
        raise TrainingError(f"a worker failed: {type(cause).__name__}: {cause}") from error
    except ray.exceptions.RayError as error:
        raise WorkerLost(_reason(error)) from error


def stop(worker: Worker) -> None:
    """End a worker at once, if it is still there."""
    import ray

    ray.kill(worker)


def nodes(needs: Needs) -> list[str]:
    """The machines that live and are large enough for a worker, busy or not."""
    import ray

    def large(resources: dict[str, float]) -> bool:
        return resources.get("CPU", 0.0) >= needs.cpus and resources.get("GPU", 0.0) >= needs.gpus

    return sorted(node["NodeID"] for node in ray.nodes() if node["Alive"] and large(node["Resources"]))


class Place(NamedTuple):
    """Where a worker is."""

    text: str
    """For a person to read."""
    node: str
    """As `nodes` names it."""


def here() -> Place:
    """In a worker: where it is."""
    import ray

    node = str(ray.get_runtime_context().get_node_id())
    return Place(f"{os.uname().nodename} (node {node[:8]}, process {os.getpid()})", node)


def size() -> str:
    """The cluster, for a person to read."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = (sum(found.get(kind, 0.0) for found in alive) for kind in ("CPU", "GPU"))
    return f"{len(alive)} machines with {cpus:g} CPUs and {gpus:g} GPUs"


def _reason(error: Exception) -> str:
    """Ray explains at length: the line that says why, if there is one, and of it the first sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = next((line for line in lines if "because" in line), lines[0])
    return re.split(r"\. |\.$|: RpcError|: RPC error", told)[0][:200]

"""Machines by name: computed from published peak rates and a stated share of them, never measured.

A token of a network takes the time of its products at `flops_share` of the peak, and of reading and writing its
activations at `bandwidth_share` of the memory's: 16 H + 4 I numbers a layer (attention, two layer norms and a
feed-forward of I), three times as much with the backward pass.
A step waits for its batch to be made, which the host does; that the last backward pass hides a part of it is not
reckoned, so it is an upper bound. What runs on the host's cores (making batches, cutting, laying out, tagging, building
indexes) is taken from this machine, core for core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from realm.config import PretrainConfig
from realm.errors import UsageError
from realm.files import read_json
from realm.workflows.estimating.machine import Machine
from realm.workflows.estimating.measuring import Growth
from realm.workflows.estimating.shapes import Shape
from realm.workflows.estimating.steps import Work, realm_flops

BYTES = {"float32": 4, "bfloat16": 2}
UPDATE_BYTES = 28
"""Of a parameter's update: weight, gradient and two moments read, all but the gradient written, four bytes each."""

LAUNCHES = 0.002
"""Seconds of starting a step's operations one after another, assumed: some hundred of ten microseconds."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """One machine, or one accelerator with its host."""

    name: str
    kind: str
    """gpu or cpu."""
    flops: float
    """Operations a second of its densest product in `arithmetic`."""
    arithmetic: str
    bandwidth: float
    memory: float
    exchange: float
    """Bytes a second to another one of them, each way."""
    cores: int
    flops_share: float
    bandwidth_share: float
    source: str
    share_source: str

    def token_seconds(self, shape: Shape, length: float, passes: int) -> float:
        """Of one token in a text of `length`, forward (passes=1) or forward and backward (3)."""
        layers = max(shape.layers, 0.05)
        products = passes * shape.flops(length) / 3 / (self.flops * self.flops_share)
        moved = passes * layers * (16 * shape.hidden + 4 * shape.inner) * BYTES[self.arithmetic]
        # A processor's caches hold the activations of a batch; an accelerator's don't.
        return products + (moved / (self.bandwidth * self.bandwidth_share) if self.kind == "gpu" else 0.0)

    def embedded(self, shape: Shape, length: float) -> float:
        """Passages a second."""
        return 1.0 / (length * self.token_seconds(shape, length, 1))


def known() -> Mapping[str, Hardware]:
    """By name."""
    found = read_json(Path(__file__).with_name("hardware.json"))
    return {name: Hardware(**facts) for name, facts in found.items() if isinstance(facts, dict)}


def named(name: str) -> Hardware:
    """UsageError for a name that isn't known."""
    found = known()
    if name not in found:
        raise UsageError(f"found the hardware {name!r}: expected one of {', '.join(found)}")
    return found[name]


def computed(machine: Machine, hardware: Hardware, work: Work, config: PretrainConfig) -> Machine:
    """What the named hardware would be measured as. machine: this one, for shapes and for what the host's cores do."""
    read = hardware.bandwidth * hardware.bandwidth_share
    rate = hardware.flops * hardware.flops_share
    length, shape, reader = work.passage, machine.encoder, machine.reader
    trained = shape.flops(length) / hardware.token_seconds(shape, length, 3)
    large = config.ict.batch_size * work.passage > config.ict.chunk_tokens
    again = 0.75 if large and shape.layers else 1.0  # a bag is not cut
    parts = realm_flops(config, machine, work)
    joint = work.query + (0 if config.reader.interaction == "late" else work.body)
    reading = hardware.token_seconds(reader, joint, 3) / reader.flops(joint)
    step = parts.encoder / trained + parts.reader * reading + parts.head / rate
    queries = config.realm.batch_size
    vector = machine.dim * BYTES["float32"]
    return replace(
        machine,
        device="cpu" if hardware.kind == "cpu" else hardware.name,
        cores=hardware.cores,
        threads=hardware.cores,
        embed_threads=hardware.cores,
        memory=int(hardware.memory),
        embed_rate=shape.flops(length) / 3 / hardware.token_seconds(shape, length, 1),
        ict_rate=trained * again,
        realm_rate=parts.all / step,
        ict_fixed=LAUNCHES + machine.ict_made * config.ict.batch_size,
        realm_fixed=LAUNCHES + machine.realm_made * config.realm.batch_size,
        matmul=rate,
        host_matmul=machine.host_matmul * hardware.cores / machine.threads,
        bandwidth=read,
        parameter_update=UPDATE_BYTES / read,
        search_one=Growth.linear(machine.search_one.at(0), vector / read),
        search_batch=Growth.linear(
            machine.search_one.at(0), max(vector / read, 2.0 * queries * machine.dim / rate) + 4.0 * queries / read
        ),
        graphed=_by_cores(machine.graphed, machine, hardware),
        coded=_by_cores(machine.coded, machine, hardware),
    )


def _by_cores(seconds: float | None, machine: Machine, hardware: Hardware) -> float | None:
    """Of what the host's cores do side by side."""
    return None if seconds is None else seconds * machine.threads / hardware.cores


def shared(machine: Machine, workers: int, exchange: float) -> Machine:
    """The same machine so many times over, where the work can be parted; UsageError below 1.

    Embedding, tagging, exact search and the steps are; bringing documents in and laying the snapshot out are not: one
    process writes.
    """
    if workers < 1:
        raise UsageError(f"found {workers} workers: expected at least 1")
    if workers == 1:
        return machine
    return replace(
        machine,
        workers=workers,
        tagged=None if machine.tagged is None else machine.tagged * workers,
        embed_rate=machine.embed_rate * workers,
        ict_rate=machine.ict_rate * workers,
        realm_rate=machine.realm_rate * workers,
        exchange=exchange,
    )

"""Named hardware, workers, and the table of scale: arithmetic that must hold whatever was measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import story
from hypothesis import given
from hypothesis import strategies as st

from realm.config import override
from realm.errors import UsageError
from realm.recipes import paper
from realm.workflows.estimating import scale as scaling
from realm.workflows.estimating import sizes
from realm.workflows.estimating.estimate import estimate
from realm.workflows.estimating.hardware import computed, known, named, shared
from realm.workflows.estimating.indexes import KINDS, STARTED, index_cost
from realm.workflows.estimating.machine import Machine
from realm.workflows.estimating.measuring import Growth
from realm.workflows.estimating.shapes import Shape
from realm.workflows.estimating.sizes import snapshot_bytes
from realm.workflows.estimating.steps import Work
from realm.workflows.estimating.texts import ASSUMED, WIKIPEDIA, Text
from realm.workflows.estimating.times import looking_up

BERT = Shape(12, 768, 3072)
CONFIG = paper()
HERE = Machine(
    device="cpu",
    cores=2,
    threads=2,
    embed_threads=1,
    memory=16_000_000_000,
    base_memory=400_000_000,
    dim=128,
    vocabulary=30_522,
    encoder=BERT,
    reader=BERT,
    encoder_note="12 layers of 768",
    encoder_parameters=110_000_000,
    encoder_trained=110_000_000,
    reader_parameters=110_000_000,
    reader_trained=110_000_000,
    encoder_activation=1.2e6,
    reader_activation=1.2e6,
    ingested=3e6,
    tidied=2e7,
    passed=1e7,
    laid=2e5,
    scanned=2e4,
    tagged=6e4,
    tagger_note="a tagger",
    tokenizer_note="a tokenizer",
    embed_rate=1e11,
    ict_rate=9e10,
    realm_rate=8e10,
    matmul=1.5e11,
    host_matmul=1.5e11,
    bandwidth=4e10,
    parameter_update=1e-9,
    judged=1e-4,
    hashed=1e9,
    search_one=Growth.linear(1e-4, 1e-8),
    search_batch=Growth.linear(1e-4, 1e-7),
    graphed=6e-5,
    coded=2e-5,
)
"""Figures as two cores have them."""
TEXT = Text(ASSUMED, [])


def told(passages: int = 1_000_000, **asked: Any) -> dict[str, Any]:
    return estimate(passages, CONFIG, text=TEXT, machine=HERE, **asked)


def test_every_machine_says_where_its_figures_come_from() -> None:
    assert {"h200", "a100-80g", "rtx4090", "laptop-2-cores", "cpu-16"} <= set(known())
    for name, one in known().items():
        assert min(one.flops, one.bandwidth, one.memory, one.exchange, one.cores) > 0, name
        assert 0 < one.flops_share < 1 and 0 < one.bandwidth_share < 1
        assert one.source and one.share_source and one.kind in ("cpu", "gpu")
        assert one.flops / one.bandwidth > 3, "operations and bytes are mixed up"
    with pytest.raises(UsageError, match="found the hardware 'h2000': expected one of h200, h100"):
        named("h2000")


@pytest.mark.parametrize("name", known())
def test_an_embedding_takes_products_and_memory(name: str) -> None:
    """By hand, for BERT-base: 12 layers of 24 H^2 and the attention, and 32 H numbers moved on a GPU."""
    one, length = named(name), 288
    operations = 12 * (24 * 768**2 + 4 * length * 768)
    seconds = operations / (one.flops * one.flops_share)
    if one.kind == "gpu":
        seconds += 12 * 32 * 768 * 2 / (one.bandwidth * one.bandwidth_share)
    assert one.embedded(BERT, length) == pytest.approx(1 / (length * seconds))
    # Nobody is faster than the peak allows.
    assert one.embedded(BERT, length) * length * operations < one.flops
    work = Work.of(1000, ASSUMED, CONFIG)
    there = computed(HERE, one, work, CONFIG)
    assert there.embedded(work) == pytest.approx(one.embedded(BERT, work.passage))
    assert there.ingested == HERE.ingested and there.memory == int(one.memory)


def test_named_hardware_stands_beside_this_machine() -> None:
    found = told(hardware=["h200", "laptop-2-cores"])
    assert found["columns"] == ["what", "this machine", "h200, computed", "laptop-2-cores, computed", "because"]
    assert {len(row) for row in found["rows"]} == {5}
    alone = told()
    assert alone["columns"] == ["what", "estimate", "because"] and alone["hardware"] == {}
    assert found["numbers"] == alone["numbers"]  # nothing that was measured hangs on what is asked beside it
    there = found["hardware"]["h200"]
    assert there["computed"] is True and "data sheet" in there["source"] and there["shares"]["source"] == "assumed"
    for name in ("embed", "realm_step", "ict", "search_question"):
        assert there["numbers"][f"{name}_seconds"] < found["numbers"][f"{name}_seconds"] / 30
    assert there["numbers"]["ingest_seconds"] == found["numbers"]["ingest_seconds"]  # the host does it
    for name in ("disk", "snapshot", "checkpoints"):
        assert there["numbers"][f"{name}_bytes"] == found["numbers"][f"{name}_bytes"]
    # A GPU holds the vectors; a processor maps them, and keeps what a step frees.
    more = there["numbers"]["peak_bytes"] - found["numbers"]["peak_bytes"]
    kept = sizes.STARTED + (sizes.KEPT - 1) * found["numbers"]["activations_bytes"] + found["numbers"]["rarity_bytes"]
    assert more == pytest.approx(found["numbers"]["vectors_bytes"] - kept, rel=0.01)


@given(st.integers(2, 64))
def test_workers_part_what_can_be_parted(workers: int) -> None:
    one, many = told()["numbers"], told(workers=workers)["numbers"]
    # A second of hashing stays.
    assert many["embed_seconds"] == pytest.approx(one["embed_seconds"] / workers, rel=0.01, abs=2)
    for name in ("search_question", "search_step"):
        parted = (one[f"{name}_seconds"] - HERE.search_one.at(0)) / workers
        assert many[f"{name}_seconds"] == pytest.approx(parted + HERE.search_one.at(0), rel=0.01)
    for name in ("ingest", "snapshot"):
        assert many[f"{name}_seconds"] == one[f"{name}_seconds"]
    assert one["realm_step_seconds"] / workers < many["realm_step_seconds"] < one["realm_step_seconds"]
    assert many["vectors_bytes"] == pytest.approx(one["vectors_bytes"] / workers, abs=1)


def test_a_search_is_reckoned_between_what_was_measured_and_beyond_it() -> None:
    grows = Growth((1_000, 9_000, 109_000), (1e-3, 2e-3, 3.2e-2))
    assert [grows.at(rows) for rows in (1_000, 5_000, 9_000)] == pytest.approx([1e-3, 1.5e-3, 2e-3])
    assert grows.at(10) == 1e-3  # never less than the least
    assert grows.row == pytest.approx(3e-7) and grows.at(209_000) == pytest.approx(6.2e-2)


def test_without_faiss_nothing_is_said_of_what_it_builds() -> None:
    blind = replace(HERE, graphed=None, coded=None)
    for kind in ("hnsw", "hnsw-sq", "ivf-pq", "ivf-rabitq"):
        cost = index_cost(kind, 10_000, 128, blind)
        assert cost.seconds is None and "faiss is not installed" in cost.building
        assert cost.memory == index_cost(kind, 10_000, 128, HERE).memory
    assert index_cost("ivf-sq", 10_000, 128, blind).seconds
    totals = [
        dict((row[0], row[2]) for row in estimate(1000, CONFIG, text=TEXT, machine=one, index="hnsw")["rows"])
        for one in (HERE, blind)
    ]
    assert ["without the index hnsw" in total["time: the whole training"] for total in totals] == [False, True]


def test_an_index_is_built_by_the_cores_of_the_host() -> None:
    work, text = Work.of(10**7, ASSUMED, CONFIG), [named(name) for name in ("h200", "cpu-16")]
    gpu, cpu = (index_cost("ivf-sq", 10**7, 128, computed(HERE, one, work, CONFIG)).seconds for one in text)
    assert gpu and cpu and gpu - STARTED == pytest.approx((cpu - STARTED) * text[1].cores / text[0].cores)


def test_an_accelerator_waits_for_its_batches() -> None:
    slow = replace(HERE, realm_made=0.01)
    work = Work.of(1000, ASSUMED, CONFIG)
    one, other = (computed(machine, named("h200"), work, CONFIG) for machine in (HERE, slow))
    assert other.realm_fixed - one.realm_fixed == pytest.approx(0.01 * CONFIG.realm.batch_size)


def test_gradients_are_exchanged() -> None:
    """A ring moves 2 (W - 1) / W of them through each."""
    trained = 1_000_000
    two = shared(HERE, 2, exchange=1e9)
    assert two.step_overhead(trained) - HERE.step_overhead(trained) == pytest.approx(4e6 / 1e9)
    assert shared(HERE, 1, exchange=1e9) is HERE
    with pytest.raises(UsageError, match="found 0 workers"):
        shared(HERE, 0, exchange=1e9)


def test_a_compressed_index_takes_less_memory_and_time_to_build() -> None:
    exact, coded = told(index="exact")["numbers"], told(index="ivf-pq")["numbers"]
    assert coded["vectors_bytes"] < exact["vectors_bytes"] / 6
    assert coded["index_seconds"] > exact["index_seconds"] == 0
    assert coded["disk_bytes"] > exact["disk_bytes"]  # it comes beside those of the training
    with pytest.raises(UsageError, match="found the index 'flat'"):
        told(index="flat")
    slow = replace(HERE, host_matmul=HERE.host_matmul / 2, graphed=1.2e-4, coded=4e-5)
    for kind in set(KINDS) - {"exact", "bf16", "int8"}:
        here, there = (index_cost(kind, 1_000_000, 128, one).seconds for one in (HERE, slow))
        started = STARTED if kind.startswith("ivf") else 0.0
        assert here and there and there - started == pytest.approx(2 * (here - started))


def test_a_short_warm_start_that_is_computed_in_pieces_takes_a_third_more() -> None:
    work, one = Work.of(1000, ASSUMED, CONFIG), named("h200")
    whole = override(CONFIG, ["ict.chunk_tokens=1000000000"])
    assert computed(HERE, one, work, whole).ict_rate * 0.75 == pytest.approx(computed(HERE, one, work, CONFIG).ict_rate)


# ---------------------------------------------------------------- the table of scale


def cells_of(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_has_a_formula_for_every_line() -> None:
    text = scaling.scale()
    for line in (line for line in text.splitlines() if line.startswith("|")):
        assert all(cell.strip() for cell in line.strip("|").split("|")), line
    assert cells_of(text, "exact |")[1:] == ["6.8 GB", "51.2 GB", "512 GB", "4 N D"]
    assert cells_of(text, "snapshot")[3] == "3.2 TB"
    assert snapshot_bytes(10**9, WIKIPEDIA, 30_522) == pytest.approx(3.2e12, rel=0.02)
    # Eight take an eighth of the time.
    h200 = cells_of(text, "NVIDIA H200 SXM")
    assert h200[4] == "38 h" and h200[7] == "4.8 h"
    for count in ("13.35M", "100M", "1B"):
        assert count in text
    assert cells_of(text, "exact | h200")[2:] == ["1", "1", "5"]


def test_what_was_measured_makes_lines_of_its_own() -> None:
    rates = HERE.rates(Work.of(1000, ASSUMED, CONFIG), ASSUMED)
    text = scaling.scale(measured=rates)
    assert text.startswith(scaling.scale())
    assert "measured on 2 cores" in text
    assert cells_of(text, "ingest")[1] == "2.6 MB"  # 3 MB/s, then 20 MB/s


def test_looking_for_what_is_there_outgrows_reading() -> None:
    """Ten times the documents, a hundred times the rows passed over."""
    assert looking_up(10**7, ASSUMED) == pytest.approx(100 * looking_up(10**6, ASSUMED))
    assert looking_up(8192, replace(ASSUMED, documents=1.0)) == 2 * 8192
    fast = replace(HERE, passed=1e12)
    slow, quick = (estimate(10**8, CONFIG, text=TEXT, machine=one)["numbers"]["ingest_seconds"] for one in (HERE, fast))
    assert slow - quick == pytest.approx(looking_up(10**8, ASSUMED) / HERE.passed, rel=0.01)


# ---------------------------------------------------------------- the command


def test_the_command_prints_the_table() -> None:
    done = story.realm("estimate", "--table")
    assert done.code == 0 and done.out.strip() == scaling.scale()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["found no --passages", "--table"]),
        (("--passages", "10", "--hardware", "abacus"), ["abacus", "h200", "cpu-16"]),
        (("--passages", "10", "--index", "flat"), ["flat", "ivf-pq"]),
        (("--passages", "10", "--workers", "0"), ["--workers"]),
        (("--passages", "10", "--from-kb", "kb", "--sample", "file"), ["--from-kb", "--sample"]),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], words: list[str]) -> None:
    code, line = story.error("estimate", *arguments)
    assert code == 2 and all(word in line for word in words), line

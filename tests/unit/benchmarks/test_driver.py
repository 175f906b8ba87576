"""The driver of the benchmarks: contests, ratios, memory, records, every suite on a toy, the report."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import catalog, report
from benchmarks.__main__ import main
from benchmarks.core import limits, made
from benchmarks.core.figures import verdict
from benchmarks.core.memory import peak_of
from benchmarks.core.peers import PEERS, open_peer
from benchmarks.core.record import Ratio, Record, Row, exponents, groups, ratio
from benchmarks.core.timing import Contestant, take_turns
from benchmarks.suites import search
from benchmarks.suites.indexes import faiss_ivf_sq
from realm.search.exact import ExactIndex

ROOT = Path(__file__).resolve().parents[3]
SECONDS = st.floats(min_value=1e-6, max_value=1e3)
TOYS = {
    "search": ["--rows", "150", "--dim", "16", "--batches", "1", "6", "--dtypes", "float32", "int8", "--approximate"],
    "ondisk": ["--rows", "2000", "--dim", "16", "--batches", "1", "4"],
    "bm25": ["--passages", "20", "--batches", "1", "4"],
    "embed": ["--texts", "4", "--hidden", "16"],
    "ingest": ["--documents", "6"],
    "memory": ["--passages", "20"],
    "step": ["--documents", "12", "--rows", "40", "--hidden", "32"],
    "ask": ["--passages", "12", "--k", "2", "--questions", "2", "--batch", "2"],
}
"""Arguments that leave of a suite as little as it can work with."""


def row(who: str, role: str, *seconds: float, work: str = "work", **more: Any) -> Row:
    return Row(work=work, who=who, role=role, seconds=seconds, **more)


def record(suite: str, rows: list[Row], **more: Any) -> Record:
    machine = {"processor": "p", "cores": 2, "memory_bytes": 8_000_000_000, "system": "s"}
    facts: dict[str, Any] = {"when": "2020-02-02", "command": f"python -m benchmarks {suite}", "quick": False}
    facts |= {"sizes": {"threads": 2}, "machine": machine, "versions": {"realm": "1"}, **more}
    return Record(suite=suite, rows=rows, **facts)


# ---------------------------------------------------------------- ratios and growth


@given(st.lists(SECONDS, min_size=1, max_size=9), st.floats(0.01, 100), st.integers(1, 50))
def test_a_ratio_is_of_speeds_item_by_item(seconds: list[float], factor: float, items: int) -> None:
    """Whoever takes `factor` times as long for as many things is left behind by that factor in every round."""
    ours = row("realm", "realm", *seconds, items=items)
    theirs = row("peer", "peer", *(factor * one for one in seconds), items=items)
    assert ratio(ours, theirs) == pytest.approx((factor,) * 3)
    assert ratio(theirs, ours) == pytest.approx((1 / factor,) * 3)
    half = row("peer", "peer", *seconds, items=items / 2)
    assert ratio(ours, half).median == pytest.approx(2)


def test_a_ratio_is_taken_round_by_round() -> None:
    """A neighbour that slows a whole round slows both: medians apart from each other would call the second slower."""
    ours, theirs = row("a", "realm", 1, 10, 2, 1, 10), row("b", "peer", 1.5, 15, 3, 1.5, 15)
    assert ratio(ours, theirs) == pytest.approx((1.5, 1.5, 1.5))
    assert verdict(ratio(ours, theirs)) == "ahead" and verdict(ratio(theirs, ours)) == "behind"
    assert verdict(Ratio(0.9, 0.8, 1.1)) == "behind, within the spread"
    assert ratio(row("a", "realm", 1, 2, 3), row("b", "peer", 6)) == (3, 3, 3)  # not of the same rounds


@given(st.floats(-1, 2), st.floats(1e-6, 1), st.integers(1, 20))
def test_the_exponent_of_growth_is_found_again(power: float, factor: float, items: int) -> None:
    rows = [row("a", "realm", factor * items * n**power, size=n, items=items) for n in (10, 100, 1000, 5000)]
    assert exponents(rows)["work", "a"][0] == pytest.approx(power, abs=1e-6)
    assert exponents(rows[:2]) == {} and exponents([row("a", "limit", 1, size=n) for n in (1, 2, 3)]) == {}


# ---------------------------------------------------------------- timing and memory


def test_contestants_take_turns_and_every_other_round_goes_backwards() -> None:
    calls: list[str] = []

    def one(name: str, seconds: float) -> Contestant:
        return Contestant(who=name, run=lambda: calls.append(name) or seconds, scale=2.0)  # type: ignore[func-returns-value]

    timed = take_turns([one("a", 1.0), one("b", 2.0)], rounds=4, budget=100)
    assert "".join(calls) == "ab" + "abbaabba"
    assert [found.seconds for found in timed] == [[2.0] * 4, [4.0] * 4]  # what a contestant says, scaled
    assert len(take_turns([one("a", 1.0)], rounds=9, budget=0)[0].seconds) == 3  # however little time there is


def test_a_short_call_is_repeated_within_its_round() -> None:
    calls: list[int] = []
    timed = take_turns([Contestant(who="a", run=lambda: calls.append(0))], rounds=2, budget=1)
    assert len(calls) > 20 and max(timed[0].seconds) < 0.01  # of one call


@pytest.mark.skipif(sys.platform != "linux", reason="nobody counts")
def test_peak_memory_is_what_was_held_at_most() -> None:
    size = 48 << 20

    def work() -> int:
        return len(np.ones(size, np.uint8)) and len(np.ones(1000, np.uint8))

    small = peak_of(lambda: np.ones(1000, np.uint8))[1]
    found, peak = peak_of(work)
    if small is None or peak is None:
        pytest.skip("this system does not let a process forget its peak")
    assert found == 1000 and 0.95 * size < peak < 1.3 * size and small < size / 4


def test_a_limit_is_the_time_of_the_needed_work() -> None:
    """Twice the operations, twice the time: both are one measurement, scaled."""
    one, two = limits.products(1e6), limits.products(2e6)
    assert two.scale == pytest.approx(2 * one.scale) and one.role == "limit" and one.run is two.run
    whole = limits.reads(limits.READ_BYTES)
    assert whole.scale == 1
    # BERT-base: 85M parameters in its layers, two operations each for every token, and the attention products.
    flops = limits.layer_flops(torch.tensor([128]), layers=12, hidden=768, inner=3072)
    assert flops == pytest.approx(2 * 128 * 84.9e6 + 12 * 4 * 768 * 128**2, rel=0.01)


# ---------------------------------------------------------------- peers


@pytest.mark.parametrize("module", PEERS)
def test_a_peer_that_is_not_there_is_named_with_its_command(module: str) -> None:
    found, why = open_peer(module)
    there = importlib.util.find_spec(module.split(".")[0]) is not None
    assert (found is not None, why == "") == (there, there)
    assert there or why == f"not installed: pip install {PEERS[module]}"


def test_an_index_is_set_as_low_as_the_recall_allows(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vector_ND = made.clustered(3000, 32, queries=64)
    query_QD, vector_ND = vector_ND[3000:], vector_ND[:3000]
    right = ExactIndex(torch.from_numpy(vector_ND)).search(torch.from_numpy(query_QD), 10).rows.numpy()
    index = faiss_ivf_sq(vector_ND, 1, tmp_path)
    low, high = (search.tune(index, query_QD, right, wanted) for wanted in (0.5, 0.95))
    assert low[0] >= 0.5 and high[0] >= 0.95 and low[1]["nprobe"] < high[1]["nprobe"]
    assert search.recall(right, right) == 1 and search.recall(right[:, :5], right) == 0.5


# ---------------------------------------------------------------- the driver


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the driver sets for its own process is put back."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "LANCE_CPU_THREADS", "TOKENIZERS_PARALLELISM")
    for name in (*names, "TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "1" if name in names[:4] else "error" if name.startswith("TRANS") else "true")
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


@pytest.mark.parametrize("suite", TOYS)
def test_a_suite_leaves_a_record_of_everybody(
    suite: str, unchanged: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--quick", "--rounds", "1", "--budget", "0.001", "--out", str(tmp_path)]
    assert main([suite, *quick, *TOYS[suite]]) == 0
    found = Record.read(tmp_path / f"{suite}.quick.json")
    assert found.quick and found.versions["realm"] and found.machine["load"]["load_average"]
    assert str(tmp_path) not in found.command and "--quick" in found.command
    for group in groups(found.rows):
        assert group.ours is not None, group.work
        assert all(second > 0 for one in group.rows for second in one.seconds)
    shown = capsys.readouterr().out
    assert all(one.who in shown for one in found.rows) and all(why in shown for why in found.missing.values())
    wanted = {
        one.work for one in report.WANTED if one.suite == suite and not re.search(r"64|recall|128|288|32", one.work)
    }
    assert wanted <= {one.work for one in found.rows}  # the report looks for works by these names


def test_every_suite_is_tried_here_or_has_its_reason() -> None:
    suites = {name for name, module in catalog.SUITES.items() if module.startswith("benchmarks.suites.")}
    # One starts a process, one fills a knowledge base and trains: each takes longer than all of these.
    assert suites - set(TOYS) == {"refresh", "estimate"}


def test_scripts_need_one_line_in_the_catalogue() -> None:
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert scripts <= {module.rpartition(".")[2] for module in catalog.SUITES.values()}
    assert all(catalog.about(module) for module in catalog.SUITES.values())


def test_what_is_no_benchmark_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serach"]) == 2
    assert "found no benchmark 'serach': expected one of list, all, report, step," in capsys.readouterr().err
    assert main(["list"]) == 0 and "bm25" in capsys.readouterr().out


# ---------------------------------------------------------------- records and the report


def test_a_record_comes_back_and_a_quick_one_takes_no_place(tmp_path: Path) -> None:
    real = record("step", [row("realm", "realm", 1.0, 2.0, size=5, peak_bytes=3, facts={"a": [1]})], notes=["n"])
    quick = record("step", [row("realm", "realm", 9.0)], quick=True)
    assert Record.read(real.write(tmp_path)) == real
    quick.write(tmp_path)
    assert report.read(tmp_path)[0] == [real] == report.read(tmp_path, with_quick=True)[0]
    record("embed", [], quick=True).write(tmp_path)
    assert [one.suite for one in report.read(tmp_path, with_quick=True)[0]] == ["step", "embed"]
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"other\.json: found no record"):
        report.read(tmp_path)


SAMPLE = [
    record(
        "search",
        [
            *(
                one
                for size in (10, 100, 1000)
                for one in (
                    row("realm", "realm", *[size * 1e-3] * 3, work="exact search, batch 1", size=size, of="vectors"),
                    row(
                        "faiss flat", "peer", *[size * 8e-4] * 3, work="exact search, batch 1", size=size, of="vectors"
                    ),
                    row("memory bandwidth", "limit", *[size * 9e-4] * 3, work="exact search, batch 1", size=size),
                )
            ),
        ],
        missing={"ScaNN": "not installed: pip install scann"},
        notes=["realm's row is exact"],
    ),
    record(
        "embed",
        [
            row("realm", "realm", *[1.0] * 5, work="embed, 32 tokens", items=64, unit="passages", peak_bytes=2_000_000),
            row(
                "encode",
                "peer",
                0.5,
                0.9,
                2,
                2,
                2,
                work="embed, 32 tokens",
                items=64,
                unit="passages",
                peak_bytes=5_000_000,
            ),
            row("matrix products", "limit", *[0.4] * 5, work="embed, 32 tokens", items=64, unit="passages"),
        ],
    ),
]


def test_the_report_says_who_is_behind_and_why() -> None:
    text = report.render(SAMPLE, {"search: exact search, batch 1": "it reads twice (measured by counters)"})
    line = "| exact search, one query | 1,000 vectors | 1.00 s | faiss flat | 800 ms | 0.80 | **behind** | "
    assert line + "memory bandwidth | 0.90 |" in text
    line = "| embed, 32 tokens |  | 64.0 passages/s | encode | 32.0 passages/s | 2.00 | ahead, within the spread | "
    assert line + "matrix products | **0.40** |" in text
    assert "- **exact search, one query**: behind faiss flat (0.80). It reads twice (measured by counters).\n" in text
    assert "- **embed, 32 tokens**: at 40% of matrix products. The cause is not named yet.\n" in text
    assert "| ICT step |  | not measured |" in text
    growth = "| exact search, batch 1 | realm | vectors | 10: 10.0 ms, 100: 100 ms, 1,000: 1.00 s | 1.00 |"
    assert growth in text
    assert "| embed, 32 tokens | 2 MB | 5 MB |" in text
    assert "- ScaNN: not installed: pip install scann" in text and "- realm's row is exact" in text
    assert "`python -m benchmarks search`, 2020-02-02" in text and "p, 2 cores, 8.00 GB, s" in text
    for start in ("| exact search, one query", "| ICT step"):
        counted = [one.count("|") for one in text.splitlines() if one.startswith(start)]
        assert set(counted) <= {10, 4}  # no cell spills


def test_the_report_is_written_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 1 and "found no records" in capsys.readouterr().err
    for one in SAMPLE:
        one.write(tmp_path)
    (tmp_path / report.CAUSES).write_text(json.dumps({"embed: embed, 32 tokens": "small products"}))
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "p.md")]) == 0
    text = (tmp_path / "p.md").read_text(encoding="utf-8")
    assert text.index("## embed") < text.index("## search")  # the order of the catalogue
    assert "Small products." in text
    (tmp_path / "search.json").write_text("[]")
    assert main(["report", str(tmp_path)]) == 1 and "search.json: found no record" in capsys.readouterr().err


def test_the_page_in_docs_is_that_of_the_records() -> None:
    folder, page = ROOT / "benchmarks" / "records", ROOT / "docs" / "performance.md"
    assert page.exists() == folder.exists()
    if page.exists():
        assert page.read_text(encoding="utf-8") == report.render(*report.read(folder))

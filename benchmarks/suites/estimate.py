"""What `realm estimate` says against what then happens: disk, memory and time of every stage, at several sizes.

Documents are made, or those of a knowledge base (--kb), over and over with new ids until there are enough. The estimate
takes the lengths of passages from the first of them, as `--sample` does, is made right before each size's run, and
knows the settings of the run. Then the run is done: `realm ingest`, and `realm pretrain` with a few steps; each of its
stages is timed as its bar is, and each step as its log tells. What would take hours is done on the first passages, and
the estimate is of as many: the spaCy tagger, embedding through six layers, indexes of faiss above --indexed.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import threading
import time
from argparse import Namespace, _ArgumentGroup
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.core import made
from benchmarks.core.bench import Bench
from benchmarks.core.record import Row
from realm.config import PretrainConfig, override
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.build import load_tokenizer
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.table.vectors import PassageEncoder
from realm.knowledge.text.passages import SentenceSplitter
from realm.knowledge.text.spans import find_spans
from realm.models.encoders import DenseEncoder
from realm.recipes import small
from realm.search import codes
from realm.search.embed import embed_rows
from realm.search.exact import ExactIndex
from realm.types import Document
from realm.workflows.estimating import texts
from realm.workflows.estimating.coding import CODED_LINKS
from realm.workflows.estimating.estimate import estimate
from realm.workflows.estimating.indexes import cells, index_cost
from realm.workflows.estimating.machine import Machine, calibrate
from realm.workflows.estimating.steps import Work
from realm.workflows.estimating.texts import Text
from realm.workflows.ingest import ingest_sources
from realm.workflows.pretraining.pretrain import pretrain
from realm.workflows.showing.artefacts import size_text

QUICK = {"passages": [300], "words": 60, "hidden": 32, "deep": 16, "tagged": 16, "steps": 3, "batch": 8}
STAGES = (
    ("snapshot", "snapshot"),
    ("spans", "salient spans"),
    ("scan", "find what can be masked"),
    ("embed", "embed the passages"),
    ("judging", "evaluate"),
)
"""The estimate's name of a time, and how the title of a run's stage begins."""
GOAL = 0.2
MIN_CODED = 5_000
"""Fewer vectors are no index's business."""


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kb", type=Path, help="take its documents; made ones if not given")
    parser.add_argument("--model", type=Path, help="folder of the encoder; random weights if not given")
    for name, value, what in (
        ("words", 400, "of a made document"),
        ("hidden", 384, "width of the random encoder"),
        ("steps", 6, "of each of the two trainings"),
        ("batch", 64, "sentences of a step of REALM; four times as many pairs of the warm start"),
        ("deep", 512, "passages that are embedded through six layers"),
        ("tagged", 4000, "passages that spaCy tags"),
        ("indexed", 200_000, "largest number of passages that faiss indexes are built over"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=what)
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder; 8 kB of disk a passage")


@dataclass
class Stages:
    """A reporter that keeps how long each stage took, and how much of one's own memory was held at most."""

    seconds: dict[str, float] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    steps: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of each step of a training."""

    @contextmanager
    def stage(self, title: str, unit: str = "") -> Iterator[Any]:
        began = time.perf_counter()
        yield lambda done, total: None
        name = next((name for name, start in STAGES if title.startswith(start)), title)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
        self.times[name] = self.times.get(name, 0) + 1

    def event(self, event: Any) -> None:
        if event["kind"] == "train":
            self.steps.setdefault(event["stage"], []).append(event["seconds"])

    def note(self, text: str) -> None:
        return None


class Held:
    """Memory of this process that is no file's, looked at twenty times a second."""

    def __enter__(self) -> Held:
        self.first = self.most = _anonymous()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self.most = max(self.most, _anonymous())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def above(self) -> int:
        return self.most - self.first


class Prefix:
    """The first rows of a snapshot, for what is done on a part."""

    def __init__(self, snapshot: Snapshot, rows: int) -> None:
        self.snapshot, self.rows = snapshot, min(rows, len(snapshot))
        self.fingerprint = f"{snapshot.fingerprint}-{self.rows}"

    def __len__(self) -> int:
        return self.rows

    def text(self, row: int) -> str:
        return self.snapshot.text(row)


@dataclass
class Comparison:
    """Lines of [what, passages, estimated, measured, ratio]."""

    bench: Bench
    lines: list[list[str]] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)

    def time(self, what: str, passages: int, estimated: float | None, measured: float | None, note: str = "") -> None:
        if not estimated or not measured:
            return
        for who, role, seconds in (("measured", "realm", measured), ("estimated", "variant", estimated)):
            self.bench.add(Row(work=what, who=who, role=role, seconds=(seconds,), size=passages, of="passages"))
        self._add(what, passages, estimated, measured, f"{estimated:,.3g} s", f"{measured:,.3g} s", note)

    def size(self, what: str, passages: int, estimated: float | None, measured: float, note: str = "") -> None:
        if estimated and measured:
            self._add(what, passages, estimated, measured, size_text(estimated), size_text(measured), note)

    def _add(self, what: str, n: int, estimated: float, measured: float, left: str, right: str, note: str) -> None:
        ratio = estimated / measured
        mark = "" if abs(ratio - 1) <= GOAL else " *"
        self.lines.append([what, f"{n:,}", left, right, f"{ratio:.2f}{mark}", note])
        self.told.append(
            {"what": what, "passages": n, "estimated": estimated, "measured": measured, "ratio": ratio, "note": note}
        )
        self.bench.say(f"{what}, {n:,}: estimated {left}, measured {right}, ratio {ratio:.2f}{mark}")

    def text(self) -> str:
        head = ["what", "passages", "estimated", "measured", "ratio", ""]
        wide = [max(len(line[at]) for line in [head, *self.lines]) for at in range(len(head))]
        rows = [
            "  ".join(
                cell.ljust(w) if at in (0, 5) else cell.rjust(w)
                for at, (cell, w) in enumerate(zip(line, wide, strict=True))
            )
            for line in [head, *self.lines]
        ]
        return "\n".join(row.rstrip() for row in rows)


def run(bench: Bench, options: Namespace) -> None:
    compared = Comparison(bench)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        model = options.model or made.model(Path(folder) / "model", hidden=options.hidden)
        for passages in options.passages:
            with tempfile.TemporaryDirectory(dir=options.folder) as place:
                measured = _at_size(bench, compared, options, model, passages, Path(place))
    far = [line for line in compared.told if abs(line["ratio"] - 1) > GOAL]
    bench.note(f"estimated / measured: {len(compared.told) - len(far)} of {len(compared.told)} within {GOAL:.0%}")
    bench.record.printed = compared.text()
    bench.record.told = {"lines": compared.told, "measured": measured}


def _at_size(
    bench: Bench, compared: Comparison, options: Namespace, model: Path, passages: int, folder: Path
) -> dict[str, Any]:
    tokenizer = load_tokenizer(model)
    split = SentenceSplitter(tokenizer, 288)
    source = folder / "documents.jsonl"
    first = [one for one, _ in zip(_documents(options), range(20_000), strict=False)]
    text = texts.of_documents(first, split, "the documents")
    _write(source, _documents(options), round(passages * text.lengths.documents))
    config = _config(model, options)
    bench.say(f"{passages:,} passages: calibrating")
    machine = calibrate(config, text)

    n, ingested, held_bytes = _apart(_ingest, source, folder / "kb", model)
    found = estimate(n, config, text=text, machine=machine)
    numbers = found["numbers"]
    compared.time("ingest", n, numbers["ingest_seconds"], ingested)
    compared.size("disk: text and its word index", n, numbers["knowledge_base_bytes"], _size(folder / "kb"))

    needed = numbers["ingest_memory_bytes"] - machine.base_memory
    compared.size("memory of an ingest", n, needed, held_bytes, "no file's, above the libraries")

    bench.say(f"{n:,} passages: pre-training")
    stages, held_bytes = _apart(_pretrain, folder / "kb", folder / "run", config)
    snapshots = folder / "kb" / "snapshots"
    compared.size("disk: snapshot and spans", n, numbers["snapshot_bytes"], _size(snapshots))
    for name, _ in STAGES:
        seconds = stages.seconds.get(name)
        if name == "embed" and seconds:
            seconds /= stages.times[name]
        compared.time(name, n, numbers[f"{name}_seconds"], seconds)
    for stage, steps in stages.steps.items():
        compared.time(f"{stage} step", n, numbers[f"{stage}_step_seconds"], float(np.median(steps[1:] or steps)))
    compared.size("disk: indexes of the run", n, numbers["index_bytes"] * 2, _size(folder / "run" / "index"))
    checkpoints = _size(folder / "run" / "checkpoints") + _size(folder / "run" / "warm-start")
    compared.size("disk: checkpoints", n, numbers["checkpoints_bytes"], checkpoints)
    needed = numbers["peak_bytes"] - machine.base_memory
    compared.size("memory of pre-training", n, needed, held_bytes, "no file's, above the libraries")

    index = ExactIndex.open(next(iter(sorted((folder / "run" / "index").iterdir()))))
    _search(compared, index, config, numbers, n)
    _indexes(bench, compared, options, index, machine, folder)
    snapshot = Snapshot.open(next(path.parent for path in snapshots.glob("v*/body_ids.npy")))
    if passages == min(options.passages):
        _deep(bench, compared, options, config, model, text, snapshot, folder)
    _answers(compared, folder / "kb", index, numbers, n)
    return dict(found["measured"])


def _apart(work: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns from a process of its own: what this one freed before would be taken again, and not be seen."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _pretrain(kb: Path, run: Path, config: PretrainConfig) -> tuple[Stages, int]:
    """What was told of its stages, and how many bytes it held above the libraries."""
    stages = Stages()
    DenseEncoder.from_pretrained(config.encoder.model)  # imports what is no memory of the work's
    len(KnowledgeBase.open(kb))
    with Held() as held:
        pretrain(kb, run, config, reporter=stages)
    return stages, held.above


def _ingest(source: Path, kb: Path, model: Path) -> tuple[int, float, int]:
    """How many passages came of it, in how many seconds, with how many bytes."""
    few = source.with_name("few.jsonl")  # what the first ingest of a process costs once is not counted
    few.write_text("".join(islice(source.open(encoding="utf-8"), 12)), encoding="utf-8")
    ingest_sources([str(few)], kb.with_name("few"), tokenizer=str(model))
    with Held() as held:
        began = time.perf_counter()
        counts = ingest_sources([str(source)], kb, tokenizer=str(model))
        seconds = time.perf_counter() - began
    return counts["passages"], seconds, held.above


def _config(model: Path, options: Namespace) -> PretrainConfig:
    return override(
        small(),
        [
            f"model={model}", "data.spans_pipeline=pattern", f"ict.steps={options.steps}",
            f"ict.batch_size={4 * options.batch}", f"realm.steps={options.steps}", f"realm.batch_size={options.batch}",
            "refresh.mode=off", f"loop.threads={options.threads}", "loop.tensorboard=false", "probe.size=1000",
            "loop.checkpoint_every=1000000", "loop.log_every=1", "data.max_span_documents=none",
        ],
    )  # fmt: skip


def _documents(options: Namespace) -> Iterator[Document]:
    """Without end."""
    if options.kb is None:
        yield from made.documents(1 << 40, options.words)
    kb = KnowledgeBase.open(options.kb)
    for again in count():
        for one in kb.documents():
            yield replace(one, id=f"{one.id}-{again}", metadata={})


def _write(path: Path, documents: Iterator[Document], wanted: int) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        for one, _ in zip(documents, range(max(2, wanted)), strict=False):
            stream.write(json.dumps({"id": one.id, "title": one.title, "text": one.text}) + "\n")


def _search(compared: Comparison, index: ExactIndex, config: PretrainConfig, numbers: dict[str, Any], n: int) -> None:
    k = config.realm.num_candidates - 1
    for name, queries, what in (
        ("search_question", 1, "exact search, a question"),
        ("search_step", config.realm.batch_size, "exact search, a step"),
    ):
        query_BD = torch.empty(queries, index.dim).uniform_(-1, 1)
        taken = []
        for _ in range(16):
            began = time.perf_counter()
            index.search(query_BD, min(k, n))
            taken.append(time.perf_counter() - began)
        compared.time(what, n, numbers[f"{name}_seconds"], float(np.median(taken[1:])))


def _indexes(
    bench: Bench, compared: Comparison, options: Namespace, index: ExactIndex, machine: Machine, folder: Path
) -> None:
    n, dim = len(index), index.dim
    vector_ND = index.vectors(torch.arange(n)) if n <= 1_000_000 else None
    if vector_ND is None:
        bench.note(f"{n:,} passages: indexes of other kinds were not made")
        return
    for kind, dtype in (("bf16", "bfloat16"), ("int8", "int8")):
        ExactIndex(vector_ND, dtype=dtype).save(folder / kind)
        compared.size(f"disk: index {kind}", n, index_cost(kind, n, dim, None).disk, _size(folder / kind))
    if bench.peer("faiss") is None or n > options.indexed or n < MIN_CODED:
        return
    sample_SD = vector_ND[: 64 * cells(n)].numpy()
    for kind in codes.KINDS:
        lists = 0 if kind == "hnsw-sq" else cells(n)
        plan = codes.Plan(
            kind, dim, lists=lists, pieces=dim if kind == "ivf-pq" else 0, links=0 if lists else CODED_LINKS
        )
        began = time.perf_counter()
        shared = codes.cells(sample_SD, [vector_ND.numpy()], lists, dim) if lists else None
        coded = codes.Codes.build(plan, sample_SD, [vector_ND.numpy()], shared)
        seconds = time.perf_counter() - began
        coded.write(folder / kind)
        cost = index_cost(kind, n, dim, machine)
        compared.time(f"index {kind}", n, cost.seconds, seconds)
        compared.size(f"memory: index {kind}", n, cost.memory, (folder / kind).stat().st_size)


def _deep(
    bench: Bench, compared: Comparison, options: Namespace, config: PretrainConfig, model: Path, text: Text,
    snapshot: Snapshot, folder: Path,
) -> None:  # fmt: skip
    """Six layers, and the tagger with a network, on the first passages."""
    deep = override(config, ["encoder.layers=6", "encoder.pooling=mean", "data.spans_pipeline=en_core_web_sm"])
    machine = calibrate(deep, text)
    rows = torch.arange(min(options.deep, len(snapshot)))
    encoder = DenseEncoder.from_pretrained(model, layers=6, dim=None, pooling="mean", normalize="l2").eval()
    began = time.perf_counter()
    embed_rows(encoder, snapshot, rows, max_tokens=288)
    seconds = time.perf_counter() - began
    rate = machine.embedded(Work.of(len(snapshot), text.lengths, deep))
    compared.time("embed, six layers", len(rows), len(rows) / rate, seconds, "the first passages")
    if machine.tagged is None:
        bench.absent("salient spans by en_core_web_sm", machine.tagger_note)
        return
    part = Prefix(snapshot, options.tagged)
    began = time.perf_counter()
    find_spans(part, folder / "deep-spans", pipeline="en_core_web_sm")
    seconds = time.perf_counter() - began
    spans = estimate(len(part), deep, text=text, machine=machine)["numbers"]["spans_seconds"]
    compared.time("spans, en_core_web_sm", len(part), spans, seconds, "the first passages")


def _answers(compared: Comparison, kb_path: Path, index: ExactIndex, numbers: dict[str, Any], n: int) -> None:
    """The vectors of the knowledge base, from an encoder that takes no time."""
    kb, draw = KnowledgeBase.open(kb_path), np.random.default_rng(0)

    def encode(passages: Any) -> np.ndarray:
        return draw.standard_normal((len(passages), index.dim), dtype=np.float32)

    before = _size(kb_path / "passages.lance")
    kb.embed_missing(PassageEncoder("made", encode))
    after = _size(kb_path / "passages.lance")
    compared.size("disk: vectors for answering", n, numbers["answers_bytes"], after - before)


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def _anonymous() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon:"))
    return 1024 * int(line.split()[1])

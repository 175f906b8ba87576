"""How long an edit takes until the next question sees it, and whether that hangs on the size of the knowledge base.

    python benchmarks/bench_edits.py [--passages 10000,200000] [--edits 200] [--model MODEL] [--folder FOLDER] [--json]

Makes knowledge bases of one passage a document (random words; random vectors, as long as the model's own, so that
nothing has to be embedded), opens the service that `realm serve` puts behind HTTP over each, and adds, updates and
deletes documents one after the other, each followed by a search. A time is that from the call of the edit to the
answer that shows it: splitting, embedding, the commit, and the search. Housekeeping runs behind the edits, as it does
in a server. Printed are the 50th and 95th percentile and the maximum of each kind of edit, and the ratio of the 95th
percentiles of the largest and the smallest knowledge base.

What was deleted, and what was replaced, must never be found again: it is looked for by meaning and by words right after
the edit, once more at the end, and by another model object over the knowledge base opened again.

--folder: keeps the knowledge bases, so that the next run need not make them; they are edited as clones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realm import __version__
from realm.answering.questions import open_model
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.cloning import clone
from realm.service.asking import Model
from realm.service.core import Service
from realm.service.metrics import Metrics
from realm.service.settings import ServiceConfig
from realm.types import Document, Passage
from realm.workflows.store import create_or_open, open_knowledge_base

KINDS = ("add", "update", "delete")
WORDS, VOCABULARY = 60, 20_000
WARM = 5
"""Edits of each kind that are not counted."""
SEEN_AMONG = 20


def documents(count: int) -> Iterator[Document]:
    """Documents of random words, few of them frequent."""
    draw = np.random.default_rng(0)
    for number in range(count):
        words = (VOCABULARY * draw.random(WORDS) ** 3).astype(int)
        yield Document(f"d{number}", f"title {number}", " ".join(f"w{word}" for word in words) + ".")


def make(folder: Path, passages: int, model: Model) -> Path:
    """A knowledge base of so many passages, made once."""
    place = folder / f"kb-{passages}"
    if not place.exists():
        draw = np.random.default_rng(1)
        real = model.passage_encoder
        like = real([Passage("d", 0, "a title", "some words", 0, 10, ((0, 10),))])[0]

        def encode(found: Any) -> np.ndarray:
            vector_ND = draw.standard_normal((len(found), len(like)), dtype=np.float32)
            vector_ND *= np.linalg.norm(like) / np.linalg.norm(vector_ND, axis=1, keepdims=True)
            return np.asarray(vector_ND)

        made = place.with_suffix(".part")
        shutil.rmtree(made, ignore_errors=True)
        kb = create_or_open(made, passages="words", max_tokens=0, tokenizer="")
        kb.add(documents(passages), encoder=PassageEncoder(real.fingerprint, encode))
        kb.compact()
        made.rename(place)
    return place


def text_of(number: int, edition: str) -> str:
    """A text that nothing else has a word of."""
    return f"edition{edition}{number} of the matter{edition}{number} is kept{edition}{number} here{edition}{number}."


class Round:
    """Edits of one knowledge base, and what was found after each."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.gone: list[str] = []
        """Texts that must not be found any more."""

    async def edit(self, kind: str, work: Callable[[], Coroutine[Any, Any, Any]], text: str) -> None:
        """One edit, and a search for a text that it brought or took away."""
        began = time.perf_counter()
        done = await work()
        found = await self.service.search(text, k=SEEN_AMONG)
        self.seconds[kind].append(time.perf_counter() - began)
        there = text in {match.passage.text for match in found.matches}
        if there == (kind == "delete") or found.version < done.version:
            raise SystemExit(f"{kind} of {text!r} in version {done.version} is not seen in version {found.version}")

    async def check_gone(self, texts: list[str]) -> None:
        for text in texts:
            for by in ("meaning", "words"):
                found = await self.service.search(text, k=SEEN_AMONG, by=by)  # type: ignore[arg-type]
                if text in {match.passage.text for match in found.matches}:
                    raise SystemExit(f"found {text!r} by {by} in version {found.version}: it was taken away before")

    async def run(self, edits: int) -> None:
        service = self.service
        for number in range(edits + WARM):
            if number == WARM:
                self.seconds = {kind: [] for kind in KINDS}
            added, updated = (Document(f"{kind}-{number}", "made", text_of(number, kind)) for kind in ("new", "old"))
            standing = Document(f"d{7 * number}", "changed", text_of(number, "other"))
            await self.edit("add", lambda it=added: service.add([it]), added.text)  # type: ignore[misc]
            await self.edit("update", lambda it=standing: service.update(it), standing.text)  # type: ignore[misc]
            await service.add([updated])
            await self.edit("delete", lambda it=updated: service.delete(it.id), updated.text)  # type: ignore[misc]
            again = Document(standing.id, "changed", text_of(number, "last"))
            await self.edit("update", lambda it=again: service.update(it), again.text)  # type: ignore[misc]
            gone = [updated.text, standing.text]
            self.gone += gone
            await self.check_gone(gone)


def measure(place: Path, model: Model, edits: int, open_again: Callable[[], Model]) -> dict[str, dict[str, float]]:
    """Seconds of each kind of edit of a clone of the knowledge base."""
    work = place.with_name("work")
    shutil.rmtree(work, ignore_errors=True)
    clone(place, work)
    try:
        round_ = Round(_opened(work, model))
        asyncio.run(_all(round_, edits))
        round_.service.close()
        after = Round(_opened(work, open_again()))
        asyncio.run(after.check_gone(round_.gone))
        after.service.close()
        versions, size = KnowledgeBase.open(work).version, sum(f.stat().st_size for f in work.rglob("*") if f.is_file())
        print(
            f"  {len(round_.gone)} texts that were taken away are not found; {versions:,} versions, {size >> 20:,} MiB"
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {kind: _figures(seconds) for kind, seconds in round_.seconds.items()} | {
        "all": _figures([one for seconds in round_.seconds.values() for one in seconds])
    }


async def _all(round_: Round, edits: int) -> None:
    await round_.run(edits)
    await round_.check_gone(round_.gone)


def _opened(place: Path, model: Model) -> Service:
    service = Service(lambda: model, open_knowledge_base(place), ServiceConfig(), Metrics())
    service.open().result()
    return service


def _figures(seconds: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"edits": len(seconds), "p50": cuts[49], "p95": cuts[94], "max": max(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", default="10000,200000")
    parser.add_argument("--edits", type=int, default=200, help="rounds of an addition, two updates and a deletion")
    parser.add_argument("--model", type=Path, default=Path("vital-small"))
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="a file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sizes = [int(size) for size in options.passages.split(",")]
    print(f"realm {__version__}, Python {platform.python_version()}, {options.threads} of {os.cpu_count()} cores")
    found: dict[int, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder: Path = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        model = open_model(options.model, bf16=False)
        for size in sizes:
            place = make(folder, size, model)
            print(f"{size:,} passages")
            found[size] = measure(place, model, options.edits, lambda: open_model(options.model, bf16=False))
            for kind, one in found[size].items():
                told = "  ".join(f"{name} {1000 * one[name]:7.1f} ms" for name in ("p50", "p95", "max"))
                print(f"  {kind:7s} {one['edits']:5d} edits  {told}", flush=True)
    ratio = found[sizes[-1]]["all"]["p95"] / found[sizes[0]]["all"]["p95"]
    if len(sizes) > 1:
        print(f"p95 at {sizes[-1]:,} / p95 at {sizes[0]:,} passages = {ratio:.2f}")
    if options.json is not None:
        facts = {"realm": __version__, "python": platform.python_version(), "cores": options.threads}
        told = {"seconds": {str(size): one for size, one in found.items()}, "ratio_p95": ratio}
        options.json.write_text(json.dumps({**facts, **told}, indent=1))


if __name__ == "__main__":
    main()

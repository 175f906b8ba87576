"""From an exact index, or the run that holds one, to a compressed one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realm.errors import ArtefactError, UsageError
from realm.files import MANIFEST, read_json
from realm.knowledge.questions.asked import read_asked
from realm.models.encoders import DenseEncoder
from realm.search import compressed, tuning
from realm.search.exact import ExactIndex
from realm.search.jobs import steps
from realm.search.shards import FORMAT
from realm.training.batches import pad_tokens
from realm.training.state import latest_checkpoint
from realm.types import Question
from realm.workflows.reporting import Reporter, Silent

NAME = "compressed"
"""Of the folder beside the vectors."""


def compress(
    place: Path,
    *,
    recall: float = 0.95,
    out: Path | None = None,
    queries: Path | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Make a compressed index of an exact one; what was chosen, and why.

    place: the folder of an exact index, or a run, whose newest one is taken. out: a folder of its own, with a copy of
    the vectors; None writes the codes alone, into the exact index's folder, and copies nothing. queries: a file of
    questions (see `read_asked`) to measure with, encoded by the newest encoder of the index's run; None measures with
    stored vectors, moved a little.
    ArtefactError: there is no exact index, or no encoder for the questions. UsageError: an impossible recall, or a
    folder that holds something else. MissingLibraryError: faiss is not installed.
    """
    reporter = reporter or Silent()
    source = exact_index(Path(place))
    target = source / NAME if out is None else Path(out)
    if target.exists() and not _is(target, compressed.FORMAT):
        raise UsageError(f"{target} is there and is no compressed index: give another --out")
    if out is not None and target.absolute().is_relative_to(source.absolute()):
        raise UsageError(f"{target} lies in the index {source}: leave --out away, or give a place outside")
    exact = ExactIndex.open(source)
    query_BD = None if queries is None else _encoded(source, read_asked(queries))
    with reporter.stage(f"try kinds of indexes on {len(exact):,} vectors", "kinds") as progress:
        index = tuning.build(exact, recall, queries=query_BD, progress=progress)
    with reporter.stage("write the index"):
        index.save(target, beside=out is None)
    on_disk = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    return {
        "path": str(target),
        "made_from": str(source),
        "rows": len(index),
        "dim": index.dim,
        "bytes": on_disk,
        "vector_bytes_a_row": index.dim * {"float32": 4, "bfloat16": 2, "int8": 1}[exact.dtype],
        **index.chosen,
    }


def exact_index(place: Path) -> Path:
    """The folder of an exact index: `place`, or the newest of the run that it is. ArtefactError where there is none."""
    if _is(place, FORMAT):
        return place
    found = [folder for _, folder in steps(place / "index", MANIFEST) if _is(folder, FORMAT)]
    if not found:
        raise ArtefactError(
            f"no exact index in {place}: expected the folder of one (a run's index/step-...), or a run that has one"
        )
    return found[-1]


@torch.inference_mode()
def _encoded(index: Path, questions: Sequence[Question]) -> torch.Tensor:
    """Float[B, D]: questions as the run asks them to whom the index belongs."""
    run = index.absolute().parent.parent
    checkpoint = latest_checkpoint(run / "checkpoints")
    if checkpoint is None or not (checkpoint / "encoder").exists():
        raise ArtefactError(f"no encoder in {run}: expected the run that holds {index}, or no --queries")
    encoder = DenseEncoder.from_pretrained(checkpoint / "encoder").eval()
    settings = read_json(run / "config.json")
    most = int((settings.get("questions") or settings["data"])["max_query_tokens"])
    words, found = encoder.tokenizer, []
    for first in range(0, len(questions), 64):
        texts = [question.text for question in questions[first : first + 64]]
        ids = words(texts, truncation=True, max_length=most)["input_ids"]
        tokens = pad_tokens([np.array(one, np.int64) for one in ids], words.pad_token_id)
        found.append(encoder.encode_queries(tokens.to(encoder.device)).float().cpu())
    return torch.cat(found)


def _is(folder: Path, format: str) -> bool:
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_json(folder / MANIFEST)
    return isinstance(manifest, dict) and manifest.get("format") == format

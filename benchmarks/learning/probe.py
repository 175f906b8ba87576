"""One probe a seed, judged alike for every leg: the own document is never a hit, whatever the leg trained on.

Legend: P probe sentences, K hits, E excluded rows, D vector size, N passages.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realm import files
from realm.config import PretrainConfig
from realm.errors import MismatchError
from realm.evaluation.probe import judge
from realm.search.embed import embed_rows
from realm.search.exact import ExactIndex
from realm.training.probe import Probe, held_out_rows
from realm.types import NO_ROW, Encoder, MaskedBatch
from realm.workflows.parts import Text
from realm.workflows.pretraining.comparison import text_of

from .oracle import told_elsewhere

EXCLUDE = "document"
KS = (1, 5, 20)
BATCH = 32


class CommonProbe:
    """The probe of a seed and how it is judged."""

    def __init__(self, out: Path, text: Text, config: PretrainConfig) -> None:
        """Made from `config` by the first run of a seed and kept in ``out/probes``; later ones take what is there.

        MismatchError when `config` would train on some of its sentences.
        """
        self.text, self.seed = text, config.loop.seed
        snapshot, path = text.snapshot, Path(out) / "probes" / f"s{self.seed}.json"
        held_out = held_out_rows(snapshot, config.data.held_out_fraction, self.seed)
        if not path.exists():
            Probe.build(
                snapshot,
                text.spans,
                rows=held_out,
                size=config.probe.size,
                seed=self.seed,
                max_query_tokens=config.data.max_query_tokens,
                max_targets=config.data.max_targets,
            ).save(path)
        self.probe = Probe.load(path)
        self.probe.check(snapshot)
        seen = set(item.passage for item in self.probe.items) - set(held_out.tolist())
        if seen:
            raise MismatchError(
                f"{path} has sentences of {len(seen)} passages that data.held_out_fraction="
                f"{config.data.held_out_fraction} would train on: give the same fraction to all legs, or another OUT"
            )
        self.text_of = functools.cache(text_of(snapshot))
        self.answers = [item.answer for item in self.probe.items]
        self.documents = [item.document_id for item in self.probe.items]
        self.batches: list[MaskedBatch] = list(self.probe.batches(snapshot, BATCH, exclude=EXCLUDE))
        self.told = self._told(path.with_suffix(".told.json"))

    @property
    def exclude_PE(self) -> Tensor:
        """Rows that are no hits: those of the own document and copies of its passage."""
        width = max(batch.exclude_rows.shape[1] for batch in self.batches)
        padded = [
            torch.nn.functional.pad(batch.exclude_rows, (0, width - batch.exclude_rows.shape[1]), value=NO_ROW)
            for batch in self.batches
        ]
        return torch.cat(padded)

    def _told(self, path: Path) -> np.ndarray:
        if not path.exists():
            told = told_elsewhere(self.answers, self.exclude_PE, len(self.text.snapshot), self.text_of)
            files.write_json(path, {"told": np.flatnonzero(told).tolist()})
        told = np.zeros(len(self.probe), bool)
        told[files.read_json(path)["told"]] = True
        return told

    # ------------------------------------------------------------ judging

    def facts(self) -> dict[str, Any]:
        """What the figures were measured on."""
        return {
            "sentences": len(self.probe),
            "sentences_told_elsewhere": int(self.told.sum()),
            "documents": len(set(self.documents)),
            "exclude": EXCLUDE,
            "snapshot": self.probe.snapshot,
            "passages": len(self.text.snapshot),
        }

    def judge(self, rows_PK: Tensor) -> dict[str, Any]:
        """Recall over all sentences (``recall@5``) and over those told elsewhere (``recall@5_told``); who was found."""
        found = judge(rows_PK, self.answers, self.text_of, KS).found
        all_of = {f"recall@{k}": float(found[k].mean()) for k in KS}
        told = {f"recall@{k}_told": float(found[k][self.told].mean()) if self.told.any() else 0.0 for k in KS}
        return {**all_of, **told, "found": {str(k): np.flatnonzero(found[k]).tolist() for k in KS}}

    @torch.inference_mode()
    def search(self, encoder: Encoder, index: ExactIndex, batches: Sequence[MaskedBatch] | None = None) -> Tensor:
        """Long[P, K]: the best rows for each sentence. batches: the sentences in other words."""
        rows = []
        for batch in self.batches if batches is None else batches:
            query_BD = encoder.encode_queries(batch.query.to(encoder.device))
            rows.append(index.search(query_BD, max(KS), exclude=batch.exclude_rows).rows.cpu())
        return torch.cat(rows)

    def judge_encoder(self, encoder: Encoder, max_passage_tokens: int) -> dict[str, Any]:
        """Embed all passages and judge."""
        return self.judge(self.search(encoder, embed_all(encoder, self.text, max_passage_tokens)))


def embed_all(encoder: Encoder, text: Text, max_tokens: int) -> ExactIndex:
    """An index in memory."""
    rows = torch.arange(len(text.snapshot))
    return ExactIndex(embed_rows(encoder, text.snapshot, rows, max_tokens=max_tokens))

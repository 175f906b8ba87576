"""Arithmetic of a training, from the lengths of its texts and the shapes of its networks.

Counted are multiplications and additions of matrix products (2 for each pair of numbers) and of the optimizer:

- a transformer layer, a token in a text of L: 8 H^2 (projections) + 4 H I (feed-forward) + 4 L H (attention);
  an encoder without layers: 2 H (a weighted sum); the projection, a text: 2 H D
- forward once, backward twice that; a chunk that is computed again in the backward pass, once more
- the softmax of ICT: 2 D for each pair of a batch; REALM's scores: 2 D for each query and candidate
- search: 2 D for each query and passage; the index in use embeds the query once more
- the vocabulary head, a masked piece: 2 (H^2 + H V); the late reader's pointer, for each of its 5 offsets:
  2 H^2, and 2 H for each distinct word piece of the batch's passages
- a refresh: all passages forward; the optimizer: 12 for each trained parameter

Norms, softmaxes, activations, dropout and gathers are left out; mean lengths stand for all. Passages that stand under
several queries of a batch are encoded once, by the share of duplicates that the run logged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from realm.config import PretrainConfig
from realm.models.pointing import WINDOW
from realm.training.probe import Probe
from realm.workflows.estimating.shapes import Shape, cut, local_shape, shape_of
from realm.workflows.parts import Text

SAMPLE = 2000
"""Passages whose lengths stand for all."""
ADAM = 12
RECOMPUTED, TRAINED, FORWARD = 4, 3, 1


class Cost:
    """Operations of one step of each kind."""

    def __init__(self, config: PretrainConfig, text: Text, probe: Probe) -> None:
        self.config, snapshot = config, text.snapshot
        settings = local_shape(config.encoder.model)[0]
        self.encoder = shape_of(cut(settings, config.encoder.layers, "encoder.layers"))
        settings = local_shape(config.reader.model)[0]
        self.reader = shape_of(cut(settings, config.reader.layers, "reader.layers"))
        self.vocabulary = int(settings.vocab_size)
        self.dim = config.encoder.dim or self.encoder.hidden
        self.rows = len(snapshot)
        chosen = np.random.default_rng(0).permutation(self.rows)[:SAMPLE]
        limit = config.data.max_passage_tokens
        self.body_ids = snapshot.bodies(torch.from_numpy(chosen), limit - 2)
        self.passage = float(snapshot.passage_lengths(limit).mean())
        self.longest = int(snapshot.passage_lengths(limit).max())
        self.body = float(self.body_ids.lengths.float().mean())
        self.query = float(np.mean([len(item.query_ids) for item in probe.items]))
        self.targets = float(np.mean([len(item.targets) for item in probe.items]))

    def encode(self, texts: float, length: float, times: int) -> float:
        """Encoder over so many texts."""
        projection = 2 * self.encoder.hidden * self.dim if self.config.encoder.dim else 0
        return times * texts * (length * _token(self.encoder, length) + projection)

    def ict_step(self) -> float:
        batch = self.config.ict.batch_size
        again = batch * self.longest > self.config.ict.chunk_tokens
        times = RECOMPUTED if again else TRAINED
        texts = self.encode(batch, self.query, TRAINED) + self.encode(batch, self.passage, times)
        return texts + TRAINED * 2 * self.dim * batch**2

    def refresh(self) -> float:
        return self.encode(self.rows, self.passage, FORWARD)

    def realm_step(self, duplicates: float) -> float:
        """duplicates: the share of a batch's candidates that stand under another of its queries already."""
        realm = self.config.realm
        batch, real = realm.batch_size, realm.num_candidates - int(realm.null_passage)
        distinct = batch * real * (1 - duplicates)
        retriever = self.encode(batch, self.query, TRAINED + FORWARD) + self.encode(distinct, self.passage, TRAINED)
        if realm.over_retrieve > 1:
            retriever += self.encode(distinct * realm.over_retrieve, self.passage, FORWARD)
        retriever += 2 * self.dim * batch * (self.rows + TRAINED * realm.num_candidates)
        head = 2 * (self.reader.hidden**2 + self.reader.hidden * self.vocabulary)
        if self.config.reader.interaction == "late":
            reading = batch * self.query * _token(self.reader, self.query)
            pointer = (2 * WINDOW + 1) * 2 * self.reader.hidden * (self.reader.hidden + self._distinct_pieces(distinct))
            reading += batch * self.targets * (head + pointer)
        else:
            joint = self.query + self.body + 1
            reading = batch * (real * joint * _token(self.reader, joint) + self.query * _token(self.reader, self.query))
            reading += batch * realm.num_candidates * self.targets * head
        return realm.accumulation * (retriever + TRAINED * reading)

    def _distinct_pieces(self, passages: float) -> int:
        part = self.body_ids.select(torch.arange(min(len(self.body_ids), max(1, round(passages)))))
        return len(np.unique(part.ids[part.mask].numpy()))


def optimizer_step(facts: dict[str, Any]) -> float:
    """facts: of a checkpoint, which names the shapes of what was trained."""
    return float(ADAM * sum(int(np.prod(shape)) for group in facts["groups"] for shape in group["shapes"]))


def _token(shape: Shape, length: float) -> float:
    """One token forward."""
    if not shape.layers:
        return 2.0 * shape.hidden
    return shape.layers * (8.0 * shape.hidden**2 + 4.0 * shape.hidden * shape.inner + 4.0 * length * shape.hidden)

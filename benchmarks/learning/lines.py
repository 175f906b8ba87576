"""What the curves are measured against, on the same probes: flat lines, and a supervised dual encoder.

    python -m benchmarks.learning.lines KB OUT [--seeds 0,1,2] [--set probe.size=1000 ...]
        [--squad FOLDER --supervised-steps 1000]

Writes OUT/lines-sSEED.json: BM25 with two settings, the unmodified sentence encoder (mean pooling, cosine, 256 word
pieces; the sentence with [MASK], as the legs see it, and without its masked words, as BM25 sees it), and the oracle,
the share of sentences whose answer stands in a passage of another document. With --squad (corpus.jsonl.gz and
questions.train.jsonl.gz) also OUT/supervised-sSEED. What is there already is not made again. Give the --set of the
runs, so that probes are the same.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realm import files
from realm.errors import RealmError
from realm.knowledge.fetching import resolve_model
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.search.postings import Bm25
from realm.training.batches import pad_tokens
from realm.types import MaskedBatch
from realm.workflows import parts
from realm.workflows.parts import Text
from realm.workflows.reporting import Silent
from realm.workflows.store import open_knowledge_base

from .legs import config_of
from .probe import BATCH, KS, CommonProbe, embed_all
from .supervised import supervised

BM25 = {"BM25 (k1 0.9, b 0.4)": (0.9, 0.4), "BM25 (k1 1.2, b 0.75)": (1.2, 0.75)}
SENTENCE_ENCODER, SENTENCE_TOKENS = "all-MiniLM-L6-v2", 256
ORACLE = "oracle"


class Flat:
    """Lines that no training moves. What is costly is made once for all seeds."""

    def __init__(self, text: Text, sentence_encoder: str | None = SENTENCE_ENCODER) -> None:
        """sentence_encoder: left out when None."""
        self.text, self.sentence_encoder = text, sentence_encoder
        self._bm25: dict[str, Bm25] = {}
        self._dense: tuple[DenseEncoder, ExactIndex] | None = None

    def figures(self, common: CommonProbe, known: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Name and figures of each line that is not in `known`."""
        snapshot = self.text.snapshot
        without = [item.sentence[: item.span[0]] + item.sentence[item.span[1] :] for item in common.probe.items]
        for name, (k1, b) in BM25.items():
            if name not in known:
                if name not in self._bm25:
                    pairs = ((snapshot.title(row), snapshot.text(row)) for row in range(len(snapshot)))
                    self._bm25[name] = Bm25.build(pairs, k1=k1, b=b)
                yield name, common.judge(self._bm25[name](without, max(KS), exclude=common.exclude_PE).rows)
        for name, batches in (
            ("sentence encoder", self._unmasked(common, without)),
            ("sentence encoder, with [MASK]", common.batches),
        ):
            if self.sentence_encoder is not None and name not in known:
                encoder, index = self._open_sentence_encoder()
                yield name, common.judge(common.search(encoder, index, batches))
        told = {f"recall@{k}": float(common.told.mean()) for k in KS}
        yield ORACLE, {**told, "found": {str(k): np.flatnonzero(common.told).tolist() for k in KS}}

    def _open_sentence_encoder(self) -> tuple[DenseEncoder, ExactIndex]:
        if self._dense is None:
            assert self.sentence_encoder is not None, "its lines are asked for"
            encoder = DenseEncoder.from_pretrained(
                resolve_model(self.sentence_encoder), dim=None, pooling="mean", normalize="l2", dropout=0.0
            ).eval()
            self._dense = encoder, embed_all(encoder, self.text, SENTENCE_TOKENS)
        return self._dense

    def _unmasked(self, common: CommonProbe, sentences: list[str]) -> list[MaskedBatch]:
        """The probe's batches with other queries."""
        snapshot, found = self.text.snapshot, []
        for number, batch in enumerate(common.batches):
            part = sentences[number * BATCH : (number + 1) * BATCH]
            ids = snapshot.tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            texts = [np.array([snapshot.cls_id, *i[: SENTENCE_TOKENS - 2], snapshot.sep_id]) for i in ids]
            query = pad_tokens(texts, snapshot.pad_id)
            found.append(MaskedBatch(query, batch.target, batch.source_rows, batch.exclude_rows))
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kb", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--set", dest="settings", nargs="*", action="extend", default=[], metavar="NAME=VALUE")
    parser.add_argument(
        "--no-sentence-encoder", action="store_true", help="leave it out: six layers over a large corpus take hours"
    )
    parser.add_argument("--squad", type=Path, help="folder of corpus.jsonl.gz and questions.train.jsonl.gz")
    parser.add_argument("--supervised-steps", type=int, default=1000)
    parser.add_argument("--points", type=int, default=8)
    args = parser.parse_args()
    try:
        config = config_of("salient", 0, args.settings)
        if config.loop.threads:
            torch.set_num_threads(config.loop.threads)
        text = parts.prepare_text(open_knowledge_base(args.kb), config.encoder.model, config.data, Silent())
        flat = Flat(text, None if args.no_sentence_encoder else SENTENCE_ENCODER)
        for seed in map(int, args.seeds.split(",")):
            common = CommonProbe(args.out, text, config_of("salient", seed, args.settings))
            path = args.out / f"lines-s{seed}.json"
            lines: dict[str, Any] = files.read_json(path)["lines"] if path.exists() else {}
            for name, figures in flat.figures(common, lines):
                lines[name] = figures
                files.write_json(path, {"format": "realm learning, lines", "probe": common.facts(), "lines": lines})
            for name, figures in lines.items():
                recalls = "  ".join(f"@{k} {figures[f'recall@{k}']:.3f}" for k in KS)
                print(f"s{seed}  {name:32} {recalls}", flush=True)
            if args.squad:
                supervised(
                    args.out, text, args.settings, seed, args.squad, steps=args.supervised_steps, points=args.points
                )
                last = files.read_json(args.out / f"supervised-s{seed}" / "judged.json")["points"][-1]
                print(f"s{seed}  supervised, step {last['step']:<15} @5 {last['recall@5']:.3f}", flush=True)
    except RealmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

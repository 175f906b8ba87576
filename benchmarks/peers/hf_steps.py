"""The training steps of the Hugging Face REALM port as a process; driven by benchmarks/suites/step.py.

It runs in an environment of its own, see hf_realm.py. The first line names a .npz with the very tokens that realm's
step has, and the sizes; {"step": "ict"}, {"step": "realm"} and {"step": "tune"} each do one, forward and backward, and
tell its seconds. Weights and block embeddings are random. The port pads to the longest text of a batch.

ict    the port has no ICT: its embedder for queries and passages, their products, and a cross-entropy.
realm  a product of the query with all block embeddings and its first K, as `RealmForOpenQA` searches; `RealmScorer`
       over the candidates; `RealmKnowledgeAugEncoder` over the joint texts with their labels. Candidates and joint
       texts come as token ids: realm's own fetching and joining has no counterpart here.
tune   `RealmForOpenQA` with an answer, in training mode: one question, as the port allows no more.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from measuring import measured
from torch import nn
from transformers import (
    BertTokenizerFast,
    RealmConfig,
    RealmForOpenQA,
    RealmKnowledgeAugEncoder,
    RealmRetriever,
    RealmScorer,
)


class Steps:
    def __init__(self, facts: dict[str, Any]) -> None:
        torch.set_num_threads(facts["threads"])
        torch.manual_seed(0)
        found = np.load(facts["tokens"])
        self.given = {name: torch.from_numpy(found[name]) for name in found.files}
        self.facts = facts
        shape = {
            "vocab_size": facts["vocab_size"],
            "hidden_size": facts["hidden_size"],
            "intermediate_size": facts["intermediate_size"],
            "num_hidden_layers": facts["layers"],
            "num_attention_heads": facts["heads"],
            "retriever_proj_size": facts["dim"],
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "pad_token_id": 0,
        }
        config = RealmConfig(num_candidates=facts["candidates"], **shape)
        self.scorer = RealmScorer(config).train()
        self.reader = RealmKnowledgeAugEncoder(config).train()
        tokenizer = BertTokenizerFast.from_pretrained(facts["vocabulary"])
        lines = Path(facts["blocks"]).read_text(encoding="utf-8").splitlines()
        blocks = np.array([json.loads(line).encode() for line in lines], dtype=object)
        tuned = RealmConfig(
            searcher_beam_size=min(facts["early"], len(blocks)),
            reader_beam_size=facts["k"],
            reader_seq_len=facts["max_tokens"],
            max_span_width=facts["max_width"],
            span_hidden_size=facts["span_size"],
            num_block_records=len(blocks),
            **shape,
        )
        self.open_qa = RealmForOpenQA(tuned, RealmRetriever(blocks, tokenizer)).train()
        self.question = tokenizer([facts["question"]], return_tensors="pt")
        bare = {"add_special_tokens": False, "return_token_type_ids": False, "return_attention_mask": False}
        self.answer = tokenizer([facts["answer"]], **bare)["input_ids"]
        with torch.no_grad():
            found = self.open_qa.embedder(**self.question, return_dict=True).projected_score[0]
            self.open_qa.block_emb.normal_()
            self.open_qa.block_emb[facts["rows"]] = found
        self.vectors: dict[int, torch.Tensor] = {}

    def _tokens(self, name: str) -> dict[str, torch.Tensor]:
        return {
            "input_ids": self.given[f"{name}_ids"],
            "attention_mask": self.given[f"{name}_mask"],
            "token_type_ids": self.given[f"{name}_types"],
        }

    def ict(self, _: dict[str, Any]) -> torch.Tensor:
        embed = self.scorer.embedder
        query = embed(**self._tokens("ict_query"), return_dict=True).projected_score
        passage = embed(**self._tokens("ict_passage"), return_dict=True).projected_score
        return nn.functional.cross_entropy(query @ passage.T, torch.arange(len(query)))

    def realm(self, message: dict[str, Any]) -> torch.Tensor:
        count = self.facts["candidates"]
        rows = message["rows"]
        if rows not in self.vectors:
            self.vectors = {rows: torch.randn(rows, self.facts["dim"])}
        with torch.no_grad():
            asked = self.scorer.embedder(**self._tokens("query"), return_dict=True).projected_score
            torch.topk(torch.einsum("bd,qd->qb", self.vectors[rows], asked), k=count - 1, dim=-1)
        candidates = {f"candidate_{key}": value for key, value in self._tokens("passage").items()}
        score = self.scorer(**self._tokens("query"), **candidates, return_dict=True).relevance_score
        labels, mask = self.given["labels"], self.given["labels"] != -100
        joint = self._tokens("joint")
        return self.reader(**joint, relevance_score=score, labels=labels, mlm_mask=mask, return_dict=True).loss

    def tune(self, _: dict[str, Any]) -> torch.Tensor:
        return self.open_qa(**self.question, answer_ids=self.answer, return_dict=True).reader_output.loss

    def step(self, message: dict[str, Any]) -> dict[str, Any]:
        def work() -> float:
            loss = getattr(self, message["step"])(message)
            loss.backward()
            return float(loss)

        if message["step"] == "realm" and message["rows"] not in self.vectors:
            self.vectors = {message["rows"]: torch.randn(message["rows"], self.facts["dim"])}
        loss, told = measured(work)
        for model in (self.scorer, self.reader, self.open_qa):
            model.zero_grad(set_to_none=True)
        return {"loss": loss, **told}


def main() -> None:
    steps = Steps(json.loads(sys.stdin.readline()))
    ready = {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(steps.step(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

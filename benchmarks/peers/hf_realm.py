"""The Hugging Face REALM port as a process that answers one question at a time; driven by benchmarks/suites/ask.py.

It runs in an environment of its own (transformers 4.40.2 is the last release that has the port):

    python -m venv hfrealm && hfrealm/bin/pip install transformers==4.40.2 torch "numpy<2"

Reads one JSON object a line from standard input, writes one a line. First what to make:

    {"vocabulary": folder, "blocks": file.jsonl, "questions": [...], "rows": [[...], ...], "layers": 6, "dim": 128, ...}

`blocks` holds one passage text a line. Weights are random. Block embeddings are random, too, but for `rows`, the
passages that each question shall find: they get the question's own vector, which after the port's LayerNorm no
other vector of its length can beat. So the search is the port's own, and both systems read the same passages.
Then {"ask": i} answers question i and tells the seconds that this took, from text to text.
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
from transformers import BertTokenizerFast, RealmConfig, RealmForOpenQA, RealmRetriever


class Port:
    """The port's model with everything in memory."""

    def __init__(self, facts: dict[str, Any]) -> None:
        torch.set_num_threads(facts["threads"])
        torch.manual_seed(0)
        self.questions = facts["questions"]
        self.rows = facts["rows"]
        self.tokenizer = BertTokenizerFast.from_pretrained(facts["vocabulary"])
        lines = Path(facts["blocks"]).read_text(encoding="utf-8").splitlines()
        blocks = np.array([json.loads(line).encode() for line in lines], dtype=object)
        config = RealmConfig(
            vocab_size=facts["vocab_size"],
            hidden_size=facts["hidden_size"],
            intermediate_size=facts["intermediate_size"],
            num_hidden_layers=facts["layers"],
            num_attention_heads=facts["heads"],
            retriever_proj_size=facts["dim"],
            reader_beam_size=facts["k"],
            reader_seq_len=facts["max_tokens"],
            max_span_width=facts["max_width"],
            span_hidden_size=facts["span_size"],
            num_block_records=len(blocks),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.model = RealmForOpenQA(config, RealmRetriever(blocks, self.tokenizer)).eval()
        self.model.reader.register_forward_pre_hook(self._count, with_kwargs=True)
        self.read: list[dict[str, int]] = []
        self._plant(facts["dim"])

    def _count(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        mask = inputs["attention_mask"]
        self.read.append({"padded": mask.numel(), "tokens": int(mask.sum())})

    @torch.inference_mode()
    def _plant(self, dim: int) -> None:
        draw = np.random.default_rng(0)
        vector_ND = draw.standard_normal((len(self.model.block_emb), dim), dtype=np.float32)
        for question, rows in zip(self.questions, self.rows, strict=True):
            found = self.model.embedder(**self.tokenizer([question], return_tensors="pt"), return_dict=True)
            vector_ND[rows] = found.projected_score[0].numpy()
        self.model.block_emb.copy_(torch.from_numpy(vector_ND))

    @torch.inference_mode()
    def ask(self, number: int) -> dict[str, Any]:
        """The answer, its seconds from text to text, and how many tokens were read for it."""

        def work() -> str:
            question = self.tokenizer([self.questions[number]], return_tensors="pt")
            found = self.model(**question, return_dict=True)
            return self.tokenizer.decode(found.predicted_answer_ids)

        text, told = measured(work)
        return {"text": text, **told} | self.read[-1]


def main() -> None:
    port = Port(json.loads(sys.stdin.readline()))
    ready = {"transformers": transformers.__version__, "torch": torch.__version__, "numpy": np.__version__}
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(port.ask(json.loads(line)["ask"])), flush=True)


if __name__ == "__main__":
    main()

"""A made-up world of paintings, and the questions about it: what question answering is tested on."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny import tiny_bert

from realm.types import Question

PAINTINGS = 150
SETTINGS = {
    "encoder.layers": "0",
    "encoder.pooling": "weighted-mean",
    "encoder.frequency_a": "1000",
    "encoder.dim": "none",
    "encoder.normalize": "l2",
    "encoder.temperature": "0.1",
    "encoder.dropout": "0",
    "encoder.backbone_dropout": "0",
    "reader.layers": "none",
    "reader.span_size": "32",
    "reader.max_width": "3",
    "reader.max_tokens": "96",
    "encoder.freeze_word_embeddings": "true",
    "reader.freeze_word_embeddings": "true",
    "questions.max_passage_tokens": "40",
    "qa.retriever": "dense",
    "qa.steps": "120",
    "qa.batch_size": "16",
    "qa.num_passages": "2",
    "qa.num_early": "20",
    "qa.learning_rate": "0.001",
    "qa.token_weight_learning_rate": "0.05",
    "qa.reader_learning_rate": "0.003",
    "qa.head_learning_rate": "0.003",
    "dev.size": "60",
    "dev.num_passages": "2",
    "optim.warmup": "10",
    "loop.checkpoint_every": "40",
    "loop.log_every": "10",
    "loop.threads": "1",
    "loop.device": "cpu",
    "loop.tensorboard": "false",
}
"""Of a fine-tuning that learns to answer in seconds."""
WAYS = ("{a} was drawn by {b} in {c} .", "in {c} a hand of {b} made {a} .")


def names(count: int) -> list[str]:
    draw, found = random.Random(5), dict[str, None]()
    while len(found) < count:
        found["".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3)).capitalize()] = None
    return list(found)


def documents() -> list[dict[str, str]]:
    """One a painting: who made it, and where."""
    name = names(3 * PAINTINGS)
    rows = []
    for i in range(PAINTINGS):
        a, b, c = name[3 * i : 3 * i + 3]
        rows.append({"id": a.lower(), "title": "", "text": WAYS[i % len(WAYS)].format(a=a, b=b, c=c)})
    return rows


def questions() -> list[Question]:
    """Two a painting."""
    name = names(3 * PAINTINGS)
    found = []
    for i in range(PAINTINGS):
        a, b, c = name[3 * i : 3 * i + 3]
        found.append(Question(f"who-{a}", f"who made {a} ?", (b,), gold=(a.lower(),)))
        found.append(Question(f"where-{a}", f"where is {a} from ?", (c,), gold=(a.lower(),)))
    return found


def write_questions(path: Path, asked: Sequence[Question]) -> Path:
    rows = [{"id": q.id, "question": q.text, "answers": list(q.answers), "gold_ids": list(q.gold)} for q in asked]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def write_documents(path: Path) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in documents()) + "\n", encoding="utf-8")
    return path


def write_model(folder: Path, **settings: Any) -> Path:
    """A random BERT that knows the world's words."""
    texts = [row["text"] for row in documents()] + [question.text for question in questions()]
    return tiny_bert(folder, texts, **settings)

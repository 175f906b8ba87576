"""How long an answer takes: embed, search and read a question, alone and by 64, beside the Hugging Face port; and what
is saved where a settled answer is read no further, and where it was given before.

Without --kb: made passages, questions of made words. With --kb and --wiki204k (see benchmarks/wiki204k): the test
questions of nq_open over Wikipedia. Without --model, a retriever and a reader have random weights, and the passages'
vectors are random, as the time of a search does not depend on them; only those that a question shall find (those that
BM25 found for it, where the set names them) are the question's own vector, so that what is read has the length of what
is retrieved. KB is copied to --work first: it is not written.

--peer is the Python of an environment with transformers 4.40.2 (peers/hf_realm.py). The port has random weights of
equal size and finds the same passages as we did, by the same means: vectors of as many numbers, k passages of at most
as many tokens. Both wait for each other. It computes in float32, our reader as `realm ask` opens it: in bfloat16 where
the processor multiplies that, and in float32 beside it.
"""

from __future__ import annotations

import shutil
import tempfile
from argparse import Namespace, _ArgumentGroup
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.core import made
from benchmarks.core.bench import Bench
from benchmarks.core.outside import HF_REALM, Outside, outside
from benchmarks.core.timing import Contestant
from benchmarks.suites import asking, saving
from realm import KnowledgeBase, QuestionAnswering
from realm.knowledge.text.passages import SentenceSplitter
from realm.models.precision import multiplies_bfloat16
from realm.models.span import SpanReader

PEER = "Hugging Face REALM"
QUICK = {"passages": 60, "layers": 1, "hidden": 32, "questions": 4, "batch": 4}


def arguments(parser: _ArgumentGroup) -> None:
    parser.add_argument("--kb", type=Path, help="a knowledge base; made passages if not given")
    parser.add_argument("--wiki204k", type=Path, help="with --kb: the folder that benchmarks/wiki204k made")
    parser.add_argument("--model", type=Path, help="a fine-tuned model; random weights if not given")
    parser.add_argument("--work", type=Path, help="where the copy of the knowledge base is kept; a temporary folder")
    whole = (("passages", 20_000), ("layers", 6), ("hidden", 384), ("k", 5), ("questions", 60), ("batch", 64))
    for name, value in whole:
        parser.add_argument(f"--{name}", type=int, default=value)


def run(bench: Bench, options: Namespace) -> None:
    if (options.kb is None) != (options.wiki204k is None):
        raise SystemExit("found one of --kb and --wiki204k: expected both, or neither for made passages")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.model is None:
            source = made.model(folder / "model", layers=options.layers, hidden=options.hidden)
            model = asking.with_random_weights(source)
        else:
            model = QuestionAnswering.from_pretrained(options.model, bf16=False)
        kb, rows = _text(options, folder, bench)
        texts = [row["question"] for row in rows]
        if options.model is None:
            wanted = asking.plan(kb, rows, options.k)
            kb.embed_missing(asking.planted(model, texts, wanted))
        else:
            kb.embed_missing(model.passage_encoder)
        exact = model.reader
        if multiplies_bfloat16(exact.device):
            model.reader = exact.in_bfloat16()
        keys = [asking.read_by(model.ask(text, kb, options.k)) for text in texts]
        if options.model is None and any(set(mine) != set(theirs) for mine, theirs in zip(wanted, keys, strict=True)):
            raise SystemExit("the copy holds the vectors of other questions: give another --work, or remove it")
        if options.peer is None:
            bench.absent(PEER, HF_REALM)
        facts = asking.for_the_port(model, kb, texts, keys, options, folder) if options.peer else {}
        with outside(options.peer, "hf_realm.py", facts) as port:
            if port is not None:
                bench.record.versions["transformers of the port"] = port.versions["transformers"]
            one_by_one(bench, model, exact, kb, texts, port, options.k)
            together(bench, model, kb, texts, port, options)
        saving.early(bench, model, kb, texts, options.k)
        saving.again(bench, model, kb, texts, options.k)


def one_by_one(
    bench: Bench,
    model: QuestionAnswering,
    exact: SpanReader,
    kb: KnowledgeBase,
    texts: list[str],
    port: Outside | None,
    k: int,
) -> None:
    """Round n is question n of everybody."""
    usual, size = model.reader, kb.num_passages()
    readers = {"realm": usual}
    if usual is not exact:
        readers["realm, reader in float32"] = exact

    def ask(name: str) -> Callable[[], None]:
        numbers = count()

        def asked() -> None:
            model.reader = readers[name]
            model.ask(texts[next(numbers) % len(texts)], kb, k)

        return asked

    contestants = []
    for name in readers:
        run = ask(name)
        parts = asking.parts(model, run)
        role = "variant" if contestants else "realm"
        contestants.append(Contestant(who=name, role=role, run=run, facts=parts))
    if port is not None:
        numbers = count()
        contestants.append(
            Contestant(
                who=PEER,
                run=lambda: port.seconds({"ask": next(numbers) % len(texts)}),
                peak=lambda: port.peak_bytes,
            )
        )
    rounds = max(bench.rounds, len(texts))
    bench.contest("question, one at a time", contestants, size=size, of="passages", rounds=rounds)
    model.reader = usual


def together(
    bench: Bench,
    model: QuestionAnswering,
    kb: KnowledgeBase,
    texts: list[str],
    port: Outside | None,
    options: Namespace,
) -> None:
    """A batch; and a quarter of its questions one after the other, for whoever has no batches."""
    many = [texts[number % len(texts)] for number in range(options.batch)]
    few = many[: max(2, options.batch // 4)]

    def batch() -> None:
        for _ in model.ask_many(many, kb, options.k, batch=options.batch):
            pass

    def alone() -> None:
        for text in few:
            model.ask(text, kb, options.k)

    contestants = [
        Contestant(who="realm", role="realm", run=batch, items=len(many)),
        Contestant(who="realm, one by one", role="variant", run=alone, items=len(few)),
    ]
    if port is not None:

        def theirs() -> float:
            return sum(port.seconds({"ask": number % len(texts)}) for number in range(len(few)))

        contestants.append(
            Contestant(who=f"{PEER}, one by one", run=theirs, items=len(few), peak=lambda: port.peak_bytes)
        )
    name = f"questions, {options.batch} together"
    bench.contest(name, contestants, unit="questions", size=kb.num_passages(), of="passages", rounds=5)


def _text(options: Namespace, folder: Path, bench: Bench) -> tuple[KnowledgeBase, list[dict[str, Any]]]:
    """The knowledge base, which may be written, and the questions."""
    work = options.work or folder / "kb"
    if options.kb is not None:
        if not work.exists():
            shutil.copytree(options.kb, work)
        return KnowledgeBase.open(work), asking.nq_open(options.wiki204k, options.questions)
    bench.say("making a knowledge base")
    kb = KnowledgeBase.create(work, split=SentenceSplitter(made.tokenizer(), 288))
    kb.add(made.documents(options.passages, 100))
    return kb, [{"question": text} for text in made.questions(options.questions)]

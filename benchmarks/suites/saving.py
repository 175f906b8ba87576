"""What `ask` saves: answers that were given before, and passages behind an answer that is settled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

from benchmarks.core.bench import Bench
from benchmarks.core.timing import Contestant
from realm import KnowledgeBase, QuestionAnswering
from realm.answering.early import EarlyExit
from realm.service.core import Service
from realm.service.metrics import Metrics
from realm.service.settings import ServiceConfig
from realm.settings import override

EXITS = (0.8, 0.99)


def again(bench: Bench, model: QuestionAnswering, kb: KnowledgeBase, texts: list[str], k: int) -> None:
    """A question to the service that was asked before, and one that was not, with the cache of answers and without."""
    with _asker(model, kb, k) as cached, _asker(model, kb, k, "cache.entries=0") as plain:
        for text in texts:
            cached(text)
        numbers, fresh = count(), count()

        def repeated(ask: Callable[[str], None]) -> Callable[[], None]:
            return lambda: ask(texts[next(numbers) % len(texts)])

        def new(ask: Callable[[str], None]) -> Callable[[], None]:
            return lambda: ask(f"{texts[next(fresh) % len(texts)]} {next(fresh)}")

        contestants = [
            Contestant(who="realm, no cache", role="realm", run=repeated(plain)),
            Contestant(who="realm, in the cache", role="variant", run=repeated(cached)),
        ]
        rounds = max(bench.rounds, len(texts))
        size = kb.num_passages()
        bench.contest("question asked again, of the service", contestants, size=size, of="passages", rounds=rounds)
        contestants = [
            Contestant(who="realm, no cache", role="realm", run=new(plain)),
            Contestant(who="realm, not in the cache", role="variant", run=new(cached)),
        ]
        bench.contest("question asked first, of the service", contestants, size=size, of="passages", rounds=rounds)


def early(bench: Bench, model: QuestionAnswering, kb: KnowledgeBase, texts: list[str], k: int) -> None:
    """Questions that are read to the end, and no further than their answer hangs on, by each rule; the facts tell how
    much was read, and how many answers are others than those of a whole reading."""

    def ask(early_exit: EarlyExit | None) -> Callable[[], None]:
        numbers = count()

        def run() -> None:
            model.ask(texts[next(numbers) % len(texts)], kb, k, early_exit=early_exit)

        return run

    wholly = [model.ask(text, kb, k) for text in texts]
    contestants = [Contestant(who="realm, all passages read", role="realm", run=ask(None))]
    for rule in ("bound", "prior"):
        for mass in EXITS:
            chosen = EarlyExit(mass, rule)  # type: ignore[arg-type]
            partly = [model.ask(text, kb, k, early_exit=chosen) for text in texts]
            read = sum(len(answer.evidence) for answer in partly)
            others = sum(
                model.normalize(mine.text) != model.normalize(all_.text)
                for mine, all_ in zip(partly, wholly, strict=True)
            )
            facts = {
                "share read": round(read / max(1, sum(len(answer.evidence) for answer in wholly)), 3),
                "answers changed": others,
                "questions": len(texts),
            }
            who = f"realm, early exit at {mass:.0%} by {rule}"
            contestants.append(Contestant(who=who, role="variant", run=ask(chosen), facts=facts))
    level = model.config.qa.level
    rounds = max(bench.rounds, len(texts))
    bench.contest(f"question, early exit, level {level}", contestants, size=k, of="passages read", rounds=rounds)


@contextmanager
def _asker(model: QuestionAnswering, kb: KnowledgeBase, k: int, *settings: str) -> Iterator[Callable[[str], None]]:
    service = Service(lambda: model, kb, override(ServiceConfig(), settings), Metrics())
    service.open().result()
    try:
        with asyncio.Runner() as runner:

            async def ask(text: str) -> None:
                (coming,) = await service.ask([text], k)
                await coming

            yield lambda text: runner.run(ask(text))
    finally:
        service.close()

"""A model and a knowledge base that answer while documents are edited. No HTTP here: HTTP and tools call it.

Four places of work, so that none waits for another: a thread for questions, one for questions about the past (whose
vectors may have to be made), one for edits, and a few for reading documents. Housekeeping and a change of the model
have threads of their own behind these.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import torch

from realm.answering.ask import check_asking
from realm.answering.conflicts import ConflictRule
from realm.answering.constraints import Constraints
from realm.answering.early import EarlyExit
from realm.answering.questions import QuestionAnswering
from realm.answering.retrieving import search_words
from realm.errors import UsageError
from realm.knowledge.base import Counts, KnowledgeBase, Page, Revision
from realm.knowledge.table.filters import Filter, at_moment
from realm.knowledge.table.predicates import parse
from realm.knowledge.table.store import InUseError
from realm.knowledge.table.times import AsOf
from realm.service.asking import Answers, Asking, Found, Model, Searching
from realm.service.background import Closing, ModelChange, Upkeep, embed_all
from realm.service.caching import Caching
from realm.service.cursors import Cursor
from realm.service.metrics import Metrics
from realm.service.problems import SOON, RefusedError, stopping
from realm.service.settings import ServiceConfig
from realm.types import Answer, Document
from realm.workflows.ask import passages_to_read
from realm.workflows.history import history_of

T = TypeVar("T")
READERS = 4

log = logging.getLogger("realm.service")


class Service:
    """Opens the model in the background; until then everything that needs it is refused with 503."""

    def __init__(
        self,
        open_model: Callable[[], Model],
        kb: KnowledgeBase,
        config: ServiceConfig,
        metrics: Metrics,
        trainings: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        """trainings: those that the model stems from, as JSON values; read once, with the model."""
        self.kb, self.config, self.limits, self.metrics = kb, config, config.limits, metrics
        self.failure: BaseException | None = None
        """What opening the model ended with, when it did not succeed."""
        self._open_model, self._read_trainings = open_model, trainings
        self._trainings: list[dict[str, Any]] = []
        self._model: Model | None = None
        self._complete = -1
        """The version of which every passage was seen to have a vector."""
        self._embedding: Future[None] | None = None
        self._embedded: tuple[int, int | None] | None = None
        """How far the present embedding is: passages done, and all of them."""
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._cache = Caching(kb, config.cache, metrics)
        kept = self._cache.keep if self._cache.on else None
        self._answers = Answers(lambda: self.model, kb, config.batching, metrics.batch, kept)
        # torch gives a new thread the number that any other was told last.
        self._editor = ThreadPoolExecutor(1, "realm-edit", torch.set_num_threads, (self._answers.cores,))
        self._readers = ThreadPoolExecutor(READERS, "realm-read")
        self._upkeep = Upkeep(kb)
        self._change = ModelChange(kb, open_model, self._editor.submit, self._take, self._closing, self._answers.cores)

    def open(self) -> Future[None]:
        """Begin to open the model and to embed what has no vector yet."""
        return self._editor.submit(self._open)

    def change_model(self) -> None:
        """Begin to open the model again, and to change to it when every passage has its vector; see `ModelChange`.

        Nothing happens before the first one is open, and where opening or embedding fails: then the old one goes on.
        """
        if self._model is not None:
            self._change.begin()

    def close(self) -> None:
        """Finish what was taken. An edit that has begun is committed; embedding stops and goes on at the next start."""
        self._closing.set()
        self._answers.close()
        self._change.wait()
        self._editor.shutdown()
        self._readers.shutdown()
        self._upkeep.close()

    # ------------------------------------------------------------ what there is

    @property
    def model(self) -> Model:
        """RefusedError (503) until it is open."""
        if self._model is None:
            done, total = self._embedded or (0, None)
            embedding = f"{done:,} of {total:,} passages are embedded" if total else "the model is being opened"
            raise RefusedError(503, "not_ready", f"{embedding}: try again", SOON)
        return self._model

    @property
    def places(self) -> dict[str, str]:
        """Paths on this machine, which no message may name, and what is said instead."""
        return {str(path): "the knowledge base" for path in (self.kb.address, self.kb.path, self.kb.path.resolve())}

    async def check_ready(self) -> None:
        """RefusedError (503) until the model is open and every passage has its vector."""
        self._check_open()
        if reason := await self._reading(self._not_embedded):
            raise RefusedError(503, "not_ready", reason, SOON)

    async def measured(self) -> bytes:
        """The metrics, those of the knowledge base as they are now."""

        def measure() -> bytes:
            self.metrics.version.set(self.kb.version)
            if self._model is not None:
                waiting, age = self._waiting(self.kb, self._model)
                self.metrics.waiting.set(waiting)
                self.metrics.index_age.set(age)
            return self.metrics.text()

        return await self._reading(measure)

    async def knowledge_base(self) -> dict[str, Any]:
        """What is known and how fresh its vectors are."""
        return await self._reading(self._facts)

    def about_model(self) -> dict[str, Any]:
        """What answers, and the trainings that it stems from."""
        tuned = isinstance(self.model, QuestionAnswering)
        return {
            "kind": "fine-tuned" if tuned else "pre-trained",
            "encoder": self.model.passage_encoder.fingerprint,
            "k": passages_to_read(self.model, None),
            "trainings": self._trainings,
        }

    # ------------------------------------------------------------ questions

    async def ask(
        self,
        questions: Sequence[str],
        k: int | None = None,
        where: str | None = None,
        as_of: AsOf | None = None,
        aggregate: str | None = None,
        conflicts: ConflictRule | None = None,
        constraints: Constraints | None = None,
        early_exit: EarlyExit | None = None,
    ) -> list[asyncio.Future[Answer]]:
        """The answers to come, one a question; see `Realm.ask`. Those that were given before are done. RefusedError and
        UsageError before any is answered."""
        self._few("questions", len(questions), self.limits.questions)
        for question in questions:
            self._short("a question", question)
        self._small_k(k)
        check_asking(aggregate, k=k)
        await self._check_where(where, as_of)
        if early_exit is None and self.config.early_exit and isinstance(self.model, QuestionAnswering):
            early_exit = EarlyExit(self.config.early_exit)
        k = passages_to_read(self.model, k)
        asking = Asking(k, where or None, as_of, aggregate, conflicts, constraints, early_exit)
        if not self._cache.on:
            return [self._given(self._answers.submit, asking, question) for question in questions]
        known = await self._reading(self._cache.look, asking, questions)
        return [
            self._given(self._answers.submit, asking, question) if answer is None else _done(answer)
            for question, answer in zip(questions, known, strict=True)
        ]

    async def search(
        self,
        query: str,
        k: int = 5,
        where: str | None = None,
        as_of: AsOf | None = None,
        by: Literal["meaning", "words"] = "meaning",
        constraints: Constraints | None = None,
    ) -> Found:
        """The best passages: by the model's vectors, or by BM25."""
        self._short("a query", query)
        self._small_k(k)
        await self._check_where(where, as_of)
        if by == "words":
            return await self._reading(self._by_words, query, k, where, as_of, constraints)
        self._check_open()
        searching = Searching(k, where or None, as_of, constraints)
        found: Found = await self._given(self._answers.submit, searching, query)
        return found

    # ------------------------------------------------------------ documents

    async def add(self, documents: Sequence[Document]) -> Counts:
        """Add all or none, in one commit with their vectors. PresentError when one is there already."""
        self._few("documents", len(documents), self.limits.documents)
        return await self._edit(lambda model: self.kb.add(documents, encoder=model.passage_encoder))

    async def update(self, document: Document, expected: int | None = None) -> Counts:
        """Replace a document, in one commit with its vectors. AbsentError when it isn't there. expected: the version of
        its last change, as far as the writer knows; ChangedError when there was another."""
        return await self._edit(
            lambda model: self.kb.update(document, encoder=model.passage_encoder, expected=expected)
        )

    async def delete(self, document_id: str, expected: int | None = None) -> Counts:
        """Delete a document; its history stays. AbsentError when it isn't there. expected: as for `update`."""
        return await self._edit(lambda model: self.kb.delete(document_id, expected=expected))

    async def restore(self, document_id: str, as_of: AsOf) -> Counts:
        """Make a document again what it was; see `KnowledgeBase.restore`. AbsentError when it was not there then."""
        return await self._edit(lambda model: self.kb.restore(document_id, as_of, encoder=model.passage_encoder))

    async def get(self, document_id: str, as_of: AsOf | None = None) -> tuple[Document, Revision, int] | None:
        """A document, its last change and the version it was read from; None when it isn't there."""

        def read() -> tuple[Document, Revision, int] | None:
            now = self.kb.at(self.kb.version if as_of is None else as_of)
            document, revision = now.get(document_id), now.revision(document_id)
            return None if document is None or revision is None else (document, revision, now.version)

        return await self._reading(read)

    async def page(
        self, where: str | None, limit: int, start: Cursor, as_of: AsOf | None = None
    ) -> tuple[Page, datetime | None]:
        """Some documents of a version, and what NOW() meant, None where nothing hung on it: of the moment of `as_of`,
        else of the page before, else the present."""
        self._few("documents on a page", limit, self.limits.page)

        def read() -> tuple[Page, datetime | None]:
            here = self.kb.at(self.kb.version if start.version is None else start.version)
            earlier = start.now if as_of is None else None
            among = at_moment(where, lambda: earlier or self.kb.moment(as_of))
            return here.page(among, limit, start.after), among.now if isinstance(among, Filter) else None

        return await self._reading(read)

    async def history(self, document_id: str, limit: int, before: int | None) -> list[dict[str, Any]]:
        """Changes of a document; see `history_of`."""
        self._few("changes on a page", limit, self.limits.page)
        return await self._reading(history_of, self.kb, document_id, limit, before, self.limits.history_characters)

    # ------------------------------------------------------------ in the threads

    def _open(self) -> None:
        try:
            model = self._open_model()
            self._take(model, self._embed(model))
            log.info("ready: version %d of the knowledge base", self.kb.version)
        except Closing:
            pass
        except BaseException as error:
            self.failure = error
            raise

    def _take(self, model: Model, complete: int) -> None:
        self._trainings = self._read_trainings()
        self._complete = complete
        self._cache.take(model)
        self._model = model

    def _embed(self, model: Model) -> int:
        def progress(done: int, total: int | None) -> None:
            self._embedded = done, total
            if self._closing.is_set():
                raise Closing

        complete = -1
        try:
            complete = embed_all(self.kb, model, progress, self._upkeep.edited)
        except InUseError as error:  # the next look whether it is ready tries again
            log.warning("not embedded yet: %s", error)
        self._embedded = None
        return complete

    def _embed_again(self) -> None:
        self._complete = self._embed(self.model)

    def _not_embedded(self) -> str:
        version = self.kb.version
        if version == self._complete:
            return ""
        waiting = self.kb.waiting(self.model.passage_encoder.fingerprint).passages
        if not waiting:
            self._complete = version
            return ""
        # Somebody else wrote without this model. The next question would embed it; a server that gets none until it is
        # ready would wait for ever.
        with self._lock, suppress(RuntimeError):  # shut down meanwhile
            if self._embedding is None or self._embedding.done():
                self._embedding = self._editor.submit(self._embed_again)
        return f"{waiting:,} passages have no vector yet"

    def _by_words(
        self, query: str, k: int, where: str | None, as_of: AsOf | None, constraints: Constraints | None
    ) -> Found:
        found = search_words(query, self.kb, k, where, as_of, constraints)
        return Found(found.matches[0], found.version, found.now)

    def _facts(self) -> dict[str, Any]:
        now = self.kb.at(self.kb.version)
        facts: dict[str, Any] = {
            "version": now.version,
            "documents": len(now),
            "passages": now.num_passages(),
            "columns": now.columns(),
            "encoders": now.encoders(),
            "index": None,
        }
        if self._model is not None:
            waiting, age = self._waiting(now, self._model)
            encoder = self._model.passage_encoder.fingerprint
            facts["index"] = {"encoder": encoder, "waiting": waiting, "age_seconds": age}
        return facts

    def _waiting(self, kb: KnowledgeBase, model: Model) -> tuple[int, float]:
        """How many passages have no vector of the model, and for how many seconds the oldest of them has waited."""
        found = kb.waiting(model.passage_encoder.fingerprint)
        age = 0.0 if found.since is None else (datetime.now(UTC) - found.since).total_seconds()
        return found.passages, max(0.0, age)

    # ------------------------------------------------------------ checks and threads

    def _check_open(self) -> None:
        self.model  # noqa: B018  # raises

    async def _check_where(self, where: str | None, as_of: AsOf | None) -> None:
        """A faulty predicate is told at once, and of a whole request, not of each of its questions."""
        if where and where.strip() and as_of is None:
            await self._reading(lambda: parse(where, self.kb.columns()))

    def _few(self, what: str, found: int, most: int) -> None:
        if found > most:
            raise RefusedError(422, "too_many", f"found {found:,} {what}: expected at most {most:,}")

    def _short(self, what: str, text: str) -> None:
        if not text.strip():
            raise UsageError(f"found {what} without a word: expected some words")
        if len(text) > self.limits.question_characters:
            raise RefusedError(
                422,
                "too_long",
                f"found {what} of {len(text):,} characters: expected at most {self.limits.question_characters:,}",
            )

    def _small_k(self, k: int | None) -> None:
        if k is not None and k < 1:
            raise UsageError(f"found k={k}: expected at least 1")
        if k is not None and k > self.limits.passages:
            raise RefusedError(422, "too_many", f"found k={k:,}: expected at most {self.limits.passages:,}")

    async def _edit(self, edit: Callable[[Model], Counts]) -> Counts:
        def work() -> Counts:
            counts = edit(self.model)  # whichever it is by then
            # Here and not behind the wait: the client may have left, the edit is made all the same.
            self._upkeep.edited()
            self.metrics.edited(added=counts.added, updated=counts.updated, deleted=counts.deleted)
            return counts

        self._check_open()
        return await self._given(self._editor.submit, work)

    async def _reading(self, work: Callable[..., T], *arguments: Any) -> T:
        return await self._given(self._readers.submit, work, *arguments)

    def _given(self, submit: Callable[..., Future[T]], *work: Any) -> asyncio.Future[T]:
        """What a thread will give for the work. RefusedError (503) where they are ending and take nothing more."""
        try:
            return asyncio.wrap_future(submit(*work))
        except RuntimeError:
            raise stopping() from None


def _done(answer: Answer) -> asyncio.Future[Answer]:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future

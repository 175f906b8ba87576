"""Work behind questions and edits: folding small files, and changing the model.

Neither is waited for: questions are answered all the while, and an edit at most waits for a commit.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import torch

from realm.errors import RealmError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.table.store import CanNotWriteError
from realm.service.asking import Model
from realm.service.memory import give_back
from realm.types import Progress

log = logging.getLogger("realm.service")

NICE = 10
"""How much less the processor's scheduler favours the embedding for another model than answers."""
GIVE_BACK_SECONDS = 10.0
"""Freed memory goes back at most so often: what is taken again has to be cleared by the system first. Between two times
about a megabyte a second piles up under load."""


class Closing(Exception):
    """Carries the end of the service into an embedding."""


class Upkeep:
    """Tidies a knowledge base after edits, in a thread of its own, never twice at once."""

    def __init__(self, kb: KnowledgeBase) -> None:
        """From now on `kb` leaves it to this."""
        kb.upkeep.leave_to_tidy()
        self._kb = kb
        self._worker = ThreadPoolExecutor(1, "realm-tidy")
        self._running: Future[None] | None = None
        self._given_back = time.monotonic()

    def edited(self) -> None:
        """Something was written: look whether it is worth while."""
        with suppress(RuntimeError):  # shut down meanwhile
            if self._running is None or self._running.done():
                self._running = self._worker.submit(self._tidy)

    def close(self) -> None:
        """Finish what has begun."""
        self._worker.shutdown()

    def _tidy(self) -> None:
        try:
            self._kb.upkeep.tidy()
        except RealmError as error:
            log.warning("not tidied: %s", error)
        if time.monotonic() - self._given_back >= GIVE_BACK_SECONDS:
            give_back()
            self._given_back = time.monotonic()


class ModelChange:
    """Puts another model in the place of the present one, when every passage has its vector of the new one.

    Until then the old one answers, and its vectors stay. Passages that are edited meanwhile get the new model's vectors
    in a last round that edits wait for; those of other processes at the next question, as ever.
    """

    def __init__(
        self,
        kb: KnowledgeBase,
        open_model: Callable[[], Model],
        finish: Callable[[Callable[[], None]], Future[None]],
        swap: Callable[[Model, int], None],
        closing: threading.Event,
        cores: int,
    ) -> None:
        """finish: does work in the thread of edits. swap: takes the model into use, with what `embed_all` gave. cores:
        that it may embed on."""
        self._kb, self._open_model, self._finish, self._swap = kb, open_model, finish, swap
        self._closing, self._cores = closing, cores
        self._wanted = False  # no Event: a signal that comes while one is being set would wait for itself
        self._lock = threading.RLock()  # a signal may come while it is held for one before
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Open the model again and change to it; asked for while one is being changed, once more after that."""
        with self._lock:
            self._wanted = True
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(target=self._work, name="realm-model")
                self._thread.start()

    def wait(self) -> None:
        """Until no change is under way."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        _step_back()
        torch.set_num_threads(self._cores)
        while True:
            with self._lock:
                if not self._wanted or self._closing.is_set():
                    self._thread = None
                    return
                self._wanted = False
            try:
                self._change()
            except Closing:
                log.info("model: the change goes on at the next start")
            except Exception as error:  # whatever a folder holds: the old model goes on answering
                ours = isinstance(error, RealmError)
                log.error("model: not changed, the old one goes on: %s", error, exc_info=not ours)

    def _change(self) -> None:
        log.info("model: opening it again")
        model = self._open_model()
        encoder = model.passage_encoder
        told = 0

        def progress(done: int, total: int | None) -> None:
            nonlocal told
            if total and 10 * done // total > told:
                told = 10 * done // total
                log.info("model: %s of %s passages are embedded for %s", f"{done:,}", f"{total:,}", encoder.fingerprint)
            if self._closing.is_set():
                raise Closing

        embed_all(self._kb, model, progress)

        def finish() -> None:
            self._swap(model, embed_all(self._kb, model, progress))

        self._finish(finish).result()
        log.info("model: %s answers from version %d on", encoder.fingerprint, self._kb.version)


def embed_all(kb: KnowledgeBase, model: Model, progress: Progress, written: Callable[[], None] | None = None) -> int:
    """Give all passages their vectors, and read them, so that no question waits for either.

    Where nothing can be written they are made in memory, and the version that they are of is given; else -1: whether
    every passage has its vector is to be seen in the knowledge base. progress: may raise to end it. written: told when
    vectors were committed, whose index may want bringing up to date.
    """
    try:
        if kb.embed_missing(model.passage_encoder, progress=progress) and written is not None:
            written()
        model.retrieval.hold(kb)
    except CanNotWriteError as error:
        log.warning("not embedded: %s", error)
        return model.retrieval.hold_in_memory(kb, lambda: progress(0, None))
    return -1


def _step_back() -> None:
    """Let this thread, and those that torch starts for it, give way to the others. Linux has priorities by thread."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICE)

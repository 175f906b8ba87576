"""Listening, and stopping: what was taken is finished, what comes after is refused."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from realm.answering.questions import open_model
from realm.errors import MissingLibraryError, UsageError
from realm.knowledge.table.anywhere import place_of
from realm.knowledge.table.store import CanNotWriteError, Store
from realm.service.core import Service
from realm.service.frame import Frame
from realm.service.gate import Gate
from realm.service.http import create_app
from realm.service.metrics import Metrics
from realm.service.settings import ServiceConfig
from realm.service.tokens import Tokens, names_of
from realm.workflows.showing.curves import trainings
from realm.workflows.store import open_knowledge_base

try:
    import uvicorn
except ModuleNotFoundError as error:
    raise MissingLibraryError("uvicorn", "serve", "realm serve") from error


log = logging.getLogger("realm.service")


@dataclass(frozen=True, slots=True)
class Layers:
    """The parts of an app that something else has to reach."""

    frame: Frame
    gate: Gate


def guarded(service: Service, *, host: str, tokens: Tokens | None) -> Layers:
    """The whole app over a service. UsageError where others could reach it without a token."""
    config, metrics = service.config, service.metrics
    gate = Gate(
        create_app(service),
        config.limits,
        metrics,
        tokens=tokens,
        hosts=names_of(host, tokens),
        origins=config.origins or (),
    )
    return Layers(Frame(gate, metrics, config.limits.seconds), gate)


def serve(
    model: Path,
    kb: Path,
    *,
    host: str,
    port: int,
    tokens: Tokens | None,
    config: ServiceConfig,
    bf16: bool | None = None,
    on_listen: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was taken; a second signal ends it at once.

    It listens at once, and answers when the model is open and every passage has its vector. port: 0 takes a free one.
    on_listen: told the address. Raises what opening the knowledge base or the model raises; UsageError for an address
    that can't be had.

    SIGHUP, where there is such a signal: open `model` again (a run with a newer checkpoint, or a link that was set
    elsewhere) and change to it without a pause; see `Service.change_model`.
    """
    opened = open_knowledge_base(kb, lock_timeout=config.limits.seconds / 2)  # "busy" comes before "too slow"
    service = Service(lambda: open_model(model, bf16=bf16), opened, config, Metrics(), lambda: trainings(model))
    try:
        layers = guarded(service, host=host, tokens=tokens)
        listening = _listen(host, port)
        server = _Server(_settings(layers.frame, config), layers.gate)
        opening = service.open()
        opening.add_done_callback(lambda done: server.stop() if done.exception() else None)
        if on_listen is not None:
            shown = f"[{host}]" if ":" in host else host
            on_listen(f"http://{shown}:{listening.getsockname()[1]}")
        _warn_of_place(kb)
        with _on_hangup(service.change_model):
            server.run(sockets=[listening])
    finally:
        service.close()
    if service.failure is not None:
        raise service.failure


@contextmanager
def _on_hangup(work: Callable[[], None]) -> Iterator[None]:
    """Do `work`, which must not take long, at each SIGHUP; only the main thread hears signals."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, lambda *_: work())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _warn_of_place(kb: Path) -> None:
    try:
        Store(place_of(kb)).check_place()
    except CanNotWriteError as error:
        log.warning("edits will be refused: %s", error)


def _settings(app: Frame, config: ServiceConfig) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,  # `frame` writes a line of its own, without queries
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(config.limits.seconds) + 15,
    )


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"can't listen on {host} port {port} ({error}): expected a free port of this machine"
        ) from None


class _Server(uvicorn.Server):
    """Refuses new requests from the first signal on, and ends when the last one is answered."""

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate

    def stop(self) -> None:
        """Take nothing more; end when nothing is left."""
        self._gate.stopping = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # The signal is not kept: a service that was told to stop and did has not been killed by it.
        if self._gate.stopping:
            self.should_exit = self.force_exit = True
        self.stop()

    async def on_tick(self, counter: int) -> bool:
        if self._gate.stopping and self._gate.in_flight == 0:
            self.should_exit = True
        return await super().on_tick(counter)

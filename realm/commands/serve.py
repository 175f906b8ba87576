"""``realm serve``: questions and edits over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from realm.commands.docs import BF16, DEFAULT_MODEL, KB, MODEL


def serve(
    kb: KB,
    model: MODEL = DEFAULT_MODEL,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings, e.g. limits.seconds=10.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; beyond this machine it needs both tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    read_token_file: Annotated[
        Path | None, typer.Option(help="The token that reads; else REALM_READ_TOKEN.", show_default=False)
    ] = None,
    write_token_file: Annotated[
        Path | None, typer.Option(help="The token that reads and writes; else REALM_WRITE_TOKEN.", show_default=False)
    ] = None,
    bf16: BF16 = None,
) -> None:
    """Serve questions and edits over HTTP, until Ctrl-C or SIGTERM."""
    import os

    from realm.service.server import serve as work
    from realm.service.settings import ServiceConfig
    from realm.service.tokens import read_tokens
    from realm.settings import override

    tokens = read_tokens({"read": read_token_file, "write": write_token_file}, os.environ)
    config = override(ServiceConfig(), settings or [])
    with _log_to_stderr():
        work(
            model,
            kb,
            host=host,
            port=port,
            tokens=tokens,
            config=config,
            bf16=bf16,
            on_listen=lambda address: typer.echo(f"listening on {address}", err=True),
        )
    typer.echo("stopped", err=True)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    """A line a request, and what the server itself complains of."""
    import logging
    import sys
    import time

    form = logging.Formatter("%(asctime)sZ %(message)s", "%Y-%m-%dT%H:%M:%S")
    form.converter = time.gmtime
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(form)
    loggers = {name: logging.getLogger(name) for name in ("realm.service", "uvicorn")}
    before = {name: (logger.level, logger.propagate) for name, logger in loggers.items()}
    for name, logger in loggers.items():
        logger.setLevel(logging.INFO if name == "realm.service" else logging.WARNING)
        logger.propagate = False
        logger.addHandler(handler)
    try:
        yield
    finally:
        for name, logger in loggers.items():
            logger.removeHandler(handler)
            logger.setLevel(before[name][0])
            logger.propagate = before[name][1]

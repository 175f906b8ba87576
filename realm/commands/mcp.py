"""``realm mcp``: the documents as tools for assistants."""

from __future__ import annotations

from typing import Annotated

import typer

from realm.commands.docs import BF16, DEFAULT_MODEL, KB, MODEL


def mcp(
    kb: KB,
    model: MODEL = DEFAULT_MODEL,
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME=VALUE]...", help="Settings, e.g. limits.passages=20.")
    ] = None,
    bf16: BF16 = None,
) -> None:
    """Let assistants ask, search and cite the documents, by MCP.

    Over standard input and output.
    """
    from realm.service.mcp import serve_tools
    from realm.service.settings import ServiceConfig
    from realm.settings import override

    serve_tools(model, kb, override(ServiceConfig(), settings or []), bf16=bf16)

"""The two tokens: one reads, one reads and writes. They come from files or the environment and are never shown."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from realm.errors import UsageError

VARIABLES = {"read": "REALM_READ_TOKEN", "write": "REALM_WRITE_TOKEN"}
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")
"""As RFC 6750 writes them; short ones can be guessed."""


@dataclass(frozen=True, slots=True, repr=False)
class Tokens:
    """What opens the door."""

    read: str
    write: str

    def allow(self, given: str) -> Literal["nothing", "read", "write"]:
        """What a token may do. Both are compared, in a time that tells nothing of either."""
        found = given.encode()
        writes = hmac.compare_digest(found, self.write.encode())
        reads = hmac.compare_digest(found, self.read.encode())
        return "write" if writes else "read" if reads else "nothing"


def read_tokens(files: Mapping[str, Path | None], environment: Mapping[str, str]) -> Tokens | None:
    """The tokens that were given, a file's before the environment's; None where there are none.

    files: of "read" and of "write". UsageError when only one was given, or one can't be used.
    """
    found = {}
    for kind, variable in VARIABLES.items():
        file = files.get(kind)
        text = _text(kind, file) if file is not None else environment.get(variable, "").strip()
        if text and not _TOKEN.fullmatch(text):
            raise UsageError(
                f"found a {kind} token that can't be used: expected 16 to 512 letters, digits or ._~+/- "
                "(openssl rand -hex 32 makes one)"
            )
        if text:
            found[kind] = text
    if len(found) == 1:
        missing = next(kind for kind in VARIABLES if kind not in found)
        raise UsageError(
            f"found no {missing} token: expected both or none; give {VARIABLES[missing]} or --{missing}-token-file"
        )
    if not found:
        return None
    if found["read"] == found["write"]:
        raise UsageError("found one token for reading and for writing: expected two different ones")
    return Tokens(found["read"], found["write"])


def _text(kind: str, file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"can't read the {kind} token from {file}: expected a file with the token in it") from None
    if not text:
        raise UsageError(f"{file} is empty: expected the {kind} token in it")
    return text


def names_of(host: str, tokens: Tokens | None) -> frozenset[str] | None:
    """The names that requests may call the service by when it listens on `host`: of this machine alone on loopback,
    any (None) elsewhere. UsageError elsewhere without tokens."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if loopback:
        return frozenset({"localhost", "127.0.0.1", "::1", host})
    if tokens is None:
        raise UsageError(
            f"found the host {host!r} and no tokens: others could read and write; expected {VARIABLES['read']} and "
            f"{VARIABLES['write']}, or files by --read-token-file and --write-token-file, or a loopback host"
        )
    return None

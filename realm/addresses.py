"""Addresses of object stores, where a place may be one: ``s3://bucket/kb`` beside a folder of this machine.

Credentials are never part of an address: they stand in the environment, where Lance looks for them. So an address can
be printed, and written into manifests, as it is.
"""

from __future__ import annotations

import re
from pathlib import Path

from realm.errors import UsageError

SCHEMES = ("s3", "gs", "az")
"""Amazon S3 and what speaks its protocol, Google Cloud Storage, Azure Blob Storage; the first is tried here."""
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):(?:/+(.*))?", re.DOTALL)
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[^/?#@:\s\\]+)*")


def address_of(place: str | Path) -> str | None:
    """The address of an object store that `place` is, in its one spelling; None for a place on this machine.

    A Path that was made of an address has lost one of its slashes; it is put back, so that an address may go wherever a
    folder goes. UsageError, which repeats nothing of it, where it holds credentials or settings, or names no bucket.
    """
    found = _ADDRESS.fullmatch(str(place))
    if found is None or found[1] not in SCHEMES:
        return None
    scheme, rest = found[1], re.sub("/+", "/", found[2] or "").rstrip("/")
    if "@" in rest or "?" in rest or "#" in rest:
        raise UsageError(
            f"found an address {scheme}://... with more than a bucket and a path: expected {scheme}://bucket/path; "
            "credentials and settings are read from the environment"
        )
    if not _PLACE.fullmatch(rest):
        raise UsageError(f"found the address {scheme}://{rest}: expected {scheme}://bucket/path")
    return f"{scheme}://{rest}"


def as_given(place: str | Path) -> str:
    """A place for people: an address, or the path that they gave."""
    return address_of(place) or str(place)


def address_or_path(place: str | Path) -> str:
    """A place as messages and manifests name it: an address, or an absolute path."""
    return address_of(place) or str(Path(place).absolute())

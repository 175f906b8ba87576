"""Files to records: lines, tables, JSON. Each reader streams and reports what it can't read, record by record."""

from __future__ import annotations

import csv
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from realm.knowledge.formats.markup import html_fields
from realm.knowledge.formats.opening import MAX_RECORD, Records, byte_lines, read_whole
from realm.knowledge.formats.options import Options
from realm.knowledge.formats.places import expands
from realm.knowledge.formats.records import Problem, Record

MAX_WHOLE = 1 << 32
"""Bytes of the longest file that is read whole."""


def json_lines(path: Path, options: Options) -> Records:
    """One JSON object a line; empty lines are passed over."""
    for number, line in byte_lines(path):
        where = f"{path}:{number}"
        if line is None:
            yield Problem(where, "type", f"a line of over {MAX_RECORD >> 20} MiB", "one document a line")
            continue
        if not line.strip():
            continue
        try:
            value = json.loads(line.decode(options.encoding))
        except UnicodeDecodeError as error:
            yield _undecodable(where, error)
        except (ValueError, RecursionError) as error:
            yield Problem(where, "json", f"{_preview(line)} ({_reason(error)})", "a JSON object")
        else:
            if isinstance(value, dict):
                yield Record(where, value)
            else:
                yield Problem(where, "json", f"a JSON {_json_name(value)}", "a JSON object")


def wiki_lines(path: Path, options: Options) -> Records:
    """WikiExtractor's JSON lines: HTML entities decoded, the title taken off the beginning of the text."""
    for record in json_lines(path, options):
        if isinstance(record, Problem) or not isinstance(record.fields.get("text"), str):
            yield record
            continue
        title = html.unescape(str(record.fields.get("title") or ""))
        text = html.unescape(record.fields["text"])
        if title and text.startswith(f"{title}\n"):
            text = text[len(title) :].lstrip("\n")
        yield Record(record.where, {"source": "Wikipedia", **record.fields, "title": title, "text": text})


def table(path: Path, options: Options, delimiter: str) -> Records:
    """CSV or TSV with a header line; a quoted field may go over several lines."""

    def decoded() -> Iterator[str]:
        for _, line in byte_lines(path):
            # Undecodable bytes stay recognisable, so that only their own record is refused.
            yield "\0\n" if line is None else line.decode(options.encoding, "surrogateescape")

    style: Any = {"delimiter": delimiter, "quotechar": options.quote or None, "strict": True}
    rows = csv.reader(decoded(), **style, quoting=csv.QUOTE_MINIMAL if options.quote else csv.QUOTE_NONE)
    header = list(options.columns)
    first = 1
    limit = csv.field_size_limit(MAX_RECORD)
    try:
        while True:
            first = rows.line_num + 1
            try:
                row = next(rows, None)
            except csv.Error as error:
                yield Problem(
                    f"{path}:{first}", "columns", f"a row that can't be read ({error})", "fields quoted as in CSV"
                )
                continue
            if row is None:
                return
            if not row:
                continue
            if not header:
                header = [name.strip().lower() if _is_ours(name) else name.strip() for name in row]
                continue
            if len(row) != len(header):
                yield Problem(f"{path}:{first}", "columns", f"{len(row)} fields", f"{len(header)}: {', '.join(header)}")
                continue
            yield Record(f"{path}:{first}", dict(zip(header, row, strict=True)))
    finally:
        csv.field_size_limit(limit)


def parquet(path: Path, options: Options) -> Records:
    """Rows of a parquet file, batch by batch."""
    import pyarrow
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        about, texts = file.metadata, [field.name for field in file.schema_arrow if pyarrow.types.is_string(field.type)]
    held = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    if expands(max(held, about.num_rows), path.stat().st_size):
        yield Problem(str(path), "file", f"{held:,} bytes in {about.num_rows:,} rows, packed", "what its size can hold")
        return
    # What one text of a dictionary is repeated for stays one text until its row is read.
    with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
        yield from arrow_rows(path, file.iter_batches(batch_size=512))


def arrow_stream(path: Path, options: Options) -> Records:
    """Rows of an Arrow stream file, as `datasets` saves them."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_stream(source) as stream:
        yield from arrow_rows(path, (piece for batch in stream for piece in _pieces(batch)))


def arrow_rows(path: Path, batches: Iterable[Any]) -> Records:
    """Rows of record batches; "file:row" counts from 1."""
    number = 0
    for batch in batches:
        for index in range(batch.num_rows):
            number += 1
            try:
                (fields,) = batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield _undecodable(f"{path}:{number}", error)
            except ValueError as error:
                yield Problem(
                    f"{path}:{number}", "type", f"a value that can't be read ({_reason(error)})", "plain values"
                )
            else:
                yield Record(f"{path}:{number}", fields)


def json_file(path: Path, options: Options) -> Records:
    """A list of records, or an object that holds one under "documents", "data" or "corpus"."""
    value = load_json(path, options)
    if isinstance(value, Problem):
        yield value
        return
    if isinstance(value, dict):
        value = next(
            (value[key] for key in ("documents", "data", "corpus") if isinstance(value.get(key), list)), [value]
        )
    for number, entry in enumerate(value if isinstance(value, list) else [value], 1):
        if isinstance(entry, dict):
            yield Record(f"{path}:[{number}]", entry)
        else:
            yield Problem(f"{path}:[{number}]", "json", f"a JSON {_json_name(entry)}", "a JSON object")


def squad(path: Path, options: Options) -> Records:
    """SQuAD and KorQuAD: a document for each paragraph (id "title/number"), or for each article.

    KorQuAD 2 has one context for each article, which is HTML.
    """
    value = load_json(path, options)
    if isinstance(value, Problem):
        yield value
        return
    articles = value.get("data") if isinstance(value, dict) else None
    if not isinstance(articles, list):
        yield Problem(str(path), "json", f"a JSON {_json_name(value)} without articles", "an object with a list 'data'")
        return
    seen: Counter[str] = Counter()
    for number, article in enumerate(articles, 1):
        where = f"{path}:data[{number}]"
        if not isinstance(article, dict) or not isinstance(article.get("paragraphs", []), list):
            yield Problem(where, "json", f"a JSON {_json_name(article)}", "an article with 'title' and 'paragraphs'")
            continue
        title = str(article.get("title") or "").replace("_", " ")
        common = {key: article[key] for key in ("url", "lang", "source") if key in article}
        paragraphs = [
            paragraph.get("context") if isinstance(paragraph, dict) else paragraph
            for paragraph in article.get("paragraphs", [article])
        ]
        texts = [html_fields(text)["text"] if isinstance(text, str) and "</" in text else text for text in paragraphs]
        if options.unit == "article":
            whole = "\n\n".join(text for text in texts if isinstance(text, str))
            yield Record(where, {**common, "id": title or None, "title": title, "text": whole})
            continue
        for text in texts:
            seen[title] += 1
            identity = f"{title}/{seen[title]}" if title else None
            yield Record(where, {**common, "id": identity, "title": title, "text": text})


def summaries(path: Path, options: Options) -> Records:
    """An object of article introductions by title, as the `vital-*` catalogue entries have it."""
    value = load_json(path, options)
    if isinstance(value, Problem):
        yield value
        return
    if not isinstance(value, dict):
        yield Problem(str(path), "json", f"a JSON {_json_name(value)}", "an object of introductions by title")
        return
    lang = re.search(r"_([a-z]{2,3})(-[a-z]{2})?\.json", path.name)
    for key, entry in value.items():
        where = f"{path}:{key!r}"
        if not isinstance(entry, dict):
            yield Problem(where, "json", f"a JSON {_json_name(entry)}", "an object with 'title' and 'extract'")
            continue
        rest = {name: item for name, item in entry.items() if name not in ("extract", "title")}
        common = {"source": "Wikipedia", "lang": lang[1] if lang else None}
        yield Record(
            where, {**common, **rest, "id": key, "title": entry.get("title", key), "text": entry.get("extract")}
        )


def load_json(path: Path, options: Options) -> Any:
    """The value of a JSON file, or the `Problem` with it."""
    data = read_whole(path, MAX_WHOLE)
    if data is None:
        return Problem(str(path), "type", f"a JSON file of over {MAX_WHOLE >> 30} GiB", "one document a line (.jsonl)")
    try:
        return json.loads(data.decode("utf-8-sig" if options.encoding == "utf-8" else options.encoding))
    except UnicodeDecodeError as error:
        return _undecodable(f"{path}:{data.count(10, 0, error.start) + 1}", error)
    except json.JSONDecodeError as error:
        return Problem(f"{path}:{error.lineno}", "json", _reason(error), "JSON")
    except (ValueError, RecursionError) as error:
        return Problem(str(path), "json", _reason(error), "JSON")


def _pieces(batch: Any, rows: int = 512) -> Iterator[Any]:
    return (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _is_ours(name: str) -> bool:
    from realm.knowledge.formats.records import KEYS

    return any(name.strip().lower() in names for names in KEYS.values())


def _undecodable(where: str, error: UnicodeDecodeError) -> Problem:
    return Problem(
        where, "encoding", f"byte 0x{error.object[error.start]:02x} at {error.start}", f"{error.encoding} text"
    )


def _preview(line: bytes) -> str:
    text = line[:40].decode("utf-8", "replace").strip()
    return repr(text if len(line) <= 40 else text + "…")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _json_name(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")

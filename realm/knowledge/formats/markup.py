"""Text, Markdown and HTML files, each one document."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from realm.knowledge.formats.opening import MAX_RECORD, Records, read_whole
from realm.knowledge.formats.options import Options
from realm.knowledge.formats.records import Problem, Record

_BLOCKS = re.compile(
    "address|article|blockquote|br|caption|d[dlt]|div|fieldset|fig(caption|ure)|h[1-6]|header|hr|li|main|ol|p|pre|"
    "section|summary|table|t(body|head|itle|r)|ul"
)
_SILENT = re.compile("head|iframe|noscript|object|script|style|svg|template|title")
MOST_FRONT = 1 << 16
"""Characters of the longest front matter."""
_AROUND = re.compile(f"aside|button|footer|form|nav|{_SILENT.pattern}")


def text_file(path: Path, options: Options, name: str) -> Records:
    """The whole file; its id is `name`, its title the name without folder and suffix."""
    text = _read(path, options)
    yield text if isinstance(text, Problem) else Record(f"{path}:1", {"id": name, "title": path.stem, "text": text})


def markdown_file(path: Path, options: Options, name: str) -> Records:
    """Title from the front matter, the first heading or the file name; front matter keys become fields."""
    text = _read(path, options)
    if isinstance(text, Problem):
        yield text
        return
    fields: dict[str, Any] = {}
    front = re.match(r"---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    if front:
        found = _front_matter(front[1])
        if isinstance(found, dict):
            fields, text = found, text[front.end() :]
        else:
            yield Problem(f"{path}:1", "front matter", found, "YAML with a key and a value a line", skips=False)
    heading = re.search(r"^#[ \t]+(\S.*)$", text, re.MULTILINE)
    if not options.raw:
        text = html_fields(_rendered(text))["text"]
    yield Record(
        f"{path}:1",
        {"id": name, "title": (heading and heading[1].rstrip("\r \t#")) or path.stem, **fields, "text": text},
    )


def html_file(path: Path, options: Options, name: str) -> Records:
    """Visible text; title, language, canonical address and publication date from the markup."""
    text = _read(path, options, sniff=True)
    if isinstance(text, Problem):
        yield text
        return
    fields = html_fields(text)
    if options.raw:
        fields["text"] = text
    yield Record(f"{path}:1", {"id": name, **fields, "title": fields.get("title") or path.stem})


def html_fields(text: str) -> dict[str, Any]:
    """Title, text, lang, url and date of an HTML page, as far as it has them.

    Navigation, footers, side bars and forms are left out, unless nothing else is there.
    """
    for skipped in (_AROUND, _SILENT):
        page = _Page(skipped)
        page.feed(text)
        page.close()
        body = page.text()
        if body:
            break
    return {**{key: value for key, value in page.facts.items() if value}, "text": body}


class _Page(HTMLParser):
    def __init__(self, skipped: re.Pattern[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.skipped = skipped
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.facts: dict[str, str] = {}
        self.heading: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "html":
            self.facts["lang"] = found.get("lang", "")
        elif tag == "meta" and found.get("property") == "article:published_time":
            self.facts["date"] = found.get("content", "")
        elif tag == "link" and found.get("rel") == "canonical":
            self.facts["url"] = found.get("href", "")
        elif tag in ("title", "h1") and tag not in self.facts and "svg" not in self.open:
            self.heading = tag
            self.facts[tag] = ""
        elif tag == "body":
            self.open.clear()  # a head that was never closed
        if self.skipped.fullmatch(tag):
            self.open.append(tag)
        if _BLOCKS.fullmatch(tag):
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.heading:
            self.heading = None
        if tag in self.open:
            del self.open[len(self.open) - 1 - self.open[::-1].index(tag) :]
        if _BLOCKS.fullmatch(tag):
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if self.heading:
            self.facts[self.heading] += data
        if not self.open:
            self.pieces.append(re.sub(r"\s+", " ", data))

    def text(self) -> str:
        heading = self.facts.pop("h1", "")
        self.facts["title"] = " ".join((self.facts.get("title") or heading).split())
        lines = (" ".join(line.split()) for line in "".join(self.pieces).split("\n"))
        return "\n".join(line for line in lines if line)


def _read(path: Path, options: Options, sniff: bool = False) -> str | Problem:
    data = read_whole(path, MAX_RECORD)
    if data is None:
        return Problem(str(path), "type", f"a file of over {MAX_RECORD >> 20} MiB", "one document a file")
    encoding = "utf-8-sig" if options.encoding == "utf-8" else options.encoding
    if sniff and (named := re.search(rb"charset=[\"']?([\w-]+)", data[:2048])):
        encoding = named[1].decode("ascii") if named[1].lower() != b"utf-8" else encoding
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        where = f"{path}:{data.count(10, 0, error.start) + 1}"
        return Problem(where, "encoding", f"byte 0x{data[error.start]:02x} at {error.start}", f"{encoding} text")
    except LookupError:
        return Problem(str(path), "encoding", f"charset {encoding!r}", "a charset that Python knows")


def _front_matter(text: str) -> dict[str, Any] | str:
    import yaml

    if len(text) > MOST_FRONT:
        return f"front matter of over {MOST_FRONT >> 10} KiB"
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            return "front matter that refers to itself"  # a few lines can name more than a memory holds
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        return f"front matter that is not YAML ({' '.join(str(error).split())[:80]})"
    if found is None:
        return {}
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else "front matter without keys"


def _rendered(text: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark").enable("table").render(text))

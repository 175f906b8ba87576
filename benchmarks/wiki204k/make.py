"""Make the standing benchmark from a folder of public sets; the same bytes each time.

    python -m benchmarks.wiki204k.make DATA OUT

DATA holds SET/corpus.jsonl.gz and SET/questions.SPLIT.jsonl.gz (id, question, answers, gold_ids, answerable, ...).
OUT gets corpus.jsonl (for `realm ingest`), questions/SET.SPLIT.jsonl, and manifest.json with counts and hashes.
Each question keeps its fields and gets three flags:

- in_kb_gold: a passage that its set calls gold is in the corpus;
- in_kb_string: a text of the corpus holds an answer as whole tokens (or matches a pattern); titles do not count;
- in_kb: either. `realm evaluate` reports all questions, and those with this flag.

`silver_ids` come from a search and have no part in the flags.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.wiki204k.holding import Patterns, Strings
from realm.errors import DataError
from realm.files import sha256_of, staged_file, write_json
from realm.knowledge.questions.files import read_questions

CORPORA = ("ottqa_wiki", "squad", "vital", "nq_open")
"""In this order; of vital, what is English."""
SETS = ("nq_open", "webquestions", "curatedtrec", "squad", "triviaqa", "entityquestions")


def make(data: Path, out: Path) -> dict[str, Any]:
    """Write the benchmark; returns the manifest. DataError for a set that lacks its files or repeats an id."""
    files = [path for name in SETS for path in sorted((data / name).glob("questions.*.jsonl.gz"))]
    lacking = [name for name in SETS if not any(path.parent.name == name for path in files)]
    if lacking:
        raise DataError(f"{data} has no questions of {', '.join(lacking)}: expected SET/questions.SPLIT.jsonl.gz")
    questions = {path: read_questions(path, format="realm") for path in files}
    everything = [question for some in questions.values() for question in some if question.answerable]
    strings = Strings(answer for question in everything if not question.patterns for answer in question.answers)
    patterns = Patterns(answer for question in everything if question.patterns for answer in question.answers)

    ids: set[str] = set()
    counts: dict[str, int] = {}
    with staged_file(out / "corpus.jsonl") as staged, open(staged, "w", encoding="utf-8", newline="") as stream:
        for name, document in documents(data):
            if document["id"] in ids:
                raise DataError(f"{data / name}: found the id {document['id']!r} again, expected each once")
            ids.add(document["id"])
            counts[name] = counts.get(name, 0) + 1
            strings.read(document["text"])
            patterns.read(document["text"])
            stream.write(json.dumps(document, ensure_ascii=False) + "\n")
    patterns.finish()

    held, matched = strings.found, patterns.found
    shares: dict[str, dict[str, int]] = {}
    for path, some in questions.items():
        flags = {}
        for question in some:
            gold = any(identity in ids for identity in question.gold)
            known = matched if question.patterns else held
            string = question.answerable and any(answer in known for answer in question.answers)
            flags[question.id] = {"in_kb_gold": gold, "in_kb_string": string, "in_kb": gold or string}
        name = f"{path.parent.name}.{path.name.removeprefix('questions.').removesuffix('.jsonl.gz')}"
        with (
            staged_file(out / "questions" / f"{name}.jsonl") as staged,
            open(staged, "w", encoding="utf-8", newline="") as stream,
        ):
            stream.writelines(
                json.dumps({**record, **flags[record["id"]]}, ensure_ascii=False) + "\n" for record in records(path)
            )
        shares[name] = {
            "questions": len(some),
            **{flag: sum(entry[flag] for entry in flags.values()) for flag in ("in_kb_gold", "in_kb_string", "in_kb")},
        }
    manifest = {
        "format": "wiki204k",
        "format_version": 1,
        "documents": counts,
        "questions": shares,
        "patterns": {
            "invalid": sorted(patterns.matcher.invalid),
            "timed_out": sorted(patterns.matcher.timed_out),
        },
        "sha256": {str(p.relative_to(out)): sha256_of(p) for p in [out / "corpus.jsonl", *_made(out, shares)]},
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def documents(data: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(set, document) of the corpora, in order."""
    for name in CORPORA:
        path = data / name / "corpus.jsonl.gz"
        if not path.exists():
            raise DataError(f"no file {path}: expected the corpus of {name}")
        for document in records(path):
            if name != "vital" or document.get("lang") == "en":
                yield name, document


def records(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        yield from (json.loads(line) for line in stream if line.strip())


def _made(out: Path, names: dict[str, dict[str, int]]) -> list[Path]:
    return [out / "questions" / f"{name}.jsonl" for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of SET/corpus.jsonl.gz and SET/questions.SPLIT.jsonl.gz")
    parser.add_argument("out", type=Path, help="folder to write")
    settings = parser.parse_args()
    begun = time.process_time()
    manifest = make(settings.data, settings.out)
    print(f"{sum(manifest['documents'].values()):,} documents: {manifest['documents']}")
    print(f"{'questions':<34}{'all':>8}{'gold':>8}{'string':>8}{'in kb':>8}{'share':>8}")
    for name, entry in manifest["questions"].items():
        figures = "".join(f"{entry[key]:>8,}" for key in ("questions", "in_kb_gold", "in_kb_string", "in_kb"))
        print(f"{name:<34}{figures}{entry['in_kb'] / entry['questions']:>8.1%}")
    print(f"{time.process_time() - begun:.0f} s of processor time")


if __name__ == "__main__":
    main()

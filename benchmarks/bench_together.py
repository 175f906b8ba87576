"""Questions and edits at the same time, against a real `realm serve`: nothing fails, nothing is stale, memory is flat.

    python -m benchmarks.bench_together --kb KB --model MODEL [--minutes 10] [--askers 8] [--editors 2]
        [--questions FILE] [--json FILE] [--seed 0]

The server works on a copy of KB. Every editor owns a document: it writes a fact with a number that only grows, or
deletes the document and adds it again, and as soon as that is acknowledged looks for it by a question, by meaning and
by words, and reads it; what it finds must be what it wrote, and nothing where it deleted. Askers ask, one after the
other; every answer must be from a version no older than the newest edit acknowledged before it was asked, and every
fourth one asks for an editor's document, whose number must not be older either. Memory is sampled every second after
--warmup.

Exit status 1 when a request failed, when anything was stale, or when the server's memory in the last third of the time
is more than 5% above that of the first.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks.serving import Asked, Client, Server, memory_of, percentiles, questions_of, serving, told
from realm import KnowledgeBase, __version__
from realm.knowledge.cloning import clone

GROWTH = 1.05
"""The last third's memory to the first's, at most."""
_EDITION = re.compile(r"edition(\d+)of")


class Trial:
    """What all clients share: what is acknowledged, and what went wrong."""

    def __init__(self, server: Server, questions: list[str], editors: int, seed: int) -> None:
        self.server, self.questions, self.seed = server, questions, seed
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.version = 0
        """Newest version that an editor was told of."""
        self.editions = [0] * editors
        """Of each editor's document, the oldest edition that may be seen now: the one acknowledged last, or, where it
        was deleted, the one to come."""
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.failed: list[str] = []
        self.stale: list[str] = []
        self.counts: Counter[str] = Counter()

    def sent(self, kind: str, asked: Asked, *expected: int) -> Any:
        """The JSON of a request's answer, written down; None where it failed."""
        with self.lock:
            self.counts[kind] += 1
            self.seconds[kind].append(asked.seconds)
            if asked.status not in (expected or (200,)):
                self.failed.append(f"{kind}: {asked.status} {asked.body}"[:300])
                return None
        return asked.body

    def check(self, fresh: bool, what: str) -> None:
        if not fresh:
            with self.lock:
                self.stale.append(what[:300])

    # ------------------------------------------------------------ editors

    def edit(self, number: int) -> None:
        """One document, again and again, looked at after each edit."""
        client, chance = self.server.connect(), random.Random(f"{self.seed} editor {number}")
        name, edition, there = f"bench:{number}", 0, False
        while not self.over.is_set():
            if there and chance.random() < 0.15:
                done = self.sent("delete", client.request("DELETE", place(name)))
                there = done is None
                if done is not None:
                    self.acknowledged(number, done["version"], edition + 1)
                    self.look(client, number, None, done["version"])
                continue
            edition += 1
            text = f"The vault of editor {number} is opened by the word {word(edition, number)}."
            if there:
                done = self.sent("update", client.request("PUT", place(name), {"text": text}))
            else:
                body = {"id": name, "text": text, "source": "bench"}
                done = self.sent("add", client.request("POST", "/v1/documents", body), 201)
            if done is not None:
                there = True
                self.acknowledged(number, done["version"], edition)
                self.look(client, number, edition, done["version"])
        client.close()

    def acknowledged(self, number: int, version: int, edition: int) -> None:
        with self.lock:
            self.version = max(self.version, version)
            self.editions[number] = edition

    def look(self, client: Client, number: int, edition: int | None, version: int) -> None:
        """Straight after an edit: everything shows it, or nothing of what was deleted."""
        name = f"bench:{number}"
        mine = f"document_id = '{name}'"
        wanted = [] if edition is None else [edition]
        answer = self.sent("ask after edit", client.ask(self.worded(number), where=mine, k=1))
        if answer is not None:
            found = [edition_in(one["passage"]["text"]) for one in answer["evidence"]]
            self.check(
                found == wanted and answer["knowledge_base_version"] >= version,
                f"asked after version {version}: found {found} of {answer['knowledge_base_version']}, wrote {wanted}",
            )
        searches: tuple[dict[str, Any], ...] = (
            {"query": self.worded(number), "where": mine, "k": 2, "by": "meaning"},
            {"query": "vault editor opened word", "where": mine, "k": 2, "by": "words"},
        )
        for body in searches:
            hits = self.sent(f"search by {body['by']}", client.request("POST", "/v1/search", body))
            if hits is not None:
                found = [edition_in(one["text"]) for one in hits["hits"]]
                self.check(found == wanted, f"searched by {body['by']}: found {found}, wrote {wanted}")
        read = self.sent("read", client.request("GET", place(name)), *([404] if edition is None else [200]))
        if read is not None and edition is not None:
            self.check(edition_in(read["document"]["text"]) == edition, f"read: {read['document']['text']}")

    # ------------------------------------------------------------ askers

    def ask(self, number: int) -> None:
        """Questions, one after the other; some of them for what editors write."""
        client, chance = self.server.connect(), random.Random(f"{self.seed} asker {number}")
        asked = 0
        while not self.over.is_set():
            asked += 1
            with self.lock:
                version, editions = self.version, list(self.editions)
            if asked % 4:
                answer = self.sent("ask", client.ask(chance.choice(self.questions)))
            else:
                whose = chance.randrange(len(editions))
                where = f"document_id = 'bench:{whose}'"
                answer = self.sent("ask for an edit", client.ask(self.worded(whose), where=where, k=1))
                found = [edition_in(one["passage"]["text"]) for one in answer["evidence"]] if answer else []
                # It may be deleted or written again meanwhile, but never be what it was before.
                self.check(
                    all(one >= editions[whose] for one in found), f"found edition {found}, knew {editions[whose]}"
                )
            if answer is not None:
                given = answer["knowledge_base_version"]
                self.check(given >= version, f"an answer of version {given}, {version} was acknowledged before")
        client.close()

    def worded(self, number: int) -> str:
        """A question for an editor's fact, with a blank where the model wants one."""
        blank = "[MASK]" in self.questions[0]
        return (
            f"The vault of editor {number} is opened by the word [MASK]."
            if blank
            else f"Which word opens the vault of editor {number}?"
        )


def place(name: str) -> str:
    return f"/v1/documents/{name}"


def word(edition: int, number: int) -> str:
    return f"edition{edition}of{number}"


def edition_in(text: str) -> int:
    """0 where there is none."""
    found = _EDITION.search(text)
    return int(found[1]) if found else 0


def let_work(trial: Trial, askers: int, editors: int, warmup: float, seconds: float) -> list[int]:
    """Let them work; the server's memory, a sample a second after the warm-up."""
    work = [(trial.edit, number) for number in range(editors)] + [(trial.ask, number) for number in range(askers)]
    threads = [threading.Thread(target=guarded, args=(trial, what, number)) for what, number in work]
    for thread in threads:
        thread.start()
    trial.over.wait(warmup)
    samples: list[int] = []
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not trial.over.wait(min(1.0, left)):
        samples.append(memory_of(trial.server.pid))
    trial.over.set()
    for thread in threads:
        thread.join()
    return samples


def guarded(trial: Trial, what: Any, number: int) -> None:
    """A client that breaks is a failure, and not the end of the others."""
    try:
        what(number)
    except Exception as error:  # told in the table
        with trial.lock:
            trial.failed.append(f"client {what.__name__} {number}: {type(error).__name__}: {error}"[:300])


def thirds(samples: list[int]) -> list[float]:
    """Mean memory of the first, the middle and the last third, in MiB."""
    cut = max(1, len(samples) // 3)
    return [statistics.mean(part) / 2**20 for part in (samples[:cut], samples[cut:-cut] or samples, samples[-cut:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kb", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--questions", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--warmup", type=float, default=60.0, help="seconds before memory is sampled")
    parser.add_argument("--askers", type=int, default=8)
    parser.add_argument("--editors", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.kb.parent) as folder:  # on the same disk, where files can be linked
        kb = Path(folder) / "kb"
        clone(options.kb, kb)
        before = KnowledgeBase.open(kb)
        with serving(kb, options.model) as server:
            trial = Trial(server, questions_of(kb, options.questions), options.editors, options.seed)
            samples = let_work(trial, options.askers, options.editors, options.warmup, 60 * options.minutes)
            after = KnowledgeBase.open(kb).version
        facts = {"documents": len(before), "passages": before.num_passages(), "versions made": after - before.version}
    memory = thirds(samples)
    ratio = memory[2] / memory[0]
    passed = not trial.failed and not trial.stale and ratio <= GROWTH
    print(f"realm {__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, {facts}")
    print(f"{options.askers} askers, {options.editors} editors, {options.minutes:g} minutes, seed {options.seed}")
    for kind, count in sorted(trial.counts.items()):
        print(f"{kind:>18}  {count:7,}  {told(percentiles(trial.seconds[kind]))}")
    print(f"failed: {len(trial.failed)}   stale: {len(trial.stale)}")
    for line in (trial.failed + trial.stale)[:10]:
        print(f"  {line}")
    shown = " / ".join(f"{one:.1f}" for one in memory)
    print(f"memory of the thirds: {shown} MiB, last / first = {ratio:.3f} (at most {GROWTH})")
    print("passed" if passed else "NOT passed")
    if options.json is not None:
        value = {
            "passed": passed,
            "realm": __version__,
            "seed": options.seed,
            "minutes": options.minutes,
            "askers": options.askers,
            "editors": options.editors,
            **facts,
            "requests": dict(trial.counts),
            "milliseconds": {kind: percentiles(seconds) for kind, seconds in trial.seconds.items()},
            "failed": trial.failed,
            "stale": trial.stale,
            "memory_mib": memory,
            "memory_ratio": ratio,
            "samples": samples,
        }
        options.json.write_text(json.dumps(value, indent=1) + "\n")
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()

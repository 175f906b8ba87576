"""What the retriever learnt, to be read by a person: held-out sentences and their passages before and after REALM.

For a few sentences of a run's probe: the first passages of the warm start beside those of REALM's last checkpoint,
with p(z|x), p(z|x,y) and r(z) = p(z|x,y) - p(z|x), the gradient of log p(y|x) by a passage's score (Guu et al. 2020,
appendix A). The warm start has no trained reader, so REALM's reads the passages of both.

Legend: P probe sentences, B sentences of a batch, K candidates (the null passage, where there is one, first).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count as counting
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch

from realm import __version__, files, objectives
from realm.addresses import address_or_path, as_given
from realm.errors import ArtefactError, UsageError
from realm.evaluation.probe import judge, probe_hits
from realm.evaluation.retrieval import answer_in_text
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.table.anywhere import place_of
from realm.methods.realm import RealmPretraining
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.training.metrics import Metrics
from realm.training.probe import Probe, ProbeItem
from realm.training.state import latest_checkpoint, read_facts
from realm.types import NO_ROW
from realm.workflows import parts
from realm.workflows.parts import Text
from realm.workflows.pretraining.comparison import read_report, text_of
from realm.workflows.reporting import Reporter, Silent
from realm.workflows.run import Run
from realm.workflows.store import open_knowledge_base
from realm.workflows.workbench import Workbench, threads

PAGE = "examples.html"
SENTENCES, PASSAGES = 20, 5
GROUPS = {"won": 6, "lost": 6, "both": 4, "neither": 4}
"""Whether the answer stands in the first passages after but not before, before but not after, both, neither time; and
the part of each among the sentences shown."""
MEANINGS = {
    "won": "found after REALM, not before",
    "lost": "found before, not after REALM",
    "both": "found before and after",
    "neither": "found neither time",
}
SIDES = {"before": "warm-start", "after": "realm"}
"""Side of the page -> name of the evaluation."""
BATCH = 4
"""Sentences read at a time: each with all its candidates, which is what takes memory."""
_DRAW = 11
_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}]+|[\p{S}#%&@]")
_BETWEEN = r"[^\p{L}\p{M}\p{N}\p{S}#%&@]*"


@dataclass(frozen=True)
class _Side:
    """A retriever with REALM's reader."""

    method: RealmPretraining
    found: np.ndarray
    """Bool[P]: whether the answer stands in one of the first passages."""


def collect_examples(
    path: Path, *, kb: Path | None = None, sentences: int = SENTENCES, reporter: Reporter | None = None
) -> dict[str, Any]:
    """`sentences` of a run's probe with their first passages before and after, as JSON values.

    The same sentences at every call: drawn with the run's seed, evenly from wins, losses and the rest. Which sentence
    is which is taken from the run's evaluations, or searched for where there is none; an index that is missing is made.

    kb: where the run's knowledge base lies now, if it was moved. ArtefactError, in one line, when `path` is no run or
    has no probe, warm start or checkpoint of REALM; UsageError when `kb` is another knowledge base.
    """
    reporter, run = reporter or Silent(), Run(path)
    warm, last = _check(run)
    config = run.config()
    with run.alone(), threads(config.loop.threads), Metrics(run.path) as metrics:
        searched, masked = _texts(run, kb, reporter)
        # As many candidates as in training, but never fewer than are shown.
        candidates = max(config.realm.num_candidates, PASSAGES + int(config.realm.null_passage))
        widened = replace(config, realm=replace(config.realm, num_candidates=candidates))
        bench = Workbench(run, widened, searched, masked, metrics, reporter, None)
        step = int(read_facts(last)["step"])
        sides = {"before": _side(bench, "before", warm, 0, last), "after": _side(bench, "after", last, step, last)}
        before, after = (sides[name].found for name in SIDES)
        with reporter.stage("read the examples"):
            chosen = choose(before, after, sentences, config.loop.seed)
            part = replace(bench.probe, items=tuple(bench.probe.items[p] for p in chosen))
            both = {name: _read(bench, side.method, part) for name, side in sides.items()}
    examples = []
    for at, (number, item) in enumerate(zip(chosen, part.items, strict=True)):
        lists = {name: found[at] for name, found in both.items()}
        _cross(lists["before"]["passages"], lists["after"]["passages"])
        shown = {name: {**found, "passages": found["passages"][:PASSAGES]} for name, found in lists.items()}
        hit = {name: any(passage["hit"] for passage in found["passages"]) for name, found in shown.items()}
        examples.append(
            {
                "number": number,
                # By what is shown, so that the page can't contradict itself over a tie between two passages.
                "group": group_of(hit["before"], hit["after"]),
                **_sentence(masked.snapshot, item),
                **shown,
            }
        )
    groups = np.array([group_of(b, a) for b, a in zip(before.tolist(), after.tolist(), strict=True)])
    return {
        "run": str(run.path),
        "knowledge_base": as_given(kb or run.facts()["parents"]["knowledge_base"]),
        "step": step,
        "warm_start_steps": config.ict.steps,
        "seed": config.loop.seed,
        "passages": PASSAGES,
        "candidates": candidates,
        "null_passage": config.realm.null_passage,
        "left_out": config.data.exclude,
        "marginal": config.realm.marginal,
        "probe": {
            "sentences": len(groups),
            "recall_before": float(before.mean()),
            "recall_after": float(after.mean()),
            **{name: int((groups == name).sum()) for name in GROUPS},
        },
        "examples": sorted(examples, key=lambda example: list(GROUPS).index(example["group"])),
    }


# ---------------------------------------------------------------- which sentences


def group_of(before: bool, after: bool) -> str:
    return ("both" if before else "won") if after else ("lost" if before else "neither")


def choose(before: np.ndarray, after: np.ndarray, sentences: int, seed: int) -> list[int]:
    """At most `sentences` positions, ascending; of each group its part, others in its place where it has too few.

    before, after: Bool[P], whether a sentence's answer was found.
    """
    random = np.random.default_rng((seed, _DRAW))
    left: dict[str, list[int]] = {}
    for name in GROUPS:
        members = [p for p in range(len(before)) if group_of(bool(before[p]), bool(after[p])) == name]
        left[name] = random.permutation(members).astype(int).tolist()
    whole, wanted = sum(GROUPS.values()), min(sentences, len(before))
    chosen = [p for name, part in GROUPS.items() for p in _take(left[name], part * sentences // whole)]
    for turn in counting():
        if len(chosen) >= wanted:
            return sorted(chosen[:wanted])
        chosen += _take(left[list(GROUPS)[turn % len(GROUPS)]], 1)
    raise AssertionError


def _take(members: list[int], count: int) -> list[int]:
    taken, members[:] = members[:count], members[count:]
    return taken


# ---------------------------------------------------------------- the run and its parts


def _check(run: Run) -> tuple[Path, Path]:
    """The last checkpoints of the warm start and of REALM."""
    if not run.exists:
        what = "nothing there" if not run.path.exists() else "no run.json"
        raise ArtefactError(f"{run.path} is no run, found {what}: expected a folder that `realm pretrain` made")
    run.facts()
    warm, last = latest_checkpoint(run.warm_start / "checkpoints"), latest_checkpoint(run.checkpoints)
    if last is None or int(read_facts(last)["step"]) == 0:
        how = f"let `realm pretrain {run.path}` go on" if run.config().realm.steps else "its realm.steps is 0"
        raise ArtefactError(f"{run.path} has no trained checkpoint of REALM to compare with its warm start: {how}")
    if warm is None:
        raise ArtefactError(f"{run.path} has no checkpoint of its warm start left: expected warm-start/checkpoints")
    if not run.probe.exists():
        raise ArtefactError(f"{run.path} has no probe.json: expected the held-out sentences that it was judged on")
    return warm, last


def _texts(run: Run, kb: Path | None, reporter: Reporter) -> tuple[Text, Text]:
    """What the run searched and what it masked, as they were when it began."""
    parents, config = run.facts()["parents"], run.config()

    def text(place: Path, version: int | None, fingerprint: str) -> Text:
        base = open_knowledge_base(place)
        if version is not None:
            base = base.at(version)
        found = parts.prepare_text(base, config.encoder.model, config.data, reporter)
        if found.snapshot.fingerprint != fingerprint:
            raise ArtefactError(
                f"{place} has snapshot {found.snapshot.fingerprint} of that version: expected {fingerprint}, which "
                f"{run.path} was trained on; name it with --kb"
            )
        return found

    if kb is not None and not parts.has_snapshot(kb, parents["snapshot"]):
        raise UsageError(
            f"{run.path} was trained on {parents['knowledge_base']}: found no snapshot {parents['snapshot']} in "
            f"{as_given(kb)}; leave --kb out, or say where that knowledge base lies now"
        )
    place = kb or Path(parents["knowledge_base"])
    if not place_of(place).is_laid():
        raise ArtefactError(
            f"{run.path} was trained on {address_or_path(place)}, which is no longer there: name its place with --kb"
        )
    searched = text(place, parents.get("knowledge_base_version"), parents["snapshot"])
    if not parents.get("corpus"):
        return searched, searched
    return searched, text(Path(parents["corpus"]), parents.get("corpus_version"), parents["corpus_snapshot"])


def _side(bench: Workbench, name: str, checkpoint: Path, step: int, reader_of: Path) -> _Side:
    """The retriever of one checkpoint with the reader of another; the warm start has none of its own."""
    encoder = bench.encoder(checkpoint, training=False)
    folder = bench.embed(encoder, step)
    method = bench.method(encoder, bench.reader(reader_of).eval(), folder)
    if name == "before":  # where REALM began
        bench.calibrate_null(method)
    return _Side(method, _found(bench, name, encoder, bench.open_index(folder)))


def _found(bench: Workbench, name: str, encoder: DenseEncoder, index: ExactIndex) -> np.ndarray:
    """Bool[P], from the evaluation of the run if it judged this many passages, else by a search."""
    run, size = bench.run, len(bench.probe)
    known = read_report(run, SIDES[name]).get("found", {}) if run.has_report(SIDES[name]) else {}
    if str(PASSAGES) in known:
        found = np.zeros(size, bool)
        found[known[str(PASSAGES)]] = True
        return found
    with bench.reporter.stage(f"search for the probe, {name}"):
        batches = list(bench.probe.batches(bench.masked.snapshot, 32, exclude=bench.config.data.exclude))
        hits = probe_hits(encoder, index, batches, PASSAGES)
        answers = [item.answer for item in bench.probe.items]
        judged = judge(hits.rows, answers, text_of(bench.searched.snapshot), (PASSAGES,))
        return np.asarray(judged.found[PASSAGES])


# ---------------------------------------------------------------- reading


@torch.inference_mode()
def _read(bench: Workbench, method: RealmPretraining, probe: Probe) -> list[dict[str, Any]]:
    """Every candidate of each sentence, best first, with the figures of the null passage apart."""
    snapshot, answers = bench.searched.snapshot, [item.answer for item in probe.items]
    found: list[dict[str, Any]] = []
    for batch in probe.batches(bench.masked.snapshot, BATCH, exclude=bench.config.data.exclude):
        reading = method.read(batch)
        mask_BT = batch.target.mask.to(reading.score_BK.device)
        prior_BK = objectives.prior_BK(reading.score_BK, reading.valid_BK)
        posterior_BK = objectives.posterior_BK(reading.score_BK, reading.logp_BKT, mask_BT, reading.valid_BK)
        order_BK = reading.score_BK.argsort(dim=1, descending=True, stable=True).tolist()
        rows, prior, posterior = (part.tolist() for part in (reading.rows_BK, prior_BK, posterior_BK))
        for b, nll in enumerate(method.nll_B(reading, batch).tolist()):
            passages = [
                {**_passage(snapshot, rows[b][k], answers[len(found)]), **_belief(prior[b][k], posterior[b][k])}
                for k in order_BK[b]
                if rows[b][k] != NO_ROW
            ]
            null = _belief(prior[b][0], posterior[b][0]) if method.null_passage else None
            found.append({"log_likelihood": -nll, "null": null, "passages": passages})
    return found


def _belief(prior: float, posterior: float) -> dict[str, float]:
    return {"prior": prior, "posterior": posterior, "r": posterior - prior}


def _cross(before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]]) -> None:
    """Give each passage its rank (from 1) here and in the other list; None where it is not among the candidates."""
    for own, other in ((before, after), (after, before)):
        ranks = {passage["row"]: rank for rank, passage in enumerate(other, start=1)}
        for rank, passage in enumerate(own, start=1):
            passage |= {"rank": rank, "other_rank": ranks.get(passage["row"])}


def _passage(snapshot: Snapshot, row: int, answer: str) -> dict[str, Any]:
    title, text = snapshot.title(row), snapshot.text(row)
    in_text = answer_in_text(answer, text)
    hit = in_text or answer_in_text(answer, f"{title}\n{text}")
    snippet, marked = cut(text, locate(answer, text) if in_text else None)
    return {
        "row": row,
        "id": snapshot.passage(row).id,
        "title": title,
        "hit": hit,
        "hit_in": "text" if in_text else "title" if hit else None,
        "snippet": snippet,
        "marked": marked,
    }


def _sentence(snapshot: Snapshot, item: ProbeItem) -> dict[str, Any]:
    start, end = item.span
    return {
        "sentence": f"{item.sentence[:start]}[MASK]{item.sentence[end:]}",
        "blank": start,
        "answer": item.answer,
        "document": item.document_id,
        "title": snapshot.title(item.passage),
    }


def locate(answer: str, text: str) -> tuple[int, int] | None:
    """(start, end) of an answer that `answer_in_text` found, in characters; None where only folding shows it."""
    words = _BETWEEN.join(regex.escape(word) for word in _WORDS.findall(answer))
    if not words:
        return None
    edge = r"[\p{L}\p{M}\p{N}]"
    for pattern in (rf"(?<!{edge}){words}(?!{edge})", rf"(?<!{edge}){words}", words):  # particles; no spaces at all
        found = regex.search(pattern, text, regex.IGNORECASE)
        if found:
            return found.start(), found.end()
    return None


def cut(text: str, span: tuple[int, int] | None, width: int = 240) -> tuple[str, tuple[int, int] | None]:
    """About `width` characters around the span, or of the beginning, at blanks; and the span in the piece."""
    start, end = span or (0, 0)
    first = max(0, min(start - (width - (end - start)) // 2, len(text) - width))
    last = min(len(text), max(first + width, end))
    if first > 0:
        blank = text.find(" ", first, min(start, first + 24))
        first = blank + 1 if blank >= 0 else first
    if last < len(text):
        blank = text.rfind(" ", max(end, last - 24), last)
        last = blank if blank >= 0 else last
    head, tail = "…" if first > 0 else "", "…" if last < len(text) else ""
    shift = len(head) - first
    return head + text[first:last] + tail, (start + shift, end + shift) if span else None


# ---------------------------------------------------------------- telling


def render(result: Mapping[str, Any]) -> str:
    """The examples as one HTML page without scripts or outside addresses; all text of documents is escaped."""
    from importlib import resources

    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, points=_points, bar=lambda share: round(100 * share, 2))
    source = resources.files("realm.workflows.pretraining").joinpath(PAGE).read_text("utf-8")
    return environment.from_string(source).render(**result, meanings=MEANINGS, version=__version__)


def write_page(result: Mapping[str, Any]) -> Path:
    """Write the page into the run's folder, whole or not at all; its path."""
    page = Path(result["run"]) / PAGE
    files.write_text(page, render(result))
    return page


def summary(result: Mapping[str, Any]) -> str:
    """A few lines for a terminal."""
    probe, shown = result["probe"], [example["group"] for example in result["examples"]]
    lines = [
        f"{probe['sentences']:,} held-out sentences, answer in the first {result['passages']} passages: "
        f"{probe['recall_before']:.1%} after the warm start, {probe['recall_after']:.1%} after REALM "
        f"(step {result['step']:,})"
    ]
    for name, meaning in MEANINGS.items():
        share = probe[name] / probe["sentences"]
        lines.append(f"{name:>9}  {probe[name]:>7,}  {share:>6.1%}  {meaning}; {shown.count(name)} shown")
    return "\n".join(lines)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "<0.1%"


def _points(share: float) -> str:
    """A difference of two shares in points, with a real minus sign."""
    return f"{100 * share:+.1f}".replace("-", "\N{MINUS SIGN}") if abs(share) >= 0.0005 else "0.0"

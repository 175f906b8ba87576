"""Before and after, side by side: the warm start, REALM and BM25 on the same held-out sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from realm import files
from realm.config import PretrainConfig
from realm.errors import DataError
from realm.evaluation.probe import ProbeRetrieval, judge, probe_hits, probe_reading
from realm.evaluation.retrieval import paired_bootstrap
from realm.knowledge.snapshot import Snapshot
from realm.methods.realm import RealmPretraining
from realm.models.encoders import DenseEncoder
from realm.search.exact import ExactIndex
from realm.training.probe import Probe
from realm.types import NO_ROW, Encoder, Index, MaskedBatch
from realm.workflows import parts
from realm.workflows.parts import Text
from realm.workflows.run import Run

BATCH = 32
READ_SENTENCES = 128
"""Probe sentences that are read under every candidate for the likelihoods: reading is what costs."""
LIVE_SENTENCES = 1000
"""Probe sentences of the live line, searched at every refresh."""
LABELS = {"warm-start": "warm start (ICT)", "realm": "REALM", "bm25": "BM25"}


def text_of(snapshot: Snapshot) -> Callable[[int], str]:
    return lambda row: f"{snapshot.title(row)}\n{snapshot.text(row)}"


def _batches(probe: Probe, masked: Text, config: PretrainConfig, limit: int | None = None) -> list[MaskedBatch]:
    found = probe.batches(masked.snapshot, BATCH, exclude=config.data.exclude)
    return list(found if limit is None else islice(found, (limit + BATCH - 1) // BATCH))


def _answers(probe: Probe, limit: int | None = None) -> list[str]:
    return [item.answer for item in probe.items[:limit]]


def evaluate_index(
    encoder: DenseEncoder, index: ExactIndex, probe: Probe, searched: Text, masked: Text, config: PretrainConfig
) -> dict[str, Any]:
    """Recall@k of the whole probe: figures, and which sentences each k answers."""
    ks = config.probe.ks
    hits = probe_hits(encoder, index, _batches(probe, masked, config), max(ks))
    return _retrieval_report(judge(hits.rows, _answers(probe), text_of(searched.snapshot), ks), ks)


def _retrieval_report(found: ProbeRetrieval, ks: Sequence[int]) -> dict[str, Any]:
    return {
        "figures": {f"recall@{k}": found.recall(k) for k in ks},
        "found": {str(k): np.flatnonzero(found.found[k]).tolist() for k in ks},
        "rows": found.rows[:, : min(ks[-1], 5)].tolist(),
    }


def evaluate_model(
    method: RealmPretraining,
    probe: Probe,
    masked: Text,
    config: PretrainConfig,
    progress: Callable[[int, int | None], None],
) -> dict[str, Any]:
    """Likelihood with and without retrieval, RU, null mass: on entities; null mass on function words beside it."""
    entities = _batches(probe, masked, config, READ_SENTENCES)
    figures = probe_reading(method, entities)
    progress(1, 2)
    try:
        words = probe.function_words(masked.snapshot, masked.spans)
    except DataError:  # another language: there is nothing to compare with
        return {"reading": figures}
    others = probe_reading(method, _batches(words, masked, config, READ_SENTENCES))
    progress(2, 2)
    function_words = {
        f"{name}_function_words": others[name] for name in ("null_prior", "null_posterior") if name in others
    }
    return {"reading": {**figures, **function_words}}


def live_recall(
    encoder: Encoder,
    index: Index,
    probe: Probe,
    searched: Text,
    masked: Text,
    config: PretrainConfig,
    *,
    before: RealmPretraining,
) -> dict[str, float]:
    """Recall@5 of a part of the probe on a fresh index, and how much of the top k the swap changed.

    encoder: the parameters that made `index`, so that the figure is that of one step. before: holds the index in use.
    """
    batches = _batches(probe, masked, config, LIVE_SENTENCES)
    k = max(5, config.realm.num_candidates - 1)
    old = probe_hits(before.index_encoder, before.index, batches, k)
    new = probe_hits(encoder, index, batches, k)
    count = len(new.rows)
    kept = (new.rows[:, :, None] == old.rows[:, None, :]).any(-1).float().mean()
    recall = judge(new.rows, _answers(probe, count), text_of(searched.snapshot), (5,)).recall(5)
    return {"recall@5": recall, "top_k_changed": 1.0 - float(kept)}


def bm25_report(probe: Probe, searched: Text, masked: Text, config: PretrainConfig) -> dict[str, Any]:
    """The same probe by BM25: the sentence without its masked words is the query, titles and texts are searched."""
    passage = text_of(searched.snapshot)
    engine = parts.build_bm25(searched.snapshot)
    queries = [item.sentence[: item.span[0]] + item.sentence[item.span[1] :] for item in probe.items]
    exclude = [batch.exclude_rows for batch in _batches(probe, masked, config)]
    width = max(part.shape[1] for part in exclude)
    exclude_PE = torch.cat(
        [torch.nn.functional.pad(part, (0, width - part.shape[1]), value=NO_ROW) for part in exclude]
    )
    ks = config.probe.ks
    hits = engine(queries, max(ks), exclude=exclude_PE)
    return _retrieval_report(judge(hits.rows, _answers(probe), passage, ks), ks)


def save_report(run: Run, name: str, report: dict[str, Any]) -> None:
    figures = {**report["figures"], **report.get("reading", {})}
    files.write_json(
        run.evaluations / name / "report.json", {"format": "realm evaluation", **report, "figures": figures}
    )
    report["figures"] = figures


def read_report(run: Run, name: str) -> dict[str, Any]:
    return dict(files.read_json(run.evaluations / name / "report.json"))


def compare(run: Run) -> dict[str, Any]:
    """The table of a run: rows, columns, and notes with paired bootstrap intervals. All values also as numbers."""
    config = run.config()
    probe = Probe.load(run.probe)
    names = [n for n in ("warm-start", "realm", "bm25") if (run.evaluations / n / "report.json").exists()]
    reports = {name: read_report(run, name) for name in names}
    ks = [str(k) for k in config.probe.ks]
    labels = dict(LABELS)
    if config.start is not None:
        labels["warm-start"] = f"start ({config.start})" + (", then ICT" if config.ict.steps else "")
    columns = ["", *(labels[name] for name in names)]
    lines = [
        *((f"recall@{k}", f"recall@{k}", "{:.1%}") for k in ks),
        ("RU, mean over passages", "retrieval_utility", "{:+.3f}"),
        ("RU, best passage", "retrieval_utility_top1", "{:+.3f}"),
        ("RU, as the released code", "retrieval_utility_marginal", "{:+.3f}"),
        ("log p(y|x) with retrieval", "log_likelihood", "{:.2f}"),
        ("log p(y|x) without (null)", "log_likelihood_null", "{:.2f}"),
        ("p(null|x), names and dates", "null_prior", "{:.1%}"),
        ("p(null|x), function words", "null_prior_function_words", "{:.1%}"),
        ("p(null|x,y), names and dates", "null_posterior", "{:.1%}"),
        ("p(null|x,y), function words", "null_posterior_function_words", "{:.1%}"),
    ]
    documents = [item.document_id for item in probe.items]
    rows = []
    for label, name, form in lines:
        cells = [form.format(reports[n]["figures"][name]) if name in reports[n]["figures"] else "–" for n in names]
        if any(cell != "–" for cell in cells):
            rows.append([label, *cells])
    notes, intervals = [], {}
    began = "warm start" if config.start is None else "start"
    for k in ks:
        if "realm" in reports and "warm-start" in reports:
            before, after = (_found(reports[n], k, len(probe)) for n in ("warm-start", "realm"))
            gain = paired_bootstrap(before, after, samples=2000, seed=config.loop.seed, groups=documents)
            intervals[f"recall@{k}"] = [gain.difference, gain.low, gain.high]
            if k == "5":
                notes.append(
                    f"recall@5 of REALM minus the {began}: {gain.difference * 100:+.1f} points "
                    f"(95% interval {gain.low * 100:+.1f} to {gain.high * 100:+.1f}, paired bootstrap)"
                )
    taught = "" if config.realm.objective == "marginal" else f"objective: {config.realm.objective}; "
    notes.append(
        f"{taught}marginal: {config.realm.marginal}; own {config.data.exclude} left out; seed {config.loop.seed}"
    )
    if config.start is not None:
        notes.append(
            f"what is held out here may have been masked when {config.start} was trained, unless corpus, seed and "
            "share are the same"
        )
    return {
        "title": f"Held-out probe, {len(probe):,} masked sentences",
        "columns": columns,
        "rows": rows,
        "notes": notes,
        "figures": {name: reports[name]["figures"] for name in names},
        "gain": intervals,
        "run": str(run.path),
    }


def _found(report: dict[str, Any], k: str, size: int) -> np.ndarray:
    found = np.zeros(size, bool)
    found[report["found"][k]] = True
    return found

"""Graded measures of a ranking, by ir_measures: the one place that imports it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib import import_module
from typing import Any

from realm.errors import MissingLibraryError, UsageError


def ndcg(ranking: Mapping[str, Sequence[str]], gold: Mapping[str, Collection[str]], k: int = 10) -> dict[str, float]:
    """nDCG@k of each question that has gold (Järvelin & Kekäläinen 2002, binary gains, as trec_eval's ndcg_cut).

    ranking: question to passage ids, best first; a repeated id counts at its first place, and what comes after it
    moves up. A question that `ranking` lacks scores 0. Two orders are never tied: the place is the score.

    Raises:
        UsageError: k below 1.
        MissingLibraryError: ir_measures is not installed.
    """
    if k < 1:
        raise UsageError(f"found k={k}: expected at least 1")
    wanted = {question: ids for question, ids in gold.items() if ids}
    if not wanted:
        return {}
    measures = _library()
    qrels = [measures.Qrel(question, passage, 1) for question, ids in wanted.items() for passage in ids]
    run = [
        measures.ScoredDoc(question, passage, -float(place))
        for question in wanted
        for place, passage in enumerate(dict.fromkeys(ranking.get(question, ())))
    ]
    found = dict.fromkeys(wanted, 0.0)
    if run:
        found |= {
            metric.query_id: float(metric.value) for metric in measures.iter_calc([measures.nDCG @ k], qrels, run)
        }
    return found


def _library() -> Any:
    try:
        return import_module("ir_measures")
    except ImportError:
        raise MissingLibraryError("ir_measures", "eval", "nDCG") from None

"""Recall by work done: the curve of a refresh whose vectors are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toy_search import ToySource

from benchmarks.suites.partial import KS, _curve, recalls
from realm.search.exact import ExactIndex
from realm.search.jobs import step_name

ROWS = 200


@pytest.fixture
def judged(tmp_path: Path) -> Any:
    """An index of step 10, and one of step 20 whose vectors were turned and shaken."""
    draw = torch.Generator().manual_seed(0)
    old_ND = torch.randn(ROWS, 16, generator=draw)
    turn_DD = torch.linalg.qr(torch.randn(16, 16, generator=draw)).Q
    new_ND = old_ND @ turn_DD + 0.1 * torch.randn(ROWS, 16, generator=draw)
    source, places = ToySource(ROWS), {}
    for step, vectors in ((10, old_ND), (20, new_ND)):
        places[step] = tmp_path / step_name(step)
        ExactIndex(vectors, facts={"snapshot": source.fingerprint, "step": step}).save(places[step])
    return SimpleNamespace(
        snapshot=source,
        places=places,
        index=lambda step: ExactIndex.open(places[step]),
        judging=SimpleNamespace(exclude_rows=torch.full((8, 1), -1)),
        config=SimpleNamespace(data=SimpleNamespace(max_passage_tokens=16)),
    )


def test_recall_rises_with_work_and_the_map_is_worth_much_of_it(judged: Any) -> None:
    query_BD = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))
    best_BK = judged.index(20).search(query_BD, max(KS)).rows
    assert recalls(judged.index(20), query_BD, judged.judging, best_BK) == dict.fromkeys(KS, 1.0)
    curves = {carry: _curve(judged, 10, 20, torch.arange(ROWS), carry, query_BD, best_BK) for carry in (True, False)}
    for curve in curves.values():
        assert list(curve) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
        assert curve[0.9][64] > curve[0.1][64]
    assert curves[True][0.3][64] > 0.85 > curves[False][0.3][64]

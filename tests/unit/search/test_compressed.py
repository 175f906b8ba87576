"""The compressed index beyond the contract: the recall that was promised, what lies on disk, the command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from story import realm

from realm.errors import ArtefactError, MismatchError, MissingLibraryError, UsageError
from realm.search import tuning
from realm.search.codes import PER_LIST, Plan
from realm.search.compressed import CompressedIndex
from realm.search.exact import ExactIndex
from realm.search.layered import Layered
from realm.types import NO_ROW, Hits
from realm.workflows.compressing import compress
from realm.workflows.showing.show import describe

ROWS, DIM = 4_000, 16
LISTS = Plan("ivf-pq", 8, lists=64, pieces=4)
MANY = Plan("ivf-pq", 8, lists=512, pieces=8)
"""So many lists that they are found by codes, too."""


def vectors(rows: int, seed: int) -> torch.Tensor:
    """Clusters in six dimensions, and noise around them."""
    shape, draw = torch.Generator().manual_seed(7), torch.Generator().manual_seed(seed)
    axes, centres = torch.randn(6, DIM, generator=shape), torch.randn(40, 6, generator=shape)
    own = centres[torch.randint(40, (rows,), generator=draw)] + 0.5 * torch.randn(rows, 6, generator=draw)
    return own @ axes + 0.2 * torch.randn(rows, DIM, generator=draw)


def recall(hits: Hits, right: Hits) -> float:
    return float((hits.rows[:, :, None] == right.rows[:, None]).any(1).float().mean())


@pytest.fixture(scope="module")
def exact() -> ExactIndex:
    pytest.importorskip("faiss")
    return ExactIndex(vectors(ROWS, 0), facts={"snapshot": "s", "encoder": "e", "step": 3})


@pytest.fixture(scope="module")
def built(exact: ExactIndex) -> CompressedIndex:
    return tuning.build(exact, 0.9, plans=[LISTS])


@pytest.fixture
def saved(exact: ExactIndex, built: CompressedIndex, tmp_path: Path) -> Path:
    """The codes beside the vectors of an exact index."""
    exact.save(tmp_path / "index" / "step-000003", rows_per_shard=999)
    built.save(tmp_path / "index" / "step-000003" / "compressed", beside=True)
    return tmp_path / "index" / "step-000003" / "compressed"


# ---------------------------------------------------------------- the promise


@pytest.mark.parametrize(("wanted", "plan"), [(0.8, LISTS), (0.95, LISTS), (0.99, LISTS), (0.95, MANY)])
def test_the_recall_holds_for_queries_that_were_never_seen(exact: ExactIndex, wanted: float, plan: Plan) -> None:
    index = tuning.build(exact, wanted, queries=vectors(400, 1), plans=[plan])
    query_BD = vectors(1_000, 2)
    reached = recall(index.search(query_BD, 10), exact.search(query_BD, 10))
    told = index.chosen["tried"][0]
    assert told["measured_recall"] >= wanted
    assert reached >= wanted - 0.015  # 400 queries tell a recall to about a hundredth
    assert abs(reached - told["measured_recall"]) < 0.04


def test_more_recall_costs_more(exact: ExactIndex) -> None:
    low, high = (tuning.build(exact, wanted, plans=[LISTS]).levels for wanted in (0.5, 0.99))
    assert low[0].effort * low[0].ratio < high[0].effort * high[0].ratio
    assert [level.depth for level in high] == sorted(level.depth for level in high) and high[-1].depth >= 1_000


def test_the_default_tries_several_kinds_and_tells_what_it_chose() -> None:
    pytest.importorskip("faiss")
    index = tuning.build(torch.nn.functional.pad(vectors(2_000, 0), (0, 48)), 0.9)
    tried = index.chosen["tried"]
    assert {one["kind"].split(",")[0] for one in tried} == {"ivf-pq", "hnsw-sq"}
    assert all(one["bytes_a_row"] < 4 * 64 for one in tried)
    assert index.chosen["kind"] in {"exact", *(one["kind"] for one in tried)}
    assert (index.codes is None) == (index.chosen["kind"] == "exact")
    assert json.loads(json.dumps(index.chosen)) == index.chosen


def test_of_many_rows_more_lists_are_tried_and_the_sample_is_enough_for_them() -> None:
    sample_SD = torch.nn.functional.pad(vectors(500, 0), (0, 48)).numpy()
    few, many = (tuning.plans_for(rows, sample_SD) for rows in (tuning.MANY_ROWS - 1, tuning.MANY_ROWS))
    assert {plan.lists for plan in few} == {1024, 0} and {plan.lists for plan in many} == {1024, 2048, 0}
    assert [plan for plan in many if plan.lists != 2048] == few  # the graph's dimensions among them
    wide = ExactIndex(torch.zeros(tuning.MANY_ROWS, 1))
    assert len(tuning._sample(wide, np.random.default_rng(0))) >= PER_LIST * 2048


def test_a_kind_that_cannot_reach_the_recall_is_told_and_not_taken(exact: ExactIndex) -> None:
    coarse = Plan("ivf-pq", 4, lists=64, pieces=1)  # four bits a vector
    index = tuning.build(exact, 0.99, plans=[coarse])
    assert index.codes is None and "does not reach" in index.chosen["tried"][0]["because"]
    query_BD = vectors(5, 3)
    assert torch.equal(index.search(query_BD, 10).rows, exact.search(query_BD, 10).rows)


def test_impossible_wishes(exact: ExactIndex) -> None:
    for wrong in (0.0, 1.0, 95):
        with pytest.raises(UsageError, match="recall"):
            tuning.build(exact, wrong)
    with pytest.raises(UsageError, match="at least two"):
        tuning.build(exact, 0.9, queries=vectors(1, 0))
    for plan in ({"kind": "pq"}, {"kind": "ivf-pq", "pieces": 3, "lists": 4}, {"kind": "hnsw-sq"}, {"kind": "ivf-sq"}):
        with pytest.raises(UsageError, match="expected"):
            Plan(**{"dims": 8, **plan})  # type: ignore[arg-type]


def test_without_faiss_the_error_says_how_to_get_it(
    exact: ExactIndex, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for work in (lambda: tuning.build(exact, 0.9), lambda: CompressedIndex.open(saved)):
        with pytest.raises(MissingLibraryError, match=r"pip install 'realm-lm\[faiss\]'"):
            work()
    assert tuning.build(vectors(9, 0), 0.9).chosen["kind"] == "exact"  # few rows need none


# ---------------------------------------------------------------- disk


@pytest.mark.parametrize("beside", [True, False])
def test_what_is_opened_searches_as_what_was_saved(
    exact: ExactIndex, built: CompressedIndex, saved: Path, tmp_path: Path, beside: bool
) -> None:
    folder = saved if beside else tmp_path / "own"
    if not beside:
        built.save(folder)
        shutil.rmtree(saved.parent)  # it needs nothing else
    index = CompressedIndex.open(folder, snapshot="s", encoder="e")
    assert index.levels == built.levels and index.facts == exact.facts and index.chosen == built.chosen
    draw = torch.Generator().manual_seed(0)
    for queries in (1, 3, 50):
        query_BD = vectors(queries, 5)
        exclude = torch.randint(NO_ROW, ROWS, (queries, 4), generator=draw)
        allowed = torch.rand(ROWS, generator=draw) < 0.4
        for more in ((), (exclude,), (exclude, allowed)):
            one, two = built.search(query_BD, 10, *more), index.search(query_BD, 10, *more)
            assert torch.equal(one.rows, two.rows) and torch.allclose(one.scores, two.scores, rtol=1e-5)


def test_damage_is_told_before_faiss_sees_it(saved: Path, exact: ExactIndex) -> None:
    codes = saved / "codes.faiss"
    whole, manifest = codes.read_bytes(), (saved / "manifest.json").read_text()
    for damaged in (whole[:-1], whole[:100], b"", whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]):
        codes.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=r"not what its manifest was written for.*make the index again$"):
            CompressedIndex.open(saved)
    codes.unlink()
    with pytest.raises(ArtefactError, match="manifest was written for"):
        CompressedIndex.open(saved)
    codes.write_bytes(whole)
    for change in ({"plan": {"kind": "pq"}}, {"vectors": "/etc"}, {"levels": [{}]}, {"hashes": {}}, {"rows": 5}):
        (saved / "manifest.json").write_text(json.dumps({**json.loads(manifest), **change}))
        with pytest.raises((ArtefactError, UsageError)) as told:
            CompressedIndex.open(saved)
        assert "\n" not in str(told.value)
    (saved / "manifest.json").write_text(manifest)
    CompressedIndex.open(saved)
    for wrong in ({"snapshot": "t"}, {"encoder": "f"}):
        with pytest.raises(MismatchError):
            CompressedIndex.open(saved, **wrong)


def test_a_file_that_a_manifest_vouches_for_is_looked_at_all_the_same(saved: Path) -> None:
    """Whoever writes a manifest can write any hash: faiss then reads the file, and what it finds must fit."""
    import hashlib

    import faiss

    manifest = json.loads((saved / "manifest.json").read_text())

    def vouch() -> None:
        manifest["hashes"]["codes.faiss"] = hashlib.sha256((saved / "codes.faiss").read_bytes()).hexdigest()
        (saved / "manifest.json").write_text(json.dumps(manifest))

    (saved / "codes.faiss").write_bytes(b"no file of faiss")
    vouch()
    with pytest.raises(ArtefactError, match="no file of faiss"):
        CompressedIndex.open(saved)
    faiss.write_index(faiss.IndexFlatIP(DIM), str(saved / "codes.faiss"))
    vouch()
    with pytest.raises(ArtefactError, match="holds 0 rows"):
        CompressedIndex.open(saved)


def test_codes_stay_with_the_vectors_that_they_were_made_for(saved: Path) -> None:
    shutil.rmtree(saved.parent.with_name("step-000004"), ignore_errors=True)
    ExactIndex(vectors(ROWS, 9)).save(saved.parent.with_name("step-000004"))
    shutil.move(saved, saved.parent.with_name("step-000004") / "compressed")
    with pytest.raises(MismatchError, match="made for other vectors"):
        CompressedIndex.open(saved.parent.with_name("step-000004") / "compressed")


# ---------------------------------------------------------------- edits


def test_edits_are_seen_at_once_and_rows_keep_their_numbers(exact: ExactIndex, built: CompressedIndex) -> None:
    index, query_BD = Layered(built), vectors(20, 4)
    first = index.search(query_BD, 1).rows[:, 0]
    index.remove(first)
    assert not torch.isin(index.search(query_BD, 50).rows, first).any()
    added = index.add(10 * query_BD[:5])
    assert added.tolist() == list(range(ROWS, ROWS + 5))
    assert torch.isin(index.search(query_BD[:5], 1).rows[:, 0], added).all()
    assert index.search(query_BD[:1], 5).rows[0].tolist().count(ROWS) == 1
    assert torch.equal(index.vectors(added), 10 * query_BD[:5])
    index.remove(added[:1])
    assert ROWS not in index.search(query_BD[:1], 50).rows
    alive = index.alive
    assert len(index) == ROWS + 5 and int((~alive).sum()) == len(first.unique()) + 1
    right = Layered(exact)
    right.remove(first)
    right.add(10 * query_BD[:5])
    right.remove(added[:1])
    assert recall(index.search(query_BD, 10), right.search(query_BD, 10)) > 0.85
    assert not index.worn
    index.add(vectors(ROWS // 8, 6))
    assert index.worn
    with pytest.raises(UsageError, match="rows of this index"):
        index.remove(torch.tensor([len(index)]))
    with pytest.raises(UsageError, match="expected \\[rows, 16\\]"):
        index.add(torch.zeros(1, 3))


# ---------------------------------------------------------------- the command


def test_the_command_compresses_a_run_and_says_what_it_chose(saved: Path, tmp_path: Path) -> None:
    shutil.rmtree(saved)
    told = realm("index", tmp_path, "--recall", "0.9")
    assert told.code == 0 and str(saved) in told.out and "recall 0.9 wanted" in told.out
    index = CompressedIndex.open(saved)
    assert index.chosen["recall"] == 0.9
    facts: dict[str, Any] = describe(saved)
    assert facts["kind"] == "realm compressed index" and facts["recall_wanted"] == 0.9 and "damaged" not in facts
    (saved.parent / "shard-00000-000000000-000000999.npy").exists()
    shutil.rmtree(saved)
    result = compress(saved.parent, recall=0.8, out=tmp_path / "own")
    assert CompressedIndex.open(Path(result["path"])).chosen["recall"] == 0.8


def test_the_command_refuses_what_it_would_harm(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for place, out, message in (
        (tmp_path / "other", None, "no exact index"),
        (tmp_path, tmp_path / "other", "no compressed index"),
        (tmp_path, saved.parent / "more", "leave --out away"),
    ):
        more = [] if out is None else ["--out", str(out)]
        told = realm("index", place, *more)
        assert told.code and message in told.err and len(told.err.strip().splitlines()) == 1
    assert not list((tmp_path / "other").iterdir())


def test_a_run_is_measured_with_the_questions_that_it_is_given(exact: ExactIndex, tmp_path: Path) -> None:
    from tiny import tiny_bert

    from realm.files import write_json
    from realm.models.encoders import DenseEncoder
    from realm.training.optim import BertAdam
    from realm.training.state import save_checkpoint

    exact.save(tmp_path / "index" / "step-000003")
    questions = tmp_path / "questions.txt"
    questions.write_text("who painted guernica ?\nwhere does the danube flow ?\n" * 20)
    with pytest.raises(ArtefactError, match="no encoder in"):
        compress(tmp_path, recall=0.8, queries=questions)
    encoder = DenseEncoder.from_pretrained(tiny_bert(tmp_path / "bert"), layers=1, dim=DIM)
    optimizer = BertAdam([{"params": list(encoder.parameters()), "role": "retriever"}], lr=0.1)
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(tmp_path / "checkpoints", 3, {"encoder": encoder}, optimizer, facts={})
    write_json(tmp_path / "config.json", {"data": {"max_query_tokens": 8}})
    result = compress(tmp_path, recall=0.8, queries=questions)
    assert Path(result["path"]).name == "compressed" and result["tried"]

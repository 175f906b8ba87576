"""A refresh in parts: what is published on the way, what an interruption costs, and how vectors are carried over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_search import ToyEncoder, ToySource, open_toy

from realm.errors import ArtefactError, UsageError
from realm.files import MANIFEST, read_json
from realm.search import partial
from realm.search.embed import embed, embed_rows
from realm.search.exact import ExactIndex
from realm.search.jobs import Job, partials
from realm.search.partial import ROW_STEPS, Work, build_in_parts, fit_carrier
from realm.search.priorities import Priorities, order_of
from realm.search.refresh import open_refresh, reference
from realm.types import NO_ROW

ROWS = 60
ALL = torch.arange(ROWS)
OLD, NEW = ToyEncoder(seed=1), ToyEncoder(seed=2)


def work_in(folder: Path, **changes: object) -> Work:
    """A refresh of step 20 over an index of step 10."""
    source, base = ToySource(ROWS), folder / "step-000010"
    if not base.exists():
        embed(OLD, source, base, max_tokens=16, facts={"encoder": "old", "step": 10, "published": 0.0})
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
    facts = {"encoder": "new", "step": 20, "published": 1.0}
    settings = {"order_N": order, "share": 0.25, "facts": facts, "max_tokens": 16, "rows_per_shard": 10, **changes}
    return Work(encoder=NEW, source=source, out=folder / "step-000020", base=base, **settings)  # type: ignore[arg-type]


def vectors(encoder: ToyEncoder) -> torch.Tensor:
    return embed_rows(encoder, ToySource(ROWS), max_tokens=16)


@pytest.mark.parametrize("carry", [True, False])
def test_a_partial_index_holds_new_vectors_first_and_the_previous_ones_elsewhere(tmp_path: Path, carry: bool) -> None:
    work = work_in(tmp_path, carry=carry)
    work.run()
    lengths = ToySource(ROWS).passage_lengths(16)
    published = list(partials(tmp_path))
    assert [(step, part) for step, part, _ in published] == [(20, 1), (20, 2), (20, 3)]
    for _, part, folder in published:
        index, manifest = ExactIndex.open(folder, snapshot=ToySource(ROWS).fingerprint), read_json(folder / MANIFEST)
        steps = torch.from_numpy(np.load(folder / ROW_STEPS)).long()
        done = work.order_N[: int((steps == 20).sum())]
        assert set(steps[done].tolist()) == {20}, "the most urgent rows are those that were embedded"
        assert manifest["rows_of"] == {"20": len(done), "10": ROWS - len(done)} and manifest["part"] == part
        share = lengths[done.numpy()].sum() / lengths.sum()
        assert part * 0.25 <= share < part * 0.25 + 0.05
        assert torch.allclose(index.vectors(done), vectors(NEW)[done], atol=1e-6)
        rest = (steps == 10).nonzero()[:, 0]
        expected = vectors(OLD)
        if carry:
            expected = fit_carrier(vectors(OLD)[done], vectors(NEW)[done])(expected)
        assert torch.allclose(index.vectors(rest), expected[rest], atol=1e-4)


def test_in_the_end_it_is_the_plain_refresh(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    plain = embed(NEW, work.source, tmp_path / "plain", max_tokens=16, rows_per_shard=10, facts=work.facts)
    found = work.run()
    manifests = [read_json(folder / MANIFEST) for folder in (found, plain)]
    for manifest in manifests:
        del manifest["hashes"]  # another order of the same sums
    assert manifests[0] == manifests[1]
    assert torch.allclose(ExactIndex.open(found).vectors(ALL), ExactIndex.open(plain).vectors(ALL), atol=1e-6)
    assert not list(tmp_path.glob(".step-*")), "nothing unfinished is left"
    again = embed(NEW, work.source, found, max_tokens=16, facts=work.facts)
    assert (again / MANIFEST).stat().st_mtime == (found / MANIFEST).stat().st_mtime, "and it is taken for it"


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", ["embedding", "publishing", "before publishing", "finishing"])
def test_an_interruption_loses_nothing(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"seal": 0, "embed": 0}

    def dying(name: str, last: int, real: object) -> object:
        def call(*given: object, **named: object) -> object:
            calls[name] += 1
            if calls[name] > last:
                raise Killed
            return real(*given, **named)  # type: ignore[operator]

        return call

    with monkeypatch.context() as patch:
        if moment == "embedding":
            patch.setattr(partial, "embed_rows", dying("embed", 3, embed_rows))
        elif moment == "before publishing":
            patch.setattr(Work, "_publish", dying("seal", 1, lambda *given: None))
        else:
            patch.setattr(partial, "seal", dying("seal", 1 if moment == "publishing" else 3, partial.seal))
        with pytest.raises(Killed):
            work_in(tmp_path).run()
    (kept,) = tmp_path.glob(".step-000020.partial-*")
    times = {path.name: path.stat().st_mtime_ns for path in kept.glob("shard-*")}
    assert times and not (tmp_path / "step-000020").exists()
    embedded = 0

    def counted(*given: object, **named: object) -> torch.Tensor:
        nonlocal embedded
        found = embed_rows(*given, **named)  # type: ignore[arg-type]
        embedded += len(found)
        return found

    monkeypatch.setattr(partial, "embed_rows", counted)
    before = {part for _, part, _ in partials(tmp_path)}
    found = ExactIndex.open(work_in(tmp_path).run()).vectors(ALL)
    assert torch.allclose(found, vectors(NEW), atol=1e-6)
    wanted = {"embedding": {1, 2, 3}, "publishing": {1, 2, 3}, "before publishing": {2, 3}, "finishing": {1, 2, 3}}
    assert before | {part for _, part, _ in partials(tmp_path)} == wanted[moment], "a part under way is published again"
    chunks = {"embedding": 3, "publishing": 4, "before publishing": 4, "finishing": 8}
    sizes = [last - first for first, last in work_in(tmp_path / "other").chunks]
    assert len(sizes) == 8 and embedded == sum(sizes[chunks[moment] :]), "finished chunks are not embedded again"


def test_another_order_or_encoder_is_other_work(tmp_path: Path) -> None:
    work = work_in(tmp_path)
    folders = {
        work.folder,
        work_in(tmp_path, order_N=torch.arange(ROWS)).folder,
        work_in(tmp_path, facts={**work.facts, "encoder": "third"}).folder,
        work_in(tmp_path, share=0.5).folder,
    }
    assert len(folders) == 4 and work.folder == work_in(tmp_path).folder
    with pytest.raises(UsageError, match="each of 60 rows once"):
        work_in(tmp_path, order_N=torch.zeros(ROWS, dtype=torch.long)).run()


def test_the_map_finds_an_affine_one_and_stays_where_it_knows_little() -> None:
    draw = torch.Generator().manual_seed(0)
    old_ND = torch.randn(500, 8, generator=draw)
    turn_DD = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    new_ND = old_ND @ turn_DD
    fitted = fit_carrier(old_ND[:400], new_ND[:400], ridge=1e-6)(old_ND)
    assert torch.allclose(fitted[400:], new_ND[400:], atol=0.1), "rows that it never saw"
    scaled = fit_carrier(old_ND[:400], 3 * old_ND[:400])(old_ND)
    assert torch.allclose(scaled.norm(dim=1), 3 * old_ND.norm(dim=1), rtol=0.01), "and lengths keep their proportion"
    alone = fit_carrier(old_ND[:1], old_ND[:1])(old_ND)
    assert torch.allclose(alone, old_ND, atol=1e-5)


def test_priorities_are_what_moved_beside_its_neighbours(tmp_path: Path) -> None:
    seen = Priorities(6)
    rows = torch.tensor([[0, 1, 2, NO_ROW], [3, 1, 4, NO_ROW]])
    index = torch.tensor([[3.0, 2.0, 1.0, -torch.inf], [3.0, 2.0, torch.nan, -torch.inf]])
    live = index + 5.0  # what all have in common is no movement
    live[0, 1] += 3.0
    seen.observe(rows, index, live)
    assert seen.priority_N.tolist() == pytest.approx([1.001, 2.002, 1.001, 0.001, 0.0, 0.0])
    seen.save(tmp_path)
    assert order_of(tmp_path, 6).tolist() == [1, 0, 2, 3, 4, 5]
    assert seen.priority_N[1] == pytest.approx(1.001), "what was known fades"
    assert order_of(tmp_path / "none", 3).tolist() == [0, 1, 2]
    with pytest.raises(ArtefactError, match=r"outside 0..2"):
        order_of(tmp_path, 3)
    (tmp_path / "priorities.safetensors").write_bytes(b"torn")
    with pytest.raises(ArtefactError, match="can't be read"):
        order_of(tmp_path, 6)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    ToySource(ROWS).save(tmp_path / "snapshot")
    return Job(
        folder=str(tmp_path / "run"),
        snapshot=str(tmp_path / "snapshot"),
        opener=reference(open_toy),
        rows_per_shard=20,
        partial=0.25,
    )


def test_the_trainer_takes_parts_and_then_the_whole(job: Job) -> None:
    refresh = open_refresh("sync", job)
    refresh.publish(10, OLD.save)
    whole = refresh.poll()
    assert whole is not None and whole.rows_of is None and not list(partials(job.indexes)), "sync has nobody waiting"

    def save(folder: Path) -> None:
        NEW.save(folder)
        seen = Priorities(ROWS)
        seen.observe(torch.tensor([[7, 8]]), torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]]))
        seen.save(folder)

    refresh.publish(20, save)
    (parameters,) = job.parameters.glob("step-*")
    parts: list[int] = []

    def trainer(done: int, total: int | None) -> None:
        """Polls as a trainer beside would: with a shelf of its own over the same folders."""
        fresh = refresh._shelf.take()  # type: ignore[attr-defined]
        if fresh is not None:
            assert fresh.step == 20 and fresh.rows_of is not None and sum(fresh.rows_of.values()) == ROWS
            assert ExactIndex.open(fresh.folder, encoder=fresh.encoder).vectors(torch.tensor([7])).shape == (1, 8)
            parts.append(fresh.rows_of[20])
            assert len(list(partials(job.indexes))) == 1, "older parts are gone"
            assert 20 in refresh.pending(), "the complete index may still come"

    build_in_parts(job, parameters, progress=trainer)
    assert parts == sorted(parts) and len(parts) >= 2
    complete = refresh._shelf.take()  # type: ignore[attr-defined]
    assert complete is not None and complete.rows_of is None and complete.step == 20
    assert not list(partials(job.indexes))
    assert torch.allclose(ExactIndex.open(complete.folder).vectors(ALL), vectors(NEW), atol=1e-6)


def test_without_an_older_index_it_is_a_plain_refresh(job: Job) -> None:
    refresh = open_refresh("sync", job)
    refresh.publish(10, OLD.save)
    (parameters,) = job.parameters.glob("step-*")
    build_in_parts(job, parameters)
    assert not list(partials(job.indexes)) and (job.indexes / "step-000010" / MANIFEST).exists()


def test_a_run_that_goes_on_clears_parts_away(job: Job) -> None:
    refresh = open_refresh("sync", job)
    refresh.publish(10, OLD.save)
    refresh.poll()
    refresh.publish(20, NEW.save)
    (parameters,) = job.parameters.glob("step-*")
    build_in_parts(job, parameters)
    (job.indexes / ".step-000030.part-01.stage-1").mkdir()
    assert len(list(partials(job.indexes))) == 3
    open_refresh("sync", job, since=20, current=10)
    assert not list(partials(job.indexes)) and not list(job.indexes.glob(".step-*"))

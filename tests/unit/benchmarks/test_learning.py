"""The learning benchmarks: legs, the oracle, costs, intervals, and a whole leg on the towns of the story."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import story
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tiny import tiny_bert
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.learning import runs, tables
from benchmarks.learning.cost import FORWARD, Cost
from benchmarks.learning.design import FACTORS, design_legs, signs
from benchmarks.learning.effects import effect_rows
from benchmarks.learning.judging import effort_at
from benchmarks.learning.legs import LEGS, config_of
from benchmarks.learning.lines import ORACLE, Flat
from benchmarks.learning.one import run_leg
from benchmarks.learning.oracle import told_elsewhere
from benchmarks.learning.probe import CommonProbe
from benchmarks.learning.results import Judged, Results, interval, pearson, read_results, spearman
from benchmarks.learning.supervised import QuestionPairs, supervised
from realm.errors import ArtefactError, DataError, MismatchError, UsageError
from realm.evaluation.retrieval import answer_in_text
from realm.models.encoders import DenseEncoder
from realm.types import NO_ROW
from realm.workflows import parts
from realm.workflows.parts import Text
from realm.workflows.reporting import Silent
from realm.workflows.store import open_knowledge_base

# ---------------------------------------------------------------- legs


def test_every_leg_can_be_configured_and_all_but_the_default_differ_from_it() -> None:
    default = config_of("salient", 0)
    same = {leg for leg in LEGS if config_of(leg, 0) == default}
    assert same == {"salient", "ict-realm", "design-0"}


def test_the_design_is_balanced_and_begins_with_the_recipe() -> None:
    high = signs() > 0
    assert not high[0].any() and design_legs()["design-0"] == ()
    assert (signs().T @ signs() == 8 * np.eye(len(FACTORS), dtype=int)).all()
    for row, settings in zip(high, design_legs().values(), strict=True):
        wanted = [each for place in np.flatnonzero(row) for each in [*FACTORS.values()][place]]
        assert [*settings] == wanted


def test_the_effects_of_a_design_are_those_that_were_put_in() -> None:
    # 100 sentences; the recipe finds 50 of them, the second setting adds 8, the seventh takes 4 and half the time.
    def run(number: int, seed: int) -> Judged:
        high = signs()[number] > 0
        found = 50 + 8 * high[1] - 4 * high[6]
        point = {"found": {"5": [*range(found)]}, "seconds": 50 if high[6] else 100}
        return Judged(f"design-{number}", seed, [point], {"sentences": 100})

    runs = {f"design-{number}": [run(number, seed) for seed in (0, 1)] for number in range(8)}
    rows = [*effect_rows(Results(runs, {}, {seed: np.arange(100) for seed in (0, 1)}, []))]
    assert [row[0] for row in rows] == [*FACTORS]
    assert [row[2] for row in rows] == ["+0.0 +0.0", "+8.0 +8.0", *["+0.0 +0.0"] * 4, "-4.0 -4.0"]
    assert [row[3] for row in rows] == [*["1.00"] * 6, "0.50"]
    del runs["design-3"]
    assert not [*effect_rows(Results(runs, {}, {0: np.arange(100)}, []))]


def test_a_setting_of_one_leg_leaves_the_others_alone() -> None:
    given = ["realm.steps=50", "ict-only:ict.steps=77"]
    assert config_of("ict-only", 3, given).ict.steps == 77
    other = config_of("ict-realm", 3, given)
    assert (other.realm.steps, other.loop.seed) == (50, 3)
    assert other.ict.steps == config_of("ict-realm", 3).ict.steps


def test_a_run_has_as_many_checkpoints_as_asked_for_unless_settings_say_how_often() -> None:
    assert config_of("salient", 0, ["realm.steps=400", "ict.steps=10"], points=8).loop.checkpoint_every == 50
    assert config_of("salient", 0, ["loop.checkpoint_every=3"], points=8).loop.checkpoint_every == 3


def test_rare_refresh_is_thirty_times_rarer() -> None:
    assert config_of("rare-refresh", 0, ["refresh.every_steps=7"]).refresh.every_steps == 210


@pytest.mark.parametrize("leg, settings", [("saliant", []), ("salient", ["saliant:realm.steps=3"])])
def test_a_leg_that_is_not_there_is_named(leg: str, settings: list[str]) -> None:
    with pytest.raises(UsageError, match="saliant"):
        config_of(leg, 0, settings)


# ---------------------------------------------------------------- the oracle

_WORD = st.sampled_from(["st", "louis", "St.", "Louis", "seoul", "서울", "서울은", "42", "c++"])
_TEXT = st.lists(_WORD, min_size=1, max_size=5).map(" ".join)


@hypothesis_settings(max_examples=100)
@given(texts=st.lists(_TEXT, min_size=1, max_size=6), answer=_TEXT, own=st.integers(0, 5))
def test_the_oracle_is_what_a_search_through_all_allowed_passages_finds(
    texts: list[str], answer: str, own: int
) -> None:
    exclude = torch.tensor([[own if own < len(texts) else NO_ROW, NO_ROW]])
    expected = any(answer_in_text(answer, text) for row, text in enumerate(texts) if row != own)
    assert told_elsewhere([answer], exclude, len(texts), texts.__getitem__).tolist() == [expected]


# ---------------------------------------------------------------- statistics


def test_an_interval_holds_the_mean_and_is_a_point_where_nothing_varies() -> None:
    rng = np.random.default_rng(0)
    values, groups = [rng.random(60) < 0.4 for _ in range(3)], [np.arange(60) // 3] * 3
    found = interval(values, groups)
    assert found.low < found.difference < found.high
    assert found.difference == pytest.approx(np.mean([v.mean() for v in values]))
    assert interval([np.ones(6)], [np.arange(6)])[:] == (1.0, 1.0, 1.0)


def test_an_interval_knows_that_sentences_of_one_document_and_seeds_go_together() -> None:
    value = np.repeat(np.arange(20) % 2, 10)
    wide, narrow = interval([value], [np.repeat(np.arange(20), 10)]), interval([value], [np.arange(200)])
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    seeds = interval([np.zeros(50), np.ones(50)], [np.arange(50)] * 2)  # only the seeds vary
    assert (seeds.low, seeds.high) == (0.0, 1.0)


def test_rank_correlation_sees_order_alone() -> None:
    x = np.array([1.0, 2.0, 3.0, 10.0])
    assert spearman(x, np.exp(x)) == pytest.approx(1.0)
    assert spearman(x, -(x**3)) == pytest.approx(-1.0)
    assert pearson(x, np.exp(x)) < 0.99
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(np.sqrt(3) / 2)
    assert np.isnan(pearson(x, np.ones(4)))


# ---------------------------------------------------------------- a knowledge base of towns


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], Text]:
    """(knowledge base, settings, text)"""
    folder = tmp_path_factory.mktemp("world")
    model = story.write_model(folder / "model")
    corpus = story.write_documents(folder / "towns.jsonl")
    assert story.realm("ingest", corpus, "--kb", folder / "kb").code == 0
    settings = story.settings(model, data__exclude="document")
    config = config_of("salient", 0, settings)
    text = parts.prepare_text(open_knowledge_base(folder / "kb"), config.encoder.model, config.data, Silent())
    return folder / "kb", settings, text


@pytest.mark.parametrize("layers", [1, 2])
def test_the_cost_of_encoding_is_what_torch_counts(
    world: tuple[Path, list[str], Text], tmp_path: Path, layers: int
) -> None:
    text = world[2]
    texts = [row["title"] + " " + row["text"] for row in story.documents()]
    model = tiny_bert(tmp_path / "model", texts, hidden=64, layers=2)
    config = config_of("salient", 0, [*world[1], f"model={model}", f"encoder.layers={layers}", "encoder.dim=16"])
    encoder = DenseEncoder.from_pretrained(str(model), layers=layers, dim=16, pooling="mean").eval()
    encoder.query_tower.backbone.set_attn_implementation("eager")  # a fused attention is counted as nothing
    tokens = text.snapshot.passages(torch.arange(1), 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder.encode_passages(tokens)
    cost = Cost(config, text, CommonProbe(tmp_path, text, config).probe)
    assert cost.encode(1, float(tokens.lengths[0]), FORWARD) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_effort_grows_with_steps_and_counts_both_stages(world: tuple[Path, list[str], Text], tmp_path: Path) -> None:
    config = config_of("salient", 0, [*world[1], "ict.steps=4", "realm.steps=4", "realm.accumulation=2"])
    cost = Cost(config, world[2], CommonProbe(tmp_path, world[2], config).probe)
    metrics: list[dict[str, Any]] = [
        {"stage": "ict", "kind": "train", "step": 2, "seconds": 1.0},
        {"stage": "ict", "kind": "train", "step": 4, "seconds": 2.0},
        {"stage": "realm", "kind": "train", "step": 4, "seconds": 10.0, "duplicates": 0.0},
    ]
    at = [effort_at(*where, config, cost, metrics, 5.0, 100.0) for where in (("ict", 3), ("realm", 0), ("realm", 2))]
    assert [effort.seconds for effort in at] == [4.0, 106.0, 126.0]
    assert [effort.examples for effort in at] == [24, 32, 32 + 2 * 2 * config.realm.batch_size]
    assert at[2].flops - at[1].flops == pytest.approx(2 * (cost.realm_step(0.0) + 5.0))
    assert cost.realm_step(0.5) < cost.realm_step(0.0)


@pytest.fixture(scope="module")
def out(world: tuple[Path, list[str], Text], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two legs, trained and judged."""
    kb, settings, _ = world
    folder = tmp_path_factory.mktemp("out")
    for leg in ("salient", "no-exclusion"):
        run_leg(kb, folder, leg, 0, settings, points=3)
    return folder


def test_legs_of_a_seed_are_judged_on_one_probe_without_the_own_document(
    out: Path, world: tuple[Path, list[str], Text]
) -> None:
    judged = [json.loads((out / f"{leg}-s0" / "judged.json").read_text()) for leg in ("salient", "no-exclusion")]
    assert judged[0]["probe"] == judged[1]["probe"]
    for value in judged:
        assert value["complete"]
        stages = [(point["stage"], point["step"]) for point in value["points"]]
        assert stages == sorted(stages)
        assert {("ict", 0), ("ict", 3), ("realm", 0), ("realm", 6)} <= set(stages)
        told = json.loads((out / "probes" / "s0.told.json").read_text())["told"]
        for point in value["points"]:
            # What stands in no other document can't be found: the own one would have given it away.
            assert set(point["found"]["20"]) <= set(told)
    left = sorted(path.name for path in (out / "salient-s0" / "checkpoints").iterdir())
    assert left == ["step-000006"]


def test_a_leg_that_is_done_is_skipped_and_other_settings_are_refused(
    out: Path, world: tuple[Path, list[str], Text], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kb, settings, _ = world
    arguments = [str(kb), str(out), "--legs", "salient", "--seeds", "0", "--points", "3", "--set", *settings]
    monkeypatch.setattr(sys, "argv", ["runs", *arguments])
    assert runs.main() == 0
    assert "finished before" in capsys.readouterr().out
    assert not (out / "logs").exists()
    with pytest.raises(MismatchError, match="other settings"):
        runs.finished(out / "salient-s0", config_of("salient", 0, [*settings, "realm.steps=7"]))
    assert not runs.finished(out / "joint-s0", config_of("joint", 0, settings))


def test_a_leg_that_would_train_on_the_probe_is_refused(out: Path, world: tuple[Path, list[str], Text]) -> None:
    config = config_of("salient", 0, [*world[1], "data.held_out_fraction=0.05"])
    with pytest.raises(MismatchError, match="held_out_fraction"):
        CommonProbe(out, world[2], config)


def test_lines_and_tables_stand_on_the_same_sentences(out: Path, world: tuple[Path, list[str], Text]) -> None:
    _, settings, text = world
    config = config_of("salient", 0, settings)
    common = CommonProbe(out, text, config)
    lines = dict(Flat(text, config.encoder.model).figures(common, {}))
    assert len(lines) == 5
    for figures in lines.values():
        assert set(figures["found"]["20"]) <= set(lines[ORACLE]["found"]["20"])
    (out / "lines-s0.json").write_text(json.dumps({"lines": lines}))
    results = read_results(out)
    rows = {row[0]: row for row in tables.leg_rows(results)}
    assert set(rows) == {"salient", "no-exclusion"}
    assert all(len(row) == len(tables.LEG_COLUMNS) for row in rows.values())
    assert {row[0] for row in tables.line_rows(results)} == set(lines)
    assert all(len(row) == len(tables.GAIN_COLUMNS) for row in tables.gain_rows(results))
    assert all(len(row) == len(tables.CORRELATION_COLUMNS) for row in tables.correlation_rows(results))


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no finished run"):
        read_results(tmp_path)


# ---------------------------------------------------------------- supervised


def _questions(folder: Path) -> Path:
    folder.mkdir()
    towns = story.documents()
    asked = [{"question": f"Who painted {t['title']}?", "gold_ids": [t["id"]]} for t in towns]
    for name, records in (("corpus", towns), ("questions.train", [*asked, *asked])):
        with gzip.open(folder / f"{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.writelines(json.dumps(record) + "\n" for record in records)
    return folder


def test_a_supervised_batch_holds_questions_with_their_own_passages(
    world: tuple[Path, list[str], Text], tmp_path: Path
) -> None:
    text = world[2]
    folder = _questions(tmp_path / "data")
    pairs = QuestionPairs(folder, text, batch_size=8, max_query=16, max_passage=24, seed=0)
    decode = text.snapshot.tokenizer.decode
    seen = []
    for step in range(len(story.TOWNS) // 8):
        batch = pairs.batch(step)
        for query, passage in zip(batch.query.ids.tolist(), batch.passage.ids.tolist(), strict=True):
            town = str(decode(query, skip_special_tokens=True)).removeprefix("who painted ").strip(" ?")
            assert str(decode(passage, skip_special_tokens=True)).startswith(town)
            seen.append(town)
        assert torch.equal(batch.query.ids, pairs.batch(step).query.ids)
    assert len(set(seen)) == len(seen) == len(story.TOWNS)
    with pytest.raises(DataError, match="batch_size=100"):
        QuestionPairs(folder, text, batch_size=100, max_query=16, max_passage=24, seed=0)
    with pytest.raises(DataError, match="no file"):
        QuestionPairs(tmp_path, text, batch_size=8, max_query=16, max_passage=24, seed=0)


def test_the_supervised_encoder_is_judged_along_its_training(
    world: tuple[Path, list[str], Text], tmp_path: Path
) -> None:
    _, settings, text = world
    supervised(tmp_path, text, settings, 0, _questions(tmp_path / "data"), steps=4, points=2)
    (judged,) = read_results(tmp_path).runs["supervised"]
    assert [point["step"] for point in judged.points] == [0, 2, 4]
    assert all(point["seconds"] > 0 for point in judged.points[1:])

"""The comparison of estimates with runs: what it keeps, marks and prints. The runs take too long for a test."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from benchmarks.core.bench import Bench
from benchmarks.core.record import groups
from benchmarks.suites import estimate as suite
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.text.passages import WordSplitter
from realm.types import Document


@pytest.fixture
def compared() -> suite.Comparison:
    return suite.Comparison(Bench("estimate", command="python -m benchmarks estimate", sizes={}, quick=True))


def test_a_line_has_both_figures_and_is_marked_where_they_are_apart(compared: suite.Comparison) -> None:
    compared.time("ingest", 1000, 11.0, 10.0)
    compared.size("disk", 1000, 1.3e6, 1e6, "a note")
    compared.time("index", 1000, 0.0, 0.0)  # nothing was said, or nothing was done: nothing to compare
    compared.time("spans", 1000, None, 3.0)
    assert [(line["what"], line["ratio"]) for line in compared.told] == [("ingest", 1.1), ("disk", 1.3)]
    assert json.loads(json.dumps(compared.told)) == compared.told
    lines = compared.text().splitlines()
    assert lines[1].split() == ["ingest", "1,000", "11", "s", "10", "s", "1.10"]
    assert "1.30 *" in lines[2] and lines[2].endswith("a note")
    (group,) = groups(compared.bench.record.rows)
    assert group.ours is not None and group.ours.seconds == (10.0,) and group.size == 1000
    assert [row.who for row in group.rows] == ["measured", "estimated"]


def test_stages_are_added_up_under_the_estimate_s_names() -> None:
    stages = suite.Stages()
    for title in ("embed the passages", "embed the passages (step 5)", "REALM pre-training", "BM25 on the probe"):
        with stages.stage(title):
            pass
    assert stages.times == {"embed": 2, "REALM pre-training": 1, "BM25 on the probe": 1}
    for seconds in (3.0, 1.0):
        stages.event({"kind": "train", "stage": "ict", "seconds": seconds})
    stages.event({"kind": "refresh", "stage": "realm"})
    assert stages.steps == {"ict": [3.0, 1.0]}
    assert all(seconds >= 0 for seconds in stages.seconds.values())


def test_every_stage_that_is_compared_is_one_of_the_run_and_of_the_estimate() -> None:
    root = Path(suite.__file__).resolve().parents[2] / "realm" / "workflows"
    code = "\n".join(path.read_text(encoding="utf-8") for path in root.rglob("*.py"))
    for name, title in suite.STAGES:
        assert f'"{title}' in code, title
        assert f'"{name}",' in (root / "estimating" / "times.py").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="nobody counts")
def test_memory_that_is_no_file_s_is_seen() -> None:
    with suite.Held() as held:
        block = np.ones(64 << 20, np.uint8)
        held.most = max(held.most, suite._anonymous())
    assert len(block) <= 1.1 * held.above


def test_documents_of_a_knowledge_base_come_again_under_new_ids(tmp_path: Path) -> None:
    kb = KnowledgeBase.create(tmp_path / "kb", split=WordSplitter(10))
    kb.add([Document("a", "A", "One two three."), Document("b", "B", "Four five six.", metadata={"n": 1})])
    found = list(islice(suite._documents(Namespace(kb=tmp_path / "kb")), 5))
    assert [one.id for one in found] == ["a-0", "b-0", "a-1", "b-1", "a-2"]
    made = list(islice(suite._documents(Namespace(kb=None, words=30)), 3))
    assert len({one.text for one in made}) == 3
    suite._write(tmp_path / "d.jsonl", iter(found), 3)
    assert [json.loads(line)["id"] for line in (tmp_path / "d.jsonl").read_text().splitlines()] == ["a-0", "b-0", "a-1"]


def test_its_settings_are_those_of_a_run() -> None:
    parser = ArgumentParser()
    group = parser.add_argument_group("its own")
    suite.arguments(group)
    options = parser.parse_args([])
    assert options.passages == [10_000, 100_000, 1_000_000]
    assert set(suite.QUICK) <= {action.dest for action in group._group_actions}
    config = suite._config(Path("model"), Namespace(**vars(options), threads=2))
    assert config.ict.batch_size == 4 * config.realm.batch_size == 256 and config.loop.threads == 2

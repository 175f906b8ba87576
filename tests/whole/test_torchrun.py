"""`realm pretrain` and `realm finetune` under torchrun: two processes do what one does, whoever goes on with whose run.

Losses, gradient norms and figures are compared to `CLOSE`: sums of float32 in another order. Nothing is dropped out,
because two processes draw two masks.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import qa_world
import story

from realm.files import read_json
from realm.training.metrics import read_metrics
from realm.workflows.ingest import ingest_sources

pytestmark = pytest.mark.slow

CLOSE = 2e-4
"""Relative, of a figure; absolute below 1."""
PATIENCE = 100.0
"""Seconds for two processes on a machine that is busy; alone they take some."""
CHANGED = {
    "encoder.dropout": "0",
    "encoder.backbone_dropout": "0",
    "encoder.null_bias": "learned",
    "reader.dropout": "0",
    "ict.batch_size": "9",  # shares of unequal size: 4 and 5, and so on
    "realm.batch_size": "5",
    "realm.accumulation": "2",
    "realm.marginal": "token",
    "realm.explore": "1",
    "realm.explore_depth": "8",
    "realm.ict_weight": "0.5",
    "realm.ict_batch_size": "7",
    "optim.eps": "1e-3",  # Adam would make a step of the noise in a gradient that is zero
    "optim.warmup": "1",
    "loop.keep_checkpoints": "9",
}
OWN = ("seconds", "hook_seconds", "index_age_seconds", "duplicates", "retrieval_utility_marginal")
"""Figures that are a process's own, or no mean over its examples."""


def environment(**more: str) -> dict[str, str]:
    paths = [path for path in sys.path if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **more}


def torchrun(*arguments: object) -> Any:
    """Two processes of `realm` under torchrun; the JSON that is printed, once."""
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "realm.cli"]
        + [str(argument) for argument in arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def by_hand(*arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Two processes of `realm` with the variables that torchrun sets; rank 0 hosts their store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-m", "realm.cli", *map(str, arguments)]
    processes = [
        subprocess.Popen(
            command,
            env=environment(**common, RANK=rank, LOCAL_RANK=rank),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    try:
        told = [process.communicate(timeout=PATIENCE) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(command, process.returncode, out, err)
        for process, (out, err) in zip(processes, told, strict=True)
    ]


def cut(run: Path, step: int) -> None:
    """A run as it lay there after `step` of REALM."""
    for folder in (run / "checkpoints").iterdir():
        if int(folder.name.removeprefix("step-")) > step:
            shutil.rmtree(folder)
    shutil.rmtree(run / "evaluations" / "realm")


def steps(run: Path) -> dict[tuple[str, int], Mapping[str, float]]:
    found = {}
    for event in read_metrics(run / "metrics.jsonl"):
        if event["kind"] == "train":
            key = (event["stage"], event["step"])
            assert key not in found, "a step is told once"
            own = (n in OWN or n.startswith("ict_") or "_removed" in n or "_kept" in n for n in event)
            found[key] = {n: v for (n, v), o in zip(event.items(), own, strict=True) if isinstance(v, float) and not o}
    return found


def agree(run: Path, wanted: Path) -> None:
    ours, theirs = steps(run), steps(wanted)
    assert list(ours) == list(theirs)
    for key, figures in theirs.items():
        assert ours[key] == pytest.approx(figures, rel=CLOSE, abs=CLOSE), key


def likelihoods(run: Path) -> Any:
    report = read_json(run / "evaluations" / "realm" / "report.json")
    return {name: value for name, value in report["figures"].items() if "function_words" not in name}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Sequence[str]:
    model = story.write_model(tmp_path_factory.mktemp("world") / "model")
    return story.settings(model, **{name.replace(".", "__"): value for name, value in CHANGED.items()})


def test_two_processes_are_one_and_each_goes_on_with_the_other_s_run(settings: Sequence[str], tmp_path: Path) -> None:
    model = settings[0].partition("=")[2]
    kb, one, two = tmp_path / "kb", tmp_path / "one", tmp_path / "two"
    documents = story.write_documents(tmp_path / "towns.jsonl")
    story.result("ingest", documents, "--kb", kb, "--tokenizer", model)
    wanted = story.result("pretrain", "--kb", kb, "--out", one, *settings)

    found = torchrun("pretrain", "--kb", kb, "--out", two, "--json", *settings)
    agree(two, one)
    assert likelihoods(two) == pytest.approx(likelihoods(one), rel=CLOSE, abs=CLOSE)
    assert found["columns"] == wanted["columns"] and found["run"] == str(two)
    ranks = [event for event in read_metrics(two / "metrics.jsonl") if event["kind"] == "ranks"]
    assert [(event["stage"], event["step"], event["world_size"]) for event in ranks] == [("ict", 0, 2), ("realm", 0, 2)]
    shards = read_json(two / "index" / "step-000006" / "manifest.json")["shards"]
    assert [shard["last"] - shard["first"] for shard in shards] == [12, 12], "each embedded its part"

    cut(two, 2)
    story.result("pretrain", two)  # one process goes on with what two began ...
    cut(two, 4)
    zeroth, first = by_hand("pretrain", two, "--json")  # ... and two with what one did
    assert (zeroth.returncode, first.returncode) == (0, 0), zeroth.stderr + first.stderr
    assert json.loads(zeroth.stdout)["run"] == str(two) and first.stdout == first.stderr == ""
    agree(two, one)
    assert likelihoods(two) == pytest.approx(likelihoods(one), rel=CLOSE, abs=CLOSE)


def test_fine_tuning_by_two_is_that_of_one(tmp_path: Path) -> None:
    model, kb = qa_world.write_model(tmp_path / "bert", masked_head=False), tmp_path / "kb"
    ingest_sources([str(qa_world.write_documents(tmp_path / "documents.jsonl"))], kb, tokenizer=str(model))
    asked = qa_world.questions()
    teach = qa_world.write_questions(tmp_path / "train.jsonl", asked[:60])
    judge = qa_world.write_questions(tmp_path / "dev.jsonl", asked[60:76])
    changed = {
        "qa.steps": "4",
        "qa.documents": "refreshed",
        "qa.num_early": "6",
        "refresh.mode": "sync",
        "refresh.every_steps": "2",
        "reader.dropout": "0",
        "optim.eps": "1e-3",
        "loop.checkpoint_every": "2",
        "loop.log_every": "1",
    }
    settings = [f"{name}={value}" for name, value in {**qa_world.SETTINGS, **changed}.items()]
    given = ("finetune", "--model", model, "--kb", kb, "--qa", teach, "--dev", judge, *settings, "--json", "--out")
    one, two = tmp_path / "one", tmp_path / "two"
    wanted = story.result(*(part for part in given if part != "--json"), one)
    zeroth, first = by_hand(*given, two)
    assert (zeroth.returncode, first.returncode) == (0, 0), zeroth.stderr + first.stderr
    assert first.stdout == first.stderr == ""
    agree(two, one)
    found = json.loads(zeroth.stdout)
    for ours, theirs in zip(found["curve"], wanted["curve"], strict=True):
        same = {name: value for name, value in theirs.items() if name != "seconds"}
        assert {name: ours[name] for name in same} == pytest.approx(same, rel=CLOSE, abs=CLOSE)
    assert found["best_step"] == wanted["best_step"] and (two / "model" / "manifest.json").exists()


def test_an_error_of_all_is_told_once(tmp_path: Path) -> None:
    found = by_hand("pretrain", "--kb", tmp_path / "kb", "--out", tmp_path / "run", "realm.stepz=3")
    assert [one.returncode for one in found].count(0) == 0
    (line,) = (one.stderr for one in found if one.stderr)
    assert line.startswith("realm: ") and "realm.stepz" in line and line.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_variables_that_contradict_each_other_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, line = story.error("pretrain", "--kb", tmp_path / "kb", "--out", tmp_path / "run")
    assert code == 2 and "WORLD_SIZE=2 and no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT" in line

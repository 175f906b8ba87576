"""Every snippet of the README runs, in its order, on a small folder of documents and a tiny model.

Long trainings are cut short by extra settings; nothing else is changed.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import tiny

from realm.cli import app
from realm.errors import MissingLibraryError
from realm.files import write_manifest
from realm.knowledge.catalog import CATALOG
from realm.knowledge.fetching import cache_folder

DOCUMENTS = {
    "guernica": "Guernica was painted by Pablo Picasso in Paris in 1937. It hangs in Madrid.",
    "danube": "The Danube flows through Vienna and Budapest. It rises in Germany and ends in Romania.",
    "radium": "Radium was discovered by Marie Curie in Paris. Marie Curie was born in Warsaw in 1867.",
    "picasso": "Pablo Picasso was a Spanish painter. He was born in Malaga in 1881 and died in France.",
}
QUESTIONS = [
    {"question": f"{asked} {word} ?", "answers": [answer]}
    for word in ("today", "then", "really", "again", "first")
    for asked, answer in (
        ("who painted guernica", "Pablo Picasso"),
        ("who discovered radium", "Marie Curie"),
        ("where does the danube rise", "Germany"),
        ("where was picasso born", "Malaga"),
    )
]
SHORT = ["ict.steps=2", "realm.steps=3", "probe.size=4", "data.spans_pipeline=pattern", "data.held_out_fraction=0.3",
         "refresh.mode=sync", "loop.tensorboard=false"]  # fmt: skip
FEW = [
    "qa.steps=2",
    "dev.size=2",
    "loop.checkpoint_every=2",
    "loop.tensorboard=false",
    "questions.held_out_fraction=0.3",
]


EXTRA = {
    "pretrain": SHORT,
    "finetune": FEW,
    "compare": [*FEW, "dev.num_passages=1"],
}
"""What is put behind a line of the README, so that its work is done in a moment."""
FROM_CORPUS = ["corpus.pipeline=pattern", "corpus.top=0", "corpus.min_content=1"]


def snippets(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with documents, and a cache in which the default encoder's place is taken by a tiny one."""
    (tmp_path / "docs").mkdir()
    for name, text in DOCUMENTS.items():
        (tmp_path / "docs" / f"{name}.txt").write_text(text)
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS[4:]))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS[:4]))
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "cache"))
    entry = CATALOG["all-MiniLM-L6-v2"]
    folder = cache_folder() / "catalogue" / f"{entry.name}-{entry.sha256[:12]}"
    tiny.tiny_bert(folder / Path(entry.member).name, DOCUMENTS.values(), masked_head=False)
    sizes = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
    write_manifest(
        folder, format="realm-catalogue-entry", version=1, sha256=entry.sha256, where=entry.where, files=sizes
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_snippet_runs(repository: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")  # the other's snippets are the same: below
    lines = [line[2:] for block in snippets(text, "console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) >= 8
    answers = []
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[0] == "realm"
        extra = [*EXTRA.get(words[1], []), *(FROM_CORPUS if "--from-corpus" in words else [])]
        if words[1] == "ask" and "--model" not in words:  # the package's own model rests on the real encoder
            extra += ["--model", "runs/answers"]
        app([*words[1:], *extra], standalone_mode=False)
        out = capsys.readouterr().out
        assert out.strip(), line
        if words[1] == "ask":
            answers.append(out)
    assert "Pablo Picasso" in answers[0]
    assert "Joan Miró" in answers[1]
    for code in snippets(text, "python"):
        scope: dict[str, Any] = {}
        try:
            exec(code, scope)
        except MissingLibraryError:  # of another framework, which no test needs
            assert "from realm.adapters." in code
            continue
        assert scope["found"] if "found" in scope else scope["answer"].evidence


def test_the_two_readmes_show_the_same_commands(repository: Path) -> None:
    both = [(repository / name).read_text(encoding="utf-8") for name in ("README.md", "README.ko.md")]
    for language in ("console", "python", ""):
        first, second = (
            [line.split("#")[0].rstrip() for block in snippets(text, language) for line in block.splitlines()]
            for text in both
        )
        if language:
            assert first == second
        else:
            assert [line for line in first if line.startswith("make")] == [
                line for line in second if line.startswith("make")
            ]


def test_linked_files_exist(repository: Path) -> None:
    for name in ("README.md", "README.ko.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (repository / name).read_text(encoding="utf-8")):
            assert target.startswith("http") or (repository / target).exists(), f"{name} links {target}"

"""The jobs for a GPU: what is packed comes back, a leg takes up what was left, no optional library is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_tokenizer

from realm.knowledge.base import KnowledgeBase
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.text.passages import SentenceSplitter
from realm.knowledge.text.spans import find_spans
from realm.training.masking import pieces_inside
from realm.types import Document
from realm.workflows.parts import Text

JOBS = Path(__file__).resolve().parents[3] / "benchmarks" / "gpu"
TEXTS = (
    "Guernica was painted by Pablo Picasso in Paris in 1937. It hangs in Madrid; the Queen Sofía keeps it.",
    "The river Han runs through Seoul. 한강은 서울을 지난다. Its width is 1.2 km (0.7 mi).",
    "Marie Curie discovered radium and polonium. " * 12 + "She lived in Paris.",
    "GUERNICA was painted by pablo picasso in paris in 1937. It hangs in madrid; the queen sofía keeps it.",
)


@pytest.fixture(scope="module")
def jobs() -> Any:
    """The jobs' modules, which are scripts beside the library."""
    sys.path.append(str(JOBS))
    try:
        import legs
        import packed

        yield {"packed": packed, "legs": legs}
    finally:
        sys.path.remove(str(JOBS))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Text:
    folder = tmp_path_factory.mktemp("text")
    tokenizer = tiny_tokenizer()
    kb = KnowledgeBase.create(folder / "kb", split=SentenceSplitter(tokenizer, 64))
    kb.add([Document(id=f"d{n}", title=f"Page {n}" if n else "", text=line) for n, line in enumerate(TEXTS)])
    snapshot = Snapshot.build(kb, tokenizer, folder / "snapshot")
    return Text(snapshot, find_spans(snapshot, folder / "spans", pipeline="pattern"))


def test_a_packed_text_has_the_same_pieces_sentences_spans_and_documents(jobs: Any, text: Text, tmp_path: Path) -> None:
    facts = jobs["packed"].pack_text(text, tmp_path / "pack")
    before = text.snapshot
    back = jobs["packed"].unpack_text(tmp_path / "pack", before.path / "tokenizer", tmp_path / "work")
    after = back.snapshot
    after.verify()
    assert len(after) == len(before) == facts["passages"] > len(TEXTS)  # one document is cut in passages
    assert after.num_documents == len(TEXTS) and back.spans.num_spans == facts["spans"] > 0
    for row in range(len(before)):
        assert after.body_ids(row).tolist() == before.body_ids(row).tolist()
        assert after.title_ids(row).tolist() == before.title_ids(row).tolist()
        for old, new in (
            (before.sentences(row), after.sentences(row)),
            (text.spans.spans(row), back.spans.spans(row)),
        ):
            first, stop = pieces_inside(before.body_offsets(row), old)
            there = stop > first
            found = pieces_inside(after.body_offsets(row), new)
            assert [part.tolist() for part in found] == [first[there].tolist(), stop[there].tolist()]
    assert after.text(0).startswith("guernica was painted by pablo picasso in paris in 1937")
    same = [[row for row in line.tolist() if row >= 0] for line in after.exclusions(torch.tensor([0]), "passage", True)]
    assert same == [[0, len(after) - 1]]  # the last text is the first in other letters


def test_an_unpacked_text_is_the_same_wherever_it_is_unpacked(jobs: Any, text: Text, tmp_path: Path) -> None:
    jobs["packed"].pack_text(text, tmp_path / "pack")
    tokenizer = text.snapshot.path / "tokenizer"
    one, two = (jobs["packed"].unpack_text(tmp_path / "pack", tokenizer, tmp_path / name) for name in ("one", "two"))
    assert one.snapshot.fingerprint == two.snapshot.fingerprint
    assert one.spans.fingerprint == two.spans.fingerprint


def test_weights_come_back_rounded_to_bfloat16_in_files_of_bounded_size(
    jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs["packed"], "SHARD_BYTES", 3000)
    generator = torch.Generator().manual_seed(0)
    shapes = [(30, 40), (1, 1), (7, 3), (40, 30), (2, 1)]
    tensors = {f"a:b.{n}": torch.randn(shape, generator=generator) for n, shape in enumerate(shapes)}
    paths = jobs["packed"].write_shards(tensors, tmp_path, "weights")
    found = jobs["packed"].read_shards(tmp_path, "weights")
    assert len(paths) == 2 and set(found) == set(tensors)
    assert all(torch.equal(found[name], value.bfloat16().float()) for name, value in tensors.items())


def test_second_moments_keep_the_means_of_rows_and_columns(jobs: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.rand(5, 9, generator=generator) ** 4
    state = {
        "0.0.exp_avg": torch.ones(5, 9),
        "0.0.exp_avg_sq": matrix,
        "0.0.step": torch.tensor(3.0),
        "1.0.exp_avg_sq": torch.rand(4, generator=generator),
        "1.1.exp_avg_sq": torch.zeros(3, 2),
        "random_state": torch.arange(8, dtype=torch.uint8),
    }
    found = jobs["legs"].unfactored(jobs["legs"].factored(state))
    assert set(found) == set(state)
    assert torch.equal(found["0.0.exp_avg"], torch.zeros(5, 9))
    for side in (0, 1):
        torch.testing.assert_close(found["0.0.exp_avg_sq"].mean(side), matrix.mean(side))
    assert torch.equal(found["1.1.exp_avg_sq"], torch.zeros(3, 2))
    for name in ("0.0.step", "1.0.exp_avg_sq", "random_state"):
        assert torch.equal(found[name], state[name])


def test_the_training_path_needs_no_optional_library() -> None:
    script = (
        "import common; common.without_optional(); import legs, packed, random_bert\n"
        "import realm.workflows.pretraining.pretrain, realm.search.refresher, realm.workflows.pretraining.comparison\n"
        "common.without_optional()"  # says what was imported
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=JOBS, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_numbers_beyond_16_bits_are_refused(jobs: Any, text: Text, tmp_path: Path) -> None:
    class Large:
        vocab_size = 70_000

    with pytest.raises(Exception, match="70000 word pieces"):
        jobs["packed"].pack_text(Text(Large(), text.spans), tmp_path)  # type: ignore[arg-type]
    assert not np.any(list(tmp_path.iterdir()))

"""What an estimate says of lengths and sizes against the files that the real code writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import story
import torch

from realm.errors import DataError, UsageError
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.build import load_tokenizer
from realm.knowledge.formats.sources import read_documents
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.text.passages import SentenceSplitter
from realm.knowledge.text.spans import SpanTable, find_spans
from realm.search import codes
from realm.search.exact import ExactIndex
from realm.workflows.estimating import sizes, texts
from realm.workflows.estimating.coding import CODED_LINKS
from realm.workflows.estimating.indexes import KINDS, LINKS, cells, index_cost
from realm.workflows.estimating.sizes import knowledge_base_bytes, snapshot_bytes, spans_bytes, vector_copies


class World:
    """A small knowledge base, its snapshot and spans."""

    def __init__(self, folder: Path) -> None:
        model = story.write_model(folder / "model")
        self.source = story.write_documents(folder / "documents.jsonl")
        self.tokenizer = load_tokenizer(model)
        self.split = SentenceSplitter(self.tokenizer, 40)
        self.kb = KnowledgeBase.create(folder / "kb", split=self.split)
        self.kb.add(read_documents(str(self.source)))
        self.snapshot = Snapshot.build(self.kb, self.tokenizer, folder / "snapshot")
        self.spans = find_spans(self.snapshot, folder / "spans", pipeline="pattern")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("sizes"))


def arrays(folder: Path) -> int:
    """Bytes of the arrays in a folder, without their headers."""
    return sum(file.stat().st_size - 128 for file in folder.glob("*.npy"))


def test_lengths_are_those_of_the_passages(world: World) -> None:
    """Read off a file, off documents, off a knowledge base: the snapshot is right."""
    snapshot = world.snapshot
    rows = range(len(snapshot))
    for text in (
        texts.of_file(str(world.source), world.split),
        texts.of_knowledge_base(world.kb.path, world.tokenizer),
    ):
        lengths = text.lengths
        assert lengths.pieces == pytest.approx(sum(len(snapshot.body_ids(row)) for row in rows) / len(snapshot))
        assert lengths.bytes == pytest.approx(sum(len(snapshot.text(row).encode()) for row in rows) / len(snapshot))
        assert lengths.sentences == pytest.approx(sum(len(snapshot.sentences(row)) for row in rows) / len(snapshot))
        assert lengths.documents == pytest.approx(24 / len(snapshot))
        assert lengths.tokens(1000) == pytest.approx(float(snapshot.passage_lengths(1000).mean()), rel=0.02)
        assert lengths.tokens(10) == 10
        assert "passages of" in lengths.source
        assert [one.id for one in text.documents] == [row["id"] for row in story.documents()]


def test_a_snapshot_and_its_spans_take_what_is_said(world: World) -> None:
    lengths = texts.of_knowledge_base(world.kb.path, world.tokenizer).lengths
    n = len(world.snapshot)
    vocabulary = world.snapshot.vocab_size
    said = snapshot_bytes(n, lengths, vocabulary) - sizes.TOKENIZER * vocabulary
    assert said == pytest.approx(arrays(world.snapshot.path), rel=0.01, abs=100)
    wide = snapshot_bytes(n, lengths, 1 << 20) - sizes.TOKENIZER * (1 << 20)
    assert wide - said == pytest.approx(2 * n * (lengths.pieces + lengths.documents * lengths.title_pieces))
    table = SpanTable.open(world.spans.path)
    real = replace(lengths, pieces=table.num_spans / n / texts.PATTERN_SPANS_A_PIECE)
    assert spans_bytes(n, real, "pattern") == pytest.approx(arrays(table.path), rel=0.01, abs=100)


def test_a_large_ingest_leaves_its_first_files() -> None:
    """What is folded behind it stays for older versions; one commit has nothing to fold, and a small one no index."""
    few, one, many = (knowledge_base_bytes(n, texts.ASSUMED) for n in (6_000, 20_000, 60_000))
    assert few[1] == 0 < one[1]
    assert one[0] == pytest.approx(few[0] * 20 / 6) and many[0] == pytest.approx(2 * few[0] * 10)


def test_the_table_takes_about_what_is_said(world: World) -> None:
    lengths = texts.of_knowledge_base(world.kb.path, world.tokenizer).lengths
    said, _ = knowledge_base_bytes(len(world.snapshot), lengths)
    data = sum(file.stat().st_size for file in (world.kb.path / "passages.lance" / "data").iterdir())
    assert 0.3 < said / data < 2  # a file of some kilobytes, most of it headers


def test_vectors_are_written_once_for_each_commit_that_touches_their_file() -> None:
    from realm.knowledge.table import vectors

    own = (vectors._COMMIT_EVERY, vectors._COMMITS, vectors._COMMIT_BYTES)
    assert own == (sizes.COMMIT_PASSAGES, sizes.COMMITS, sizes.COMMIT_BYTES)
    once = replace(texts.ASSUMED, documents=0.0)
    assert [vector_copies(n, once, 128) for n in (10_000, 16_384)] == [1, 1]
    assert vector_copies(20_000, once, 128) == pytest.approx(
        (16_384 + 20_000) / 20_000
    )  # nulls behind them take no room
    assert vector_copies(1_000_000, once, 128) == pytest.approx((1 + 2 + 3 + 4 + 5 + 6 + 7 + 8) / 8)
    assert vector_copies(2**21, once, 128) == pytest.approx((1 + 2 + 3 + 4) / 4)  # two files, four commits each
    assert vector_copies(10**12, once, 128) == pytest.approx(1.5, abs=0.01)  # 256 MiB are half a file
    assert vector_copies(10**12, once, 1024) == pytest.approx(17 / 2, abs=0.1)  # a sixteenth


@pytest.mark.parametrize(("kind", "dtype"), [("exact", "float32"), ("bf16", "bfloat16"), ("int8", "int8")])
def test_an_exact_index_takes_what_is_said(kind: str, dtype: str, tmp_path: Path) -> None:
    rows, dim = 300, 24
    ExactIndex(torch.randn(rows, dim), dtype=dtype).save(tmp_path / "index", rows_per_shard=100)
    shards = list((tmp_path / "index").glob("*.npy"))
    cost = index_cost(kind, rows, dim, None)
    assert cost.disk == cost.memory == sum(file.stat().st_size - 128 for file in shards)
    assert cost.seconds == 0


@pytest.mark.parametrize("kind", codes.KINDS)
def test_codes_take_what_is_said(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rows, dim = 6_000, 32
    vector_ND = torch.randn(rows, dim, generator=torch.Generator().manual_seed(0)).numpy()
    lists = 0 if kind == "hnsw-sq" else cells(rows)
    plan = codes.Plan(kind, dim, lists=lists, pieces=dim if kind == "ivf-pq" else 0, links=0 if lists else CODED_LINKS)
    shared = codes.cells(vector_ND, [vector_ND], lists, dim) if lists else None
    made = codes.Codes.build(plan, vector_ND, [vector_ND], shared)
    made.write(tmp_path / "codes.faiss")
    cost = index_cost(kind, rows, dim, None)
    written = (tmp_path / "codes.faiss").stat().st_size
    assert written == pytest.approx(cost.memory, rel=0.1)
    assert cost.disk == cost.memory + 4 * rows * dim
    assert cost.seconds is None  # of no machine in particular


def test_a_graph_of_faiss_takes_what_is_said() -> None:
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexHNSWFlat(32, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 8
    index.add(torch.randn(2_000, 32).numpy())
    assert len(faiss.serialize_index(index)) == pytest.approx(index_cost("hnsw", 2_000, 32, None).memory, rel=0.05)


def test_kinds_go_from_large_to_small() -> None:
    memory = {kind: index_cost(kind, 10_000_000, 128, None).memory for kind in KINDS}
    ordered = ["hnsw", "exact", "hnsw-sq", "bf16", "ivf-sq", "int8", "ivf-pq", "ivf-rabitq"]
    assert sorted(ordered, key=lambda kind: -memory[kind]) == ordered
    assert all(index_cost(kind, 5, 8, None).disk > 0 for kind in KINDS)  # however few
    with pytest.raises(UsageError, match="found the index 'flat': expected one of exact"):
        index_cost("flat", 5, 8, None)


def test_documents_without_text_are_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no text"):
        texts.of_documents([], world.split, "nothing")
    with pytest.raises(DataError, match="no file or folder"):
        texts.of_file(str(tmp_path / "absent.jsonl"), world.split)
    empty = KnowledgeBase.create(tmp_path / "kb")
    with pytest.raises(DataError, match="holds no passages"):
        texts.of_knowledge_base(empty.path, world.tokenizer)


def test_without_a_tokenizer_pieces_are_about_as_many() -> None:
    found = texts.tokenizer_at(None, Path("absent"))
    (ends,) = found([texts.SAMPLE[0]])
    assert ends[-1] == len(texts.SAMPLE[0]) and (ends[1:] > ends[:-1]).all()
    assert len(ends) == pytest.approx(len(texts.SAMPLE[0]) / texts.BYTES_A_PIECE, rel=0.2)


def test_made_documents_have_many_words() -> None:
    made = texts.assumed()
    assert len({word for one in made.documents for word in one.text.lower().split()}) > 3000
    assert len({one.id for one in made.documents}) == len(made.documents)
    assert made.lengths is texts.ASSUMED

"""A knowledge base in an object store does what one in a folder does. The store is a double of S3 on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dots
import numpy as np
import pytest
import story
from writers import EDITOR, WRITER, edition, start

from realm.errors import KnowledgeBaseError, UnavailableError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.snapshot import Snapshot
from realm.knowledge.table import lease
from realm.knowledge.table.objects import WRITER as LEASE
from realm.knowledge.table.objects import ObjectStore
from realm.knowledge.table.refused import InUseError, ReadOnlyError
from realm.knowledge.table.store import Store
from realm.types import Document

pytest.importorskip("moto.server", reason="the double of S3: pip install 'moto[s3,server]'")

from benchmarks.core.object_store import Double, running

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(moto|botocore|werkzeug)"),
]


@pytest.fixture(scope="module")
def double() -> Iterator[Double]:
    with running() as found:
        yield found


@pytest.fixture
def bucket(double: Double, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The address of a bucket of one's own."""
    for name, value in double.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "cache"))
    return double.make_bucket(f"b-{uuid.uuid4().hex[:12]}")


def encode(passages: Any) -> np.ndarray:
    return np.array([[len(passage.text), 1.0] for passage in passages])


ENCODER = PassageEncoder("e", encode)


def edit(kb: KnowledgeBase) -> None:
    """One of each."""
    kb.add([Document("a", "Seine", "The Seine flows. Paris stands there.", source="geo"), Document("b", "", "gone.")])
    kb.upsert([Document("c", "Han", "The Han flows. Seoul stands there.", metadata={"length": 494})], encoder=ENCODER)
    kb.update(Document("a", "Seine", "The Seine flows. Rouen stands there.", source="geo"), encoder=ENCODER)
    kb.delete("b")
    kb.restore("a", kb.version - 2, encoder=ENCODER)
    kb.embed_missing(ENCODER)
    kb.compact()


def told(kb: KnowledgeBase) -> list[Any]:
    """What a knowledge base answers, but for times."""
    history = [
        [(r.version, r.revision, r.change, r.num_passages, r.title) for r in kb.history(name)]
        for name in ("a", "b", "c")
    ]
    return [
        kb.version,
        kb.content_version,
        list(kb.documents()),
        list(kb.passages("source = 'geo'")),
        history,
        kb.search_text("flows"),
        kb.search_vectors(np.array([1.0, 0.0]), k=9),
        [[document.text for document in kb.at(version).documents()] for version in range(6, kb.version + 1)],
        kb.columns(),
        kb.encoders(),
    ]


def test_the_same_work_gives_the_same_as_in_a_folder(bucket: str, tmp_path: Path) -> None:
    bases = [
        KnowledgeBase.create(place, split=dots.split, splitter=dots.SETTINGS)
        for place in (tmp_path / "kb", f"{bucket}/kb")
    ]
    for kb in bases:
        edit(kb)
    folder, store = bases
    assert told(store) == told(folder)
    assert told(KnowledgeBase.open(f"{bucket}/kb")) == told(folder)
    assert store.address == f"{bucket}/kb" and store.splitter == dots.SETTINGS
    assert tmp_path / "cache" in store.path.parents
    between = store.history("a")[1].time
    assert store.at(between).get("a") == folder.at(folder.history("a")[1].time).get("a")
    store.upkeep.leave_to_tidy()
    gone = store.upkeep.reclaim(keep_versions=1)
    assert gone.bytes is None and len(list(store.documents())) == 2


def test_a_snapshot_is_the_same_as_from_a_folder(bucket: str, tmp_path: Path) -> None:
    bert = story.write_model(tmp_path / "bert")
    rows = story.write_documents(tmp_path / "towns.jsonl")
    found = []
    for place in (str(tmp_path / "kb"), f"{bucket}/kb"):
        story.result("ingest", rows, "--kb", place, "--max-tokens", "40", "--tokenizer", bert)
        kb = KnowledgeBase.open(place)
        found.append(Snapshot.build(kb, bert, tmp_path / "snapshots" / str(len(found))))
    assert found[0].fingerprint == found[1].fingerprint and len(found[0]) == len(found[1]) == 24
    facts = story.result("show", tmp_path / "snapshots" / "1")
    assert facts["made_from"].startswith(f"{bucket}/kb, version")


def test_every_verb_takes_an_address(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert = story.write_model(tmp_path / "bert")
    rows = story.write_documents(tmp_path / "towns.jsonl")
    kb = f"{bucket}/deep/kb"
    made = story.result("ingest", rows, "--kb", kb, "--max-tokens", "40", "--tokenizer", bert)
    assert made["added"] == len(story.TOWNS)
    assert story.result("ingest", rows, "--kb", kb, "--sync", "--max-tokens", "40", "--tokenizer", bert)["added"] == 0
    # On another machine: with neither a cache nor the tokenizer's own place, an edit is cut as the ingest was.
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "other"))
    bert.rename(tmp_path / "moved")
    (tmp_path / "new.txt").write_text("Xanadu lies nowhere. " * 20)
    story.result("docs", "add", tmp_path / "new.txt", "--kb", kb)
    (new,) = (d["id"] for d in story.result("docs", "list", "--kb", kb)["documents"] if d["id"] not in _ids())
    story.result("docs", "update", new, "--kb", kb, "--replace", "nowhere=>somewhere")
    assert "somewhere" in str(story.result("search", "Xanadu", "--kb", kb))
    story.result("docs", "delete", new, "--kb", kb)
    assert [r["change"] for r in story.result("docs", "history", new, "--kb", kb)] == ["added", "updated", "deleted"]
    before = story.result("docs", "list", "--kb", kb)["version"]
    story.result("docs", "restore", new, "--as-of", str(before - 1), "--kb", kb)
    assert story.result("docs", "list", "--kb", kb, "--as-of", str(before))["total"] == len(story.TOWNS)
    assert story.result("docs", "compact", "--kb", kb, "--keep-versions", "1")["bytes_freed"] is None
    facts = story.result("show", kb)
    assert facts["path"] == kb and facts["documents"] == len(story.TOWNS) + 1
    assert not (tmp_path / "s3:").exists()


def _ids() -> set[str]:
    return {row["id"] for row in story.documents()}


# ---------------------------------------------------------------- several writers


def test_two_writers_lose_nothing(bucket: str) -> None:
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    kb.add([Document("shared", "", "first.")])
    count = 3
    writers = [start(WRITER, kb.address, name, str(count)) for name in ("left", "right")]
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("go\n", timeout=500)
    assert [writer.returncode for writer in writers] == [0, 0]
    names = {document.id for document in kb.documents()}
    assert names == {"shared"} | {f"{side}{i}" for side in ("left", "right") for i in range(count)}
    revisions = kb.history("shared")
    assert [revision.revision for revision in revisions] == list(range(1, 2 * count + 2))
    seen = [kb.at(revision.version).get("shared") for revision in revisions]
    for side in ("left", "right"):
        theirs = [document.text for document in seen if document is not None and f"by {side}" in document.text]
        assert theirs == [f"by {side} {i}. and {side} {i}." for i in range(count)]


def test_a_writer_that_is_killed_leaves_what_was_committed_and_lets_the_next_one_write(bucket: str) -> None:
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    number = 0
    kb.add([edition(name, number) for name in "abc"])
    for delay in (0.0, 0.15, 0.4):
        editor = start(EDITOR, kb.address, str(number))
        assert editor.stdout is not None and editor.stdin is not None
        acknowledged = int(editor.stdout.readline())
        time.sleep(delay)
        editor.kill()
        acknowledged = max([acknowledged, *map(int, editor.stdout.read().split())])
        editor.wait()
        editor.stdout.close()
        editor.stdin.close()

        kb = KnowledgeBase.open(f"{bucket}/kb", split=dots.split, lock_timeout=10.0)
        documents = list(kb.documents())
        number = int(documents[0].title.removeprefix("edition "))
        assert number in (acknowledged, acknowledged + 1)
        assert documents == [edition(name, number) for name in "abc"]
        assert list(kb.passages()) == [p for found in dots.split(documents) for p in found]
        number += 1
        began = time.monotonic()
        kb.upsert([edition(name, number) for name in "abc"], encoder=ENCODER)
        assert time.monotonic() - began < lease.SECONDS / 2, "one that died on this machine is known at once"
    assert [r.revision for r in kb.history("a")] == list(range(1, number + 2))


def held_by_another(kb: KnowledgeBase, beat: int = 7) -> ObjectStore:
    """The lease of a machine that is no more."""
    place = ObjectStore(kb.address)
    table = place._connect_still().open_table(LEASE)
    entry = lease.Entry("somebody", beat, "process 1 on elsewhere since yesterday", "another machine", 1)
    assert lease.Lease(lambda: table, kb.address, lambda: None)._swap(table, entry)
    return place


def test_a_writer_waits_for_another_and_says_for_whom(bucket: str) -> None:
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    held_by_another(kb)
    impatient = KnowledgeBase.open(f"{bucket}/kb", split=dots.split, lock_timeout=0.2)
    with pytest.raises(InUseError, match=r"written by process 1 on elsewhere since yesterday: waited 0\.2 s"):
        impatient.add([Document("a", "", "x.")])
    assert len(impatient) == 0, "readers don't wait"


def test_a_lease_that_nobody_renews_runs_out_and_its_holder_can_commit_no_more(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS", 3.0)
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    kb.add([Document("a", "", "first.")])
    place = held_by_another(kb)
    sleeper = place._connect_still().open_table("passages")  # began a commit before it fell asleep
    began = time.monotonic()
    kb.update(Document("a", "", "second."))
    assert time.monotonic() - began >= 3.0
    with pytest.raises(RuntimeError, match="Incompatible transaction"):
        sleeper.update(where="document_id = 'a'", values={"text": "third"})
    assert [document.text for document in kb.documents()] == ["second."]
    assert [revision.revision for revision in kb.history("a")] == [1, 2]


def test_a_lease_that_was_taken_away_commits_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    version = kb.version
    monkeypatch.setattr(lease, "TRUSTED", 0.0)
    with pytest.raises(
        KnowledgeBaseError, match=r"the hold on s3://.* was lost: .* nothing of this commit was written"
    ):
        kb.add([Document("a", "", "x.")])
    assert kb.version == version and len(kb) == 0


def test_a_long_hold_is_renewed(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SECONDS", 3.0)
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    with Store(ObjectStore(kb.address)).writing(1.0):
        other = KnowledgeBase.open(kb.address, split=dots.split, lock_timeout=4.0)
        with pytest.raises(InUseError):
            other.add([Document("a", "", "x.")])
    assert other.add([Document("a", "", "x.")]).added == 1


@pytest.mark.parametrize("kind", ["update", "add"])
def test_an_answer_that_is_lost_is_asked_for_again_and_written_once(bucket: str, double: Double, kind: str) -> None:
    """The store commits a version, and the writer is told that it failed."""
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    kb.add([Document("a", "", "one. two.")])
    before, left = double.lost, [1]

    def manifests(method: str, path: str) -> bool:
        if method == "PUT" and "passages.lance/_versions" in path and left[0]:
            left[0] -= 1
            return True
        return False

    double.lose = manifests
    try:
        kb.upsert([Document("a" if kind == "update" else "b", "", "three. four.")])
    finally:
        double.lose = None
    assert double.lost == before + 1
    documents = list(kb.documents())
    assert [document.text for document in documents] == (
        ["three. four."] if kind == "update" else ["one. two.", "three. four."]
    )
    assert list(kb.passages()) == [p for found in dots.split(documents) for p in found]
    for document in documents:
        last = kb.revision(document.id)
        assert last is not None and kb.at(last.version).get(document.id) == document


# ---------------------------------------------------------------- laying


def test_one_of_two_layings_counts_and_a_killed_one_is_done_again(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("realm.knowledge.table.keys.lay_indexes", lambda _: (_ for _ in ()).throw(KeyError("killed")))
        with pytest.raises(KeyError):
            KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    with pytest.raises(KnowledgeBaseError, match="no knowledge base at s3://"):
        KnowledgeBase.open(f"{bucket}/kb")
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    kb.add([Document("a", "", "x.")])
    with pytest.raises(KnowledgeBaseError, match="is there already and not empty"):
        KnowledgeBase.create(f"{bucket}/kb")
    assert len(kb) == 1
    ObjectStore(f"{bucket}/other")._connect_still().create_table("passages", [{"mine": 1}])
    with pytest.raises(KnowledgeBaseError, match="not empty"):
        KnowledgeBase.create(f"{bucket}/other")


# ---------------------------------------------------------------- what goes wrong


def one_line(error: pytest.ExceptionInfo[Any], environment: dict[str, str]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    shown = text + "".join(str(cause) for cause in (error.value.__cause__,))
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        assert environment[name] not in shown
    return text


def test_a_bucket_that_is_not_there(bucket: str, double: Double) -> None:
    for work in (KnowledgeBase.open, KnowledgeBase.create):
        with pytest.raises(KnowledgeBaseError) as error:
            work("s3://nosuchbucket/kb")
        assert "found no bucket 'nosuchbucket'" in one_line(error, double.environment())
    code, line = story.error("docs", "list", "--kb", "s3://nosuchbucket/kb")
    assert code == 1 and "make it, or check the address" in line


def test_no_knowledge_base_in_a_bucket(bucket: str) -> None:
    code, line = story.error("docs", "list", "--kb", f"{bucket}/kb")
    assert code == 1 and f"no knowledge base at {bucket}/kb: make one with `realm ingest`" in line


def test_credentials_that_are_refused(bucket: str, double: Double) -> None:
    KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    double.request("POST", "/moto-api/reset-auth", b"0")  # from now on it looks at credentials
    try:
        with pytest.raises(KnowledgeBaseError) as error:
            KnowledgeBase.open(f"{bucket}/kb")
    finally:
        double.request("POST", "/moto-api/reset-auth", b"inf")
    line = one_line(error, double.environment())
    assert "the store refuses it" in line and "AWS_ACCESS_KEY_ID" in line


def test_a_store_that_may_be_read_and_not_written(bucket: str, double: Double) -> None:
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    kb.add([Document("a", "", "x.")])
    double.forbid = lambda method, path: method in ("PUT", "POST", "DELETE")
    try:
        with pytest.raises(ReadOnlyError, match="questions can be asked, nothing can be changed") as error:
            kb.delete("a")
        assert [document.text for document in KnowledgeBase.open(f"{bucket}/kb").documents()] == ["x."]
    finally:
        double.forbid = None
    one_line(error, double.environment())
    assert kb.delete("a").deleted == 1


def test_a_store_that_nobody_serves_or_that_never_answers(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("AWS_TIMEOUT", "1s")
        monkeypatch.setenv("OBJECT_STORE_CLIENT_MAX_RETRIES", "1")
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"the store did not answer.* check the network and AWS_ENDPOINT"):
            KnowledgeBase.open(f"{bucket}/kb")
        assert time.monotonic() - began < 30.0
    began = time.monotonic()  # now the port is closed
    code, line = story.error("docs", "list", "--kb", f"{bucket}/kb")
    assert code == 1 and "the store did not answer" in line and time.monotonic() - began < 60.0


def test_a_store_that_goes_away_under_an_open_knowledge_base(bucket: str, double: Double) -> None:
    kb = KnowledgeBase.create(f"{bucket}/kb", split=dots.split)
    kb.add([Document("a", "", "x.")])
    kb.update(Document("a", "", "y."))
    double.lose = lambda method, path: True
    try:
        for work in (lambda: kb.history("a"), lambda: kb.at(2), lambda: kb.search_text("x"), lambda: kb.delete("a")):
            with pytest.raises((UnavailableError, KnowledgeBaseError)) as error:
                work()
            assert "has no version" not in str(error.value), "nobody can tell"
    finally:
        double.lose = None
    assert [revision.change for revision in kb.history("a")] == ["added", "updated"]


def test_nothing_of_the_store_is_needed_where_there_is_none(tmp_path: Path) -> None:
    """The code for object stores is not loaded for a folder."""
    work = (
        "import sys; from realm.knowledge.base import KnowledgeBase; KnowledgeBase.create(sys.argv[1]); "
        "assert 'realm.knowledge.table.objects' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", work, str(tmp_path / "kb")], check=True, env=environment)

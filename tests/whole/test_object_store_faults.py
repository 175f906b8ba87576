"""Several writers on one object store, writers that die or sleep, and a store that does not do what it is asked."""

from __future__ import annotations

import socket
import time
from typing import Any

import dots
import numpy as np
import pytest
import story
from writers import EDITOR, WRITER, edition, start

from benchmarks.core.object_store import Double
from realm.errors import KnowledgeBaseError, UnavailableError
from realm.knowledge.base import KnowledgeBase, PassageEncoder
from realm.knowledge.table import lease
from realm.knowledge.table.objects import WRITER as LEASE
from realm.knowledge.table.objects import ObjectStore
from realm.knowledge.table.refused import InUseError, ReadOnlyError
from realm.knowledge.table.store import Store
from realm.types import Document

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(moto|botocore|werkzeug)"),
]

ENCODER = PassageEncoder("e", lambda passages: np.array([[len(passage.text), 1.0] for passage in passages]))


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

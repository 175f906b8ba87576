"""Documents made to harm who reads them: in the page they are letters. In a real Chromium; see `test_page`."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from toy_service import Serve

from realm.answering.ask import Realm
from realm.knowledge.base import KnowledgeBase
from realm.knowledge.formats.sources import read_documents
from realm.types import Document

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUN = "window.harmed=1"
ATTACKS = (
    f"<script>{RUN}</script>",
    f'<img src=x onerror="{RUN}">',
    f'<svg onload="{RUN}"><animate onbegin="{RUN}" attributeName=x dur=1s></svg>',
    f'"><iframe srcdoc="<script>parent.{RUN}</script>"></iframe>',
    f"</textarea></mark></p><script>{RUN}</script>",
    f'<a href="javascript:{RUN}">click</a>',
    "<style>@import 'http://127.0.0.1:9/x';</style><base href='http://127.0.0.1:9/'>",
    f"{{{{constructor.constructor('{RUN}')()}}}}${{{RUN}}}",
    "&lt;script&gt;window.harmed=1&lt;/script&gt;",
    "\u202e<script>\u2028window.harmed=1</script>",
)


@pytest.fixture
def page(serve: Serve) -> Iterator[Any]:
    """A browser's page; nothing may run that is not its own, and nothing be asked of anywhere else."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the machine")
    server = uvicorn.Server(uvicorn.Config(serve().layers.frame, port=0, log_level="error", lifespan="off"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    home = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    wrong: list[str] = []
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            found = browser.new_page(locale="en-GB", bypass_csp=False)
            found.set_default_timeout(60_000)
            found.on("pageerror", lambda error: wrong.append(str(error)))
            found.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
            found.on("request", lambda asked: None if asked.url.startswith(home) else wrong.append(asked.url))
            found.goto(f"{home}/")
            yield found
            assert found.evaluate("window.harmed") is None
            browser.close()
    finally:
        server.should_exit = True
        thread.join()
    assert wrong == []


def shown(page: Any, address: str, ready: str, text: str = "") -> str:
    """What is read at an address, when `text` is there: what stood there before may look alike."""
    page.goto(page.url.split("#")[0] + address)
    page.locator(ready, has_text=text).first.wait_for()
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    assert page.locator("main :is(script, iframe, img, svg:not(.chart), style, base, object, embed, link)").count() == 0
    assert page.locator("main a[href^='javascript:' i]").count() == 0
    text: str = page.locator("main").inner_text()
    return text


def test_documents_from_html_and_markdown_files_are_letters(
    page: Any, kb: KnowledgeBase, realm: Realm, tmp_path: Path
) -> None:
    """As a person brings them in: what markup hides is left out, what it shows is shown as it is."""
    for number, attack in enumerate(ATTACKS):
        hidden = "".join(f"&#{ord(letter)};" for letter in attack)
        (tmp_path / f"h{number}.html").write_text(
            f"<html><head><title>{hidden}</title><link rel=canonical href='javascript:{RUN}'></head>"
            f"<body><p>Guernica was painted by {hidden}.</p>{attack}</body></html>"
        )
        (tmp_path / f"m{number}.md").write_text(f"# {attack}\n\nGuernica was painted by `{attack}`.\n\n{attack}\n")
        (tmp_path / f"r{number}.txt").write_text(f"Guernica was painted by {attack}.")
    documents = list(read_documents(tmp_path))
    assert len(documents) == 3 * len(ATTACKS)
    kb.add(documents, encoder=realm.passage_encoder)
    assert "<script>" in shown(page, "#/documents", ".list")
    for number, attack in enumerate(ATTACKS):
        for name in (f"m{number}.md" if number % 2 else f"h{number}.html", f"r{number}.txt"):
            text = shown(page, f"#/documents/{name}", "main p.soft", name)
            if name.startswith("r"):
                assert attack.replace("\u2028", "") in text.replace("\u2028", "").replace("\n", "")
    page.goto(page.url.split("#")[0] + "#/")
    page.fill("textarea", "Guernica was painted by ____.")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer-card")
    assert "Guernica" in shown(page, "#/", ".answer-card")


def test_every_field_of_a_document_is_letters(page: Any, kb: KnowledgeBase, realm: Realm) -> None:
    """Ids, titles, sources, languages, addresses and metadata; what changed them, and errors that quote them."""
    for number, attack in enumerate(ATTACKS[:6]):
        name = f"{attack}#{number}?a=b&c%2F"
        fields: dict[str, Any] = {"source": attack, "lang": attack, "url": f"javascript:{RUN}//"}
        kb.add([Document(name, attack, "Guernica was painted by one.", **fields, metadata={"note": attack})])
        kb.update(Document(name, f"{attack}2", f"Guernica was painted by {attack}.", source=f"{attack}2"))
        page.goto(page.url.split("#")[0] + "#/documents")
        page.locator(".list").wait_for()
        address = page.evaluate("encodeURIComponent", name)
        assert attack in shown(page, f"#/documents/{address}", "main p.soft", name)
        page.get_by_role("button", name="Edit").click()
        page.locator("textarea").wait_for()
        assert page.locator("textarea").input_value() == f"Guernica was painted by {attack}."
    kb.delete(name)
    page.goto(page.url.split("#")[0] + "#/documents")
    page.locator(".list").wait_for()
    assert name in shown(page, f"#/documents/{address}", "p.note")
    page.goto(page.url.split("#")[0] + "#/documents")
    page.get_by_label("Only documents where").fill(ATTACKS[1])
    page.keyboard.press("Enter")
    assert ATTACKS[1] in page.locator(".toast.bad").inner_text()
    page.goto(page.url.split("#")[0] + f"#/documents/{page.evaluate('encodeURIComponent', ATTACKS[0])}")
    page.locator("main p", has_text="There is no document").wait_for()


def test_documents_that_are_called_like_a_view_or_like_no_address(page: Any, kb: KnowledgeBase, realm: Realm) -> None:
    names = ["new", "documents", "model", "%", "%2F", "a/history", "a/restore", "a/b", "?", "#", "  ", "ü😀"]
    kb.add([Document(name, "", f"This is {name}.") for name in names], encoder=realm.passage_encoder)
    for name in names:
        address = page.evaluate("encodeURIComponent", name)
        page.goto(page.url.split("#")[0] + "#/documents")
        page.locator(".list").wait_for()
        assert f"This is {name}." in shown(page, f"#/documents/{address}", "article .whole", f"This is {name}.")
    page.goto(page.url.split("#")[0] + "#/documents")
    page.get_by_role("link", name="New document").click()
    page.locator("textarea").wait_for()
    assert page.url.endswith("#/new")
    assert page.locator(".top nav a[aria-current=page]").get_attribute("href") == "#/documents"
    page.goto(page.url.split("#")[0] + "#/documents/%E0%A4%A")
    page.locator("main p", has_text="%E0%A4%A").wait_for()

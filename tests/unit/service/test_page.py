"""The page as people use it, in a real Chromium: needs playwright and a Chromium on the machine."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from toy_service import Serve, write_run

from realm.knowledge.base import KnowledgeBase
from realm.service.assets import load_assets
from realm.types import Document
from realm.workflows.showing.curves import trainings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUESTION = "Guernica was painted by ____."
ATTACK = '<img src=x onerror="document.title=1"><script>document.title=2</script>'


def test_every_file_of_the_page_is_in_the_package_and_loads_nothing_from_elsewhere() -> None:
    assets = load_assets()
    assert {"index.html", "page.css", "app.js", "ask.js", "documents.js", "chart.js", "icon.svg"} <= assets.keys()
    for name, asset in assets.items():
        text = asset.body.decode("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text.replace("https?:", ""), name
        assert "innerHTML" not in text and "eval(" not in text, name


def test_the_page_needs_no_token_and_only_its_own_files_are_served(serve: Serve) -> None:
    client = serve(begin=False)
    index = client.get("/")
    assert index.status_code == 200 and "script-src 'self'" in index.headers["content-security-policy"]
    assert client.get("/page/app.js").headers["content-type"].startswith("text/javascript")
    again = client.get("/page/app.js", headers={"If-None-Match": client.get("/page/app.js").headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    for name in ("..%2Fcore.py", "%2e%2e/core.py", "core.py", "nothing.js"):
        assert client.get(f"/page/{name}").status_code == 404


@pytest.fixture
def page(serve: Serve, tmp_path: Path) -> Iterator[Any]:
    """A browser's page on a served knowledge base; what it complained of must be nothing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium on the machine")
    app = serve(trainings=lambda: trainings(write_run(tmp_path / "run"))).layers.frame
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    complaints: list[str] = []
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            found = browser.new_page(viewport={"width": 1100, "height": 800}, locale="en-GB", bypass_csp=False)
            found.set_default_timeout(60_000)
            found.on("pageerror", lambda error: complaints.append(str(error)))
            found.goto(f"http://127.0.0.1:{port}/")
            yield found
            browser.close()
    finally:
        server.should_exit = True
        thread.join()
    assert complaints == []


def ask(page: Any, question: str) -> None:
    page.fill("textarea", question)
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer-card")


def test_ask_edit_ask_again_history_restore(page: Any) -> None:
    ask(page, QUESTION)
    assert page.locator(".evidence > li").count() > 0
    page.get_by_text("Why this answer").click()
    assert "[object" not in page.locator("main").inner_text()
    version = page.locator(".answer-card .soft", has_text="from version").inner_text()

    page.locator(".evidence > li", has_text="Pablo Picasso").get_by_text("Open document").click()
    page.get_by_role("button", name="Edit").click()
    page.fill("textarea", f"Guernica was painted by Joan Miró in Paris. {ATTACK}")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector(".toast.good")
    assert ATTACK in page.locator("article .whole").inner_text()  # shown, and never run
    assert page.title().startswith("Guernica")

    page.get_by_role("link", name="Ask", exact=True).click()
    page.get_by_role("button", name="Ask again").click()
    page.wait_for_selector(".sides")
    before, after = (page.locator(".sides > div").nth(side).inner_text() for side in (0, 1))
    assert version in before and version not in after
    assert "Joan Miró" in after and "Joan Miró" not in before

    page.goto(page.url.split("#")[0] + "#/documents/guernica")
    page.get_by_role("button", name="Restore this").click()
    page.wait_for_selector(".toast.good")
    page.locator("article .whole", has_text="Pablo Picasso").wait_for()
    assert page.locator(".history > li").count() == 3
    newest = page.locator(".history > li").first
    assert newest.locator("ins").inner_text() == "Pablo Picasso"
    assert "Joan Miró" in newest.locator("del").first.inner_text()
    assert f"the same as {version.split('from ')[1].split(' of')[0]}" in newest.inner_text()


def test_a_form_gives_back_what_nobody_changed(page: Any, kb: KnowledgeBase) -> None:
    whole = Document("lines", "", "One.\r\nTwo.\r\n", source=" a  b ", metadata={"size": 2**53 - 1})
    kb.add([whole, Document("large", "", "Three.", metadata={"size": 2**53 + 1})])
    page.goto(page.url.split("#")[0] + "#/documents/lines")
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Title").fill("New")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector(".toast.good")
    assert kb.get("lines") == replace(whole, title="New")
    page.goto(page.url.split("#")[0] + "#/documents/large")
    page.locator("article .whole", has_text="Three.").wait_for()
    page.get_by_role("button", name="Edit").click()
    page.wait_for_selector(".toast.bad")
    assert page.locator("textarea").count() == 0


def test_lists_filters_and_wrong_filters(page: Any) -> None:
    page.get_by_role("link", name="Documents").click()
    page.wait_for_selector(".list")
    assert page.locator(".list > li").count() == 3
    page.get_by_label("Only documents where").fill("source = 'science'")
    page.keyboard.press("Enter")
    page.locator(".list > li").nth(1).wait_for(state="detached")
    assert page.locator(".list > li").count() == 1
    page.get_by_label("Only documents where").fill("colour = 'red'; DROP TABLE")
    page.keyboard.press("Enter")
    page.wait_for_selector(".toast.bad")
    assert page.locator(".list > li").count() == 1  # what was there stays


def test_documents_that_disagree(page: Any, kb: KnowledgeBase) -> None:
    """Both sides with date, source and a link, and why one is preferred."""
    kb.add(
        [
            Document("letters", "Letters", "Guernica was painted by Joan Miró.", "rumours", date(2026, 3, 1)),
            Document("papers", "", "Guernica was painted by Pablo Picasso.", "museums", date(2019, 5, 1)),
        ]
    )

    def narrowed(route: Any) -> None:
        """A tiny model gives every answer a little, and knows nothing of which passage is better."""
        asked = {**route.request.post_data_json, "conflicts": {"ratio": 1e-9, "least": 0}}
        route.continue_(post_data=json.dumps(asked | {"where": "source in ('rumours', 'museums')"}))

    page.route("**/v1/ask", narrowed)
    with page.expect_response("**/v1/ask") as answered:
        ask(page, QUESTION)
    sides = answered.value.json()["conflicts"]
    (given,) = [side for side in sides if side["preferred"]]
    shown = page.locator(".opposed > li")
    assert shown.count() == len(sides) >= 2
    for number, side in enumerate(sides):
        text = shown.nth(number).inner_text()
        assert side["text"] in text and f"{100 * side['mass']:.1f}%" in text and (side["date"] or "no date") in text
        assert all(one["source"] in text for one in side["evidence"])
    assert "2026-03-01" in shown.first.inner_text()  # the newest first
    why = page.locator(".conflict > p").inner_text()
    assert f"“{given['text']}” is the answer given." in why and f"{100 * given['mass']:.1f}%" in why
    assert ("newer: 2026-03-01" in why) == (given["date"] != "2026-03-01")
    page.locator("summary", has_text="Settings").click()
    page.get_by_label("Newest wins").fill("30")
    with page.expect_response("**/v1/ask") as answered:
        page.get_by_role("button", name="Ask", exact=True).click()
    assert answered.value.request.post_data_json["half_life_days"] == 30
    page.locator(".evidence .soft", has_text="for its age ×").first.wait_for()
    kept_to = {"Only from the source": "rumours", "Passages of a source at most": "1"}
    kept_to |= {"Dated from": "2026-03-01", "Dated up to": "2026-12-31"}
    for label, value in kept_to.items():
        page.get_by_label(label).fill(value)
    with page.expect_response("**/v1/ask") as answered:
        page.get_by_role("button", name="Ask", exact=True).click()
    asked = answered.value.request.post_data_json
    assert (asked["sources"], asked["max_per_source"]) == (["rumours"], 1)
    assert (asked["since"], asked["until"]) == ("2026-03-01", "2026-12-31")
    assert [one["passage"]["document_id"] for one in answered.value.json()["evidence"]] == ["letters"]
    for label in kept_to:
        page.get_by_label(label).fill("")
    with page.expect_response("**/v1/ask") as answered:
        page.get_by_role("button", name="Ask", exact=True).click()
    assert not {"sources", "max_per_source", "since", "until"} & answered.value.request.post_data_json.keys()
    page.locator(".opposed a", has_text="Letters").first.click()
    page.locator("article .whole", has_text="Joan Miró").wait_for()


def test_the_curves_of_the_run_by_pointer_and_by_keyboard(page: Any) -> None:
    page.get_by_role("link", name="Model").click()
    page.wait_for_selector(".plot")
    assert [page.locator(".plot h3").nth(i).inner_text() for i in range(3)] == [
        "recall@5 on the probe",
        "Loss",
        "Retrieval utility",
    ]
    loss = page.locator(".plot", has=page.get_by_role("heading", name="Loss", exact=True))
    assert "loss: 9 → 5" in loss.locator("svg").get_attribute("aria-label")
    assert loss.locator("path").get_attribute("d").count("L") == 4
    slider = loss.get_by_role("slider")
    slider.focus()
    page.keyboard.press("Home")
    assert loss.locator("output").inner_text() == slider.get_attribute("aria-valuetext") == "step 10: loss 9"
    page.keyboard.press("ArrowRight")
    assert loss.locator("output").inner_text() == "step 20: loss 8"
    box = loss.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 40)
    assert loss.locator("output").inner_text() == "step 50: loss 5"
    loss.get_by_text("Figures").click()
    assert loss.locator("tbody tr").count() == 5


def test_small_screens_korean_and_no_answer(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.click("#language")
    page.get_by_role("button", name="질문").wait_for()
    assert page.evaluate("document.documentElement.lang") == "ko"
    ask(page, QUESTION)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("link", name="모델").click()
    page.locator(".plot h3", has_text="검색 효용").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_it(page: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()

    def check(view: str) -> None:
        found = [(fault["id"], fault["nodes"][0]["target"]) for fault in axe.run(page).response["violations"]]
        assert found == [], view

    page.emulate_media(color_scheme=scheme)
    ask(page, QUESTION)
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    check("ask")
    page.goto(page.url.split("#")[0] + "#/documents")
    page.wait_for_selector(".list")
    check("list")
    page.locator(".list a").first.click()
    page.wait_for_selector(".history")
    check("document")
    page.get_by_role("button", name="Edit").click()
    page.wait_for_selector("textarea")
    check("form")
    page.goto(page.url.split("#")[0] + "#/model")
    page.wait_for_selector(".plot")
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true; })")
    check("model")


def test_of_two_editors_the_second_sees_what_the_first_wrote(page: Any, kb: KnowledgeBase) -> None:
    def edit(text: str) -> None:
        page.goto(page.url.split("#")[0] + "#/documents/guernica")
        page.locator("article .whole").wait_for()
        page.get_by_role("button", name="Edit").click()
        page.fill("textarea", text)

    def save() -> None:
        page.get_by_role("button", name="Save", exact=True).click()
        page.locator(".conflict .card").wait_for()

    edit("Mine.")
    kb.update(Document("guernica", "", "Theirs."))
    save()
    told = page.locator(".conflict[role=alert]").inner_text()
    assert "Theirs." in told and "Nothing was saved" in told
    assert page.input_value("textarea") == "Mine.", "what was typed is kept"
    kb.update(Document("guernica", "", "Theirs again."))
    page.get_by_role("button", name="Save mine all the same").click()
    page.locator(".conflict .card", has_text="Theirs again.").wait_for()
    page.get_by_role("button", name="Save mine all the same").click()
    page.wait_for_selector(".toast.good")
    assert kb.get("guernica").text == "Mine."
    assert [one.change for one in kb.history("guernica")] == ["added", *["updated"] * 3], "theirs is in the history"

    page.reload()
    edit("Mine too.")
    kb.delete("guernica")
    save()
    assert "deleted" in page.locator(".conflict").inner_text()
    page.get_by_role("button", name="Save mine all the same").click()
    page.wait_for_selector(".toast.good")
    assert kb.get("guernica").text == "Mine too."

    page.reload()
    edit("Given up.")
    kb.update(Document("guernica", "", "Kept."))
    save()
    page.get_by_role("button", name="Give up mine").click()
    page.locator("article .whole", has_text="Kept.").wait_for()
    kb.update(Document("guernica", "", "Newer."))
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    page.locator("article .whole", has_text="Newer.").wait_for()
    assert kb.get("guernica").text == "Newer.", "what was not seen is not deleted"

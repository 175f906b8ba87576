"""What still comes in while a service ends is told so, and is no failure of the service."""

from __future__ import annotations

from typing import Any

import pytest
from toy_service import BLANK, Serve, error


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/ask", {"question": BLANK}),
        ("POST", "/v1/ask", {"questions": [BLANK, BLANK]}),
        ("POST", "/v1/search", {"query": "Guernica"}),
        ("POST", "/v1/search", {"query": "Guernica", "by": "words"}),
        ("POST", "/v1/documents", {"id": "new", "text": "New."}),
        ("DELETE", "/v1/documents/curie", None),
        ("GET", "/v1/documents/curie", None),
        ("GET", "/v1/documents/curie/history", None),
    ],
)
def test_a_service_that_has_ended_refuses(serve: Serve, method: str, path: str, body: Any) -> None:
    client = serve()
    client.service.close()
    response = client.request(method, path, json=body)
    assert "stopping" in error(response, 503, "stopping") and response.headers["retry-after"] == "1"


def test_a_page_of_changes_is_bounded(serve: Serve) -> None:
    client = serve("limits.history_characters=40")
    for number in range(5):
        text = f"Edition {number} of thirty characters."
        assert client.put("/v1/documents/curie", json={"text": text}).status_code == 200
    seen: list[int] = []
    before = None
    while True:
        page = client.get("/v1/documents/curie/history", params={"before": before} if before else {}).json()
        assert len(page["changes"]) == 1
        seen = [page["changes"][0]["revision"], *seen]
        before = page["before"]
        if before is None:
            break
    assert seen == [1, 2, 3, 4, 5, 6]

"""Whatever OpenAPI allows, and whatever it doesn't, is answered as OpenAPI says.

Requests are drawn from the description by schemathesis: some that fit it, some that don't, and chains of those that
follow from each other; they go through the whole app, tokens and limits too. A few of them by default; thousands by

    pytest -n 0 --timeout 0 --hypothesis-profile long tests/unit/service/test_schema_fuzz.py
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from fuzz import few
from hypothesis import settings
from toy_service import Serve

from realm.service.tokens import Tokens

schemathesis = pytest.importorskip("schemathesis", reason="needs the package schemathesis")

TOKENS = Tokens("r" * 32, "w" * 32)
WRITES = {"Authorization": f"Bearer {TOKENS.write}"}
UNDERSTOOD = ["2xx", "400", "404", "409", "412", "503"]
"""Of a request that fits the description: it may be meaningless (a predicate, a document that is not there), or come
while all is busy, but its shape is right."""


def requests_and_failures(app: Any, examples: int) -> tuple[Counter[int], list[str]]:
    """Statuses of all answers, and what was wrong with them."""
    config = schemathesis.Config.from_dict(
        {
            "headers": WRITES,
            "generation": {"max-examples": examples, "deterministic": settings.default.derandomize, "database": "none"},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": UNDERSTOOD},
                "negative_data_rejection": {"expected-statuses": ["4xx"]},
            },
        }
    )
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config, headers=WRITES)
    statuses: Counter[int] = Counter()
    wrong = []
    for event in schemathesis.engine.from_schema(schema).execute():
        if recorder := getattr(event, "recorder", None):
            statuses.update(one.response.status_code for one in recorder.interactions.values() if one.response)
            for name, checks in recorder.checks.items():
                asked = recorder.cases[name].value.as_curl_command()
                wrong += [f"{c.name}: {c.failure_info.failure} {asked}" for c in checks if c.failure_info is not None]
        if error := getattr(event, "exception", None) or getattr(event, "value", None):
            wrong.append(f"{type(event).__name__}: {error!r}")
    return statuses, wrong


@pytest.mark.slow
@pytest.mark.timeout(600)  # some hundred requests
def test_every_answer_is_as_described(serve: Serve) -> None:
    client = serve(host="0.0.0.0", tokens=TOKENS)
    statuses, wrong = requests_and_failures(client.layers.frame, few(max_examples=2).max_examples)
    assert not wrong, "\n".join(wrong)
    assert {200, 201, 400, 401, 404, 405, 422} <= statuses.keys()
    assert max(statuses) < 500
    assert sum(statuses.values()) > 100

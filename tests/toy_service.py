"""A few documents, and a client that sends requests through the whole app without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx

from realm.config import DataConfig, PretrainConfig
from realm.service.core import Service
from realm.service.schemas import ErrorBody
from realm.service.server import Layers
from realm.training.metrics import Metrics as TrainingMetrics
from realm.types import Document
from realm.workflows.run import Run

T = TypeVar("T")
DOCUMENTS = [
    Document("guernica", "Guernica", "Guernica was painted by Pablo Picasso in Paris.", source="art"),
    Document("curie", "Curie", "Radium was discovered by Marie Curie.", source="science"),
    Document("danube", "Danube", "The Danube flows through Vienna, Budapest and Belgrade.", source="geo"),
]
BLANK = "Guernica was painted by [MASK]."
CONFIG = PretrainConfig(data=DataConfig(spans_pipeline="pattern", max_passage_tokens=40, max_query_tokens=32))


class Client:
    """Requests to an app, each with an event loop of its own."""

    def __init__(self, layers: Layers, service: Service, base: str = "http://127.0.0.1:8080") -> None:
        self.layers, self.service, self.base = layers, service, base

    def run(self, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, T]]) -> T:
        """What `work` gives with a client."""

        async def main() -> T:
            transport = httpx.ASGITransport(app=self.layers.frame)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url=self.base) as client:
                return await work(client)

        return asyncio.run(main())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(lambda client: client.request(method, path, **options))

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.request("GET", path, **options)

    def post(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        return self.request("POST", path, json=json, **options)

    def put(self, path: str, json: Any = None, **options: Any) -> httpx.Response:
        return self.request("PUT", path, json=json, **options)

    def delete(self, path: str, **options: Any) -> httpx.Response:
        return self.request("DELETE", path, **options)


def write_run(folder: Path) -> Path:
    """A run of pre-training that has only its description and its metrics."""
    Run(folder).create_or_resume(CONFIG, {"knowledge_base": "kb", "knowledge_base_version": 1})
    with TrainingMetrics(folder) as metrics:
        for step in range(10, 60, 10):
            figures = {"loss": 10 - step / 10, "retrieval_utility": step / 10, "retrieval_utility_top1": step / 5}
            metrics.write({"stage": "realm", "step": step, "kind": "train", "null_prior": 0.1, **figures})
            metrics.write({"stage": "realm", "step": step, "kind": "refresh", "recall@5": step / 100})
    return folder


Serve = Callable[..., Client]
"""Opens a service with settings; see the fixture `serve`."""


def error(response: Any, status: int, code: str) -> str:
    """The message of an error of the one shape."""
    assert response.status_code == status, response.text
    body = ErrorBody.model_validate(response.json())
    assert body.error.code == code, response.text
    assert body.error.request_id == response.headers["x-request-id"]
    assert "\n" not in body.error.message
    return body.error.message

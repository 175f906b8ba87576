"""What OpenAPI can't be told by types alone: the limits of this service, and examples as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realm.service.framework import APIRouter, FastAPI
from realm.service.settings import LimitsConfig


def described(document: dict[str, Any], routers: Sequence[APIRouter], limits: LimitsConfig) -> dict[str, Any]:
    """The OpenAPI document that FastAPI made, completed in its place."""
    _examples(document, routers)
    _limits(document, limits)
    return document


def methods_at(app: FastAPI, path: str) -> str:
    """The methods that an address takes, as `Allow` lists them: the framework names those of one route alone."""
    fitting = [route for route in app.routes if (found := getattr(route, "path_regex", None)) and found.match(path)]
    here = {getattr(fitting[0], "path_format", "")} if fitting else set()
    routes = [route for route in fitting if getattr(route, "path_format", "") in here]
    told = [route for route in routes if getattr(route, "include_in_schema", False)] or routes
    return ", ".join(sorted({method for route in told for method in getattr(route, "methods", None) or ()}))


def _examples(document: dict[str, Any], routers: Sequence[APIRouter]) -> None:
    """FastAPI leaves nulls out of examples, which answers hold."""
    for route in (route for router in routers for route in router.routes):
        content = getattr(route, "responses", {}).get(200, {}).get("content", {}).get("application/json", {})
        if "example" in content:
            for method in getattr(route, "methods", ()):
                operation = document["paths"][getattr(route, "path_format", "")][method.lower()]
                operation["responses"]["200"]["content"]["application/json"]["example"] = content["example"]


def _limits(document: dict[str, Any], limits: LimitsConfig) -> None:
    models = document["components"]["schemas"]
    asked, searched = models["Ask"]["properties"], models["Search"]["properties"]
    for text in (_of(asked["question"], "string"), _of(asked["questions"], "array")["items"], searched["query"]):
        text["maxLength"] = limits.question_characters
    for k in (_of(asked["k"], "integer"), searched["k"]):
        k["maximum"] = limits.passages
    _of(asked["questions"], "array")["maxItems"] = limits.questions
    models["NewDocuments"]["properties"]["documents"]["maxItems"] = limits.documents
    for path in document["paths"].values():
        for parameter in path.get("get", {}).get("parameters", ()):
            if parameter["name"] == "limit":
                parameter["schema"]["maximum"] = limits.page


def _of(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The part of a schema that is of a JSON type: what can be left out may be null, too."""
    found: dict[str, Any] = next(part for part in schema.get("anyOf", [schema]) if part.get("type") == kind)
    return found

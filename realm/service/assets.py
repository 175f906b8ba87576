"""The page for people: its files, read once. No path of a request ever touches the file system."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath

from realm import files
from realm.service.framework import APIRouter, HTTPException, Request, Response

INDEX = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
}
"""Of every file. Nothing is loaded from elsewhere, nothing stands in the page itself; an update is seen at once."""


@dataclass(frozen=True)
class Asset:
    """One file as it is sent."""

    body: bytes
    media_type: str
    etag: str


def load_assets() -> Mapping[str, Asset]:
    """The files of the page by name, from the installed package."""
    found = {}
    for place in resources.files("realm.service").joinpath("page").iterdir():
        kind = TYPES.get(PurePath(place.name).suffix)
        if kind is not None:
            body = place.read_bytes()
            found[place.name] = Asset(body, kind, f'"{files.fingerprint(place.name, body)}"')
    return found


def page_routes() -> APIRouter:
    """`/` and `/page/NAME`: the page, which holds no knowledge itself and asks the API for all it shows."""
    assets = load_assets()
    router = APIRouter(include_in_schema=False)

    def send(request: Request, name: str) -> Response:
        if (asset := assets.get(name)) is None:
            raise HTTPException(404)
        headers = {**HEADERS, "etag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, media_type=asset.media_type, headers=headers)

    @router.get("/")
    async def index(request: Request) -> Response:
        return send(request, INDEX)

    @router.get("/page/{name}")
    async def asset(request: Request, name: str) -> Response:
        return send(request, name)

    return router

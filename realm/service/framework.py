"""The web framework, imported here alone."""

from __future__ import annotations

from realm.errors import MissingLibraryError

try:
    from fastapi import APIRouter, Body, FastAPI, Header, HTTPException, Path, Query, Request, Response, Security
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, StreamingResponse
    from fastapi.security import HTTPBearer
except ModuleNotFoundError as error:
    raise MissingLibraryError("fastapi", "serve", "realm serve") from error

__all__ = [
    "APIRouter",
    "Body",
    "FastAPI",
    "HTTPBearer",
    "HTTPException",
    "Header",
    "JSONResponse",
    "Path",
    "Query",
    "Request",
    "RequestValidationError",
    "Response",
    "Security",
    "StreamingResponse",
]

"""The web framework and what it checks values with, imported here alone."""

from __future__ import annotations

from realm.errors import MissingLibraryError

try:
    from fastapi import APIRouter, Body, FastAPI, Header, HTTPException, Path, Query, Request, Response, Security
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, StreamingResponse
    from fastapi.security import HTTPBearer
    from pydantic import (
        AfterValidator,
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Discriminator,
        Field,
        StrictBool,
        StrictFloat,
        StrictInt,
        StrictStr,
        Tag,
    )
except ModuleNotFoundError as error:
    raise MissingLibraryError("fastapi", "serve", "realm serve") from error

__all__ = [
    "APIRouter",
    "AfterValidator",
    "BaseModel",
    "BeforeValidator",
    "Body",
    "ConfigDict",
    "Discriminator",
    "FastAPI",
    "Field",
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
    "StrictBool",
    "StrictFloat",
    "StrictInt",
    "StrictStr",
    "Tag",
]

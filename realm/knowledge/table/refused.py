"""Why a knowledge base was not read or written."""

from __future__ import annotations

from realm.errors import KnowledgeBaseError


class InUseError(KnowledgeBaseError):
    """Another writer holds it."""


class NoVersionError(KnowledgeBaseError):
    """A version that never was, or is no longer kept."""


class CanNotWriteError(KnowledgeBaseError):
    """Nobody is let write here now; what is there can be read."""


class DiskFullError(CanNotWriteError):
    """No room for what is to be written; nothing of it is committed."""


class ReadOnlyError(CanNotWriteError):
    """The file system is mounted read-only, or this user may not write to it."""

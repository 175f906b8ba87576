"""REALM: a retriever and a reader that learn together from raw text (Guu et al. 2020).

The public names are loaded when they are first used, so that ``import realm`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.7.4"

if TYPE_CHECKING:
    from realm.answering.ask import Realm
    from realm.answering.conflicts import ConflictRule
    from realm.answering.constraints import Constraints
    from realm.answering.early import EarlyExit
    from realm.answering.questions import QuestionAnswering
    from realm.errors import RealmError
    from realm.knowledge.base import KnowledgeBase
    from realm.types import Answer, Document, Evidence, Hits, Passage, Side

_HOME = {
    "Answer": "realm.types",
    "ConflictRule": "realm.answering.conflicts",
    "Constraints": "realm.answering.constraints",
    "Document": "realm.types",
    "EarlyExit": "realm.answering.early",
    "Evidence": "realm.types",
    "Hits": "realm.types",
    "KnowledgeBase": "realm.knowledge.base",
    "Passage": "realm.types",
    "QuestionAnswering": "realm.answering.questions",
    "Realm": "realm.answering.ask",
    "RealmError": "realm.errors",
    "Side": "realm.types",
}

__all__ = [
    "Answer",
    "ConflictRule",
    "Constraints",
    "Document",
    "EarlyExit",
    "Evidence",
    "Hits",
    "KnowledgeBase",
    "Passage",
    "QuestionAnswering",
    "Realm",
    "RealmError",
    "Side",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'realm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__

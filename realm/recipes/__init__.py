"""Recipes: functions that return a complete configuration, each with what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from realm.config import PretrainConfig, override
from realm.errors import UsageError
from realm.recipes.pretraining import paper, quick, small

RECIPES: dict[str, Callable[[], PretrainConfig]] = {"small": small, "quick": quick, "paper": paper}


def build(name: str, settings: Sequence[str] = ()) -> PretrainConfig:
    """A recipe by name with ``name=value`` settings on top. UsageError for a name that isn't there."""
    if name not in RECIPES:
        raise UsageError(f"found recipe {name!r}: expected one of {', '.join(RECIPES)}")
    return override(RECIPES[name](), settings)


__all__ = ["RECIPES", "build", "paper", "quick", "small"]

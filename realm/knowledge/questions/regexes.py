"""Regular expressions that come from outside (CuratedTREC's answers): what is valid, with the reference's flags."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import regex

LONGEST = 10_000
"""Characters of a pattern; a longer one counts as invalid."""


@lru_cache(maxsize=8192)
def compiled_pattern(pattern: str) -> Any:
    """The pattern as `regex` compiles it, which can be stopped; None when it is invalid. Case is ignored, ^ and $
    stand at lines.

    `re` says what is valid, because a brace that means nothing to `re` is an error or a fuzzy match to `regex`.
    """
    if len(pattern) > LONGEST:
        return None
    try:
        re.compile(pattern, re.IGNORECASE | re.UNICODE | re.MULTILINE)
        return regex.compile(pattern, regex.VERSION0 | regex.IGNORECASE | regex.UNICODE | regex.MULTILINE)
    except (re.error, regex.error, ValueError, OverflowError, RecursionError, MemoryError):
        return None

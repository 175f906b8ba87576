"""Is the answer right? Exact match under two named conventions, never one silent `EM`.

``orqa``: what Lee et al. (2019) and Guu et al. (2020) report (realm's table 1). ``squad``: Rajpurkar et al. (2016).
They differ in one step: ORQA first decomposes the text (NFD), so that a precomposed and a combining accent are
equal. Neither strips accents: "Beyoncé" is not "Beyonce".
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal

Convention = Literal["orqa", "squad"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def normalize_orqa(text: str) -> str:
    """NFD, lower case, ASCII punctuation deleted, articles to spaces, whitespace collapsed; in this order.

    The order shows: "an apple-pie" becomes "applepie", "U.S.A." "usa", and "the" nothing at all.
    """
    return normalize_squad(unicodedata.normalize("NFD", text))


def normalize_squad(text: str) -> str:
    """Lower case, ASCII punctuation deleted, articles to spaces, whitespace collapsed; in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str], convention: Convention = "orqa") -> bool:
    """Whether the prediction equals any of the references after the convention's normalisation."""
    normalize: Callable[[str], str] = {"orqa": normalize_orqa, "squad": normalize_squad}[convention]
    wanted = normalize(prediction)
    return any(normalize(reference) == wanted for reference in references)

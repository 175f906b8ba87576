"""nDCG: the library's figure is the textbook's."""

from __future__ import annotations

import importlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realm.errors import MissingLibraryError, UsageError
from realm.evaluation import gains
from realm.evaluation.gains import ndcg

IDS = st.sampled_from([f"doc {i}" for i in range(8)])


def textbook(ranking: list[str], gold: set[str], k: int) -> float:
    """Järvelin & Kekäläinen (2002) with gains of 0 and 1: 1 / log2(rank + 1) summed, over the best there is."""
    order = list(dict.fromkeys(ranking))[:k]
    found = sum(1 / math.log2(place + 2) for place, passage in enumerate(order) if passage in gold)
    return found / sum(1 / math.log2(place + 2) for place in range(min(k, len(gold))))


@settings(max_examples=30)
@given(
    st.dictionaries(st.sampled_from(["q1", "q 2", "q3"]), st.lists(IDS, max_size=10)),
    st.dictionaries(st.sampled_from(["q1", "q 2", "q4"]), st.sets(IDS, max_size=4)),
    st.integers(1, 12),
)
def test_it_agrees_with_the_formula(ranking: dict[str, list[str]], gold: dict[str, set[str]], k: int) -> None:
    expected = {q: textbook(ranking.get(q, []), ids, k) for q, ids in gold.items() if ids}
    assert ndcg(ranking, gold, k) == pytest.approx(expected)


def test_the_order_of_more_than_ten_is_by_number_and_not_by_name() -> None:
    ranking = [f"p{i}" for i in range(30)]
    assert ndcg({"q": ranking}, {"q": ["p11"]}, 20) == {"q": pytest.approx(1 / math.log2(13))}
    assert ndcg({"q": ranking}, {"q": ["p11"]}, 10) == {"q": 0.0}


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="k=0"):
        ndcg({}, {"q": ["p"]}, 0)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(gains, "import_module", missing)
    assert importlib.import_module is not missing
    with pytest.raises(MissingLibraryError, match=r"realm-lm\[eval\]"):
        ndcg({"q": ["p"]}, {"q": ["p"]})

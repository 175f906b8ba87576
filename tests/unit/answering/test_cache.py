"""What is kept of answers: no more than the limits, and what was asked for last."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from realm.answering.cache import AnswerCache, size_of
from realm.types import Answer, Evidence, Passage


def answer(text: str, passages: int = 0) -> Answer:
    evidence = [
        Evidence(Passage("d", n, "", text, 0, len(text), ((0, len(text)),)), 1, 0.0, 0.5, 0.5, 0.0, None)
        for n in range(passages)
    ]
    return Answer("who ?", text, 0.5, False, tuple(evidence), 0.0)


def test_the_size_of_an_answer_is_that_of_its_texts() -> None:
    short, long = size_of(answer("a", 2)), size_of(answer("a" * 5000, 2))
    assert long - short == 3 * 4999, "the answer and both passages"
    assert 3000 < short < 5000


@settings(max_examples=100, deadline=None)
@given(
    entries=st.integers(0, 4),
    room=st.integers(0, 8),
    work=st.lists(st.tuples(st.sampled_from(["put", "get", "forget"]), st.integers(0, 6), st.integers(0, 2))),
)
def test_it_holds_the_last_ones_within_both_limits(entries: int, room: int, work: list[tuple[str, int, int]]) -> None:
    one = size_of(answer("a"))
    cache = AnswerCache[int](entries, room * one)
    model: dict[int, Answer] = {}  # in the order of their last use
    for kind, key, passages in work:
        if kind == "put":
            new = answer("a", passages)
            cache.put(key, new)
            model.pop(key, None)
            if size_of(new) <= room * one:
                model[key] = new
            while len(model) > entries or sum(map(size_of, model.values())) > room * one:
                model.pop(next(iter(model)))
        elif kind == "get":
            found = cache.get(key)
            assert found is model.get(key)
            if key in model:
                model[key] = model.pop(key)
        else:
            cache.forget(lambda other, key=key: other < key)
            model = {other: kept for other, kept in model.items() if other >= key}
        assert len(cache) == len(model) and cache.held == sum(map(size_of, model.values()))

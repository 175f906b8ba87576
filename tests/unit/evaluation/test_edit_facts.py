"""What is replaced in an edit, and by what."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.evaluation.edit_facts import Substitution, choose_old, core, stands_in, substitution
from realm.evaluation.edit_values import Value
from realm.knowledge.text.parsing import Sentence

# ---------------------------------------------------------------- replacing


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        ({"Paris": "Lyon"}, "Paris, (Paris) and Paris's, not Parisian", "Lyon, (Lyon) and Lyon's, not Parisian"),
        ({"69": "70"}, "69, 69,197 and 1.69 of 69.", "70, 69,197 and 1.69 of 70."),
        ({"May": "June"}, "In May it may rain. MAY", "In June it may rain. June"),
        ({"ozone": "neon"}, "Ozone is ozone.", "neon is neon."),
        ({"Marie Curie": "Lise Meitner", "Curie": "Meitner"}, "Marie\nCurie, Mme Curie", "Lise Meitner, Mme Meitner"),
        ({"東京": "大阪"}, "首都は東京です。", "首都は大阪です。"),
        ({"서울": "부산"}, "수도는 서울이다.", "수도는 부산이다."),
        ({"$5 (net)": "$6"}, "It was $5 (net) then.", "It was $6 then."),
        ({"...": "x"}, "Nothing...", "Nothing..."),
    ],
)
def test_whole_tokens_give_way(words: dict[str, str], text: str, expected: str) -> None:
    assert Substitution(words)(text) == expected


WORDS = st.sampled_from(["Rome", "Rome's", "Romes", "the", "1,234", "1", "of Rome", "ROME", "rome", ".", "Ünal", "ro"])


@given(st.lists(WORDS, max_size=12), st.sampled_from(["Rome", "1", "Ünal", "the Rome"]))
def test_places_are_what_the_text_becomes(words: Sequence[str], old: str) -> None:
    text, change = " ".join(words), Substitution({old: "Xyz"})
    rebuilt, at = "", 0
    for start, end, new in change.places(text):
        assert at <= start < end
        rebuilt += text[at:start] + new
        at = end
    after = rebuilt + text[at:]
    assert change(text) == after
    assert not stands_in(after, [old])
    assert (after != text) == stands_in(text, [old])
    assert change(after) == after


# ---------------------------------------------------------------- what is replaced


@pytest.mark.parametrize(
    ("answers", "text", "spans", "expected"),
    [
        (("Marie Curie", "Curie"), "Marie Curie won.", [(0, 11, "PERSON")], Value("Marie Curie", "person", "PERSON")),
        (("Curie",), "Marie Curie won.", [(0, 11, "PERSON")], Value("Curie", "person", "PERSON")),
        (
            ("1 trillion RMB",),
            "It cost 1 trillion RMB.",
            [(8, 18, "CARDINAL")],
            Value("1 trillion", "number", "CARDINAL"),
        ),
        (("in 1911",), "She won in 1911.", [(11, 15, "DATE")], Value("1911", "year", "DATE")),
        (("the Normans",), "It was the Normans.", [(11, 18, "NORP")], Value("Normans", "group", "NORP")),
        (("Bo and Ann Lee",), "It was Bo and Ann Lee.", [(14, 21, "PERSON")], Value("Bo and Ann Lee", "phrase")),
        (("radium", "salt of radium"), "She found radium.", [], Value("radium", "phrase")),
    ],
)
def test_the_old_value_has_the_type_of_its_span(
    answers: tuple[str, ...], text: str, spans: list[tuple[int, int, str]], expected: Value
) -> None:
    found = choose_old("What is it?", answers, [text], [[Sentence(0, len(text), (), tuple(spans))]])
    assert (found.text, found.type, found.label) == (expected.text, expected.type, expected.label)
    assert found.asked == "what is"


def test_every_accepted_answer_changes_with_the_old_value() -> None:
    change = substitution("1 trillion", "number", "9 million", "How much?", ["1 trillion RMB", "a trillion"])
    assert change("1 trillion RMB") == "9 million RMB"
    assert change("It cost a trillion.") == "It cost a 9 million."


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Who was president?", "Ann Lee; Mrs Lee"),
        ("Which Obama was president?", "Ann Lee; Mrs Obama"),  # the question's own words stay
    ],
)
def test_a_last_name_alone_is_the_person(question: str, expected: str) -> None:
    change = substitution("Michelle Obama", "person", "Ann Lee", question, ["Michelle Obama"])
    assert change("Michelle Obama; Mrs Obama") == expected
    assert substitution("New York", "place", "Ann Arbor", "Where?", ["New York"])("York") == "York"


@pytest.mark.parametrize(
    ("old", "form", "new", "expected"),
    [
        ("2015 season", "2015", "1906 season", "1906"),
        ("31 July 2013", "2013", "30 July 2009", "2009"),
        ("less than 200,000", "200,000.", "more than 39", "39"),
        ("about 3.5 billion years ago", "3.5 billion years ago", "about 2 billion years ago", "2 billion years ago"),
        ("up to 12", "12", "about 30", "about 30"),  # stands elsewhere in the new value
        ("2015 season", "2015", "spring season", "spring season"),  # no number there
        ("around one hundred", "one hundred", "at least two", "at least two"),  # words are cut in many ways
    ],
)
def test_a_number_that_is_accepted_alone_is_exchanged_alone(old: str, form: str, new: str, expected: str) -> None:
    change = substitution(old, "number", new, "How much?", [old, form])
    assert change(f"It was {old}, so {core(form)}.") == f"It was {new}, so {expected}."


def test_the_core_of_an_answer_is_bare() -> None:
    assert core("the \u201cNormans\u201d,") == "Normans"

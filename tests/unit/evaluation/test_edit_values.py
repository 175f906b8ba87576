"""The types of values, and what is drawn in their place."""

from __future__ import annotations

import numpy as np
import pytest

from realm.evaluation.edit_values import Pool, Value, tags_of, value_of, values_in
from realm.knowledge.questions.likeness import opening
from realm.knowledge.text.parsing import Sentence, Word


@pytest.mark.parametrize(
    ("text", "label", "kind"),
    [
        ("two weeks", "DATE", "period"),
        ("May 12", "DATE", "date"),
        ("16th-century", "DATE", "date"),
        ("1911", "DATE", "year"),
        ("1911", "", "year"),
        ("42%", "", "number"),
        ("$1,500", "", "number"),
        ("twenty-five", "", "number"),
        ("Aida", "WORK_OF_ART", "name"),
        ("Bo Falk", "NAME", "name"),
        ("oil paint", "", "phrase"),
    ],
)
def test_types(text: str, label: str, kind: str) -> None:
    assert value_of(text, label).type == kind


def test_what_a_value_looks_like() -> None:
    assert Value("May 12, 1969", "date").shape == "A 99, 9999"
    assert Value("two weeks", "period").shape == "a a"
    assert opening("In what country is Normandy?") == "what country"
    assert opening("Name a town.") == "name a"


def sentence(tagged: str, spans: tuple[tuple[int, int, str], ...] = ()) -> Sentence:
    """A sentence of "word/TAG" words, a space between any two."""
    words, at = [], 0
    for part in tagged.split():
        text, tag = part.rsplit("/", 1)
        words.append(Word(text, at, at + len(text), text, tag, "", 0))
        at += len(text) + 1
    return Sentence(0, at - 1, tuple(words), spans)


def test_a_passage_brings_its_spans_and_its_noun_phrases() -> None:
    text = "Ann Lee sold cold green tea (cheap)"
    found = sentence("Ann/NNP Lee/NNP sold/VBD cold/JJ green/JJ tea/NN (cheap)/JJ", ((0, 7, "PERSON"),))
    assert values_in(text, [found]) == [
        Value("Ann Lee", "person", "PERSON", "", "NNP NNP"),
        Value("cold green tea", "phrase", "", "", "JJ JJ NN"),
    ]
    assert tags_of([found], 15, 20) == "JJ JJ"


PEOPLE = [Value(name, "person", "PERSON") for name in ("Ann Lee", "Bo Falk", "Cy Moss", "Dee Hart", "Ed", "Ann Poe")]


def test_a_draw_is_of_the_type_and_stands_nowhere_near() -> None:
    pool = Pool([*PEOPLE, Value("Rome", "place", "GPE"), Value("Gus Vance", "person", "ORG")])
    old = Value("Ann Lee", "person", "PERSON")
    for seed in range(30):
        new = pool.draw(old, "Who?", ["Ann Lee"], ["Here is bo FALK."], seed=seed, identity="q")
        assert new in ("Cy Moss", "Dee Hart")  # not one with a word of the old, not one that was read, of like shape
    drawn = {pool.draw(old, "Who?", ["Ann Lee"], [], seed=seed, identity="q") for seed in range(30)}
    assert drawn == {"Bo Falk", "Cy Moss", "Dee Hart"}
    assert len({pool.draw(old, "Who?", ["Ann Lee"], [], seed=3, identity="q") for _ in range(5)}) == 1


def test_a_draw_goes_from_close_to_far() -> None:
    far = [Value("Ed", "person", "PERSON"), Value("Rome", "place", "GPE")]
    old = Value("Ann Lee", "person", "PERSON")
    assert Pool(far).draw(old, "Who?", ["Ann Lee"], [], seed=0, identity="q") == "Ed"
    close = Value("Flo Reed", "person", "PERSON", asked="who is")
    asked = Value("Ann Lee", "person", "PERSON", asked="who is")
    pool = Pool([*PEOPLE, close])
    assert {pool.draw(asked, "Who?", ["Ann Lee"], [], seed=s, identity="q") for s in range(20)} == {"Flo Reed"}


def test_a_name_gives_way_to_one_that_means_alike_and_a_number_to_one_that_looks_alike() -> None:
    teams = ["Broncos", "Panthers", "Steelers", "Jets", "Bears"]
    others = ["Get Carter", "Frame Relay", "Old Rhine", "Long Walk"]
    angle = {text: 0.1 * at for at, text in enumerate(teams)} | dict.fromkeys(others, 1.5)
    pool = Pool(
        [
            *(Value(text, "organisation", "ORG") for text in [*others, *teams]),
            Value("7", "number"),
            Value("41", "number"),
        ],
        lambda texts: np.array([[np.cos(angle[text]), np.sin(angle[text])] for text in texts]),
    )
    old = Value("Broncos", "organisation", "ORG")
    drawn = {pool.draw(old, "Who won?", ["Broncos"], [], seed=seed, identity="q") for seed in range(40)}
    assert drawn == {"Panthers", "Steelers", "Jets"}  # the three nearest, not those that look alike
    read = ["Jets and Bears", "Steelers and Panthers"]
    drawn = {pool.draw(old, "Who won?", ["Broncos"], read, seed=seed, identity="q") for seed in range(40)}
    assert drawn <= set(others) and len(drawn) > 1
    assert pool.draw(Value("12", "number"), "How many?", ["12"], [], seed=0, identity="q") == "41"
    assert pool.draw(Value("Rome", "place"), "Where?", ["Rome"], [], seed=0, identity="q") is None


def test_a_draw_that_no_model_could_say_is_none() -> None:
    old = Value("Ann Lee", "person", "PERSON")
    assert Pool(PEOPLE).draw(old, "", ["Ann Lee"], [], seed=0, identity="q", fits=lambda text: len(text) < 3) == "Ed"
    assert Pool(PEOPLE).draw(old, "", ["Ann Lee"], [], seed=0, identity="q", fits=lambda text: False) is None
    phrase = Value("red paint", "phrase")
    assert Pool([value_of("oil", ""), phrase]).draw(phrase, "", ["red paint"], [], seed=0, identity="q") is None


def test_a_number_is_no_part_of_another_answer() -> None:
    pool = Pool([Value("2", "number", "CARDINAL"), Value("7", "number", "CARDINAL")])
    old = Value("5", "number", "CARDINAL")
    assert {pool.draw(old, "", ["5", "2 or 5"], [], seed=s, identity="q") for s in range(10)} == {"7"}


def test_a_year_is_of_its_time_where_there_is_one() -> None:
    pool = Pool([Value(year, "year", "DATE", "", "CD") for year in ("1066", "1914", "1950", "2019")])
    old = Value("1939", "year", "DATE", "", "CD")
    assert {pool.draw(old, "", ["1939"], [], seed=s, identity="q") for s in range(20)} == {"1914", "1950"}
    assert pool.draw(old, "", ["1939"], ["1914 to 1950"], seed=0, identity="q") in ("1066", "2019")


def test_a_phrase_gives_way_to_one_that_is_built_alike() -> None:
    pool = Pool(
        [Value("goals", "phrase", tags="NNS"), Value("lost", "phrase", tags="VBN"), Value("fog", "phrase", tags="NN")]
    )
    old = Value("penalties", "phrase", tags="NNS")
    assert {pool.draw(old, "", ["penalties"], [], seed=s, identity="q") for s in range(10)} == {"goals"}
    assert pool.draw(Value("granular", "phrase", tags="JJ"), "", ["granular"], [], seed=0, identity="q") is None


def test_a_number_has_the_digits_of_the_old_one() -> None:
    numbers = [Value(n, "number", "CARDINAL", "", "CD") for n in ("7", "41", "5,300", "five")]
    old = Value("12", "number", "CARDINAL", "", "CD")
    assert {Pool(numbers).draw(old, "", ["12"], [], seed=s, identity="q") for s in range(10)} == {"41"}
    assert {Pool(numbers).draw(old, "", ["12"], ["41"], seed=s, identity="q") for s in range(20)} == {"7", "5,300"}

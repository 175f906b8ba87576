"""Sentences that were parsed beforehand become questions; whatever the parse, the answer is the text's own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realm.knowledge.asking.clauses import Tree, clause_of
from realm.knowledge.asking.passages import Limits, Made, ask_passage, in_place
from realm.knowledge.asking.phrases import noun_phrases
from realm.knowledge.asking.wording import Topic, fault
from realm.knowledge.text.parsing import Parser, Sentence, Word, language_of, load_parser
from realm.knowledge.text.taggers import find_tagger

Spans = Sequence[tuple[str, str]]
LOOSE = Limits(min_content=2)

PAINTED = (
    "Pablo|Pablo|NNP|compound|1 Picasso|Picasso|NNP|nsubj|2 painted|paint|VBD|ROOT|2 Guernica|Guernica|NNP|dobj|2 "
    "in|in|IN|prep|2 Paris|Paris|NNP|pobj|4 in|in|IN|prep|2 1937|1937|CD|pobj|6 .|.|.|punct|2"
)
PASSIVE = (
    "Guernica|Guernica|NNP|nsubjpass|2 was|be|VBD|auxpass|2 painted|paint|VBN|ROOT|2 by|by|IN|agent|2 "
    "Pablo|Pablo|NNP|compound|5 Picasso|Picasso|NNP|pobj|3 in|in|IN|prep|5 Paris|Paris|NNP|pobj|6 in|in|IN|prep|2 "
    "1937|1937|CD|pobj|8 .|.|.|punct|2"
)
BORN = (
    "She|she|PRP|nsubjpass|2 was|be|VBD|auxpass|2 born|bear|VBN|ROOT|2 in|in|IN|prep|2 Warsaw|Warsaw|NNP|pobj|3 "
    "in|in|IN|prep|2 1867|1867|CD|pobj|5 and|and|CC|cc|2 moved|move|VBD|conj|2 to|to|IN|prep|8 Paris|Paris|NNP|pobj|9 "
    "in|in|IN|prep|8 1891|1891|CD|pobj|11 .|.|.|punct|2"
)
MOZILLA = (
    "The|the|DT|det|2 Mozilla|Mozilla|NNP|compound|2 Foundation|Foundation|NNP|nsubj|10 ,|,|,|punct|2 "
    "which|which|WDT|nsubjpass|6 was|be|VBD|auxpass|6 founded|found|VBN|relcl|2 in|in|IN|prep|6 2003|2003|CD|pobj|7 "
    ",|,|,|punct|2 employs|employ|VBZ|ROOT|10 about|about|RB|advmod|12 750|750|CD|nummod|13 people|people|NNS|dobj|10 "
    ".|.|.|punct|10"
)
CURIE = (
    "Marie|Marie|NNP|compound|1 Curie|Curie|NNP|nsubj|8 ,|,|,|punct|1 the|the|DT|det|4 "
    "discoverer|discoverer|NN|appos|1 of|of|IN|prep|4 radium|radium|NN|pobj|5 ,|,|,|punct|1 died|die|VBD|ROOT|8 "
    "in|in|IN|prep|8 France|France|NNP|pobj|9 "
    "on|on|IN|prep|8 4|4|CD|nummod|13 July|July|NNP|pobj|11 1934|1934|CD|nummod|13 .|.|.|punct|8"
)
LOUVRE = (
    "The|the|DT|det|1 Louvre|Louvre|NNP|nsubj|2 began|begin|VBD|ROOT|2 to|to|TO|aux|4 buy|buy|VB|xcomp|2 "
    "Greek|Greek|NNP|amod|6 vases|vase|NNS|dobj|4 in|in|IN|prep|4 1802|1802|CD|pobj|7 .|.|.|punct|2"
)
NEWSPAPER = (
    "The|the|DT|det|2 French|french|JJ|amod|2 newspaper|newspaper|NN|nsubjpass|6 Le|Le|NNP|compound|4 "
    "Monde|Monde|NNP|appos|2 was|be|VBD|auxpass|6 sold|sell|VBN|ROOT|6 to|to|IN|prep|6 Xavier|Xavier|NNP|compound|9 "
    "Niel|Niel|NNP|pobj|7 for|for|IN|prep|6 $|$|$|quantmod|13 110|110|CD|compound|13 million|million|CD|pobj|10 "
    ".|.|.|punct|6"
)
QUAKE = (
    "The|the|DT|det|1 earthquake|earthquake|NN|nsubj|2 killed|kill|VBD|ROOT|2 69,197|69,197|CD|nummod|4 "
    "people|people|NNS|dobj|2 at|at|IN|prep|2 night|night|NN|pobj|5 .|.|.|punct|2"
)
SAID = (
    "He|he|PRP|nsubj|1 said|say|VBD|ROOT|1 that|that|IN|mark|5 Ada|Ada|NNP|compound|4 Lovelace|Lovelace|NNP|nsubj|5 "
    "wrote|write|VBD|ccomp|1 the|the|DT|det|8 first|first|JJ|amod|8 program|program|NN|dobj|5 in|in|IN|prep|8 "
    "London|London|NNP|pobj|9 .|.|.|punct|1"
)
CENSUS = (
    "According|accord|VBG|prep|11 to|to|IN|prep|0 the|the|DT|det|3 census|census|NN|pobj|1 of|of|IN|prep|3 "
    "2011|2011|CD|pobj|4 ,|,|,|punct|11 the|the|DT|det|8 capital|capital|NN|nsubj|11 of|of|IN|prep|8 "
    "France|France|NNP|pobj|9 attracted|attract|VBD|ROOT|11 20|20|CD|compound|13 million|million|CD|nummod|14 "
    "tourists|tourist|NNS|dobj|11 .|.|.|punct|11"
)
TWO = (
    "James|James|NNP|compound|1 Joyce|Joyce|NNP|nsubj|5 and|and|CC|cc|1 Samuel|Samuel|NNP|compound|4 "
    "Beckett|Beckett|NNP|conj|1 left|leave|VBD|ROOT|5 Dublin|Dublin|NNP|dobj|5 .|.|.|punct|5"
)
NOT = (
    "In|in|IN|prep|5 1755|1755|CD|pobj|0 Lisbon|Lisbon|NNP|nsubj|5 did|do|VBD|aux|5 not|not|RB|neg|5 "
    "fall|fall|VB|ROOT|5 into|into|IN|prep|5 the|the|DT|det|8 sea|sea|NN|pobj|6 .|.|.|punct|5"
)
CONDENSER = (
    "The|the|DT|det|2 separate|separate|JJ|amod|2 condenser|condenser|NN|nsubj|3 improved|improve|VBD|ROOT|3 "
    "the|the|DT|det|6 steam|steam|NN|compound|6 engine|engine|NN|dobj|3 of|of|IN|prep|6 Newcomen|Newcomen|NNP|pobj|7 "
    ".|.|.|punct|3"
)


def parsed(rows: str, spans: Spans = ()) -> tuple[str, Sentence]:
    """A text and its sentence from word|lemma|tag|relation|head, with (name, label) of its salient spans."""
    text, words = "", []
    for row in rows.split(" "):
        word, lemma, tag, relation, head = row.split("|")
        text += "" if not text or tag in (".", ",", "POS") or text.endswith("$") else " "
        words.append(Word(word, len(text), len(text) + len(word), lemma, tag, relation, int(head)))
        text += word
    found = sorted((text.index(name), text.index(name) + len(name), label) for name, label in spans)
    return text, Sentence(0, len(text), tuple(words), tuple(found))


def made(rows: str, title: str, *spans: tuple[str, str], phrases: bool = False) -> dict[str, str]:
    """Questions and answers."""
    text, sentence = parsed(rows, spans)
    found = list(ask_passage(title, text, [sentence], LOOSE, phrases=phrases))
    assert all(text[each.start : each.end] == each.answer for each in found)
    return {each.question: each.answer for each in found}


def test_subject_object_place_and_date_are_asked_for_in_their_ways() -> None:
    assert made(PAINTED, "Guernica", ("Pablo Picasso", "PERSON"), ("Paris", "GPE"), ("1937", "DATE")) == {
        "Who painted Guernica in Paris in 1937?": "Pablo Picasso",
        "Where did Pablo Picasso paint Guernica in 1937?": "Paris",
        "When did Pablo Picasso paint Guernica in Paris?": "1937",
    }


def test_a_place_that_the_parser_gave_to_the_painter_is_still_where() -> None:
    found = made(PASSIVE, "Guernica", ("Pablo Picasso", "PERSON"), ("Paris", "GPE"), ("1937", "DATE"))
    assert found["Where was Guernica painted by Pablo Picasso in 1937?"] == "Paris"
    assert found["Who was Guernica painted by in 1937?"] == "Pablo Picasso"


def test_a_pronoun_gives_way_to_the_title_and_a_second_verb_takes_the_subject_of_the_first() -> None:
    spans = (("Warsaw", "GPE"), ("1867", "DATE"), ("Paris", "GPE"), ("1891", "DATE"))
    text, first = parsed(BORN, spans)
    curie = "Marie Curie won."
    name = (len(text) + 1, len(text) + 12, "PERSON")
    second = Sentence(name[0], len(text) + 1 + len(curie), (), (name,))
    found = [each.question for each in ask_passage("Marie Curie", f"{text} {curie}", [first, second], LOOSE)]
    assert found[:4] == [
        "Where was Marie Curie born in 1867?",
        "When was Marie Curie born in Warsaw?",
        "Where did Marie Curie move to in 1891?",
        "When did Marie Curie move to Paris?",
    ]


def test_she_is_not_a_title_that_is_no_person() -> None:
    assert made(BORN, "Warsaw Ghetto", ("1867", "DATE")) == {}


def test_the_clause_that_holds_the_answer_is_asked_about_alone() -> None:
    found = made(MOZILLA, "Mozilla", ("Mozilla Foundation", "ORG"), ("2003", "DATE"), ("about 750", "CARDINAL"))
    assert found["When was the Mozilla Foundation founded?"] == "2003"
    assert found["How many people does the Mozilla Foundation employ?"] == "750"
    assert found["What organization was founded in 2003?"] == "Mozilla Foundation"
    said = made(SAID, "Charles Babbage", ("Ada Lovelace", "PERSON"), ("London", "GPE"))
    assert said == {
        "Who wrote the first program in London?": "Ada Lovelace",
        "Where did Ada Lovelace write the first program?": "London",
    }


def test_an_apposition_says_who_somebody_is() -> None:
    found = made(CURIE, "Radium", ("Marie Curie", "PERSON"), ("France", "GPE"), ("4 July 1934", "DATE"))
    assert found["Who was the discoverer of radium?"] == "Marie Curie"
    assert found["Who died in France on 4 July 1934?"] == "Marie Curie"
    assert found["When did Marie Curie die in France?"] == "4 July 1934"


def test_an_infinitive_is_asked_about_through_its_verb() -> None:
    assert made(LOUVRE, "Louvre", ("Greek", "NORP"), ("1802", "DATE")) == {
        "When did the Louvre begin to buy Greek vases?": "1802"
    }


def test_the_noun_beside_a_name_goes_into_the_question() -> None:
    found = made(NEWSPAPER, "", ("Le Monde", "ORG"), ("Xavier Niel", "PERSON"), ("$110 million", "MONEY"))
    assert found == {
        "Which French newspaper was sold to Xavier Niel for $110 million?": "Le Monde",
        "Who was the French newspaper Le Monde sold to for $110 million?": "Xavier Niel",
        "For how much was the French newspaper Le Monde sold to Xavier Niel?": "$110 million",
    }


def test_the_earthquake_is_called_by_the_title() -> None:
    found = made(QUAKE, "2008 Sichuan earthquake", ("69,197", "CARDINAL"))
    assert found == {"How many people did the 2008 Sichuan earthquake kill at night?": "69,197"}


def test_what_ties_a_sentence_to_its_source_is_left_out() -> None:
    found = made(CENSUS, "Paris", ("2011", "DATE"), ("France", "GPE"), ("20 million", "CARDINAL"))
    assert found == {
        "The capital of what place attracted 20 million tourists?": "France",
        "How many tourists did the capital of France attract?": "20 million",
    }


def test_one_of_several_and_what_did_not_happen_are_not_asked_for() -> None:
    found = made(TWO, "Dublin", ("James Joyce", "PERSON"), ("Samuel Beckett", "PERSON"), ("Dublin", "GPE"))
    assert set(found.values()) == {"Dublin"}
    assert made(NOT, "Lisbon", ("1755", "DATE"), ("Lisbon", "GPE")) == {}


def test_noun_phrases_are_asked_for_where_they_are_wanted() -> None:
    spans = (("Newcomen", "PERSON"),)
    found = made(CONDENSER, "Newcomen", *spans, phrases=True)
    assert found == {"What improved the steam engine of Newcomen?": "separate condenser"}
    assert made(CONDENSER, "Newcomen", *spans) == {}
    text, sentence = parsed(CONDENSER, spans)
    assert "What did the separate condenser improve?" not in found  # says too little
    assert [text[a:b] for a, b, _ in noun_phrases(sentence)] == ["separate condenser", "steam engine"]


def test_a_span_that_cuts_through_a_word_is_asked_in_no_way() -> None:
    text, sentence = parsed(PAINTED)
    cut = Sentence(0, len(text), sentence.words, ((0, 3, "PERSON"),))
    assert list(ask_passage("Guernica", text, [cut], LOOSE)) == []


def test_a_shared_auxiliary_and_no_subject() -> None:
    tree = Tree(parsed(BORN)[1].words)
    clause = clause_of(tree, 8)
    assert clause is not None and clause.subject == 0 and clause.auxiliaries == ()
    assert clause_of(Tree(parsed("Run|run|VB|ROOT|0 home|home|RB|advmod|0 .|.|.|punct|0")[1].words), 0) is None


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Who painted Guernica in 1937?", "Picasso", None),
        ("Who painted Guernica?", "Picasso", "short"),
        ("Who painted Picasso in the town of Paris?", "Pablo Picasso", "tells"),
        ("Who was the man with the horse there?", "Picasso", "vague"),
        ("Who painted Guernica (in 1937?", "Picasso", "broken"),
        ("Who painted Guernica " + "and Paris " * 12 + "in 1937?", "Picasso", "long"),
        ("Who painted Guernica in 1937?", "P", "no answer"),
    ],
)
def test_what_is_wrong_with_a_question(question: str, answer: str, reason: str | None) -> None:
    assert fault(question, answer, "Cubism", min_words=5, max_words=22, min_content=2) == reason


def test_a_topic_is_a_person_when_the_text_calls_one_so() -> None:
    assert Topic.of("Marie Curie", "Curie won.", ["Curie"]).person
    assert not Topic.of("Lisbon", "Vasco da Gama left Lisbon.", ["Vasco da Gama"]).person
    assert Topic.of("Beatles (band)", "In 1960 the Beatles met.", []).name == "the Beatles"


# ---------------------------------------------------------------- without a parse


@pytest.mark.parametrize(
    ("text", "name", "label", "question"),
    [
        ("기니는 1958년에 프랑스에서 독립했다.", "1958년", "DATE", "기니는 언제 프랑스에서 독립했다?"),
        ("太宰治は1948年に東京で亡くなった。", "1948年", "DATE", "太宰治はいつ東京で亡くなった？"),
        ("Guernica wurde von Picasso gemalt.", "Picasso", "PER", "Guernica wurde von who gemalt?"),
    ],
)  # fmt: skip
def test_the_wh_word_stands_in_the_answers_place(text: str, name: str, label: str, question: str) -> None:
    start = text.index(name)
    span = (start, start + len(name), label)
    assert in_place(text, Sentence(0, len(text), (), (span,)), span) == question


def test_what_stands_in_brackets_is_not_asked_for_in_place() -> None:
    text = "다자이 오사무(1909년 ~ 1948년)는 일본의 소설가이다."
    span = (text.index("1909"), text.index("1909") + 5, "DATE")
    assert in_place(text, Sentence(0, len(text), (), (span,)), span) is None


def test_the_script_tells_the_language() -> None:
    names = ("한국어로 쓴 문장", "日本語の文", "中文的句子", "a sentence")
    assert [language_of(text) for text in names] == ["ko", "ja", "zh", ""]


def test_the_pattern_parser_asks_korean_for_its_dates() -> None:
    parser = load_parser("pattern")
    text = "기니는 1958년에 프랑스로부터 독립한 서아프리카의 나라이다. 수도는 코나크리이다."
    (sentences,) = parser.parse([text])
    assert not parser.has_relations
    found = list(ask_passage("기니", text, sentences, Limits()))
    assert [(each.answer, each.rule) for each in found] == [("1958년", "in place")]
    assert found[0].question == "기니는 언제 프랑스로부터 독립한 서아프리카의 나라이다?"


# ---------------------------------------------------------------- whatever a parser says

TAGS = ("NN", "NNS", "NNP", "VBD", "VBZ", "VBN", "VB", "MD", "IN", "DT", "PRP", "PRP$", "CD", "JJ", "WDT", ",", "TO")
RELATIONS = re.findall(
    r"\w+",
    "nsubj nsubjpass dobj pobj prep agent attr aux auxpass neg npadvmod relcl acl advcl ccomp xcomp conj cc mark appos "
    "poss nummod compound amod det advmod punct expl dative oprd acomp",
)
WORDS = ("it", "he", "the", "Rome", "1937", "was", "painted", "of", "in", "by", "to", "cities", "that", "his")


@st.composite
def sentences(draw: st.DrawFn) -> tuple[str, Sentence]:
    """Any tree with any labels."""
    count = draw(st.integers(1, 9))
    root = draw(st.integers(0, count - 1))
    rows = []
    for place in range(count):
        # Heads point towards the root, so that there is no circle.
        head = (
            place
            if place == root
            else draw(st.integers(place + 1, root) if place < root else st.integers(root, place - 1))
        )
        word = draw(st.sampled_from(WORDS))
        relation = "ROOT" if place == root else draw(st.sampled_from(RELATIONS))
        rows.append(f"{word}|{word}|{draw(st.sampled_from(TAGS))}|{relation}|{head}")
    text, sentence = parsed(" ".join(rows))
    first = draw(st.integers(0, count - 1))
    last = draw(st.integers(first, count - 1))
    label = draw(st.sampled_from(("PERSON", "GPE", "DATE", "CARDINAL", "ORG", "MONEY", "NORP")))
    span = (sentence.words[first].start, sentence.words[last].end, label)
    return text, Sentence(0, len(text), sentence.words, (span,))


@given(sentences(), st.sampled_from(["Rome", "Marie Curie", "", "the it 1937"]))
def test_no_parse_breaks_it_and_no_question_tells_its_answer(drawn: tuple[str, Sentence], title: str) -> None:
    text, sentence = drawn
    counts: Counter[str] = Counter()
    for each in ask_passage(title, text, [sentence], Limits(min_words=2, min_content=0), counts, phrases=True):
        assert isinstance(each, Made) and text[each.start : each.end] == each.answer
        assert each.question.endswith("?") and each.question[0] == each.question[0].upper()
        content = {word for word in each.answer.lower().split() if word in ("rome", "1937", "painted", "cities")}
        assert not content & set(each.question.lower().rstrip("?").split())


# ---------------------------------------------------------------- with the real pipeline


@pytest.fixture(scope="module")
def parser() -> Parser:
    pytest.importorskip("spacy")
    try:
        find_tagger("en_core_web_sm")
    except Exception:
        pytest.skip("the English small pipeline is not installed")
    return load_parser("en_core_web_sm")


def test_the_english_pipeline_parses_for_the_rules(parser: Parser) -> None:
    texts = ["Marie Curie was born in Warsaw in 1867. She moved to Paris in 1891.", ""]
    first, second = parser.parse(texts)
    assert parser.has_relations and second == []
    assert all(texts[0][w.start : w.end] == w.text for sentence in first for w in sentence.words)
    found = {each.question: each.answer for each in ask_passage("Marie Curie", texts[0], first, LOOSE)}
    assert found["When was Marie Curie born in Warsaw?"] == "1867"
    assert found["Where did Marie Curie move to in 1891?"] == "Paris"


def test_a_heading_is_no_part_of_the_sentence_after_it(parser: Parser) -> None:
    text = "Edwin Carrow\n\nEdwin Carrow was born in Paris in 1867.\n \nLife\n\nHe painted."
    (found,) = parser.parse([text])
    assert [text[each.start : each.end].strip() for each in found] == [
        "Edwin Carrow", "Edwin Carrow was born in Paris in 1867.", "Life", "He painted."
    ]  # fmt: skip

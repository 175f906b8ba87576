"""The clause that holds an answer: its verb, its subject and what may be left out of a question.

Over the relations of spaCy's English parsers (ClearNLP's scheme). Places are positions in the sentence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from realm.knowledge.text.parsing import Word, words_of

SUBJECTS = frozenset({"nsubj", "nsubjpass", "expl"})
AUXILIARIES = frozenset({"aux", "auxpass"})
ASIDE = frozenset({"parataxis", "intj", "meta", "dep", "preconj", "cc"})
"""Relations whose words say nothing that a question of the clause would need."""
MAX_ADVERBIAL = 8
"""Words of the longest adverbial clause that is kept."""
LINKING = words_of(
    "accordingly additionally also besides consequently eventually finally first firstly furthermore hence however "
    "indeed instead likewise meanwhile moreover nevertheless nonetheless now otherwise second secondly similarly so "
    "still subsequently then therefore though thus too yet"
)
"""Adverbs that tie a sentence to the one before it."""


class Tree:
    """A parsed sentence."""

    def __init__(self, words: Sequence[Word]) -> None:
        self.words = words
        self.children: list[list[int]] = [[] for _ in words]
        for place, word in enumerate(words):
            if word.head != place:
                self.children[word.head].append(place)

    def relation(self, place: int) -> str:
        return self.words[place].relation

    def head(self, place: int) -> int:
        return self.words[place].head

    def is_root(self, place: int) -> bool:
        return self.words[place].head == place

    def is_verb(self, place: int) -> bool:
        return self.words[place].tag[:2] in ("VB", "MD")

    def is_noun(self, place: int) -> bool:
        return self.words[place].tag[:2] in ("NN", "PR", "CD")

    def subtree(self, place: int) -> list[int]:
        """The words below and at `place`, in order."""
        found, waiting = [], [place]
        while waiting:
            found.append(waiting.pop())
            waiting += self.children[found[-1]]
        return sorted(found)

    def find(self, place: int, *relations: str) -> list[int]:
        """The children of `place` with one of these relations."""
        return [child for child in self.children[place] if self.relation(child) in relations]

    def phrase(self, place: int, *, but: Sequence[int] = ()) -> list[int]:
        """`subtree` without asides: what stands behind a comma or in brackets, and what is in `but`, with all below."""
        return sorted(self._phrase(place, frozenset(but)))

    def _phrase(self, place: int, but: frozenset[int]) -> Iterator[int]:
        yield place
        for child in self.children[place]:
            if child not in but and not self._is_aside(child):
                yield from self._phrase(child, but)

    def _is_aside(self, place: int) -> bool:
        relation = self.relation(place)
        if relation in ASIDE and not (relation == "cc" and not self.is_verb(self.head(place))):
            return True
        if relation == "punct":
            return self.words[place].tag not in ("HYPH", "POS", ",", "``", "''")
        first = self.subtree(place)[0]
        before = self.words[first - 1].text if first else ""
        if relation in ("relcl", "acl", "appos", "advcl", "prep", "amod") and before in (",", "(", "[", "–", "—", ";"):
            return relation != "prep" or before != ","
        return before in ("(", "[")


@dataclass(frozen=True)
class Clause:
    """What a question is made from."""

    verb: int
    subject: int
    """Head of the subject; a word outside the clause where a verb shares it with another."""
    subject_words: tuple[int, ...]
    auxiliaries: tuple[int, ...]
    """Before the verb, in order; of the verb that this one is joined to, where it shares them."""
    rest: tuple[int, ...]
    """What is kept beside subject, auxiliaries and verb, in order."""
    auxiliary: str = ""
    """Where the text has none: "was" for a participle behind its noun."""
    joined: tuple[int, ...] = field(default=())
    """Verbs on the way down to the answer: infinitives that depend on `verb`."""


def clause_of(tree: Tree, verb: int) -> Clause | None:
    """The clause of a verb, or None where it has no subject that a question could name.

    An infinitive is taken with the verb it depends on. A verb that is joined to another shares its subject; one in a
    relative clause has the noun it describes; a participle behind a noun is taken as a passive of the past.
    """
    joined: list[int] = []
    while tree.relation(verb) == "xcomp" and tree.is_verb(tree.head(verb)) and not tree.find(verb, *SUBJECTS):
        joined.append(verb)
        verb = tree.head(verb)
    if not tree.is_verb(verb) or tree.find(verb, "neg", "csubj", "csubjpass"):
        return None
    auxiliaries = tree.find(verb, *AUXILIARIES)
    if any(tree.words[place].tag == "TO" for place in auxiliaries):
        return None
    subjects, source, made = tree.find(verb, *SUBJECTS), verb, ""
    while not subjects and tree.relation(source) == "conj" and tree.is_verb(tree.head(source)):
        source = tree.head(source)
        subjects = tree.find(source, *SUBJECTS)
        if not auxiliaries and tree.words[verb].tag in ("VBN", "VB", "VBG"):
            auxiliaries = tree.find(source, *AUXILIARIES)
    gap: set[int] = set()
    if not subjects and tree.relation(source) == "acl" and tree.words[verb].tag == "VBN" and not auxiliaries:
        subject, words, made = *_described(tree, source), "was"
    elif subjects and tree.relation(source) == "relcl" and tree.words[subjects[0]].tag in ("WDT", "WP"):
        gap = {subjects[0]}
        subject, words = _described(tree, source)
    elif subjects and subjects[0] < verb and not _relative(tree, source):
        subject = subjects[0]
        words = tree.phrase(subject)
    else:
        return None
    if any(tree.relation(place) == "neg" for place in tree.children[verb]):
        return None
    leave = {*auxiliaries, *subjects, *gap, *_left_out(tree, verb, subject)}
    rest = [place for place in tree.phrase(verb, but=tuple(leave)) if place != verb]
    return Clause(verb, subject, tuple(_bare(tree, words)), tuple(auxiliaries), tuple(rest), made, tuple(joined))


def _bare(tree: Tree, places: list[int]) -> list[int]:
    """Without the commas at both ends."""
    while places and tree.words[places[-1]].tag == ",":
        places = places[:-1]
    while places and tree.words[places[0]].tag == ",":
        places = places[1:]
    return places


def _described(tree: Tree, verb: int) -> tuple[int, list[int]]:
    """The noun that a relative clause or a participle describes, with its words but the clause."""
    noun = tree.head(verb)
    return noun, tree.phrase(noun, but=tree.find(noun, "relcl", "acl", "appos", "conj", "cc"))


def _relative(tree: Tree, verb: int) -> bool:
    """Whether the clause has a relative word that is not its subject: what it stands for is missing from the clause."""
    return tree.relation(verb) == "relcl" or any(
        tree.words[place].tag in ("WDT", "WP", "WP$", "WRB") for place in tree.children[verb]
    )


def _left_out(tree: Tree, verb: int, subject: int) -> Iterator[int]:
    for child in tree.children[verb]:
        relation, words = tree.relation(child), tree.subtree(child)
        if relation in ("conj", "cc", "mark") or (relation == "advmod" and tree.words[child].text.lower() in LINKING):
            yield child
        elif relation == "advcl":
            closed = words[0] > 0 and tree.words[words[0] - 1].text == ","
            if closed or words[-1] < verb or len(words) > MAX_ADVERBIAL:
                yield child
        elif relation == "ccomp" and words[-1] < verb:
            yield child
        elif relation == "prep":
            said = " ".join(tree.words[place].text for place in words).lower()
            aside = words[-1] < subject and said.startswith(("according ", "like "))
            if aside or said in ("for example", "for instance"):
                yield child

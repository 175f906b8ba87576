"""A sentence with an answer in it becomes a question: the answer's phrase gives way to a wh-word and moves in front.

    Guernica was painted by [Picasso] in 1937.      ->  Who was Guernica painted by in 1937?
    In [1937] he painted Guernica, a mural.         ->  In what year did Pablo Picasso paint Guernica?

After Heilman & Smith 2010 ("Good question! Statistical ranking for question generation", section 2), with the
types of Lewis et al. 2019. Only the clause that holds the answer is asked about. What can't be asked well gives
nothing: a few good questions from a sentence here and there teach more than many bad ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from realm.knowledge.asking.clauses import Clause, Tree, clause_of
from realm.knowledge.asking.phrases import PHRASE
from realm.knowledge.asking.wh_words import NUMBERS, PLACES, adverbial, subject_word
from realm.knowledge.text.parsing import Sentence
from realm.knowledge.text.taggers import Span

BE = frozenset({"be", "'s", "'re", "'m"})
CORES = frozenset({"nsubj", "nsubjpass", "dobj", "attr", "oprd"})
"""Relations of subjects and objects to their verb."""
DO = {"VBD": "did", "VBZ": "does", "VBP": "do"}


@dataclass(frozen=True)
class Draft:
    """A question before it is rendered: words of the sentence by position, and words of ours."""

    pieces: tuple[int | str, ...]
    answer: frozenset[int]
    """Positions of the answer's words."""
    rule: str
    subject: int = -1
    """Head of the clause's subject, where that is in the question."""


def drafts(sentence: Sentence, span: Span) -> Iterator[Draft]:
    """The questions that a span of a parsed sentence answers, best first.

    span: (start, end, label) in characters of the text; one that cuts through a word is asked in no way.
    """
    inside = _words_of(sentence, span)
    if not inside:
        return
    tree = Tree(sentence.words)
    heads = [i for i in inside if tree.head(i) not in inside or tree.is_root(i)]
    if len(heads) != 1:
        return
    target = _Target(tree, frozenset(inside), heads[0], span[2], _answer_text(sentence, inside))
    if target.listed or target.hyphenated:
        return
    found = target.by_clause()
    if found is not None:
        yield found
    yield from target.by_description()


def _words_of(sentence: Sentence, span: Span) -> list[int]:
    inside = [i for i, w in enumerate(sentence.words) if span[0] <= w.start and w.end <= span[1] and w.text.strip()]
    if not inside:
        return []
    first, last = sentence.words[inside[0]], sentence.words[inside[-1]]
    return inside if (first.start, last.end) == (span[0], span[1]) else []


def _answer_text(sentence: Sentence, inside: Sequence[int]) -> str:
    words = sentence.words[inside[0] : inside[-1] + 1]
    start = words[0].start
    text = [" "] * (words[-1].end - start)
    for word in words:
        text[word.start - start : word.end - start] = word.text
    return "".join(text)


class _Target:
    """An answer in its sentence."""

    def __init__(self, tree: Tree, inside: frozenset[int], head: int, label: str, text: str) -> None:
        self.tree, self.inside, self.head, self.label, self.text = tree, inside, head, label, text
        self.even = len(text) % 2 == 0
        """Of two ways to ask, which: any rule that the same text always answers alike."""

    @property
    def listed(self) -> bool:
        """Whether it is one of several, any of which would be right."""
        tree = self.tree
        return tree.relation(self.head) == "conj" or any(
            child not in self.inside for child in tree.find(self.head, "conj")
        )

    @property
    def hyphenated(self) -> bool:
        """Whether it is part of a longer word: "four" in "four-legged"."""
        words, first, last = self.tree.words, min(self.inside), max(self.inside)
        beside = [*words[max(0, first - 1) : first], *words[last + 1 : last + 2]]
        return any(word.tag == "HYPH" or word.text in ("-", "–") for word in beside)

    # ------------------------------------------------------------ by clause

    def by_clause(self) -> Draft | None:
        tree, noun, wh = self.tree, self.head, None
        relation = tree.relation(self.head)
        if relation == "poss":
            noun, wh = tree.head(self.head), self._whose()
            if wh is None:
                return None
        elif self.label in NUMBERS and relation == "nummod":
            noun, wh = tree.head(self.head), self._how_many()
            if wh is None:
                return None
        elif relation in ("compound", "amod", "nmod", "nummod", "quantmod", "advmod", "punct", "meta", "dep"):
            return None
        elif relation == "appos":
            noun = tree.head(self.head)
            if not self._kind():
                return None
        phrase = wh if wh is not None else self._noun_phrase()
        place = self._climb(noun)
        if place is None:
            return None
        node, preposition, verb = place
        clause = clause_of(tree, verb)
        if clause is None:
            return None
        if node == clause.subject or node in clause.subject_words:
            return self._ask_subject(clause, node, noun, phrase)
        if preposition is not None:
            return self._ask_after(clause, preposition, noun, wh)
        return self._ask_object(clause, node, noun, phrase)

    def _kind(self) -> str:
        """The noun beside a name that says what it is: "French painter" in "the French painter Manet"."""
        words = self.tree.words
        first = min(self.inside)
        before: list[int] = []
        while first > 0 and words[first - 1].tag[:2] in ("NN", "JJ") and self._near(first - 1):
            first -= 1
            before.insert(0, first)
        if not before or words[before[-1]].tag != "NN" or self.label in ("DATE", PHRASE):
            return ""
        kept = [i for i in before if words[i].text.lower() not in ("former", "late", "own", "new", "then")]
        return " ".join(words[i].text for i in kept)

    def _near(self, place: int) -> bool:
        """Whether a word belongs to the answer's noun phrase."""
        above = self.tree.head(self.head)
        return self.tree.head(place) in {*self.inside, above} or place == above

    def _noun_phrase(self) -> list[int | str] | None:
        word = subject_word(self.label, self._kind(), self.even)
        return [word] if word else None

    def _whose(self) -> list[int | str] | None:
        tree = self.tree
        owned = tree.head(self.head)
        rest = [i for i in tree.phrase(owned, but=[self.head]) if i > self.head]
        if self.label == "PERSON":
            return ["whose", *rest]
        word = subject_word(self.label)
        return [f"{word}'s", *rest] if word and self.label in ("ORG", "GPE") else None

    def _how_many(self) -> list[int | str] | None:
        tree = self.tree
        counted = tree.head(self.head)
        if tree.words[counted].tag != "NNS":
            return None
        drop = [self.head, *tree.find(counted, "det", "predet", "poss", "relcl", "acl", "appos", "cc", "conj")]
        return ["how many", *(i for i in tree.phrase(counted, but=drop) if i > self.head)]

    def _climb(self, noun: int) -> tuple[int, int | None, int] | None:
        """(what moves in front or is the subject, its preposition, the verb), from the answer's noun phrase upwards.

        The preposition is the answer's own, -1 for a date without one, None for a subject or an object.
        """
        tree, relation, above = self.tree, self.tree.relation(noun), self.tree.head(noun)
        if tree.is_root(noun):
            return None
        if relation in CORES and tree.is_verb(above):
            return noun, None, above
        if relation == "npadvmod" and tree.is_verb(above) and self.label in ("DATE", "TIME"):
            return noun, -1, above
        if relation != "pobj" or tree.relation(above) not in ("prep", "agent", "dative"):
            return None
        over = tree.head(above)
        if tree.is_verb(over):
            return above, above, over
        if tree.relation(over) == "acomp" and tree.is_verb(tree.head(over)):
            return above, above, tree.head(over)
        if not tree.is_noun(over):
            return None
        own = tree.words[above].text.lower() != "of" and self._loose(over)
        verb = self._verb_above(over) if own else None
        if verb is not None:
            return above, above, verb
        if tree.relation(over) in CORES and tree.is_verb(tree.head(over)):
            return over, None, tree.head(over)
        return None

    def _loose(self, noun: int) -> bool:
        """Whether a date or a place behind a noun may belong to the verb: parsers seldom know, and a question about
        either is right. "A centre in Armenia" is asked for by "where"; in a subject the place is part of the name."""
        if self.label in ("DATE", "TIME"):
            return True
        return self.label in PLACES and self.tree.relation(noun) not in ("nsubj", "nsubjpass")

    def _verb_above(self, noun: int) -> int | None:
        """The verb that a noun, or the noun it depends on by a preposition, belongs to."""
        tree = self.tree
        for _ in range(2):
            above = tree.head(noun)
            if tree.relation(noun) in CORES and tree.is_verb(above):
                return above
            if tree.relation(noun) != "pobj" or tree.is_root(above):
                return None
            noun = tree.head(above)
            if tree.is_verb(noun):
                return noun
        return None

    # ------------------------------------------------------------ the shapes of a question

    def _ask_subject(self, clause: Clause, node: int, noun: int, phrase: list[int | str] | None) -> Draft | None:
        tree = self.tree
        if phrase is None:
            return None
        front = phrase if node == noun else self._replaced(node, noun, phrase)
        if front is None or tree.relation(clause.subject) == "expl" or self._plural(clause, node == noun):
            return None
        if not (clause.auxiliaries or clause.auxiliary or tree.words[clause.verb].tag in ("VBD", "VBZ", "VBP")):
            return None  # no finite verb: a heading, or a parse gone wrong
        helper = [clause.auxiliary] if clause.auxiliary else []
        return self._draft([*front, *helper, *clause.auxiliaries, *self._predicate(clause)], "subject")

    def _plural(self, clause: Clause, whole: bool) -> bool:
        """Whether the verb says that the answer is not one person or place: then its label is wrong."""
        verbs = [*clause.auxiliaries, clause.verb]
        many = any(self.tree.words[i].tag == "VBP" or self.tree.words[i].text.lower() == "were" for i in verbs[:1])
        return whole and many and self.label in ("PERSON", "GPE", "LOC", "FAC")

    def _ask_object(self, clause: Clause, node: int, noun: int, phrase: list[int | str] | None) -> Draft | None:
        tree = self.tree
        if phrase is None or node != noun:  # "the capital of what country did he visit" is no question to learn from
            return None
        return self._inverted(clause, phrase, set(tree.subtree(node)), "object")

    def _ask_after(self, clause: Clause, preposition: int, noun: int, wh: list[int | str] | None) -> Draft | None:
        tree = self.tree
        if preposition == -1:
            word, gone, stays = "", set(tree.subtree(noun)), None
        else:
            word, gone, stays = tree.words[preposition].text.lower(), set(tree.subtree(preposition)), preposition
        if wh is not None:
            return self._inverted(clause, [word, *wh], gone, "preposition") if stays is not None else None
        asking = adverbial(self.label, self.text, word, self._kind(), self.even)
        if asking is None:
            return None
        if asking.stranded and stays is not None:
            gone -= {stays}
        return self._inverted(clause, [asking.words], gone, "preposition")

    def _replaced(self, node: int, noun: int, phrase: list[int | str]) -> list[int | str] | None:
        """The phrase at `node` with the answer's noun phrase in it asked for in its place."""
        tree = self.tree
        gone = set(tree.subtree(noun))
        whole = tree.phrase(node)
        if self.label == PHRASE or noun not in whole or len(whole) > 12 or tree.find(node, "conj"):
            return None
        found: list[int | str] = []
        for place in whole:
            if place == min(gone):
                found += phrase
            if place not in gone:
                found.append(place)
        return found

    def _predicate(self, clause: Clause) -> list[int | str]:
        """Verb and what follows; what stands before the subject goes to the end."""
        tree = self.tree
        before = [i for i in clause.rest if i < clause.verb and i < clause.subject] if self._own(clause) else []
        after = [i for i in clause.rest if i not in before]
        return [*sorted([*after, clause.verb]), *_lead(tree, before)]

    def _own(self, clause: Clause) -> bool:
        """Whether the subject stands in the clause itself."""
        return self.tree.head(clause.subject) == clause.verb

    def _inverted(self, clause: Clause, front: list[int | str], gone: set[int], rule: str) -> Draft | None:
        """front auxiliary subject verb rest?"""
        tree = self.tree
        if gone & set(clause.subject_words):
            subject: list[int | str] = [i for i in clause.subject_words if i not in gone]
        else:
            subject = list(clause.subject_words)
        rest = self._predicate(clause)
        verb = tree.words[clause.verb]
        auxiliaries: list[int | str] = list(clause.auxiliaries)
        if clause.auxiliary:
            auxiliaries = [clause.auxiliary]
        elif not auxiliaries and verb.lemma in BE:
            auxiliaries, rest = [clause.verb], [i for i in rest if i != clause.verb]
        elif not auxiliaries:
            if verb.tag not in DO:
                return None
            auxiliaries = [DO[verb.tag]]
            rest = [verb.lemma if i == clause.verb else i for i in rest]
        rest = [i for i in rest if i not in gone]
        if not subject or not self._agree(clause.subject, auxiliaries[0]):
            return None
        return self._draft([*front, auxiliaries[0], *subject, *auxiliaries[1:], *rest], rule, clause.subject)

    def _agree(self, subject: int, auxiliary: int | str) -> bool:
        """Whether subject and auxiliary are of one number; where not, the parse took another word for the subject."""
        tree = self.tree
        said = auxiliary if isinstance(auxiliary, str) else tree.words[auxiliary].text.lower()
        if tree.find(subject, "conj"):
            return True
        tag = tree.words[subject].tag
        return not (
            (tag in ("NNS", "NNPS") and said in ("is", "was", "has", "does"))
            or (tag == "NN" and said in ("are", "were", "have", "do"))
        )

    def by_description(self) -> Iterator[Draft]:
        """What stands beside a name and says who or what it is: an apposition, or a relative clause."""
        tree, words = self.tree, self.tree.words
        word = subject_word(self.label)
        if word is None or self.label in ("DATE", "NORP", PHRASE):
            return
        who = "who" if self.label == "PERSON" else "what"
        beside = [*tree.find(self.head, "appos")]
        if tree.relation(self.head) == "appos" and not self._kind():
            beside.append(tree.head(self.head))
        for place in beside:
            phrase = tree.phrase(place, but=[self.head, *tree.find(place, "conj", "cc")])
            if place in self.inside or words[place].tag not in ("NN", "NNS") or len(phrase) < 4:
                continue
            if words[phrase[0]].text.lower() in ("the", "a", "an"):
                yield self._draft([who, "was" if self._past() else "is", *phrase], "apposition")
        for verb in tree.find(self.head, "relcl"):
            clause = clause_of(tree, verb)
            if clause is not None and clause.subject == self.head and not self.inside & set(clause.rest):
                yield self._draft([word, *clause.auxiliaries, *self._predicate(clause)], "relative clause")

    def _past(self) -> bool:
        return any(word.tag == "VBD" for word in self.tree.words)

    def _draft(self, pieces: list[int | str], rule: str, subject: int = -1) -> Draft:
        return Draft(tuple(pieces), self.inside, rule, subject)


def _lead(tree: Tree, before: list[int]) -> list[int | str]:
    """What stood before the subject, without the commas around it."""
    while before and tree.words[before[-1]].tag == ",":
        before = before[:-1]
    return list(before)

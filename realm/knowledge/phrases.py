"""Noun phrases that a question can ask for: half of what people ask about is no name, date or number."""

from __future__ import annotations

from collections.abc import Iterator

from realm.knowledge.clauses import Tree
from realm.knowledge.parsing import Sentence, words_of
from realm.knowledge.taggers import Span

PHRASE = "PHRASE"
"""Label of a noun phrase that is no name."""
PLACES_IN_CLAUSES = frozenset({"nsubj", "nsubjpass", "dobj", "pobj", "attr"})
EMPTY = words_of(
    "all amount any area aspect basis bit both case century change child couple day decade degree effect end example "
    "fact few form group hand hour kind level lot majority man many member minute month more most much nature none "
    "number one other others part people period person place point process range rate rest result role second series "
    "set side some something sort study system term thing time total type use variety version way week woman work "
    "world year"
)
"""Nouns that say too little to be an answer by themselves."""
LONGEST = 5
"""Words."""


def noun_phrases(sentence: Sentence) -> Iterator[Span]:
    """(start, end, PHRASE) of each, without its article; none that touches a salient span or has a pronoun in it.

    A noun with what stands before it, and what follows after "of" while that is short.
    """
    tree, words = Tree(sentence.words), sentence.words
    for head, word in enumerate(words):
        if word.relation not in PLACES_IN_CLAUSES or word.tag not in ("NN", "NNS"):
            continue
        first = head
        while first > 0 and tree.head(first - 1) in range(first - 1, head + 1) and _describes(words[first - 1].tag):
            first -= 1
        last = head
        for child in tree.find(head, "prep"):
            below = tree.subtree(child)
            whole = below == list(range(head + 1, below[-1] + 1))
            if words[child].text.lower() == "of" and whole and below[-1] - first < LONGEST:
                last = below[-1]
        inside = words[first : last + 1]
        start, end = inside[0].start, inside[-1].end
        article = first > 0 and words[first - 1].text.lower() in ("the", "this", "that", "these", "those", "such")
        bare = first == last and (article or word.lemma.lower() in EMPTY)
        # "in reference to": a preposition of two words. "season nine": a name by its number.
        fixed = last == head and bool(tree.find(head, "nummod") or (_governed(tree, head) and tree.find(head, "prep")))
        pointing = any(each.tag in ("PRP", "PRP$", "WDT", "WP", ",") or each.tag.startswith("VBD") for each in inside)
        salient = any(a < end and start < b for a, b, _ in sentence.spans)
        if not (bare or fixed or pointing or salient) and len(inside) <= LONGEST:
            yield start, end, PHRASE


def _governed(tree: Tree, head: int) -> bool:
    return tree.relation(head) == "pobj"


def _describes(tag: str) -> bool:
    return tag[:2] in ("JJ", "NN", "VB", "HY") or tag == "RB"

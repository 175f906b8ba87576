"""Noun phrases that a question can ask for: half of what people ask about is no name, date or number."""

from __future__ import annotations

from collections.abc import Iterator

from realm.knowledge.asking.clauses import Tree
from realm.knowledge.text.parsing import Sentence, words_of
from realm.knowledge.text.taggers import Span

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
        short, last = head, head
        for child in tree.find(head, "prep"):
            below = tree.subtree(child)
            whole = below == list(range(head + 1, below[-1] + 1))
            if words[child].text.lower() == "of" and whole and below[-1] - first < LONGEST:
                last = below[-1]
        for end in dict.fromkeys((last, short)):  # without what follows "of", where that is a name
            if _stands(tree, first, head, end) and not any(
                a < words[end].end and words[first].start < b for a, b, _ in sentence.spans
            ):
                yield words[first].start, words[end].end, PHRASE
                break


def _stands(tree: Tree, first: int, head: int, last: int) -> bool:
    """Whether the words from `first` to `last` are a phrase that says something by itself."""
    words, word = tree.words, tree.words[head]
    if last - first >= LONGEST:
        return False
    if words[first].text.startswith("-") or (first > 0 and words[first - 1].tag == "HYPH"):
        return False
    if any(w.tag in ("PRP", "PRP$", "WDT", "WP", ",", "VBD") for w in words[first : last + 1]):
        return False
    # "in reference to": a preposition of two words. "season nine": a name by its number.
    if last == head and (tree.find(head, "nummod") or (_governed(tree, head) and tree.find(head, "prep"))):
        return False
    if first < last:
        return True
    article = first > 0 and words[first - 1].text.lower() in ("the", "this", "that", "these", "those", "such")
    idiom = _governed(tree, head) and word.tag == "NN" and not tree.find(head, "det")  # "put on hold"
    return not (article or idiom or word.lemma.lower() in EMPTY)


def _governed(tree: Tree, head: int) -> bool:
    return tree.relation(head) == "pobj"


def _describes(tag: str) -> bool:
    return tag[:2] in ("JJ", "NN", "VB", "HY") or tag == "RB"

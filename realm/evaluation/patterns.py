"""Answers that are regular expressions from outside (CuratedTREC): right as in the reference, and never a hang."""

from __future__ import annotations

from collections.abc import Iterable

from realm.errors import UsageError
from realm.knowledge.questions.regexes import compiled_pattern


class PatternMatcher:
    """Tests texts against patterns, with the flags of the reference: ignore case, Unicode, multi-line.

    A pattern that Python's `re` does not accept is invalid and matches nothing, as in the released evaluation. One
    that needs more than `seconds` of processor time on a text is given up and matches nothing from then on, in any
    text, so that one pattern costs the limit once. Both are kept by name, for the report.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        if not seconds > 0:
            raise UsageError(f"found a limit of {seconds} seconds: expected more than 0")
        self._seconds = seconds
        self.invalid: set[str] = set()
        self.timed_out: set[str] = set()

    def matches(self, prediction: str, patterns: Iterable[str]) -> bool:
        """Whether any pattern matches from the start of the prediction on; what follows the match is free."""
        return any(self._found(pattern, prediction, "match") for pattern in patterns)

    def stands_in(self, text: str, patterns: Iterable[str]) -> bool:
        """Whether any pattern matches anywhere in the text: for recall, as a substring test."""
        return any(self._found(pattern, text, "search") for pattern in patterns)

    def _found(self, pattern: str, text: str, how: str) -> bool:
        if pattern in self.timed_out:
            return False
        compiled = compiled_pattern(pattern)
        if compiled is None:
            self.invalid.add(pattern)
            return False
        try:
            return getattr(compiled, how)(text, timeout=self._seconds) is not None
        except TimeoutError:
            self.timed_out.add(pattern)
            return False


def needed_literals(pattern: str) -> tuple[str, ...] | None:
    """Strings of which at least one stands, in lower case, in every text the pattern is found in; None if unknown.

    For searching many texts: one without any of them needs no matching. Read off the alternatives outside of groups:
    the longest run of plain letters, digits and blanks in each that nothing after it makes optional. None where one
    has no such run, and where the pattern holds what this does not read.
    """
    found: list[str] = []
    runs, run, depth, i = [""], "", 0, 0
    while i <= len(pattern):
        letter = pattern[i] if i < len(pattern) else "|"
        if letter == "\\" or (letter == "(" and pattern[i + 1 : i + 2] == "?" and pattern[i + 2 : i + 3] != ":"):
            after = pattern[i + 1 : i + 2]
            if letter == "(" or after.isdigit() or after in "xuUNpPkgQE":  # it is longer than two characters
                return None
            runs, run, i = [*runs, run] if not depth else runs, "", i + 2
            continue
        if letter == "[":
            end = pattern.find("]", i + 2 + (pattern[i + 1 : i + 2] == "^"))
            if end < 0 or "[" in pattern[i + 1 : end] or "\\" in pattern[i:end]:
                return None
            runs, run, i = [*runs, run] if not depth else runs, "", end + 1
            continue
        if depth == 0 and (letter.isascii() and (letter.isalnum() or letter in " ,'")):
            run, i = run + letter, i + 1
            continue
        if letter in "?*{" and depth == 0:
            run = run[:-1]
        if depth == 0:
            runs, run = [*runs, run], ""
        if letter == "|" and depth == 0:
            longest = max(runs, key=len)
            if not longest:
                return None
            found, runs = [*found, _lower(longest)], [""]
        if letter == "{":
            end = pattern.find("}", i)
            i = end if end >= 0 else i
        depth += (letter == "(") - (letter == ")")
        i += 1
        if depth < 0:
            return None
    return tuple(dict.fromkeys(found)) if depth == 0 else None


def folded(text: str) -> str:
    """Lower case for `needed_literals`: what ignoring case takes for an ASCII letter becomes that letter."""
    return _lower(text)


def _lower(text: str) -> str:
    return text.lower() if text.isascii() else text.translate(_LETTERS).lower()


_LETTERS = str.maketrans({"\u017f": "s", "\u212a": "k", "\u0130": "i", "\u0131": "i"})

"""Other answers written into passages before they are read (Longpre et al. 2021, "corpus substitution").

A reader learns what answers are usually like, and from it which to prefer; one that met other answers in their places
goes by the words around them, and follows a document that is edited.

Legend: N passages, L word pieces, P places where an answer stands.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from realm.types import Tokens


def substitute(
    body: Tokens,
    first_N: Sequence[int],
    places_P3: np.ndarray,
    substitutes_N: Sequence[np.ndarray | None],
) -> tuple[Tokens, np.ndarray]:
    """The passages with their answers exchanged, and where those stand now.

    body: of the passages, at least one. first_N: where each one's text begins behind its title.
    places_P3: Int64[P, 3], (passage, first piece, piece after the last), counted from where the text begins. Of places
        that overlap the first is exchanged, of those that begin together the longest.
    substitutes_N: pieces for each passage's answers; a passage with None keeps its own, and its places. Where a passage
        says the substitute of itself, that is a place, too.
    """
    texts = [ids[:length] for ids, length in zip(body.ids.tolist(), body.lengths.tolist(), strict=True)]
    places_N: list[list[tuple[int, int]]] = [[] for _ in texts]
    for n, start, end in places_P3.tolist():
        places_N[n].append((start, end))
    found: list[tuple[int, int, int]] = []
    for n, (places, other, first) in enumerate(zip(places_N, substitutes_N, first_N, strict=True)):
        if other is None:
            found += [(n, start, end) for start, end in places]
            continue
        ids, made, at = texts[n][first:], [], 0
        for start, end in sorted(places, key=lambda place: (place[0], -place[1])):
            if start < at or end > len(ids):  # overlaps the one before, or was cut off
                continue
            made += ids[at:start]
            found.append((n, len(made), len(made) + len(other)))
            made += other.tolist()
            at = end
        made += ids[at:]
        texts[n] = [*texts[n][:first], *made]
        # The passage may say the other answer anyway: it is as right there.
        width, wanted = len(other), other.tolist()
        there = (at for at in range(len(made) - width + 1) if made[at : at + width] == wanted)
        found += [(n, at, at + width) for at in there if (n, at, at + width) not in found]
    lengths_N = torch.tensor([len(ids) for ids in texts])
    ids_NL = nn.utils.rnn.pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in texts], batch_first=True)
    column_L = torch.arange(ids_NL.shape[1])
    types_NL = (column_L >= torch.tensor(first_N)[:, None]) & (column_L < lengths_N[:, None])
    return Tokens(ids_NL, types_NL.long(), lengths_N), np.array(found, np.int64).reshape(-1, 3)

"""A reader whose query and passage meet late: the query is read alone, and points at the passage's word pieces.

    p(y_j|z,x) = sum over i with z_i = y_j of a_ji  +  s_j p(y_j|x),      sum over i of a_ji  +  s_j = 1

a_j is attention from [MASK]_j over the word pieces of z and s_j the share of a sentinel that stands for the vocabulary
(pointer sentinel mixture, Merity et al. 2017). Keys are word embeddings, so the products with all the pieces of
the batch are one matrix, and a further passage costs next to nothing: where the joint reader affords 8 candidates, this
one affords 64. What it gives up is the passage's word order, but for the neighbours of a piece (relative positions
as in Shaw et al. 2018): the logit of piece i is

    sum over o in -2..2 of (W_o h_j) . e(z_(i+o)) / sqrt(H)

in which h_j is the state of [MASK]_j and e the embedding layer without positions.

Legend for shapes: B queries, K candidates, N pairs, L tokens of a body, T target tokens, M masked pieces, H hidden
size, V vocabulary, P distinct word pieces of all bodies.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realm.errors import UsageError
from realm.files import MANIFEST, read_json
from realm.models.cloze import ClozeReader
from realm.models.packing import by_length
from realm.types import Target, Tokens

WINDOW = 2
NOWHERE = -1e9
"""A logit that no softmax sees, and whose gradient is 0 rather than NaN where there is nothing else."""


class PointerHead(nn.Module):
    """Queries and the sentinel of the pointer; its keys are the reader's word embeddings."""

    def __init__(self, hidden_size: int, window: int = WINDOW) -> None:
        """window: how many neighbours on each side tell which place is meant."""
        super().__init__()
        self.offsets = sorted(range(-window, window + 1), key=abs)
        """0 first: the piece itself."""
        self.query = nn.Linear(hidden_size, hidden_size * len(self.offsets))
        self.sentinel = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.query.weight)
        nn.init.eye_(self.query.weight[:hidden_size])
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.sentinel.weight)
        # A passage of a hundred pieces whose logits are all near 0 then leaves the sentinel four fifths of the mass.
        nn.init.constant_(self.sentinel.bias, 6.0)

    def forward(self, target_MH: Tensor, key_PH: Tensor) -> tuple[Tensor, Tensor]:
        """Logits that each distinct piece adds at each offset, Float[M, O, P], and of the sentinel, Float[M]."""
        query_MOH = self.query(target_MH).unflatten(-1, (len(self.offsets), -1))
        return query_MOH @ key_PH.T / math.sqrt(key_PH.shape[-1]), self.sentinel(target_MH)[:, 0]


class LateReader(ClozeReader):
    """`ClozeReader` with late interaction; saved and opened alike, and it always copies."""

    KIND = "realm late reader"

    @staticmethod
    def copying(hidden_size: int) -> nn.Module:
        return PointerHead(hidden_size)

    def log_prob_pairs(self, query: Tokens, body: Tokens, target: Target, query_of_N: Tensor) -> Tensor:
        """log p(y_j|z,x), Float[N, T]; 0 where `target.mask` is False. Each query is read once."""
        query, body = query.to(self.device), body.to(self.device)
        target, query_of_N = target.to(self.device), query_of_N.to(self.device)
        if len(body) != len(query_of_N):
            raise UsageError(
                f"found {len(body)} bodies for {len(query_of_N)} pairs: expected one body for each query and candidate"
            )
        mask_NT = target.mask[query_of_N]
        if len(query_of_N) == 0:
            return torch.zeros(mask_NT.shape, device=self.device)
        hidden_MH = self._masked_states(query, target.positions)[target.mask]
        wanted_M = target.ids[target.mask]
        alone_M = -nn.functional.cross_entropy(self._logits(hidden_MH), wanted_M, reduction="none")

        # Which masked piece each (pair, target) is: a query's pieces stand under all its candidates.
        number_BT = torch.full(target.mask.shape, -1, device=self.device)
        number_BT[target.mask] = torch.arange(len(wanted_M), device=self.device)
        pair_R, place_R = mask_NT.nonzero(as_tuple=True)
        masked_R = number_BT[query_of_N[pair_R], place_R]
        if body.ids.shape[1] == 0:  # null passages only
            return alone_M.new_zeros(mask_NT.shape).masked_scatter(mask_NT, alone_M[masked_R])

        logit_RL, sentinel_M, ids_NL = self._point(hidden_MH, body, masked_R, pair_R)
        sentinel_R = sentinel_M[masked_R]
        same_RL = ids_NL[pair_R] == wanted_M[masked_R, None]
        copied_R = logit_RL.masked_fill(~same_RL, NOWHERE).logsumexp(-1)
        total_R = torch.logaddexp(logit_RL.logsumexp(-1), sentinel_R)
        logp_R = torch.logaddexp(copied_R, sentinel_R + alone_M[masked_R]) - total_R
        return logp_R.new_zeros(mask_NT.shape).masked_scatter(mask_NT, logp_R)

    @torch.no_grad()
    def log_distribution(self, query: Tokens, body: Tokens, positions_BT: Tensor, num_candidates: int) -> Tensor:
        """log p(v|z,x) of every word piece v at the given positions of each query. Float[B, K, T, V]."""
        query, body, positions_BT = query.to(self.device), body.to(self.device), positions_BT.to(self.device)
        size, targets = len(query), positions_BT.shape[1]
        hidden_MH = self._masked_states(query, positions_BT).flatten(0, 1)
        alone_MV = self._logits(hidden_MH).log_softmax(-1)
        masked_R = torch.arange(size * targets, device=self.device).view(size, 1, targets)
        masked_R = masked_R.expand(size, num_candidates, targets).flatten()
        if body.ids.shape[1] == 0:
            return alone_MV[masked_R].view(size, num_candidates, targets, -1)
        pair_R = torch.arange(len(body), device=self.device).repeat_interleave(targets)
        logit_RL, sentinel_M, ids_NL = self._point(hidden_MH, body, masked_R, pair_R)
        sentinel_R = sentinel_M[masked_R]
        total_R1 = torch.logaddexp(logit_RL.logsumexp(-1), sentinel_R)[:, None]
        vocabulary_RV = (sentinel_R[:, None] - total_R1).exp() * alone_MV[masked_R].exp()
        logp_RV = vocabulary_RV.scatter_add(1, ids_NL[pair_R], (logit_RL - total_R1).exp()).log()
        return logp_RV.view(size, num_candidates, targets, -1)

    # ------------------------------------------------------------ inside

    def _masked_states(self, query: Tokens, positions_BT: Tensor) -> Tensor:
        """Float[B, T, H]: the query read alone."""

        def read(tokens: Tokens, index: Tensor) -> Tensor:
            return self._read(tokens, positions_BT[index])[0]

        return by_length(read, query, self.token_budget)

    def _point(
        self, hidden_MH: Tensor, body: Tokens, masked_R: Tensor, pair_R: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of masked piece `masked_R` on the pieces of body `pair_R`, Float[R, L], `NOWHERE` behind its end;
        of the sentinel, Float[M]; and the bodies' pieces, Long[N, L]."""
        ids_NL, mask_NL = body.ids[:, : self.settings.max_length], body.mask[:, : self.settings.max_length]
        ids_NL = ids_NL.masked_fill(~mask_NL, 0)
        pieces_P, place_NL = ids_NL.unique(return_inverse=True)
        # One more column, of zeros, stands for what lies before the first piece and behind the last.
        place_NL = place_NL.masked_fill(~mask_NL, len(pieces_P))
        assert isinstance(self.copy_head, PointerHead)
        with torch.autocast(hidden_MH.device.type, enabled=False):
            part_MOP, sentinel_M = self.copy_head(hidden_MH.float(), self._keys(pieces_P))
            part_MOP = nn.functional.pad(part_MOP, (0, 1))
            offsets, columns = self.copy_head.offsets, part_MOP.shape[-1]
            logit_RL = torch.zeros((), device=ids_NL.device)
            for o, offset in enumerate(offsets):
                shifted_NL = _shift(place_NL, offset, len(pieces_P))
                # One flat gather: a row of pieces for each of the R would be K times the memory.
                flat_RL = (masked_R[:, None] * len(offsets) + o) * columns + shifted_NL[pair_R]
                logit_RL = logit_RL + part_MOP.flatten().gather(0, flat_RL.flatten()).view_as(flat_RL)
        return logit_RL.masked_fill(~mask_NL[pair_R], NOWHERE), sentinel_M, ids_NL

    def _keys(self, pieces_P: Tensor) -> Tensor:
        """Float[P, H]: the embedding layer's output for each piece, its position left out."""
        table = self.model.get_input_embeddings()
        norm = getattr(getattr(self.model.base_model, "embeddings", None), "LayerNorm", None)
        vector_PH: Tensor = table(pieces_P).float()
        return vector_PH if norm is None else norm(vector_PH)


def _shift(place_NL: Tensor, offset: int, outside: int) -> Tensor:
    """The place of the neighbour at `offset` of each piece; `outside` where there is none."""
    if offset == 0:
        return place_NL
    shifted_NL = torch.full_like(place_NL, outside)
    if offset > 0:
        shifted_NL[:, :-offset] = place_NL[:, offset:]
    else:
        shifted_NL[:, -offset:] = place_NL[:, :offset]
    return shifted_NL


READERS: dict[str, type[ClozeReader]] = {"joint": ClozeReader, "late": LateReader}
"""Kinds of reader by how query and passage meet."""


def open_reader(folder: Path, **settings: Any) -> ClozeReader:
    """A saved reader of either kind. settings: see `ClozeReader.from_pretrained`, whose errors it raises."""
    kind = read_json(folder / MANIFEST).get("format") if (folder / MANIFEST).exists() else None
    found = next((reader for reader in READERS.values() if kind == reader.KIND), ClozeReader)
    return found.from_pretrained(folder, **settings)

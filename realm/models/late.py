"""A reader whose query and passage meet late: the query is read alone, and points at the passage's word pieces.

    p(y_j|z,x) = sum over i with z_i = y_j of a_ji  +  s_j p(y_j|x),      sum over i of a_ji  +  s_j = 1

a_j is attention from [MASK]_j over the word pieces of z and s_j the share of a sentinel that stands for the vocabulary
(pointer sentinel mixture, Merity et al. 2017). Keys are word embeddings, so the products with all the pieces of
the batch are one matrix, and a further passage costs next to nothing: where the joint reader affords 8 candidates, this
one affords 64. What it gives up is the passage's word order, but for the neighbours of a piece (relative positions
as in Shaw et al. 2018): the logit of piece i is

    sum over o in -2..2 of (W_o h_j) . e(z_(i+o)) / sqrt(H)

in which h_j is the state of [MASK]_j and e the embedding layer without positions.

Legend for shapes: B queries, K candidates, N pairs, T target tokens, M masked pieces, R masked pieces under each of
their candidates, E word pieces of all R, H hidden size, V vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realm.errors import UsageError
from realm.files import MANIFEST, read_json
from realm.models.cloze import ClozeReader
from realm.models.packing import by_length
from realm.models.pointing import Pointed, PointerHead, point, segment_logsumexp
from realm.types import Target, Tokens


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

        row_E, piece_E, logit_E, sentinel_M = self._point(hidden_MH, body, masked_R, pair_R)
        same = (piece_E == wanted_M[masked_R].index_select(0, row_E)).nonzero()[:, 0]
        copied_R = segment_logsumexp(logit_E[same], row_E[same], len(pair_R))
        sentinel_R = sentinel_M[masked_R]
        total_R = torch.logaddexp(segment_logsumexp(logit_E, row_E, len(pair_R)), sentinel_R)
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
        pair_R = torch.arange(len(body), device=self.device).repeat_interleave(targets)
        row_E, piece_E, logit_E, sentinel_M = self._point(hidden_MH, body, masked_R, pair_R)
        sentinel_R = sentinel_M[masked_R]
        total_R = torch.logaddexp(segment_logsumexp(logit_E, row_E, len(pair_R)), sentinel_R)
        share_RV = (sentinel_R - total_R).exp()[:, None] * alone_MV[masked_R].exp()
        share_RV.view(-1).index_add_(0, row_E * share_RV.shape[1] + piece_E, (logit_E - total_R[row_E]).exp())
        return share_RV.log().view(size, num_candidates, targets, -1)

    # ------------------------------------------------------------ inside

    def _masked_states(self, query: Tokens, positions_BT: Tensor) -> Tensor:
        """Float[B, T, H]: the query read alone."""

        def read(tokens: Tokens, index: Tensor) -> Tensor:
            return self._read(tokens, positions_BT[index])[0]

        return by_length(read, query, self.token_budget)

    def _point(self, hidden_MH: Tensor, body: Tokens, masked_R: Tensor, pair_R: Tensor) -> Pointed:
        """Logits of masked piece `masked_R` on the pieces of body `pair_R`."""
        assert isinstance(self.copy_head, PointerHead)
        longest = self.settings.max_length
        cut = Tokens(body.ids[:, :longest], body.types[:, :longest], body.lengths.clamp(max=longest))
        norm = getattr(getattr(self.model.base_model, "embeddings", None), "LayerNorm", None)
        return point(self.copy_head, hidden_MH, self.model.get_input_embeddings(), norm, cut, masked_R, pair_R)


READERS: dict[str, type[ClozeReader]] = {"joint": ClozeReader, "late": LateReader}
"""Kinds of reader by how query and passage meet."""


def open_reader(folder: Path, **settings: Any) -> ClozeReader:
    """A saved reader of either kind. settings: see `ClozeReader.from_pretrained`, whose errors it raises."""
    kind = read_json(folder / MANIFEST).get("format") if (folder / MANIFEST).exists() else None
    found = next((reader for reader in READERS.values() if kind == reader.KIND), ClozeReader)
    return found.from_pretrained(folder, **settings)

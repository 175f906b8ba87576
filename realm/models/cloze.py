"""The cloze reader: p(y_j | z, x) for masked word pieces, query and passage read together (Guu et al. 2020, section
3.2).

Legend for shapes: B queries, K candidates, N pairs of query and passage, L tokens, T target tokens, C answers,
H hidden size, V vocabulary, M masked pieces of all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realm.errors import ArtefactError, UsageError
from realm.models.backbone import (
    freeze_layers,
    freeze_words,
    hidden_states,
    keep_layers,
    load_masked_model,
    load_tokenizer,
    max_tokens,
    set_dropout,
)
from realm.models.copying import CopyHead, copied_logp, mix, mix_vocabulary
from realm.models.heads import start_bias, start_transform, vocabulary_head
from realm.models.joint import Joint, join
from realm.models.packing import by_length
from realm.models.pooling import sentence_encoder_pooling
from realm.models.storage import (
    check_weights,
    fingerprint_module,
    load_tensors,
    model_folder,
    read_model_facts,
    save_part,
)
from realm.types import Target, Tokens

FORMAT_VERSION = 1
CHANGEABLE = ("backbone_dropout", "freeze_word_embeddings", "freeze_layers", "max_length")
"""Settings of a saved reader that may be given anew when it is opened."""


@dataclass(frozen=True, slots=True)
class ReaderSettings:
    """Everything about a cloze reader that its weights don't say."""

    copy: bool = False
    """Add the copy head."""
    segments: bool | None = None
    """Query and body have segment ids 0 and 1; None follows the checkpoint: sentence encoders were trained with
    zeros."""
    max_length: int = 384
    """Most tokens of query and body together, specials counted; bodies are cut to it."""
    backbone_dropout: float | None = None
    """None keeps the checkpoint's own."""
    freeze_word_embeddings: bool = False
    """Also freezes the vocabulary head's weights where they are tied to the embeddings."""
    freeze_layers: int = 0
    """Leave the embeddings and so many first layers as they were loaded: a third of their cost."""


class ClozeReader(nn.Module):
    """A masked language model that reads [CLS] query [SEP] body [SEP]; only masked positions go through the
    vocabulary."""

    KIND = "realm cloze reader"

    def __init__(self, model: Any, settings: ReaderSettings, *, separator: int, tokenizer: Any = None) -> None:
        """model: a masked language model of `transformers`. separator: the id of [SEP]. tokenizer: saved with the
        model."""
        super().__init__()
        self.model = model
        self.settings = settings
        self.separator = separator
        self.tokenizer = tokenizer
        self.copy_head = self.copying(int(model.config.hidden_size)) if settings.copy else None
        self.token_budget: int | None = None
        """Most padded tokens in one pass of the backbone; None is the device's default."""
        self.head_is_new = False
        """The checkpoint had no trained vocabulary head."""
        self._head = vocabulary_head(model.config.model_type).logits
        limit = max_tokens(model.base_model)
        self.max_length = settings.max_length if limit is None else min(settings.max_length, limit)
        set_dropout(model, settings.backbone_dropout)
        freeze_words(model, settings.freeze_word_embeddings)
        freeze_layers(model, settings.freeze_layers)

    @staticmethod
    def copying(hidden_size: int) -> nn.Module:
        """A new copy head; a reader of another kind has its own."""
        return CopyHead(hidden_size)

    # ------------------------------------------------------------ making one

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, layers: int | Sequence[int] | None = None, **settings: Any
    ) -> ClozeReader:
        """Open a reader saved by `save_pretrained`, or start one from a masked language model or a bare encoder.

        source: a folder, or a name on the Hugging Face hub. From a checkpoint without a masked-token head (a sentence
        encoder) the head is new: its transform starts as the identity, its output weights are the word embeddings; see
        `set_token_counts` for its bias.
        layers: keep only the first so many layers, or the layers of these numbers.
        settings: fields of `ReaderSettings`; for a saved reader only those in `CHANGEABLE` may differ, and
        `copy=True` adds the head to a reader saved without.

        Raises UsageError, ArtefactError, MismatchError (another kind of model) or UnavailableError (no hub).
        """
        known = [field.name for field in fields(ReaderSettings)]
        for name in settings:
            if name not in known:
                raise UsageError(f"found the reader setting {name!r}: expected one of {', '.join(known)}")
        facts = read_model_facts(source, format=cls.KIND, version=FORMAT_VERSION)
        saved = ReaderSettings(**facts["settings"]) if facts is not None else None
        if saved is not None:
            for name, value in settings.items():
                if name not in CHANGEABLE and value != getattr(saved, name) and not (name == "copy" and value):
                    raise UsageError(
                        f"found {name}={value!r} for the reader {source}, which was saved with "
                        f"{getattr(saved, name)!r}: it can't be changed"
                    )
        chosen = replace(saved or ReaderSettings(), **settings)
        if chosen.segments is None:
            chosen = replace(chosen, segments=sentence_encoder_pooling(source) is None)
        tokenizer = load_tokenizer(source)
        if tokenizer.sep_token_id is None:
            raise UsageError(f"the tokenizer of {source} has no separator token: expected one, as in BERT's")
        model, head_is_new = load_masked_model(source)
        keep_layers(model, layers)
        reader = cls(model, chosen, separator=int(tokenizer.sep_token_id), tokenizer=tokenizer)
        reader.head_is_new = head_is_new
        if head_is_new:
            start_transform(model)
        if saved is not None and saved.copy and reader.copy_head is not None:
            place = Path(source) / "head.safetensors"
            try:
                reader.copy_head.load_state_dict(load_tensors(place))
            except RuntimeError as error:
                raise ArtefactError(
                    f"{place} doesn't fit the copy head ({error}): expected the parameters saved with the reader"
                ) from error
        check_weights(source)
        return reader

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `transformers.AutoModelForMaskedLM` and `AutoTokenizer` open, the copy head beside it."""
        facts = {"settings": asdict(self.settings), "fingerprint": self.fingerprint()}
        with model_folder(Path(folder), format=self.KIND, version=FORMAT_VERSION, facts=facts) as staged:
            save_part(
                staged, self.model, self.copy_head.state_dict() if self.copy_head is not None else {}, self.tokenizer
            )

    def set_token_counts(self, counts_V: Tensor) -> bool:
        """Start the bias of a new head from how often each word piece occurs in the corpus, Long[V]; was it done?

        A head that the checkpoint brought is left as it is. It saves the steps that would go into learning which words
        are common. UsageError when the counts are not one for each word piece.
        """
        if self.head_is_new:
            start_bias(self.model, counts_V)
        return self.head_is_new

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by role: the network is the ``reader``; transform, bias and copy head the ``head``."""
        body = {id(parameter) for parameter in self.model.base_model.parameters()}
        groups: dict[str, list[nn.Parameter]] = {"reader": [], "head": []}
        for parameter in self.parameters():
            groups["reader" if id(parameter) in body else "head"].append(parameter)
        return groups

    def fingerprint(self) -> str:
        """Of all parameters and of the settings that shape a prediction."""
        return fingerprint_module(self, str(self.settings.copy), str(self.settings.segments), str(self.max_length))

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device  # type: ignore[no-any-return]

    # ------------------------------------------------------------ log p(y | z, x)

    def log_prob(self, query: Tokens, body: Tokens, target: Target, num_candidates: int) -> Tensor:
        """log p(y_j|z,x) of each masked piece under each candidate. Float[B, K, T]; 0 where `target.mask` is False.

        body: B*K passage bodies without specials, those of query 0 first; length 0 is the null passage.
        """
        query_of_N = torch.arange(len(query)).repeat_interleave(num_candidates)
        return self.log_prob_pairs(query, body, target, query_of_N).view(
            len(query), num_candidates, target.ids.shape[1]
        )

    def log_prob_pairs(self, query: Tokens, body: Tokens, target: Target, query_of_N: Tensor) -> Tensor:
        """The same for any pairs: `body[n]` is read with `query[query_of_N[n]]`. Float[N, T].

        Lets the caller leave out candidates that don't exist and read equal pairs once.
        """
        query, body = query.to(self.device), body.to(self.device)
        target, query_of_N = target.to(self.device), query_of_N.to(self.device)
        if len(body) != len(query_of_N):
            raise UsageError(
                f"found {len(body)} bodies for {len(query_of_N)} pairs: expected one body for each query and candidate"
            )
        if len(query_of_N) == 0:
            return torch.zeros(0, target.ids.shape[1], device=self.device)
        joint = join(query, body, query_of_N, separator=self.separator, max_length=self.max_length)
        ids_NT, mask_NT = target.ids[query_of_N], target.mask[query_of_N]
        positions_NT = target.positions[query_of_N]

        def read(tokens: Tokens, index: Tensor) -> Tensor:
            """Float[n, T, H + 3]: hidden state at each masked position; gate, copied log mass and whether there is
            any."""
            hidden_NTH, hidden_NLH = self._read(tokens, positions_NT[index])
            if self.copy_head is None:
                return hidden_NTH
            copy = self.copy_head(hidden_NTH, hidden_NLH, joint.body_mask(index, tokens.ids.shape[1]))
            copied_NT, found_NT = copied_logp(copy, tokens, ids_NT[index])
            return torch.cat([hidden_NTH, torch.stack([copy.gate_NT, copied_NT, found_NT.to(copied_NT.dtype)], -1)], -1)

        read_NTX = by_length(read, joint.tokens, self.token_budget)
        # Only pieces that were masked pay for the vocabulary: M rows, not N * T, and never N * L.
        read_MX = read_NTX[mask_NT]
        hidden_size = int(self.model.config.hidden_size)
        logp_M = -nn.functional.cross_entropy(self._logits(read_MX[:, :hidden_size]), ids_NT[mask_NT], reduction="none")
        if self.copy_head is not None:
            gate_M, copied_M, found_M = read_MX[:, hidden_size:].unbind(-1)
            possible_M = (joint.body_end_N > joint.body_start_N)[:, None].expand_as(mask_NT)[mask_NT]
            logp_M = mix(logp_M, gate_M, copied_M, found_M > 0.5, possible_M)
        return logp_M.new_zeros(mask_NT.shape).masked_scatter(mask_NT, logp_M)

    # ------------------------------------------------------------ answers

    @torch.no_grad()
    def log_distribution(self, query: Tokens, body: Tokens, positions_BT: Tensor, num_candidates: int) -> Tensor:
        """log p(v|z,x) of every word piece v at the given positions of each query. Float[B, K, T, V]; without
        gradients."""
        query, body, positions_BT = query.to(self.device), body.to(self.device), positions_BT.to(self.device)
        query_of_N = torch.arange(len(query), device=self.device).repeat_interleave(num_candidates)
        joint = join(query, body, query_of_N, separator=self.separator, max_length=self.max_length)

        def read(tokens: Tokens, index: Tensor) -> Tensor:
            hidden_NTH, hidden_NLH = self._read(tokens, positions_BT[query_of_N[index]])
            logp_NTV = self._logits(hidden_NTH).log_softmax(-1)
            if self.copy_head is None:
                return logp_NTV
            copy = self.copy_head(hidden_NTH, hidden_NLH, joint.body_mask(index, tokens.ids.shape[1]))
            return mix_vocabulary(logp_NTV, copy, tokens)

        logp_NTV = by_length(read, joint.tokens, self.token_budget)
        return logp_NTV.view(len(query), num_candidates, *logp_NTV.shape[1:])

    def score_candidates(self, query: Tokens, body: Tokens, positions_T: Tensor, candidates_CT: Tensor) -> Tensor:
        """log p(y|z,x) of C answers of T pieces each, for one query over its K passages, in one pass. Float[K, C].

        query: one text. body: its K passages. positions_T: Long[T], where the query's masks stand. candidates_CT:
        Long[C, T].
        """
        if len(query) != 1 or candidates_CT.shape[1] != len(positions_T):
            raise UsageError(
                f"found {len(query)} queries with {len(positions_T)} masks and answers of "
                f"{candidates_CT.shape[1]} pieces: "
                "expected one query, with as many masks as pieces"
            )
        logp_KTV = self.log_distribution(query, body, positions_T[None], len(body))[0]
        pieces_TC = candidates_CT.T.to(self.device)
        return logp_KTV.gather(2, pieces_TC.expand(len(body), *pieces_TC.shape)).sum(1)

    def predict(
        self, query: Tokens, body: Tokens, positions_BT: Tensor, log_prior_BK: Tensor, top: int = 10
    ) -> tuple[Tensor, Tensor]:
        """The likeliest word pieces at each position, passages summed out: log of sum over z of p(z|x) p(v|z,x).

        (ids Long[B, T, top], log probability Float[B, T, top]), best first.
        """
        num_candidates = log_prior_BK.shape[1]
        logp_BKTV = self.log_distribution(query, body, positions_BT, num_candidates)
        marginal_BTV = (logp_BKTV + log_prior_BK.to(self.device)[..., None, None]).logsumexp(1)
        best = marginal_BTV.topk(min(top, marginal_BTV.shape[-1]), dim=-1)
        return best.indices, best.values

    # ------------------------------------------------------------ inside

    def _read(self, tokens: Tokens, positions_NT: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states at the masked positions, Float[N, T, H], and everywhere, Float[N, L, H], in full precision."""
        assert self.settings.segments is not None
        hidden_NLH = hidden_states(self.model.base_model, tokens, segments=self.settings.segments).last_hidden_state
        if hidden_NLH.dtype in (torch.float16, torch.bfloat16):
            hidden_NLH = hidden_NLH.float()
        return hidden_NLH.gather(1, positions_NT[..., None].expand(-1, -1, hidden_NLH.shape[-1])), hidden_NLH

    def _logits(self, hidden: Tensor) -> Tensor:
        """Float[..., V] from Float[..., H], at least float32: a softmax over the vocabulary in bf16 loses digits."""
        logits: Tensor = self._head(self.model, hidden)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


__all__ = ["ClozeReader", "Joint", "ReaderSettings"]

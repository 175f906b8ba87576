"""The span reader: p(s | z, x) for every short span s of a passage, question and passage read together (Guu et al.
2020, section 3.2; the head as in the released code).

    score(s) = linear(LayerNorm(ReLU(h_start(s) + h_end(s))))

in which h_start and h_end are the two halves of one linear map of the hidden state at the first and the last piece:
a network with one hidden layer on their concatenation.

Legend for shapes: B questions, N pairs of a question and a passage, L tokens or body word pieces, W widths, S spans
(L * W, those that begin at the first piece first), H hidden size, D size of the span network.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from realm.errors import ArtefactError, UsageError
from realm.files import MANIFEST, read_json
from realm.models.attention import attend_row_by_row
from realm.models.backbone import (
    freeze_layers,
    freeze_words,
    hidden_states,
    keep_layers,
    load_backbone,
    load_tokenizer,
    max_tokens,
    set_dropout,
)
from realm.models.joint import join
from realm.models.packing import by_length
from realm.models.pooling import sentence_encoder_pooling
from realm.models.storage import (
    SETTINGS,
    check_weights,
    fingerprint_module,
    load_tensors,
    model_folder,
    read_model_facts,
    save_part,
)
from realm.types import Tokens

KIND = "realm span reader"
FORMAT_VERSION = 1
CHANGEABLE = ("backbone_dropout", "freeze_word_embeddings", "freeze_layers", "max_length", "max_width")
"""Settings of a saved reader that may be given anew when it is opened."""
READING_CHUNK_COST = 32
"""Tokens that a chunk may cost on a CPU when nothing is learnt; see `by_length`."""
LAYER_NORM_EPSILON = 1e-3
"""The released code's, in the reader's head."""


@dataclass(frozen=True, slots=True)
class SpanSettings:
    """Everything about a span reader that its weights don't say."""

    span_size: int = 256
    """D, of the hidden layer over start and end."""
    max_width: int = 10
    """Longest span, in word pieces."""
    segments: bool | None = None
    """Question and passage have segment ids 0 and 1; None follows the checkpoint: sentence encoders saw only zeros."""
    max_length: int = 320
    """Most tokens of question and passage together, specials counted; passages are cut to it."""
    backbone_dropout: float | None = None
    """None keeps the checkpoint's own."""
    freeze_word_embeddings: bool = False
    freeze_layers: int = 0
    """Leave the embeddings and so many first layers as they were loaded."""


class SpanLogits(NamedTuple):
    """Scores of all spans of N passages. Span s is pieces start_S[s] to end_S[s] - 1, counted from the body's first."""

    logit_NS: Tensor
    """Float[N, S]; anything where not valid."""
    valid_NS: Tensor
    """Bool[N, S]: the span lies within the part of the body that was read."""
    start_S: Tensor
    """Long[S]"""
    end_S: Tensor
    """Long[S], exclusive."""


class SpanHead(nn.Module):
    """Hidden states of a passage to a score for each span up to a width."""

    def __init__(self, hidden_size: int, span_size: int, max_width: int) -> None:
        super().__init__()
        self.max_width = max_width
        self.project = nn.Linear(hidden_size, 2 * span_size)
        self.norm = nn.LayerNorm(span_size, eps=LAYER_NORM_EPSILON)
        self.score = nn.Linear(span_size, 1)
        for linear in (self.project, self.score):
            nn.init.trunc_normal_(linear.weight, std=0.02, a=-0.04, b=0.04)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden_NLH: Tensor) -> Tensor:
        """Float[N, L, W]: of the span that begins at each piece and is 1, 2, ... W pieces wide."""
        if hidden_NLH.shape[1] == 0:  # a chunk of empty passages
            return hidden_NLH.new_zeros(len(hidden_NLH), 0, self.max_width)
        length = hidden_NLH.shape[1]
        start_NLD, end_NLD = self.project(hidden_NLH).chunk(2, dim=-1)
        end_NLD = nn.functional.pad(end_NLD, (0, 0, 0, self.max_width - 1))
        # Width by width: L * D numbers stay in a cache on their way through the network, L * W * D don't.
        score_WNL = [
            self.score(self.norm(nn.functional.relu(start_NLD + end_NLD[:, more : more + length])))[..., 0]
            for more in range(self.max_width)
        ]
        return torch.stack(score_WNL, dim=-1)

    def highest(self) -> float:
        """No span of any passage scores more. What LayerNorm normalises has mean 0 and a length of at most sqrt(D), so
        with its weight w, its bias c, and the linear map a, b the score is at most sqrt(D) |(a * w) - mean| + a.c + b.
        """
        with torch.no_grad():
            score_D = self.score.weight[0].double()
            scaled_D = score_D * self.norm.weight.double()
            length = (scaled_D - scaled_D.mean()).norm() * len(scaled_D) ** 0.5
            return float(length + score_D @ self.norm.bias.double() + self.score.bias[0].double())


class SpanReader(nn.Module):
    """A transformer that reads [CLS] question [SEP] passage body [SEP], and scores the body's spans."""

    def __init__(self, model: Any, settings: SpanSettings, *, separator: int, tokenizer: Any = None) -> None:
        """model: an encoder of `transformers`. separator: the id of [SEP]. tokenizer: saved with the model."""
        super().__init__()
        if settings.span_size < 1 or settings.max_width < 1:
            raise UsageError(
                f"found span_size={settings.span_size}, max_width={settings.max_width}: expected at least 1 of both"
            )
        self.model = model
        self.settings = settings
        self.separator = separator
        self.tokenizer = tokenizer
        self.head = SpanHead(int(model.config.hidden_size), settings.span_size, settings.max_width)
        self.token_budget: int | None = None
        """Most padded tokens in one pass, which bounds memory; None is the device's default."""
        limit = max_tokens(model)
        self.max_length = settings.max_length if limit is None else min(settings.max_length, limit)
        set_dropout(model, settings.backbone_dropout)
        freeze_words(model, settings.freeze_word_embeddings)
        freeze_layers(model, settings.freeze_layers)

    # ------------------------------------------------------------ making one

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, layers: int | Sequence[int] | None = None, **settings: Any
    ) -> SpanReader:
        """Open a reader saved by `save_pretrained`, or start one from any encoder: the span network is then new.

        source: a folder, or a name on the Hugging Face hub. A cloze reader or a dense encoder of ours lends its
        transformer (fine-tuning starts from the reader that pre-training left).
        layers: keep only the first so many layers, or the layers of these numbers.
        settings: fields of `SpanSettings`; for a saved reader only those in `CHANGEABLE` may differ.

        A new network is drawn from torch's random generator. Raises UsageError, ArtefactError or UnavailableError (no
        hub).
        """
        known = [field.name for field in fields(SpanSettings)]
        for name in settings:
            if name not in known:
                raise UsageError(f"found the reader setting {name!r}: expected one of {', '.join(known)}")
        saved, segments = _saved(source)
        if saved is not None:
            for name, value in settings.items():
                if name not in CHANGEABLE and value not in (None, getattr(saved, name)):
                    raise UsageError(
                        f"found {name}={value!r} for the reader {source}, which was saved with "
                        f"{getattr(saved, name)!r}: it can't be changed"
                    )
            settings = {name: value for name, value in settings.items() if name in CHANGEABLE}
        chosen = replace(saved or SpanSettings(), **settings)
        if chosen.segments is None:
            segments = sentence_encoder_pooling(source) is None if segments is None else segments
            chosen = replace(chosen, segments=segments)
        tokenizer = load_tokenizer(source)
        if tokenizer.sep_token_id is None:
            raise UsageError(f"the tokenizer of {source} has no separator token: expected one, as in BERT's")
        model, _ = load_backbone(source, pooler=False)
        keep_layers(model, layers)
        reader = cls(model, chosen, separator=int(tokenizer.sep_token_id), tokenizer=tokenizer)
        if saved is not None:
            place = Path(source) / "head.safetensors"
            try:
                reader.head.load_state_dict(load_tensors(place))
            except RuntimeError as error:
                raise ArtefactError(
                    f"{place} doesn't fit the span network ({error}): expected the parameters saved with the reader"
                ) from error
        check_weights(source)
        return reader

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that `transformers.AutoModel` and `AutoTokenizer` open, the span network beside it."""
        facts = {"settings": asdict(self.settings), "fingerprint": self.fingerprint()}
        with model_folder(Path(folder), format=KIND, version=FORMAT_VERSION, facts=facts) as staged:
            save_part(staged, self.model, self.head.state_dict(), self.tokenizer)

    def in_bfloat16(self) -> SpanReader:
        """A copy for answering, whose transformer computes in bfloat16; the span network keeps its precision.

        Takes about half of the time on a CPU with AVX-512 BF16 or AMX, and many times more on one without.
        """
        reader = deepcopy(self).requires_grad_(False)
        reader.model.to(torch.bfloat16)
        attend_row_by_row(reader.model)
        return reader

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Every parameter once, by role: the transformer is the ``reader``, the span network the ``head``."""
        return {"reader": list(self.model.parameters()), "head": list(self.head.parameters())}

    def fingerprint(self) -> str:
        """Of all parameters and of the settings that shape a score."""
        shaping = (self.settings.segments, self.max_length, self.settings.max_width)
        return fingerprint_module(self, *map(str, shaping))

    @property
    def device(self) -> torch.device:
        return self.head.score.weight.device

    @property
    def max_width(self) -> int:
        return self.settings.max_width

    # ------------------------------------------------------------ reading

    def span_logits(
        self, query: Tokens, body: Tokens, query_of_N: Tensor, *, before_N: Tensor | None = None
    ) -> SpanLogits:
        """Score every span of each body under its question.

        query: B questions with their specials. body: N passage bodies without, of any length, 0 included.
        query_of_N: Long[N], the question that body n is read with.
        before_N: Long[N], so many first tokens of each body (a title and its [SEP]) are read but hold no answer.

        S goes by the longest body that was read. Memory: a pass works on `token_budget` tokens at a time; beyond it
        there is one number a span. UsageError for a question that leaves no room for a passage.
        """
        query, body, query_of_N = query.to(self.device), body.to(self.device), query_of_N.to(self.device)
        if len(body) != len(query_of_N):
            raise UsageError(
                f"found {len(body)} bodies for {len(query_of_N)} pairs: expected one body for each question and passage"
            )
        if len(body) == 0:
            return _spans(torch.zeros(0, 0, self.max_width, device=self.device), query_of_N)
        joint = join(query, body, query_of_N, separator=self.separator, max_length=self.max_length)
        first_N = joint.body_start_N if before_N is None else joint.body_start_N + before_N.to(self.device)
        count_N = (joint.body_end_N - first_N).clamp(min=0)
        longest = int(count_N.max())

        def read(tokens: Tokens, index: Tensor) -> Tensor:
            """Float[n, L, W]"""
            assert self.settings.segments is not None
            hidden_NTH = hidden_states(self.model, tokens, segments=self.settings.segments).last_hidden_state
            position_L = torch.arange(int(count_N[index].max()), device=self.device)
            # Behind the end of a shorter body any position will do: its spans are not valid.
            place_NL = (first_N[index, None] + position_L).clamp(max=tokens.ids.shape[1] - 1)
            hidden_NLH = hidden_NTH.gather(1, place_NL[..., None].expand(-1, -1, hidden_NTH.shape[-1]))
            return nn.functional.pad(self._score(hidden_NLH), (0, 0, 0, longest - len(position_L)))

        # Without a backward pass a chunk costs little beside its tokens, so padding is avoided more keenly.
        chunk_cost = None if torch.is_grad_enabled() or self.device.type != "cpu" else READING_CHUNK_COST
        return _spans(by_length(read, joint.tokens, self.token_budget, chunk_cost), count_N)

    def _score(self, hidden_NLH: Tensor) -> Tensor:
        """Float[N, L, W] in full precision. The L * W vectors of D numbers are made again for the backward pass:
        they are the largest thing in a step and cheap to make."""
        if hidden_NLH.dtype in (torch.float16, torch.bfloat16):
            hidden_NLH = hidden_NLH.float()
        with torch.autocast(hidden_NLH.device.type, enabled=False):
            if torch.is_grad_enabled() and hidden_NLH.requires_grad:
                again: Tensor = checkpoint(self.head, hidden_NLH, use_reentrant=False, preserve_rng_state=False)
                return again
            once: Tensor = self.head(hidden_NLH)
            return once


def _spans(score_NLW: Tensor, count_N: Tensor) -> SpanLogits:
    """Scores by start and width as one list of spans, and which of them lie within the first `count_N` pieces."""
    _, length, width = score_NLW.shape
    start_S = torch.arange(length, device=score_NLW.device).repeat_interleave(width)
    end_S = start_S + torch.arange(1, width + 1, device=score_NLW.device).repeat(length)
    return SpanLogits(score_NLW.flatten(1), end_S <= count_N[:, None], start_S, end_S)


def _saved(source: str | Path) -> tuple[SpanSettings | None, bool | None]:
    """Settings of a saved span reader, and whether another model of ours had segments; None where nothing says so."""
    folder = Path(source)
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    kind = manifest.get("format") if isinstance(manifest, dict) else None
    if kind in (None, KIND):
        facts = read_model_facts(source, format=KIND, version=FORMAT_VERSION)
        return (None if facts is None else SpanSettings(**facts["settings"])), None
    facts = read_json(folder / SETTINGS) if (folder / SETTINGS).exists() else None
    if not isinstance(facts, dict) or "settings" not in facts:
        raise ArtefactError(f"{folder} holds a {kind}: expected a reader, an encoder, or a model of transformers")
    return None, facts["settings"].get("segments")

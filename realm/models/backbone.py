"""Hugging Face models as we use them: opened quietly, cut to some layers, saved whole.

Legend for shapes: N sequences, L tokens, H hidden size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realm.errors import ArtefactError, RealmError, UnavailableError, UsageError
from realm.types import Tokens

SAFE: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
"""Of every model that is opened: its weights are numbers and its code is that of `transformers`."""


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and load reports of `transformers`: a new head is our intention, not news to the
    user."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def opening(source: str | Path) -> Iterator[None]:
    """`quiet`, and whatever goes wrong becomes one line that names the source.

    Raises ArtefactError for a folder that is not a whole model, UnavailableError for a hub name that can't be fetched.
    """
    from safetensors import SafetensorError

    name = str(source)
    looks_like_path = isinstance(source, Path) or name.count("/") > 1 or name.startswith((".", "/", "~")) or not name
    is_hub_name = not looks_like_path and not Path(source).exists()
    try:
        with quiet():
            yield
    except RealmError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        found = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        if is_hub_name:
            raise UnavailableError(
                f"can't get the model {name!r} from the Hugging Face hub ({found}): check the name and the network, "
                "or give the folder of a saved model"
            ) from error
        if not Path(source).exists():
            raise ArtefactError(
                f"no folder {name}: expected a model saved by realm or transformers, or a hub name"
            ) from None
        raise ArtefactError(
            f"{name} can't be opened as a model ({found}): expected config.json, model.safetensors and a "
            "tokenizer, whole; "
            "save or download it again"
        ) from error


def load_tokenizer(source: str | Path) -> Any:
    """The tokenizer beside a model; errors as in `opening`."""
    from transformers import AutoTokenizer

    with opening(source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def pieces(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids without specials and without truncation."""
    if not texts:
        return []
    found: list[list[int]] = tokenizer(
        list(texts),
        add_special_tokens=False,
        truncation=False,
        padding=False,
        verbose=False,
        return_attention_mask=False,
    )["input_ids"]
    return found


def load_backbone(source: str | Path, *, pooler: bool) -> tuple[nn.Module, bool]:
    """The bare encoder in float32, and whether a trained pooler came with it.

    Attention is the library's choice: sdpa wherever the class has it.
    pooler: keep BERT's pooler (dense and tanh over [CLS]) if the class has one and the checkpoint its weights.
    """
    from transformers import MODEL_MAPPING, AutoConfig, AutoModel

    with opening(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        model_class: Any = MODEL_MAPPING.get(type(config), None)
        options: dict[str, Any] = {"dtype": torch.float32}
        # Not every class has a pooler to leave out, and one that hasn't refuses the word.
        takes_pooler = (
            isinstance(model_class, type) and "add_pooling_layer" in inspect.signature(model_class).parameters
        )
        if takes_pooler:
            options["add_pooling_layer"] = pooler
        model, report = AutoModel.from_pretrained(source, output_loading_info=True, **SAFE, **options)
    has_pooler = pooler and takes_pooler and not any("pooler" in name for name in report["missing_keys"])
    if takes_pooler and not has_pooler:
        model.pooler = None
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    if missing:
        raise ArtefactError(
            f"{source} lacks {len(missing)} weights of its {type(model).__name__}, first {missing[0]}: expected a "
            "whole model"
        )
    return model, has_pooler


def load_masked_model(source: str | Path) -> tuple[Any, bool]:
    """A masked language model in float32, and whether (part of) its head is new because the checkpoint has none.

    ArtefactError when weights of the encoder itself are missing, UsageError for a family without a masked-token head.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig, AutoModelForMaskedLM

    with opening(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        if type(config) not in MODEL_FOR_MASKED_LM_MAPPING:
            raise UsageError(
                f"found a model of type {config.model_type!r} in {source}: expected one with a masked-token head"
            )
        model, report = AutoModelForMaskedLM.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, **SAFE
        )
    absent = set(report["missing_keys"])
    missing = sorted(name for name in absent if name.startswith(f"{model.base_model_prefix}."))
    if missing:
        raise ArtefactError(
            f"{source} lacks {len(missing)} weights of its encoder, first {missing[0]}: expected a whole model"
        )
    return model, bool(absent)


def keep_layers(model: Any, layers: int | Sequence[int] | None) -> None:
    """Cut a transformer, in place, to its first `layers` layers, or to the layers of the given numbers, in that order.

    0 leaves the embedding layer alone: word pieces, positions and their norm, a bag of words that can learn.
    The saved model opens as an ordinary, shallower one. UsageError where there are no such layers.
    """
    if layers is None:
        return
    total = int(model.config.num_hidden_layers)
    numbers = tuple(range(layers)) if isinstance(layers, int) else tuple(int(number) for number in layers)
    if layers != 0 and (not numbers or min(numbers) < 0 or max(numbers) >= total):
        raise UsageError(f"found layers={layers}: expected 0 to {total} layers, or their numbers from 0 to {total - 1}")
    stacks = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and name in ("layer", "layers") and len(child) == total
    ]
    if len(stacks) != 1:
        raise UsageError(
            f"can't tell the layers of a {type(model).__name__}: expected a model with one stack; set layers=None"
        )
    parent, name, stack = stacks[0]
    setattr(parent, name, nn.ModuleList(stack[number] for number in numbers))
    model.config.num_hidden_layers = len(numbers)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[number] for number in numbers]


def set_dropout(model: nn.Module, probability: float | None) -> None:
    """Set every dropout of a transformer; None keeps the checkpoint's own."""
    if probability is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
    config: Any = getattr(model, "config", None)
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
        if hasattr(config, name):
            setattr(config, name, probability)


def freeze_layers(model: Any, count: int) -> None:
    """Leave the embedding layer and the first `count` layers as they were loaded; 0 leaves everything trainable.

    No gradient is computed below the first layer that is trained. UsageError when there are not so many layers.
    """
    if count == 0:
        return
    backbone = model.base_model
    stacks = [
        module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and name.split(".")[-1] in ("layer", "layers")
    ]
    total = len(stacks[0]) if stacks else 0
    if count > total:
        raise UsageError(f"found freeze_layers={count}: expected at most {total}")
    for module in (backbone.embeddings, *stacks[0][:count]):
        module.requires_grad_(False)


def freeze_words(model: Any, frozen: bool) -> None:
    """Keep the word embeddings (and a vocabulary head tied to them) out of training."""
    model.get_input_embeddings().weight.requires_grad_(not frozen)


def max_tokens(model: Any) -> int | None:
    """Longest input the position embeddings allow, specials counted; None when the model has no such limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None or positions < 0:
        return None
    # RoBERTa and its kin number positions from after the padding id.
    embeddings = getattr(model, "embeddings", None)
    offset = getattr(embeddings, "padding_idx", None)
    return int(positions) - (int(offset) + 1 if offset is not None else 0)


def hidden_states(model: Any, tokens: Tokens, *, segments: bool) -> Any:
    """The model's output for padded tokens; `.last_hidden_state` is Float[N, L, H].

    segments: hand over the segment ids; else, or where the model knows only one, they are all 0.
    UsageError for an input longer than the model's position embeddings.
    """
    limit = max_tokens(model)
    if limit is not None and tokens.ids.shape[1] > limit:
        raise UsageError(
            f"found an input of {tokens.ids.shape[1]} tokens: {type(model).__name__} takes at most {limit}; cut "
            "the text"
        )
    mask = tokens.mask
    padding = getattr(model.config, "pad_token_id", None) or 0
    inputs: dict[str, Tensor] = {"input_ids": tokens.ids.masked_fill(~mask, padding), "attention_mask": mask.long()}
    if "token_type_ids" in inspect.signature(model.forward).parameters:
        use = segments and getattr(model.config, "type_vocab_size", 0) > 1
        inputs["token_type_ids"] = tokens.types.masked_fill(~mask, 0) if use else torch.zeros_like(tokens.types)
    return model(**inputs)

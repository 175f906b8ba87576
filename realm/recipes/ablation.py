"""The two halves of an ablation's budget: pre-training with the paper's kind of reader, and fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from realm.config import PretrainConfig, override
from realm.errors import UsageError
from realm.recipes.finetuning import small as small_finetuning
from realm.recipes.pretraining import small
from realm.recipes.variants import joint
from realm.settings import explain
from realm.settings_finetune import FinetuneConfig

HALVES = ("pretrain", "finetune")


def build_ablation(settings: Sequence[str] = (), steps: int | None = None) -> tuple[PretrainConfig, FinetuneConfig]:
    """The recipe `small` of both, with the joint reader, whose network fine-tuning goes on with.

    settings: ``name=value`` goes to every half that has the name (reader.layers: to both), ``pretrain:name=value`` and
    ``finetune:name=value`` to one. steps: of pre-training, short for ``realm.steps``. Refreshes are synchronous, so
    that how stale an index is does not hang on timing. UsageError for a name that neither has, or a reader in
    pre-training that reads the query alone: nothing of it carries over, and half of the rows would mean nothing.
    """
    base = override(small(), ["probe.size=200", "refresh.mode=sync"])
    pretraining = override(base, joint(True)(base))
    finetuning = override(small_finetuning(), ["qa.retriever=dense"])  # the paper's
    names = {
        "pretrain": {setting.name for setting in explain(pretraining)} | set(PretrainConfig.ALIASES),
        "finetune": {setting.name for setting in explain(finetuning)} | set(FinetuneConfig.ALIASES),
    }
    given: dict[str, list[str]] = {"pretrain": [] if steps is None else [f"realm.steps={steps}"], "finetune": []}
    for setting in settings:
        half, colon, rest = setting.partition(":")
        if colon and half in HALVES:
            given[half].append(rest)
            continue
        name = setting.partition("=")[0].strip()
        halves = [half for half in HALVES if name in names[half]]
        for half in halves or HALVES[:1]:  # the first says what is wrong with a name that neither has
            given[half].append(setting)
    pretraining = override(pretraining, given["pretrain"])
    if pretraining.reader.interaction != "joint":
        raise UsageError(
            f"found reader.interaction={pretraining.reader.interaction}: expected joint; of another reader nothing "
            "goes on into fine-tuning, so that the rows about the encoder would mean nothing"
        )
    if pretraining.reader.layers is not None:  # the same network on both sides of the comparison
        finetuning = override(finetuning, [f"reader.layers={pretraining.reader.layers}"])
    return pretraining, override(finetuning, given["finetune"])

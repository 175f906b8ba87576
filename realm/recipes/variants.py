"""Variants of a pre-training recipe, each a few settings changed: what an ablation takes away or puts in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from realm.config import PretrainConfig, override
from realm.errors import UsageError

Changes = Callable[[PretrainConfig], Sequence[str]]
"""A configuration to the settings that make the variant of it."""


def same(*settings: str) -> Changes:
    """The same settings whatever the configuration."""
    return lambda config: settings


def rare_refresh(config: PretrainConfig) -> Sequence[str]:
    """The paper's "30x stale MIPS": the index is refreshed 30 times less often (Guu et al. 2020, table 2)."""
    return (f"refresh.every_steps={30 * config.refresh.every_steps}",)


def joint(copy_head: bool) -> Changes:
    """The paper's reader, which reads query and passage together. It costs more a candidate: smaller steps, and two
    fifths as many, take about the same time as the recipe's (3.6 s against 1.5 s a step on one thread). The index is
    refreshed as many times."""

    def changes(config: PretrainConfig) -> Sequence[str]:
        return (
            "reader.interaction=joint",
            f"reader.copy_head={copy_head}",
            "realm.batch_size=16",
            "realm.num_candidates=8",
            f"realm.steps={2 * config.realm.steps // 5}",
            f"refresh.every_steps={max(1, 2 * config.refresh.every_steps // 5)}",
        )

    return changes


VARIANTS: Mapping[str, Changes] = {
    "realm": same(),
    "random-token": same("data.masking=random-token"),
    "random-span": same("data.masking=random-span"),
    "rare-refresh": rare_refresh,
}
"""What table 2 of the paper pre-trains."""


def vary(config: PretrainConfig, variant: str) -> PretrainConfig:
    """A variant of a configuration. UsageError for a name that isn't there."""
    if variant not in VARIANTS:
        raise UsageError(f"found the variant {variant!r}: expected one of {', '.join(VARIANTS)}")
    return override(config, VARIANTS[variant](config))

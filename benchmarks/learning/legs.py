"""The runs by name: each is the recipe `small` with a few settings changed.

Settings given on the command line come on top of the recipe; ``LEG:name=value`` concerns one leg alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from realm.config import PretrainConfig, override
from realm.errors import UsageError
from realm.recipes import build
from realm.recipes.variants import Changes, joint, rare_refresh, same

from .design import design_legs

ICT_STEPS_A_REALM_STEP = 5
"""How many steps of ICT take the time of one REALM step of the recipe (0.29 s against 1.5 s on one thread, a share of
the refreshes counted). `ict-only` makes up for the REALM steps it goes without; give ``ict-only:ict.steps=N`` for
another number."""
EVERYWHERE = ("refresh.mode=sync", "loop.threads=1", "loop.tensorboard=false", "loop.keep_checkpoints=1000")
"""One core a run, and refreshes on it: wall times of legs can be compared, and the result does not hang on timing."""


def _ict_only(config: PretrainConfig) -> Sequence[str]:
    return ("realm.steps=0", f"ict.steps={config.ict.steps + ICT_STEPS_A_REALM_STEP * config.realm.steps}")


LEGS: Mapping[str, Changes] = {
    "ict-realm": same(),
    "ict-only": _ict_only,
    "realm-only": same("ict.steps=0"),
    # ---- the parts, one at a time
    "salient": same(),
    "random-token": same("data.masking=random-token"),
    "random-span": same("data.masking=random-span"),
    "no-null": same("realm.null_passage=false", "encoder.null_bias=none"),
    "no-ict": same("ict.steps=0"),
    "no-exclusion": same("data.exclude=none", "data.exclude_duplicates=false"),
    "joint": joint(True),
    "joint-no-copy": joint(False),
    "rare-refresh": rare_refresh,
    # ---- what the retriever is trained by
    "emdr2": same("realm.objective=emdr2"),
    "perplexity-distillation": same("realm.objective=perplexity-distillation"),
    "leave-one-out": same("realm.objective=leave-one-out"),
    **{name: same(*settings) for name, settings in design_legs().items()},
}
CURVES = ("ict-realm", "ict-only", "realm-only")
DEFAULTS = ("salient", "ict-realm")
"""Legs that change nothing."""


def config_of(leg: str, seed: int, settings: Sequence[str] = (), points: int = 8) -> PretrainConfig:
    """The configuration of a leg. points: checkpoints of its longer stage, unless `settings` say how often.

    UsageError for a leg that isn't there, or a setting that isn't.
    """
    if leg not in LEGS:
        raise UsageError(f"found the leg {leg!r}: expected one of {', '.join(LEGS)}")
    shared, own = [], []
    for setting in settings:
        scope, colon, rest = setting.partition(":")
        if not colon or "=" in scope:
            shared.append(setting)
        elif scope not in LEGS:
            raise UsageError(f"found the setting {setting!r}: {scope!r} is no leg; expected one of {', '.join(LEGS)}")
        elif scope == leg:
            own.append(rest)
    base = build("small", [*EVERYWHERE, *shared])
    config = override(base, [*LEGS[leg](base), *own, f"loop.seed={seed}"])
    if not any(name.strip().startswith("loop.checkpoint_every") for name in (*shared, *own)):
        every = max(1, max(config.ict.steps, config.realm.steps) // points)
        config = override(config, [f"loop.checkpoint_every={every}"])
    return config

"""How much is tried of what hypothesis draws: little in every run, much when asked for."""

from __future__ import annotations

from hypothesis import settings


def few(**little: int) -> settings:
    """`little` in an ordinary run; what the profile says under ``--hypothesis-profile long``."""
    return settings() if settings.get_current_profile_name() == "long" else settings(**little)  # type: ignore[arg-type]

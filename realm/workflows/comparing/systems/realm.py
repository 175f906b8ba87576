"""REALM (Guu et al. 2020): retriever and reader start from retrieval-augmented pre-training."""

from __future__ import annotations

from realm.workflows.comparing.systems.tuned import Tuned

REALM = Tuned("REALM")
"""Fine-tuned from a run, exactly as ORQA is: the start is the difference."""

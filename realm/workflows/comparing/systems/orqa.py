"""ORQA (Lee, Chang & Toutanova 2019): the retriever starts from the inverse cloze task alone, the reader from a
language model that never saw a retrieved passage."""

from __future__ import annotations

from realm.workflows.comparing.systems.tuned import Tuned

ORQA = Tuned("ORQA")
"""Fine-tuned from the warm start of a run."""

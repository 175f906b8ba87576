"""BERT's optimizer and schedule (Devlin et al. 2019; the recipe REALM and ORQA train with).

Adam with decoupled weight decay, *without* the bias correction of Kingma & Ba (2015), a linear warm-up
and a linear decay to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.adamw import adamw


class BertAdam(torch.optim.Optimizer):
    """Adam with decoupled weight decay and optional bias correction.

    Without correction the first updates are about three times larger than Adam's, which the warm-up is there
    to absorb. Each parameter group carries its own ``lr`` and ``weight_decay``.
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)
        self.bias_correction = bias_correction

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if closure is not None:
            raise TypeError("BertAdam takes no closure")
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self.state[p] = {
                        "step": torch.zeros((), dtype=torch.float32, device=p.device),
                        "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p),
                    }
            steps = [self.state[p]["step"] for p in params]
            if not self.bias_correction:
                torch._foreach_add_(steps, 1)
                # The correction divides by 1 - beta**n, which is 1 after infinitely many steps.
                steps = [torch.full_like(n, math.inf) for n in steps]
            beta1, beta2 = group["betas"]
            # One pass over parameters, gradients and moments: written out, they are read and written a dozen times.
            adamw(
                params,
                [p.grad for p in params if p.grad is not None],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=beta1,
                beta2=beta2,
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )


def parameter_groups(
    roles: Mapping[str, Sequence[nn.Parameter]], rates: Mapping[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """Optimizer groups: a learning rate a role; no decay on vectors (biases and LayerNorms).

    A parameter that two roles share (a tied tower) is trained once, under the first of them.
    """
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for role, parameters in roles.items():
        fresh = []
        for parameter in parameters:
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                fresh.append(parameter)
        decayed = [p for p in fresh if p.ndim > 1]
        plain = [p for p in fresh if p.ndim <= 1]
        for params, decay in ((decayed, weight_decay), (plain, 0.0)):
            if params:
                groups.append(
                    {"params": params, "lr": rates[role], "peak_lr": rates[role], "weight_decay": decay, "role": role}
                )
    return groups


def bert_warmup_steps(num_steps: int) -> int:
    """The release's rule: min(10,000, max(100, steps / 10)), and never more than half of a short run."""
    return min(10_000, max(100, num_steps // 10), max(1, num_steps // 2))


def linear_schedule(step: int, num_steps: int, warmup_steps: int) -> float:
    """Multiplier of the peak learning rate for step (from 0): linear up, then linear down to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return max(0.0, (num_steps - step) / max(1, num_steps - warmup_steps))


def set_learning_rate(optimizer: torch.optim.Optimizer, multiplier: float) -> None:
    """Scale every group's peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * multiplier

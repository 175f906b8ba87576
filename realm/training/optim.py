"""BERT's optimizer and schedule (Devlin et al. 2019; the recipe REALM and ORQA train with).

Adam with decoupled weight decay, *without* the bias correction of Kingma & Ba (2015), a linear warm-up
and a linear decay to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


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
                        "step": torch.zeros((), dtype=torch.float32),
                        "exp_avg": torch.zeros_like(p),
                        "exp_avg_sq": torch.zeros_like(p),
                    }
            grads = [p.grad for p in params]
            first = [self.state[p]["exp_avg"] for p in params]
            second = [self.state[p]["exp_avg_sq"] for p in params]
            beta1, beta2 = group["betas"]
            torch._foreach_lerp_(first, grads, 1 - beta1)
            torch._foreach_mul_(second, beta2)
            torch._foreach_addcmul_(second, grads, grads, 1 - beta2)
            denominator = torch._foreach_sqrt(second)
            rates = [group["lr"]] * len(params)
            for p in params:
                self.state[p]["step"] += 1
            if self.bias_correction:
                # By parameter: one that got no gradient in some step has taken fewer.
                steps = [float(self.state[p]["step"]) for p in params]
                rates = [group["lr"] / (1 - beta1**n) for n in steps]
                torch._foreach_div_(denominator, [(1 - beta2**n) ** 0.5 for n in steps])
            torch._foreach_add_(denominator, group["eps"])
            # Decay is scaled by the learning rate and not by the moments ("decoupled").
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_addcdiv_(params, first, denominator, [-rate for rate in rates])


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

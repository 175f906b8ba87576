"""BERT's Adam by hand, the groups it is given, and the schedule."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from realm.training.optim import BertAdam, bert_warmup_steps, linear_schedule, parameter_groups, set_learning_rate


def by_hand(value: float, gradients: list[float], lr: float, decay: float, eps: float = 1e-6) -> float:
    """Devlin et al.'s update in plain numbers: no bias correction, decay beside the moments."""
    m = v = 0.0
    for g in gradients:
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        value = value - lr * (m / (math.sqrt(v) + eps) + decay * value)
    return value


def test_two_steps_are_those_of_bert() -> None:
    start, gradients = [2.0, -1.0], [[0.5, 3.0], [-0.25, 1e-7]]
    p = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimizer = BertAdam([p], lr=0.01, weight_decay=0.1)
    for gradient in gradients:
        p.grad = torch.tensor(gradient, dtype=torch.float64)
        optimizer.step()
    wanted = [by_hand(start[i], [g[i] for g in gradients], 0.01, 0.1) for i in range(2)]
    assert p.tolist() == pytest.approx(wanted, rel=1e-12)
    # The first update is 0.1 / sqrt(0.001) learning rates long, whatever the gradient.
    assert by_hand(0.0, [7.0], 1.0, 0.0) == pytest.approx(-math.sqrt(10), rel=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_with_bias_correction_it_is_adamw(decay: float) -> None:
    torch.manual_seed(0)
    start = [torch.randn(3, 2, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]
    ours, theirs = ([nn.Parameter(value.clone()) for value in start] for _ in range(2))
    mine = BertAdam(ours, lr=0.02, betas=(0.8, 0.95), eps=1e-7, weight_decay=decay, bias_correction=True)
    adamw = torch.optim.AdamW(theirs, lr=0.02, betas=(0.8, 0.95), eps=1e-7, weight_decay=decay)
    for step in range(6):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        if step in (0, 3):  # one parameter has taken fewer steps than the other
            ours[1].grad = theirs[1].grad = None
        mine.step()
        adamw.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_numbers_and_transposed_matrices_are_updated_alike() -> None:
    """One pass goes over memory as it lies: a parameter, its gradient and its moments must lie alike."""
    torch.manual_seed(0)
    value, gradient = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    level, slope = torch.tensor(0.7, dtype=torch.float64), 0.3
    plain, turned = nn.Parameter(value.clone()), nn.Parameter(value.t().contiguous().t())
    assert not turned.is_contiguous()
    number = nn.Parameter(level.clone())
    optimizer = BertAdam([plain, turned, number], lr=0.1, weight_decay=0.2)
    for _ in range(2):
        optimizer.zero_grad()
        ((plain * gradient).sum() + (turned * gradient).sum() + slope * number).backward()
        optimizer.step()
    torch.testing.assert_close(plain, turned, rtol=1e-12, atol=0)
    assert number.item() == pytest.approx(by_hand(0.7, [0.3, 0.3], 0.1, 0.2), rel=1e-12)
    assert plain[1, 2].item() == pytest.approx(by_hand(float(value[1, 2]), [float(gradient[1, 2])] * 2, 0.1, 0.2))


def test_what_has_no_gradient_stays() -> None:
    still, moving = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = BertAdam([still, moving], lr=0.1, weight_decay=0.5)
    moving.grad = torch.ones(2)
    optimizer.step()
    assert still.tolist() == [1.0, 1.0]
    assert not optimizer.state[still]
    assert moving.tolist() != [1.0, 1.0]
    with pytest.raises(TypeError, match="closure"):
        optimizer.step(lambda: 0.0)


def test_groups_have_their_rates_and_only_matrices_decay() -> None:
    layer, norm = nn.Linear(3, 2), nn.LayerNorm(2)
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    level = nn.Parameter(torch.zeros(()))
    shared = layer.weight
    groups = parameter_groups(
        {"retriever": [*layer.parameters(), *norm.parameters(), frozen], "reader": [shared, level], "none": []},
        {"retriever": 0.1, "reader": 0.2, "none": 0.3},
        0.01,
    )
    found = [(g["role"], g["lr"], g["weight_decay"], [id(p) for p in g["params"]]) for g in groups]
    assert found == [
        ("retriever", 0.1, 0.01, [id(layer.weight)]),
        ("retriever", 0.1, 0.0, [id(layer.bias), id(norm.weight), id(norm.bias)]),
        ("reader", 0.2, 0.0, [id(level)]),
    ]
    optimizer = BertAdam(groups, lr=0.0)
    for multiplier in (0.5, 0.5, 1.0):  # of the peak, not of what it was
        set_learning_rate(optimizer, multiplier)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.1 * multiplier] * 2 + [0.2 * multiplier])


def test_the_schedule_goes_up_then_down_to_zero() -> None:
    values = [linear_schedule(step, 10, 4) for step in range(12)]
    assert values == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0])
    assert [linear_schedule(step, 2, 0) for step in range(2)] == [1.0, 0.5]
    assert linear_schedule(0, 1, 1) == 1.0


@pytest.mark.parametrize(
    ("steps", "warmup"),
    [(0, 1), (1, 1), (2, 1), (6, 3), (100, 50), (200, 100), (500, 100), (5_000, 500), (200_000, 10_000)],
)
def test_the_warm_up_is_a_tenth_within_bounds(steps: int, warmup: int) -> None:
    assert bert_warmup_steps(steps) == warmup

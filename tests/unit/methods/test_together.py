"""Two objectives in one loss: the sum of both, gradients included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from toy_realm import ToyCorpus, close, gradients, masked_batch, networks, pair_batch, realm_of

from realm.methods.ict import InverseCloze
from realm.methods.together import Together
from realm.types import Loss, TwoBatches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.mark.parametrize("weight", [0.3, 2.0])
def test_the_loss_and_its_gradient_are_the_sum_of_both(folder: Path, weight: float) -> None:
    tokenizer: Any = tiny.tiny_tokenizer()
    encoder, reader = networks(folder)
    realm, cloze = realm_of(encoder, reader, ToyCorpus(tokenizer)), InverseCloze(encoder)
    batch = TwoBatches(masked_batch(tokenizer), pair_batch(tokenizer))
    method = Together(realm, cloze, weight=weight, name="ict")

    alone = []
    for part, of_it in ((realm, batch.first), (cloze, batch.second)):
        encoder.zero_grad()
        reader.zero_grad()
        loss = part.loss(of_it)  # type: ignore[attr-defined]
        loss.total.backward()
        alone.append((loss, gradients(encoder), gradients(reader)))
    (first, by_realm, by_reader), (second, by_cloze, nothing) = alone
    assert not nothing

    encoder.zero_grad()
    reader.zero_grad()
    found = method.loss(batch)
    found.total.backward()
    torch.testing.assert_close(found.total, first.total + weight * second.total)
    zero = torch.zeros(())
    close(
        gradients(encoder),
        {
            name: by_realm.get(name, zero) + weight * by_cloze.get(name, zero)
            for name in by_realm.keys() | by_cloze.keys()
        },
    )
    close(gradients(reader), by_reader)
    # The figures of both, and the first one's word on what it is the mean of.
    assert float(found.stats["loss"]) == pytest.approx(float(first.stats["loss"]))
    assert float(found.stats["ict_loss"]) == pytest.approx(float(second.stats["loss"]))
    assert found.stats.keys() == {*first.stats, *(f"ict_{name}" for name in second.stats)}
    assert found.weight is not None and first.weight is not None and int(found.weight) == int(first.weight)
    assert found.per_example is not None and len(found.per_example) == 4


def test_what_is_trained_and_saved_is_the_first_one_s(folder: Path) -> None:
    encoder, reader = networks(folder)
    realm = realm_of(encoder, reader, ToyCorpus(tiny.tiny_tokenizer()))
    method = Together(realm, InverseCloze(encoder), weight=1.0, name="ict")
    assert method.modules() == realm.modules()
    assert method.parameter_groups().keys() == realm.parameter_groups().keys()


def test_over_processes_each_loss_is_the_mean_of_its_own_examples() -> None:
    """The first loss weighs the processes, with 2 and 3 terms; the second has 4 and 1 of its own."""
    first_W, second_W = torch.tensor([2.0, 3.0]), torch.tensor([4.0, 1.0])
    second_loss_W = torch.tensor([0.5, 7.0])

    def loss(value: torch.Tensor, weight: torch.Tensor) -> Loss:
        return Loss(value, {}, weight=weight)

    sums = torch.stack([first_W.sum(), second_W.sum()]).double()
    shares = [
        Together._share(loss(torch.zeros(()), first), loss(second_loss, second), lambda own: sums)
        for first, second, second_loss in zip(first_W, second_W, second_loss_W, strict=True)
    ]
    found = sum(first_W * torch.tensor(shares) * second_loss_W) / first_W.sum()
    torch.testing.assert_close(found, (second_W * second_loss_W).sum() / second_W.sum())
    assert Together._share(loss(found, first_W[0]), loss(found, second_W[0]), lambda own: own) == 1.0

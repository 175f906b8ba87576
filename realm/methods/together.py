"""Two objectives in one loss, such as REALM with the task of its warm start kept up beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from realm.types import Loss, Method, Trainable, TwoBatches


class Together:
    """A method, and a second one over the same networks whose loss is added with a weight."""

    def __init__(self, first: Method, second: Method, *, weight: float, name: str) -> None:
        """
        second: trains nothing that `first` does not train, too; it is `first` that is saved.
        weight: of the second loss against the first, each of them a mean over its own examples.
        name: goes before the figures of the second, as in ``ict_loss``.
        """
        self.first, self.second, self.weight, self.name = first, second, weight, name

    def loss(self, batch: TwoBatches) -> Loss:
        """first + weight * second. Parts of a step and ranks are weighed by what the first loss is the mean of."""
        first, second = self.first.loss(batch.first), self.second.loss(batch.second)
        stats = {**first.stats, **{f"{self.name}_{name}": value for name, value in second.stats.items()}}
        return first._replace(total=first.total + self.weight * second.total, stats=stats)

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return self.first.parameter_groups()

    def modules(self) -> Mapping[str, Trainable]:
        return self.first.modules()

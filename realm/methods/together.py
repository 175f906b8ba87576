"""Two objectives in one loss, such as REALM with the task of its warm start kept up beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from realm.types import Loss, Method, Trainable, TwoBatches


class Together:
    """A method, and a second one over the same networks whose loss is added with a weight."""

    def __init__(
        self,
        first: Method,
        second: Method,
        *,
        weight: float,
        name: str,
        total: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """
        second: trains nothing that `first` does not train, too; it is `first` that is saved.
        weight: of the second loss against the first, each of them a mean over its own examples.
        name: goes before the figures of the second, as in ``ict_loss``.
        total: the sum over the processes; None for one.
        """
        self.first, self.second, self.weight, self.name = first, second, weight, name
        self.total = total

    def loss(self, batch: TwoBatches) -> Loss:
        """first + weight * second. Parts of a step and ranks are weighed by what the first loss is the mean of."""
        first, second = self.first.loss(batch.first), self.second.loss(batch.second)
        stats = {**first.stats, **{f"{self.name}_{name}": value for name, value in second.stats.items()}}
        share = 1.0 if self.total is None else self._share(first, second, self.total)
        return first._replace(total=first.total + self.weight * share * second.total, stats=stats)

    @staticmethod
    def _share(first: Loss, second: Loss, total: Callable[[Tensor], Tensor]) -> float:
        """What the second loss is multiplied with here so that over the processes, which are weighed by the first, it
        comes out as the mean over all of its own examples."""
        own = torch.tensor([1.0 if loss.weight is None else float(loss.weight) for loss in (first, second)])
        both = total(own.double())
        return float(both[0] / own[0].clamp(min=1) * own[1] / both[1])

    def parameter_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return self.first.parameter_groups()

    def modules(self) -> Mapping[str, Trainable]:
        return self.first.modules()

"""A refresh of several processes: rank 0 publishes and looks for indexes, all take one at the same step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from realm.search.refresh import Refresh
from realm.search.shelf import Fresh
from realm.training import parallel
from realm.training.ranks import Ranks


def share_refresh(
    ranks: Ranks, open_refresh: Callable[[], Refresh], share: Callable[[int], None] | None = None
) -> Refresh:
    """The refresh of this rank; `open_refresh` is called on rank 0 alone. share: see `SharedRefresh`."""
    # It clears away what lies there of a future that was given up; the others look after that.
    with ranks.rank_0_first("the refresher"):
        refresh = open_refresh() if ranks.first else None
    return SharedRefresh(refresh, share)


class SharedRefresh:
    """A `Refresh` whose every call is made on all ranks, but for `pending`, which may be asked on any."""

    def __init__(self, refresh: Refresh | None, share: Callable[[int], None] | None = None) -> None:
        """refresh: on rank 0. share: called on all ranks with a step whose parameters were published, before rank 0
        looks for its index."""
        self._refresh, self._share = refresh, share
        self._pending: set[int] = set()

    def publish(self, step: int, save: Callable[[Path], object]) -> None:
        """Rank 0 saves: the parameters are the same on all."""
        if self._refresh is not None:
            self._refresh.publish(step, save)
        self._exchange(None)
        if self._share is not None:
            self._share(step)

    def poll(self) -> Fresh | None:
        """What came back to rank 0."""
        fresh = self._refresh.poll() if self._refresh is not None else None
        # A number at every step, and more only when there is more to say.
        (came,) = parallel.of_rank_0([float(fresh is not None)])
        return self._exchange(fresh) if came else None

    def pending(self) -> set[int]:
        """On the ranks that follow, as it was when rank 0 last published or got an index."""
        return self._refresh.pending() if self._refresh is not None else self._pending

    def wait(self, timeout: float | None = None) -> Fresh | None:
        fresh = self._refresh.wait(timeout) if self._refresh is not None else None
        return self._exchange(fresh)

    def close(self) -> None:
        if self._refresh is not None:
            self._refresh.close()

    def _exchange(self, fresh: Fresh | None) -> Fresh | None:
        fresh, self._pending = parallel.everyone((fresh, self.pending()))[0]
        return fresh

"""The metrics that replicas tell, as Prometheus is to see them: counters and histograms summed by backend, so that they
never go back when a replica ends; gauges of living replicas alone.

Replicas tell cumulative values. What a living replica told last is kept; when the replica has ended, that is added to
the base of its backend. Both are saved together, in one file that is written whole. So a controller that comes after
this one finds each replica either living there, and takes what the replica tells again in the place of that, or adds
what it told last where the replica is gone; or finds it in the base. In each case it counts once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from servekit.control import metric_sums
from servekit.control.exposed_names import ExposedNames
from servekit.control.series_limit import SeriesLimit
from servekit.control.store import StoreThread
from servekit.control.told_metrics import BackendBase, ToldByReplica, ToldMetrics
from servekit.errors import StoreError
from servekit.tasks import TaskSet
from servekit.wire.control_frames import MetricFamily, MetricsTold

if TYPE_CHECKING:
    from prometheus_client import Metric

_log = logging.getLogger("servekit.control")

SAVE_EVERY_S = 5.0
MOST_DELETED = 20
"""Backends that are remembered after they were deleted."""


class _SavedMetrics(msgspec.Struct, array_like=True):
    bases: dict[str, BackendBase]
    living: dict[str, ToldByReplica]


class UserMetrics:
    """The metrics of all replicas of an instance. Lives on the controller's loop."""

    def __init__(self, store: StoreThread | None = None) -> None:
        """``store``: for an instance whose controller may be followed by another; None: nothing is saved."""
        self._store = store
        self._living: dict[str, ToldByReplica] = {}
        self._found: dict[str, ToldByReplica] = {}
        """Replicas of an earlier controller that have not begun here."""
        self._bases: dict[str, BackendBase] = {}
        self._limits: dict[str, SeriesLimit] = {}
        self._names = ExposedNames()
        self._deleted: dict[str, None] = {}
        """The names of deleted backends, in the order in which they were."""
        self._version = self._saved_version = 0
        self._saving = asyncio.Lock()
        self._failed = self._saves_later = False
        self._tasks = TaskSet()

    # -- what happens to replicas --------------------------------------------------------------------------------------

    def began(self, replica: str, backend: str) -> None:
        """From now on the replica may tell."""
        self._living[replica] = ToldByReplica(backend)
        found = self._found.pop(replica, None)
        if found is not None:
            self.told(replica, MetricsTold(list(found.families.values()), found.dropped))

    def told(self, replica: str, frame: MetricsTold) -> None:
        living = self._living.get(replica)
        if living is None:  # It has ended: what it told is in the base.
            return
        limit, base = self._limit(living.backend), self._base(living.backend)
        for family in filter(metric_sums.is_sound, frame.families):
            if self._may_show(family, replica):
                family, refused = limit.admit(family, replica)
                living.families[family.name] = family
            else:
                refused = len(family.series)
            base.dropped += max(0, refused - living.refused.get(family.name, 0))
            living.refused[family.name] = refused
        living.dropped = frame.dropped
        self._save_soon()

    async def ended(self, replica: str) -> None:
        """The replica tells no more. Returns when a controller that comes after this one would know what it told."""
        living = self._living.pop(replica, None)
        if living is not None and (living.families or living.dropped):
            self._add_to_base(living)
            self._limit(living.backend).forget_replica(replica)
            await self.save()

    def keep_only(self, backends: Collection[str]) -> None:
        """All others were deleted: forget the first of them, where they are too many."""
        self._deleted = {name: None for name in (*self._deleted, *self._bases) if name not in backends}
        for name in list(self._deleted)[:-MOST_DELETED]:
            del self._deleted[name]
            self._bases.pop(name, None)
            self._limits.pop(name, None)

    # -- what others see -----------------------------------------------------------------------------------------------

    def parts(self, first: Collection[str] = ()) -> Iterator[Metric]:
        """What there is now, a part for each metric and backend, the backends ``first`` before all others; made in
        whatever thread asks for the next one."""
        return ToldMetrics(self._copied_bases(), self._copied_living(), dict(self._names.kinds)).parts(first)

    def of(self, backend: str, metric: str) -> list[MetricFamily]:
        """What there is of one metric of a backend, of replicas that have ended too. To be added up."""
        base = self._bases.get(backend)
        ended = base.families.get(metric, ()) if base is not None else ()
        living = (each.families.get(metric) for each in self._living.values() if each.backend == backend)
        return [*ended, *filter(None, living)]

    def dropped(self) -> dict[str, int]:
        """By backend: how many series were refused here, and how many uses of series in its replicas went nowhere."""
        counts = {backend: base.dropped for backend, base in sorted(self._bases.items())}
        for living in self._living.values():
            counts[living.backend] = counts.get(living.backend, 0) + living.dropped
        return counts

    # -- what outlives the controller ----------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take over what an earlier controller saved."""
        if self._store is None:
            return
        try:
            data = await self._store.call(lambda store: store.load_metrics())
            saved = msgspec.msgpack.decode(data, type=_SavedMetrics) if data else _SavedMetrics({}, {})
        except (StoreError, msgspec.MsgspecError) as error:
            _log.warning("the metrics of replicas begin anew, for what was saved of them cannot be read: %s", error)
            return
        self._found = saved.living
        for backend, base in saved.bases.items():
            self._base(backend).dropped = base.dropped
            for family in chain(*base.families.values()):
                self._add_family(backend, family)

    def settle(self) -> None:
        """The replicas of an earlier controller that have not begun are gone."""
        for living in self._found.values():
            self._add_to_base(living)
        self._found = {}

    async def save(self) -> None:
        """Return when a controller that comes after this one would have no less. Of several calls, one may save."""
        wanted = self._version
        async with self._saving:
            if self._store is None or self._saved_version >= wanted:
                return
            version = self._version
            saved = _SavedMetrics(self._copied_bases(), {**self._found, **self._copied_living()})
            try:
                await self._store.call(lambda store: store.save_metrics(msgspec.msgpack.encode(saved)))
            except StoreError as error:
                if not self._failed:
                    _log.warning("the metrics of replicas are not saved: %s", error)
                self._failed = True
            else:
                self._saved_version, self._failed = version, False

    async def close(self) -> None:
        await self._tasks.close()
        await self.save()

    def _save_soon(self) -> None:
        self._version += 1
        if self._store is not None and not self._saves_later:
            self._saves_later = True
            self._tasks.spawn(self._save_later())

    async def _save_later(self) -> None:
        while self._saved_version < self._version:
            await asyncio.sleep(SAVE_EVERY_S)
            await self.save()
        self._saves_later = False

    def _copied_bases(self) -> dict[str, BackendBase]:
        """To be encoded in another thread. Families are never changed, but replaced."""
        return {name: BackendBase(dict(base.families), base.dropped) for name, base in self._bases.items()}

    def _copied_living(self) -> dict[str, ToldByReplica]:
        return {
            name: ToldByReplica(living.backend, dict(living.families), living.dropped)
            for name, living in self._living.items()
        }

    # -- inside --------------------------------------------------------------------------------------------------------

    def _base(self, backend: str) -> BackendBase:
        return self._bases.setdefault(backend, BackendBase())

    def _limit(self, backend: str) -> SeriesLimit:
        return self._limits.setdefault(backend, SeriesLimit())

    def _add_to_base(self, living: ToldByReplica) -> None:
        self._base(living.backend).dropped += living.dropped
        for family in living.families.values():
            self._add_family(living.backend, family)
        self._version += 1

    def _add_family(self, backend: str, family: MetricFamily) -> None:
        base = self._base(backend)
        if family.kind == "gauge":
            return
        if not self._names.take(family.name, family.kind):
            base.dropped += len(family.series)
            return
        family, _ = self._limit(backend).admit(family, "")
        base.families[family.name] = metric_sums.total([*base.families.get(family.name, ()), family])

    def _may_show(self, family: MetricFamily, replica: str) -> bool:
        """Whether no other replica has a metric that is in the way of the family. One that no other replica has any
        more makes room."""
        name = family.name
        taken = self._names.in_the_way(name, family.kind)
        for other, living in self._living.items():
            if other != replica and (held := taken & living.families.keys()):
                if name not in self._living[replica].refused:
                    text = "metric %s of replica %s is a %s, and is not shown, for another replica has a %s named %s"
                    by = min(held)
                    _log.warning(text, name, replica, family.kind, self._names.kinds[by], by)
                return False
        for gone in taken:
            self._living[replica].families.pop(gone, None)
            self._forget_metric(gone)
        return self._names.take(name, family.kind)

    def _forget_metric(self, name: str) -> None:
        self._names.release(name)
        for backend, base in self._bases.items():
            base.families.pop(name, None)
            self._limit(backend).forget_metric(name)

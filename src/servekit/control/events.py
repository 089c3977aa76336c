"""The events of an instance: each is logged, kept, and in a standing instance saved, by one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

from servekit.config import nearest
from servekit.control import event_ring
from servekit.control.event_ring import KINDS, LONGEST_DETAIL, LONGEST_TEXT, Event, EventRing
from servekit.errors import InvalidInputError, StoreError
from servekit.logs import shortened
from servekit.tasks import TaskSet

_log = logging.getLogger("servekit.control")

SAVE_TIMEOUT_S = 2.0


class EventLog:
    """Owns the events of one instance. Lives on the controller's loop, which never waits for one to be saved; nor does
    a change fail for one that cannot be."""

    def __init__(
        self,
        events: Iterable[Event] | None = (),
        save: Callable[[Collection[Event], Collection[int] | None], Awaitable[None]] | None = None,
    ) -> None:
        """
        Args:
            events: those of an earlier controller; None: what is saved of them cannot be read.
            save: saves events, and forgets those of these numbers, None: all others. Raises `StoreError`. Without it,
                events end with the controller.
        """
        self._ring = EventRing(events or ())
        self._save = save
        self._unsaved: dict[int, Event] = {}
        self._gone: set[int] = set()
        """The numbers of events that were saved, and are not kept any more."""
        self._save_all = events is None
        """What is saved is to be replaced as a whole: the last save has failed."""
        self._saving = False
        self._tasks = TaskSet()

    def add(
        self,
        kind: str,
        text: str,
        *,
        who: str = "",
        endpoint: str = "",
        backend: str = "",
        replica: str = "",
        detail: str = "",
        alike: str = "",
        level: int | None = logging.INFO,
        log_detail: bool = False,
    ) -> None:
        """Tell of something that has happened.

        Args:
            kind: one of `KINDS`.
            text: a sentence for people, which begins with what it is about.
            alike: a part of the text that others of its like have, but for the replica and numbers; default, all of it.
            level: that of the line in the log; None: whoever tells of it has logged it.
            log_detail: the line has the detail as well.
        """
        if level is not None:
            by, more = f", by {who}" if who else "", f"\n{detail}" if log_detail and detail else ""
            _log.log(level, "%s%s%s", text, by, more)
        event, gone = self._ring.add(
            Event(
                at=time.time(),
                kind=kind,
                text=shortened(text, LONGEST_TEXT),
                who=who,
                endpoint=endpoint,
                backend=backend,
                replica=replica,
                detail=shortened(detail, LONGEST_DETAIL),
                alike=event_ring.alike(shortened(alike or text, LONGEST_TEXT), replica),
            )
        )
        if self._save is not None:
            self._unsaved[event.number] = event
            for number in gone:
                self._unsaved.pop(number, None)
            self._gone.update(gone)
            self._save_soon()

    def told(
        self, since: int = 0, endpoint: str | None = None, backend: str | None = None, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """The events after the one of the number ``since``, the oldest first, that are about these. Raises
        `InvalidInputError` where there is no such kind."""
        if kind is not None and kind not in KINDS:
            raise InvalidInputError(f"{kind!r} is no kind of events{nearest(kind, KINDS)}; docs/events.md lists them")
        return [event.told() for event in self._ring.since(since) if event.concerns(endpoint, backend, kind)]

    async def close(self) -> None:
        """Return when what has happened is saved, or cannot be."""
        await self._tasks.wait(SAVE_TIMEOUT_S)
        await self._tasks.close()
        self._save = None

    # -- saving ------------------------------------------------------------------------------------------------------

    def _save_soon(self) -> None:
        if not self._saving:
            self._saving = True
            self._tasks.spawn(self._save_unsaved())

    async def _save_unsaved(self) -> None:
        try:
            while self._save is not None and (self._unsaved or self._gone):
                whole, unsaved, gone = self._save_all, self._unsaved, self._gone
                self._unsaved, self._gone, self._save_all = {}, set(), False
                try:
                    await self._save(list(self._ring) if whole else [*unsaved.values()], None if whole else gone)
                except StoreError as error:
                    if not whole:  # Once, and not again and again while it stays so.
                        _log.warning("events are kept in memory alone until there is room: %s", error)
                    self._unsaved, self._gone, self._save_all = {}, set(), True
                    return  # The next event has it tried again.
        finally:
            self._saving = False

"""What was served before: the history of each endpoint's traffic, and the revisions of backends that are kept.

Pure functions over the desired state, but for the author of a change, who is that of the operation under way.
"""

from __future__ import annotations

import contextvars
import time
from typing import Any

import msgspec

from servekit.config import nearest
from servekit.control.event_ring import clock
from servekit.control.state import BackendRecord, Desired, Kept, TrafficEntry
from servekit.errors import InvalidInputError, NotFoundError
from servekit.wire.control_frames import EndpointRecord

MOST_ENTRIES = 100
"""Of an endpoint's history; the oldest go."""
MOST_GONE = 10
"""Backends that are gone, and of which revisions are kept; of more, those that went first are forgotten."""


class Author(msgspec.Struct, frozen=True):
    """Who makes a change, and why."""

    who: str = ""
    why: str = ""
    back_to: dict[str, int] = {}
    """The entry of each endpoint's history that the change goes back to."""
    on_the_way: bool = False
    """It is a step of a roll-out, which has not come to its end."""


author: contextvars.ContextVar[Author] = contextvars.ContextVar("author", default=Author())  # noqa: B039


def recorded(
    since: Desired, after: Desired, by: Author | None = None, at: float | None = None, *, began: Desired | None = None
) -> Desired:
    """``after``, with what is to be known of the change from ``since``: revisions that went are kept, and what is new
    of an endpoint's traffic is in its history. By default it is made by the author of the operation, now.

    ``began``: the state before the roll-out that this change ends, of which the whole is told.
    """
    by, at = by or author.get(), time.time() if at is None else at
    kept = _bounded(with_replaced(since, after, at).kept, began or since, after)
    return msgspec.structs.replace(after, kept=kept, history=_history(began or since, after, by, at))


def with_replaced(since: Desired, after: Desired, at: float | None = None) -> Desired:
    """``after``, where the revisions that went are kept, and none is forgotten yet: a roll-out may fail."""
    kept, at = dict(after.kept), time.time() if at is None else at
    for name, old in since.backends.items():
        new = after.backends.get(name)
        if new is not old and (new is None or new.original != old.original):
            before = kept.get(name, Kept())
            records = [each for each in before.records if each.original != old.original]
            kept[name] = Kept((*records, old), at, max(before.newest, old.revision))
    return msgspec.structs.replace(after, kept=kept)


def _bounded(kept: dict[str, Kept], since: Desired, after: Desired) -> dict[str, Kept]:
    """Without what serves again, and what is too much, of the backends that have changed."""
    for name, each in kept.items():
        old, new = since.backends.get(name), after.backends.get(name)
        current = new or old
        if current is None or new is old:
            continue
        records = [record for record in each.records if new is None or record.original != new.original]
        most = min(current.config.keep_last, len(records))
        kept[name] = msgspec.structs.replace(each, records=tuple(records[len(records) - most :]))
    gone = sorted((name for name in kept if name not in after.backends), key=lambda name: kept[name].at)
    for name in gone[: max(0, len(gone) - MOST_GONE)]:
        del kept[name]
    return kept


def _history(since: Desired, after: Desired, by: Author, at: float) -> dict[str, tuple[TrafficEntry, ...]]:
    moved = {
        name
        for name, record in after.backends.items()
        if (had := since.backends.get(name)) is not record and (had is None or had.original != record.original)
    }
    history = {name: entries for name, entries in after.history.items() if name in after.endpoints}
    for name, record in after.endpoints.items():
        old = since.endpoints.get(name)
        if record is old and moved.isdisjoint(record.traffic):
            continue
        entries = history.get(name, ())
        if not entries and old is not None and old.traffic:
            entries = (_entry(since, old, 1, Author(why="what there was"), at),)
        if not entries and not record.traffic:
            continue
        entry = _entry(after, record, entries[-1].number + 1 if entries else 1, by, at)
        if not entries or (entries[-1].traffic, entries[-1].revisions) != (entry.traffic, entry.revisions):
            history[name] = (*entries, entry)[-MOST_ENTRIES:]
    return history


def _entry(desired: Desired, record: EndpointRecord, number: int, by: Author, at: float) -> TrafficEntry:
    revisions = {name: desired.backends[name].original for name in record.traffic}
    back_to = by.back_to.get(record.name, 0)
    return TrafficEntry(number, at, record.traffic, revisions, by.who, by.why, back_to, by.on_the_way)


def before_rollout(desired: Desired, endpoint: str) -> dict[str, int]:
    """Where a roll-out under way goes back to, as `Author.back_to` has it."""
    numbers = [entry.number for entry in desired.history.get(endpoint, ()) if not entry.on_the_way]
    return {endpoint: numbers[-1]} if numbers else {}


# -- the way back ------------------------------------------------------------------------------------------------


def entry_to_go_back_to(desired: Desired, endpoint: str, number: int | None) -> TrafficEntry:
    """The entry ``number`` of the history; None: the one before what serves now, but for steps of roll-outs.

    Raises `NotFoundError`.
    """
    desired.endpoint(endpoint)
    entries = desired.history.get(endpoint, ())
    numbers = [entry.number for entry in entries]
    if number is None:
        now = (entries[-1].back_to or entries[-1].number) if entries else 0
        number = max((each.number for each in entries if each.number < now and not each.on_the_way), default=None)
        if number is None:
            raise NotFoundError(f"endpoint {endpoint!r} has served nothing else that is known: there is no way back")
    if number not in numbers:
        raise NotFoundError(
            f"the history of endpoint {endpoint!r} has no entry {number}{nearest(number, map(str, numbers))}"
        )
    return entries[numbers.index(number)]


def revisions_of(desired: Desired, entry: TrafficEntry) -> dict[str, BackendRecord]:
    """The records of the backends that an entry names and that are not what is desired now, by name, to be started.

    Raises `InvalidInputError` where one is not kept any more.
    """
    records = {}
    for name, revision in entry.revisions.items():
        current = desired.backends.get(name)
        if current is not None and current.original == revision:
            continue
        found = [each for each in desired.kept.get(name, Kept()).records if each.original == revision]
        if not found:
            raise InvalidInputError(
                f"revision {revision} of backend {name!r} is not kept any more: the last ones are, as many as its "
                "keep_last says; deploy it from its file"
            )
        records[name] = msgspec.structs.replace(found[0], revision=0, repeats=revision)
    return records


def told(desired: Desired, endpoint: str) -> list[dict[str, Any]]:
    """The history of an endpoint, the newest first, for people and programs. Raises `NotFoundError`."""
    desired.endpoint(endpoint)
    return [{**msgspec.structs.asdict(entry), "time": clock(entry.at)} for entry in desired.history.get(endpoint, ())][
        ::-1
    ]


def undone(desired: Desired, endpoint: str) -> str:
    """What a deploy that changes what this endpoint serves would undo, for people; empty: an earlier deploy."""
    entries = desired.history.get(endpoint, ())
    if not entries or entries[-1].why.startswith(("deploy", "create_endpoint", "what there was")):
        return ""
    last = entries[-1]
    return f"undoes the {last.why} of {clock(last.at)}{f', by {last.who}' if last.who else ''}"

"""The admin API's operations on shadows. The read-only token opens none: a report has examples of answers in it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from servekit.control import shadow
from servekit.control.controller import Controller
from servekit.control.shadow_reports import check_loads, entry_told
from servekit.control.state import Desired
from servekit.wire.control_frames import ShadowEntry


class StartShadow(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    """The endpoint's."""
    to: str
    share: float
    compare: str | None = "json"
    include_unsafe: bool = False
    timeout_s: float = 10.0
    noise: float = 0.5
    tolerance: float = 0.0
    ignore: list[str] = []
    redact: str | None = None


class OfEndpoint(msgspec.Struct, forbid_unknown_fields=True):
    name: str


def shadow_operations(controller: Controller) -> dict[str, tuple[type[Any], Callable[[Any], Awaitable[Any]]]]:
    """By name, the struct of the arguments and the operation."""

    async def start(a: StartShadow) -> None:
        entry = ShadowEntry(
            a.to,
            a.share,
            a.compare or "",
            a.include_unsafe,
            a.timeout_s,
            a.noise,
            a.tolerance,
            tuple(a.ignore),
            a.redact or "",
            at=time.time(),
        )
        shadow.set_shadow(controller.desired, a.name, entry)  # Before anything is imported for nothing.
        await check_loads(entry)
        await controller.change(shadow.set_shadow, a.name, entry)

    async def stop(a: OfEndpoint) -> None:
        await controller.change(shadow.end_shadow, a.name)

    async def report(a: OfEndpoint) -> dict[str, Any]:
        entry = shadow.shadow_of(controller.desired, a.name)
        return controller.shadows.told(a.name) or entry_told(entry)

    return {
        "shadow": (StartShadow, start),
        "stop_shadow": (OfEndpoint, stop),
        "shadow_report": (OfEndpoint, report),
    }


def shadows_told(desired: Desired) -> dict[str, dict[str, Any]]:
    """By endpoint, for `status`."""
    return {name: entry_told(each.shadow) for name, each in desired.endpoints.items() if each.shadow is not None}

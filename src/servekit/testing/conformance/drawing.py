"""Hypothesis as the kits use it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType


def hypothesis() -> ModuleType:
    """The package; raises ``ModuleNotFoundError`` with what to install."""
    try:
        import hypothesis
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise ModuleNotFoundError(
            "the conformance kit needs hypothesis: pip install 'servekit[testing]'", name="hypothesis"
        ) from None
    return hypothesis


def for_all(check: Callable[..., None], *strategies: object, max_examples: int) -> None:
    """Run ``check`` on what hypothesis draws; of what fails, the shortest is the one reported."""
    package = hypothesis()
    # Made here and not at the top: hypothesis must not be needed for importing, nor one test shared by classes.
    phases = (package.Phase.generate, package.Phase.shrink)  # `explain` takes seconds, and explains nothing here
    settings = package.settings(
        max_examples=max_examples, phases=phases, deadline=None, database=None, report_multiple_bugs=False
    )
    settings(package.given(*strategies)(check))()

"""The functions that the conformance kits share."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn, TypeVar

T = TypeVar("T")


def fail(what: str, contract: str, error: BaseException | None = None) -> NoReturn:
    """Raise `AssertionError` that says what is wrong and what is demanded; ``error`` is its cause."""
    __tracebackhide__ = True
    raise AssertionError(f"{what}. The contract: {contract}.") from error


def described(error: BaseException) -> str:
    """The class and the message of ``error``."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def until(found: Callable[[], T], timeout_s: float) -> T:
    """Call ``found`` until it returns something true, for ``timeout_s`` at most; the last value that it returned."""
    ends = time.monotonic() + timeout_s
    while not (value := found()) and time.monotonic() < ends:
        time.sleep(0.02)
    return value


def hypothesis() -> ModuleType:
    """The package hypothesis; raises ``ModuleNotFoundError`` that says what to install."""
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
    """Call ``check`` with examples of ``strategies``. Of the examples that fail, the shortest is reported."""
    package = hypothesis()
    # Made here and not at the top: hypothesis must not be needed for importing, nor one test shared by classes.
    phases = (package.Phase.generate, package.Phase.shrink)  # `explain` takes seconds, and explains nothing here
    settings = package.settings(
        max_examples=max_examples, phases=phases, deadline=None, database=None, report_multiple_bugs=False
    )
    settings(package.given(*strategies)(check))()

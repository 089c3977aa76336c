"""servekit's own lines in the processes that it starts: they depend on no logging set-up, and disturb none.

A script's process is the user's: there servekit is a library, and configures nothing.
"""

from __future__ import annotations

import logging
from typing import Any

LOGGERS = ("", ".asgi", ".control", ".handles", ".ingress", ".link", ".plugins", ".replica")
"""Every logger of servekit's, behind its name: the modules that have them may come later than the user's set-up."""


class _SteadyLogger(logging.Logger):
    """A logger that stays switched on, and hands its lines on to the root logger once it has no handler of its own.

    `logging.config` sets ``disabled`` on whatever logger it is not told of, unless its caller knew to say
    ``disable_existing_loggers=False``: where a handler sets up its logging, nobody would see why it fails.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, False if name == "disabled" else value)

    def removeHandler(self, hdlr: logging.Handler) -> None:
        super().removeHandler(hdlr)
        if not self.handlers:
            self.propagate = True


def begin(label: str, level: int) -> None:
    """Write servekit's lines of ``level`` and above to standard error, each behind ``servekit`` and ``label``.

    The root logger stays as it is, for the user's code to set up. Who configures the logger ``servekit`` by name says
    where these lines go.
    """
    for name in LOGGERS:
        logging.getLogger(f"servekit{name}").__class__ = _SteadyLogger
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"servekit {label}: %(levelname)s %(message)s"))
    own = logging.getLogger("servekit")
    own.handlers = [handler]
    own.setLevel(level)
    own.propagate = False

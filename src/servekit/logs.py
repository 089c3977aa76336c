"""Logging in the processes that servekit starts: its own lines depend on no logging set-up, and disturb none.

In a script's process, which is the user's, servekit is a library and configures nothing.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Mapping
from typing import Any, TextIO

import msgspec

from servekit.context import current_call

LOGGERS = ("", ".asgi", ".control", ".handles", ".ingress", ".link", ".plugins", ".ray", ".replica")
"""Every logger of servekit's, behind ``servekit``: their modules may be imported later than the user sets up
logging."""

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")


class LogSetup(msgspec.Struct, frozen=True):
    """How the processes of an instance log."""

    level: str = "warning"
    """One of `LEVELS`: lines of this level and above are written."""
    format: str = "text"
    """One of `FORMATS`."""
    directory: str = ""
    """The folder of the instance's log files; empty: there are none, and every process prints where it was started."""


class RequestFilter(logging.Filter):
    """Adds to a record that is logged in a call of a handler what it belongs to: ``request_id``, ``endpoint``,
    ``backend``, ``replica`` and ``trace_id``. A user's own logging handler may have it as well."""

    FIELDS = ("request_id", "endpoint", "backend", "replica", "trace_id")

    def filter(self, record: logging.LogRecord) -> bool:
        context = current_call.get(None)
        if context is not None:
            for name in self.FIELDS:
                record.__dict__.setdefault(name, getattr(context, name))
        return True


class LineFormatter(logging.Formatter):
    """Time, level and the process's names before each message, and what request it is about."""

    def __init__(self, names: Mapping[str, str], *, each_line: bool = False) -> None:
        """``each_line``: the lines of a traceback have all of that before them as well."""
        super().__init__()
        self._names = names
        self._each_line = each_line

    def format(self, record: logging.LogRecord) -> str:
        head = f"{stamp(record.created)} {record.levelname} {' '.join(self._names.values())} "
        about = request_of(record, self._names)
        if about:
            words = {"request_id": "request", "trace_id": "trace"}
            head += f"[{', '.join(f'{words.get(key, key)} {value}' for key, value in about.items())}] "
        text = super().format(record)
        return "\n".join(head + line for line in text.split("\n")) if self._each_line else head + text


class JsonFormatter(logging.Formatter):
    """One JSON object for each record, with the fields of `LineFormatter`."""

    def __init__(self, names: Mapping[str, str]) -> None:
        super().__init__()
        self._names = names

    def format(self, record: logging.LogRecord) -> str:
        about = request_of(record, self._names)
        fields = {"time": stamp(record.created), "level": record.levelname, **self._names, **about}
        trace = record.__dict__.get("traceback") or (record.exc_info and self.formatException(record.exc_info))
        fields["message"] = record.getMessage().removesuffix(f"\n{trace}")
        if trace:
            fields["traceback"] = trace
        return as_json({**fields, "logger": record.name})


def stamp(at: float) -> str:
    """A moment as ISO 8601 has it, in UTC and with milliseconds."""
    seconds, ms = divmod(int(at * 1000), 1000)
    return f"{_to_the_second(seconds)}.{ms:03}Z"


@functools.lru_cache(4)
def _to_the_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def as_json(fields: Mapping[str, Any]) -> str:
    """One JSON object in one line. A lone surrogate, as paths may have it, is written as an escape."""
    try:
        return msgspec.json.encode(fields).decode()
    except UnicodeEncodeError:
        return json.dumps(fields, default=str)


def request_of(record: logging.LogRecord, names: Mapping[str, str]) -> dict[str, str]:
    """What the record says of a request, beyond the names of its process."""
    told = ((name, str(record.__dict__.get(name) or "")) for name in RequestFilter.FIELDS)
    return {name: value for name, value in told if value and names.get(name) != value}


def formatter(names: Mapping[str, str], setup: LogSetup, *, each_line: bool = False) -> logging.Formatter:
    """The formatter for the lines of the process that has these ``names``."""
    return JsonFormatter(names) if setup.format == "json" else LineFormatter(names, each_line=each_line)


def begin(names: Mapping[str, str], setup: LogSetup, *streams: TextIO) -> None:
    """Write servekit's lines to each of the ``streams``, by default to standard error.

    The root logger stays as it is, for the user's code to set up. Where it is not set up, what that code logs at the
    level WARNING or above comes with the same names. Code that configures the logger ``servekit`` by name decides where
    servekit's lines go.

    Args:
        names: what is said of this process: its role first, then its name, or those of its backend and replica.
        setup: the level and the format.
    """
    for name in LOGGERS:
        logging.getLogger(f"servekit{name}").__class__ = _SteadyLogger
    own = logging.getLogger("servekit")
    own.handlers = [_handler(stream, names, setup) for stream in streams or (None,)]
    own.setLevel(setup.level.upper())
    own.propagate = False
    logging.lastResort = own.handlers[0]


def _handler(stream: TextIO | None, names: Mapping[str, str], setup: LogSetup) -> logging.Handler:
    handler = logging.StreamHandler(stream)
    # What is gathered in a file is gathered line by line.
    handler.setFormatter(formatter(names, setup, each_line=bool(setup.directory)))
    handler.addFilter(RequestFilter())
    return handler


class _SteadyLogger(logging.Logger):
    """A logger that stays switched on, and hands its lines on to the root logger once it has no handler of its own.

    `logging.config` sets ``disabled`` on every logger that its configuration does not name, unless that says
    ``disable_existing_loggers=False``: where a user's handler sets up logging, the reasons of its failures would be
    lost.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, False if name == "disabled" else value)

    def removeHandler(self, hdlr: logging.Handler) -> None:
        super().removeHandler(hdlr)
        if not self.handlers:
            self.propagate = True


def shortened(text: str, longest: int) -> str:
    """A text of this length at most: of one that is longer, the middle is left out, for the cause is at an end. What no
    UTF-8 has, half of a surrogate pair, is escaped: the text is to travel."""
    text = text.encode(errors="backslashreplace").decode()
    if len(text) <= longest:
        return text
    head, mark = longest // 4, "\n[…]\n"
    return f"{text[:head]}{mark}{text[len(text) - (longest - head - len(mark)) :]}"

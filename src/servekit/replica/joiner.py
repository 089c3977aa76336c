"""When the pieces of streamed answers leave: a piece that comes alone at once, pieces that follow each other together.

A frame, a write to a client's socket and that client's wake-up cost more than most pieces are worth. So a piece that
follows another within `JOIN_S` waits until that time is over, and the pieces that wait leave as one. The first piece of
an answer waits for nothing, nor does a piece that comes after a longer pause. The end of an answer takes along the
pieces that wait.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

JOIN_S = 0.002
"""Language models take longer for a token, and people do not notice such a delay."""


class Joined(Protocol):
    """An answer whose pieces are being made."""

    def leave(self) -> bool:
        """Send the pieces that have gathered. False: there were none, and the next piece leaves at once."""


class Joiner:
    """Has the pieces that gather leave every `JOIN_S`, for all answers of one event loop together."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answers: list[Joined] = []
        self.turn = 0
        """Changes with each turn of the loop that was marked."""
        self._marked = False

    def add(self, answer: Joined) -> None:
        """A piece of ``answer`` has just left. The answer is in no joiner yet."""
        if not self._answers:
            self._loop.call_later(JOIN_S, self._tick)
        self._answers.append(answer)

    def _tick(self) -> None:
        self._answers = [answer for answer in self._answers if answer.leave()]
        if self._answers:
            self._loop.call_later(JOIN_S, self._tick)

    def mark_turn(self) -> int:
        """The number of this turn of the loop. The next turn has another number."""
        if not self._marked:
            self._marked = True
            self._loop.call_soon(self._turned)
        return self.turn

    def _turned(self) -> None:
        self._marked = False
        self.turn += 1

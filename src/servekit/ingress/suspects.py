"""The requests that replicas have died with: which are suspected of it, and which are refused. Decisions alone: times
are passed in, and nothing is sent.

A death says of every request inside only that it may be the cause. So each is a suspect, and goes alone from then on:
one replica, nothing else in it, and one such request at a time. What dies alone again and again is the cause.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from hashlib import blake2b

MOST_SUSPECTS = 1024
"""Beyond, the one is forgotten whose last death is the longest ago."""
REFUSED_AFTER = 3
"""So many deaths, and the request is refused."""
REFUSED_S = 60.0
"""For so long; then the request is a suspect again, and its next death has it refused again."""
SUSPECTED_S = 600.0
"""A suspect is forgotten so long after its last death. While there is any, every request is compared with them."""
_KEY_BYTES = 32
_DIGEST_BYTES = 16


class Suspects:
    """The suspects that one ingress worker knows, by the digests of their requests."""

    def __init__(self, secret: bytes) -> None:
        """``secret``: that of the instance. It is part of each digest, so that nobody outside can look for a request
        that is taken for another one."""
        self._key = blake2b(secret, digest_size=_KEY_BYTES, person=b"suspects").digest()
        self.deaths: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        """How many there have been, and when the last was. The longest ago is first."""
        self._news: dict[bytes, int] = {}

    def digest(self, *parts: bytes) -> bytes:
        """What stands for a request that has these parts."""
        digest = blake2b(key=self._key, digest_size=_DIGEST_BYTES)
        for part in parts:
            digest.update(b"%d:" % len(part))
            digest.update(part)
        return digest.digest()

    def known(self, digest: bytes, now: float) -> int:
        """How many deaths a request is suspected of; 0: it is none of the suspects."""
        while self.deaths and next(iter(self.deaths.values()))[1] <= now - SUSPECTED_S:
            self.deaths.popitem(last=False)
        return self.deaths[digest][0] if digest in self.deaths else 0

    def is_refused(self, digest: bytes, now: float) -> bool:
        deaths, at = self.deaths.get(digest, (0, now))
        return deaths >= REFUSED_AFTER and now < at + REFUSED_S

    def died(self, digest: bytes, known: int, now: float) -> bool:
        """A replica died with a request that was sent to it when ``known`` deaths were known. True: there is one more.

        False: the request was on its way already when another of its kind died. What dies at one time, with all the
        replicas of a machine say, counts as one death.
        """
        deaths, _ = self.deaths.get(digest, (0, now))
        if known < deaths:
            return False
        self._set(digest, deaths + 1, now)
        self._tell(digest, deaths + 1)
        return True

    def cleared(self, digest: bytes) -> None:
        """A replica has lived through the request."""
        if self.deaths.pop(digest, None) is not None:
            self._tell(digest, 0)

    def take_news(self) -> dict[bytes, int]:
        """The deaths of each suspect that has changed since the last call; 0: it was cleared."""
        news, self._news = self._news, {}
        return news

    def heard(self, news: Mapping[bytes, int], now: float) -> None:
        """Another ingress worker of the instance has these news."""
        for digest, deaths in news.items():
            if not deaths:
                self.deaths.pop(digest, None)
            elif deaths > self.deaths.get(digest, (0, now))[0]:
                self._set(digest, deaths, now)

    def _set(self, digest: bytes, deaths: int, now: float) -> None:
        self.deaths[digest] = (deaths, now)
        self.deaths.move_to_end(digest)
        if len(self.deaths) > MOST_SUSPECTS:
            self.deaths.popitem(last=False)

    def _tell(self, digest: bytes, deaths: int) -> None:
        self._news[digest] = deaths
        if len(self._news) > MOST_SUSPECTS:  # There is no controller for now.
            del self._news[next(iter(self._news))]

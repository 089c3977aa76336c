"""The connection of a runtime to its Ray. One thread loses it and makes it again; calls of the runtime wait at most."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from servekit.backoff import Backoff
from servekit.errors import InstanceStartError, InvalidInputError, ServekitError
from servekit.interfaces import RuntimeContext
from servekit.private_folders import write_private
from servekit.processes import ProcessIdentity, is_alive
from servekit_ray import cluster
from servekit_ray.agent_link import AgentLink, AgentLostError, RefusedError
from servekit_ray.asks import Ask, Attach, Attached
from servekit_ray.driver import DriverRay
from servekit_ray.local import Keeper, StartingKeeper

T = TypeVar("T")

_log = logging.getLogger("servekit.ray")

ATTACH_TIMEOUT_S = 40.0
"""The time that attaching may take. Ray gives up on wrong credentials after 20 s, on a silent peer after minutes."""
ANSWER_TIMEOUT_S = 20.0
"""The time that Ray may take to answer a question: far more than it does on a busy machine."""
BACK_TIMEOUT_S = 30.0
"""The time for which a call waits for a Ray that was lost: a local one is back in less."""
WATCH_S = 0.25
"""The time between two looks at the processes of the Ray."""
KNOCK_S = 1.0
"""The time between two looks at whether the GCS takes connections."""
MOST_UNANSWERED = 2
"""A GCS that takes none at as many looks, one after another, is lost."""
CLOSE_TIMEOUT_S = 20.0
"""The time that a connection which is being made may take to be given up."""
FIRST_RETRY_S = 0.25
LONGEST_RETRY_S = 5.0


class Known(msgspec.Struct):
    """The Ray that is connected to, or was last; in a file for a later controller of a standing instance."""

    address: str
    words: str
    """For people."""
    attached: Attached
    keeper: ProcessIdentity | None
    instance: str = ""
    """The id of the instance that was connected."""


class Connection:
    """The connection to a cluster, to the driver's Ray, or to a local Ray.

    A Ray is lost with its GCS, with the raylet of this machine, or with its keeper. A local Ray is then started anew,
    and any other is waited for.

    Args:
        address: the address that the user gave: see `cluster.choose`.
        driver: the driver's Ray, where there is one.
        arguments: the arguments of ``ray.init`` for a local Ray.
    """

    def __init__(self, address: str | None, driver: DriverRay | None, arguments: Mapping[str, Any]) -> None:
        self._address = address
        self._driver = driver
        self._arguments = dict(arguments)
        self._agent: AgentLink | None = None
        """Set while there is a connection."""
        self._known: Known | None = None
        self._trouble = ""
        """The reason why there is no connection, for people."""
        self._is_over = False
        """The driver's Ray has ended, and does not come back."""
        self._changed = threading.Condition()
        self._keeper: Keeper | None = None
        self._earlier: list[Keeper] = []
        """Of local Rays that were lost. Replicas may go on in one whose GCS alone has ended, until the raylet gives up
        about a minute later, and the keeper ends with it."""
        self._unanswered = 0
        """The times, one after another, that the GCS took no connection."""
        self._knock_at = 0.0
        """When the next look at that is due."""
        self._closing = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="servekit-ray-watch", daemon=True)

    def open(self, context: RuntimeContext) -> None:
        """Connect. Raises a `ServekitError`, within about a minute, where that is not possible.

        A later controller of a standing instance is connected in the background: its workers are there, whatever has
        become of the Ray. Local Rays of an earlier instance of the name, which was killed, are ended.
        """
        cluster.require_ray()
        self._context = context
        asked = repr((self._address, self._driver, sorted(self._arguments.items())))
        self._record = Path(context.directory) / f"ray-{hashlib.sha256(asked.encode()).hexdigest()[:8]}.json"
        known = self._recorded()
        if known is None:
            self._connect()
        else:
            self._known, self._keeper = known, known.keeper and Keeper(known.address, known.keeper)
            self._trouble = "being connected to"
        self._watching.start()

    def _recorded(self) -> Known | None:
        """The Ray of an earlier controller of this instance, where there was one."""
        own = None
        for record in Path(self._context.directory).glob("ray-*.json"):
            try:
                known = msgspec.json.decode(record.read_bytes(), type=Known)
            except FileNotFoundError:  # Another runtime, which is closing, has removed it.
                continue
            if known.instance == self._context.instance_id:
                own = known if record == self._record else own
            elif known.keeper is not None:
                Keeper(known.address, known.keeper).end()
        return own

    def close(self) -> None:
        """Disconnect, and end the local Ray, where there is one."""
        self._record.unlink(missing_ok=True)
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._watching.ident is not None:
            self._watching.join(CLOSE_TIMEOUT_S)
        if self._agent is not None:
            self._agent.close()
        if self._keeper is not None:
            self._keeper.end()
        for keeper in self._earlier:
            keeper.end(0.0)  # To shut down a Ray that has lost its GCS takes long.

    def describe(self) -> str:
        """The Ray, and the reason where it is not connected to, for people."""
        known, trouble = self._known, self._trouble
        if known is None or self._is_over:
            return trouble
        return f"{known.words}; {trouble}" if trouble else known.words

    @property
    def session(self) -> str:
        """Ray's name for the Ray that is connected to, or was last."""
        return self._known.attached.session if self._known else ""

    @property
    def host(self) -> str:
        """The address of this machine within the cluster."""
        return self._known.attached.host if self._known else ""

    def has_lost(self, session: str) -> bool:
        """Whether no worker on this machine can be left of the Ray of this name, or is to be for long."""
        return session != self.session or not self._has_raylet()

    @property
    def is_up(self) -> bool:
        return self._agent is not None

    def ask(self, ask: Ask, answer: type[T], timeout_s: float = ANSWER_TIMEOUT_S, wait_s: float = BACK_TIMEOUT_S) -> T:
        """Ray's answer. A Ray that was lost is waited for, for up to ``wait_s``.

        Raises:
            InstanceStartError: there is no connection, or it was lost meanwhile.
            RefusedError: Ray raised something.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._agent or self._is_over or self._closing.is_set(), wait_s)
            agent = self._agent
        if agent is None:
            raise InstanceStartError(self.describe())
        return agent.ask(ask, answer, timeout_s)

    # -- the thread that loses and makes connections ------------------------------------------------------------------

    def _watch(self) -> None:
        pauses = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        while not self._closing.wait(WATCH_S):
            try:
                if self._agent is None:
                    self._connect()
                else:
                    self._look()
                pauses.reset()
            except ServekitError as error:
                self._set(None, str(error))
                self._closing.wait(pauses.next())
            except Exception as error:
                _log.exception("looking after %s", self.describe())
                if self._agent is not None:
                    self._agent.kill()
                self._set(None, f"not to be used: {error!r}")
                self._closing.wait(LONGEST_RETRY_S)

    def _look(self) -> None:
        assert self._known is not None
        if time.monotonic() >= self._knock_at:
            self._knock_at = time.monotonic() + KNOCK_S
            self._unanswered = 0 if cluster.answers(self._known.address) else self._unanswered + 1
        if reason := self._loss():
            self._unanswered = 0
            self._lose(reason)

    def _loss(self) -> str:
        """The reason why the Ray is lost; empty where it is not."""
        assert self._agent is not None
        if self._keeper is not None and not self._keeper.alive():
            return "its keeper has ended"
        if not self._has_raylet():
            return "its raylet on this machine has ended"
        if self._unanswered >= MOST_UNANSWERED:
            return "its GCS takes no connections"
        return "its agent has ended" if self._agent.has_ended else ""

    def _has_raylet(self) -> bool:
        raylet = self._known.attached.raylet if self._known else None
        return raylet is None or is_alive(raylet)

    def _lose(self, reason: str) -> None:
        agent = self._agent
        next_step = "being waited for" if self._keeper is None else "being started again"
        self._set(None, f"lost ({reason}), and {next_step}")
        assert agent is not None
        agent.kill()
        _log.error("%s", self.describe())

    def _set(self, agent: AgentLink | None, trouble: str) -> None:
        with self._changed:
            self._agent, self._trouble = agent, trouble
            self._changed.notify_all()

    def _connect(self) -> None:
        choice = cluster.choose(self._address, self._driver, os.environ)
        if choice.address is not None:
            self._check_joined(choice)
        environ = cluster.environ_with_tokens(choice, os.environ)
        owned, prefix = not self._context.standing, f"servekit:{self._context.instance_id}:"
        agent = AgentLink(environ, prefix, owned=owned)  # It imports Ray while the keeper starts another.
        keeper = None
        try:
            if choice.address is None:
                keeper = self._local_ray(environ)
            address, words = choice.address or "", choice.words
            if keeper is not None:
                address, words = keeper.address, f"{words} {keeper.address}"
            attached = self._attach(agent, address)
            if self._closing.is_set():
                raise InstanceStartError("the instance is ending")
            identity = keeper.identity if keeper else None
            known = Known(address, words, attached, identity, self._context.instance_id)
            if self._context.standing:
                self._save(known)
            earlier = [*filter(Keeper.alive, self._earlier)]
        except BaseException:
            agent.kill()
            if keeper is not None and keeper is not self._keeper:
                keeper.end()
            raise
        if keeper is not self._keeper and self._keeper is not None:
            self._earlier = [*earlier, self._keeper]
        was_lost = self._known is not None
        self._keeper, self._known = keeper, known
        self._set(agent, "")
        if was_lost:
            _log.info("connected to %s", words)

    def _save(self, known: Known) -> None:
        try:
            write_private(self._record, msgspec.json.encode(known))
        except OSError as error:
            _log.warning("a later controller will not know of %s: %s", known.words, error)

    def _attach(self, agent: AgentLink, address: str) -> Attached:
        try:
            return agent.ask(Attach(address), Attached, ATTACH_TIMEOUT_S)
        except RefusedError as error:
            raise InstanceStartError(f"attaching to the Ray cluster at {address} failed: {error}") from error
        except AgentLostError as error:
            raise InstanceStartError(
                f"the Ray cluster at {address} did not take this instance in: {error}; is this its GCS port, 6379 by "
                "default?"
            ) from error

    def _check_joined(self, choice: cluster.Choice) -> None:
        """Raise where the Ray that was chosen, and runs already, is not to be attached to."""
        if self._arguments:
            raise InvalidInputError(
                f"ray_init and include_dashboard are for a local Ray, and it is to be {choice.words}, which is running "
                "already; address='local' starts one"
            )
        if choice.driver is not None and not all(map(is_alive, choice.driver.processes)):
            self._is_over = True
            raise InstanceStartError(f"{choice.words}, has ended: this needs a new servekit.init()")

    def _local_ray(self, environ: Mapping[str, str]) -> Keeper:
        """The keeper of this instance's own Ray: the one that is there, or a new one where its Ray was lost."""
        keeper = self._keeper
        if keeper is not None and keeper.alive() and self._has_raylet() and cluster.answers(keeper.address):
            return keeper
        directory, owned = self._context.directory, not self._context.standing
        arguments = {"include_dashboard": False, **self._arguments}
        return StartingKeeper(directory, arguments, environ, owned=owned).wait()

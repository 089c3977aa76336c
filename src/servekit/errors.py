"""Everything servekit raises: one family, each member also the builtin that people catch.

A message names the thing, says what was wrong with it, and says what to do.
"""

from __future__ import annotations


class ServekitError(Exception):
    """The root of the family: ``except ServekitError`` catches whatever servekit raises."""


# -- bad input: refused before anything has changed ------------------------------------------


class InvalidInputError(ServekitError, ValueError):
    """A value given to servekit is not acceptable."""


class ArgumentError(InvalidInputError, TypeError):
    """A function of servekit was called with arguments that it does not take, or with one of the wrong type."""


class NotFoundError(InvalidInputError, LookupError):
    """A name was given that nothing has."""


class AlreadyExistsError(InvalidInputError):
    """A name or a route is taken."""


class InUseError(InvalidInputError):
    """Something cannot go, because something else needs it."""


class StalePlanError(InvalidInputError):
    """The plan of a deploy was made from another state than there is."""


class UnpicklableTargetError(InvalidInputError, TypeError):
    """A target, or an argument of its ``__init__``, cannot travel to another process."""


class PluginOptionsError(InvalidInputError, TypeError):
    """Options do not fit the signature of the plugin that they are meant for."""


class UnknownPluginError(NotFoundError):
    """No loaded plugin gives the policy, runtime or adapter that was asked for."""


# -- what the world refuses --------------------------------------------------------------------


class MissingDependencyError(ServekitError, ImportError):
    """A plugin needs a package that is not installed."""


class PortInUseError(ServekitError, OSError):
    """The HTTP or admin address is taken."""


class NotRunningError(ServekitError, RuntimeError):
    """There is no current instance: call ``servekit.init()`` first."""


class AlreadyRunningError(ServekitError, RuntimeError):
    """``init()`` was called while an instance is current."""


class InstanceStartError(ServekitError, RuntimeError):
    """The controller, an ingress worker or the runtime did not come up."""


class BackendStartError(ServekitError, RuntimeError):
    """A replica did not become ready; the message carries the original traceback, if there is one."""


class ResourcesUnavailableError(BackendStartError):
    """The runtime has no place for a replica: the message says what was asked for and what there is."""


class DeadlineError(ServekitError, TimeoutError):
    """Something did not happen within its bound."""


class StoreError(ServekitError, OSError):
    """The state of an instance cannot be read, or cannot be saved: the disk is full, say, or a file is damaged."""


class UnavailableError(ServekitError, RuntimeError):
    """A call was refused: its endpoint has no traffic or no replica, or a queue is full."""


class HandlerError(ServekitError, RuntimeError):
    """A handler failed with what cannot be raised at its caller; the message says what it was."""


class ResultError(ServekitError, TypeError):
    """What a handler returned has no answer. The message, which the client gets too, says which part, and why."""


class CodeDiffersError(ServekitError, ImportError):
    """What a handle carries refers to a class that the other end's code lacks; the message has the digests of both."""


class CallCycleError(ServekitError, RuntimeError):
    """Handlers call each other in a circle, in which the last call would wait for the first for ever."""


class ReplicaDiedError(ServekitError, ConnectionError):
    """The replica that had a call died; whether its handler was done is not known."""


class ControllerGoneError(ServekitError, ConnectionError):
    """The controller of the current instance cannot be reached."""


class LinkError(ServekitError, ConnectionError):
    """A link was lost, or its peer broke the protocol: a frame too long, not msgpack, or of another version."""


class AuthenticationError(ServekitError, PermissionError):
    """A peer does not hold the instance's token."""


class ForbiddenError(ServekitError, PermissionError):
    """The admin API was asked under another host's name, or by another site's page."""


class InternalError(ServekitError, RuntimeError):
    """A defect in servekit or in a plugin; the log of the controller has the traceback."""


def rebuild(type_name: str, message: str) -> ServekitError:
    """The error that crossed a process border as the name of its class and its message."""
    found = globals().get(type_name)
    if isinstance(found, type) and issubclass(found, ServekitError):
        return found(message)
    return InternalError(f"{type_name}: {message}")

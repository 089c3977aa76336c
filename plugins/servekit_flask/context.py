"""The Flask context of one call, without what a handler seldom needs.

Flask's own ``push`` opens the session, makes a URL adapter, matches the URL and sends four signals: 25 to 33 µs. Here
the context variables are set directly; session and URL adapter are made when they are first asked for.

Rests on `RequestContext` and `AppContext` as they are in Flask 3.0 and 3.1 (3.2 makes one of the two), among them the
private ``_cv_tokens``, ``_after_request_functions`` and ``_session``. Before 3.1.2 `flask.stream_with_context` leaves
the context pushed until the stream has ended, there as here.
"""

from __future__ import annotations

import flask
from flask.ctx import AppContext, RequestContext
from flask.globals import _cv_app, _cv_request
from flask.sessions import SessionMixin
from flask.signals import appcontext_popped, appcontext_tearing_down, request_tearing_down
from werkzeug.routing import MapAdapter

from servekit_flask.routes import empty_map


class LeanAppContext(AppContext):
    """Holds ``current_app`` and a fresh ``g``."""

    def __init__(self, app: flask.Flask) -> None:
        self.app = app
        self.url_adapter = None
        self.g = app.app_ctx_globals_class()
        self._cv_tokens = []

    def push(self) -> None:
        self._cv_tokens.append(_cv_app.set(self))

    def pop(self, exc: BaseException | None = None) -> None:
        """Undo `push`; ``exc`` is what was raised meanwhile."""
        if _has_teardown(self.app):
            super().pop(exc)
        else:
            _cv_app.reset(self._cv_tokens.pop())


class LeanRequestContext(RequestContext):
    """Holds ``request``, ``session``, and what `flask.after_this_request` was given."""

    def __init__(self, app: flask.Flask, request: flask.Request, session: SessionMixin | None = None) -> None:
        self.app = app
        self.request = request
        self.flashes = None
        self._session = session
        self._after_request_functions = []
        self._cv_tokens = []

    @property
    def session(self) -> SessionMixin:  # an attribute in Flask 3.0
        session = self._session
        if session is None:
            interface = self.app.session_interface
            session = interface.open_session(self.app, self.request)
            if session is None:
                session = interface.make_null_session(self.app)
            self._session = session
        session.accessed = True
        return session

    @property
    def url_adapter(self) -> MapAdapter:  # type: ignore[override]
        rule = self.request.url_rule
        url_map = rule.map if rule is not None else None
        return (empty_map() if url_map is None else url_map).bind_to_environ(self.request.environ)

    def copy(self) -> LeanRequestContext:
        """For `flask.copy_current_request_context`: the same request, to be pushed in another thread."""
        return type(self)(self.app, self.request, self._session)

    # -- from the outside: stream_with_context, copy_current_request_context ----------------------------

    def push(self) -> None:
        """Into a context that may have this application already, as ``stream_with_context`` sees to."""
        current = _cv_app.get(None)
        if current is not None and current.app is self.app:
            self._cv_tokens.append((_cv_request.set(self), None))
        else:
            self.enter()

    # -- by the adapter, around one call --------------------------------------------------------------

    def enter(self) -> None:
        """Push, with an application context of its own: a call within a call has its own ``g``."""
        app_context = LeanAppContext(self.app)
        app_context.push()
        self._cv_tokens.append((_cv_request.set(self), app_context))

    def leave(self, error: BaseException | None) -> None:
        """Undo `enter`. ``error`` is what the call raised; the teardown functions are told."""
        if _has_teardown(self.app):
            self.pop(error)
            return
        if "files" in self.request.__dict__:  # uploaded files were parsed, and may be open
            self.request.close()
        token, app_context = self._cv_tokens.pop()
        _cv_request.reset(token)
        if app_context is not None:
            _cv_app.reset(app_context._cv_tokens.pop())

    @property
    def touches_response(self) -> bool:
        """True when `finish` has something to do."""
        return self._session is not None or bool(self._after_request_functions) or bool(self.app.after_request_funcs)

    def finish(self, response: flask.Response) -> flask.Response:
        """After-request functions, then the session: as Flask's ``process_response``, which expects an open session."""
        app = self.app
        for function in [*self._after_request_functions, *reversed(app.after_request_funcs.get(None, ()))]:
            response = app.ensure_sync(function)(response)
        if self._session is not None and not app.session_interface.is_null_session(self._session):
            app.session_interface.save_session(app, self._session, response)
        return response


def _has_teardown(app: flask.Flask) -> bool:
    return bool(
        app.teardown_request_funcs
        or app.teardown_appcontext_funcs
        or request_tearing_down.receivers
        or appcontext_tearing_down.receivers
        or appcontext_popped.receivers
    )

"""The Flask contexts of one call, without what a handler seldom needs.

Flask's own ``push`` opens the session, makes a URL adapter, matches the URL and sends four signals: 25 to 33 µs. Here
the context variables are set directly; session and URL adapter are made when they are first asked for.

Rests on `RequestContext` and `AppContext` as they are in Flask 3.1 (3.2 makes one of the two), among them the private
``_cv_tokens``, ``_after_request_functions`` and ``_session``. Both are popped when a handler returns, whatever it
returned. The generator of `flask.stream_with_context` pushes the same two again with its first piece, and pops them
behind its last or when it is closed; all of that has to be in the `contextvars.Context` of the call.
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
    """Holds ``current_app`` and a fresh ``g``, for one request."""

    def __init__(self, app: flask.Flask, request: flask.Request) -> None:
        self.app = app
        self.request = request
        self.url_adapter = None
        self.g = app.app_ctx_globals_class()
        self._cv_tokens = []


class LeanRequestContext(RequestContext):
    """Holds ``request``, ``session``, and what `flask.after_this_request` was given. To be entered by ``with``."""

    def __init__(self, app: flask.Flask, request: flask.Request, session: SessionMixin | None = None) -> None:
        self.app = app
        self.request = request
        self.flashes = None
        self._session = session
        self._after_request_functions = []
        self._cv_tokens = []

    @property
    def session(self) -> SessionMixin:
        session = self._opened_session()
        session.accessed = True
        return session

    def _opened_session(self) -> SessionMixin:
        session = self._session
        if session is None:
            interface = self.app.session_interface
            session = interface.open_session(self.app, self.request)
            if session is None:
                session = interface.make_null_session(self.app)
            self._session = session
        return session

    @property
    def url_adapter(self) -> MapAdapter:  # type: ignore[override]
        rule = self.request.url_rule
        url_map = rule.map if rule is not None else None
        return (empty_map() if url_map is None else url_map).bind_to_environ(self.request.environ)

    def copy(self) -> LeanRequestContext:
        """For `flask.copy_current_request_context`: the same request and session, to be pushed in another thread."""
        return type(self)(self.app, self.request, self._opened_session())

    def push(self) -> None:
        """Push, with an application context: a call within a call has its own ``g``.

        One that is there already stays, if it is of the same request: `flask.stream_with_context` has pushed it, or a
        copy is pushed where the handler itself runs; or if it is one that the handler has made, by ``app_context()``.
        """
        current = _cv_app.get(None)
        if isinstance(current, LeanAppContext):
            stays = current.request is self.request
        else:
            stays = current is not None and current.app is self.app
        app_context = None
        if not stays:
            app_context = LeanAppContext(self.app, self.request)
            app_context._cv_tokens.append(_cv_app.set(app_context))
        self._cv_tokens.append((_cv_request.set(self), app_context))

    def pop(self, exc: BaseException | None = None) -> None:
        """Undo `push`. ``exc`` is what was raised meanwhile; the teardown functions are told."""
        app = self.app
        if (
            app.teardown_request_funcs
            or app.teardown_appcontext_funcs
            or request_tearing_down.receivers
            or appcontext_tearing_down.receivers
            or appcontext_popped.receivers
        ):
            super().pop(exc)
            return
        token, app_context = self._cv_tokens.pop()
        if not self._cv_tokens and "files" in self.request.__dict__:  # uploads were parsed, and may be open
            self.request.close()
        _cv_request.reset(token)
        if app_context is not None:
            _cv_app.reset(app_context._cv_tokens.pop())

    def finish(self, response: flask.Response) -> flask.Response:
        """After-request functions, then the session: as Flask's ``process_response``, which expects an open session."""
        app = self.app
        for function in [*self._after_request_functions, *reversed(app.after_request_funcs.get(None, ()))]:
            response = app.ensure_sync(function)(response)
        if self._session is not None and not app.session_interface.is_null_session(self._session):
            app.session_interface.save_session(app, self._session, response)
        return response

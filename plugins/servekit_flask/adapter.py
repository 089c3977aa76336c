"""The adapter: a request in, a `flask.Request` to the handler, its result out."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import Any

import flask
from werkzeug.datastructures import EnvironHeaders
from werkzeug.exceptions import HTTPException
from werkzeug.sansio.request import Request as SansIORequest

from servekit.interfaces import Handler, Request, RequestAdapter, Response
from servekit_flask.context import LeanRequestContext
from servekit_flask.environ import environ_of
from servekit_flask.results import HandlerApp, encode
from servekit_flask.routes import rule_of


class FlaskAdapter(RequestAdapter):
    """Calls a handler as Flask calls a view, with the request as its one argument.

    In the handler ``flask.request``, ``g``, ``session``, ``current_app``, ``jsonify``, ``abort``, ``make_response``,
    ``redirect``, ``after_this_request`` and ``stream_with_context`` work; ``url_for`` for the endpoint that was asked.
    """

    streams_body = True

    def __init__(self, *, secret_key: str | None = None) -> None:
        self.app = HandlerApp("servekit_flask", root_path=os.getcwd(), static_folder=None)
        self.app.debug = False  # whatever FLASK_DEBUG says
        self.app.secret_key = secret_key

    def decode(self, request: Request) -> flask.Request:
        self.app._got_first_request = True  # from now on Flask refuses before_request and the like, with its own words
        environ = environ_of(request)
        # What `flask.Request(environ)` would read back from the environ is at hand, which saves a microsecond. And no
        # "werkzeug.request" in the environ: without that cycle both go as soon as the call ends.
        flask_request = flask.Request.__new__(flask.Request)
        SansIORequest.__init__(
            flask_request,
            method=request.method,
            scheme=request.scheme,
            server=(environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
            root_path="",
            path=request.path,
            query_string=request.query_string,
            headers=EnvironHeaders(environ),
            remote_addr=request.client or None,
        )
        flask_request.environ = environ
        flask_request.shallow = False
        flask_request.url_rule = rule_of(request.endpoint, request.route)
        flask_request.view_args = request.view_args or {}
        return flask_request

    def encode(self, result: Any) -> Response:
        return encode(self.app, result)

    def call(self, handler: Handler, request: Request) -> Response:
        context = LeanRequestContext(self.app, self.decode(request))
        with context:
            try:
                result = handler(context.request)
            except HTTPException as error:
                result = self.app.handle_user_exception(error)
            return encode(self.app, result, context)

    async def call_async(self, handler: Handler, request: Request) -> Response:
        """As `call`. A task has context variables of its own, so ``flask.request`` stays right across every await."""
        context = LeanRequestContext(self.app, self.decode(request))
        with context:
            try:
                result = await handler(context.request)
            except HTTPException as error:
                result = self.app.handle_user_exception(error)
            return encode(self.app, result, context)

    def batch_context(self) -> AbstractContextManager[object]:
        """An application context: ``current_app``, ``g`` and ``jsonify`` work, and there is no ``flask.request``."""
        return self.app.app_context()

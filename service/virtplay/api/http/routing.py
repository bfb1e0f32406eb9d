"""Adds a handler to the Sanic application."""

from typing import Any

from sanic import Sanic


def add_route(app: Sanic[Any, Any], handler: Any, path: str, **options: Any) -> None:
    """Route `path` to `handler`; `options` are those of Sanic's add_route."""
    # With an explicit error_format, Sanic 25.12 does not parse each handler's source to guess one,
    # which takes most of the start.
    app.add_route(handler, path, error_format="json", **options)

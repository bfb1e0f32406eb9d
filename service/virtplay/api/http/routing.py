"""HTTP: adds a handler to Sanic's application."""

from typing import Any

from sanic import Sanic


def add_route(app: Sanic[Any, Any], handler: Any, path: str, **options: Any) -> None:
    """Route `path` to `handler`; `options` are those of Sanic's add_route."""
    # Told, Sanic does not parse every handler's source to guess it, which is most of a start.
    app.add_route(handler, path, error_format="json", **options)

"""Builds /openapi.json from the routes and schemas, and /docs, which displays it."""

import re
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from virtplay import __version__, errors
from virtplay.api.http.auth import Role
from virtplay.api.routes import ROUTES, Route
from virtplay.api.schemas.fields import EmptyBody

REF = "#/components/schemas/{model}"
ALWAYS = ("VALIDATION_ERROR", "INTERNAL_ERROR", "DATABASE_NOT_AVAILABLE")
GUARDED = ("UNAUTHORIZED", "FORBIDDEN", "RATE_LIMITED")
ASSETS = ("swagger-ui.css", "swagger-ui-bundle.js")

DOCS_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Virtplay API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script>
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true })
</script>
</body>
</html>
"""


def error_classes() -> dict[str, type[errors.VirtplayError]]:
    """Return every error code that a client can receive, with its class."""
    found = {
        error.code: error
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.VirtplayError)
    }
    found["INTERNAL_ERROR"] = errors.InternalError
    return found


@cache
def build_openapi() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of all routes; callers must not modify it."""
    models: set[type[BaseModel]] = set()
    for route in ROUTES:
        models |= {model for model in (route.response, route.body) if model is not None}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=REF
    )
    schemas = definitions["$defs"]
    schemas["Error"] = _error_schema()
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Virtplay",
            "version": __version__,
            "description": "A REST API for KVM hypervisors in which every change is an Ansible"
            " job. A request that changes something returns 202 and the job to follow.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def docs_asset(name: str) -> bytes:
    """Return a file of Swagger UI from its package; raise KeyError for an unknown name."""
    if name not in ASSETS:
        raise KeyError(name)
    return (files("swagger_ui") / "static" / name).read_bytes()


def _error_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["success", "error"],
        "properties": {
            "success": {"const": False},
            "error": {
                "type": "object",
                "required": ["code", "message", "details"],
                "properties": {
                    "code": {"type": "string", "enum": sorted(error_classes())},
                    "message": {"type": "string"},
                    "details": {"type": "object"},
                },
            },
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [_tag(route.path)],
        "parameters": _parameters(route),
        "responses": {**_success(route), **_other_statuses(route), **_failures(route)},
    }
    if route.role > Role.NOBODY:
        operation["security"] = [{"token": []}]
        operation["description"] = f"Requires a token with role {route.role.name.lower()} or above."
        if route.public_setting:
            operation["description"] = (
                f"Requires a token with role {route.role.name.lower()} or above, unless"
                f" VIRTPLAY_{route.public_setting.upper()} is set."
            )
    if route.body is not None and route.body is not EmptyBody:
        schema = {"$ref": REF.format(model=route.body.__name__)}
        required = any(field.is_required() for field in route.body.model_fields.values())
        operation["requestBody"] = {
            "required": required,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


def _tag(path: str) -> str:
    return path.removeprefix("/api/v1/").strip("/").split("/")[0]


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if "/vms/{id}" in route.path:
        found[0]["description"] = "id, UUID, domain or name of the VM"
    schema = route.query.model_json_schema()
    for name, entry in schema.get("properties", {}).items():
        described = dict(entry)
        if "$ref" in str(entry):
            enum = next(iter(schema.get("$defs", {}).values()))["enum"]
            described = {"type": "string", "enum": enum}
        parameter = {"name": name, "in": "query", "required": False, "schema": described}
        if "description" in described:
            parameter["description"] = described.pop("description")
        found.append(parameter)
    return found


def _success(route: Route) -> dict[str, Any]:
    if route.response is None:
        return {
            str(route.status): {
                "description": route.summary,
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        }
    schema = {
        "type": "object",
        "required": ["success", "data"],
        "properties": {
            "success": {"const": True},
            "data": {"$ref": REF.format(model=route.response.__name__)},
        },
    }
    if route.bare:
        schema = {"$ref": REF.format(model=route.response.__name__)}
    answer: dict[str, Any] = {
        "description": route.summary,
        "content": {"application/json": {"schema": schema}},
    }
    if route.status == 202:
        answer["description"] = "Accepted: the job is committed"
        answer["headers"] = {
            "Location": {"description": "path of the job", "schema": {"type": "string"}}
        }
    return {str(route.status): answer}


def _other_statuses(route: Route) -> dict[str, Any]:
    same = next(iter(_success(route).values()))
    return {str(status): same for status in route.other_statuses}


def _failures(route: Route) -> dict[str, Any]:
    known = error_classes()
    codes = [*route.errors, *ALWAYS, *(GUARDED if route.role > Role.NOBODY else ())]
    if route.body is not None:
        codes.append("PAYLOAD_TOO_LARGE")
    by_status: dict[str, list[str]] = {}
    for code in codes:
        by_status.setdefault(str(known[code].status), []).append(code)
    schema = {"$ref": REF.format(model="Error")}
    return {
        status: {
            "description": ", ".join(sorted(found)),
            "content": {"application/json": {"schema": schema}},
        }
        for status, found in sorted(by_status.items())
    }

"""The web pages: the API documentation, and a VM's console with its files."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sanic import HTTPResponse, Request, Sanic, html, json, raw, redirect
from sanic.exceptions import NotFound as PathNotFound

from virtplay.api import openapi
from virtplay.api.http.routing import add_route
from virtplay.files import NODE_MODULES, PACKAGE
from virtplay.store.lookup import NAME_LENGTH
from virtplay.texts import is_printable

HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:[0-9]{1,5})?")
KINDS = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css"}

# Maps a directory of the URL to a directory of the packages and the files to serve.
FROM_PACKAGES = {
    "novnc": ("@novnc/novnc", ("core/**/*.js", "vendor/**/*.js")),
    "xterm": (
        "@xterm",
        ("xterm/lib/xterm.mjs", "xterm/css/xterm.css", "addon-fit/lib/addon-fit.mjs"),
    ),
}

ASSET_HEADERS = {
    # The URL changes with the content.
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Asset:
    """One file of the page."""

    content: bytes
    kind: str
    """The content type; browsers require the right one for JavaScript modules."""


@dataclass(frozen=True)
class ConsolePage:
    """The page and its files, read at the start of the service."""

    html: str
    digest: str
    """The digest of all files, which is part of their URLs."""
    assets: dict[str, Asset]
    """By the path after /web/DIGEST/."""


def read_console_page(packages: Path = NODE_MODULES) -> ConsolePage:
    """Read the page and its files; the page reports missing npm packages."""
    assets = _own_assets() | _package_assets(packages)
    digest = hashlib.sha256()
    for name, asset in sorted(assets.items()):
        digest.update(f"{name} {len(asset.content)}\n".encode() + asset.content)
    address = digest.hexdigest()[:16]
    installed = "novnc/core/rfb.js" in assets and {"xterm/xterm.mjs", "xterm/addon-fit.mjs"} <= {
        *assets
    }
    html = (
        (PACKAGE / "web/console.html")
        .read_text(encoding="utf-8")
        .replace("$assets", f"../../web/{address}")
        .replace("$packages", "installed" if installed else "missing")
    )
    return ConsolePage(html, address, assets)


def page_headers(host: str) -> dict[str, str]:
    """Return the headers of the page; `host` is the Host header of the request."""
    own = f" ws://{host} wss://{host}" if HOST.fullmatch(host) else ""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        # xterm.js creates style elements, and sets text colours by style attributes:
        # https://github.com/xtermjs/xterm.js/issues/4445
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        # Not every browser matches a websocket of the same origin with 'self'.
        "connect-src": f"'self'{own}",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }


def _own_assets() -> dict[str, Asset]:
    found = {}
    for file in (PACKAGE / "web").iterdir():
        kind = KINDS.get(Path(file.name).suffix)
        if kind is not None:
            found[file.name] = Asset(file.read_bytes(), kind)
    return found


def _package_assets(packages: Path) -> dict[str, Asset]:
    found = {}
    for name, (directory, patterns) in FROM_PACKAGES.items():
        root = packages / directory
        for pattern in patterns:
            for path in root.glob(pattern):
                # noVNC's modules import each other by relative path.
                inside = path.relative_to(root).as_posix() if "**" in pattern else path.name
                found[f"{name}/{inside}"] = Asset(path.read_bytes(), KINDS[path.suffix])
    return found


def _may_be_a_name(text: str) -> bool:
    """Return whether a text may be an id, UUID, domain or name; the page asks the API which VM."""
    return 0 < len(text) <= NAME_LENGTH and text not in (".", "..") and is_printable(text)


def add_docs_page(app: Sanic[Any, Any]) -> None:
    """Serve /openapi.json, and /docs, which displays it and to which / redirects."""
    document = openapi.build_openapi()
    assets = {name: openapi.docs_asset(name) for name in openapi.ASSETS}

    async def show_document(_request: Request) -> HTTPResponse:
        return json(document)

    async def show_page(_request: Request) -> HTTPResponse:
        return html(openapi.DOCS_PAGE)

    async def lead_to_page(_request: Request) -> HTTPResponse:
        return redirect("docs")  # relative, as a proxy may add a path before it

    async def show_asset(_request: Request, name: str) -> HTTPResponse:
        if name not in assets:
            raise PathNotFound(name)
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return raw(assets[name], content_type=kind)

    add_route(app, show_document, "/openapi.json")
    add_route(app, lead_to_page, "/")
    add_route(app, show_page, "/docs")
    add_route(app, show_asset, "/docs/<name:str>")


def add_console_page(app: Sanic[Any, Any]) -> None:
    """Serve /vms/{id}/console and its files below /web."""
    page = read_console_page()

    async def show_page(request: Request, vm_id: str) -> HTTPResponse:
        if not _may_be_a_name(vm_id):
            raise PathNotFound(vm_id)
        return html(page.html, headers=page_headers(request.headers.get("host", "")))

    async def show_asset(_request: Request, digest: str, name: str) -> HTTPResponse:
        asset = page.assets.get(name) if digest == page.digest else None
        if asset is None:
            raise PathNotFound(name)
        return raw(asset.content, content_type=asset.kind, headers=ASSET_HEADERS)

    methods = ["GET", "HEAD"]
    # Strict slashes, because the page uses URLs relative to its own.
    add_route(
        app,
        show_page,
        "/vms/<vm_id:str>/console",
        methods=methods,
        strict_slashes=True,
        unquote=True,
        name="console_page",
    )
    add_route(
        app, show_asset, "/web/<digest:str>/<name:path>", methods=methods, name="console_asset"
    )

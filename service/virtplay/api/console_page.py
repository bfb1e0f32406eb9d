"""API: /vms/{id}/console, the page that shows a VM's console, and the files that it loads."""

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from virtplay.settings import PROJECT

VM_ID = re.compile(r"vm-[0-9]{1,18}")
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?|\[[0-9a-fA-F:.]{2,45}\](:[0-9]{1,5})?")
KINDS = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css"}
NODE_MODULES = PROJECT / "service" / "web" / "node_modules"
"""Where scripts/setup has npm put what package-lock.json names."""

# Directory of the address → directory of the packages and what is taken from there.
FROM_PACKAGES = {
    "novnc": ("@novnc/novnc", ("core/**/*.js", "vendor/**/*.js")),
    "xterm": (
        "@xterm",
        ("xterm/lib/xterm.mjs", "xterm/css/xterm.css", "addon-fit/lib/addon-fit.mjs"),
    ),
}

ASSET_HEADERS = {
    # The address changes with the files.
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Asset:
    """One file that the page loads."""

    content: bytes
    kind: str
    """Its content type: a script that is a module needs its own."""


@dataclass(frozen=True)
class ConsolePage:
    """The page and its files, as they were when the service started."""

    html: str
    digest: str
    """Of all files; it is a part of their address."""
    assets: dict[str, Asset]
    """By the path behind /web/DIGEST/."""


def read_console_page(packages: Path = NODE_MODULES) -> ConsolePage:
    """Read it all; without the npm packages the page itself says that they are missing."""
    assets = _own_assets() | _package_assets(packages)
    digest = hashlib.sha256()
    for name, asset in sorted(assets.items()):
        digest.update(f"{name} {len(asset.content)}\n".encode() + asset.content)
    address = digest.hexdigest()[:16]
    installed = "novnc/core/rfb.js" in assets and {"xterm/xterm.mjs", "xterm/addon-fit.mjs"} <= {
        *assets
    }
    html = (
        (files("virtplay") / "web" / "console.html")
        .read_text(encoding="utf-8")
        .replace("$assets", f"../../web/{address}")
        .replace("$packages", "installed" if installed else "missing")
    )
    return ConsolePage(html, address, assets)


def page_headers(host: str) -> dict[str, str]:
    """The headers of the page; `host` is what the client calls this service."""
    own = f" ws://{host} wss://{host}" if HOST.fullmatch(host) else ""
    policy = {
        "default-src": "'none'",
        "script-src": "'self'",
        # xterm.js makes its own style elements, and sets colours of text as style attributes.
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        # Not every browser takes a websocket of the same origin for 'self'.
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
    for file in (files("virtplay") / "web").iterdir():
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
                # noVNC's modules name each other by their places; the rest stand alone.
                inside = path.relative_to(root).as_posix() if "**" in pattern else path.name
                found[f"{name}/{inside}"] = Asset(path.read_bytes(), KINDS[path.suffix])
    return found

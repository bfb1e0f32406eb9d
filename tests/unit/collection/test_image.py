"""Tests of the module image: real files, a real web server on loopback, the real qemu-img."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.virtplay.libvirt.plugins.filter.images import spec_hashes
from ansible_collections.virtplay.libvirt.plugins.module_utils.failure import Failure
from ansible_collections.virtplay.libvirt.plugins.module_utils.image.store import TemplateStore
from ansible_collections.virtplay.libvirt.plugins.modules.image import run

URL = "https://images.example/releases/9/disk.qcow2"
SUMS = "https://images.example/releases/9/SHA256SUMS"


class Server:
    """A web server: answers by path, counts the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if self.path in outer.answers:
                    outer.answers[self.path](self)
                else:
                    self.send_error(404)

            def log_message(self, *_: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"

    def serve(self, path: str, content: bytes, announce: int | None = None) -> None:
        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(announce or len(content)))
            handler.end_headers()
            handler.wfile.write(content)

        self.answers[path] = answer

    def redirect(self, path: str, target: str) -> None:
        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(302)
            handler.send_header("Location", target)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        self.answers[path] = answer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    return tmp_path / "templates"


@pytest.fixture
def ask(templates: Path) -> Callable[..., dict[str, Any]]:
    def ask(check_mode: bool = False, **wanted: Any) -> dict[str, Any]:
        params: dict[str, Any] = {
            "name": "disk",
            "url": None,
            "path": None,
            "checksum": None,
            "mirror": None,
            "os": None,
            "format": "auto",
            "templates_path": str(templates),
            "max_virtual_size": 8,
            "timeout": 20,
            "force": False,
        }
        result: dict[str, Any] = run(params | wanted, check_mode)
        return result

    return ask


def qcow2(path: Path, *options: str, size: str = "1M") -> Path:
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", *options, str(path), size], check=True
    )
    return path


def test_the_hashes_of_a_catalogue_are_those_that_the_module_stores(
    ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = str(qcow2(tmp_path / "disk.qcow2"))
    checksum = f"sha256:{hashlib.sha256(Path(path).read_bytes()).hexdigest()}"
    catalogue: dict[str, dict[str, Any]] = {
        "micro": {"micro": True},
        "plain": {"path": path},
        "full": {"path": path, "os": "debian12", "format": "qcow2", "checksum": checksum},
    }
    hashes = spec_hashes(catalogue, path)
    for name, entry in catalogue.items():
        options = {**entry, "path": path}
        options.pop("micro", None)
        assert ask(name=name, **options)["image"]["spec_hash"] == hashes[name]
    assert len({*hashes.values()}) == 3
    assert set(spec_hashes(catalogue, path, force=True).values()) == {""}
    odd: Any = {"odd": None, **catalogue}
    assert spec_hashes(odd, path) == hashes


def raw_disk(path: Path) -> Path:
    path.write_bytes(b"\xeb\xfe".ljust(510, b"\0") + b"\x55\xaa" + bytes(1 << 20) + b"end" * 171)
    return path


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def left(templates: Path) -> set[str]:
    """Return what is in the directory, the locks that stay apart."""
    if not templates.exists():
        return set()
    return {path.name for path in templates.iterdir() if not path.name.endswith("@lock")}


def refused(ask: Callable[..., dict[str, Any]], **wanted: Any) -> Failure:
    with pytest.raises(Failure) as caught:
        ask(**wanted)
    assert str(caught.value).startswith("cannot ")
    return caught.value


def test_download_is_stored_by_its_content_with_a_manifest(
    server: Server, ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    content = qcow2(tmp_path / "disk.qcow2").read_bytes()
    server.serve("/images.example/releases/9/disk.qcow2", content)
    result = ask(url=URL, checksum=sha256(content), mirror=server.url, os="someos")
    image = result["image"]
    digest = hashlib.sha256(content).hexdigest()
    assert result["changed"]
    assert image["file"] == f"disk-{digest[:12]}.qcow2"
    assert Path(image["path"]).read_bytes() == content
    assert (image["sha256"], image["os"], image["format"]) == (digest, "someos", "qcow2")
    assert image["virtual_size_bytes"] == 1 << 20
    assert left(templates) == {image["file"], "disk.json"}
    manifest = json.loads((templates / "disk.json").read_text())
    assert manifest | {"path": image["path"]} == image


def test_second_run_asks_nobody_and_changes_nothing(
    server: Server, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = qcow2(tmp_path / "disk.qcow2").read_bytes()
    server.serve("/disk.qcow2", content)
    wanted = {"url": URL, "checksum": sha256(content), "mirror": server.url}
    first = ask(**wanted)
    asked = len(server.asked)
    second = ask(**wanted)
    assert second == {"changed": False, "image": first["image"]}
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    "listing",
    ["{} *disk.qcow2\n", "{}  disk.qcow2\n", "{}  ./disk.qcow2\n", "SHA256 (disk.qcow2) = {}\n"],
)
def test_checksum_is_read_from_a_listing(
    listing: str, server: Server, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = qcow2(tmp_path / "disk.qcow2").read_bytes()
    text = f"# a comment\n{'0' * 64}  other.qcow2\n"
    text += listing.format(hashlib.sha256(content).hexdigest())
    server.serve("/releases/9/disk.qcow2", content)
    server.serve("/releases/9/SHA256SUMS", text.encode())
    assert ask(url=URL, checksum=SUMS, mirror=server.url)["changed"]
    server.serve("/releases/9/SHA256SUMS", text.replace("disk.qcow2", "disk2.qcow2").encode())
    error = refused(ask, url=URL, checksum=SUMS, mirror=server.url, force=True)
    assert error.code == "CHECKSUM_MISMATCH"


def test_sha512_listing_is_obeyed(
    server: Server, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = qcow2(tmp_path / "disk.qcow2").read_bytes()
    server.serve("/disk.qcow2", content)
    server.serve("/SHA256SUMS", f"{hashlib.sha512(content).hexdigest()}  disk.qcow2".encode())
    assert ask(url=URL, checksum=SUMS, mirror=server.url)["changed"]
    server.serve("/SHA256SUMS", f"{hashlib.sha512(b'').hexdigest()}  disk.qcow2".encode())
    error = refused(ask, url=URL, checksum=SUMS, mirror=server.url, force=True)
    assert error.code == "CHECKSUM_MISMATCH"


def test_wrong_checksum_leaves_no_file_and_the_old_template_in_place(
    server: Server, ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    content = qcow2(tmp_path / "disk.qcow2").read_bytes()
    server.serve("/disk.qcow2", content)
    error = refused(ask, url=URL, checksum="sha256:" + "1" * 64, mirror=server.url)
    assert error.code == "CHECKSUM_MISMATCH"
    assert hashlib.sha256(content).hexdigest() in str(error)
    assert left(templates) == set()
    old = ask(url=URL, checksum=sha256(content), mirror=server.url)["image"]
    refused(ask, url=URL, checksum="sha256:" + "1" * 64, mirror=server.url)
    assert left(templates) == {old["file"], "disk.json"}
    assert TemplateStore(templates).manifest("disk") == {
        key: value for key, value in old.items() if key != "path"
    }


def test_truncated_download_is_refused(
    server: Server, ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    content = qcow2(tmp_path / "disk.qcow2").read_bytes()
    half = content[: len(content) // 2]
    server.serve("/disk.qcow2", half, announce=len(content))
    # Its checksum is that of the half: the length alone has to give it away.
    error = refused(ask, url=URL, checksum=sha256(half), mirror=server.url)
    assert error.code == "DOWNLOAD_FAILED"
    assert f"{len(half)} of {len(content)}" in str(error)
    assert left(templates) == set()


def test_absent_file_and_dead_server_are_told(
    server: Server, ask: Callable[..., dict[str, Any]]
) -> None:
    wanted = {"url": URL, "checksum": "sha256:" + "1" * 64}
    error = refused(ask, **wanted, mirror=server.url)
    assert (error.code, "404" in str(error)) == ("DOWNLOAD_FAILED", True)
    assert server.asked == [
        "/images.example/releases/9/disk.qcow2",
        "/releases/9/disk.qcow2",
        "/disk.qcow2",
    ]
    assert refused(ask, **wanted, mirror="http://127.0.0.1:1").code == "DOWNLOAD_FAILED"


def test_more_than_fits_is_refused_before_it_is_written(
    server: Server, ask: Callable[..., dict[str, Any]], templates: Path
) -> None:
    server.serve("/disk.qcow2", b"x", announce=6 * 10**13)
    wanted = {"url": URL, "checksum": "sha256:" + "1" * 64, "mirror": server.url}
    assert refused(ask, **wanted).code == "IMAGE_REFUSED"
    error = refused(ask, **wanted, max_virtual_size=65_536)
    assert error.code == "INSUFFICIENT_RESOURCES"
    assert left(templates) == set()


@pytest.mark.parametrize("place", ["images.example/releases/9", "releases/9", "."])
def test_mirror_directory_is_used_in_every_layout(
    place: str, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "mirror" / place
    folder.mkdir(parents=True)
    content = qcow2(folder / "disk.qcow2").read_bytes()
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(content).hexdigest()} *disk.qcow2\n")
    assert ask(url=URL, checksum=SUMS, mirror=str(tmp_path / "mirror"))["changed"]


@pytest.mark.parametrize(
    "url",
    ["https://h/a/../../etc/passwd", "https://h/%2e%2e/x", "https://h/", "https://h/a%2fb%00"],
)
def test_url_cannot_lead_out_of_a_mirror(
    url: str, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    error = refused(ask, url=url, checksum="sha256:" + "1" * 64, mirror=str(tmp_path))
    assert error.code == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "0.0.0.0", "[::ffff:127.0.0.1]"]
)
def test_url_to_this_host_or_its_link_is_refused(
    host: str, server: Server, ask: Callable[..., dict[str, Any]]
) -> None:
    port = server.url.rpartition(":")[2]
    error = refused(
        ask, url=f"http://{host}:{port}/disk.qcow2", checksum="sha256:" + "1" * 64, timeout=2
    )
    assert error.code == "DOWNLOAD_FAILED"
    assert "this host" in str(error)
    assert server.asked == []


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x", "/etc/passwd", "data:,x"])
def test_other_schemes_are_refused(url: str, ask: Callable[..., dict[str, Any]]) -> None:
    assert refused(ask, url=url, checksum="sha256:" + "1" * 64).code == "VALIDATION_ERROR"


def test_redirect_is_followed_but_not_to_a_file(
    server: Server, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = qcow2(tmp_path / "disk.qcow2").read_bytes()
    wanted = {"url": URL, "checksum": sha256(content), "mirror": server.url}
    server.redirect("/images.example/releases/9/disk.qcow2", f"file://{tmp_path}/disk.qcow2")
    assert "not allowed" in str(refused(ask, **wanted))
    server.redirect("/images.example/releases/9/disk.qcow2", "/elsewhere")
    server.serve("/elsewhere", content)
    assert ask(**wanted)["changed"]


def test_endless_redirects_end(server: Server, ask: Callable[..., dict[str, Any]]) -> None:
    server.redirect(
        "/images.example/releases/9/disk.qcow2", "/images.example/releases/9/disk.qcow2"
    )
    error = refused(ask, url=URL, checksum="sha256:" + "1" * 64, mirror=server.url)
    assert error.code == "DOWNLOAD_FAILED"


def hostile_images(folder: Path) -> dict[str, Path]:
    """Return files that must not become templates, by what is wrong with them."""
    folder.mkdir(exist_ok=True)
    base = qcow2(folder / "base.qcow2")
    files = {
        "backing file": qcow2(folder / "overlay.qcow2", "-b", str(base), "-F", "qcow2"),
        "data file": qcow2(folder / "data.qcow2", "-o", f"data_file={folder}/data.raw"),
        "limit is": qcow2(folder / "huge.qcow2", size="100T"),
    }
    vmdk = folder / "disk.vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", str(vmdk), "1M"], check=True)
    files["VMDK"] = vmdk
    descriptor = folder / "flat.vmdk"
    descriptor.write_text('# Disk DescriptorFile\nRW 2048 FLAT "/etc/shadow" 0\n'.ljust(2048))
    files["a VMDK"] = descriptor
    damaged = bytearray(base.read_bytes())
    damaged[40:48] = (1 << 40).to_bytes(8, "big")  # the table of clusters lies beyond the end
    files["cannot use"] = folder / "damaged.qcow2"
    files["cannot use"].write_bytes(damaged)
    for name, content in {
        "cut off": base.read_bytes()[:80],
        "bytes are too few for a disk": b"",
        "gzip": b"\x1f\x8b" + bytes(2048),
        "web page": b"<!DOCTYPE html><html>".ljust(2048),
        "neither": b"just text".ljust(4096),
    }.items():
        files[name] = folder / name
        files[name].write_bytes(content)
    return files


def test_hostile_images_are_refused(
    ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    for reason, path in hostile_images(tmp_path / "hostile").items():
        error = refused(ask, path=str(path))
        assert error.code == "IMAGE_REFUSED", reason
        assert reason in str(error)
    assert left(templates) == set()


def test_qcow2_is_never_taken_as_raw(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    path = hostile_images(tmp_path / "hostile")["backing file"]
    assert refused(ask, path=str(path), format="raw").code == "IMAGE_REFUSED"


def test_raw_becomes_qcow2_with_the_same_content(
    ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    raw = raw_disk(tmp_path / "disk.raw")
    image = ask(path=str(raw), checksum=sha256(raw.read_bytes()))["image"]
    stored = Path(image["path"])
    assert image["sha256"] == hashlib.sha256(stored.read_bytes()).hexdigest()
    assert left(templates) == {stored.name, "disk.json"}
    compared = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(raw), str(stored)], check=False
    )
    assert compared.returncode == 0


def test_raw_without_boot_sector_needs_to_be_called_raw(
    ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "data.raw"
    path.write_bytes(bytes(1 << 20))
    assert refused(ask, path=str(path)).code == "IMAGE_REFUSED"
    assert ask(path=str(path), format="raw")["image"]["virtual_size_bytes"] == 1 << 20


def test_only_regular_files_are_read(ask: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(qcow2(tmp_path / "disk.qcow2"))
    os.mkfifo(tmp_path / "fifo")
    assert "symbolic link" in str(refused(ask, path=str(tmp_path / "link")))
    assert "regular file" in str(refused(ask, path=str(tmp_path / "fifo")))
    assert "regular file" in str(refused(ask, path=str(tmp_path)))
    assert refused(ask, path=str(tmp_path / "none")).code == "TEMPLATE_NOT_FOUND"
    assert refused(ask, path="disk.qcow2").code == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", ".hidden", "-x", "a\n", "a b", "a@b", "x" * 64, "{{ 1 }}", "ä"]
)
def test_names_that_are_no_file_names_are_refused(
    name: str, ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    path = qcow2(tmp_path / "disk.qcow2")
    assert refused(ask, name=name, path=str(path)).code == "VALIDATION_ERROR"
    assert left(templates) == set()


@pytest.mark.parametrize(
    "checksum", ["", "sha256:12", "md5:" + "1" * 32, "sha512:" + "1" * 64, "file:///etc/passwd"]
)
def test_bad_checksum_is_refused(checksum: str, ask: Callable[..., dict[str, Any]]) -> None:
    assert refused(ask, url=URL, checksum=checksum).code == "VALIDATION_ERROR"


def test_dry_run_asks_nobody_and_writes_nothing(
    server: Server, ask: Callable[..., dict[str, Any]], templates: Path
) -> None:
    result = ask(check_mode=True, url=URL, checksum=SUMS, mirror=server.url)
    assert result["changed"]
    assert result["diff"]["before"] == {}
    assert result["diff"]["after"]["source"] == URL
    assert server.asked == []
    assert not templates.exists()


def test_changed_wish_makes_a_new_file_and_keeps_the_old_one(
    ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    first = ask(path=str(qcow2(tmp_path / "one.qcow2")))["image"]
    second = ask(path=str(qcow2(tmp_path / "two.qcow2", size="2M")))
    assert second["changed"]
    assert second["diff"]["before"]["sha256"] == first["sha256"]
    assert left(templates) == {first["file"], second["image"]["file"], "disk.json"}


def test_force_fetches_again_and_tells_a_change_only_when_there_is_one(
    ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = qcow2(tmp_path / "disk.qcow2")
    ask(path=str(path))
    assert not ask(path=str(path), force=True)["changed"]
    path.unlink()
    qcow2(path, size="2M")
    assert not ask(path=str(path))["changed"]
    assert ask(path=str(path), force=True)["image"]["virtual_size_bytes"] == 2 << 20


def test_template_whose_image_is_gone_is_made_again(
    ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = qcow2(tmp_path / "disk.qcow2")
    image = Path(ask(path=str(path))["image"]["path"])
    image.unlink()
    assert ask(path=str(path))["changed"]
    assert image.exists()


def test_runs_at_once_download_once(
    server: Server, ask: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    content = qcow2(tmp_path / "disk.qcow2").read_bytes()
    server.serve("/images.example/releases/9/disk.qcow2", content)
    wanted = {"url": URL, "checksum": sha256(content), "mirror": server.url}
    with ThreadPoolExecutor(4) as pool:
        results = [each.result() for each in [pool.submit(ask, **wanted) for _ in range(4)]]
    assert sorted(result["changed"] for result in results) == [False, False, False, True]
    assert len(server.asked) == 1


def test_lock_held_too_long_is_told_with_its_holder(
    ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    path = qcow2(tmp_path / "disk.qcow2")
    with TemplateStore(templates).locked("disk", 1):
        error = refused(ask, path=str(path), timeout=1)
    assert error.code == "OPERATION_IN_PROGRESS"
    assert str(os.getpid()) in str(error)
    assert ask(path=str(path))["changed"]


def test_leftovers_of_a_dead_run_are_swept_but_not_those_of_other_names(
    ask: Callable[..., dict[str, Any]], tmp_path: Path, templates: Path
) -> None:
    templates.mkdir()
    dead, other = templates / ".disk@12.part", templates / ".disk-2@12.part"
    dead.touch()
    other.touch()
    ask(path=str(qcow2(tmp_path / "disk.qcow2")))
    assert not dead.exists()
    assert other.exists()


def test_manifest_that_leads_elsewhere_is_no_template(templates: Path, tmp_path: Path) -> None:
    templates.mkdir()
    (tmp_path / "secret").touch()
    (templates / "disk.json").write_text(json.dumps({"file": "../secret", "spec_hash": "x"}))
    assert TemplateStore(templates).manifest("disk") is None

"""Acceptance tests: hostile text arrives as text, all the way, and nothing of it is executed."""

from __future__ import annotations

from pathlib import Path

from lab.lab import Host
from tests.acceptance.guests import booted, domain_xml, in_guest, traces
from tests.acceptance.service import MICRO, Api, Json

NAMESPACE = "{urn:virtplay:vm:1}"
MARK = "/tmp/vp"
"""Below /tmp, the one directory that the lab's hosts share with the machine."""


def texts(mark: Path) -> dict[str, str]:
    """Return names that would each make the file `mark` if anything read them as a language."""
    return {
        "jinja": f"{{{{ lookup('pipe', 'touch {mark}') }}}}",
        "jinja block": f"{{% if lookup('pipe', 'touch {mark}') %}}x{{% endif %}}",
        "unsafe": '{"__ansible_unsafe": "x"}',
        "shell": f"x; touch {mark}",
        "substitution": f"$(touch {mark}) `touch {mark}`",
        "arguments": f"a b creates={mark} --extra",
        "dash": "--check -e x=y",
        "xml": "</title><devices/>&lt;&amp;<!-- x ]]>",
        "entity": '<!DOCTYPE a [<!ENTITY b "c">]>&b;',
        "quotes": "a'b\"c\\d",
        "percent": "%s %(x)s %n ${HOME}",
        "path": "../../etc/passwd",
        "yaml": "x: [1, *a]",
        "right to left": "שלום עולם 中文 🖥",
    }


def test_hostile_text_is_only_text(api: Api, one: Host, two: Host, tmp_path: Path) -> None:
    hosts = {one.name: one, two.name: two}
    before = {name: traces(host) for name, host in hosts.items()}
    mark = Path(f"{MARK}-{tmp_path.parent.name}")
    mark.unlink(missing_ok=True)
    waiting = {}
    for kind, text in texts(mark).items():
        body = {"name": text, "description": text, "labels": {"text": text}, **MICRO}
        body["userData"] = f"#!/bin/sh\n# {text}\necho ok > /run/mark\n"
        waiting[kind] = api.send("POST", "/vms", body)
    for kind, text in texts(mark).items():
        made = waiting[kind]
        api.succeeded(made["jobId"], 200)
        vm = api.vm(made["id"])
        waiting[kind] = vm | made
        xml = domain_xml(hosts[vm["host"]], vm["domain"])
        assert xml.findtext("title") == text, kind
        assert xml.findtext("description") == text, kind
        label = xml.find(f"metadata/{NAMESPACE}vm/{NAMESPACE}label")
        assert (label.get("name"), label.get("value")) == ("text", text)
        assert (vm["name"], vm["description"], vm["labels"]) == (text, text, {"text": text})
    # And as changes of one that is there.
    ref = waiting["jinja"]["id"]
    changed: Json = {"name": texts(mark)["xml"], "labels": {"a": texts(mark)["jinja"]}}
    api.run("PUT", f"/vms/{ref}", changed)
    shown = api.shows(ref, **changed)
    assert shown["domain"] == "title-devices-lt-amp-x"
    xml = domain_xml(hosts[shown["host"]], shown["domain"])
    assert xml.findtext("title") == changed["name"]
    # The user-data is the guest's to read, comments included.
    ref = waiting["substitution"]["domain"]
    api.run("POST", f"/vms/{ref}/start")
    host = hosts[api.vm(ref)["host"]]
    booted(host, ref)
    seed = in_guest(host, ref, "/bin/cat", "/run/seed/user-data")
    assert f"# {texts(mark)['substitution']}\n" in seed
    assert not mark.exists(), "something executed a name on this machine or on a host"
    deletions = [api.send("DELETE", f"/vms/{m['id']}?force=true") for m in waiting.values()]
    for deletion in deletions:
        api.succeeded(deletion["jobId"], 120)
    assert {name: traces(host) for name, host in hosts.items()} == before


def test_text_that_could_do_harm_later_is_refused(api: Api) -> None:
    good = {"name": "x", **MICRO}
    for field, value in {
        "name": "a\nb",
        "description": "a\x07b",
        "labels": {"k": "a\u2028b"},
        "sshKeys": ["ssh-ed25519 AAAA x\nruncmd: [id]"],
        "userData": "{{ lookup('pipe', 'id') }}",
        "host": "a\u200fb",
    }.items():
        error = api.refused(400, "VALIDATION_ERROR", "POST", "/vms", {**good, field: value})
        assert error["details"]["fields"][0]["field"].split(".")[0].split("[")[0] == field
    template = {**good, "template": "../../etc/passwd"}
    api.refused(404, "TEMPLATE_NOT_FOUND", "POST", "/vms", template)
    assert api.vms() == {}

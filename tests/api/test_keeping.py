"""API tests: what a VM keeps, and what keeps a VM: its network, its host, its snapshots."""

from virtplay.states import VmStatus
from virtplay.store.models import Job, Vm
from virtplay.store.vms import sync_hosts

from tests.api.conftest import BODY, Service
from tests.api.fake_hosts import foreign_domain, snapshot_entry

NETWORK = {"type": "network", "network": "default", "mac": "52:54:00:00:00:07"}


async def seen_vm(service: Service, **values: object) -> Vm:
    """A VM that an observation of kvm1 has found."""
    await service.see("kvm1", domains=[foreign_domain("web", **values)])
    return await Vm.get(ref="vm-001")


async def test_change_of_the_card_keeps_the_fixed_address_on_its_network(service: Service) -> None:
    vm = await seen_vm(service)
    await Vm.filter(id=vm.id).update(network={**NETWORK, "ip": "203.0.113.80"})
    answer = await service.client.put(
        "/api/v1/vms/vm-001", json={"network": {"network": "default", "model": "e1000e"}}
    )
    assert answer.status_code == 202, answer.text
    job = await Job.get(ref=answer.json()["data"]["jobId"])
    assert job.variables["libvirt_domain_network"] == {
        **NETWORK, "ip": "203.0.113.80", "model": "e1000e",
    }  # fmt: skip


def card(**values: object) -> dict[str, object]:
    """A network interface as a host reports it."""
    standard = {"mac": NETWORK["mac"], "type": "network", "source": "default", "target": "vnet1"}
    return {**standard, "model": "virtio", **values}


async def test_description_of_several_lines_can_be_written_back(service: Service) -> None:
    text = "one\n\ttwo\n"
    _ = await seen_vm(service, description=text)
    shown = (await service.get("/vms/vm-001"))["description"]
    assert shown == text
    answer = await service.client.put("/api/v1/vms/vm-001", json={"description": shown})
    assert answer.status_code == 202, answer.text
    assert (await Job.get()).variables["libvirt_domain_description"] == text
    await Job.all().delete()
    body = {"name": "before", "description": text}
    assert (await service.post("/vms/vm-001/snapshots", body)).status_code == 202


async def test_card_keeps_a_model_that_cannot_be_requested(service: Service) -> None:
    _ = await seen_vm(service, interfaces=[card(model="ne2k_pci")])
    shown = (await service.get("/vms/vm-001"))["network"]
    assert shown == {**NETWORK, "model": "ne2k_pci"}
    refused = await service.client.put(
        "/api/v1/vms/vm-001", json={"network": {**shown, "model": "vmxnet3"}}
    )
    assert refused.status_code == 400
    assert refused.json()["error"]["details"]["fields"] == [
        {"field": "network.model", "message": "must be one of virtio, e1000e, e1000, rtl8139"}
    ]
    # What was read can be written back.
    answer = await service.client.put("/api/v1/vms/vm-001", json={"network": shown})
    assert answer.status_code == 202, answer.text
    assert (await Job.get()).variables["libvirt_domain_network"] == NETWORK


async def test_card_of_another_type_is_shown_and_moved_nowhere(service: Service) -> None:
    _ = await seen_vm(service, interfaces=[card(type="direct", source="eth0")])
    assert (await service.get("/vms/vm-001"))["network"]["direct"] == "eth0"
    refused = await service.client.put("/api/v1/vms/vm-001", json={"network": {}})
    assert refused.status_code == 400
    assert "the card is of type direct" in refused.json()["error"]["message"]
    assert (await service.client.put("/api/v1/vms/vm-001", json={"memory": 64})).status_code == 202


async def test_vms_of_a_host_that_left_the_inventory_are_unreachable(service: Service) -> None:
    assert (await seen_vm(service)).status == VmStatus.RUNNING
    await sync_hosts({"kvm2"})
    assert (await service.get("/vms/vm-001"))["status"] == "unreachable"
    for method, path in (("POST", "/stop"), ("DELETE", ""), ("POST", "/start")):
        answer = await service.client.request(method, f"/api/v1/vms/vm-001{path}")
        assert answer.status_code == 503, path
        assert answer.json()["error"]["code"] == "HOST_UNREACHABLE"
        assert "kvm1" in answer.json()["error"]["message"]


async def test_vm_with_snapshots_is_deleted_only_with_force(service: Service) -> None:
    snapshots = [snapshot_entry("one"), snapshot_entry("two", parent="one")]
    vm = await seen_vm(service, state="stopped", snapshots=snapshots)
    refused = await service.client.delete(f"/api/v1/vms/{vm.ref}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "VM_HAS_SNAPSHOTS")
    assert refused.json()["error"]["details"] == {"snapshots": 2}
    assert (await service.client.delete(f"/api/v1/vms/{vm.ref}?force=true")).status_code == 202


async def test_a_mac_address_is_given_once_a_host(service: Service) -> None:
    body = {**BODY, "host": "kvm1", "network": {"mac": NETWORK["mac"]}}
    assert (await service.client.post("/api/v1/vms", json=body)).status_code == 202
    refused = await service.client.post("/api/v1/vms", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["details"]["fields"][0]["field"] == "network.mac"
    assert (
        await service.client.post("/api/v1/vms", json={**body, "host": "kvm2"})
    ).status_code == 202


async def test_head_answers_as_get_without_a_body(service: Service) -> None:
    answer = await service.client.head("/api/v1/vms")
    assert (answer.status_code, answer.content) == (200, b"")

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

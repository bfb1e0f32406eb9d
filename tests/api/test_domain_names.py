"""API tests: a VM's domain is called by its name, and renamed with it."""

from virtplay.states import VmStatus
from virtplay.store.models import Job

from tests.api.conftest import Service
from tests.api.fake_hosts import foreign_domain
from tests.api.test_vms import put_vm


async def create(service: Service, name: str, **values: object) -> tuple[str, str]:
    """Id and domain of a new VM."""
    data = await service.create(**{"name": name, "host": "kvm1", **values})
    vm = await service.get(f"/vms/{data['id']}")
    return str(vm["id"]), str(vm["domain"])


async def test_a_domain_has_the_slug_of_the_name_and_the_metadata_the_id(service: Service) -> None:
    assert await create(service, "Zürich DB") == ("vm-001", "zurich-db")
    job = await Job.get()
    assert job.variables["libvirt_domain_name"] == "zurich-db"
    assert job.variables["libvirt_domain_id"] == "vm-001"
    assert job.variables["libvirt_domain_title"] == "Zürich DB"
    assert await create(service, "数据库") == ("vm-002", "vm-002")
    assert await create(service, "x" * 64) == ("vm-003", "x" * 63)
    assert await create(service, "x" * 63 + "y") == ("vm-004", "x" * 61 + "-2")


async def test_each_domain_of_a_host_has_a_name_of_its_own(service: Service) -> None:
    """Also beside domains that were found, and those that are being created."""
    await service.see("kvm1", domains=[foreign_domain("web-1"), foreign_domain("web-1-3")])
    assert (await create(service, "web 1"))[1] == "web-1-2"
    assert (await create(service, "Web-1"))[1] == "web-1-4"
    assert (await create(service, "web 1", host="kvm2"))[1] == "web-1"
    _ = await put_vm(name="moved", domain="db", host="kvm2", elsewhere={"kvm1": "stopped"})
    assert (await create(service, "db"))[1] == "db-2"


async def test_no_domain_has_the_id_of_another_vm(service: Service) -> None:
    assert await create(service, "VM 009") == ("vm-001", "vm-009-2")
    assert await create(service, "vm-002") == ("vm-002", "vm-002")
    assert await create(service, "vm-1") == ("vm-003", "vm-1")


async def test_many_of_one_name(database: str) -> None:
    for number in range(1, 13):
        vm = await put_vm(name="Web")
        assert vm.domain == ("web" if number == 1 else f"web-{number}")
    assert (await put_vm(name="We")).domain == "we"


async def test_another_name_asks_for_another_name_of_the_domain(service: Service) -> None:
    """Whether it can have it is for its host to say, whose state may have changed meanwhile."""
    vm = await put_vm(name="web", status=VmStatus.RUNNING)
    _ = await put_vm(name="Db")
    for body, new_name in (
        ({"name": "db"}, "db-2"),
        ({"name": "web"}, None),
        ({"name": "Web!"}, None),
        ({"memory": 1024}, None),
        ({"name": "数据库", "memory": 1024}, "vm-001"),
    ):
        answer = await service.client.put(f"/api/v1/vms/{vm.ref}", json=body)
        assert answer.status_code == 202, answer.text
        job = await Job.all().order_by("-id").first()
        assert job is not None
        assert job.variables["libvirt_domain_name"] == "web"
        assert job.variables.get("libvirt_domain_new_name") == new_name
        await Job.all().delete()


async def test_the_domain_of_an_earlier_version_keeps_its_name_until_a_rename(
    service: Service,
) -> None:
    vm = await put_vm(name="web", domain="vm-001")
    everything = {"name": "web", "description": "x", "cpu": 1, "memory": 512, "disk": 2}
    assert (await service.client.put("/api/v1/vms/vm-001", json=everything)).status_code == 202
    job = await Job.get()
    assert job.variables["libvirt_domain_name"] == "vm-001"
    assert "libvirt_domain_new_name" not in job.variables
    assert (await service.get("/vms/web"))["domain"] == vm.domain == "vm-001"


async def test_a_renamed_vm_is_found_by_its_new_domain(playing: Service) -> None:
    data = await playing.create(name="Web 1", host="kvm1")
    await playing.succeed(data["jobId"])
    vm = await playing.get("/vms/web-1")
    [found] = playing.hosts["kvm1"].domains()
    assert (found["name"], found["title"]) == ("web-1", "Web 1")
    assert found["metadata"]["id"] == vm["id"] == "vm-001"

    answer = await playing.client.put("/api/v1/vms/web-1", json={"name": "Zürich DB"})
    job = await playing.succeed(answer.json()["data"]["jobId"])
    assert [change["field"] for change in job["changes"]] == ["title", "name"]
    vm = await playing.get("/vms/zurich-db")
    assert (vm["name"], vm["domain"]) == ("Zürich DB", "zurich-db")
    assert (await playing.get("/vms", search="zurich-d"))["pagination"]["total"] == 1
    assert (await playing.get("/jobs", vm="zurich-db"))["pagination"]["total"] == 2
    gone = await playing.client.get("/api/v1/vms/web-1")
    assert gone.json()["error"]["code"] == "VM_NOT_FOUND"

    # Of a running VM only the name for people changes.
    await playing.succeed((await playing.act("zurich-db", "start"))["jobId"])
    answer = await playing.client.put("/api/v1/vms/zurich-db", json={"name": "Bern"})
    await playing.succeed(answer.json()["data"]["jobId"])
    assert (await playing.get("/vms/Bern"))["domain"] == "zurich-db"

"""API: /vms."""

import functools

from virtplay import vm_fields
from virtplay.actions import Action
from virtplay.api.http.envelope import ApiResponse, json_list, json_object
from virtplay.api.http.requests import ApiRequest
from virtplay.api.jobs import job_out
from virtplay.api.schemas.fields import Pagination
from virtplay.api.schemas.vms import (
    AcceptedOut,
    ActionsBody,
    ActionsOut,
    ErrorOut,
    RefusedOut,
    StatusOut,
    VmCreate,
    VmOut,
)
from virtplay.errors import AllRefused, VirtplayError, VmNotFound
from virtplay.states import VmStatus
from virtplay.store import jobs as job_store
from virtplay.store.lookup import find_vm
from virtplay.store.models import Vm
from virtplay.store.vm_list import ListedVm, VmRow, listed, page_vms
from virtplay.times import time_text
from virtplay.vms import Accepted

SETTLED = (VmStatus.RUNNING, VmStatus.PAUSED, VmStatus.STOPPED, VmStatus.ERROR)
"""The statuses that may be the domain's state, which has a reason."""

ROWS_KEPT = 2_000
"""How many rows of lists are kept as JSON; one takes 3 KB."""


def vm_out(vm: Vm | ListedVm) -> VmOut:
    """Return a VM as the API shows it."""
    return VmOut(
        **vm_fields.shown(vm),
        id=str(vm.ref),
        status=vm.status,
        statusReason=_reason(vm),
        ip=vm.ip,
        createdAt=time_text(vm.created_at) or "",
        updatedAt=time_text(vm.updated_at) or "",
        host=vm.host,
        domain=str(vm.domain),
        managed=vm.managed is not False,
        uuid=str(vm.uuid),
        addresses=vm.addresses,
        pending=vm.pending,
        error=vm.error,
        startedAt=time_text(vm.started_at),
        observedAt=time_text(vm.observed_at),
    )


def _reason(vm: Vm | ListedVm) -> str | None:
    return vm.state_reason if vm.status in SETTLED else None


def accepted_out(what: Accepted) -> AcceptedOut:
    """Return a VM with its new job as the API shows it."""
    return AcceptedOut(
        id=str(what.vm.ref),
        name=what.vm.name,
        status=what.vm.status,
        progress=what.job.progress,
        jobId=str(what.job.ref),
    )


def accepted(what: Accepted) -> ApiResponse:
    """Return the 202 response to a committed request, with the location of its job."""
    data = accepted_out(what)
    location = f"/api/v1/jobs/{what.job.ref}"
    return ApiResponse(data.model_dump(mode="json"), 202, {"Location": location})


async def list_vms(request: ApiRequest) -> ApiResponse:
    """GET /vms."""
    query = request.query
    rows, total = await page_vms(**query.model_dump())
    vms = await json_list(rows, _row_json)
    pagination = Pagination.of(query.page, query.limit, total).model_dump_json()
    return ApiResponse(json_object(vms=vms, pagination=pagination))


@functools.lru_cache(ROWS_KEPT)
def _row_json(row: VmRow) -> str:
    """Return an entry of VmPage; a row that has not changed since is not rendered again."""
    return vm_out(listed(row)).model_dump_json()


async def create_vm(request: ApiRequest) -> ApiResponse:
    """POST /vms."""
    body: VmCreate = request.body
    fields = vm_fields.from_request(body.model_dump())
    vms = request.services.vms
    return accepted(await vms.create(request.caller, fields, body.host, start=body.start))


async def get_vm(request: ApiRequest) -> ApiResponse:
    """GET /vms/{id}; waits for the first observation before a VM counts as unknown.

    Otherwise a client that asks whether a name is in use would create a second VM of that name:
    the database may be newer than the hosts.
    """
    observer, ref = request.services.observer, request.path["id"]
    try:
        vm = await find_vm(ref)
    except VmNotFound:
        if observer.has_observed:
            raise
        await observer.first_observation()
        vm = await find_vm(ref)
    return ApiResponse(vm_out(vm).model_dump(mode="json"))


async def update_vm(request: ApiRequest) -> ApiResponse:
    """PUT /vms/{id}."""
    fields = vm_fields.from_request(request.body.model_dump(exclude_unset=True))
    return accepted(await request.services.vms.update(request.caller, request.path["id"], fields))


async def delete_vm(request: ApiRequest) -> ApiResponse:
    """DELETE /vms/{id}."""
    vms = request.services.vms
    query = request.query
    return accepted(
        await vms.delete(
            request.caller, request.path["id"], force=query.force, keep_disks=query.keepDisks
        )
    )


async def start_vm(request: ApiRequest) -> ApiResponse:
    """POST /vms/{id}/start."""
    return await _act(request, Action.VM_START)


async def stop_vm(request: ApiRequest) -> ApiResponse:
    """POST /vms/{id}/stop."""
    return await _act(request, Action.VM_STOP, force=request.body.force)


async def restart_vm(request: ApiRequest) -> ApiResponse:
    """POST /vms/{id}/restart."""
    return await _act(request, Action.VM_RESTART, force=request.body.force)


async def pause_vm(request: ApiRequest) -> ApiResponse:
    """POST /vms/{id}/pause."""
    return await _act(request, Action.VM_PAUSE)


async def resume_vm(request: ApiRequest) -> ApiResponse:
    """POST /vms/{id}/resume."""
    return await _act(request, Action.VM_RESUME)


async def _act(request: ApiRequest, action: Action, *, force: bool = False) -> ApiResponse:
    vms = request.services.vms
    return accepted(await vms.act(request.caller, request.path["id"], action, force=force))


async def act_together(request: ApiRequest) -> ApiResponse:
    """POST /vms/actions."""
    body: ActionsBody = request.body
    answers = await request.services.vms.act_together(
        request.caller,
        Action(f"vm_{body.action}"),
        refs=body.vms,
        label=body.label,
        force=body.force,
        at_once=body.atOnce,
    )
    refused = [RefusedOut(id=each.ref, error=_error(each.reason)) for each in answers.refused]
    if not answers.accepted:
        raise AllRefused(
            f"cannot {body.action} any of {len(refused)} VMs: {refused[0].error.message}"
            f"{'; and others' * (len(refused) > 1)}",
            refused=[each.model_dump(mode="json") for each in refused],
        )
    jobs = [accepted_out(each) for each in answers.accepted]
    return ApiResponse(ActionsOut(jobs=jobs, refused=refused).model_dump(mode="json"), 202)


def _error(error: VirtplayError) -> ErrorOut:
    return ErrorOut(code=error.code, message=error.message, details=error.details)


async def get_status(request: ApiRequest) -> ApiResponse:
    """GET /vms/{id}/status."""
    vm = await find_vm(request.path["id"])
    job = await job_store.unfinished_job(vm.id)
    status = StatusOut(
        id=str(vm.ref),
        status=vm.status,
        statusReason=_reason(vm),
        observedAt=time_text(vm.observed_at),
        job=job_out(job, None) if job else None,
    )
    return ApiResponse(status.model_dump(mode="json"))

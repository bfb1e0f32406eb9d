"""Unit tests: every code of the API and its HTTP status."""

import pytest
from virtplay import errors
from virtplay.api.openapi import build_openapi, error_classes
from virtplay.api.routes import ROUTES

STATUSES = {
    "VM_NOT_FOUND": 404,
    "VM_AMBIGUOUS": 409,
    "VM_ALREADY_RUNNING": 400,
    "VM_ALREADY_STOPPED": 400,
    "INSUFFICIENT_RESOURCES": 400,
    "OPERATION_IN_PROGRESS": 409,
    "VALIDATION_ERROR": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "TEMPLATE_NOT_FOUND": 404,
    "HOST_NOT_FOUND": 404,
    "JOB_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "VM_ALREADY_PAUSED": 400,
    "VM_NOT_PAUSED": 400,
    "ALL_REFUSED": 409,
    "VM_HAS_SAVED_STATE": 409,
    "VM_HAS_SNAPSHOTS": 409,
    "SNAPSHOT_NOT_FOUND": 404,
    "SCHEDULE_NOT_FOUND": 404,
    "CONSOLE_NOT_AVAILABLE": 409,
    "JOB_FINISHED": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "RATE_LIMITED": 429,
    "HOST_UNREACHABLE": 503,
    "HISTORY_NOT_AVAILABLE": 503,
    "DATABASE_NOT_AVAILABLE": 503,
    "INTERNAL_ERROR": 500,
}
"""Every code of the API and its HTTP status."""


@pytest.mark.parametrize(("code", "status"), STATUSES.items())
def test_codes_have_the_status_of_the_document(code: str, status: int) -> None:
    assert error_classes()[code].status == status


def test_no_error_has_a_code_that_the_table_lacks() -> None:
    assert set(error_classes()) == set(STATUSES)


def test_every_code_is_in_openapi() -> None:
    document = build_openapi()
    codes = document["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"]
    assert set(codes["enum"]) == set(STATUSES)


def test_routes_promise_only_codes_that_exist() -> None:
    assert {code for route in ROUTES for code in route.errors} <= set(error_classes())


def test_an_error_carries_message_and_details() -> None:
    error = errors.OperationInProgress("cannot change VM vm-001", jobId="job-000001")
    assert (str(error), error.message) == ("cannot change VM vm-001",) * 2
    assert error.details == {"jobId": "job-000001"}
    assert errors.ValidationFailed("cannot").details == {"fields": []}

"""Secrets of a job: kept beside the database, private, and never handed to the next job."""

from pathlib import Path

from virtplay.jobs.submission import read_secrets, write_secrets


def test_secrets_come_back_and_are_private(tmp_path: Path) -> None:
    directory = tmp_path / "jobs" / "job-000001"
    write_secrets(directory, {"libvirt_domain_user_data": "#!/bin/sh\n"})
    assert read_secrets(directory) == {"libvirt_domain_user_data": "#!/bin/sh\n"}
    assert directory.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in directory.iterdir())


def test_a_job_never_gets_what_a_rolled_back_one_of_its_number_left(tmp_path: Path) -> None:
    directory = tmp_path / "job-000001"
    write_secrets(directory, {"libvirt_domain_user_data": "secret"})
    write_secrets(directory, {})
    assert read_secrets(directory) == {}

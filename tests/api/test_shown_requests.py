"""API tests: every request that docs/api.md and the README show, in their order."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.api.conftest import Service, only_sqlite

ROOT = Path(__file__).parents[2]
ADDRESS = "http://localhost:3000"


class Shown(NamedTuple):
    """A request as curl sends it."""

    method: str
    path: str
    body: object


def shown_in(page: str) -> list[Shown]:
    """The requests of a page's blocks of code."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    commands = re.findall(r"^curl .*", "".join(blocks).replace("\\\n", " "), re.M)
    return [read(shlex.split(command)[1:]) for command in commands]


def read(words: list[str]) -> Shown:
    """A request from the words of a command."""
    method, path, body = "", "", None
    rest = iter(words)
    for word in rest:
        if word == "-X":
            method = next(rest)
        elif word == "-d":
            body = json.loads(next(rest))
        elif word == "-H":
            assert next(rest).split(":")[0] in ("Authorization", "Content-Type")
        elif word != "-i":
            assert word.startswith(ADDRESS), word
            path = word.removeprefix(ADDRESS)
    return Shown(method or ("GET" if body is None else "POST"), path, body)


@pytest.mark.slow
@only_sqlite
async def test_shown_requests_are_accepted(playing: Service) -> None:
    answer = await playing.post(
        "/vms", {"name": "team-1", "template": "micro", "cpu": 1, "memory": 256, "disk": 1,
                 "labels": {"team": "web"}, "autoStart": True},
    )  # fmt: skip
    await playing.succeed(answer.json()["data"]["jobId"])
    requests = [*shown_in("docs/api.md"), *shown_in("README.md")]
    assert len(requests) >= 8
    for request in requests:
        answer = await playing.client.request(request.method, request.path, json=request.body)
        assert answer.status_code in (200, 202), (request, answer.text)
        data = answer.json()["data"]
        jobs = [data["jobId"]] if "jobId" in data else []
        for job in [*jobs, *(each["jobId"] for each in data.get("jobs", ()))]:
            await playing.succeed(job)

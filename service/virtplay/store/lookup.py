"""Store: finds the VMs that a request names: by id, UUID, name of the domain, or name."""

import re
import uuid
from collections.abc import Collection, Iterable
from typing import cast
from unicodedata import normalize

from tortoise.expressions import Q

from virtplay.errors import VmAmbiguous, VmNotFound
from virtplay.store.models import Vm
from virtplay.store.vm_list import numbers_with_label
from virtplay.store.vms import REF
from virtplay.texts import storable
from virtplay.times import time_text

UUID_TEXT = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
NAME_LENGTH = 255
"""Tortoise 1.1 raises when a text is longer than its column, even in a filter."""
MOST_LISTED = 50
"""The VMs that an error lists."""
MOST_NAMED = 5
"""The VMs that the message of an error names."""


async def find_vm(text: str, *, lock: bool = False) -> Vm:
    """Return the VM that `text` names, with its row locked if `lock`.

    Raise VmNotFound without such a VM, and VmAmbiguous if there are several.
    """
    rows = Vm.all().select_for_update() if lock else Vm.all()
    if not REF.fullmatch(text):
        found = await numbers_of([text])
    elif vm := await rows.get_or_none(ref=text):
        return vm
    else:
        found = await _numbers_called([text])
    number = await only_one(text, found[text])
    vm = await rows.get_or_none(id=number)
    if vm is None:  # deleted since
        raise not_found(text)
    return vm


async def get_vm(ref: str) -> Vm | None:
    """Return the VM with the public id `ref`, if there is one."""
    return await Vm.get_or_none(ref=ref) if REF.fullmatch(ref) else None


async def numbers_of(texts: Collection[str]) -> dict[str, list[int]]:
    """Return text → the numbers of the VMs that it names, in order.

    An id or a UUID names one VM, whatever others are called. Any other text names each VM whose
    domain or name it is, however its accents are written.
    """
    found: dict[str, list[int]] = {text: [] for text in texts}
    refs = [text for text in texts if REF.fullmatch(text)]
    if refs:
        for ref, number in await Vm.filter(ref__in=refs).values_list("ref", "id"):
            found[str(ref)] = [cast("int", number)]
    identities = {text: uuid.UUID(text) for text in texts if UUID_TEXT.fullmatch(text)}
    if identities:
        rows = await Vm.filter(uuid__in=list(identities.values())).values_list("uuid", "id")
        numbers = {identity: cast("int", number) for identity, number in rows}
        for text, identity in identities.items():
            if identity in numbers:
                found[text] = [numbers[identity]]
    return found | await _numbers_called([text for text, numbers in found.items() if not numbers])


async def _numbers_called(texts: Iterable[str]) -> dict[str, list[int]]:
    """Return text → the numbers of the VMs whose domain or name it is, in order."""
    spelled = {text: _spellings(text) for text in texts}
    names = [name for spellings in spelled.values() for name in spellings]
    called: dict[str, list[int]] = {}
    if names:
        either = Vm.filter(Q(domain__in=names) | Q(name__in=names)).order_by("id")
        for number, *both in await either.values_list("id", "domain", "name"):
            for name in {*both}:
                called.setdefault(str(name), []).append(cast("int", number))
    return {
        text: sorted({n for name in spellings for n in called.get(name, ())})
        for text, spellings in spelled.items()
    }


def _spellings(text: str) -> set[str]:
    """Return how a name may be stored; nothing for a text that no name is."""
    ways = {text, normalize("NFC", text), normalize("NFD", text)}
    return {way for way in ways if 0 < len(way) <= NAME_LENGTH and storable(way) == way}


async def only_one(text: str, numbers: Collection[int]) -> int:
    """Return the number of the VM that `text` names; raise VmNotFound or VmAmbiguous."""
    if not numbers:
        raise not_found(text)
    if len(numbers) > 1:
        raise await _ambiguous(text, numbers)
    return next(iter(numbers))


def not_found(text: str) -> VmNotFound:
    """Return the error of a text that names no VM."""
    return VmNotFound(f"cannot find VM {text[:64]}")


async def _ambiguous(text: str, numbers: Collection[int]) -> VmAmbiguous:
    rows = Vm.filter(id__in=list(numbers)[:MOST_LISTED]).order_by("id")
    vms = await rows.only("id", "ref", "name", "domain", "host", "status", "created_at")
    named = [
        f"{vm.ref} ({vm.status} on {vm.host or 'no host'}, created {time_text(vm.created_at)})"
        for vm in vms[:MOST_NAMED]
    ]
    more = len(numbers) - len(named)
    return VmAmbiguous(
        f"cannot choose a VM: {len(numbers)} are named {text[:64]}: {', '.join(named)}"
        f"{f' and {more} more' * (more > 0)}; use an id",
        matches=len(numbers),
        vms=[
            {
                "id": vm.ref,
                "name": vm.name,
                "domain": vm.domain,
                "host": vm.host,
                "status": vm.status,
                "createdAt": time_text(vm.created_at),
            }
            for vm in vms
        ],
    )


async def lock_numbers(numbers: Iterable[int]) -> dict[int, Vm]:
    """Return number → VM, with rows locked, of those that exist."""
    # In the order of everybody else, or two of them wait for each other.
    rows = Vm.filter(id__in=sorted(set(numbers))).order_by("id").select_for_update()
    return {vm.id: vm for vm in await rows}


async def lock_labelled(label: str, most: int) -> list[Vm]:
    """Return the first VMs with a label, at most `most`, with rows locked."""
    return list((await lock_numbers(await numbers_with_label(label, most))).values())

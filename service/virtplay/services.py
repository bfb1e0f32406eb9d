"""Wiring: creates and connects the objects that handlers and background tasks use."""

from dataclasses import dataclass
from functools import partial

from virtplay.console.opening import Consoles
from virtplay.hosts.inventory import load_inventory
from virtplay.hosts.observer import Observer
from virtplay.jobs.batch import execute_batch
from virtplay.jobs.dispatcher import Dispatcher, LocalDispatcher
from virtplay.jobs.ends import JobEnds
from virtplay.jobs.execution import execute
from virtplay.jobs.launcher import Launcher
from virtplay.metrics.exposition import Exposition
from virtplay.metrics.history import History, HistorySource
from virtplay.metrics.prometheus_history import PrometheusHistory
from virtplay.settings import Settings
from virtplay.snapshots.requests import Snapshots
from virtplay.snapshots.schedules import Scheduler
from virtplay.store.claim import Claim
from virtplay.store.jobs import ReadyJob
from virtplay.store.vms import sync_hosts
from virtplay.vms import Vms


@dataclass
class Services:
    """The objects of the running service."""

    settings: Settings
    launcher: Launcher
    dispatcher: Dispatcher
    ends: JobEnds
    vms: Vms
    snapshots: Snapshots
    scheduler: Scheduler
    consoles: Consoles
    observer: Observer
    exposition: Exposition
    history: History
    past: HistorySource
    """The source of VMs' past usage: the history itself, or Prometheus."""


async def build_services(settings: Settings, claim: Claim) -> Services:
    """Read the inventory, update the hosts' rows to it, and connect all objects.

    The database must be open. Raise CannotStart if the inventory cannot be read.
    """
    inventory = await load_inventory(settings)
    await sync_hosts(set(inventory.hosts))
    launcher = Launcher(settings)
    exposition = Exposition()
    history = History(settings)
    observer = Observer(settings, launcher, inventory, exposition, history)
    ends = JobEnds()

    def on_end(job: ReadyJob) -> None:
        ends.announce(job.id)
        observer.follow_start(job)

    dispatcher = LocalDispatcher(
        settings,
        partial(execute, settings, launcher),
        partial(execute_batch, settings, launcher),
        claim.holds,
        on_end,
    )
    snapshots = Snapshots(settings, dispatcher)
    past = PrometheusHistory(settings.prometheus_url) if settings.prometheus_url else history
    return Services(
        settings=settings,
        launcher=launcher,
        dispatcher=dispatcher,
        ends=ends,
        vms=Vms(settings, inventory, dispatcher, observer),
        snapshots=snapshots,
        scheduler=Scheduler(snapshots, settings),
        consoles=Consoles(settings, inventory, dispatcher, ends),
        observer=observer,
        exposition=exposition,
        history=history,
        past=past,
    )

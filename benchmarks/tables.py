"""Benchmarks: the figures that are kept, and the tables and plots of docs/performance.md.

Every ratio is the quotient of the two figures that its row shows.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measuring import ROOT, Figure
from benchmarks.plots import PLOTS, file_of, title_of, write_plots
from benchmarks.shell import TASKS, counted

RESULTS = Path(__file__).with_name("results.json")
FRESH = ROOT / "build/bench.json"
PAGE = ROOT / "docs/performance.md"
BEGIN = "<!-- figures: `make bench-tables` writes them from benchmarks/results.json -->\n"
END = "<!-- end of figures -->\n"

VMS_YML = ("vms_yml_s", "community.libvirt", "community_s")
PAIRS = (
    ("vm_create", "create a `micro` VM from its template until it runs, by the API", "api_s",
     "the same playbook by hand", "playbook_s"),
    ("vm_pause", "pause a VM, by the API, until the job has ended", "api_s",
     "the same playbook by hand", "playbook_s"),
    ("vm_resume", "resume a VM, by the API, until the job has ended", "api_s",
     "the same playbook by hand", "playbook_s"),
    ("vm_start", "start a VM, by the API, until the job has ended", "api_s",
     "the same playbook by hand", "playbook_s"),
    ("pause_latency", "pause a VM, by the API, until it is paused", "api_s",
     "`virsh suspend` over SSH", "virsh_s"),
    ("controller_cpu", "CPU of the controller for a power action, by the API", "api_cpu_s",
     "the same playbook by hand", "playbook_cpu_s"),
    ("snapshot_create", "snapshot of a running `micro` VM with its memory, by the API", "api_s",
     "the same playbook by hand", "playbook_s"),
    ("snapshot_create", "snapshot of a running `micro` VM with its memory, by the API", "api_s",
     "`virsh` over SSH", "virsh_s"),
    ("burst", "pause or resume 100 VMs of 4 hosts, by one request", "together_s",
     "the same playbook by hand for each, the best `xargs -P`", "playbook_s"),
    ("burst", "pause or resume 100 VMs of 4 hosts, by one request", "together_s",
     "`virsh` over SSH for each, the best `xargs -P`", "virsh_s"),
    ("burst", "pause or resume 100 VMs of 4 hosts, by a request for each", "one_by_one_s",
     "the same playbook by hand for each, the best `xargs -P`", "playbook_s"),
    ("burst", "pause or resume 100 VMs of 4 hosts, by a request for each", "one_by_one_s",
     "`virsh` over SSH for each, the best `xargs -P`", "virsh_s"),
    ("vms over 4 hosts, first run", "create 100 declared VMs on 4 hosts, `vms.yml`", *VMS_YML),
    ("vms over 4 hosts, second run", "the same again, nothing to do", *VMS_YML),
    ("vms over 10 hosts, first run", "create 100 declared VMs on 10 hosts, `vms.yml`", *VMS_YML),
    ("vms over 10 hosts, second run", "the same again, nothing to do", *VMS_YML),
    ("console_refresh", "full refresh of a screen through the service", "service_s",
     "straight from VNC", "straight_s"),
    ("scrape of a host", "scrape of one host with 40 VMs", "scrape_s",
     "prometheus-libvirt-exporter on the host", "exporter_s"),
    ("scrape_10k", "scrape of 10,000 VMs", "scrape_s", "a bare Sanic sends as many bytes",
     "file_s"),
    ("scrape_10k", "`/healthz` while 10,000 VMs are scraped, p99", "healthz_p99_during_s",
     "`/healthz` while idle, p99", "healthz_p99_idle_s"),
    *(
        row
        for database, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL"))
        for row in (
            (f"lists on {database}", f"20 of 100,000 VMs with filters and searches, {name}, p99",
             "many_p99_s", "of 100 VMs", "few_p99_s"),
            (f"start on {database}", f"start until it answers with 100,000 VMs, {name}",
             "many_s", "with 100 VMs", "few_s"),
        )
    ),
    ("observe", "CPU of the controller to observe 100 hosts of 100 VMs for a minute", "cpu_s",
     "a minute", "minute_s"),
    ("memory", "memory of everything with 10,000 VMs on 100 hosts, at its highest", "total_mb",
     "with one host without VMs", "empty_mb"),
    ("loop_lag", "longest hold of the event loop under load", "longest_s",
     "of a bare event loop on the same machine", "bare_s"),
    ("observation of a host", "CPU of a host with 40 VMs for one observation", "observation_cpu_s",
     "one `virsh domstats`", "domstats_cpu_s"),
    ("observation of odd domains", "CPU to observe a host with 200 VMs once, 150 of them odd",
     "odd_cpu_s", "with 200 plain ones", "plain_cpu_s"),
    ("observation with dead storage", "one observation with a VM whose storage does not respond",
     "dead_s", "without it", "healthy_s"),
    ("observation with a silent agent", "one observation with a VM whose agent does not respond",
     "silent_s", "while it responds", "healthy_s"),
    ("start after kill -9", "start of the service after kill -9 until it answers, 4 jobs running",
     "killed_s", "after a stop without jobs", "cold_s"),
    ("start after kill -9", "CPU of such a start", "killed_cpu_s", "after a stop without jobs",
     "cold_cpu_s"),
    *(
        (f"shell: {task.name}", f"{task.name}, by the command line, in {counted(task.ours)}",
         "virtplay_s", f"kcli on the same libvirt, in {counted(task.kcli)}", "kcli_s")
        for task in TASKS
    ),
    ("shell: read", "`virtplay vm list`", "virtplay_s", "`curl` of the same list", "curl_s"),
    ("shell: prompt", "create a `micro` VM until `virtplay vm ssh` has a prompt", "virtplay_s",
     "its guest's first boot until it serves SSH", "boot_s"),
    ("shell: prompt", "create a `micro` VM until `virtplay vm ssh` has a prompt", "virtplay_s",
     "its guest's next boot, with the lease that it has", "boot_again_s"),
)  # fmt: skip
"""Benchmark, what it measures, key, beside what, key; a key ends in the unit of its figure."""
SINGLES = (
    ("vm_start", "of a start, by either way, `virsh start` on the host", "libvirt_s", "s"),
    ("console_pump", "console bytes from host to client", "down_mib_s", "MiB/s"),
    ("console_pump", "console bytes from client to host", "up_mib_s", "MiB/s"),
    ("console_pump", "console bytes lost or changed, of 1 GiB each way", "bytes_wrong", ""),
    *(
        row
        for database, name in (("sqlite", "SQLite"), ("postgresql", "PostgreSQL"))
        for row in (
            (f"list beside a fixed body on {database}", "lists of 20 of 100,000 VMs in a second,"
             f" {name}, as a share of a fixed body from bare Sanic", "ratio", ""),
            (f"memory on {database}", f"memory of the service alone with 100 VMs, {name}",
             "few_mb", "MB"),
            (f"memory on {database}", f"memory of the service alone with 100,000 VMs, {name}",
             "many_mb", "MB"),
        )
    ),
    ("scrape_10k", "size of one scrape of 10,000 VMs", "scrape_mb", "MB"),
    ("observe", "share of one core to observe 100 hosts of 100 VMs each minute", "share_of_a_core",
     ""),
    ("memory", "memory of the service with 10,000 VMs", "service_mb", "MiB"),
    ("memory", "of its launcher and the observer's processes, 100 hosts, at their highest",
     "observer_mb", "MiB"),
    ("loop_lag", "CPU of the longest hold of the event loop", "longest_cpu_s", "s"),
    ("loop_lag", "share of holds over 20 ms", "share_over_20_ms", ""),
    ("history", "history of one VM, 24 hours at 1m, of a month of 1,000 VMs; p99",
     "query_p99_s", "s"),
    ("observation of 2 hosts by the controller", "CPU of the controller to observe 2 hosts once",
     "round_cpu_s", "s"),
    ("observation of 50 hosts by the controller", "CPU of the controller to observe 50 hosts once",
     "round_cpu_s", "s"),
    ("start after kill -9", "longest of 100 starts after kill -9, as a multiple of a usual start",
     "longest_of_cold", ""),
    ("start after kill -9", "most CPU of 100 starts after kill -9, as a multiple of a usual start",
     "most_cpu_of_cold", ""),
    ("jobs in a row", "memory of the service after 100 jobs", "service_mb_settled", "MiB"),
    ("jobs in a row", "memory of the service after 1,000 jobs", "service_mb", "MiB"),
    ("jobs in a row", "memory of its launcher after 100 jobs", "launcher_mb_settled", "MiB"),
    ("jobs in a row", "memory of its launcher after 1,000 jobs", "launcher_mb", "MiB"),
    ("jobs in a row", "open descriptors of the service after 100 jobs", "fds_settled", ""),
    ("jobs in a row", "open descriptors of the service after 1,000 jobs", "fds", ""),
    ("jobs in a row", "open descriptors of its launcher after 100 jobs", "launcher_fds_settled",
     ""),
    ("jobs in a row", "open descriptors of its launcher after 1,000 jobs", "launcher_fds", ""),
    ("idle", "share of one core, idle, with 2 hosts and 40 VMs", "share_of_a_core", ""),
)  # fmt: skip
"""Benchmark, what it measures, key, unit."""

UNITS = {"s": "s", "mb": "MiB"}


def results() -> dict[str, Figure]:
    """The figures that are kept, by benchmark."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def keep(figure: Figure) -> None:
    """Put a figure in the place of the one that its benchmark had."""
    kept = results() | {figure["bench"]: {"measured": f"{datetime.now(UTC):%Y-%m-%d}", **figure}}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def write_fresh(figures: Iterable[Figure]) -> None:
    """Write the figures of one run to build/bench.json, by benchmark."""
    FRESH.parent.mkdir(exist_ok=True)
    FRESH.write_text(json.dumps({figure["bench"]: figure for figure in figures}, indent=1) + "\n")


def write_page() -> None:
    """Write tables and plots of the page."""
    PAGE.write_text(with_figures(PAGE.read_text()))
    write_plots(results())


def with_figures(page: str) -> str:
    """The page's text with the present tables and plots between the marks."""
    figures = tables(results()) + "".join(f"\n{image}\n" for image in images(results()))
    return between_marks(page, figures)


def between_marks(page: str, figures: str) -> str:
    """The page's text with other figures between the marks."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{figures}\n{END}{rest.split(END, 1)[1]}"


def images(figures: dict[str, Figure]) -> list[str]:
    """The Markdown of each plot."""
    grown = [figure for figure in figures.values() if "growth" in figure]
    return [f"![{title_of(each)}]({PLOTS.name}/{file_of(each['bench'])})" for each in grown]


def tables(figures: dict[str, Figure]) -> str:
    """Both Markdown tables; a figure that was not measured has no row."""
    pairs = [["what", "measured", "beside", "measured", "ratio", "on"]]
    for bench, what, key, beside, other in PAIRS:
        if {key, other} <= (figure := figures.get(bench, {})).keys():
            a, b = three_digits(figure[key]), three_digits(figure[other])
            ratio = f"{float(a) / float(b):.2f}"
            unit = UNITS[key.rpartition("_")[2]]
            cells = [what, f"{a} {unit}", beside, f"{b} {unit}", ratio, figure["measured"]]
            pairs.append(cells)
    singles = [["what", "measured", "on"]]
    for bench, what, key, unit in SINGLES:
        if key in (figure := figures.get(bench, {})):
            value = f"{three_digits(figure[key])} {unit}".rstrip()
            singles.append([what, value, figure["measured"]])
    return markdown(pairs) + "\n" + markdown(singles)


def three_digits(value: float) -> str:
    """A figure as the page shows it."""
    return f"{value:.3g}"


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table, its first row the head."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    write_page()

"""Benchmarks: the figures that are kept, and the tables of docs/performance.md.

Every ratio is the quotient of the two figures that its row shows.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.measuring import ROOT, Figure

RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs/performance.md"
BEGIN = "<!-- figures: `make bench-tables` writes them from benchmarks/results.json -->\n"
END = "<!-- end of figures -->\n"

VMS_YML = ("vms_yml_s", "community.libvirt", "community_s")
PAIRS = (
    ("vm_create", "create a `micro` VM from its template until it runs, by the API", "api_s",
     "the same playbook by hand", "playbook_s"),
    ("vm_pause", "pause a VM, by the API", "api_s", "the same playbook by hand", "playbook_s"),
    ("vm_pause", "pause a VM, by the API", "api_s", "`virsh` over SSH", "virsh_s"),
    ("snapshot_create", "snapshot of a running `micro` VM with its memory, by the API", "api_s",
     "the same playbook by hand", "playbook_s"),
    ("snapshot_create", "snapshot of a running `micro` VM with its memory, by the API", "api_s",
     "`virsh` over SSH", "virsh_s"),
    ("vms over 4 hosts, first run", "create 100 declared VMs on 4 hosts, `vms.yml`", *VMS_YML),
    ("vms over 4 hosts, second run", "the same again, nothing to do", *VMS_YML),
    ("vms over 10 hosts, first run", "create 100 declared VMs on 10 hosts, `vms.yml`", *VMS_YML),
    ("vms over 10 hosts, second run", "the same again, nothing to do", *VMS_YML),
    ("console_refresh", "full refresh of a screen through the service", "service_s",
     "straight from VNC", "straight_s"),
    ("scrape of a host", "scrape of one host with 40 VMs", "scrape_s",
     "prometheus-libvirt-exporter on the host", "exporter_s"),
    ("scrape", "`/healthz` while 10,000 VMs are scraped, p99", "healthz_p99_during_s",
     "`/healthz` while idle, p99", "healthz_p99_idle_s"),
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
)  # fmt: skip
"""Benchmark, what it measures, key, beside what, key; all in seconds."""
SINGLES = (
    ("console_pump", "console bytes from host to client", "down_mib_s", "MiB/s"),
    ("console_pump", "console bytes from client to host", "up_mib_s", "MiB/s"),
    ("console_pump", "console bytes lost or changed, of 1 GiB each way", "bytes_wrong", ""),
    ("scrape", "one scrape of 10,000 VMs", "scrape_s", "s"),
    ("scrape", "its size", "scrape_mb", "MB"),
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
    ("jobs in a row", "memory of the service after 100 jobs", "rss_settled_mb", "MB"),
    ("jobs in a row", "memory of the service after 1,000 jobs", "rss_mb", "MB"),
    ("jobs in a row", "open descriptors of the service after 100 jobs", "fds_settled", ""),
    ("jobs in a row", "open descriptors of the service after 1,000 jobs", "fds", ""),
    ("idle", "share of one core, idle, with 2 hosts and 40 VMs", "share_of_a_core", ""),
)  # fmt: skip
"""Benchmark, what it measures, key, unit."""


def results() -> dict[str, Figure]:
    """The figures that are kept, by benchmark."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def keep(figure: Figure) -> None:
    """Put a figure in the place of the one that its benchmark had."""
    kept = results() | {figure["bench"]: {"measured": f"{datetime.now(UTC):%Y-%m-%d}", **figure}}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def write_tables() -> None:
    """Write the tables of the page."""
    PAGE.write_text(with_tables(PAGE.read_text()))


def with_tables(page: str) -> str:
    """The page's text with the present tables between the marks."""
    before, rest = page.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{tables(results())}\n{END}{rest.split(END, 1)[1]}"


def tables(figures: dict[str, Figure]) -> str:
    """Both Markdown tables; a figure that was not measured has no row."""
    pairs = [["what", "measured", "beside", "measured", "ratio", "on"]]
    for bench, what, key, beside, other in PAIRS:
        if {key, other} <= (figure := figures.get(bench, {})).keys():
            a, b = three_digits(figure[key]), three_digits(figure[other])
            ratio = f"{float(a) / float(b):.2f}"
            pairs.append([what, f"{a} s", beside, f"{b} s", ratio, figure["measured"]])
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
    write_tables()

"""Write the Grafana dashboards, grafana/dashboards/*.json: `make dashboards`.

A test compares the committed files with the output of this script. The dashboards query only the
service's own metrics, so they work without the rules of prometheus/rules.
"""

from collections.abc import Iterator
from pathlib import Path

from grafana_foundation_sdk.builders import dashboard, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models

from scripts.panels import SOURCE, WIDTH, Line, Marks, Place, at, figure, graph, grid, query, rows

DIRECTORY = Path(__file__).parents[1] / "grafana/dashboards"
NAMED = "* on (host, uuid) group_left (name) max by (host, uuid, name) (libvirt_domain_info{scope})"
"""Adds a VM's name to a series that has only its UUID."""
NAME = "{{name}} ({{host}})"
"""The legend of a VM among those of several hosts, of which two may have one name."""
STATES = {
    "running": ("Running", "green"),
    "paused": ("Paused", "yellow"),
    "suspended": ("Suspended", "blue"),
    "stopping": ("Stopping", "orange"),
    "stopped": ("Stopped", "text"),
    "crashed": ("Crashed", "red"),
    "unknown": ("Unknown", "purple"),
}


def main() -> None:
    """Write every dashboard."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, text in dashboards():
        (DIRECTORY / name).write_text(text)


def dashboards() -> Iterator[tuple[str, str]]:
    """Yield the file name and the JSON of each dashboard."""
    for name, made in (("fleet", fleet()), ("host", one_host()), ("vm", one_vm())):
        text = JSONEncoder(sort_keys=True, indent=2).encode(made.build())
        yield f"{name}.json", text + "\n"


def fleet() -> dashboard.Dashboard:
    """Return the dashboard of all hosts: problems, largest users, and the service itself."""
    made = start("virtplay-fleet", "Virtplay / Fleet", "All hosts and VMs, and the service itself.")
    small = 4
    for number, panel in enumerate(
        (
            figure("Total hosts", "count(max by (host) (libvirt_up))"),
            figure(
                "Hosts unreachable",
                "count(max by (host) (libvirt_up) == 0) or vector(0)",
                steps=((None, "green"), (1, "red")),
            ),
            figure(
                "Running VMs",
                'sum(max by (host, uuid) (libvirt_domain_state{state="running"}))',
            ),
            figure(
                "Firing alerts",
                'count(ALERTS{alertname=~"Virtplay.*", alertstate="firing"}) or vector(0)',
                steps=((None, "green"), (1, "red")),
                text="Alerts from the rules in prometheus/rules; 0 without these rules.",
            ),
            figure(
                "Queued jobs",
                "max(virtplay_job_queue_length)",
                steps=((None, "green"), (10, "yellow"), (50, "red")),
            ),
            figure(
                "Failed jobs",
                'sum(increase(virtplay_jobs_total{status="failed"}[$__range]))',
                steps=((None, "green"), (1, "yellow")),
                decimals=0,
            ),
            figure("Total VMs", "sum(max by (status) (virtplay_vms))"),
            figure("Paused VMs", 'max(virtplay_vms{status="paused"})'),
            figure(
                "VMs in error",
                'max(virtplay_vms{status="error"})',
                steps=((None, "green"), (1, "red")),
            ),
            figure(
                "Failed snapshot schedules",
                "sum(max by (uuid) (virtplay_snapshot_schedule_failed)) or vector(0)",
                steps=((None, "green"), (1, "yellow")),
                text="VMs whose last scheduled snapshot was skipped or failed.",
            ),
            figure(
                "Last lost job",
                "time() - max(virtplay_job_last_lost_timestamp_seconds) or vector(-1)",
                unit="s",
                decimals=0,
                names={"-1": "none"},
                text="Time since the service last gave up a job whose process had vanished.",
            ),
            figure(
                "Next token that expires",
                "min(virtplay_token_expires_timestamp_seconds) - time() or vector(9e9)",
                unit="s",
                decimals=0,
                names={"9000000000": "none"},
                steps=((None, "red"), (0, "yellow"), (7 * 86400, "green")),
                text="Time until the next token expires; negative after it has expired.",
            ),
        )
    ):
        row, column = divmod(number, WIDTH // small)
        made.with_panel(at(panel, Place(column * small, row * 4, small, 4)))
    made.with_panel(at(host_table(), Place(0, 8, WIDTH, 8)))
    made.with_panel(at(error_table(), Place(0, 16, WIDTH // 2, 8)))
    made.with_panel(at(schedule_table(), Place(WIDTH // 2, 16, WIDTH // 2, 8)))
    annotate(made, "Failed and lost jobs", JOBS_FAILED, "{{action}} {{status}}")
    annotate(made, "Alerts", ALERTS.format(of=""), "{{alertname}} {{host}}")
    grid(
        made,
        24,
        graph(
            "CPU usage of VMs by host",
            Line(
                "sum by (host) (rate(libvirt_domain_info_cpu_time_seconds_total[$__rate_interval]))"
                " / max by (host) (virtplay_host_cpus)",
                "{{host}}",
            ),
            unit="percentunit",
            steps=((None, "green"), (0.8, "yellow"), (0.95, "red")),
            text="CPU usage of the VMs as a share of the host's CPUs.",
        ),
        graph(
            "Memory usage by host",
            Line(
                "1 - max by (host) (virtplay_host_memory_free_bytes)"
                " / max by (host) (virtplay_host_memory_bytes)",
                "{{host}}",
            ),
            unit="percentunit",
            ceiling=1,
            steps=((None, "green"), (0.85, "yellow"), (0.95, "red")),
        ),
        graph(
            "VMs by state",
            Line("sum by (state) (max by (host, uuid, state) (libvirt_domain_state))", "{{state}}"),
            stacked=True,
        ),
        graph(
            "VMs by reason of their state",
            Line(
                "sum by (state, reason)"
                " (max by (host, uuid, state, reason) (libvirt_domain_state_reason))",
                "{{state}} ({{reason}})",
            ),
            stacked=True,
        ),
        graph(
            "Snapshots by origin",
            Line("sum by (origin) (max by (origin, status) (virtplay_snapshots))", "{{origin}}"),
            stacked=True,
        ),
        top("CPU usage", "libvirt_domain_info_cpu_time_seconds_total", "", unit="none"),
        top("disk throughput", BLOCK_BYTES, "", unit="Bps"),
        top("network throughput", INTERFACE_BYTES, "", unit="Bps"),
        graph(
            "Finished jobs by status",
            Line(
                "sum by (status) (rate(virtplay_jobs_total[$__rate_interval])) * 60", "{{status}}"
            ),
            unit="opm",
            stacked=True,
        ),
        graph(
            "Job duration by action (95th percentile)",
            Line(
                "histogram_quantile(0.95, sum by (action, le)"
                " (rate(virtplay_job_duration_seconds_bucket[$__range])))",
                "{{action}}",
            ),
            unit="s",
        ),
        graph(
            "Age of the oldest queued job",
            Line("max(virtplay_job_queue_oldest_seconds)", "age"),
            unit="s",
            steps=((None, "green"), (60, "yellow"), (300, "red")),
        ),
        graph(
            "Requests by status",
            Line(
                "sum by (status) (rate(virtplay_http_request_duration_seconds_count"
                "[$__rate_interval]))",
                "{{status}}",
            ),
            unit="reqps",
            stacked=True,
        ),
        graph(
            "Response time by route (99th percentile)",
            Line(
                "histogram_quantile(0.99, sum by (route, le)"
                " (rate(virtplay_http_request_duration_seconds_bucket[$__rate_interval])))",
                "{{route}}",
            ),
            unit="s",
        ),
        graph(
            "Event loop lag",
            *(
                Line(
                    f"histogram_quantile({quantile}, sum by (le)"
                    " (rate(virtplay_event_loop_lag_seconds_bucket[$__rate_interval])))",
                    legend,
                )
                for quantile, legend in ((0.99, "99th percentile"), (0.5, "median"))
            ),
            unit="s",
            steps=((None, "green"), (0.02, "yellow"), (0.1, "red")),
        ),
        graph(
            "Age of the observation by host",
            Line(
                "time() - max by (host) (virtplay_host_last_observed_timestamp_seconds)", "{{host}}"
            ),
            unit="s",
            steps=((None, "green"), (60, "yellow"), (120, "red")),
        ),
    )
    return made


def one_host() -> dashboard.Dashboard:
    """Return the dashboard of one host: capacity, allocation, usage, and its VMs."""
    made = start("virtplay-host", "Virtplay / Host", "One host and its VMs.")
    made.with_variable(host_variable(every=False))
    of = '{host="$host"}'
    small = 4
    for number, panel in enumerate(
        (
            figure(
                "Reachable",
                f"max(libvirt_up{of})",
                steps=((None, "red"), (1, "green")),
                names={"0": "no", "1": "yes"},
            ),
            figure(
                "Running VMs",
                'sum(max by (uuid) (libvirt_domain_state{host="$host", state="running"}))',
            ),
            figure(
                "CPU usage of VMs",
                "sum(rate(libvirt_domain_info_cpu_time_seconds_total"
                f"{of}[$__rate_interval])) / max(virtplay_host_cpus{of})",
                unit="percentunit",
                steps=((None, "green"), (0.8, "yellow"), (0.95, "red")),
            ),
            figure(
                "Memory usage",
                f"1 - max(virtplay_host_memory_free_bytes{of})"
                f" / max(virtplay_host_memory_bytes{of})",
                unit="percentunit",
                steps=((None, "green"), (0.85, "yellow"), (0.95, "red")),
            ),
            figure(
                "Fullest pool",
                f"max(1 - libvirt_storage_pool_available_bytes{of}"
                f" / libvirt_storage_pool_capacity_bytes{of})",
                unit="percentunit",
                steps=((None, "green"), (0.8, "yellow"), (0.9, "red")),
            ),
            figure(
                "Age of the observation",
                f"time() - max(virtplay_host_last_observed_timestamp_seconds{of})",
                unit="s",
                decimals=0,
                steps=((None, "green"), (60, "yellow"), (120, "red")),
            ),
        )
    ):
        made.with_panel(at(panel, Place(number * small, 0, small, 4)))
    made.with_panel(at(vm_table(of), Place(0, 4, WIDTH, 8)))
    annotate(made, "Jobs", JOBS.format(of=of), "Job on {{domain}}")
    annotate(made, "Alerts", ALERTS.format(of=', host="$host"'), "{{alertname}} {{name}}")
    grid(
        made,
        12,
        graph(
            "CPUs",
            Line(f"max(virtplay_host_cpus{of})", "capacity"),
            Line(f"max(virtplay_host_cpus_allocated{of})", "allocated to VMs"),
            Line(
                f"sum(rate(libvirt_domain_info_cpu_time_seconds_total{of}[$__rate_interval]))",
                "used by VMs",
            ),
            text="Allocated CPUs are the vCPUs of all VMs that are not stopped.",
        ),
        graph(
            "Memory",
            Line(f"max(virtplay_host_memory_bytes{of})", "capacity"),
            Line(f"max(virtplay_host_memory_bytes_allocated{of})", "allocated to VMs"),
            Line(
                f"max(virtplay_host_memory_bytes{of}) - max(virtplay_host_memory_free_bytes{of})",
                "used",
            ),
            Line(f"sum(libvirt_domain_memory_stats_rss_bytes{of})", "used by VMs (resident)"),
            unit="bytes",
        ),
        graph(
            "Storage pool usage",
            Line(
                f"1 - max by (pool) (libvirt_storage_pool_available_bytes{of})"
                f" / max by (pool) (libvirt_storage_pool_capacity_bytes{of})",
                "{{pool}}",
            ),
            unit="percentunit",
            ceiling=1,
            steps=((None, "green"), (0.8, "yellow"), (0.9, "red")),
        ),
        top("CPU usage", "libvirt_domain_info_cpu_time_seconds_total", of, unit="none"),
        top("disk throughput", BLOCK_BYTES, of, unit="Bps"),
        top("network throughput", INTERFACE_BYTES, of, unit="Bps"),
        graph(
            "Top 10: CPU steal time",
            Line(
                "topk(10, sum by (host, uuid) (rate(libvirt_domain_vcpu_delay_seconds_total"
                f"{of}[$__rate_interval])) {NAMED.replace('{scope}', of)})",
                "{{name}}",
            ),
            text="Time that vCPUs were ready to run but waited for a CPU of the host.",
        ),
        graph(
            "Top 10: resident memory",
            Line(
                f"topk(10, max by (host, uuid) (libvirt_domain_memory_stats_rss_bytes{of})"
                f" {NAMED.replace('{scope}', of)})",
                "{{name}}",
            ),
            unit="bytes",
        ),
        graph(
            "Observation duration",
            Line(f"max(virtplay_observation_duration_seconds{of})", "duration"),
            unit="s",
        ),
        graph(
            "Observations",
            Line(
                f"sum(rate(virtplay_observation_failures_total{of}[$__rate_interval])) * 60",
                "failed",
            ),
            Line(
                f"sum(rate(virtplay_observations_total{of}[$__rate_interval])) * 60",
                "all",
            ),
            unit="opm",
        ),
    )
    return made


def one_vm() -> dashboard.Dashboard:
    """Return the dashboard of one VM: its state and its usage."""
    made = start("virtplay-vm", "Virtplay / VM", "State and usage of one VM.")
    made.with_variable(host_variable(every=True))
    made.with_variable(vm_variable())
    of = '{host=~"$host", uuid="$vm"}'
    annotate(made, "Jobs", JOBS.format(of=of), "Job on this VM")
    annotate(made, "Alerts", ALERTS.format(of=', uuid="$vm"'), "{{alertname}}")
    made.with_variable(
        dashboard.TextBoxVariable("virtplay")
        .label("Virtplay")
        .description("Address of the service, for the link to the VM's console.")
        .default_value("http://localhost:3000")
    )
    made.link(
        dashboard.DashboardLink("Console")
        .type(models.DashboardLinkType.LINK)
        .icon("external link")
        .tooltip("Screen and serial console of this VM")
        .url("${virtplay}/vms/${vm}/console")
        .target_blank(True)
    )
    rate = f"{of}[$__rate_interval]"
    for panel, place in (
        (
            figure(
                "Name",
                f"max by (name, host) (libvirt_domain_info{of})",
                legend="{{name}} on {{host}}",
            ),
            Place(0, 0, 6, 4),
        ),
        (
            figure(
                "Template",
                f"max by (template, os) (libvirt_domain_info{of})",
                legend="{{template}}",
            ),
            Place(6, 0, 3, 4),
        ),
        (
            figure(
                "Reason of the state",
                f"max by (state, reason) (libvirt_domain_state_reason{of})",
                legend="{{state}} ({{reason}})",
                text="Why the VM is in its state, in libvirt's words.",
            ),
            Place(9, 0, 4, 4),
        ),
        (state_line(of), Place(13, 0, 5, 4)),
        (
            figure(
                "Last scheduled snapshot",
                "time() - max(virtplay_snapshot_schedule_last_turn_timestamp_seconds"
                f"{of}) or vector(-1)",
                unit="s",
                names={"-1": "none"},
                decimals=0,
                text="Time since the last turn of the snapshot schedule that was not skipped.",
            ),
            Place(18, 0, 3, 4),
        ),
        (
            figure(
                "Age of the observation",
                f"time() - max(virtplay_vm_last_observed_timestamp_seconds{of})",
                unit="s",
                decimals=0,
                steps=((None, "green"), (60, "yellow"), (120, "red")),
            ),
            Place(21, 0, 3, 4),
        ),
    ):
        made.with_panel(at(panel, place))
    grid(
        made,
        4,
        graph(
            "CPU usage",
            Line(
                f"sum(rate(libvirt_domain_info_cpu_time_seconds_total{rate}))"
                f" / max(libvirt_domain_info_virtual_cpus{of})",
                "all vCPUs",
            ),
            unit="percentunit",
            steps=((None, "green"), (0.8, "yellow"), (0.95, "red")),
            text="Includes the CPU time of the QEMU process itself, so it can exceed 100 %.",
        ),
        graph(
            "CPU usage by vCPU",
            Line(f"sum by (vcpu) (rate(libvirt_domain_vcpu_time_seconds_total{rate}))", "{{vcpu}}"),
            unit="percentunit",
        ),
        graph(
            "vCPU wait time",
            Line(
                f"sum by (vcpu) (rate(libvirt_domain_vcpu_delay_seconds_total{rate}))",
                "{{vcpu}} waiting for a host CPU",
            ),
            Line(
                f"sum by (vcpu) (rate(libvirt_domain_vcpu_wait_seconds_total{rate}))",
                "{{vcpu}} waiting for host I/O",
            ),
            unit="percentunit",
        ),
        graph(
            "Memory",
            Line(f"max(libvirt_domain_memory_used_bytes{of})", "used by the guest"),
            Line(f"max(libvirt_domain_memory_stats_available_bytes{of})", "available to the guest"),
            Line(
                f"max(libvirt_domain_memory_stats_actual_balloon_bytes{of})", "allocated (balloon)"
            ),
            Line(f"max(libvirt_domain_info_maximum_memory_bytes{of})", "maximum"),
            Line(f"max(libvirt_domain_memory_stats_rss_bytes{of})", "resident on the host"),
            unit="bytes",
        ),
        graph(
            "Guest swap",
            Line(f"sum(rate(libvirt_domain_memory_stats_swap_in_bytes_total{rate}))", "in"),
            Line(f"sum(rate(libvirt_domain_memory_stats_swap_out_bytes_total{rate}))", "out"),
            unit="Bps",
        ),
        graph(
            "Guest page faults",
            Line(f"sum(rate(libvirt_domain_memory_stats_major_faults_total{rate}))", "major"),
            Line(f"sum(rate(libvirt_domain_memory_stats_minor_faults_total{rate}))", "minor"),
            unit="ops",
        ),
        *(graph(title, *lines, unit=unit) for title, unit, lines in disk_lines(rate, of)),
        *(graph(title, *lines, unit=unit) for title, unit, lines in network_lines(rate)),
    )
    return made


def disk_lines(rate: str, of: str) -> Iterator[tuple[str, str, list[Line]]]:
    """Yield title, unit and queries of the panels of a VM's disks."""
    ways = ("read", "write")

    def each(what: str, way: str) -> str:
        name = f"libvirt_domain_block_stats_{way}_{what}_total"
        return f"sum by (target_device) (rate({name}{rate}))"

    yield (
        "Disk throughput",
        "Bps",
        [Line(each("bytes", way), f"{{{{target_device}}}} {way}") for way in ways],
    )
    yield (
        "Disk requests",
        "iops",
        [Line(each("requests", way), f"{{{{target_device}}}} {way}") for way in (*ways, "flush")],
    )
    yield (
        "Disk request latency",
        "s",
        [
            Line(
                f"{each('time_seconds', way)} / {each('requests', way)}",
                f"{{{{target_device}}}} {way}",
            )
            for way in (*ways, "flush")
        ],
    )
    yield (
        "Disk size",
        "bytes",
        [
            Line(
                f"max by (target_device) (libvirt_domain_block_stats_{what}_bytes{of})",
                f"{{{{target_device}}}} {called}",
            )
            for what, called in (("capacity", "virtual"), ("physical", "on the host"))
        ],
    )


def network_lines(rate: str) -> Iterator[tuple[str, str, list[Line]]]:
    """Yield title, unit and queries of the panels of a VM's network interfaces."""
    ways = (("receive", "received"), ("transmit", "sent"))

    def each(what: str, way: str) -> str:
        name = f"libvirt_domain_interface_stats_{way}_{what}_total"
        return f"sum by (target_device) (rate({name}{rate}))"

    for title, unit, names in (
        ("Network throughput", "Bps", ("bytes",)),
        ("Network packets", "pps", ("packets",)),
        ("Network errors and drops", "pps", ("errors", "drops")),
    ):
        yield (
            title,
            unit,
            [
                Line(each(what, way), f"{{{{target_device}}}} {called} {what}")
                for way, called in ways
                for what in names
            ],
        )


OPEN_HOST = "/d/virtplay-host?var-host=${__data.fields.Host:percentencode}&${__url_time_range}"
OPEN_VM = (
    "/d/virtplay-vm?var-host=${__data.fields.Host:percentencode}"
    "&var-vm=${__data.fields.UUID}&${__url_time_range}"
)
"""Links of a table's row: the fields are called as the table shows them."""
BLOCK_BYTES = "libvirt_domain_block_stats_{read,write}_bytes_total"
INTERFACE_BYTES = "libvirt_domain_interface_stats_{receive,transmit}_bytes_total"


JOBS = "max by (host, domain, uuid) (changes(virtplay_vm_generation{of}[$__rate_interval])) > 0"
"""The moments at which a job began to act on a VM."""
JOBS_FAILED = (
    "sum by (action, status)"
    ' (increase(virtplay_jobs_total{status=~"failed|lost"}[$__rate_interval])) > 0'
)
ALERTS = 'ALERTS{{alertname=~"Virtplay.*", alertstate="firing"{of}}}'
HELP = "https://github.com/virtplay/virtplay/blob/main/docs/troubleshooting.md"


def annotate(made: dashboard.Dashboard, name: str, expr: str, title: str) -> None:
    """Add marks to all graphs of a dashboard where the query has a value."""
    colour = "red" if name == "Alerts" else "blue"
    made.annotation(Marks(title, name=name, datasource=SOURCE, icon_color=colour, expr=expr))


def start(uid: str, title: str, text: str) -> dashboard.Dashboard:
    """Return a dashboard without panels, with a data source variable and links to the others."""
    return (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(text)
        .tags(["virtplay", "libvirt"])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
        )
        .link(
            dashboard.DashboardLink("Virtplay")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["virtplay"])
            .keep_time(True)
        )
        .link(
            dashboard.DashboardLink("Troubleshooting")
            .type(models.DashboardLinkType.LINK)
            .icon("question")
            .url(HELP)
            .target_blank(True)
        )
    )


def host_variable(*, every: bool) -> dashboard.QueryVariable:
    """Return the variable that selects a host, or all hosts if every."""
    made = (
        dashboard.QueryVariable("host")
        .label("Host")
        .query("label_values(libvirt_up, host)")
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )
    if every:
        made.include_all(True).all_value(".*")
        made.current(models.VariableOption(text="All", value="$__all"))
    return made


def vm_variable() -> dashboard.QueryVariable:
    """Return the variable that selects a VM: it shows name and host, its value is the UUID.

    Grafana 11 gives the answer of query_result as text, {text="web on kvm1",uuid="…"} 1 17…, and
    escapes nothing: the regular expression begins at its start, as a name may contain text="…".
    """
    return (
        dashboard.QueryVariable("vm")
        .label("VM")
        .description("Name and host of the VM; its value is the VM's UUID.")
        .query(
            "query_result(max by (text, uuid)"
            ' (label_join(libvirt_domain_info{host=~"$host"}, "text", " on ", "name", "host")))'
        )
        .regex(r'/^\{text="(?<text>.*)",uuid="(?<value>[^"]*)"/')
        .datasource(SOURCE)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
    )


def top(what: str, metric: str, of: str, *, unit: str) -> timeseries.Panel:
    """Return a graph of the ten VMs with the highest rate of a metric.

    `metric` may contain alternatives in braces, which are added.
    """
    before, brace, rest = metric.partition("{")
    inner, _, after = rest.partition("}")
    names = [f"{before}{each}{after}" for each in inner.split(",")] if brace else [metric]
    used = " + ".join(f"sum by (host, uuid) (rate({name}{of}[$__rate_interval]))" for name in names)
    if brace:
        used = f"({used})"
    return graph(
        f"Top 10: {what}",
        Line(f"topk(10, {used} {NAMED.replace('{scope}', of)})", NAME),
        unit=unit,
    )


def state_number(of: str, by: str) -> str:
    """Return a query that makes one series of the seven of a VM's state, of which one is 1."""
    return " + ".join(
        f'{number} * {by} (libvirt_domain_state{of[:-1]}, state="{state}"}})'
        for number, state in enumerate(STATES)
    )


def state_texts() -> dict[str, models.ValueMappingResult]:
    """Return the name and colour of each number of `state_number`."""
    return {
        str(number): models.ValueMappingResult(text=called, color=colour, index=number)
        for number, (called, colour) in enumerate(STATES.values())
    }


def state_line(of: str) -> statetimeline.Panel:
    """Return a panel of a VM's state over time, each state in its colour."""
    return (
        statetimeline.Panel()
        .title("State")
        .datasource(SOURCE)
        .show_value(kinds.VisibilityMode.NEVER)
        .row_height(0.9)
        .mappings([models.ValueMap(options=state_texts())])
        .with_target(query(Line(state_number(of, "max"), "state"), "A"))
    )


def host_table() -> table.Panel:
    """Return a table with one row per host, linked to its dashboard."""
    columns = {
        "Reachable": ("max by (host) (libvirt_up)", "none"),
        "Running VMs": (
            'sum by (host) (max by (host, uuid) (libvirt_domain_state{state="running"}))',
            "none",
        ),
        "CPU usage of VMs": (
            "sum by (host) (rate(libvirt_domain_info_cpu_time_seconds_total[$__rate_interval]))"
            " / max by (host) (virtplay_host_cpus)",
            "percentunit",
        ),
        "vCPUs allocated": (
            "max by (host) (virtplay_host_cpus_allocated) / max by (host) (virtplay_host_cpus)",
            "percentunit",
        ),
        "Memory usage": (
            "1 - max by (host) (virtplay_host_memory_free_bytes)"
            " / max by (host) (virtplay_host_memory_bytes)",
            "percentunit",
        ),
        "Memory allocated": (
            "max by (host) (virtplay_host_memory_bytes_allocated)"
            " / max by (host) (virtplay_host_memory_bytes)",
            "percentunit",
        ),
        "Fullest pool": (
            "max by (host) (1 - libvirt_storage_pool_available_bytes"
            " / libvirt_storage_pool_capacity_bytes)",
            "percentunit",
        ),
    }
    return rows("Hosts", columns, {"host": ("Host", OPEN_HOST)})


def vm_table(of: str) -> table.Panel:
    """Return a table with one row per VM of a host, linked to its dashboard."""
    by = "max by (host, uuid)"
    columns = {
        "State": (state_number(of, by), "none"),
        "CPU usage": (
            "sum by (host, uuid) (rate(libvirt_domain_info_cpu_time_seconds_total"
            f"{of}[$__rate_interval])) / {by} (libvirt_domain_info_virtual_cpus{of})",
            "percentunit",
        ),
        "Guest memory used": (f"{by} (libvirt_domain_memory_used_bytes{of})", "bytes"),
        "Resident memory": (f"{by} (libvirt_domain_memory_stats_rss_bytes{of})", "bytes"),
        "Disk space": (
            f"sum by (host, uuid) (libvirt_domain_block_stats_physical_bytes{of})",
            "bytes",
        ),
        "Last scheduled snapshot": (
            f"time() - {by} (virtplay_snapshot_schedule_last_turn_timestamp_seconds{of})",
            "s",
        ),
    }
    shown = {
        "name": ("VM", OPEN_VM),
        "vm": ("Id", ""),
        "domain": ("Domain", ""),
        "managed": ("Managed", ""),
        "host": ("Host", ""),
        "uuid": ("UUID", ""),
    }
    return rows(
        "VMs",
        columns,
        shown,
        labels=f"max by (host, uuid, name, vm, domain, managed) (libvirt_domain_info{of})",
        names={"State": state_texts()},
    )


def error_table() -> table.Panel:
    """Return a table of the VMs in error."""
    shown = {
        "name": ("VM", OPEN_VM),
        "vm": ("Id", ""),
        "host": ("Host", OPEN_HOST),
        "code": ("Error", ""),
        "uuid": ("UUID", ""),
    }
    labels = "max by (name, vm, host, code, uuid) (virtplay_vm_error)"
    text = "Their last job failed, QEMU paused them, or their guest crashed."
    return rows("VMs that need attention", {}, shown, labels=labels, text=text)


def schedule_table() -> table.Panel:
    """Return a table of the VMs with a snapshot schedule."""
    by = "max by (host, uuid, vm)"
    columns = {
        "Last turn": (f"{by} (virtplay_snapshot_schedule_failed)", "none"),
        "Last snapshot": (
            f"time() - {by} (virtplay_snapshot_schedule_last_turn_timestamp_seconds)",
            "s",
        ),
    }
    shown = {
        "name": ("VM", OPEN_VM),
        "vm": ("Id", ""),
        "host": ("Host", OPEN_HOST),
        "uuid": ("UUID", ""),
    }
    names = {
        "0": models.ValueMappingResult(text="succeeded", color="green", index=0),
        "1": models.ValueMappingResult(text="failed or skipped", color="red", index=1),
    }
    return rows(
        "Snapshot schedules",
        columns,
        shown,
        labels=f"{by[:-1]}, name) (virtplay_snapshot_schedule_failed)",
        names={"Last turn": names},
    )


if __name__ == "__main__":
    main()

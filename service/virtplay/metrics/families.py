"""Metrics: every metric of a host and its VMs, by name: type, labels, meaning (pure)."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The types of metrics that observations give."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True)
class Family:
    """One metric; its name and labels are published and never change (tests/golden)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


HOST = ("host",)
POOL = ("host", "pool")
VM = ("host", "domain", "uuid")
"""Nothing that a user may rename: a series must not end with a name."""
VCPU = (*VM, "vcpu")
DEVICE = (*VM, "target_device")


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, Kind.GAUGE, labels, text)


def _counter(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, Kind.COUNTER, labels, text)


FAMILIES = (
    _gauge("libvirt_up", HOST, "1 when the last observation of the host succeeded, else 0."),
    _gauge("virtplay_host_cpus", HOST, "CPUs of the host."),
    _gauge(
        "virtplay_host_cpus_allocated", HOST, "vCPUs that the host's VMs were given, on or off."
    ),
    _gauge("virtplay_host_memory_bytes", HOST, "Memory of the host."),
    _gauge(
        "virtplay_host_memory_bytes_allocated",
        HOST,
        "Memory that the host's VMs were given, on or off.",
    ),
    _gauge("virtplay_host_memory_free_bytes", HOST, "Memory of the host that nothing uses."),
    _gauge(
        "virtplay_host_last_observed_timestamp_seconds",
        HOST,
        "When the host was last observed with success, Unix time of the service's clock.",
    ),
    _gauge(
        "virtplay_observation_duration_seconds",
        HOST,
        "How long the host took to look at itself the last time.",
    ),
    _counter(
        "virtplay_observations_total", HOST, "Observations of the host since the service started."
    ),
    _counter(
        "virtplay_observation_failures_total",
        HOST,
        "Observations of the host that failed since the service started.",
    ),
    _gauge("libvirt_storage_pool_capacity_bytes", POOL, "Size of the storage pool."),
    _gauge("libvirt_storage_pool_allocation_bytes", POOL, "Space of the storage pool in use."),
    _gauge("libvirt_storage_pool_available_bytes", POOL, "Free space of the storage pool."),
    _gauge(
        "libvirt_domain_info",
        (*VM, "vm", "name", "template", "os"),
        "Always 1; the labels say what the VM is: join with it on (host, uuid).",
    ),
    _gauge("libvirt_domain_state", (*VM, "state"), "1 for the state that the VM is in, else 0."),
    _gauge(
        "virtplay_vm_last_observed_timestamp_seconds",
        VM,
        "When the VM was last observed, Unix time of the service's clock.",
    ),
    _gauge(
        "virtplay_vm_generation",
        VM,
        "Grows with each job that acts on the VM: what else happens to it was not our doing.",
    ),
    _counter(
        "libvirt_domain_info_cpu_time_seconds_total",
        VM,
        "CPU time that the VM has used since it started, QEMU's own included.",
    ),
    _gauge("libvirt_domain_info_virtual_cpus", VM, "vCPUs of the VM that are on."),
    _gauge("libvirt_domain_info_maximum_memory_bytes", VM, "Most memory that the VM can be given."),
    _gauge("libvirt_domain_vcpu_state", VCPU, "State of the vCPU: 0 off, 1 running, 2 blocked."),
    _counter("libvirt_domain_vcpu_time_seconds_total", VCPU, "CPU time that the vCPU has used."),
    _counter(
        "libvirt_domain_vcpu_wait_seconds_total",
        VCPU,
        "Time that the vCPU wanted to run and waited for I/O of the host.",
    ),
    _counter(
        "libvirt_domain_vcpu_delay_seconds_total",
        VCPU,
        "Time that the vCPU waited for a CPU of the host (steal time in the guest).",
    ),
    _gauge(
        "libvirt_domain_memory_used_bytes",
        VM,
        "Memory that the guest uses: available less usable, as its balloon driver says.",
    ),
    _gauge("libvirt_domain_memory_stats_actual_balloon_bytes", VM, "Memory that the VM has now."),
    _gauge(
        "libvirt_domain_memory_stats_available_bytes",
        VM,
        "Memory that the guest's kernel manages.",
    ),
    _gauge(
        "libvirt_domain_memory_stats_usable_bytes",
        VM,
        "Memory that the guest could give to programs without swapping.",
    ),
    _gauge(
        "libvirt_domain_memory_stats_unused_bytes", VM, "Memory that the guest does not use at all."
    ),
    _gauge(
        "libvirt_domain_memory_stats_rss_bytes", VM, "Memory of the host that the VM's QEMU holds."
    ),
    _counter(
        "libvirt_domain_memory_stats_swap_in_bytes_total", VM, "Memory that the guest swapped in."
    ),
    _counter(
        "libvirt_domain_memory_stats_swap_out_bytes_total", VM, "Memory that the guest swapped out."
    ),
    _counter(
        "libvirt_domain_memory_stats_major_faults_total",
        VM,
        "Page faults of the guest that needed a disk.",
    ),
    _counter(
        "libvirt_domain_memory_stats_minor_faults_total",
        VM,
        "Page faults of the guest that needed no disk.",
    ),
    _counter("libvirt_domain_block_stats_read_bytes_total", DEVICE, "Bytes read from the disk."),
    _counter(
        "libvirt_domain_block_stats_read_requests_total", DEVICE, "Read requests to the disk."
    ),
    _counter(
        "libvirt_domain_block_stats_read_time_seconds_total",
        DEVICE,
        "Time that read requests took, summed up.",
    ),
    _counter("libvirt_domain_block_stats_write_bytes_total", DEVICE, "Bytes written to the disk."),
    _counter(
        "libvirt_domain_block_stats_write_requests_total", DEVICE, "Write requests to the disk."
    ),
    _counter(
        "libvirt_domain_block_stats_write_time_seconds_total",
        DEVICE,
        "Time that write requests took, summed up.",
    ),
    _counter(
        "libvirt_domain_block_stats_flush_requests_total", DEVICE, "Flush requests to the disk."
    ),
    _counter(
        "libvirt_domain_block_stats_flush_time_seconds_total",
        DEVICE,
        "Time that flush requests took, summed up.",
    ),
    _gauge(
        "libvirt_domain_block_stats_capacity_bytes",
        DEVICE,
        "Size of the disk as the guest sees it.",
    ),
    _gauge(
        "libvirt_domain_block_stats_allocation_bytes",
        DEVICE,
        "Where the last write to the disk's image ended, as libvirt says it.",
    ),
    _gauge(
        "libvirt_domain_block_stats_physical_bytes",
        DEVICE,
        "Size of the disk's image on the host.",
    ),
    _counter(
        "libvirt_domain_interface_stats_receive_bytes_total",
        DEVICE,
        "Bytes that the guest received; target_device is the interface's MAC address.",
    ),
    _counter(
        "libvirt_domain_interface_stats_receive_packets_total",
        DEVICE,
        "Packets that the guest received.",
    ),
    _counter(
        "libvirt_domain_interface_stats_receive_errors_total", DEVICE, "Errors while receiving."
    ),
    _counter(
        "libvirt_domain_interface_stats_receive_drops_total",
        DEVICE,
        "Packets to the guest that were dropped.",
    ),
    _counter(
        "libvirt_domain_interface_stats_transmit_bytes_total", DEVICE, "Bytes that the guest sent."
    ),
    _counter(
        "libvirt_domain_interface_stats_transmit_packets_total",
        DEVICE,
        "Packets that the guest sent.",
    ),
    _counter(
        "libvirt_domain_interface_stats_transmit_errors_total", DEVICE, "Errors while sending."
    ),
    _counter(
        "libvirt_domain_interface_stats_transmit_drops_total",
        DEVICE,
        "Packets from the guest that were dropped.",
    ),
)

"""Every metric of a host and its VMs: name, type, labels and help text. Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The types of metrics."""

    GAUGE = "gauge"
    COUNTER = "counter"


@dataclass(frozen=True)
class Family:
    """One metric; its name and labels never change (a golden file guards them)."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


HOST = ("host",)
POOL = ("host", "pool")
VM = ("host", "domain", "uuid")
"""Nothing that a user can rename, because a new label value would end the series."""
VCPU = (*VM, "vcpu")
DEVICE = (*VM, "target_device")
KNOWN_VM = ("host", "uuid", "vm")
"""A VM as the database knows it; host is empty until it has one."""
ALERTED_VM = (*KNOWN_VM, "name", "managed")
"""All labels that an alert needs: a domain that is gone has no libvirt_domain_info to join with."""


def _gauge(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, Kind.GAUGE, labels, text)


def _counter(name: str, labels: tuple[str, ...], text: str) -> Family:
    return Family(name, Kind.COUNTER, labels, text)


FAMILIES = (
    _gauge("libvirt_up", HOST, "1 when the last observation of the host succeeded, else 0."),
    _gauge("virtplay_host_cpus", HOST, "CPUs of the host."),
    _gauge(
        "virtplay_host_cpus_allocated",
        HOST,
        "vCPUs of the VMs of the host that are not stopped, which placement counts.",
    ),
    _gauge("virtplay_host_memory_bytes", HOST, "Memory of the host."),
    _gauge(
        "virtplay_host_memory_bytes_allocated",
        HOST,
        "Memory of all VMs of the host, running or stopped.",
    ),
    _gauge("virtplay_host_memory_free_bytes", HOST, "Unused memory of the host."),
    _gauge(
        "virtplay_host_last_observed_timestamp_seconds",
        HOST,
        "Unix time of the last successful observation of the host, by the service's clock.",
    ),
    _gauge(
        "virtplay_observation_duration_seconds",
        HOST,
        "Duration of the last observation on the host.",
    ),
    _counter(
        "virtplay_observations_total", HOST, "Observations of the host since the service started."
    ),
    _counter(
        "virtplay_observation_failures_total",
        HOST,
        "Failed observations of the host since the service started.",
    ),
    _gauge("libvirt_storage_pool_capacity_bytes", POOL, "Size of the storage pool."),
    _gauge("libvirt_storage_pool_allocation_bytes", POOL, "Used space of the storage pool."),
    _gauge("libvirt_storage_pool_available_bytes", POOL, "Free space of the storage pool."),
    _gauge(
        "libvirt_domain_info",
        (*VM, "vm", "name", "template", "os", "managed"),
        "Always 1; the labels describe the VM: join on (host, uuid). managed is false for a domain"
        " that Virtplay has neither created nor changed.",
    ),
    _gauge("libvirt_domain_state", (*VM, "state"), "1 for the state that the VM is in, else 0."),
    _gauge(
        "libvirt_domain_state_reason",
        (*VM, "state", "reason"),
        "Always 1; the labels are the state that the VM is in, and why, in libvirt's words.",
    ),
    _gauge(
        "virtplay_vm_last_observed_timestamp_seconds",
        VM,
        "Unix time of the last observation of the VM, by the service's clock.",
    ),
    _gauge(
        "virtplay_vm_generation",
        VM,
        "Increases with each job that acts on the VM; other changes were made outside the service.",
    ),
    _counter(
        "libvirt_domain_info_cpu_time_seconds_total",
        VM,
        "CPU time used by the VM since its start, including QEMU itself.",
    ),
    _gauge("libvirt_domain_info_virtual_cpus", VM, "vCPUs of the VM that are on."),
    _gauge("libvirt_domain_info_maximum_memory_bytes", VM, "Maximum memory of the VM."),
    _gauge("libvirt_domain_vcpu_state", VCPU, "State of the vCPU: 0 off, 1 running, 2 blocked."),
    _counter("libvirt_domain_vcpu_time_seconds_total", VCPU, "CPU time used by the vCPU."),
    _counter(
        "libvirt_domain_vcpu_wait_seconds_total",
        VCPU,
        "Time that the runnable vCPU waited for I/O of the host.",
    ),
    _counter(
        "libvirt_domain_vcpu_delay_seconds_total",
        VCPU,
        "Time that the runnable vCPU waited for a CPU of the host (steal time in the guest).",
    ),
    _gauge(
        "libvirt_domain_memory_used_bytes",
        VM,
        "Memory used by the guest: available minus usable, as its balloon driver reports.",
    ),
    _gauge("libvirt_domain_memory_stats_actual_balloon_bytes", VM, "Current memory of the VM."),
    _gauge(
        "libvirt_domain_memory_stats_available_bytes",
        VM,
        "Memory managed by the guest's kernel.",
    ),
    _gauge(
        "libvirt_domain_memory_stats_usable_bytes",
        VM,
        "Memory that the guest can allocate without swapping.",
    ),
    _gauge(
        "libvirt_domain_memory_stats_unused_bytes", VM, "Completely unused memory of the guest."
    ),
    _gauge(
        "libvirt_domain_memory_stats_rss_bytes",
        VM,
        "Resident memory of the VM's QEMU process on the host.",
    ),
    _counter(
        "libvirt_domain_memory_stats_swap_in_bytes_total", VM, "Memory swapped in by the guest."
    ),
    _counter(
        "libvirt_domain_memory_stats_swap_out_bytes_total", VM, "Memory swapped out by the guest."
    ),
    _counter(
        "libvirt_domain_memory_stats_major_faults_total",
        VM,
        "Major page faults of the guest (with disk I/O).",
    ),
    _counter(
        "libvirt_domain_memory_stats_minor_faults_total",
        VM,
        "Minor page faults of the guest (without disk I/O).",
    ),
    _counter("libvirt_domain_block_stats_read_bytes_total", DEVICE, "Bytes read from the disk."),
    _counter(
        "libvirt_domain_block_stats_read_requests_total", DEVICE, "Read requests to the disk."
    ),
    _counter(
        "libvirt_domain_block_stats_read_time_seconds_total",
        DEVICE,
        "Total duration of read requests.",
    ),
    _counter("libvirt_domain_block_stats_write_bytes_total", DEVICE, "Bytes written to the disk."),
    _counter(
        "libvirt_domain_block_stats_write_requests_total", DEVICE, "Write requests to the disk."
    ),
    _counter(
        "libvirt_domain_block_stats_write_time_seconds_total",
        DEVICE,
        "Total duration of write requests.",
    ),
    _counter(
        "libvirt_domain_block_stats_flush_requests_total", DEVICE, "Flush requests to the disk."
    ),
    _counter(
        "libvirt_domain_block_stats_flush_time_seconds_total",
        DEVICE,
        "Total duration of flush requests.",
    ),
    _gauge(
        "libvirt_domain_block_stats_capacity_bytes",
        DEVICE,
        "Virtual size of the disk.",
    ),
    _gauge(
        "libvirt_domain_block_stats_allocation_bytes",
        DEVICE,
        "End offset of the last write to the disk's image, as libvirt reports it.",
    ),
    _gauge(
        "libvirt_domain_block_stats_physical_bytes",
        DEVICE,
        "Size of the disk's image on the host.",
    ),
    _counter(
        "libvirt_domain_interface_stats_receive_bytes_total",
        DEVICE,
        "Bytes received by the guest; target_device is the interface's MAC address.",
    ),
    _counter(
        "libvirt_domain_interface_stats_receive_packets_total",
        DEVICE,
        "Packets received by the guest.",
    ),
    _counter("libvirt_domain_interface_stats_receive_errors_total", DEVICE, "Receive errors."),
    _counter(
        "libvirt_domain_interface_stats_receive_drops_total",
        DEVICE,
        "Dropped packets to the guest.",
    ),
    _counter(
        "libvirt_domain_interface_stats_transmit_bytes_total", DEVICE, "Bytes sent by the guest."
    ),
    _counter(
        "libvirt_domain_interface_stats_transmit_packets_total",
        DEVICE,
        "Packets sent by the guest.",
    ),
    _counter("libvirt_domain_interface_stats_transmit_errors_total", DEVICE, "Transmit errors."),
    _counter(
        "libvirt_domain_interface_stats_transmit_drops_total",
        DEVICE,
        "Dropped packets from the guest.",
    ),
)

DATABASE_FAMILIES = (
    _gauge("virtplay_job_queue_length", (), "Jobs that wait for a worker."),
    _gauge(
        "virtplay_job_queue_oldest_seconds",
        (),
        "How long the oldest job that waits for a worker has waited; 0 when there is none.",
    ),
    _gauge(
        "virtplay_job_last_lost_timestamp_seconds",
        (),
        "Unix time at which a job of the service was last lost; absent when none was.",
    ),
    _gauge(
        "virtplay_database_backup_last_timestamp_seconds",
        (),
        "Unix time of the last virtplay db backup; absent before the first.",
    ),
    _gauge("virtplay_vms", ("status",), "VMs by the status that the API shows."),
    _gauge(
        "virtplay_vm_error",
        (*ALERTED_VM, "code"),
        "Always 1, for each VM whose status is error; code is that of its error, managed as in"
        " libvirt_domain_info.",
    ),
    _gauge(
        "virtplay_snapshots",
        ("origin", "status"),
        "Snapshots of all VMs, by what created them and their status.",
    ),
    _gauge(
        "virtplay_snapshot_schedule_failed",
        ALERTED_VM,
        "1 when the last turn of the VM's snapshot schedule was skipped or its job failed, else 0;"
        " managed as in libvirt_domain_info.",
    ),
    _gauge(
        "virtplay_snapshot_schedule_last_turn_timestamp_seconds",
        KNOWN_VM,
        "Unix time of the last turn of the VM's snapshot schedule that was not skipped.",
    ),
    _gauge(
        "virtplay_token_created_timestamp_seconds",
        ("token", "role"),
        "Unix time at which the token was created; only of tokens that expire.",
    ),
    _gauge(
        "virtplay_token_expires_timestamp_seconds",
        ("token", "role"),
        "Unix time at which the token expires; absent a week later, or when it is revoked.",
    ),
)
"""What the service publishes of its database, with its own metrics."""

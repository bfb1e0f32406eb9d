"""The exposition of all hosts in the Prometheus text format, rendered once per observation."""

import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from virtplay.metrics.families import DATABASE_FAMILIES, FAMILIES, Family, Kind
from virtplay.metrics.host_series import Values, VmLabels, read_host

CHUNK = 64 * 1024
PARTS = 32
"""Most bytes of a piece, and most parts: what the event loop decompresses and copies before it
serves other clients."""
LEVEL = 1
"""Compression by zlib: a twelfth of the memory; higher levels need more CPU and save little."""

Part = Mapping[str, bytes]
"""Maps each metric to the lines of one host's series, compressed."""


class Exposition:
    """Keeps the series of each host as text until its next observation.

    Threads may call it: rendering takes time that the event loop does not have.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[str, Part] = {}
        self._observations: dict[str, _Observations] = {}

    def take(
        self,
        host: str,
        info: Mapping[str, Any],
        refs: Mapping[str, VmLabels],
        at: float,
        took: float | None,
    ) -> None:
        """Replace a host's series by those of its `host_info`.

        `refs` maps the UUIDs of its domains to the labels of their VMs, `at` is when the host was
        observed (Unix seconds), `took` how long that took (seconds), None if unknown.
        """
        with self._lock:
            observations = self._observations.setdefault(host, _Observations())
        values = read_host(host, info, refs, at)
        values["libvirt_up"] = {(host,): 1}
        with self._lock:
            observations.count += 1
            observations.at, observations.took = at, took
            values |= observations.series(host)
        part = _render(values)
        with self._lock:
            # The host may have left the inventory in the meantime.
            if self._observations.get(host) is observations:
                self._parts[host] = part

    def fail(self, host: str) -> None:
        """Replace the series of a host that could not be observed: only its failure is known."""
        with self._lock:
            observations = self._observations.setdefault(host, _Observations())
            observations.count += 1
            observations.failures += 1
            self._parts[host] = _render({"libvirt_up": {(host,): 0}, **observations.series(host)})

    def count_failure(self, host: str) -> None:
        """Count one failed observation of a host; its series stay."""
        with self._lock:
            observations = self._observations.setdefault(host, _Observations())
            observations.count += 1
            observations.failures += 1
            if host in self._parts:
                self._parts[host] = {**self._parts[host], **_render(observations.series(host))}

    def forget(self, host: str) -> None:
        """Delete the series of a host that has left the inventory."""
        with self._lock:
            self._parts.pop(host, None)
            self._observations.pop(host, None)

    def keep(self, hosts: set[str]) -> None:
        """Delete the series of all other hosts."""
        with self._lock:
            gone = self._observations.keys() - hosts
        for host in gone:
            self.forget(host)

    def text(self, host: str | None = None) -> Iterator[bytes]:
        """Return the series of all hosts, or of one, in pieces of at most CHUNK bytes.

        The text is that of the moment of the call, however slow the reader is. Each piece is
        decompressed when it is read.
        """
        with self._lock:
            if host is None:
                parts = [self._parts[name] for name in sorted(self._parts)]
            else:
                parts = [part for name, part in self._parts.items() if name == host]
        return in_chunks(_lines(parts))


class _Observations:
    """Counters of the observations of one host since the service started."""

    def __init__(self) -> None:
        self.count = 0
        self.failures = 0
        self.at: float | None = None
        self.took: float | None = None

    def series(self, host: str) -> Values:
        """Return the counters as series."""
        found: dict[str, float | None] = {
            "virtplay_observations_total": self.count,
            "virtplay_observation_failures_total": self.failures,
            "virtplay_host_last_observed_timestamp_seconds": self.at,
            "virtplay_observation_duration_seconds": self.took,
        }
        return {name: {(host,): value} for name, value in found.items() if value is not None}


def _lines(parts: list[Part]) -> Iterator[bytes]:
    """Return all series grouped by metric, as the format requires."""
    for family in FAMILIES:
        found = [part[family.name] for part in parts if family.name in part]
        if found:
            yield HEADERS[family.name]
            yield from map(zlib.decompress, found)


def in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Join bytes to pieces of CHUNK bytes or of PARTS parts; the last one may be smaller."""
    waiting: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        rest = memoryview(piece)
        while size + len(rest) >= CHUNK:
            cut = CHUNK - size
            yield b"".join([*waiting, rest[:cut]])
            waiting, size, rest = [], 0, rest[cut:]
        if rest:
            waiting.append(rest)
            size += len(rest)
        if len(waiting) >= PARTS:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _render(values: Values) -> Part:
    """Return the lines of a host's series."""
    lines = _render_lines(FAMILIES, values)
    return {name: zlib.compress(text, LEVEL) for name, text in lines.items()}


def render_text(families: Iterable[Family], values: Values) -> bytes:
    """Return the text of all series of these metrics, with their HELP and TYPE lines."""
    lines = _render_lines(families, values)
    return b"".join(HEADERS[name] + text for name, text in lines.items())


def _render_lines(families: Iterable[Family], values: Values) -> dict[str, bytes]:
    """Return metric → its lines; prometheus_client would need eight times the CPU."""
    known: dict[tuple[tuple[str, ...], tuple[str, ...]], str] = {}
    part = {}
    for family in families:
        lines = []
        for labels, value in values.get(family.name, {}).items():
            # Most metrics of a VM have the same labels.
            text = known.get((family.labels, labels))
            if text is None:
                text = known[family.labels, labels] = _label_text(family.labels, labels)
            # A whole number needs no fraction.
            lines.append(f"{family.name}{text} {repr(value).removesuffix('.0')}\n")
        if lines:
            part[family.name] = "".join(lines).encode()
    return part


def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    """Return labels as the format writes them, such as {host="kvm1",pool="default"}."""
    if not names:
        return ""
    pairs = zip(names, (value.translate(ESCAPES) for value in values), strict=True)
    return "{" + ",".join([f'{name}="{value}"' for name, value in pairs]) + "}"


def _header(family: Family) -> bytes:
    metric: GaugeMetricFamily | CounterMetricFamily
    match family.kind:
        case Kind.GAUGE:
            metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
        case Kind.COUNTER:
            metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    return generate_latest(_Single(metric))


class _Single:
    """A collector of one metric for prometheus_client."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        """Return the metric."""
        yield self._metric


ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
"""What the format escapes in the values of labels."""
HEADERS = {family.name: _header(family) for family in (*FAMILIES, *DATABASE_FAMILIES)}
"""Maps each metric to its HELP and TYPE lines."""

"""The settings of the service, read from VIRTPLAY_* environment variables."""

import os
from functools import cached_property
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from virtplay.files import IS_WHEEL, PROJECT

TOKEN_LENGTH_MIN = 8
ROOT_STATE_DIR = Path("/var/lib/virtplay/service")
"""As with the role virtplay_service; the directory above is that of libvirt_host."""
SECONDS_MAX = 86_400.0
DAYS_MAX = 36_500.0
"""Subtracting a longer time from a date may leave the range of dates."""


def origin_of(url: str) -> str:
    """Return scheme://host[:port] of a URL without a path; raise ValueError for any other."""
    parts = urlsplit(url)
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or parts.username is not None
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise ValueError(f"{url} must be like https://virt.example.org, without a path")
    usual = {"http": 80, "https": 443}[parts.scheme]
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if parts.port in (None, usual) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}"


def default_state_dir() -> Path:
    """Return var for a checkout, else the place for root's or a user's data."""
    if not IS_WHEEL:
        return Path("var")
    if os.geteuid() == 0:
        return ROOT_STATE_DIR
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "virtplay"


class Settings(BaseSettings):
    """The service's settings; each is VIRTPLAY_<NAME> in the environment."""

    model_config = SettingsConfigDict(env_prefix="VIRTPLAY_", extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(3000, ge=1, le=65535, description="port to listen on")
    project_dir: Path = Field(
        PROJECT, description="directory with ansible.cfg, playbooks/, roles/ and collections/"
    )
    inventory: str = Field(
        "inventory/local.yml",
        description="inventory sources, comma-separated; of a relative path, the one in the working"
        " directory if it exists, else the one in the project directory",
    )
    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="directory of the SQLite file and of running jobs (mode 0700)",
    )
    database_url: str = Field(
        "",
        description="sqlite:///absolute/file or postgres://user:password@host:5432/name;"
        " default: virtplay.sqlite3 in the state directory",
    )
    bootstrap_token: SecretStr | None = Field(
        None,
        description="the first admin token, for scripted installations; default: a random one"
        " in the file token of the state directory",
    )
    observe_interval: float = Field(
        15.0, gt=0, le=SECONDS_MAX, allow_inf_nan=False, description="seconds between observations"
    )
    observe_timeout: float = Field(
        30.0,
        gt=0,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="time limit of the observation of one host, seconds",
    )
    observe_address_timeout: float = Field(
        120.0,
        ge=0,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="time after the start of a VM in which its host is observed as soon as the"
        " guest has an address, seconds; 0: only at the next interval",
    )
    observe_startup_timeout: float = Field(
        120.0,
        gt=0,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="time that a host's first observation waits in addition for its libvirt,"
        " seconds",
    )
    observe_forks: int = Field(
        10,
        ge=1,
        le=1000,
        description="hosts observed in parallel, with about 20 MB each; up to this number of hosts"
        " a single long-lived ansible-playbook observes all of them, above it one for each round",
    )
    history_raw_days: float = Field(
        1.0,
        gt=0,
        le=DAYS_MAX,
        allow_inf_nan=False,
        description="retention of usage samples at their full resolution",
    )
    history_5m_days: float = Field(
        30.0, gt=0, le=DAYS_MAX, allow_inf_nan=False, description="retention of 5-minute averages"
    )
    history_1h_days: float = Field(
        180.0, gt=0, le=DAYS_MAX, allow_inf_nan=False, description="retention of 1-hour averages"
    )
    prometheus_url: str = Field(
        "",
        description="URL of a Prometheus that scrapes this service; history is then read from it,"
        " and no samples are stored",
    )
    launcher: str = Field(
        "on",
        description="on: fork jobs from a process that has loaded Ansible, which is quicker than"
        " to start Ansible for each of them; off: start Ansible for each; or the absolute path of"
        " the socket of a manager of ansible-warm that runs already",
    )
    launcher_memory: int = Field(
        400,
        ge=100,
        le=1_000_000,
        description="memory of that process in MiB, above which another one takes its place",
    )
    job_workers: int = Field(
        8,
        ge=1,
        le=256,
        description="jobs that run in parallel; console jobs are counted separately",
    )
    jobs_per_host: int = Field(4, ge=1, le=64, description="jobs that run in parallel on one host")
    job_retention_days: float = Field(
        30.0,
        gt=0,
        le=DAYS_MAX,
        allow_inf_nan=False,
        description="retention of finished jobs",
    )
    audit_retention_days: float = Field(
        365.0,
        gt=0,
        le=DAYS_MAX,
        allow_inf_nan=False,
        description="retention of audit rows",
    )
    guard_retention_days: float = Field(
        30.0,
        gt=0,
        le=DAYS_MAX,
        allow_inf_nan=False,
        description="retention of guard snapshots, which a restore with guard creates",
    )
    stop_timeout: int = Field(
        90, ge=1, le=3600, description="seconds that a graceful stop waits for the guest"
    )
    shutdown_grace: float = Field(
        10.0,
        ge=0,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="seconds that running jobs may continue when the service stops",
    )
    login_failures: int = Field(
        10,
        ge=1,
        description="failed logins per minute and client address before further ones get 429",
    )
    public_url: str = Field(
        "",
        description="URL at which clients reach the service, e.g. https://virt.example.org;"
        " default: taken from each request",
    )
    console_origins: str = Field(
        "",
        description="further origins whose pages may open consoles, comma-separated,"
        " e.g. https://ui.example.org",
    )
    metrics_open: bool = Field(
        False, description="allow /metrics and the list of Prometheus targets without a token"
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file with the certificate chain; the service then uses HTTPS"
    )
    tls_key: Path | None = Field(None, description="PEM file with the certificate's private key")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR")

    @field_validator("state_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("bootstrap_token")
    @classmethod
    def _usable_token(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value else ""
        if not text:
            # In an environment file, VIRTPLAY_BOOTSTRAP_TOKEN= leaves the setting unset.
            return None
        if text != text.strip():
            raise ValueError("must not begin or end with white space")
        if len(text) < TOKEN_LENGTH_MIN:
            raise ValueError(f"must have at least {TOKEN_LENGTH_MIN} characters")
        return value

    @field_validator("launcher")
    @classmethod
    def _known_launcher(cls, value: str) -> str:
        if value not in ("on", "off") and not Path(value).is_absolute():
            raise ValueError("must be on, off or an absolute path")
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @field_validator("public_url")
    @classmethod
    def _public_address(cls, value: str) -> str:
        return origin_of(value) if value else ""

    @field_validator("console_origins")
    @classmethod
    def _known_origins(cls, value: str) -> str:
        return ",".join(origin_of(part.strip()) for part in value.split(",") if part.strip())

    @field_validator("tls_certificate", "tls_key", mode="before")
    @classmethod
    def _unset_when_empty(cls, value: object) -> object:
        return value or None

    @field_validator("tls_certificate", "tls_key")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not os.access(value.expanduser(), os.R_OK):
            raise ValueError(f"{value} cannot be read")
        return value.expanduser().absolute() if value else None

    @model_validator(mode="after")
    def _whole_tls(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("VIRTPLAY_TLS_CERTIFICATE and VIRTPLAY_TLS_KEY require each other")
        return self

    @property
    def origins(self) -> frozenset[str]:
        """The origins that may open consoles, besides the service's own."""
        listed = [*self.console_origins.split(","), self.public_url]
        return frozenset(origin for origin in listed if origin)

    @property
    def scheme(self) -> str:
        """The scheme of the service itself: http or https."""
        return "https" if self.tls_certificate else "http"

    @property
    def local_url(self) -> str:
        """The URL at which a client on this machine reaches the service."""
        host = {"127.0.0.1": "localhost", "0.0.0.0": "localhost", "::": "::1"}.get(  # noqa: S104
            self.host, self.host
        )
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def database(self) -> str:
        """The URL of the database, including the default."""
        return self.database_url or f"sqlite://{self.state_dir / 'virtplay.sqlite3'}"

    @property
    def token_file(self) -> Path:
        """The file, of mode 0600, with the first admin token if the settings have none."""
        return self.state_dir / "token"

    @property
    def backups(self) -> Path:
        """The directory of the copies that are made of the database before an upgrade."""
        return self.state_dir / "backups"

    @property
    def last_backup(self) -> Path:
        """The file that is as old as the last backup by `virtplay db backup`."""
        return self.state_dir / "last-backup"

    @cached_property
    def inventory_sources(self) -> list[str]:
        """The absolute paths for the -i option of Ansible.

        Once it is decided which file a relative path means, it stays: jobs run with the inventory
        that the service has read.
        """
        sources = [Path(part.strip()) for part in self.inventory.split(",") if part.strip()]
        return [
            str((source if source.exists() else self.project_dir / source).resolve())
            for source in sources
        ]

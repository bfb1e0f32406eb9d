"""Pure: every setting of the service and the command line, read from VIRTPLAY_* variables."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT = Path(__file__).resolve().parents[2]
TOKEN_LENGTH_MIN = 8
SECONDS_MAX = 86_400.0
DAYS_MAX = 36_500.0
"""A longer time cannot be taken from every date."""


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
        description="inventory sources, comma-separated, relative to the project directory",
    )
    state_dir: Path = Field(
        Path("var"), description="directory of the SQLite file and of running jobs (mode 0700)"
    )
    database_url: str = Field(
        "",
        description="sqlite:///absolute/file or postgres://user:password@host:5432/name;"
        " default: virtplay.sqlite3 in the state directory",
    )
    bootstrap_token: SecretStr | None = Field(
        None, description="makes this text the first admin token (for scripts); else one is drawn"
    )
    observe_interval: float = Field(
        15.0, gt=0, le=SECONDS_MAX, allow_inf_nan=False, description="seconds between observations"
    )
    observe_timeout: float = Field(
        30.0,
        gt=0,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="time limit of one observation, seconds",
    )
    job_workers: int = Field(8, ge=1, le=256, description="jobs that run at once")
    jobs_per_host: int = Field(4, ge=1, le=64, description="jobs that run at once on one host")
    job_retention_days: float = Field(
        30.0,
        gt=0,
        le=DAYS_MAX,
        allow_inf_nan=False,
        description="finished jobs are kept this long",
    )
    stop_timeout: int = Field(
        90, ge=1, le=3600, description="seconds that a graceful stop waits for the guest"
    )
    shutdown_grace: float = Field(
        10.0,
        ge=0,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="seconds that running jobs get to end when the service stops",
    )
    login_failures: int = Field(
        10, ge=1, description="failed logins a minute and address before answers are 429"
    )
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
            # VIRTPLAY_BOOTSTRAP_TOKEN= is how an environment file leaves it unset.
            return None
        if text != text.strip():
            raise ValueError("must not begin or end with white space")
        if len(text) < TOKEN_LENGTH_MIN:
            raise ValueError(f"must have at least {TOKEN_LENGTH_MIN} characters")
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError("must be DEBUG, INFO, WARNING or ERROR")
        return value.upper()

    @property
    def database(self) -> str:
        """The database's URL, with the default filled in."""
        return self.database_url or f"sqlite://{self.state_dir / 'virtplay.sqlite3'}"

    @property
    def inventory_sources(self) -> list[str]:
        """Absolute paths (or plugin names ending in a comma) for ansible's -i."""
        sources = [part.strip() for part in self.inventory.split(",") if part.strip()]
        return [str((self.project_dir / source).resolve()) for source in sources]

"""A job: settings that can be sent to worker processes, and the adapters built from them.

Keys and tokens are not part of it: a process has them from its environment or its supervisor.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from migrations_db.states import Phase
from migrations_db.types import EVERYTHING, Selection
from migrator.destinations.base import Destination, ReadBack
from migrator.errors import RETRY_AFTER_MAX_S, ExitCode, UserError
from migrator.job.address import Binding
from migrator.naming import neptune_run_id
from migrator.parts.base import MappingOptions
from migrator.redaction import own_keys
from migrator.services import Introduction
from migrator.settings import LEASE_S, NEPTUNE_KEY, WANDB_KEY, Mode, keys
from migrator.sources.base import Source


@dataclass(frozen=True, slots=True)
class Job:
    """One `migrate run` or `migrate sync`: everything a worker process needs."""

    database: str
    phase: Phase
    mode: Mode
    workspace: str
    parts: Sequence[str]
    options: MappingOptions
    offline_dir: Path
    work_dir: Path
    tool_version: str
    log_file: Path
    invocation_id: int
    binding: Binding | None = None
    only: Selection = EVERYTHING
    services: Collection[str] = ()  # from which runs come: workers connect to them at once
    visibility: str = "priv"
    lanes: int = 8  # runs that one worker copies at a time
    safe_client: bool = False  # only neptune-scale's public API: slow, but for other versions of it
    follow_links: bool = True  # of local directories, to files that the log names
    lease_s: float = LEASE_S
    max_failures: int = 5
    pause_max_s: float = RETRY_AFTER_MAX_S  # even if a service asks for more
    verbose: bool = False

    @property
    def awaited(self) -> Collection[str]:
        """The services whose pauses concern this job."""
        return {*self.services, "neptune"}

    @property
    def imports(self) -> list[str]:
        """The modules that its workers need and that can be imported early without side effects."""
        modules = []
        if "wandb" in self.services:  # first: pydantic's work for the SDK takes longer if more is imported already
            modules.append("migrator.sources.wandb.preload")
        if "local" in self.services:
            modules += ["wandb", "migrator.sources.wandb_local.listing"]
        if self.mode == "offline" and self.phase is Phase.COPY:
            modules.append("migrator.destinations.neptune.offline")
        elif not self.safe_client:  # its settings are read on import, see `build_destination`
            modules.append("migrator.destinations.neptune.online")
        return [*modules, "migrator.job.worker"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker's last word to its supervisor. `message` None: all went well."""

    exit_code: ExitCode
    message: str | None = None
    finished: bool = True  # False: stopped before nothing was left


def load_shared(services: Collection[str]) -> None:
    """Import what threads of these services share, before they do so at once: see `load_sdk`."""
    if "local" in services:  # the other imports it in one place
        if "wandb" in services:
            import migrator.sources.wandb.preload  # noqa: F401 - the settings that the SDK reads on import
        from migrator.sources.wandb_local.log import load_sdk

        load_sdk()


def wandb_api_key() -> str | None:
    return keys().get(WANDB_KEY)


def neptune_api_token() -> str:
    """The token, or a `UserError` that says how to get one."""
    token = keys().get(NEPTUNE_KEY)
    if not token:
        raise UserError(
            "NEPTUNE_API_TOKEN is not set: copy your token from the user menu of your Neptune, "
            "or use `--mode offline`, which needs none",
            ExitCode.CREDENTIALS,
        )
    return token


def build_api_source(scratch: Path) -> Source:
    """The W&B API of WANDB_BASE_URL (default: the cloud)."""
    from migrator.sources.wandb.listing import WandbApiSource

    return WandbApiSource(os.environ.get("WANDB_BASE_URL") or None, wandb_api_key(), scratch)


def build_source(service: str, scratch: Path, *, follow_links: bool = True) -> Source:
    """The source of runs that are in the state database already: local runs are opened by their stored locations."""
    return build_local_source((), follow_links=follow_links) if service == "local" else build_api_source(scratch)


def introduce_wandb(entity: str | None, scratch: Path, timeout_s: int) -> Introduction:
    """Log in at W&B and look at an entity (None: the account's own). `timeout_s`: of one request with all its tries.

    Raises `MigratorError`.
    """
    from migrator.sources.wandb.listing import WandbApiSource

    url = os.environ.get("WANDB_BASE_URL") or None
    with closing(WandbApiSource(url, wandb_api_key(), scratch, timeout_s)) as source:
        return source.introduce(entity)


def introduce_neptune() -> Introduction:
    """Log in at Neptune. Raises `MigratorError`."""
    from migrator.destinations.neptune.introduction import introduce

    return introduce(neptune_api_token())


def build_local_source(
    paths: Sequence[Path],
    *,
    follow_links: bool = True,
    known: Mapping[tuple[str, str, str], Sequence[str]] = MappingProxyType({}),
) -> Source:
    """Local W&B run directories below `paths` (none: runs are opened by their stored locations).

    `known`: the places of runs that earlier inventories found.
    """
    from migrator.sources.wandb_local.listing import LocalSource

    return LocalSource(paths, follow_links=follow_links, keys=own_keys(), known=known)


def local_file_sizes(location: Sequence[str]) -> list[int] | None:
    """The sizes of the files of a local run, as they are now; None: its directories are gone."""
    from migrator.sources.wandb_local.listing import file_sizes

    return file_sizes(location)


def local_roots(location: Sequence[str]) -> list[Path]:
    """The directories in which runs that lie there, and others beside them, are found."""
    from migrator.sources.wandb_local.listing import roots_around

    return roots_around(location)


def build_destination(job: Job, uploads: Executor, now: Callable[[], datetime]) -> Destination:
    """The destination of the job's runs. Connects, so a wrong token fails here."""
    if job.mode == "offline" and job.phase is Phase.COPY:
        from migrator.destinations.neptune.offline import OfflineDestination

        return OfflineDestination(job.offline_dir, now)
    if job.safe_client:
        os.environ["NEPTUNE_LOG_FAILURE_ACTION"] = "raise"  # read when neptune_scale is imported, as the next two are
        os.environ.setdefault("NEPTUNE_LOGGER_LEVEL", "none")
        os.environ.setdefault("NEPTUNE_DISABLE_COLORS", "true")
        from migrator.destinations.neptune.safe import SafeDestination

        return SafeDestination(neptune_api_token(), job.visibility)
    return build_neptune(uploads, job.visibility, now)


def build_neptune(uploads: Executor, visibility: str, now: Callable[[], datetime]) -> Destination:
    """The Neptune that the token is for."""
    from migrator.destinations.neptune.connection import Connection
    from migrator.destinations.neptune.online import NeptuneDestination

    return NeptuneDestination(Connection(neptune_api_token()), uploads, visibility, now)


def offline_files(offline_dir: Path) -> Iterator[Path]:
    """The directories of all offline files, complete and unfinished ones."""
    from migrator.destinations.neptune.offline_places import all_directories

    return all_directories(offline_dir)


def offline_file(offline_dir: Path, project: str, run_id: str) -> Path:
    """The directory of the offline file of a W&B run id in a Neptune project."""
    from migrator.destinations.neptune.offline_places import run_directory

    return run_directory(offline_dir, project, neptune_run_id(run_id).name)


def build_read_back(offline_dir: Path | None, downloads: Executor) -> ReadBack:
    """Reads runs back: from offline files or, if None, from Neptune. Connects, so a wrong token fails here."""
    if offline_dir is not None:
        from migrator.destinations.neptune.offline_readback import OfflineReadBack

        return OfflineReadBack(offline_dir)
    from migrator.destinations.neptune.connection import Connection
    from migrator.destinations.neptune.readback import NeptuneReadBack

    return NeptuneReadBack(Connection(neptune_api_token()), downloads)

"""The command line: parse, build, call one function, print. Help lives here; work lives in the command's module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from migrator import settings as s
from migrator.errors import ErrorClass, UserError

app = typer.Typer(
    name="migrate",
    help="Move experiment history from Weights & Biases to Neptune: resumable, verified, nothing lost silently.",
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"migrate {s.tool_version()}")
        raise typer.Exit


Projects = Annotated[
    str,
    typer.Option("--projects", envvar="MIGRATE_PROJECTS", help="W&B projects, comma-separated, globs ('a,b,c-*')."),
]
RunIds = Annotated[
    list[str] | None, typer.Option("--run-id", envvar="MIGRATE_RUN_ID", help="Only this run (repeatable).")
]
WorkDir = Annotated[
    Path | None,
    typer.Option("--work-dir", envvar="MIGRATE_WORK_DIR", help="Scratch space (default: the system's)."),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", envvar="MIGRATE_WORKERS", min=1, help="Worker processes (default: one a core)."),
]
Workspace = Annotated[
    str,
    typer.Option(
        "--neptune-workspace",
        envvar="MIGRATE_NEPTUNE_WORKSPACE",
        help="Neptune workspace (default: that of NEPTUNE_PROJECT).",
    ),
]
OfflineDir = Annotated[
    Path, typer.Option("--offline-dir", envvar="MIGRATE_OFFLINE_DIR", help="Where Neptune's offline files lie.")
]
StallTimeout = Annotated[
    float,
    typer.Option(
        "--stall-timeout", envvar="MIGRATE_STALL_TIMEOUT", min=5, help="Seconds without progress that end an attempt."
    ),
]
GiveUpAfter = Annotated[
    float,
    typer.Option(
        "--give-up-after", envvar="MIGRATE_GIVE_UP_AFTER", min=1, help="Seconds of a service's outage before exit 5."
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", envvar="MIGRATE_STRICT", help="Exit 3 when anything had to be skipped.")
]
Visibility = Annotated[
    str,
    typer.Option("--visibility", envvar="MIGRATE_VISIBILITY", help="Of created projects: private, workspace, public."),
]


@app.callback()
def common(
    context: typer.Context,
    db: Annotated[
        str, typer.Option("--db", envvar="MIGRATE_DB", help="State database: a file or a database URL.")
    ] = s.DEFAULT_DB,
    json: Annotated[bool, typer.Option("--json", envvar="MIGRATE_JSON", help="Results as JSON on stdout.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", envvar="MIGRATE_VERBOSE", help="More in the log file.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", envvar="MIGRATE_QUIET", help="No progress, only results.")
    ] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options for every command; they may stand before or behind it."""
    context.obj = s.Globals(db=db, json=json, verbose=verbose, quiet=quiet)
    if context.invoked_subcommand is None:
        if sys.stdin.isatty() and sys.stdout.isatty():
            from migrator.commands.guided import guide

            raise typer.Exit(guide(context.obj))
        typer.echo(context.get_help())


@app.command()
def inventory(
    context: typer.Context,
    wandb_entity: Annotated[
        str,
        typer.Option("--wandb-entity", envvar="MIGRATE_WANDB_ENTITY", help="W&B entity (default: your account's own)."),
    ] = "",
    projects: Projects = "",
    local: Annotated[
        list[Path] | None,
        typer.Option("--local", envvar="MIGRATE_LOCAL", help="Local W&B directories instead of the API (repeatable)."),
    ] = None,
    state: Annotated[
        list[str] | None, typer.Option("--state", envvar="MIGRATE_STATE", help="finished, crashed... (repeatable).")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", envvar="MIGRATE_TAG", help="Only runs with it (repeatable).")
    ] = None,
    created_after: Annotated[
        str, typer.Option("--created-after", envvar="MIGRATE_CREATED_AFTER", help="ISO time, inclusive.")
    ] = "",
    created_before: Annotated[
        str, typer.Option("--created-before", envvar="MIGRATE_CREATED_BEFORE", help="ISO time, exclusive.")
    ] = "",
    run_id: RunIds = None,
    project_map: Annotated[
        list[str] | None,
        typer.Option("--project-map", envvar="MIGRATE_PROJECT_MAP", help="W&B-project=neptune-project (repeatable)."),
    ] = None,
    work_dir: WorkDir = None,
) -> None:
    """List all W&B runs into the state database. Again: refresh it."""
    from migrator.commands.inventory import Scope, inventory_command
    from migrator.sources.base import RunFilter

    scope = Scope(
        entity=wandb_entity or None,
        projects=s.comma_separated(projects),
        only=RunFilter(
            states=tuple(state or ()),
            tags=tuple(tag or ()),
            created_after=s.parse_time(created_after, "--created-after"),
            created_before=s.parse_time(created_before, "--created-before"),
            run_ids=tuple(run_id or ()),
        ),
        project_map=s.parse_project_map(project_map or ()),
        whole=not (local or projects),
    )
    inventory_command(scope, tuple(local or ()), s.work_directory(work_dir), context.obj)


@app.command()
def run(
    context: typer.Context,
    neptune_workspace: Workspace = "",
    workers: Workers = None,
    mode: Annotated[
        str,
        typer.Option("--mode", envvar="MIGRATE_MODE", help="online or offline (default: online if a token is set)."),
    ] = "",
    offline_dir: OfflineDir = s.OFFLINE_DIR,
    projects: Projects = "",
    run_id: RunIds = None,
    limit: Annotated[
        int | None, typer.Option("--limit", envvar="MIGRATE_LIMIT", min=1, help="At most so many runs.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", envvar="MIGRATE_INCLUDE", help="Also this part: artifacts (repeatable)."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", envvar="MIGRATE_EXCLUDE", help="Not this part (repeatable).")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", envvar="MIGRATE_DRY_RUN", help="Say what would be copied; write nothing.")
    ] = False,
    stall_timeout: StallTimeout = 600.0,
    give_up_after: GiveUpAfter = 900.0,
    max_file_size: Annotated[
        str, typer.Option("--max-file-size", envvar="MIGRATE_MAX_FILE_SIZE", help="Skip larger files, e.g. 2GB.")
    ] = "",
    stringify_config: Annotated[
        bool,
        typer.Option("--stringify-config", envvar="MIGRATE_STRINGIFY_CONFIG", help="Config and summary as text."),
    ] = False,
    include_private: Annotated[
        bool,
        typer.Option("--include-private", envvar="MIGRATE_INCLUDE_PRIVATE", help="Also W&B's own keys (_runtime...)."),
    ] = False,
    metrics_namespace: Annotated[
        str,
        typer.Option("--metrics-namespace", envvar="MIGRATE_METRICS_NAMESPACE", help="Put all metrics below this."),
    ] = "",
    visibility: Visibility = "private",
    safe_client: Annotated[
        bool,
        typer.Option(
            "--safe-client", envvar="MIGRATE_SAFE_CLIENT", help="Slow, but for other versions of neptune-scale; online."
        ),
    ] = False,
    no_follow_links: Annotated[
        bool,
        typer.Option(
            "--no-follow-links", envvar="MIGRATE_NO_FOLLOW_LINKS", help="For local directories of unknown origin."
        ),
    ] = False,
    strict: Strict = False,
    work_dir: WorkDir = None,
) -> None:
    """Copy all pending runs to Neptune. Interrupted: the same command goes on."""
    from migrations_db.states import Phase
    from migrator.commands.run import RunSettings, dry_run_command, run_command
    from migrator.job.supervisor import Supervision
    from migrator.parts.base import MappingOptions

    chosen = _mode(mode)
    if safe_client and chosen == "offline":
        raise UserError("--safe-client is for --mode online: offline files are written without Neptune's client")
    settings = RunSettings(
        phase=Phase.COPY,
        mode=chosen,
        workspace=s.workspace(neptune_workspace, chosen),
        offline_dir=offline_dir,
        work_dir=s.work_directory(work_dir),
        supervision=Supervision(workers or s.default_workers(), stall_timeout, give_up_after),
        options=MappingOptions(
            include_private=include_private,
            stringify=stringify_config,
            metrics_namespace=_namespace(metrics_namespace),
            max_file_bytes=s.parse_size(max_file_size, "--max-file-size"),
        ),
        projects=s.comma_separated(projects),
        run_ids=tuple(run_id or ()),
        limit=limit,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        visibility=_visibility(visibility),
        strict=strict,
        safe_client=safe_client,
        no_follow_links=no_follow_links,
    )
    command = dry_run_command if dry_run else run_command
    raise typer.Exit(command(settings, context.obj))


@app.command()
def sync(
    context: typer.Context,
    neptune_workspace: Workspace = "",
    workers: Workers = None,
    offline_dir: OfflineDir = s.OFFLINE_DIR,
    projects: Projects = "",
    run_id: RunIds = None,
    stall_timeout: StallTimeout = 600.0,
    give_up_after: GiveUpAfter = 900.0,
    visibility: Visibility = "private",
    strict: Strict = False,
    work_dir: WorkDir = None,
) -> None:
    """Upload offline files to Neptune. Interrupted: the same command goes on."""
    from migrations_db.states import Phase
    from migrator.commands.run import RunSettings, run_command
    from migrator.job.supervisor import Supervision
    from migrator.parts.base import MappingOptions

    settings = RunSettings(
        phase=Phase.UPLOAD,
        mode="online",
        workspace=s.workspace(neptune_workspace, "online"),
        offline_dir=offline_dir,
        work_dir=s.work_directory(work_dir),
        supervision=Supervision(workers or s.default_workers(), stall_timeout, give_up_after),
        options=MappingOptions(),
        projects=s.comma_separated(projects),
        run_ids=tuple(run_id or ()),
        visibility=_visibility(visibility),
        strict=strict,
    )
    raise typer.Exit(run_command(settings, context.obj))


@app.command()
def status(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run: its id, project/id or entity/project/id.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="List the failed runs.")] = False,
    skips: Annotated[bool, typer.Option("--skips", help="List what was skipped or changed.")] = False,
) -> None:
    """Show progress, failures and what could not be copied."""
    from migrator.commands.status import status_command

    status_command(run, failed=failed, skips=skips, common=context.obj)


@app.command("retry-failed")
def retry_failed(
    context: typer.Context,
    error_class: Annotated[
        list[ErrorClass] | None,
        typer.Option("--class", envvar="MIGRATE_CLASS", help="Only failures of this class (repeatable)."),
    ] = None,
    projects: Projects = "",
    run_id: RunIds = None,
) -> None:
    """Put failed runs back to pending."""
    from migrator.commands.status import retry_failed_command

    retry_failed_command(tuple(error_class or ()), s.comma_separated(projects), tuple(run_id or ()), context.obj)


@app.command()
def forget(
    context: typer.Context,
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs: their ids, project/id or entity/project/id.")
    ] = None,
    projects: Projects = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Put runs back to never copied, to copy them from their start."""
    from migrator.commands.forget import forget_command

    raise typer.Exit(forget_command(tuple(runs or ()), s.comma_separated(projects), yes=yes, common=context.obj))


@app.command()
def verify(
    context: typer.Context,
    level: Annotated[
        str,
        typer.Option("--level", envvar="MIGRATE_LEVEL", help="counts, digests (all points) or values (the source)."),
    ] = "digests",
    files: Annotated[
        str, typer.Option("--files", envvar="MIGRATE_FILES", help="Compare stored files by size, or by md5.")
    ] = "size",
    sample: Annotated[
        str, typer.Option("--sample", envvar="MIGRATE_SAMPLE", help="Only a share of the runs, e.g. 5%.")
    ] = "",
    seed: Annotated[int, typer.Option("--seed", envvar="MIGRATE_SEED", help="Chooses the sample.")] = 0,
    again: Annotated[
        bool, typer.Option("--again", envvar="MIGRATE_AGAIN", help="Also runs that were verified before.")
    ] = False,
    projects: Projects = "",
    run_id: RunIds = None,
    workers: Annotated[
        int, typer.Option("--workers", envvar="MIGRATE_VERIFY_WORKERS", min=1, help="Readers at a time.")
    ] = 4,
) -> None:
    """Read copied runs back and compare them with what was sent. Interrupted: the same command goes on."""
    from migrator.commands.verify import VerifySettings, how_of, share_of, verify_command

    settings = VerifySettings(
        how=how_of(level, files),
        workers=workers,
        projects=s.comma_separated(projects),
        run_ids=tuple(run_id or ()),
        sample=share_of(sample),
        seed=seed,
        again=again,
    )
    raise typer.Exit(verify_command(settings, context.obj))


@app.command()
def demo(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Where to make it (default: a temporary directory).")
    ] = None,
) -> None:
    """The whole job with made-up runs: no account, no network, under two minutes."""
    from migrator.commands.demo import run_demo

    raise typer.Exit(run_demo(directory))


def _mode(text: str) -> s.Mode:
    match text or ("online" if s.token_is_set() else "offline"):
        case "online":
            return "online"
        case "offline":
            return "offline"
    raise UserError(f"--mode is online or offline, not '{text}'")


def _namespace(text: str) -> str | None:
    from migrator.naming import RESERVED_LEVELS

    level = text.strip("/").split("/")[0]
    if level in RESERVED_LEVELS:
        raise UserError(f"--metrics-namespace {text}: '{level}' has other things of a run. Choose another name")
    return text.strip("/") or None


def _visibility(text: str) -> str:
    codes = {"private": "priv", "workspace": "workspace", "public": "pub"}
    if text not in codes:
        raise UserError(f"--visibility is private, workspace or public, not '{text}'")
    return codes[text]

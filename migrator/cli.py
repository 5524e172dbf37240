"""The command line: parse, build, call one function, print. Help lives here; work lives in the command's module."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from migrator import options as o
from migrator import settings as s
from migrator.errors import UserError
from migrator.help import MAX_WIDTH, ReadableCommand, ReadableGroup

if TYPE_CHECKING:
    from migrations_db.selecting import Wanted

app = typer.Typer(
    name="migrate",
    help="Move experiment history from Weights & Biases to Neptune: resumable, and every value is accounted for.",
    cls=ReadableGroup,
    no_args_is_help=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": MAX_WIDTH},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"migrate {s.tool_version()}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    db: o.Database = s.DEFAULT_DB,
    json: o.Json = False,
    verbose: o.Verbose = False,
    quiet: o.Quiet = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Options for every command; they may stand before or behind it."""
    context.obj = s.Globals(db=db, json=json, verbose=verbose, quiet=quiet)
    if context.invoked_subcommand is None:
        if sys.stdin.isatty() and sys.stdout.isatty():
            from migrator.commands.guided import guide

            raise typer.Exit(guide(context.obj))
        typer.echo(context.get_help())


@app.command(cls=ReadableCommand)
def doctor(
    context: typer.Context,
    wandb_entity: o.Entity = "",
    local: o.Local = None,
    mode: o.ModeOption = "",
    neptune_workspace: o.Workspace = "",
    offline_dir: o.OfflineDir = None,
    write: o.Write = False,
    visibility: o.Visibility = "private",
    work_dir: o.WorkDir = None,
) -> None:
    """Check keys, services, disks and limits before the first run."""
    from migrator.commands.doctor import DoctorSettings, doctor_command

    settings = DoctorSettings(
        work_dir=s.work_directory(work_dir),
        entity=wandb_entity,
        local=tuple(local or ()),
        mode=_mode(mode),
        workspace=neptune_workspace,
        offline_dir=offline_dir,
        write=write,
        visibility=_visibility(visibility),
    )
    raise typer.Exit(doctor_command(settings, context.obj))


@app.command(cls=ReadableCommand)
def inventory(
    context: typer.Context,
    wandb_entity: o.Entity = "",
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    local: o.Local = None,
    state: o.States = None,
    tag: o.Tags = None,
    created_after: o.CreatedAfter = "",
    created_before: o.CreatedBefore = "",
    run_id: o.RunIds = None,
    name: o.Names = None,
    group: o.RunGroups = None,
    sweep: o.Sweeps = None,
    only: o.OnlyThese = False,
    project_map: o.ProjectMap = None,
    work_dir: o.WorkDir = None,
    yes: o.Yes = False,
) -> None:
    """List the W&B runs that are to be copied. Again: add others, and refresh."""
    from migrator.commands.inventory import inventory_command
    from migrator.commands.scope import Scope
    from migrator.sources.base import RunFilter

    now = datetime.now(UTC)
    scope = Scope(
        entity=wandb_entity or None,
        projects=s.comma_separated(projects),
        exclude_projects=s.comma_separated(exclude_projects),
        only=RunFilter(
            states=s.comma_separated(",".join(state or ())),
            tags=tuple(tag or ()),
            created_after=s.parse_time(created_after, "--created-after", now),
            created_before=s.parse_time(created_before, "--created-before", now),
            run_ids=tuple(s.from_files(run_id, "--run-id")),
            names=tuple(name or ()),
            groups=tuple(group or ()),
            sweeps=tuple(sweep or ()),
        ),
        project_map=s.parse_project_map(project_map or ()),
        whole=not (projects or exclude_projects),
        narrow=only,
        agreed=yes,
        roots=s.roots_of(local) if local else None,
    )
    inventory_command(scope, tuple(local or ()), s.work_directory(work_dir), context.obj)


@app.command(cls=ReadableCommand)
def plan(
    context: typer.Context,
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    run_id: o.RunIds = None,
    name: o.Names = None,
    group: o.RunGroups = None,
    sweep: o.Sweeps = None,
    limit: o.Limit = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    neptune_workspace: o.Workspace = "",
    mode: o.ModeOption = "",
    offline_dir: o.OfflineDir = None,
    max_file_size: o.MaxFileSize = None,
) -> None:
    """Say what `migrate run` would copy, how much and how long."""
    run(
        context,
        projects=projects,
        exclude_projects=exclude_projects,
        run_id=run_id,
        name=name,
        group=group,
        sweep=sweep,
        limit=limit,
        include=include,
        exclude=exclude,
        dry_run=True,
        neptune_workspace=neptune_workspace,
        mode=mode,
        offline_dir=offline_dir,
        max_file_size=max_file_size,
    )


@app.command(cls=ReadableCommand)
def run(
    context: typer.Context,
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    run_id: o.RunIds = None,
    name: o.Names = None,
    group: o.RunGroups = None,
    sweep: o.Sweeps = None,
    limit: o.Limit = None,
    include: o.Include = None,
    exclude: o.Exclude = None,
    dry_run: o.DryRun = False,
    neptune_workspace: o.Workspace = "",
    mode: o.ModeOption = "",
    offline_dir: o.OfflineDir = None,
    visibility: o.Visibility = "private",
    metrics_namespace: o.MetricsNamespace = None,
    include_private: o.IncludePrivate = None,
    stringify_config: o.StringifyConfig = None,
    max_file_size: o.MaxFileSize = None,
    workers: o.Workers = None,
    safe_client: o.SafeClient = False,
    no_follow_links: o.NoFollowLinks = False,
    stall_timeout: o.StallTimeout = 600.0,
    give_up_after: o.GiveUpAfter = 900.0,
    strict: o.Strict = False,
    notify: o.Notify = "",
    work_dir: o.WorkDir = None,
) -> None:
    """Copy all pending runs to Neptune. Interrupted: the same command goes on."""
    from migrations_db.states import Phase
    from migrator.commands.remembered import Asked, remembered
    from migrator.commands.run import RunSettings, run_command
    from migrator.job.supervisor import Supervision

    asked = Asked(
        mode=_mode(mode),
        workspace=neptune_workspace,
        offline_dir=offline_dir,
        mapping=_given(
            include_private=include_private,
            stringify=stringify_config,
            metrics_namespace=None if metrics_namespace is None else _namespace(metrics_namespace),
            max_file_bytes=None if max_file_size is None else s.parse_size(max_file_size, "--max-file-size") or 0,
        ),
    )
    where = remembered(Phase.COPY, asked, context.obj)
    if safe_client and where.mode == "offline":
        raise UserError("--safe-client is for --mode online: offline files are written without Neptune's client")
    settings = RunSettings(
        phase=Phase.COPY,
        mode=where.mode,
        workspace=where.workspace,
        offline_dir=where.offline_dir,
        work_dir=s.work_directory(work_dir),
        supervision=Supervision(workers or s.default_workers(), stall_timeout, give_up_after),
        options=where.options,
        given_options=asked.mapping,
        wanted=_wanted(projects, exclude_projects, run_id, name, group, sweep),
        limit=limit,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        visibility=_visibility(visibility),
        strict=strict,
        notify=notify,
        safe_client=safe_client,
        no_follow_links=no_follow_links,
    )
    if dry_run:
        from migrator.commands.plan import plan_command

        raise typer.Exit(plan_command(settings, context.obj))
    raise typer.Exit(run_command(settings, context.obj))


@app.command(cls=ReadableCommand)
def sync(
    context: typer.Context,
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    run_id: o.RunIds = None,
    name: o.Names = None,
    group: o.RunGroups = None,
    sweep: o.Sweeps = None,
    neptune_workspace: o.Workspace = "",
    offline_dir: o.OfflineDir = None,
    visibility: o.Visibility = "private",
    workers: o.Workers = None,
    stall_timeout: o.StallTimeout = 600.0,
    give_up_after: o.GiveUpAfter = 900.0,
    strict: o.Strict = False,
    notify: o.Notify = "",
    work_dir: o.WorkDir = None,
) -> None:
    """Upload offline files to Neptune. Interrupted: the same command goes on."""
    from migrations_db.states import Phase
    from migrator.commands.remembered import Asked, remembered
    from migrator.commands.run import RunSettings, run_command
    from migrator.job.supervisor import Supervision

    where = remembered(Phase.UPLOAD, Asked("online", neptune_workspace, offline_dir), context.obj)
    settings = RunSettings(
        phase=Phase.UPLOAD,
        mode="online",
        workspace=where.workspace,
        offline_dir=where.offline_dir,
        work_dir=s.work_directory(work_dir),
        supervision=Supervision(workers or s.default_workers(), stall_timeout, give_up_after),
        options=where.options,
        wanted=_wanted(projects, exclude_projects, run_id, name, group, sweep),
        visibility=_visibility(visibility),
        strict=strict,
        notify=notify,
    )
    raise typer.Exit(run_command(settings, context.obj))


@app.command(cls=ReadableCommand)
def status(
    context: typer.Context,
    run: o.Run = "",
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    short: o.Short = False,
    failed: o.Failed = False,
    skips: o.Skips = False,
    watch: o.Watch = False,
    exit_code: o.ExitCodeOption = False,
) -> None:
    """Show progress, failures and what could not be copied."""
    from migrator.commands.status import StatusQuery, status_command

    wanted = _wanted(projects, exclude_projects, None, None, None, None)
    query = StatusQuery(run, wanted, failed, skips, short, watch, exit_code)
    raise typer.Exit(status_command(query, context.obj))


@app.command(cls=ReadableCommand)
def runs(
    context: typer.Context,
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    run_id: o.RunIds = None,
    name: o.Names = None,
    group: o.RunGroups = None,
    sweep: o.Sweeps = None,
    status: o.StatusOption = None,
    state: o.States = None,
    tag: o.Tags = None,
    sort: o.Sort = "",
    reverse: o.Reverse = False,
    limit: o.ListLimit = None,
    csv: o.Csv = False,
) -> None:
    """List the runs of the state database."""
    from migrator.commands.runs import RunsQuery, runs_command

    query = RunsQuery(
        wanted=_wanted(projects, exclude_projects, run_id, name, group, sweep),
        statuses=s.comma_separated(",".join(status or ())),
        states=s.comma_separated(",".join(state or ())),
        tags=tuple(tag or ()),
        sort=sort,
        reverse=reverse,
        limit=limit,
        csv=csv,
    )
    runs_command(query, context.obj)


@app.command("retry-failed", cls=ReadableCommand)
def retry_failed(
    context: typer.Context,
    error_class: o.ErrorClasses = None,
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    run_id: o.RunIds = None,
    name: o.Names = None,
    group: o.RunGroups = None,
    sweep: o.Sweeps = None,
) -> None:
    """Put failed runs back to pending."""
    from migrator.commands.status import retry_failed_command

    wanted = _wanted(projects, exclude_projects, run_id, name, group, sweep)
    retry_failed_command(tuple(error_class or ()), wanted, context.obj)


@app.command(cls=ReadableCommand)
def forget(context: typer.Context, runs: o.Runs = None, projects: o.Projects = "", yes: o.Yes = False) -> None:
    """Put runs back to "never copied", to copy them from their start."""
    from migrator.commands.forget import forget_command

    raise typer.Exit(forget_command(tuple(runs or ()), s.comma_separated(projects), yes=yes, common=context.obj))


@app.command(cls=ReadableCommand)
def clean(
    context: typer.Context,
    what: o.CleanWhat = "all",
    not_uploaded: o.NotUploaded = False,
    offline_dir: o.OfflineDir = None,
    work_dir: o.WorkDir = None,
    yes: o.CleanYes = False,
) -> None:
    """Show what earlier commands left behind; --yes removes it."""
    from migrator.commands.clean import CleanSettings, clean_command

    settings = CleanSettings(what, s.work_directory(work_dir), offline_dir, not_uploaded, yes)
    raise typer.Exit(clean_command(settings, context.obj))


@app.command(cls=ReadableCommand)
def verify(
    context: typer.Context,
    projects: o.Projects = "",
    run_id: o.RunIds = None,
    sample: o.Sample = "",
    seed: o.Seed = 0,
    again: o.Again = False,
    level: o.Level = "digests",
    files: o.Files = "size",
    workers: o.Readers = 4,
) -> None:
    """Read copied runs back and compare. Interrupted: the same command goes on."""
    from migrator.commands.verify import VerifySettings, how_of, share_of, verify_command

    settings = VerifySettings(
        how=how_of(level, files),
        workers=workers,
        projects=s.comma_separated(projects),
        run_ids=tuple(s.from_files(run_id, "--run-id")),
        sample=share_of(sample),
        seed=seed,
        again=again,
    )
    raise typer.Exit(verify_command(settings, context.obj))


@app.command(cls=ReadableCommand)
def report(
    context: typer.Context,
    run: o.Run = "",
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    run_id: o.RunIds = None,
    out: o.ReportFile = s.REPORT,
    charts: o.Charts = None,
    source: o.WithSource = False,
    force: o.Force = False,
    open: o.OpenReport = False,
) -> None:
    """Write one HTML file that shows what arrived, what did not, and why."""
    from migrator.commands.report import ReportQuery, report_command

    wanted = _wanted(projects, exclude_projects, run_id, None, None, None)
    report_command(ReportQuery(run, wanted, out, charts, source, force, open), context.obj, datetime.now(UTC))


@app.command(cls=ReadableCommand)
def demo(
    directory: o.DemoDir = None,
) -> None:
    """Try the whole job with made-up runs.

    It needs no account and no network, and takes less than two minutes.
    """
    from migrator.commands.demo import run_demo

    raise typer.Exit(run_demo(directory))


def _mode(text: str) -> s.Mode | None:
    match text:
        case "":
            return None
        case "online" | "offline":
            return text
    raise UserError(f"--mode is online or offline, not '{text}'")


def _given(**options: object) -> dict[str, object]:
    """The options that the command line has."""
    return {name: value for name, value in options.items() if value is not None}


def _wanted(
    projects: str,
    exclude_projects: str,
    run_ids: list[str] | None,
    names: list[str] | None,
    groups: list[str] | None,
    sweeps: list[str] | None,
) -> Wanted:
    from migrations_db.selecting import Wanted

    return Wanted(
        projects=s.comma_separated(projects),
        exclude_projects=s.comma_separated(exclude_projects),
        run_ids=tuple(s.from_files(run_ids, "--run-id")),
        names=tuple(names or ()),
        groups=tuple(groups or ()),
        sweeps=tuple(sweeps or ()),
    )


def _namespace(text: str) -> str:
    """Empty: none."""
    from migrator.naming import RESERVED_LEVELS

    level = text.strip("/").split("/")[0]
    if level in RESERVED_LEVELS:
        raise UserError(f"--metrics-namespace {text}: '{level}' has other things of a run. Choose another name")
    return text.strip("/")


def _visibility(text: str) -> str:
    codes = {"private": "priv", "workspace": "workspace", "public": "pub"}
    if text not in codes:
        raise UserError(f"--visibility is private, workspace or public, not '{text}'")
    return codes[text]

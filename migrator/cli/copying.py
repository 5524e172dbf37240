"""The commands that lead to a copy: doctor, inventory, plan, run, sync."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from migrator import options as o
from migrator import settings as s
from migrator.cli.values import chosen_runs, given, parse_mode, parse_namespace, parse_visibility
from migrator.errors import UserError


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
        mode=parse_mode(mode),
        workspace=neptune_workspace,
        offline_dir=offline_dir,
        write=write,
        visibility=parse_visibility(visibility),
    )
    raise typer.Exit(doctor_command(settings, context.obj))


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
    filter: o.Filter = "",
    only: o.OnlyThese = False,
    project_map: o.ProjectMap = None,
    work_dir: o.WorkDir = None,
    yes: o.Yes = False,
) -> None:
    """List the W&B runs that are to be copied. Again: add others, and refresh."""
    from migrator.commands.inventory import inventory_command
    from migrator.commands.scope import Scope
    from migrator.sources.base import RunFilter

    if filter and local:
        raise UserError("--filter is for W&B's API: local directories have --state, --tag, --name and the like")
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
            wandb=s.parse_filter(filter, "--filter"),
        ),
        project_map=s.parse_project_map(project_map or ()),
        whole=not (projects or exclude_projects),
        narrow=only,
        agreed=yes,
        roots=s.roots_of(local) if local else None,
    )
    inventory_command(scope, tuple(local or ()), s.work_directory(work_dir), context.obj)


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
        mode=parse_mode(mode),
        workspace=neptune_workspace,
        offline_dir=offline_dir,
        mapping=given(
            include_private=include_private,
            stringify=stringify_config,
            metrics_namespace=None if metrics_namespace is None else parse_namespace(metrics_namespace),
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
        wanted=chosen_runs(projects, exclude_projects, run_id, name, group, sweep),
        limit=limit,
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        visibility=parse_visibility(visibility),
        strict=strict,
        notify=notify,
        safe_client=safe_client,
        no_follow_links=no_follow_links,
    )
    if dry_run:
        from migrator.commands.plan import plan_command

        raise typer.Exit(plan_command(settings, context.obj))
    raise typer.Exit(run_command(settings, context.obj))


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
        wanted=chosen_runs(projects, exclude_projects, run_id, name, group, sweep),
        visibility=parse_visibility(visibility),
        strict=strict,
        notify=notify,
    )
    raise typer.Exit(run_command(settings, context.obj))

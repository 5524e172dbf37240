"""The commands that show what has become of runs, prove it, or put runs back."""

from __future__ import annotations

from datetime import UTC, datetime

import typer

from migrator import options as o
from migrator import settings as s
from migrator.cli.values import chosen_runs


def status(
    context: typer.Context,
    run: o.Run = "",
    projects: o.Projects = "",
    exclude_projects: o.ExcludeProjects = "",
    short: o.Short = False,
    failed: o.Failed = False,
    skips: o.Skips = False,
    watch: o.Watch = False,
    workers: o.WorkersShown = False,
    all: o.AllRuns = False,
    json_lines: o.JsonLines = False,
    csv: o.CsvOfAll = False,
    exit_code: o.ExitCodeOption = False,
) -> None:
    """Show progress, failures and what could not be copied."""
    from migrator.commands.status import StatusQuery, status_command

    query = StatusQuery(
        run=run,
        wanted=chosen_runs(projects, exclude_projects, None, None, None, None),
        failed=failed,
        skips=skips,
        short=short,
        watch=watch,
        workers=workers,
        all=all,
        json_lines=json_lines,
        csv=csv,
        exit_code=exit_code,
    )
    raise typer.Exit(status_command(query, context.obj))


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
        wanted=chosen_runs(projects, exclude_projects, run_id, name, group, sweep),
        statuses=s.comma_separated(",".join(status or ())),
        states=s.comma_separated(",".join(state or ())),
        tags=tuple(tag or ()),
        sort=sort,
        reverse=reverse,
        limit=limit,
        csv=csv,
    )
    runs_command(query, context.obj)


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

    wanted = chosen_runs(projects, exclude_projects, run_id, name, group, sweep)
    retry_failed_command(tuple(error_class or ()), wanted, context.obj)


def forget(context: typer.Context, runs: o.Runs = None, projects: o.Projects = "", yes: o.Yes = False) -> None:
    """Put runs back to "never copied"."""
    from migrator.commands.forget import forget_command

    raise typer.Exit(forget_command(tuple(runs or ()), s.comma_separated(projects), yes=yes, common=context.obj))


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
    list_again: o.ListAgain = False,
    no_follow_links: o.NoFollowLinks = False,
    work_dir: o.WorkDir = None,
) -> None:
    """Read copied runs back and compare. Interrupted: the same command goes on."""
    from migrator.commands.verify import VerifySettings, how_of, share_of, verify_command

    settings = VerifySettings(
        how=how_of(level, files),
        workers=workers,
        wanted=chosen_runs(projects, "", run_id, None, None, None),
        sample=share_of(sample),
        seed=seed,
        again=again,
        work_dir=s.work_directory(work_dir),
        follow_links=not no_follow_links,
        list_again=list_again,
    )
    raise typer.Exit(verify_command(settings, context.obj))


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
    """Write an HTML report of what arrived and what did not."""
    from migrator.commands.report import ReportQuery, report_command

    wanted = chosen_runs(projects, exclude_projects, run_id, None, None, None)
    report_command(ReportQuery(run, wanted, out, charts, source, force, open), context.obj, datetime.now(UTC))


def config(context: typer.Context, command: o.CommandName = "") -> None:
    """Show the value of each option, and where it comes from.

    Options may be in migrate.toml beside the state database: those of every command at the top, those of one command in
    a table, such as workers = 4 below [run]. The order is: command line, environment, file, state database.
    """
    from migrator.cli.file import file_of, settings_of
    from migrator.commands.config import config_command

    config_command(settings_of(context, command), file_of(context), context.obj)


def demo(
    directory: o.DemoDir = None,
) -> None:
    """Try the whole job with made-up runs.

    It needs no account and no network, and takes less than two minutes.
    """
    from migrator.commands.demo import run_demo

    raise typer.Exit(run_demo(directory))

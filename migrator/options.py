"""Options that several commands share or that are long: their names, their groups in the help, and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migrator.errors import ErrorClass
from migrator.help import EVERY, HOW, OTHER, SCRATCH, SHOWN, TROUBLE, WHAT, WHERE, option

# ---------------------------------------------------------------- what to copy


def complete_projects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completion in the shell: projects in the state database."""
    from migrator.commands.completion import projects

    return projects(ctx, incomplete)


def complete_runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Completion in the shell: run ids in the state database."""
    from migrator.commands.completion import run_ids

    return run_ids(ctx, incomplete)


Projects = Annotated[
    str,
    option(
        "--projects",
        metavar="NAMES",
        group=WHAT,
        help="W&B projects, comma-separated; patterns are allowed: 'vision,nlp-*'. Default: all.",
        autocompletion=complete_projects,
    ),
]
ExcludeProjects = Annotated[
    str,
    option(
        "--exclude-projects",
        metavar="NAMES",
        group=WHAT,
        help="All projects except these, comma-separated; patterns are allowed.",
        autocompletion=complete_projects,
    ),
]
RunIds = Annotated[
    list[str] | None,
    option(
        "--run-id",
        metavar="ID",
        group=WHAT,
        help="Only this run: its id, or entity/project/id; @FILE reads one per line. Repeatable.",
        autocompletion=complete_runs,
    ),
]
Names = Annotated[
    list[str] | None,
    option("--name", metavar="PATTERN", group=WHAT, help="Only runs with this display name: 'resnet-*'. Repeatable."),
]
RunGroups = Annotated[
    list[str] | None, option("--group", metavar="GROUP", group=WHAT, help="Only runs of this W&B group. Repeatable.")
]
Sweeps = Annotated[
    list[str] | None,
    option("--sweep", metavar="ID", group=WHAT, help="Only runs of the sweep with this id. Repeatable."),
]
Entity = Annotated[
    str, option("--wandb-entity", metavar="NAME", group=WHAT, help="W&B entity. Default: that of your account.")
]
Local = Annotated[
    list[Path] | None,
    option("--local", metavar="DIR", group=WHAT, help="Local W&B run directories, instead of the W&B API. Repeatable."),
]
States = Annotated[
    list[str] | None,
    option("--state", metavar="STATE", group=WHAT, help="Only runs that W&B calls finished, crashed ... Repeatable."),
]
Tags = Annotated[
    list[str] | None, option("--tag", metavar="TAG", group=WHAT, help="Only runs with this tag. Repeatable.")
]
CreatedAfter = Annotated[
    str,
    option(
        "--created-after",
        metavar="TIME",
        group=WHAT,
        help="Only runs created at this time or later: 2024-05-01, 2024-05, yesterday, 30d (days ago). In UTC.",
    ),
]
CreatedBefore = Annotated[
    str, option("--created-before", metavar="TIME", group=WHAT, help="Only runs created before this time.")
]
Filter = Annotated[
    str,
    option(
        "--filter",
        metavar="JSON",
        group=WHAT,
        help='Only runs that pass this filter in W&B\'s own form: \'{"config.lr": {"$gt": 0.1}}\'. @FILE reads it '
        "from a file. Not with --local.",
    ),
]
OnlyThese = Annotated[
    bool,
    option(
        "--only",
        group=WHAT,
        help="Copy nothing else: pending runs that this inventory does not list are left out. Shows how many, and "
        "asks. Without it, filters choose what is added.",
    ),
]
Yes = Annotated[bool, option("--yes", "-y", group=OTHER, help="Do not ask.")]
Limit = Annotated[int | None, option("--limit", metavar="N", group=WHAT, min=1, help="Copy at most N runs.")]
Include = Annotated[
    list[str] | None,
    option(
        "--include",
        metavar="PART",
        group=WHAT,
        help="Also copy this part, which is left out by default: artifacts. Repeatable.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    option("--exclude", metavar="PART", group=WHAT, help="Do not copy this part: history, files ... Repeatable."),
]
DryRun = Annotated[
    bool, option("--dry-run", group=WHAT, help="As `migrate plan`: show what would be copied, and write nothing.")
]
ErrorClasses = Annotated[
    list[ErrorClass] | None,
    option("--class", metavar="CLASS", group=WHAT, help="Only failures of this class. Default: all. Repeatable."),
]

Runs = Annotated[
    list[str] | None, typer.Argument(metavar="RUN", help="Runs: their ids, project/id or entity/project/id.")
]
Sample = Annotated[str, option("--sample", metavar="SHARE", group=WHAT, help="Only a share of the runs, e.g. 5%.")]
Seed = Annotated[int, option("--seed", metavar="N", group=WHAT, help="Which runs are in the sample. Default: 0.")]
ListAgain = Annotated[
    bool,
    option("--list", group=WHAT, help="Also list the source again, to tell runs that are new there, or gone."),
]
Again = Annotated[bool, option("--again", group=WHAT, help="Also runs that were verified before.")]

# ---------------------------------------------------------------- where to

ProjectMap = Annotated[
    list[str] | None,
    option(
        "--project-map",
        metavar="OLD=NEW",
        group=WHERE,
        help="W&B project OLD goes to Neptune project NEW; @FILE reads one pair per line. Repeatable.",
    ),
]
Workspace = Annotated[
    str,
    option(
        "--neptune-workspace",
        metavar="NAME",
        group=WHERE,
        help="Neptune workspace. Default: that of NEPTUNE_PROJECT, else the one used before.",
    ),
]
ModeOption = Annotated[
    str,
    option(
        "--mode",
        metavar="MODE",
        group=WHERE,
        help="online or offline. Default: as before; the first time online if NEPTUNE_API_TOKEN is set.",
    ),
]
OfflineDir = Annotated[
    Path | None,
    option(
        "--offline-dir",
        metavar="DIR",
        group=WHERE,
        help="Where Neptune's offline files are. Default: as before; the first time neptune-offline.",
    ),
]
Visibility = Annotated[
    str,
    option(
        "--visibility",
        metavar="WHO",
        group=WHERE,
        help="Who can see projects that are created: private, workspace or public. Default: private.",
    ),
]

# ---------------------------------------------------------------- how

MetricsNamespace = Annotated[
    str | None,
    option("--metrics-namespace", metavar="NAME", group=HOW, help="Put all metrics below NAME. Default: at the top."),
]
IncludePrivate = Annotated[
    bool | None,
    option("--include-private/--no-include-private", group=HOW, help="Also copy W&B's own keys, such as _runtime."),
]
StringifyConfig = Annotated[
    bool | None,
    option("--stringify-config/--no-stringify-config", group=HOW, help="Write config and summary values as text."),
]
MaxFileSize = Annotated[
    str | None,
    option("--max-file-size", metavar="SIZE", group=HOW, help="Skip larger files: 500MB, 2GiB. Default: no limit."),
]
Workers = Annotated[
    int | None,
    option("--workers", metavar="N", group=HOW, min=1, help="Worker processes. Default: one per core, at most 8."),
]
SafeClient = Annotated[
    bool, option("--safe-client", group=HOW, help="Slow, but works with other versions of neptune-scale. Online only.")
]
NoFollowLinks = Annotated[
    bool, option("--no-follow-links", group=HOW, help="Follow no links: for local directories of unknown origin.")
]

Write = Annotated[
    bool,
    option(
        "--write",
        group=HOW,
        help="Also write one run to Neptune, in a project of its own, migrate-doctor. It stays there.",
    ),
]

# ---------------------------------------------------------------- when things go wrong

StallTimeout = Annotated[
    float,
    option(
        "--stall-timeout",
        metavar="SECONDS",
        group=TROUBLE,
        min=5,
        help="End an attempt that makes no progress for this long. Default: 600.",
    ),
]
GiveUpAfter = Annotated[
    float,
    option(
        "--give-up-after",
        metavar="SECONDS",
        group=TROUBLE,
        min=1,
        help="End with exit code 5 when a service is down for this long. Default: 900.",
    ),
]
Strict = Annotated[bool, option("--strict", group=TROUBLE, help="End with exit code 3 when any value was skipped.")]

Notify = Annotated[
    str,
    option(
        "--notify",
        metavar="COMMAND",
        group=TROUBLE,
        help="Run COMMAND in a shell when the job ends, when runs fail, and when a service is down for long. It gets "
        "the event as JSON on its standard input.",
    ),
]

# ---------------------------------------------------------------- other

WorkDir = Annotated[
    Path | None,
    option("--work-dir", metavar="DIR", group=SCRATCH, help="Directory for scratch files. Default: the system's."),
]
Failed = Annotated[bool, option("--failed", group=SHOWN, help="List the failed runs.")]
Skips = Annotated[bool, option("--skips", group=SHOWN, help="List what was skipped or changed.")]
DemoDir = Annotated[
    Path | None, option("--dir", metavar="DIR", group=WHERE, help="Where to create it. Default: a temporary directory.")
]
Short = Annotated[bool, option("--short", group=SHOWN, help="Only the next step, and a short summary of the job.")]
Watch = Annotated[bool, option("--watch", group=SHOWN, help="Refresh the output until nothing is left to do.")]
ExitCodeOption = Annotated[
    bool,
    option(
        "--exit-code",
        group=SHOWN,
        help="Exit with 0 if all is done, 3 if runs failed, 6 if there is more to do. Otherwise always with 0.",
    ),
]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run: its id, project/id or entity/project/id.", show_default=False),
]

CommandName = Annotated[
    str, typer.Argument(metavar="COMMAND", help="Only the options of this command, such as run.", show_default=False)
]

StatusOption = Annotated[
    list[str] | None,
    option(
        "--status",
        metavar="STATUS",
        group=WHAT,
        help="Only runs that are pending, running, done, failed or 'left out'. Repeatable, or comma-separated.",
    ),
]
Sort = Annotated[
    str,
    option(
        "--sort",
        metavar="COLUMN",
        group=SHOWN,
        help="Sort by run, name, state, status, created, rows, values, size, started or finished. Default: as listed.",
    ),
]
Reverse = Annotated[bool, option("--reverse", "-r", group=SHOWN, help="Sort in descending order.")]
ListLimit = Annotated[
    int | None,
    option("--limit", metavar="N", group=SHOWN, min=1, help="Show at most N runs. Default: 200 in a table, else all."),
]
Csv = Annotated[bool, option("--csv", group=SHOWN, help="Print CSV, with all columns.")]
AllRuns = Annotated[
    bool,
    option("--all", group=SHOWN, help="Everything about every run, one per line: with --json-lines or --csv."),
]
JsonLines = Annotated[bool, option("--json-lines", group=SHOWN, help="With --all: a JSON document per line.")]
WorkersShown = Annotated[
    bool,
    option("--workers", group=SHOWN, help="List the workers, where they run, and what each does.", has_variable=False),
]
CsvOfAll = Annotated[
    bool, option("--csv", group=SHOWN, help="With --all: CSV, with JSON in cells that are lists.", has_variable=False)
]

ReportFile = Annotated[
    Path,
    option("--out", metavar="FILE", group=WHERE, help="The report. Default: migration-report.html."),
]
Force = Annotated[bool, option("--force", group=WHERE, help="Replace FILE even if it is not a report of this program.")]
Charts = Annotated[
    int | None,
    option(
        "--charts",
        metavar="N",
        group=SHOWN,
        min=0,
        help="Draw the metrics of N runs, which are read back for it. Default: 3, or those that are named.",
    ),
]
WithSource = Annotated[
    bool,
    option("--source", group=SHOWN, help="Read the runs that are drawn from the source again, and draw both."),
]
OpenReport = Annotated[bool, option("--open", group=SHOWN, help="Show it in the browser.")]

CleanWhat = Annotated[
    str,
    option("--what", metavar="WHAT", group=SHOWN, help="Only logs, scratch or offline files. Default: all."),
]
NotUploaded = Annotated[
    bool,
    option("--not-uploaded", group=TROUBLE, help="Also offline files that are in no Neptune yet. They are lost then."),
]
CleanYes = Annotated[bool, option("--yes", "-y", group=OTHER, help="Remove it. Without this, it is only shown.")]

# ---------------------------------------------------------------- of every command

Database = Annotated[
    str, option("--db", metavar="FILE", group=EVERY, help="State database: a file, or a URL. Default: migration.db.")
]
Config = Annotated[
    Path | None,
    option(
        "--config",
        metavar="FILE",
        group=EVERY,
        help="File of options, in TOML. Default: migrate.toml beside the state database, if there is one.",
    ),
]
Json = Annotated[bool, option("--json", group=EVERY, help="Print results as JSON.")]
Verbose = Annotated[bool, option("--verbose", "-v", group=EVERY, help="Write more into the log file.")]
Quiet = Annotated[bool, option("--quiet", "-q", group=EVERY, help="Show no progress, only results.")]

# ---------------------------------------------------------------- how `verify` compares

Level = Annotated[
    str,
    option(
        "--level",
        metavar="LEVEL",
        group=HOW,
        help="counts; digests, which reads all points back; or values, which also reads the source again and names the "
        "points that differ. Default: digests.",
    ),
]
Files = Annotated[
    str, option("--files", metavar="HOW", group=HOW, help="Compare stored files by size or by md5. Default: size.")
]
Readers = Annotated[int, option("--workers", metavar="N", group=HOW, min=1, help="Readers at a time. Default: 4.")]

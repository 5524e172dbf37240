"""`migrate` as its users run it: real SDKs, real HTTP, interruptions; what arrives is compared with what was there."""

from __future__ import annotations

import signal
import sqlite3
import time
from contextlib import closing

import pytest

from tests.flow.conftest import Scene, SetScene, wait_until
from tests.flow.expected import Options, arrived, content_of, differences
from tests.servers.wandb_data import EPOCH_S, Entity, Mode, Project, Run, hostile_runs, iso, sample_runs

MODES: tuple[Mode, ...] = ("parquet", "live", "mixed")
PARTS = {"attributes", "config", "summary", "history", "system", "console", "files"}


def mixed_modes(runs: list[Run]) -> list[Run]:
    """The runs, their histories served in all ways that W&B has."""
    for number, run in enumerate(runs):
        run.mode = MODES[number % 3]
    return runs


def two_projects(runs_each: int, steps: int = 30) -> list[Project]:
    """Projects whose names become one in Neptune, with the same run ids in both: nothing may get mixed up."""
    return [
        Project(name, mixed_modes(sample_runs(runs_each, steps=steps, seed=seed)))
        for seed, name in enumerate(["my_project", "my-project"])
    ]


def done(count: int) -> dict[str, int]:
    return {"pending": 0, "running": 0, "done": count, "failed": 0, "skipped": 0, "total": count}


# ---------------------------------------------------------------- the whole job


def test_fifty_runs_arrive_as_they_were_although_the_job_is_killed_in_the_middle(set_scene: SetScene) -> None:
    scene = set_scene(*two_projects(25), processing_delay_s=(0.0, 0.05))
    listed = scene.migrate.succeed("inventory", "--json").json["projects"]
    assert [(project["source"], project["listed"], project["new"]) for project in listed] == [
        ("team/my-project", 25, 25),
        ("team/my_project", 25, 25),
    ]
    killed = scene.migrate.start("run", "--workers", "2")
    wait_until(lambda: scene.neptune.log.count("submit") > 60, "a good part to be sent", killed)
    killed.kill_group()
    left = scene.migrate.status()["runs"]
    assert left["pending"] + left["running"] > 0
    assert left["failed"] == 0
    assert scene.migrate.succeed("run", "--workers", "2", "--json").json["runs"] == done(50)
    assert scene.differences() == []
    check_status(scene, runs_each=25, steps=30)
    project = scene.neptune.store.projects["team/my-project-a6392d"]
    assert (project.visibility, project.description) == ("priv", f"Exported from {scene.wandb.url}/team/my_project")

    sent, read = scene.submissions(), scene.wandb.log.count("Run |Parquet|HistoryPage|GET")
    again = scene.migrate.succeed("inventory", "--json").json["projects"]
    assert [(project["new"], project["changed"], project["unchanged"]) for project in again] == [(0, 0, 25)] * 2
    assert scene.migrate.succeed("run", "--json").json["runs"] == done(50)
    assert scene.submissions() == sent
    assert scene.wandb.log.count("Run |Parquet|HistoryPage|GET") == read


def check_status(scene: Scene, *, runs_each: int, steps: int) -> None:
    """`status --json` of `two_projects`, all done: every value counted once, however often it was read."""
    status, runs = scene.migrate.status(), 2 * runs_each
    assert status["schema_version"] == 1
    assert status["runs"] == done(runs)
    assert [(project["source"], project["destination"], project["runs"]["done"]) for project in status["projects"]] == [
        ("team/my-project", "team/my-project", runs_each),
        ("team/my_project", "team/my-project-a6392d", runs_each),
    ]
    parts = status["parts"]
    assert parts.keys() - {"upload"} == PARTS
    assert all(part["read"] == part["written"] > 0 and part["skipped"] == 0 for part in parts.values())
    counted = {name: parts[name]["read"] for name in ("history", "system", "console", "files")}
    assert counted == {"history": runs * steps * 5, "system": runs * 20 * 2, "console": runs * 10, "files": runs * 6}
    copied = [run for project in scene.wandb.entities["team"].projects for run in project.runs]
    assert parts["files"]["bytes"] == sum(len(data) for run in copied for data in run.files.values())
    assert [status[name] for name in ("failures", "skips", "workers")] == [[], [], []]


def test_two_commands_at_once_share_the_runs(set_scene: SetScene) -> None:
    scene = set_scene(*two_projects(10), processing_delay_s=(0.0, 0.1))
    scene.migrate.succeed("inventory")
    both = [scene.migrate.start("run"), scene.migrate.start("run")]
    assert [one.wait().exit_code for one in both] == [0, 0]
    assert scene.differences() == []
    assert scene.neptune.store.duplicates_offered == 0


def test_a_clean_stop_ends_with_the_signals_exit_code_costs_nothing_and_is_resumed(set_scene: SetScene) -> None:
    scene = set_scene(*two_projects(18), processing_delay_s=(0.2, 0.4))
    scene.migrate.succeed("inventory")
    for stop, exit_code in (("kill", 143), ("Ctrl-C", 130), ("scancel", 143)):
        before = scene.neptune.log.count("submit")
        stopped = scene.migrate.start("run")
        wait_until(lambda before=before: scene.neptune.log.count("submit") > before + 15, "some to be sent", stopped)
        asked = time.monotonic()
        match stop:
            case "kill":
                stopped.send(signal.SIGTERM)
            case "Ctrl-C":
                stopped.interrupt_group()
            case _:  # Slurm ends all processes of a job, wandb-core among them
                for process in scene.migrate.processes():
                    process.terminate()
        ended = stopped.wait()
        assert ended.exit_code == exit_code, ended.stderr
        assert time.monotonic() - asked < 10
        assert "the same command goes on" in ended.stderr
        assert "pending" in ended.stderr
    assert scene.migrate.succeed("run", "--json").json["runs"] == done(36)
    assert scene.differences() == []
    with closing(sqlite3.connect(scene.migrate.directory / "migration.db")) as database:
        outcomes = {outcome for (outcome,) in database.execute("SELECT DISTINCT outcome FROM attempt")}
    assert outcomes <= {"done", "released"}


def test_offline_files_give_the_same_content_although_their_upload_is_killed(set_scene: SetScene) -> None:
    scene = set_scene(*two_projects(9), processing_delay_s=(0.1, 0.2))
    nothing_known = {"NEPTUNE_API_TOKEN": None, "NEPTUNE_PROJECT": None}
    scene.migrate.succeed("inventory", **nothing_known)
    assert "migrate sync" in scene.migrate.succeed("run", **nothing_known).stderr
    assert scene.neptune.log.counts == {}
    sync = ["sync", "--neptune-workspace", "team"]
    assert scene.migrate.run(*sync, **nothing_known).exit_code == 4
    killed = scene.migrate.start(*sync, NEPTUNE_PROJECT=None)
    wait_until(lambda: scene.neptune.log.count("submit") > 20, "some to be sent", killed)
    killed.kill_group()
    scene.migrate.succeed(*sync, NEPTUNE_PROJECT=None)
    assert scene.differences() == []
    check_status(scene, runs_each=9, steps=30)
    assert not list(scene.migrate.directory.rglob("run_operations.sqlite3"))
    sent = scene.submissions()
    scene.migrate.succeed(*sync)
    assert scene.submissions() == sent


# ---------------------------------------------------------------- which runs, which parts


def test_a_dry_run_tells_the_plan_and_writes_nothing_anywhere(set_scene: SetScene) -> None:
    scene = set_scene(Project("alpha", sample_runs(3)), Project("be_ta", sample_runs(2)))
    scene.migrate.succeed("inventory")
    files, asked = scene.migrate.files(), sum(scene.wandb.log.counts.values())
    plan = scene.migrate.succeed("run", "--dry-run", "--json", "--exclude", "files").json
    found = {source: (one["destination"], one["runs"]) for source, one in plan["projects"].items()}
    assert found == {"team/alpha": ("team/alpha", 3), "team/be_ta": ("team/be-ta", 2)}
    assert set(plan["parts"]) == PARTS - {"files"}
    assert "Nothing was written" in scene.migrate.succeed("run", "--dry-run", "--limit", "1").stdout
    assert scene.migrate.files() == files
    assert sum(scene.wandb.log.counts.values()) == asked
    assert scene.neptune.log.counts == {}


@pytest.mark.heavy
def test_limit_projects_run_id_and_exclude_choose_what_is_copied(set_scene: SetScene) -> None:
    names = ["alpha", "beta", "bravo", "other"]
    scene = set_scene(*(Project(name, sample_runs(3, steps=3, seed=n)) for n, name in enumerate(names)))
    scene.migrate.succeed("inventory", "--projects", "alpha,b*")
    scene.migrate.succeed("run", "--projects", "be*", "--exclude", "files", "--exclude", "console")
    assert {run.project for run in scene.neptune.store.runs()} == {"team/beta"}
    beta = scene.wandb.entities["team"].projects[1]
    for run in beta.runs:
        wanted = content_of(run, beta, scene.wandb.url)
        wanted.files = {path: data for path, data in wanted.files.items() if path.startswith("wandb/raw/")}
        wanted.series = {path: one for path, one in wanted.series.items() if not path.startswith("runtime/")}
        assert differences(wanted, arrived(scene.neptune.store.run("team/beta", run.id))) == []
    plan = scene.migrate.succeed(
        "run", "--dry-run", "--json", "--run-id", "team/bravo/run00001", "--run-id", "run00002"
    )
    assert {source: one["runs"] for source, one in plan.json["projects"].items()} == {"team/alpha": 1, "team/bravo": 2}
    assert scene.migrate.succeed("run", "--limit", "2", "--json").json["runs"]["done"] == 2
    assert len(scene.neptune.store.runs()) == 5
    assert scene.migrate.succeed("run", "--json").json["runs"] == done(9)
    others = [line for line in scene.differences() if not line.startswith("beta/")]
    assert others == [f"other/run0000{n}: is not there" for n in range(3)]


def test_an_inventory_lists_what_its_filters_let_in(set_scene: SetScene) -> None:
    runs = sample_runs(20, steps=1, files=0, events=0, console=0)
    scene = set_scene(Entity("own", []), Entity("team", [Project("demo", runs)]))
    filters = ["--wandb-entity", "team", "--state", "finished", "--tag", "even"]
    filters += ["--created-after", iso(EPOCH_S + 120), "--created-before", iso(EPOCH_S + 900)]
    wanted = [run for n, run in enumerate(runs) if run.state == "finished" and n % 2 == 0 and 2 <= n < 15]
    assert scene.migrate.succeed("inventory", *filters, "--json").json["projects"][0]["listed"] == len(wanted)
    assert len(wanted) > 3
    chosen = ["--wandb-entity", "team", "--run-id", wanted[0].id, "--project-map", "demo=new", "--only"]
    scene.migrate.succeed("inventory", *chosen, "--yes")
    left = done(1) | {"skipped": len(wanted) - 1, "total": len(wanted)}
    assert scene.migrate.succeed("run", "--json").json["runs"] == left
    assert [(run.project, run.run_id) for run in scene.neptune.store.runs()] == [("team/new", wanted[0].id)]
    moved = scene.migrate.run("inventory", "--wandb-entity", "team", "--project-map", "demo=newer")
    assert moved.exit_code == 2
    assert "migrate forget --projects team/demo" in moved.stderr
    assert scene.migrate.status()["projects"][0]["destination"] == "team/new"


# ---------------------------------------------------------------- what changes at W&B


@pytest.mark.parametrize(
    "commands",
    [["run"], pytest.param(["run --mode offline", "sync"], marks=pytest.mark.heavy)],
    ids=["online", "offline"],
)
def test_a_run_copied_while_it_ran_and_again_at_its_end_is_as_if_copied_once(
    set_scene: SetScene, commands: list[str]
) -> None:
    runs = sample_runs(2, steps=40, mode="live", visible=15)
    complete = sample_runs(2, steps=40)
    for run in runs:
        run.events, run.console = run.events[:5], run.console[:4]
        run.files = {**run.files, "grows.txt": b"so far"}
        run.heartbeat_at = iso(EPOCH_S + 100)
    scene = set_scene(runs)
    for command in ["inventory", *commands]:
        scene.migrate.succeed(*command.split())
    assert scene.differences() == []
    for run, final in zip(runs, complete, strict=True):
        path = f"team/demo/{run.id}"
        files = {**run.files, "grows.txt": b"so far, and more", "new.txt": b"new"}
        scene.wandb.set_run(path, events=final.events, console=final.console, files=files)
        scene.wandb.set_run(path, heartbeat_at=final.heartbeat_at, notes="changed", tags=[*run.tags, "ended"])
        scene.wandb.finish_run(path, mode="parquet")
    assert scene.migrate.succeed("inventory", "--json").json["projects"][0]["changed"] == 2
    for command in commands:
        scene.migrate.succeed(*command.split())
    assert scene.differences() == []
    status = scene.migrate.status()
    assert status["runs"] == done(2)
    assert status["parts"]["history"]["read"] == status["parts"]["history"]["written"] == 2 * 40 * 5
    assert status["parts"]["files"]["read"] == 2 * 8
    assert scene.neptune.store.duplicates_offered == 0


@pytest.mark.parametrize(
    "commands",
    [
        ["run"],
        *(
            pytest.param(commands, marks=pytest.mark.heavy)
            for commands in (["run --mode offline"], ["run --mode offline", "sync"])
        ),
    ],
)
def test_parts_that_are_asked_for_later_are_copied_then(set_scene: SetScene, commands: list[str]) -> None:
    runs = [run for run in hostile_runs("mixed") if run.id in ("artifacts", "files", "numbers")]
    scene = set_scene(Project("hostile", runs))
    first, *others = (command.split() for command in commands)
    for command in (["inventory"], [*first, "--exclude", "config", "--exclude", "console"], *others):
        scene.migrate.succeed(*command)
    assert scene.migrate.status()["runs"] == done(3)
    assert scene.migrate.succeed(*first, "--dry-run", "--json").json["projects"] == {}
    plan = scene.migrate.succeed(*first, "--include", "artifacts", "--dry-run", "--json").json["projects"]
    assert [entry["runs"] for entry in plan.values()] == [3]
    ended = scene.migrate.succeed(*first, "--include", "artifacts")
    assert "3 runs done without artifacts" in ended.stderr
    if first != ["run"]:
        scene.migrate.succeed("sync")
    assert scene.differences(Options(artifacts=True)) == []
    assert scene.neptune.store.duplicates_offered == 0
    nothing = scene.migrate.succeed(*first, "--include", "artifacts", "--dry-run", "--json").json["projects"]
    assert nothing == {}


def test_a_part_both_included_and_excluded_is_not_waited_for(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(2, steps=4))
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--include", "artifacts", "--exclude", "artifacts")
    assert "artifacts" not in scene.migrate.status()["parts"]


@pytest.mark.heavy
def test_runs_of_a_project_that_is_deleted_are_no_failures_for_ever(set_scene: SetScene) -> None:
    scene = set_scene(Project("kept", sample_runs(1, steps=4)), Project("deleted", sample_runs(2, steps=4)))
    scene.migrate.succeed("inventory")
    [entity] = scene.wandb.entities.values()
    entity.projects.pop()
    assert scene.migrate.run("run").exit_code == 3
    assert "gone from W&B" in scene.migrate.succeed("inventory").stdout
    scene.migrate.succeed("run")
    assert scene.migrate.status()["runs"]["skipped"] == 2


def test_a_run_deleted_after_the_inventory_fails_alone_and_is_copied_once_it_is_back(set_scene: SetScene) -> None:
    scene = set_scene(mixed_modes(sample_runs(6, steps=5)))
    scene.migrate.succeed("inventory")
    gone = scene.wandb.run("team/demo/run00004")
    scene.wandb.delete_run("team/demo/run00004")
    ended = scene.migrate.run("run")
    assert ended.exit_code == 3
    assert "migrate status --failed" in ended.stderr
    status = scene.migrate.status()
    assert status["runs"] == done(5) | {"failed": 1, "total": 6}
    (failure,) = status["failures"]
    assert (failure["class"], failure["count"], failure["example"]["run"]) == ("not_found", 1, "team/demo/run00004")
    assert "migrate inventory" in failure["advice"]
    assert scene.differences() == []

    scene.wandb.add_run("team/demo", gone)
    assert scene.migrate.succeed("retry-failed", "--class", "not_found", "--json").json["retried"] == 1
    assert scene.migrate.succeed("run", "--json").json["runs"] == done(6)
    assert scene.differences() == []

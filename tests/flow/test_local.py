"""Runs that the real SDK logged offline, migrated from their directories: straight to Neptune, and by offline files."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from migrator.sources.wandb_local import LocalSource
from migrator.sources.wandb_local_run import LocalRun
from tests.contract.local_source import EXIT, Directories, opened, record, row, start
from tests.flow.conftest import Scene, SetScene
from tests.flow.expected import (
    MICRO,
    Content,
    Options,
    add_history,
    arrived,
    differences,
    file_path,
    microseconds,
    single,
    tree_leaves,
)
from tests.servers import neptune_store
from tests.servers.offline_runs import (
    ARTIFACTS,
    EVERYTHING,
    FORKED,
    KILLED,
    MODEL_FILES,
    OTHER_HTML,
    REFERENCE,
    OfflineRun,
    make_runs,
)
from tests.servers.wandb_data import Entity, Project, Run


def run_in(scene: Scene, offline_run: OfflineRun) -> neptune_store.Run:
    """The Neptune run of an offline run; two entities have a project "vision"."""
    source = f"{offline_run.entity}/{offline_run.project}"
    destinations = {one["source"]: one["destination"] for one in scene.migrate.status()["projects"]}
    return scene.neptune.store.run(destinations[source], offline_run.run_id)


def logged(run: OfflineRun) -> Content:
    """Config, summary and metrics of a run as they were logged, all at time 0.

    The SDK stores whole floats of a summary as integers.
    """
    content = Content()
    for root, tree in (("config", run.config), ("summary", run.summary)):
        for keys, value in tree_leaves(tree, objects_are_leaves=True):
            if not keys[0].startswith("_") and not (isinstance(value, dict) and value):
                is_whole = root == "summary" and isinstance(value, float) and value.is_integer()
                content.values["/".join([root, *keys])] = single(int(value) if is_whole else value)
    rows = [{"_step": step, "_timestamp": 0.0} | values for step, values in run.rows]
    add_history(content, rows, {}, 0, Options())
    return content


def of_interest(found: Content, wanted: Content) -> Content:
    """What `logged` tells of: config, summary, and the series that it has, with their times taken off."""
    values = {path: one for path, one in found.values.items() if path.startswith(("config/", "summary/"))}
    series = {
        path: (type_, [(step, 0, value) for step, _, value in points])
        for path, (type_, points) in found.series.items()
        if path in wanted.series
    }
    return Content(values, series)


def test_runs_of_the_real_sdk_arrive_as_they_were_logged_online_and_by_way_of_offline_files(
    set_scene: SetScene, tmp_path: Path
) -> None:
    begun_us = time.time_ns() // 1000
    made = make_runs(tmp_path)
    ended_us = time.time_ns() // 1000
    online, offline = set_scene(), set_scene()
    for scene in (online, offline):
        scene.migrate.succeed("inventory", "--local", tmp_path)
    online.migrate.succeed("run", "--include", "artifacts")
    offline.migrate.succeed("run", "--include", "artifacts", NEPTUNE_API_TOKEN=None, NEPTUNE_PROJECT=None)
    offline.migrate.succeed("sync", "--neptune-workspace", "team", NEPTUNE_PROJECT=None)

    assert len(online.neptune.store.runs()) == len(made)
    by_name = {(there.project, there.run_id): arrived(there) for there in offline.neptune.store.runs()}
    for there in online.neptune.store.runs():
        assert differences(arrived(there), by_name.pop((there.project, there.run_id))) == []
    assert by_name == {}

    for run in made.values():
        found = arrived(run_in(online, run))
        if run is not KILLED:
            wanted = logged(run)
            assert differences(wanted, of_interest(found, wanted)) == []
        times = [time_us for _, points in found.series.values() for _, time_us, _ in points]
        assert all(begun_us - MICRO <= time_us <= ended_us + MICRO for time_us in times)
        assert found.values["wandb/state"] == ("string", run.state)
    check_everything(arrived(run_in(online, EVERYTHING)))
    check_artifacts(arrived(run_in(online, ARTIFACTS)))
    (points,) = (points for path, (_, points) in arrived(run_in(online, KILLED)).series.items() if path == "a")
    assert [(step, value) for step, _, value in points] == [(n * MICRO, float(n)) for n in range(len(points))]
    for scene in (online, offline):
        fork, parent = run_in(scene, FORKED), run_in(scene, EVERYTHING)
        assert fork.fork == neptune_store.Fork(parent.project, EVERYTHING.run_id, 1 * MICRO)
        assert fork.parent is parent


def check_everything(found: Content) -> None:
    """What `logged` does not tell of the run that has everything."""
    for key, (_, data) in EVERYTHING.media.items():
        type_, ((step, _, content),) = found.series[key]
        assert (type_, step) == ("fileRefSeries", 20 * MICRO)
        assert content == data if isinstance(data, bytes) else content.startswith(b'{"columns"')
    assert found.series["pages/1"][1][0][2] == OTHER_HTML
    assert [text for _, _, text in found.series["video/caption"][1]] == ["a video"]
    assert {file_path(name): data for name, data in EVERYTHING.saved.items()}.items() <= found.files.items()
    streams = {stream: found.series[f"runtime/{stream}"][1] for stream in ("stdout", "stderr")}
    lines = sorted((step, stream, text) for stream, points in streams.items() for step, _, text in points)
    assert [(stream, text) for _, stream, text in lines] == EVERYTHING.console
    attributes = EVERYTHING.attributes
    for path, name in (("sys/name", "name"), ("sys/description", "notes"), ("wandb/job_type", "job_type")):
        assert found.values[path] == ("string", attributes[name])
    assert found.values["sys/tags"] == ("stringSet", frozenset(attributes["tags"]))
    assert found.values["sys/group_tags"] == ("stringSet", frozenset([attributes["group"]]))


def check_artifacts(found: Content) -> None:
    for version in range(2):
        for name, data in MODEL_FILES.items():
            assert found.files[f"artifacts/model/v{version}/{name}"] == data + bytes(version)
        assert REFERENCE in found.values[f"artifacts/model/v{version}/info/references"][1]


#: README, "What a source cannot know", of a run without sweep, fork and artifacts
KNOWN_TO_ONE = {
    *(f"values: {path}" for path in ("wandb/url", "wandb/user", "wandb/read_only", "wandb/host")),
    *("values: migration/source_url", "files: wandb/raw/config.json", "files: wandb/raw/summary.json"),
}


def uploaded(run: LocalRun) -> Run:
    """The run as W&B has it once its directory is uploaded."""
    told = run.attributes()
    values = told.wandb
    config = {key: value for key, value in run.config().values.items() if key != "_wandb"}
    rows = (row for page in run.history(None) for row in page)
    samples = (row for page in run.system(0) for row in page)
    lines = (line for page in run.console(0) for line in page)
    files = {file.name: found.path.read_bytes() for file in run.files() if (found := run.fetch(file.name))}
    return Run(
        str(values["id"]),
        told.name,
        state=str(values["state"]),
        config=config,
        summary=dict(run.summary().values),
        history=[{"_step": row.step, "_timestamp": row.time, **row.values} for row in rows],
        mode="live",
        events=[
            {"_timestamp": row.time} | {f"system.{key}": one for key, one in row.values.items()} for row in samples
        ],
        console=[(utc(line.time), "error" if line.stream == "stderr" else None, line.text) for line in lines],
        files=files,
        tags=told.tags,
        notes=told.notes,
        group=told.group,
        job_type=str(values["job_type"]),
        commit=str(values["commit"]),
        created_at=str(values["created_at"]),
        heartbeat_at=str(values["heartbeat_at"]),
    )


def utc(time_s: float | None) -> str | None:
    return datetime.fromtimestamp(time_s, UTC).isoformat() if time_s else None


def test_a_run_is_the_same_from_its_directory_and_from_wandb_but_for_what_one_of_them_cannot_know(
    set_scene: SetScene, tmp_path: Path
) -> None:
    make_runs(tmp_path)
    directory = next((tmp_path / "wandb").glob("*-everything"))
    local = opened(LocalSource([directory]), "everything")
    api = set_scene(Entity("local", [Project("vision", [uploaded(local)])]))
    from_disk = set_scene()
    api.migrate.succeed("inventory", "--wandb-entity", "local")
    from_disk.migrate.succeed("inventory", "--local", directory)
    for scene in (api, from_disk):
        scene.migrate.succeed("run")
    of_wandb, of_disk = (arrived(scene.neptune.store.run("team/vision", "everything")) for scene in (api, from_disk))
    told = differences(of_wandb, of_disk)
    assert {" ".join(line.split(" ")[:2]).removesuffix(":") for line in told} == KNOWN_TO_ONE


def test_a_directory_that_grows_is_copied_on_from_where_it_was(set_scene: SetScene, tmp_path: Path) -> None:
    scene = set_scene()
    place = Directories(tmp_path)
    rows = [row(step, x=step / 2) for step in range(20)]
    first = place.add(start(), *rows[:8], run_id="r")
    scene.migrate.succeed("inventory", "--local", tmp_path)
    scene.migrate.succeed("run")
    assert len(scene.neptune.store.run("team/p", "r").points("x")) == 8
    (first / "run-r.wandb").unlink()
    first.rmdir()
    Directories(tmp_path).add(start(), *rows, record(**EXIT), run_id="r")
    listed = scene.migrate.succeed("inventory", "--local", tmp_path, "--json").json["projects"]
    assert [one["changed"] for one in listed] == [1]
    scene.migrate.succeed("run")
    run = scene.neptune.store.run("team/p", "r")
    time_us = microseconds("2023-11-14T22:13:20Z")
    assert run.points("x") == [(step * MICRO, time_us + step * MICRO, step / 2) for step in range(20)]
    assert run.value("wandb/state") == "finished"
    assert scene.neptune.store.duplicates_offered == 0

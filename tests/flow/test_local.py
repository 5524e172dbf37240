"""Runs that the real SDK logged offline, migrated from their directories: straight to Neptune, and by offline files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from migrator.sources.wandb_local.listing import LocalSource
from migrator.sources.wandb_local.log import WandbLog
from migrator.sources.wandb_local.run import LocalRun
from tests.contract.local_source import EXIT, Directories, opened, record, row, start
from tests.flow.conftest import Scene, SetScene
from tests.flow.expected import (
    MICRO,
    Content,
    JsonText,
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
    write_log,
)
from tests.servers.wandb_data import Artifact, Entity, Project, Run, Sweep, iso


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
        scene.migrate.environment["WANDB_DATA_DIR"] = str(tmp_path / "private" / "data")
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


LONG_NAME = "/".join(["d" * 200] * 6)  # as a path over Neptune's limit
IN_THE_WAY = {"info/type": b"a file, too", "info/created_at": b"now"}
FILES = {"dir/w b.bin": b"w" * 1000, "ünï.txt": b"u", "empty": b"", LONG_NAME: b"deep"} | IN_THE_WAY
#: what the real SDK logs in this order, and the service has then: aliases are with the last version that took them
VERSIONS = [
    Artifact("data", "dataset", 0, FILES | {"only 0": b"0"}, aliases=("first",)),
    Artifact("data", "dataset", 1, FILES, {"far": "https://b.invalid/x?y=1", "a": "http://c.invalid/"}, ("best é",)),
    Artifact(
        "data", "dataset", 2, {}, {"far": "http://b.invalid/z"}, ("latest",), metadata={"rows": [3, 2.5], "ä": None}
    ),
    Artifact("w.1-_", "model", 0, {"w.pt": b"w" * 5000}, aliases=("latest", "prod"), description="a model"),
]
GIVEN = [["first", "best é"], ["best é", "latest"], None, ["latest", "prod"]]  # the aliases of each when it was logged
SWEEP = Sweep("sw1", "a sweep", {"method": "grid", "parameters": {"lr": {"value": 0.1}}})

#: README, "What a source cannot know": of every run, and of these
KNOWN_TO_ONE = {
    *(f"values: {path}" for path in ("wandb/url", "wandb/user", "wandb/read_only", "wandb/host")),
    *("values: migration/source_url", "files: wandb/raw/config.json", "files: wandb/raw/summary.json"),
}
KNOWN_OF = {
    "swept": {f"values: wandb/sweep/{name}" for name in ("name", "method", "config")},
    "artifacts": {
        *(f"values: artifacts/{one.name}/v{one.version}/info/created_at" for one in VERSIONS),
        "values: artifacts/used",
    },
}


def uploaded(run: LocalRun) -> Run:
    """The run as W&B has it once its directory is uploaded."""
    told = run.attributes()
    values = told.wandb
    config = {key: value for key, value in run.config().values.items() if key != "_wandb"}
    if told.fork:
        config["_wandb"] = {"branch_point": {"run_id": told.fork.run_id, "step": told.fork.step}}
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
        job_type=str(values["job_type"]) if "job_type" in values else None,
        sweep=told.sweep.id if told.sweep else None,
        commit=str(values["commit"]),
        created_at=str(values["created_at"]),
        heartbeat_at=str(values["heartbeat_at"]),
    )


def utc(time_s: float | None) -> str | None:
    return datetime.fromtimestamp(time_s, UTC).isoformat() if time_s else None


@pytest.mark.heavy
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
    assert differing(of_wandb, of_disk, KNOWN_TO_ONE) == KNOWN_TO_ONE


def differing(one: Content, other: Content, known: Collection[str]) -> set[str]:
    """What differs, without how; a whole line where it is not `known`. The layout of an artifact's JSON may differ."""
    laid_out = {
        path: (kind, JsonText(json.loads(text)))
        for path, (kind, text) in one.values.items()
        if path.endswith("/info/metadata")
    }
    told = differences(replace(one, values=one.values | laid_out), other)
    return {next((start for start in known if line.startswith((f"{start} ", f"{start}:"))), line) for line in told}


def log_runs() -> None:
    """In a process of the real SDK: a run and its fork, one of a sweep, one of artifacts. Digests go to stdout."""
    import wandb

    told = []
    with wandb.init(project="vision", id="parent") as run:
        for step in range(4):
            run.log({"a": step / 2})
    with wandb.init(project="vision", id="forked", fork_from="parent?_step=1", config={"b": 1}) as run:
        run.log({"a": 9.5})
    with wandb.init(project="vision", id="artifacts") as run:
        run.log({"a": 1.5})
        for one, aliases in zip(VERSIONS, GIVEN, strict=True):
            artifact = wandb.Artifact(one.name, one.type, one.description, one.metadata)
            for path, data in one.files.items():
                with artifact.new_file(path, mode="wb") as file:
                    file.write(data)
            for path, address in one.references.items():
                artifact.add_reference(address, path, checksum=False)
            run.log_artifact(artifact, aliases=aliases)
            told.append(artifact.digest)
        with pytest.raises(TypeError, match="offline"):
            run.use_artifact("cifar:latest")
    with wandb.init(project="vision", id="sized") as run:
        Path("beside.bin").write_bytes(b"b" * 70)
        artifact = wandb.Artifact("sized", "dataset")
        with artifact.new_file("small", mode="wb") as file:
            file.write(b"s" * 7)
        artifact.add_reference(Path("beside.bin").absolute().as_uri())
        run.log_artifact(artifact)
        assert artifact.size == 77
    with wandb.init(project="vision", id="swept", settings=wandb.Settings(sweep_id=SWEEP.id)) as run:
        run.log({"loss": 0.5})
    print(json.dumps(told))


def log_with_the_sdk(directory: Path) -> list[str]:
    """The runs of `log_runs` below `directory`/wandb; the digests of `VERSIONS`."""
    private = directory / "private"
    private.mkdir()
    places = {f"WANDB_{name}_DIR": str(private / name) for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(private),
        "TMPDIR": str(private),
        "WANDB_DIR": str(directory),
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        "WANDB_ERROR_REPORTING": "false",
        "WANDB_GIT_COMMIT": "0123456789abcdef0123456789abcdef01234567",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.flow.test_local"],
        cwd=private,
        env=environment | places,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    digests: list[str] = json.loads(done.stdout.splitlines()[-1])
    return digests


def add_used(log: Path, name: str) -> None:
    """What `use_artifact` leaves in the log of a run that is online; offline the SDK refuses it."""
    records = [one for one, _ in WandbLog(log).records()]
    used: Any = record(use_artifact={"id": "QXJ0aWZhY3Q6MQ==", "type": "dataset", "name": name})
    write_log(log, [*records[:2], used, *records[2:]])


@pytest.mark.heavy
def test_artifacts_sweeps_and_forks_are_the_same_from_directories_but_for_what_one_source_cannot_know(
    set_scene: SetScene, tmp_path: Path
) -> None:
    digests = log_with_the_sdk(tmp_path)
    artifacts = [replace(one, created_at=iso(time.time())) for one in VERSIONS]
    for one, digest in zip(artifacts, digests, strict=True):
        one.digest = digest
    (log,) = (tmp_path / "wandb").glob("*-artifacts/*.wandb")
    add_used(log, "cifar:latest")
    local = LocalSource([tmp_path])
    runs = [uploaded(opened(local, run_id)) for run_id in ("parent", "forked", "artifacts", "swept")]
    by_id = {run.id: run for run in runs}
    by_id["artifacts"].logged = artifacts
    by_id["artifacts"].used = [Artifact("cifar", version=3)]
    api, from_disk = set_scene(Entity("local", [Project("vision", runs, [SWEEP])])), set_scene()
    api.migrate.succeed("inventory", "--wandb-entity", "local")
    from_disk.migrate.succeed("inventory", "--local", tmp_path)
    for scene in (api, from_disk):
        staged = str(tmp_path / "private" / "DATA")
        scene.migrate.succeed("run", "--include", "artifacts", WANDB_DATA_DIR=staged)
        assert scene.migrate.status()["skips"] == []

    of_disk = {run.run_id: run for run in from_disk.neptune.store.runs()}
    for run_id in by_id:
        known = KNOWN_TO_ONE | KNOWN_OF.get(run_id, set())
        of_wandb = api.neptune.store.run("team/vision", run_id)
        assert differing(arrived(of_wandb), arrived(of_disk[run_id]), known) == known
        assert of_wandb.fork == of_disk[run_id].fork
    assert of_disk["forked"].fork == neptune_store.Fork("team/vision", "parent", 1 * MICRO)
    assert [step for step, _, _ in of_disk["forked"].points("a", lineage=True)] == [0, 1 * MICRO, 2 * MICRO]
    assert of_disk["artifacts"].value("artifacts/used") == frozenset({"cifar:latest"})
    assert of_disk["swept"].value("wandb/sweep/id") == of_disk["swept"].value("wandb/sweep") == SWEEP.id
    assert of_disk["sized"].value("artifacts/sized/v0/info/size") == 77

    found = arrived(of_disk["artifacts"])
    for version in range(2):
        base = f"artifacts/data/v{version}"
        for name, data in IN_THE_WAY.items():
            assert found.files[f"{base}/{name}~{sha256(name.encode()).hexdigest()[:8]}"] == data
        cut = f"~{sha256(f'{base}/{LONG_NAME}'.encode()).hexdigest()[:8]}"
        assert [data for path, data in found.files.items() if path.endswith(cut)] == [b"deep"]


def test_a_directory_that_grows_is_copied_on_from_where_it_was(set_scene: SetScene, tmp_path: Path) -> None:
    scene = set_scene()
    place = Directories(tmp_path)
    rows = [row(step, x=step / 2) for step in range(20)]
    first = place.add(start(), *rows[:8], run_id="r")
    scene.migrate.succeed("inventory", "--local", tmp_path)
    scene.migrate.succeed("run")
    assert len(scene.neptune.store.run("team/p-wandb", "r").points("x")) == 8
    (first / "run-r.wandb").unlink()
    first.rmdir()
    Directories(tmp_path).add(start(), *rows, record(**EXIT), run_id="r")
    listed = scene.migrate.succeed("inventory", "--local", tmp_path, "--json").json["projects"]
    assert [one["changed"] for one in listed] == [1]
    scene.migrate.succeed("run")
    run = scene.neptune.store.run("team/p-wandb", "r")
    time_us = microseconds("2023-11-14T22:13:20Z")
    assert run.points("x") == [(step * MICRO, time_us + step * MICRO, step / 2) for step in range(20)]
    assert run.value("wandb/state") == "finished"
    assert scene.neptune.store.duplicates_offered == 0


def test_a_directory_of_unknown_origin_gives_neither_files_nor_keys_away(set_scene: SetScene, tmp_path: Path) -> None:
    scene = set_scene()
    key = scene.migrate.environment["WANDB_API_KEY"]
    token = scene.migrate.environment["NEPTUNE_API_TOKEN"]
    foreign = tmp_path / "foreign"
    foreign.write_text("x")

    def line(text: str) -> Any:
        return record(output_raw={"output_type": "STDOUT", "line": text + "\n"})

    config = {"update": [{"key": "lr", "value_json": "0.5"}, {"key": "secret", "value_json": json.dumps(token)}]}
    summary = {"update": [{"key": "best", "value_json": "1"}, {"key": "login", "value_json": json.dumps(f"a {key}")}]}
    place = Directories(tmp_path / "runs").add(
        start(notes=f"wandb login {key}"),
        record(files={"files": [{"path": "saved.txt"}]}),
        record(config=config),
        row(0, text=key, a=1),
        *map(line, ("before", f"export WANDB_API_KEY={key}", "after")),
        record(summary=summary),
        record(**EXIT),
    )
    (place / "files").mkdir()
    (place / "files" / "saved.txt").symlink_to(foreign)
    os.mkfifo(place / "files" / "pipe")
    scene.migrate.succeed("inventory", "--local", tmp_path / "runs")
    scene.migrate.succeed("run", "--no-follow-links")

    found = arrived(scene.neptune.store.run("team/p-wandb", "r"))
    assert [text for _, _, text in found.series["runtime/stdout"][1]] == ["before", "after"]
    assert "files/saved.txt" not in found.files
    assert (found.values["config/lr"][1], found.values["summary/best"][1]) == (0.5, 1)
    everything = repr((found.values, found.series, found.files))
    assert [secret for secret in scene.migrate.secrets if secret in everything] == []
    skips = {(one["part"], one["reason"], one["count"]) for one in scene.migrate.status()["skips"]}
    assert skips == {
        ("files", "link", 1),
        ("attributes", "contains_key", 1),
        ("console", "contains_key", 1),
        ("history", "contains_key", 1),
        ("config", "contains_key", 2),  # the value, and the raw document
        ("summary", "contains_key", 2),
    }


if __name__ == "__main__":
    log_runs()

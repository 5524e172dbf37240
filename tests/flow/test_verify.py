"""`migrate verify`: whatever is done to a copy is found, with its path, and nothing else is."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshot

from tests.contract.local_source import EXIT, Directories, record, row, start
from tests.flow.conftest import NOWHERE, Scene, SetScene
from tests.servers.neptune_server import NeptuneServer
from tests.servers.neptune_store import FileRef
from tests.servers.neptune_store import Run as StoredRun
from tests.servers.offline_runs import write_log
from tests.servers.wandb_data import Project, Run, as_rows, sample_runs

STEPS = 12
PROJECT = "team/demo"


def runs_of_all_kinds(names: list[str]) -> list[Run]:
    """Runs with these ids that have values of every kind."""
    runs = sample_runs(len(names), steps=STEPS, events=5, console=40)
    for run, name in zip(runs, names, strict=True):
        run.id, run.display_name = name, f"named {name}"
        for step, logged in enumerate(run.history):
            image = f"media/images/image_{step}.png"
            logged |= {
                "note": f"text {step}",
                "dist": {"_type": "histogram", "values": [1, step, 3], "bins": [0.0, 0.5, 1.0, 2.0]},
                "image": {"_type": "image-file", "path": image, "size": 9},
            }
            run.files[image] = b"pixels %02d" % step
    return runs


def verified(scene: Scene, *arguments: str, exit_code: int = 3) -> list[dict[str, str]]:
    """What a verification finds. The run is its id."""
    ended = scene.migrate.run("verify", "--json", *arguments)
    assert ended.exit_code == exit_code, ended.stdout + ended.stderr
    return [one | {"run": one["run"].rsplit("/", 1)[1]} for one in ended.json["findings"]]


def paths_of(found: list[dict[str, str]]) -> dict[str, set[str]]:
    """The paths that differ, by run id; those that could not be verified have a "?" before."""
    paths: dict[str, set[str]] = {}
    for one in found:
        mark = "" if one["verdict"] == "differs" else "?"
        paths.setdefault(one["run"], set()).add(mark + one["path"])
    return paths


def findings(scene: Scene, *arguments: str, exit_code: int = 3) -> dict[str, set[str]]:
    return paths_of(verified(scene, *arguments, exit_code=exit_code))


# ---------------------------------------------------------------- Neptune


def _change_value(run: StoredRun) -> None:
    run.series["val/loss"].values[7] += 1e-9


def _change_text(run: StoredRun) -> None:
    run.series["note"].values[3] = "another"


def _change_histogram(run: StoredRun) -> None:
    run.series["dist"].values[3] = run.series["dist"].values[2]


def _change_time(run: StoredRun) -> None:
    run.series["lr"].timestamps[5] += 250_000


def _swap_times(run: StoredRun) -> None:
    times = run.series["lr"].timestamps
    times[2], times[3] = times[3], times[2]  # their sum stays


def _lose_point(run: StoredRun) -> None:
    series = run.series["lr"]
    for column in (series.steps, series.timestamps, series.values):
        del column[9]


def _change_config(run: StoredRun) -> None:
    run.attributes["config/layers"] = ("int", 77)
    run.attributes["config/lr"] = ("string", "0.1")
    run.attributes["sys/creation_time"] = ("datetime", run.value("sys/creation_time") + 60_000_000)
    run.attributes["sys/name"] = ("string", "another")


def _take_tag(run: StoredRun) -> None:
    run.attributes["sys/tags"] = ("stringSet", run.value("sys/tags") - {"baseline"})
    del run.attributes["sys/group_tags"]


def _lose_file(run: StoredRun) -> None:
    ref: FileRef = run.value("files/output.log")
    del run.blobs[run.project, ref.path]


def _lose_image(run: StoredRun) -> None:
    del run.blobs[run.project, run.series["image"].values[4].path]


def _cut_file(run: StoredRun) -> None:
    ref: FileRef = run.value("files/output.log")
    run.blobs[run.project, ref.path] = run.blobs[run.project, ref.path][:-1]


def _flip_bytes(run: StoredRun) -> None:
    ref: FileRef = run.value("source_code/files/train.py")
    run.blobs[run.project, ref.path] = run.blobs[run.project, ref.path][::-1]
    image: FileRef = run.series["image"].values[4]
    run.blobs[run.project, image.path] = run.blobs[run.project, image.path][::-1]


def _write_more(run: StoredRun) -> None:
    run.attributes["note/of/somebody"] = ("string", "reviewed")
    run.attributes["sys/tags"] = ("stringSet", run.value("sys/tags") | {"theirs"})
    run.series["their/metric"] = run.series["lr"]
    run.series["lr"].offer(99_000_000, run.series["lr"].timestamps[-1], 0.5)


def _delete(run: StoredRun) -> None:
    """Done to the project."""


#: what is done to a run, and the paths that differ then, at level values with md5
FAULTS: dict[str, tuple[Callable[[StoredRun], None], set[str]]] = {
    "value": (_change_value, {"val/loss"}),
    "text": (_change_text, {"note"}),
    "histogram": (_change_histogram, {"dist"}),
    "time": (_change_time, {"lr"}),
    "swapped-times": (_swap_times, {"lr"}),
    "point": (_lose_point, {"lr"}),
    "config": (_change_config, {"config/layers", "config/lr", "sys/creation_time", "sys/name"}),
    "tag": (_take_tag, {"sys/tags", "sys/group_tags"}),
    "lost": (_lose_file, {"files/output.log"}),
    "lost-image": (_lose_image, {"image at step 4"}),
    "cut": (_cut_file, {"files/output.log"}),
    "flipped": (_flip_bytes, {"source_code/files/train.py", "image"}),
    "somebody": (_write_more, {"note/of/somebody", "sys/tags", "their/metric", "lr"}),
    "deleted": (_delete, {""}),
}
#: what only level digests, only files, only md5, and only level values can find
POINTS, FILES, CONTENT = {"value", "text", "histogram", "time"}, {"lost", "lost-image", "cut"}, {"flipped"}
ONE_BY_ONE = {"swapped-times"}
CLEAN = ["clean-1", "clean-2"]
DROPPED = {"drop-some": {"train/loss", "runtime/stdout", "dist"}, "drop-all": {"config/layers", "lr", "note"}}


def damaged(server: NeptuneServer) -> None:
    runs = server.store.projects[PROJECT].runs
    for name, (damage, _) in FAULTS.items():
        damage(runs[name])
    del runs["deleted"]


@pytest.mark.heavy
def test_every_fault_of_a_copy_in_neptune_is_found_and_nothing_else(set_scene: SetScene) -> None:
    scene = set_scene(runs_of_all_kinds([*FAULTS, *CLEAN, *DROPPED]), seed=3)
    store = scene.neptune.store
    store.refuse("^(config/layers|lr|note)$", run_regex="^drop-all$")  # accepted, and not stored
    store.refuse("^(train/loss|runtime/stdout|dist)$", run_regex="^drop-some$", share=0.4)
    store.refuse("^grad_norm$", "FIELD_PATH_INVALID", run_regex="^clean-2$")  # refused, and so not expected
    scene.migrate.succeed("inventory")
    assert scene.migrate.succeed("run", "--json").json["runs"]["done"] == len(FAULTS) + 4
    all_faults = {name: paths for name, (_, paths) in FAULTS.items()} | DROPPED
    everything = {name: paths for name, paths in all_faults.items() if name not in ONE_BY_ONE}
    assert findings(scene, "--files", "md5", "--level", "values") == DROPPED
    damaged(scene.neptune)
    assert findings(scene, "--again", "--files", "md5") == everything
    found = verified(scene, "--again", "--files", "md5", "--level", "values")
    assert paths_of(found) == all_faults
    check_named(found)
    check_changed_sources(scene)

    by_size = {name: paths for name, paths in everything.items() if name not in CONTENT}
    assert findings(scene, "--again") == by_size
    counts = findings(scene, "--again", "--level", "counts")
    assert {"train/loss"} <= counts.pop("drop-some") <= DROPPED["drop-some"]  # of text and histograms only the end
    blind = POINTS | FILES | {"drop-some"}
    assert counts == {name: paths for name, paths in by_size.items() if name not in blind}
    check_report(scene)
    check_repair(scene)


#: run -> path -> what is told of it at level values: as sent, and as found
NAMED = {
    "value": {"val/loss": (r"step 7: (0\.\d+)", r"step 7: 0\.\d+")},
    "text": {"note": (r'step 3: "text 3"', r'step 3: "another"')},
    "histogram": {"dist": (r"step 3: histogram of 3 bins: 1, 3, 3", r"step 3: histogram of 3 bins: 1, 2, 3")},
    "time": {"lr": (r"step 5: time \d+\.\d\d\d s since 1970", r"step 5: time \d+\.\d\d\d s since 1970")},
    "swapped-times": {"lr": (r"step 2: time .*; step 3: time .*", r"step 2: time .*; step 3: time .*")},
    "point": {"lr": (r"step 9: 0\.\d+", "step 9: missing")},
    "flipped": {"image": (r"step 4: md5 \w{32}", r"step 4: md5 \w{32}")},
    "somebody": {"lr": ("step 99: nothing", r"step 99: 0\.5")},
    "config": {"sys/name": ('text "named config", #.*', 'text "another", #.*')},
    "drop-some": {"train/loss": (r"step .*; step .*; step .*", r"step .* \(\d points differ\)|step .*: missing")},
}


def check_named(found: list[dict[str, str]]) -> None:
    """At level values, the first points that differ are named."""
    told = {(one["run"], one["path"]): one for one in found}
    for run_id, paths in NAMED.items():
        for path, (want, got) in paths.items():
            one = told[run_id, path]
            assert re.fullmatch(want, one["want"]), one
            assert re.fullmatch(got, one["got"]), one
            assert one["want"] != one["got"]


def check_changed_sources(scene: Scene) -> None:
    """What changes at the source is no difference; what is damaged in Neptune still is one."""
    some = [word for name in ("clean-1", "clean-2", "value", "text") for word in ("--run-id", name)]
    config = scene.wandb.run(f"{PROJECT}/clean-1").config
    scene.wandb.set_run(f"{PROJECT}/clean-1", config=config | {"layers": 99})
    history = scene.wandb.run(f"{PROJECT}/value").history
    changed = [row | {"val/loss": 123.0} if row["_step"] == 7 else row for row in as_rows(history)]
    scene.wandb.set_run(f"{PROJECT}/value", history=changed)
    deleted = scene.wandb.run(f"{PROJECT}/clean-2")
    scene.wandb.delete_run(f"{PROJECT}/clean-2")
    found = verified(scene, "--again", "--level", "values", *some)
    assert paths_of(found) == {"clean-1": {"?"}, "clean-2": {"?"}, "value": {"?", "val/loss"}, "text": {"note"}}
    said = {one["run"]: one["got"] for one in found if not one["path"]}
    assert said["clean-1"] == "the source has changed: config/layers, wandb/raw/config.json"
    assert "val/loss" in said["value"]
    assert "clean-2" in said["clean-2"]
    scene.wandb.set_run(f"{PROJECT}/clean-1", config=config)
    scene.wandb.set_run(f"{PROJECT}/value", history=history)
    scene.wandb.add_run(PROJECT, deleted)


def check_report(scene: Scene) -> None:
    """After level counts: what `status` says of it all, and of one run."""
    assert "11 verified, 7 differ, 0 not verified" in scene.migrate.succeed("status").stdout
    told = scene.migrate.status("config")
    assert (told["verdict"], told["verified_by"]) == ("differs", "counts")
    [layers] = [one for one in told["findings"] if one["path"] == "config/layers"]
    assert (layers["verdict"], layers["got"]) == ("differs", "int 77")
    assert re.fullmatch(r"int \d", layers["want"])
    assert "config/layers" in scene.migrate.succeed("status", "config").stdout


def check_repair(scene: Scene) -> None:
    """What differs is sent again; what Neptune lets nobody change is found once more."""
    scene.neptune.store.forget_rules()
    findings(scene, "--again", "--files", "md5")
    retried = scene.migrate.succeed("retry-failed", "--class", "differs", "--json").json
    assert retried["retried"] == len(FAULTS) - len(ONE_BY_ONE) + len(DROPPED)
    assert scene.migrate.status()["runs"]["pending"] == retried["retried"]
    scene.migrate.succeed("run")
    left = findings(scene, "--files", "md5")
    assert left == {
        "value": {"val/loss"},
        "text": {"note"},
        "histogram": {"dist"},
        "time": {"lr"},
        "point": {"lr"},
        "config": {"config/lr", "sys/creation_time", "sys/name"},
        "somebody": {"note/of/somebody", "sys/tags", "their/metric", "lr"},
        "drop-some": DROPPED["drop-some"],
    }


# ---------------------------------------------------------------- offline files


def _log(directory: Path, run_id: str) -> Path:
    return directory / "neptune-offline" / "demo" / run_id


def _rewrite(log: Path, change: Callable[[UpdateRunSnapshot], bool]) -> None:
    """Change the snapshots of an operation log; those for which `change` is false go."""
    with closing(sqlite3.connect(log / "run_operations.sqlite3")) as database:
        rows = database.execute("SELECT sequence_id, operation FROM run_operations WHERE operation_type = 0").fetchall()
        for row, blob in rows:
            snapshot = UpdateRunSnapshot.FromString(blob)
            if change(snapshot):
                values = (snapshot.SerializeToString(), row)
                database.execute("UPDATE run_operations SET operation = ? WHERE sequence_id = ?", values)
            else:
                database.execute("DELETE FROM run_operations WHERE sequence_id = ?", (row,))
        database.commit()


def _keep(snapshot: UpdateRunSnapshot, path: str, change: Callable[[Any], None]) -> bool:
    if path in snapshot.append:
        change(snapshot.append[path])
    return True


def test_offline_files_are_verified_before_and_after_their_upload(set_scene: SetScene) -> None:
    names = ["clean", "value", "flipped", "lost", "gone", "broken"]
    scene = set_scene(runs_of_all_kinds(names))
    token = scene.migrate.environment.pop("NEPTUNE_API_TOKEN")
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--mode", "offline")
    assert findings(scene, "--files", "md5", "--level", "values", exit_code=0) == {}
    assert scene.neptune.log.counts == {}

    logs = {name: _log(scene.migrate.directory, name) for name in names}
    whole = {name: shutil.copytree(log, scene.migrate.directory / "kept" / name) for name, log in logs.items()}
    _rewrite(logs["value"], lambda s: _keep(s, "val/loss", lambda v: setattr(v, "float64", 0.0)))
    [kept] = [path for path in logs["flipped"].iterdir() if path.read_bytes() == b"print(2)\n"]
    kept.write_bytes(b"print(3)\n")
    [kept] = [path for path in logs["lost"].iterdir() if path.read_bytes() == b"print(3)\n"]
    kept.unlink()
    shutil.rmtree(logs["gone"])
    (logs["broken"] / "run_operations.sqlite3").write_bytes(b"not a database" * 1000)
    code = "source_code/files/train.py"
    found = {"value": {"val/loss"}, "flipped": {code}, "lost": {code}, "gone": {""}, "broken": {"?"}}
    assert findings(scene, "--again", "--files", "md5", "--level", "values") == found
    for name, log in logs.items():
        shutil.rmtree(log, ignore_errors=True)
        shutil.copytree(whole[name], log)

    scene.migrate.environment["NEPTUNE_API_TOKEN"] = token
    scene.neptune.store.refuse("^(lr|config/lr)$", "FIELD_PATH_INVALID", run_regex="^clean$")
    scene.migrate.succeed("sync")
    assert findings(scene, "--files", "md5", exit_code=0) == {}
    _change_value(scene.neptune.store.run(PROJECT, "value"))
    assert findings(scene, "--again") == {"value": {"val/loss"}}


@pytest.mark.heavy
def test_a_run_that_was_copied_in_two_steps_is_compared_value_by_value(set_scene: SetScene) -> None:
    scene = set_scene(runs_of_all_kinds(["grows", "stays"]))
    path = f"{PROJECT}/grows"
    run = scene.wandb.run(path)
    scene.wandb.set_run(path, state="running")
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run")
    *console, last = run.console
    rows = [
        row | {"_step": row["_step"] + STEPS, "_timestamp": row["_timestamp"] + 100} for row in as_rows(run.history)
    ]
    scene.wandb.append_rows(path, rows)
    config = {key: value for key, value in run.config.items() if key != "layers"} | {"lr": "another type", "new": 3}
    scene.wandb.set_run(path, state="finished", tags=["new"], config=config, console=[*console, (*last[:2], "redrawn")])
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run")
    assert findings(scene, "--level", "values", "--files", "md5", exit_code=0) == {}  # what was kept is in the ledger
    _change_value(scene.neptune.store.run(PROJECT, "grows"))
    assert findings(scene, "--again", "--level", "values") == {"grows": {"val/loss"}}


def test_local_directories_are_compared_value_by_value(set_scene: SetScene) -> None:
    scene = set_scene()
    place = Directories(scene.migrate.directory / "local")
    rows = [row(step, loss=step / 7, note=f"text {step}") for step in range(6)]
    logs = {name: place.add(start(run_id=name), *rows, record(**EXIT), run_id=name) for name in ("a", "b", "gone")}
    scene.migrate.succeed("inventory", "--local", "local")
    scene.migrate.succeed("run", "--mode", "offline", "--metrics-namespace", "m")
    assert findings(scene, "--level", "values", exit_code=0) == {}  # with the options of the copy
    _rewrite(
        scene.migrate.directory / "neptune-offline" / "p-wandb" / "a",
        lambda s: _keep(s, "m/loss", lambda v: setattr(v, "float64", v.float64 + 1)),
    )
    write_log(logs["b"] / "run-b.wandb", [start(run_id="b"), *rows[:5], row(5, loss=0.5, note="new"), record(**EXIT)])
    shutil.rmtree(logs["gone"])
    of_a, of_b, of_gone = found = verified(scene, "--again", "--level", "values")
    assert paths_of(found) == {"a": {"m/loss"}, "b": {"?"}, "gone": {"?"}}
    want = "step 0: 0.0; step 1: 0.14285714285714285; step 2: 0.2857142857142857"
    assert (of_a["want"], of_a["got"][:12], of_a["got"][-17:]) == (want, "step 0: 1.0;", "(6 points differ)")
    assert "the source has changed: m/loss, m/note" in of_b["got"]
    assert of_gone["got"].endswith("-gone is gone")


# ---------------------------------------------------------------- the command


@pytest.mark.heavy
def test_a_verification_goes_on_where_it_was_and_takes_samples(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(10, steps=5))
    scene.migrate.succeed("inventory")
    ended = scene.migrate.run("verify")
    assert (ended.exit_code, "migrate run" in ended.stderr) == (2, True)
    scene.migrate.succeed("run")
    sample = scene.migrate.succeed("verify", "--sample", "30%", "--seed", "7", "--json").json
    assert sample["runs"] == {"verified": 3, "differs": 0, "not_verified": 0}
    assert sample["compared"]["points"] == 3 * (5 * 5 + 20 * 2 + 10)
    again = scene.migrate.succeed("verify", "--sample", "30%", "--seed", "7", "--json").json
    assert again["compared"]["runs"] == 0
    assert scene.migrate.status()["verification"] == {"verified": 3, "differs": 0, "not_verified": 7}
    with closing(sqlite3.connect(scene.migrate.directory / "migration.db")) as database:  # as an old version left it
        database.execute("DELETE FROM digest WHERE run = (SELECT id FROM run WHERE run_id = 'run00004')")
        database.commit()
    ended = scene.migrate.run("verify")
    assert ended.exit_code == 3
    assert "9 verified, 0 differ, 1 not verified" in ended.stdout
    assert re.search(r"run00004.*not verified", ended.stdout)
    assert findings(scene, "--again", "--level", "values", "--run-id", "run00004", exit_code=0) == {}  # by the source
    assert findings(scene, "--again") == {"run00004": {"?"}}
    told = scene.migrate.succeed("report", "--charts", "10", "--source", "--json").json
    assert (told["runs"]["not_verified"], told["runs"]["unexplained"], told["problems"]) == (1, 0, [])
    page = (scene.migrate.directory / "migration-report.html").read_text()
    assert page.count("5 points, steps 0 to 4: as sent. Equal to the source") == 9 * 5  # read from Neptune, and W&B
    assert page.count("5 points, steps 0 to 4; it is not known whether that is what was sent. Equal to the") == 5
    assert (page.count("Equal to the source"), page.count('class="beside"')) == (told["charts"], told["charts"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sample", "0%"], "--sample"),
        (["--sample", "many"], "--sample"),
        (["--level", "all"], "--level"),
        (["--files", "sha1"], "--files"),
    ],
)
def test_wrong_options_are_explained(set_scene: SetScene, arguments: list[str], says: str) -> None:
    ended = set_scene().migrate.run("verify", *arguments)
    assert ended.exit_code == 2
    assert says in ended.stderr


def test_a_fresh_list_of_the_source_names_what_is_new_there_and_what_is_gone(set_scene: SetScene) -> None:
    scene = set_scene(Project("vision", sample_runs(4, steps=3)), Project("nlp", sample_runs(2, steps=3, seed=1)))
    place = Directories(scene.migrate.directory / "local")
    for name in ("a", "b"):
        place.add(start(run_id=name), row(0, loss=1.0), record(**EXIT), run_id=name)
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("inventory", "--local", "local")
    scene.migrate.succeed("run")
    scene.migrate.succeed("verify")

    deleted, *_ = scene.wandb.entities["team"].projects[0].runs
    scene.wandb.delete_run(f"team/vision/{deleted.id}")
    for number, run in enumerate(sample_runs(6, steps=3, seed=2)):
        run.id = f"later-{number}"
        scene.wandb.add_run("team/vision", run)
    scene.wandb.entities["team"].projects.append(Project("unheard-of", sample_runs(3, steps=1, seed=3)))
    shutil.rmtree(place.root / "wandb" / "run-20260101_000000-a")
    place.add(start(run_id="c"), record(**EXIT), run_id="c")
    text = scene.migrate.succeed("verify", "--list").stdout
    five = "later-0, later-1, later-2, later-3, later-4 and 1 more"
    for line in (
        "Listed again: of 13 runs at the source, 7 were never listed; 2 known here are gone.",
        f"team/vision: 6 never listed: {five}",
        f"team/vision: 1 gone: {deleted.id}",
        "local/p: 1 never listed: c",
        "local/p: 1 gone: a",
        "Projects that were never listed, with their runs: team/unheard-of (3)",
        "Next: `migrate inventory` lists what is new and marks what is gone.",
    ):
        assert line in text.splitlines(), text
    assert re.search(r"team/vision +\d +\d +0 +0 +0", text), text
    told = scene.migrate.succeed("verify", "--list", "--projects", "vision", "--json").json
    [vision] = told["listed"]
    assert (vision["runs"], vision["known"], vision["never_listed"]["count"]) == (9, 4, 6)
    assert vision["gone"] == {"count": 1, "examples": [deleted.id]}
    assert told["projects"].keys() == {"team/vision"}
    assert scene.migrate.status()["runs"]["done"] == 8  # nothing was saved of the lists

    scene.migrate.succeed("report", "--charts", "0")
    page = (scene.migrate.directory / "migration-report.html").read_text()
    assert f"team/vision: 6 never listed: {five}" in page
    ended = scene.migrate.run("verify", "--list", WANDB_BASE_URL=NOWHERE)
    assert (ended.exit_code, ended.stdout) == (5, "")

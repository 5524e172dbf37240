"""Neptune's offline files: crashes, disks that fail, the real client's own files and its own `neptune sync`."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import stamina
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import Run as CreateRun
from neptune_api.proto.neptune_pb.ingest.v1.common_pb2 import UpdateRunSnapshot
from neptune_scale import Run
from neptune_scale.types import Histogram as ClientHistogram

from migrations_db.types import Claim
from migrator.copying.pipeline import Stopped
from migrator.destinations.base import UPLOADED, DestinationRun
from migrator.destinations.neptune.answers import FORK_KEPT
from migrator.destinations.neptune.offline import BESIDE, OfflineDestination, OfflineRun
from migrator.destinations.neptune.offline_log import LOG_NAME, OfflineLog
from migrator.destinations.neptune.offline_places import beside, finish_swap, run_directory
from migrator.errors import ErrorClass, Rejected, Retryable, Vanished
from migrator.limits import SNAPSHOT_MAX_BYTES
from migrator.records import AddTags, Assign, AssignFile, Fork, Histogram, Points, Record
from tests.contract.neptune_places import (
    NOW,
    PROJECT,
    START,
    START_US,
    OfflinePlace,
    Seen,
    connected,
    local_file,
    offline_place,
    online_place,
    seen_on_server,
    target,
)
from tests.disks import remount, small_disk
from tests.servers.http import Fault

__all__ = ["connected", "offline_place", "online_place"]  # fixtures

MIB = 1024 * 1024


@pytest.fixture
def offline(tmp_path: Path) -> OfflineDestination:
    return OfflineDestination(tmp_path / "offline", lambda: NOW)


@pytest.fixture
def place(offline_place: OfflinePlace) -> OfflinePlace:
    return offline_place


def directory_of(offline: OfflineDestination, run_id: str = "r1") -> Path:
    return run_directory(offline.directory, PROJECT, run_id)


def rows(directory: Path) -> list[Any]:
    """The operations in an offline file, parsed."""
    with sqlite3.connect(directory / LOG_NAME) as connection:
        found = connection.execute("SELECT operation_type, operation FROM run_operations ORDER BY sequence_id")
        return [(UpdateRunSnapshot, CreateRun)[kind].FromString(blob) for kind, blob in found]


def steps(directory: Path) -> list[int]:
    return [row.step.whole for row in rows(directory) if isinstance(row, UpdateRunSnapshot) and row.append]


def point(step: int) -> Points:
    return Points(step, START_US + step, {"loss": float(step)})


def saved(run: DestinationRun) -> str | None:
    """The position behind all that was written, which is durable."""
    barrier = run.flush()
    barrier.wait()
    return barrier.position


# ---------------------------------------------------------------- crashes


@pytest.mark.parametrize("behind", ["nothing", "points", "points and a file", "a file without its row"])
def test_what_a_crashed_attempt_wrote_behind_its_checkpoint_is_taken_back(
    offline: OfflineDestination, tmp_path: Path, behind: str
) -> None:
    with offline.open_run(target(), None) as run:
        run.write([point(0), AssignFile("files/kept", local_file(tmp_path / "kept", b"kept"))])
        position = saved(run)
    with offline.open_run(target(), position) as run:
        if "points" in behind:
            run.write([point(1), point(2)])
        if behind == "points and a file":
            run.write([AssignFile("files/lost", local_file(tmp_path / "lost", b"lost"))])
        run.flush()
        if behind == "a file without its row":  # the copy of the file was made, then the process died
            (directory_of(offline) / "0123456789abcdef.part").write_bytes(b"lo")
    with offline.open_run(target(), position) as run:
        run.write([point(1), AssignFile("files/lost", local_file(tmp_path / "lost", b"lost"))])
        end = saved(run)
    assert steps(directory_of(offline)) == [0, 1]
    with OfflineLog(directory_of(offline)) as log:
        assert log.position() == end
        assert [logged.upload.file.path.read_bytes() for logged in log.next_uploads(0, 9)] == [b"kept", b"lost"]


def test_an_attempt_that_never_reached_a_checkpoint_leaves_nothing(offline: OfflineDestination) -> None:
    for _ in range(2):
        with offline.open_run(target(), None) as run:
            run.write([point(0), point(1)])
            run.flush()
            run.finish()
    assert steps(directory_of(offline)) == [0, 1]
    assert len(rows(directory_of(offline))) == 3


def write_copy(offline: OfflineDestination, source_url: str, step: int) -> None:
    with offline.open_run(replace(target(), source_url=source_url), None) as run:
        run.write([Assign({"migration/source_url": source_url}), point(step)])
        saved(run)
        run.finish()


def test_a_finished_copy_of_another_source_run_is_left_as_it_is(offline: OfflineDestination) -> None:
    write_copy(offline, "https://wandb.test/one/demo/runs/r1", 1)
    before = {path.name: path.read_bytes() for path in directory_of(offline).iterdir()}
    with pytest.raises(Rejected, match=r"https://wandb.test/one/demo/runs/r1.*--offline-dir.*--project-map"):
        write_copy(offline, "https://wandb.test/two/demo/runs/r1", 2)
    assert {path.name: path.read_bytes() for path in directory_of(offline).iterdir()} == before


def test_a_file_that_names_no_source_is_known_by_its_time_of_creation(offline: OfflineDestination) -> None:
    """As `--exclude attributes` leaves it."""
    with offline.open_run(target(), None) as run:
        run.write([point(1)])
        saved(run)
    ours = replace(target(), source_url="https://wandb.test/one/demo/runs/r1")
    with pytest.raises(Rejected, match="created at 2024-05-01"):
        offline.open_run(replace(ours, created_at=NOW), None)
    with offline.open_run(ours, None) as run:
        run.write([point(2)])
        saved(run)
        run.finish()
    assert steps(directory_of(offline)) == [2]


def test_a_copy_of_the_same_source_run_may_be_made_again(offline: OfflineDestination) -> None:
    for step in (1, 2):
        write_copy(offline, "https://wandb.test/one/demo/runs/r1", step)
    assert steps(directory_of(offline)) == [2]


def test_a_file_that_does_not_name_its_source_yet_is_replaced(offline: OfflineDestination) -> None:
    directory_of(offline).mkdir(parents=True)
    (directory_of(offline) / LOG_NAME).touch()
    write_copy(offline, "https://wandb.test/one/demo/runs/r1", 1)
    assert steps(directory_of(offline)) == [1]


def test_a_new_copy_replaces_the_old_one_when_it_is_whole(offline: OfflineDestination, tmp_path: Path) -> None:
    file = local_file(tmp_path / "a.txt", b"text")
    with offline.open_run(target(), None) as run:
        run.write([point(0), AssignFile("files/a", file)])
        saved(run)
    for _ in range(2):  # attempts that never come to a checkpoint
        with offline.open_run(target(), None) as run:
            run.write([point(1), point(2)])
            position = saved(run)
    assert position
    assert position.endswith(BESIDE)
    assert steps(directory_of(offline)) == [0]
    with offline.open_run(target(), position) as run:
        run.write([point(3), AssignFile("files/a", file)])
        saved(run)
        position = run.finish()
    assert steps(directory_of(offline)) == [1, 2, 3]
    with sqlite3.connect(directory_of(offline) / LOG_NAME) as connection:  # where `neptune sync` looks
        [(kept,)] = connection.execute("SELECT source_path FROM file_upload_requests")
    assert Path(kept).read_bytes() == b"text"
    with offline.open_run(target(), position) as run:  # a run that has grown since
        run.write([point(4)])
        saved(run)
        assert run.finish() is None
    assert steps(directory_of(offline)) == [1, 2, 3, 4]
    assert [path.name for path in directory_of(offline).parent.iterdir()] == ["r1"]


def test_an_attempt_that_was_killed_after_its_copy_took_its_place_goes_on_in_it(offline: OfflineDestination) -> None:
    for step in (0, 1):
        with offline.open_run(target(), None) as run:
            run.write([point(step)])
            position = saved(run)
            run.finish()
    with offline.open_run(target(), position) as run:
        run.write([point(2)])
        saved(run)
    assert steps(directory_of(offline)) == [1, 2]


@pytest.mark.parametrize("killed", ["before", "between", "after", "never"])
def test_a_swap_that_was_killed_anywhere_is_finished_by_who_looks_next(
    offline: OfflineDestination, killed: str
) -> None:
    for _ in range(2):
        with offline.open_run(target(), None) as run:
            run.write([point(0)] if not directory_of(offline).with_name("r1~new").exists() else [point(1)])
            saved(run)
    here = directory_of(offline)
    old = here.with_name("r1~old")
    if killed != "before":
        here.rename(old)
    if killed in ("after", "never"):
        beside(here).rename(here)
    if killed == "never":
        shutil.rmtree(old)
    finish_swap(here)
    assert steps(here) == [0 if killed == "before" else 1]
    assert [path.name for path in here.parent.iterdir() if path != beside(here)] == ["r1"]


def test_what_was_written_without_a_flush_is_not_in_the_file(offline: OfflineDestination) -> None:
    with offline.open_run(target(), None) as run:
        run.write([point(0)])
    assert steps(directory_of(offline)) == []


def test_a_process_that_is_killed_at_any_time_leaves_a_file_to_go_on_with(tmp_path: Path) -> None:
    """Killed while it appends; what it flushed last, as it says on its output, is there."""
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert writer.stdout
    said = [writer.stdout.readline() for _ in range(20)]
    writer.kill()
    said += writer.stdout.readlines()
    writer.wait()
    step, position = [line.split() for line in said if line.endswith("\n")][-1]
    offline = OfflineDestination(tmp_path, lambda: NOW)
    with offline.open_run(target(), position):
        pass
    assert steps(directory_of(offline)) == list(range(int(step) + 1))


KILLED_WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from migrator.destinations.neptune.offline import OfflineDestination
from tests.contract.neptune_places import NOW, target
from tests.contract.test_neptune_offline import point, saved

run = OfflineDestination(Path(sys.argv[1]), lambda: NOW).open_run(target(), None)
for step in range(100_000):
    run.write([point(step)])
    print(step, saved(run), flush=True)
"""


def test_only_their_owner_can_read_the_files(offline: OfflineDestination, tmp_path: Path) -> None:
    file = local_file(tmp_path / "secret.txt", b"secret")
    file.path.chmod(0o600)
    with offline.open_run(target(), None) as run:
        run.write([AssignFile("files/secret.txt", file)])
        run.flush().wait()
    directory = directory_of(offline)
    assert [path.stat().st_mode & 0o777 for path in (offline.directory, directory)] == [0o700, 0o700]
    (copy,) = directory.glob("*.txt")
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_file_that_vanished_behind_a_checkpoint_is_told(offline: OfflineDestination) -> None:
    with offline.open_run(target(), None) as run:
        position = saved(run)
    shutil.rmtree(directory_of(offline))
    with pytest.raises(Vanished, match="is gone"):
        offline.open_run(target(), position)


def test_an_older_copy_of_a_file_is_not_appended_to(offline: OfflineDestination, tmp_path: Path) -> None:
    with offline.open_run(target(), None) as run:
        run.write([point(0)])
        older = saved(run)
        shutil.copytree(directory_of(offline), tmp_path / "older")
        run.write([point(1)])
        position = saved(run)
    shutil.rmtree(directory_of(offline))
    shutil.copytree(tmp_path / "older", directory_of(offline))
    with pytest.raises(Vanished):
        offline.open_run(target(), position)
    with offline.open_run(target(), older) as run:
        run.flush().wait()


def test_a_run_that_was_uploaded_starts_a_new_file(offline: OfflineDestination) -> None:
    with offline.open_run(target(), None) as run:
        run.write([point(0)])
        run.flush()
    with offline.open_run(target(), UPLOADED) as run:
        run.write([point(1)])
        run.flush()
        run.finish()
    assert steps(directory_of(offline)) == [1]


# ---------------------------------------------------------------- what is in the file


def test_no_operation_in_the_file_is_over_neptunes_limit(offline: OfflineDestination) -> None:
    """The widest step, the longest texts and the most config values that a run may have."""
    paths = [f"{number:04}{'名' * 340}" for number in range(4000)]
    with offline.open_run(target(), None) as run:
        run.write([Points(0, START_US, dict.fromkeys(paths, 0.5))])
        run.write([Points(0, START_US, {f"text {n}": "🌊" * (MIB // 4) for n in range(5)})])
        run.write([Points(0, START_US, {f"text {n}": "x" * 40_000 for n in range(100)})])
        run.write([Assign({f"config/{n}": "ü" * 1000 for n in range(3000)})])
        run.write([Assign({f"set/{n}": frozenset(f"{m:099}" for m in range(9000)) for n in range(3)})])
        run.write([AddTags(frozenset(f"{n:01000}" for n in range(3000)))])
        edges, counts = tuple(float(edge) for edge in range(513)), tuple(range(2**63, 2**63 + 512))
        run.write([Points(0, START_US, {f"h{n}": Histogram(edges, counts) for n in range(600)})])
        run.flush()
    sizes = [row.ByteSize() for row in rows(directory_of(offline))]
    assert sum(sizes) > 20 * MIB
    assert max(sizes) < SNAPSHOT_MAX_BYTES


def test_the_real_client_writes_the_same_operations_for_the_same_run(
    offline: OfflineDestination, tmp_path: Path
) -> None:
    text, image = local_file(tmp_path / "a.txt", b"text"), local_file(tmp_path / "i.png", b"png")
    with offline.open_run(target(fork=Fork("parent", 1.5)), None) as run:
        run.write(
            [
                Assign({"config/i": 1, "config/f": 0.5, "config/b": True, "config/s": "ü", "config/t": START}),
                Assign({"config/set": frozenset({"b", "a"})}),
                AddTags(frozenset({"t"})),
                AddTags(frozenset({"g"}), group=True),
                Points(0, START_US, {"loss": 0.5, "acc": 1}),
                Points(1.5, START_US, {"loss": 0.25}),
                Points(2, START_US, {"line": "x"}),
                Points(2, START_US, {"h": Histogram((0.0, 1.0), (3,))}),
                Points(2, START_US, {"d": Histogram((0.0, 1.0), (1.0,))}),
                AssignFile("files/a.txt", text),
                Points(3, START_US, {"image": image}),
            ]
        )
        run.flush()

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEPTUNE_LOGGER_LEVEL", "none")
        client = Run(
            project=PROJECT,
            run_id="r1",
            mode="offline",
            log_directory=tmp_path / "client",
            creation_time=START,
            experiment_name="brave-wave",
            fork_run_id="parent",
            fork_step=1.5,
            inherit_configs=False,
            enable_console_log_capture=False,
            source_tracking_config=None,
        )
        client.log_configs({"config/i": 1, "config/f": 0.5, "config/b": True, "config/s": "ü", "config/t": START})
        client.log_configs({"config/set": ["a", "b"]})
        client.add_tags({"t"})
        client.add_tags({"g"}, group_tags=True)
        client.log_metrics({"loss": 0.5, "acc": 1}, step=0, timestamp=START)
        client.log_metrics({"loss": 0.25}, step=1.5, timestamp=START)
        client.log_string_series({"line": "x"}, step=2, timestamp=START)
        client.log_histograms({"h": ClientHistogram([0.0, 1.0], counts=[3])}, step=2, timestamp=START)
        client.log_histograms({"d": ClientHistogram([0.0, 1.0], densities=[1.0])}, step=2, timestamp=START)
        client.assign_files({"files/a.txt": text.path})
        client.log_files({"image": image.path}, step=3, timestamp=START)
        theirs = client._storage_directory_path
        assert theirs
        client.close()

    ours = directory_of(offline)
    assert [normal(row) for row in rows(ours)] == [normal(row) for row in rows(theirs)]
    assert uploads(ours) == uploads(theirs)
    with sqlite3.connect(ours / LOG_NAME) as mine, sqlite3.connect(theirs / LOG_NAME) as other:
        for query in ("SELECT version, project, run_id FROM metadata", "SELECT sql FROM sqlite_master ORDER BY name"):
            assert mine.execute(query).fetchall() == other.execute(query).fetchall()


def normal(message: Any) -> Any:
    """A message without what depends on the moment: times of single values; and nanoseconds rounded."""
    if isinstance(message, UpdateRunSnapshot):
        if not message.append:
            message.ClearField("timestamp")
        for timestamp in [message.timestamp, *(value.timestamp for value in message.assign.values())]:
            if timestamp.nanos:  # the client's are truncated floats
                timestamp.nanos = round(timestamp.nanos, -3)
    elif message.creation_time.nanos:
        message.creation_time.nanos = round(message.creation_time.nanos, -3)
    return message


def uploads(directory: Path) -> list[Any]:
    with sqlite3.connect(directory / LOG_NAME) as connection:
        return connection.execute("SELECT destination, mime_type, size_bytes FROM file_upload_requests").fetchall()


def test_neptunes_own_sync_command_uploads_the_file(place: OfflinePlace, tmp_path: Path) -> None:
    records: list[Record] = [
        Assign({"config/i": 1, "config/t": START, "big": "x" * MIB}),
        AddTags(frozenset({"t"})),
        AssignFile("files/empty", local_file(tmp_path / "empty", b"")),
        *(Points(step, START_US + step, {"loss": step / 2, "line": "🌊"}) for step in range(50)),
        Points(50.5, START_US + 50, {"image": local_file(tmp_path / "i.png", b"png")}),
    ]
    with place.offline.open_run(target(), None) as run:
        run.write(records)
        run.write([AssignFile("files/log", local_file(tmp_path / "log", b"old"))])
        run.flush()
        run.write([AssignFile("files/log", local_file(tmp_path / "log", b"newer"))])
        run.flush()
    log = directory_of(place.offline) / LOG_NAME
    command = [str(Path(sys.executable).with_name("neptune")), "sync", str(log)]
    synced = subprocess.run(
        command,
        env=os.environ | {"NEPTUNE_API_TOKEN": place.online.server.api_token},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert synced.returncode == 0, synced.stdout + synced.stderr
    assert not log.exists()
    assert place.online.server.store.stats()["refused"] == {}
    seen = seen_on_server(place.online.server)
    assert seen.values == {"config/i": 1, "config/t": START, "big": "x" * MIB}
    assert seen.tags == {"t"}
    assert seen.files == {"files/empty": b"", "files/log": b"newer"}
    assert seen.series["loss"] == [(step, START_US + step, step / 2) for step in range(50)]
    assert seen.series["line"] == [(step, START_US + step, "🌊") for step in range(50)]
    assert seen.series["image"] == [(50.5, START_US + 50, b"png")]


@pytest.mark.parametrize(
    ("one", "other"), [("a/b", "a_b"), ("Run", "run"), (".", ".."), ("x" * 300, "x" * 301), ("ä", "ö"), ("a-", "a_")]
)
def test_different_runs_have_different_directories(tmp_path: Path, one: str, other: str) -> None:
    directories = [run_directory(tmp_path, PROJECT, run_id) for run_id in (one, other)]
    assert len({str(directory).lower() for directory in directories}) == 2
    assert all(directory.parent == tmp_path / "demo" for directory in directories)


def test_a_directory_does_not_depend_on_the_workspace(tmp_path: Path) -> None:
    assert run_directory(tmp_path, "workspace/demo", "r") == run_directory(tmp_path, "team/demo", "r")
    assert run_directory(tmp_path, "team/demo", "r") != run_directory(tmp_path, "team/Demo", "r")


# ---------------------------------------------------------------- disks that fail


def fill_up(run: OfflineRun, record: Record) -> None:
    for _ in range(1000):
        run.write([record])
        run.flush().wait()


@pytest.mark.parametrize("kind", ["operations", "files"])
def test_a_full_disk_is_told_and_what_was_durable_stays(tmp_path: Path, kind: str) -> None:
    big = local_file(tmp_path / "big", b"x" * 300_000)
    record: Record = Assign({"a": "x" * 100_000}) if kind == "operations" else AssignFile("files/a", big)
    with small_disk(tmp_path / "disk", "1m"):
        offline = OfflineDestination(tmp_path / "disk", lambda: NOW)
        with offline.open_run(target(), None) as run:
            run.write([point(0)])
            position = saved(run)
            with pytest.raises(Retryable, match="no space left") as caught:
                fill_up(run, record)
        assert caught.value.error_class is ErrorClass.DISK_FULL
        remount(tmp_path / "disk", "size=8m")
        with offline.open_run(target(), position):
            assert steps(directory_of(offline)) == [0]


def test_a_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m"):
        offline = OfflineDestination(tmp_path / "disk", lambda: NOW)
        with offline.open_run(target(), None) as run:
            position = saved(run)
        remount(tmp_path / "disk", "ro")
        for run_id, at in (("r1", position), ("r2", None)):
            with pytest.raises(Rejected, match="cannot be written") as caught:
                offline.open_run(target(run_id), at)
            assert caught.value.error_class is ErrorClass.PERMISSION


def test_a_file_that_is_no_neptune_log_is_told(offline: OfflineDestination) -> None:
    with offline.open_run(target(), None) as run:
        position = saved(run)
    (directory_of(offline) / LOG_NAME).write_bytes(b"not a database" * 1000)
    with pytest.raises(Rejected, match="damaged") as caught:
        offline.open_run(target(), position)
    assert caught.value.error_class is ErrorClass.BAD_DATA


# ---------------------------------------------------------------- migrate sync


class Crash(Exception):
    """The process dies here."""


class CrashAt:
    """The store as upload sees it, in a process that dies at the `number`-th use of it, before or after."""

    def __init__(self, store: Any, number: int, *, before: bool) -> None:
        self._store, self._left, self._before = store, number, before

    def __getattr__(self, name: str) -> Any:
        def use(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left < 0 and self._before:
                raise Crash
            result = getattr(self._store, name)(*args, **options)
            if self._left < 0:
                raise Crash
            return result

        return use


POINTS = 12


def write_run(place: OfflinePlace, tmp_path: Path) -> Seen:
    """A run of files and several requests, offline; and how it shall look."""
    files = [local_file(tmp_path / f"{n}.bin", bytes([n]) * n) for n in range(5)]
    text = "x" * MIB
    with place.offline.open_run(target(), None) as run:
        run.write([Assign({"a": 1}), *(AssignFile(f"files/{n}", file) for n, file in enumerate(files))])
        run.write([Points(step, START_US, {"text": text}) for step in range(POINTS)])
        run.flush().wait()
        run.write([Assign({"migration/complete": True})])
        run.flush().wait()
    return Seen(
        name="brave-wave",
        created_at=START,
        fork=None,
        values={"a": 1, "migration/complete": True},
        files={f"files/{n}": bytes([n]) * n for n in range(5)},
        series={"text": [(step, START_US, text) for step in range(POINTS)]},
    )


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_an_upload_that_crashes_again_and_again_ends_in_the_same_run(
    place: OfflinePlace, tmp_path: Path, before: bool
) -> None:
    expected = write_run(place, tmp_path)
    claim: Claim | None = place.runs.claim("r1")
    uses = 1
    while claim:
        store = CrashAt(place.runs.store, uses, before=before)
        try:
            place.upload(claim, store)
            break
        except Crash:
            uses += 1
            place.runs.store.workers.stop("worker")
            claim = place.runs.claim_again()
    assert uses > 3
    assert seen_on_server(place.online.server) == looked_for(expected)
    run = place.runs.done()
    part = run.parts["upload"]
    assert run.position == UPLOADED
    assert part.read == part.written == POINTS + 2 + 5 + 5
    assert list(place.runs.store.reports.ledger(run.run)) == []


def looked_for(expected: Seen) -> Seen:
    """An upload that goes on asks first whether the run is still there, with what every whole run has."""
    return replace(expected, values=expected.values | {"migration/mapping_version": 1})


def test_a_stopped_upload_goes_on_later(place: OfflinePlace, tmp_path: Path) -> None:
    expected = write_run(place, tmp_path)

    class StopsAtFourth:
        left = 4

        def check(self) -> None:
            self.left -= 1
            if not self.left:
                raise Stopped

        def confirm(self) -> None: ...

        def at(self, part: str) -> None: ...

    claim = place.runs.claim("r1")
    with pytest.raises(Stopped):
        place.upload(claim, control=StopsAtFourth())
    offered = place.online.server.store.stats()["points_offered"]
    assert 0 < offered < POINTS
    place.upload(claim)
    assert seen_on_server(place.online.server) == looked_for(expected)
    assert place.online.server.store.stats()["points_offered"] == POINTS


def test_a_directory_may_be_moved_before_its_upload(place: OfflinePlace, tmp_path: Path) -> None:
    expected = write_run(place, tmp_path)
    place.offline.directory.rename(tmp_path / "elsewhere")
    place.offline.directory = tmp_path / "elsewhere"
    assert place.read() == expected


@pytest.mark.parametrize("source", ["me/demo/runs/r1", "me/other/runs/r1"])
def test_a_file_is_found_although_its_project_had_another_name(place: OfflinePlace, source: str) -> None:
    url = f"https://wandb.test/{source}"
    with place.offline.open_run(replace(target(project="team/earlier"), source_url=url), None) as run:
        run.write([Assign({"migration/source_url": url}), point(1)])
        run.flush().wait()
    if source == "me/other/runs/r1":  # a run of another project with the same id
        with pytest.raises(Rejected, match="is missing"):
            place.read()
    else:
        assert place.read().series["loss"] == [(1, START_US + 1, 1.0)]


def test_an_upload_goes_to_the_workspace_that_is_known_by_then(place: OfflinePlace) -> None:
    for run_id, fork in (("parent", None), ("child", Fork("parent", 0.0))):
        made = target(run_id, project="not-known-yet/demo", fork=fork)
        with place.offline.open_run(made, None) as run:
            run.write([point(1)])
            run.flush()
        assert place.read(run_id).series["loss"] == [(1, START_US + 1, 1.0)]
    child = place.online.server.store.run(PROJECT, "child")
    assert child.parent
    assert child.parent.run_id == "parent"


def test_only_what_is_new_of_a_run_is_uploaded_the_second_time(place: OfflinePlace) -> None:
    position: str | None = None
    for step, fingerprint in ((0, "f1"), (1, "f2")):
        with place.offline.open_run(target(), position) as run:
            run.write([point(step)])
            position = saved(run)
        place.upload(place.runs.claim("r1", fingerprint, position))
        position = place.runs.done().position
        assert position == UPLOADED
    assert seen_on_server(place.online.server).series["loss"] == [(step, START_US + step, step) for step in range(2)]
    assert place.online.server.store.stats()["points_offered"] == 2
    assert place.runs.done().parts["upload"].written == 2


def test_a_refusal_in_the_second_upload_is_not_taken_for_a_point_that_the_first_has_sent(
    place: OfflinePlace, tmp_path: Path
) -> None:
    write_run(place, tmp_path)
    place.upload(place.runs.claim("r1"))
    with place.offline.open_run(target(), UPLOADED) as run:
        run.write([Points(step, START_US, {"text": "another"}) for step in (0, POINTS)])
        position = saved(run)
    place.upload(place.runs.claim("r1", "f2", position))
    done = place.runs.done()
    ledger = [(row.kind, row.path, row.reason, row.count) for row in place.runs.store.reports.ledger(done.run)]
    assert ledger == [("skipped", "text", "refused: SERIES_STEP_NON_INCREASING", 1)]


def test_a_run_uploaded_as_a_fork_and_changed_since_keeps_the_fork_point_that_neptune_gave_it(
    place: OfflinePlace,
) -> None:
    for step, position, fork in ((1, None, Fork("parent", 1.0)), (2, UPLOADED, None)):
        with place.offline.open_run(target(fork=fork), position) as run:
            run.write([point(step)])
            position = saved(run)
        place.upload(place.runs.claim("r1", f"f{step}", position))
    ledger = [row.reason for row in place.runs.store.reports.ledger(place.runs.done().run)]
    assert sorted(ledger) == ["RUN_FORK_PARENT_NOT_FOUND", FORK_KEPT]
    assert [step for step, _, _ in seen_on_server(place.online.server).series["loss"]] == [1, 2]


def test_what_neptune_refuses_is_counted_and_told(place: OfflinePlace, tmp_path: Path) -> None:
    with place.offline.open_run(target(fork=Fork("nobody", 1.0)), None) as run:
        run.write([Assign({"bad": 1, "good": 2}), *(Points(step, START_US, {"bad too": 1.0}) for step in range(3))])
        run.flush()
    place.refuse("bad.*")
    seen = place.read()
    assert (seen.values, seen.series) == ({"good": 2}, {})
    done = place.runs.done()
    part = done.parts["upload"]
    assert (part.read, part.written, part.skipped) == (5, 1, 4)
    ledger = [(row.kind, row.path, row.reason, row.count) for row in place.runs.store.reports.ledger(done.run)]
    assert sorted(ledger) == [
        ("converted", "run", "RUN_FORK_PARENT_NOT_FOUND", 1),
        ("skipped", "bad", "refused: FIELD_PATH_INVALID", 1),
        ("skipped", "bad too", "refused: FIELD_PATH_INVALID", 3),
    ]


def test_attachments_that_are_lost_are_told_and_all_the_rest_is_uploaded(place: OfflinePlace, tmp_path: Path) -> None:
    expected = write_run(place, tmp_path)
    with place.offline.open_run(target(), saved_position(place)) as run:
        run.write([Points(step, START_US, {"image": local_file(tmp_path / f"{step}.png", b"png")}) for step in (1, 2)])
        run.flush().wait()
    for path in directory_of(place.offline).iterdir():
        match path.suffix, path.read_bytes():
            case ".bin", content if len(content) == 3:
                path.unlink()
            case ".bin", content if len(content) == 4:
                path.write_bytes(content[:-1])
            case ".png", _:
                path.unlink()
    seen = place.read()
    assert seen.files.keys() == {"files/0", "files/1", "files/2"}
    assert (seen.values, seen.series) == (expected.values, expected.series)
    done = place.runs.done()
    part = done.parts["upload"]
    assert (part.read, part.written, part.skipped) == (POINTS + 2 + 5 + 2 + 3, POINTS + 2 + 3 + 3, 4)
    ledger = [(row.kind, row.path, row.reason, row.count) for row in place.runs.store.reports.ledger(done.run)]
    assert sorted(ledger) == [
        ("skipped", "files/3", "missing_file", 1),
        ("skipped", "files/4", "damaged_file", 1),
        ("skipped", "image", "missing_file", 2),
    ]


def saved_position(place: OfflinePlace) -> str:
    with OfflineLog(directory_of(place.offline)) as log:
        return log.position()


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_errors_that_the_client_pickled_into_a_file_are_never_unpickled(place: OfflinePlace, tmp_path: Path) -> None:
    write_run(place, tmp_path)
    body = pickle.dumps(Evil(tmp_path / "evil")).hex()
    with sqlite3.connect(directory_of(place.offline) / LOG_NAME) as connection:
        connection.execute(
            "INSERT INTO operation_errors (timestamp, error_type, error_details, error_body, sequence_id) "
            "VALUES (0, 'NeptuneScaleError', '', ?, 1)",
            (body,),
        )
    place.upload(place.runs.claim("r1"))
    assert not (tmp_path / "evil").exists()


def test_an_offline_file_that_is_gone_is_told(place: OfflinePlace) -> None:
    with pytest.raises(Rejected, match=r"is missing.*migrate forget me/demo/r1") as caught:
        place.read()
    assert caught.value.error_class is ErrorClass.NOT_FOUND
    assert not directory_of(place.offline).exists()


def test_an_upload_whose_answer_was_lost_sends_nothing_twice(place: OfflinePlace, tmp_path: Path) -> None:
    expected = write_run(place, tmp_path)
    place.online.server.faults.set([Fault("^submit$", "lost_answer", times=3), Fault("PUT blob", "lost_answer")])
    with stamina.set_testing(True, attempts=5, cap=True):  # repeated as ever, but at once
        assert place.read() == expected

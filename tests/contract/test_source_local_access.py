"""A local run directory may hold anything: nothing but the run's own files is read, and no key of ours is sent."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from migrator.errors import Rejected
from migrator.redaction import own_keys
from migrator.sources.base import Withheld
from migrator.sources.wandb_local.access import READ_BYTES
from migrator.sources.wandb_local.listing import LocalSource
from migrator.sources.wandb_local.log import WandbLog
from migrator.sources.wandb_local.run import LocalRun
from tests.contract.local_source import Directories, opened, record, row, rows_of, start

KEY = "local-0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return Directories(tmp_path / "runs")


@pytest.fixture
def place(directories: Directories) -> Path:
    """A run whose log names `saved.txt` and the media `media/m.html`."""
    named = record(files={"files": [{"path": "saved.txt"}, {"path": "environment"}]})
    media = {"_type": "html-file", "path": "media/m.html", "size": 1}
    place = directories.add(start(), named, row(0, page=media))
    (place / "files" / "media").mkdir(parents=True)
    return place


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    path = tmp_path / "foreign"
    path.write_text("x")
    return path


def reason(run: LocalRun, name: str) -> str:
    with pytest.raises(Withheld) as caught:
        run.fetch(name)
    return caught.value.reason


def test_only_links_that_the_log_names_are_followed(directories: Directories, place: Path, foreign: Path) -> None:
    for name in ("saved.txt", "other.txt", "media/m.html", "media/other.png"):
        (place / "files" / name).symlink_to(foreign)
    run = directories.run()
    assert [run.fetch(name) is not None for name in ("saved.txt", "media/m.html")] == [True, True]
    assert [reason(run, name) for name in ("other.txt", "media/other.png")] == ["link", "link"]
    strict = opened(LocalSource([directories.root], follow_links=False), "r")
    assert [reason(strict, name) for name in ("saved.txt", "media/m.html")] == ["link", "link"]


def test_links_into_the_kernels_file_systems_are_never_followed(directories: Directories, place: Path) -> None:
    (place / "files" / "saved.txt").symlink_to("/proc/self/environ")
    (place / "files" / "environment").symlink_to("/dev/null")
    run = directories.run()
    assert [reason(run, name) for name in ("saved.txt", "environment")] == ["link", "link"]


def test_the_directory_of_files_must_not_be_a_link(directories: Directories, tmp_path: Path) -> None:
    place = directories.add(start())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "output.log").write_text("secret\n")
    (place / "files").symlink_to(tmp_path / "home")
    run = directories.run()
    assert [file.name for file in run.files()] == ["files"]
    assert reason(run, "files") == "link"
    assert list(run.console(0)) == []


@pytest.mark.parametrize("variable", ["WANDB_API_KEY", "NEPTUNE_API_TOKEN"])
def test_a_file_with_a_key_of_ours_is_not_sent(
    directories: Directories, place: Path, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, KEY)
    (place / "files" / "output.log").write_text(f"export {variable}={KEY}\n")
    (place / "files" / "large.bin").write_bytes(b" " * (READ_BYTES - 5) + KEY.encode() + b" ")
    (place / "files" / "harmless.txt").write_text("no key")
    run = opened(LocalSource([directories.root], keys=own_keys()), "r")
    assert [reason(run, name) for name in ("output.log", "large.bin")] == ["contains_key", "contains_key"]
    assert run.fetch("harmless.txt")
    assert list(run.console(0)) == []


def test_a_linked_output_log_gives_no_console_lines(directories: Directories, place: Path, foreign: Path) -> None:
    (place / "files" / "output.log").symlink_to(foreign)
    run = directories.run()
    assert list(run.console(0)) == []
    assert reason(run, "output.log") == "link"


def artifact(name: str, **manifest: Any) -> Any:
    logged = {"name": name, "type": "t", "digest": name, "digest_algorithm": "NONE", "manifest": manifest}
    return record(artifact=logged)


def test_artifacts_are_read_only_where_the_sdk_stages_them_and_in_the_run(
    directories: Directories, foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    staged = tmp_path / "data" / "artifacts" / "staging"
    staged.mkdir(parents=True)
    (staged / "s").write_text("x")
    (staged / "to foreign").symlink_to(foreign)
    entry = json.dumps({"path": "listed", "digest": "", "size": 1, "local_path": str(foreign)})
    for manifest in (staged / "m.gz", tmp_path / "m.gz"):
        manifest.write_bytes(gzip.compress(entry.encode()))
    os.mkfifo(staged / "pipe")
    paths = {
        "staged": staged / "s",
        "foreign": foreign,
        "linked": staged / "to foreign",
        "up": staged / "../../../foreign",
    }
    contents = [{"path": name, "size": 1, "local_path": str(path)} for name, path in paths.items()]
    lists = [("listed", staged / "m.gz"), ("elsewhere", tmp_path / "m.gz"), ("pipe", staged / "pipe")]
    directories.add(
        start(),
        artifact("files", contents=contents),
        *(artifact(name, manifest_file_path=str(path)) for name, path in lists),
    )
    run = directories.run()
    told: dict[str, str] = {}
    for one in run.artifacts():
        for file in one.files:
            try:
                told[f"{one.name}/{file.name}"] = run.fetch_artifact_file(one, file.name).path.name
            except Withheld as withheld:
                told[f"{one.name}/{file.name}"] = withheld.reason
            except Rejected:
                told[f"{one.name}/{file.name}"] = "missing"
    assert told == {
        "files/staged": "s",
        **{f"files/{name}": "outside" for name in ("foreign", "linked", "up")},
        "listed/listed": "outside",
        "elsewhere/wandb_manifest.json": "outside",
        "pipe/wandb_manifest.json": "missing",
    }


def test_a_followed_link_says_where_it_led_outside_of_the_run(
    directories: Directories, place: Path, foreign: Path
) -> None:
    (place / "files" / "saved.txt").symlink_to(foreign)
    (place / "files" / "inner.html").write_text("x")
    (place / "files" / "media" / "m.html").symlink_to(place / "files" / "inner.html")
    run = directories.run()
    led = {name: file.linked_from for name in ("saved.txt", "media/m.html", "inner.html") if (file := run.fetch(name))}
    assert led == {"saved.txt": str(foreign), "media/m.html": None, "inner.html": None}


@pytest.mark.timeout(20)
def test_what_is_not_a_regular_file_is_never_opened(directories: Directories, tmp_path: Path) -> None:
    place = directories.add(start(), row(0, a=1))
    os.mkfifo(place / "files")
    os.mkfifo(place / "run-r.wandb.syncstate")
    other = directories.add(start(1), run_id="pipe")
    (other / "run-pipe.wandb").unlink()
    os.mkfifo(other / "run-pipe.wandb")
    run = directories.run()
    assert (run.files(), list(run.console(0)), len(rows_of(run))) == ([], [], 1)
    with pytest.raises(Rejected, match="not a regular file"):
        list(WandbLog(other / "run-pipe.wandb").records())

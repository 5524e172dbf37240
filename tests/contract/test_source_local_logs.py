"""The source of local run directories, against logs made by hand: what the SDK writes seldom, or wrote in the past."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from migrator.errors import ErrorClass, Rejected, UserError
from migrator.limits import STRING_MAX_BYTES
from migrator.listed import Cause, RunRef, SourceProject
from migrator.parts.base import bounded_text
from migrator.records import Fork, HistoryRow
from migrator.sources.base import Withheld
from migrator.sources.paging import PAGE_BYTES, pages
from migrator.sources.wandb_local.listing import LocalSource
from migrator.sources.wandb_local.terminal import LINE_MAX, Terminal
from migrator.values import SeriesKey, SeriesKind
from tests.contract.local_source import (
    EXIT,
    OFFLINE_RESUME,
    START_S,
    Directories,
    items,
    listings,
    record,
    row,
    rows_of,
    same,
    start,
    stats,
)
from tests.memory import measured
from tests.servers.offline_runs import write_log


@pytest.fixture
def directories(tmp_path: Path) -> Directories:
    return Directories(tmp_path)


def test_a_run_resumed_offline_goes_on_behind_its_last_step(directories: Directories) -> None:
    directories.add(start(0), row(0), row(41), record(**EXIT))
    directories.add(start(1, **OFFLINE_RESUME), row(0), row(1), record(exit={"exit_code": 1}))
    directories.add(start(2, **OFFLINE_RESUME), row(0))
    assert directories.steps() == [0, 41, 42, 43, 44]
    assert directories.run().attributes().wandb["last_history_step"] == 44


def test_an_uploaded_run_has_the_steps_that_the_upload_gave_it(directories: Directories) -> None:
    directories.add(start(0), row(0), row(1), syncstate={"starting_step": 0})
    directories.add(start(1, **OFFLINE_RESUME), row(0), row(1), syncstate={"starting_step": 50, "starting_runtime": 7})
    assert directories.steps() == [0, 1, 50, 51]


def test_steps_given_by_the_user_behind_a_resume_are_kept(directories: Directories) -> None:
    directories.add(start(0), row(0), row(1))
    directories.add(start(1, **OFFLINE_RESUME), row(100), row(101))
    assert directories.steps() == [0, 1, 100, 101]


def test_a_run_resumed_online_is_not_shifted_again(directories: Directories) -> None:
    directories.add(start(0), row(0), row(41), syncstate={"starting_step": 0})
    directories.add(start(1, resume=True), row(42), row(43), syncstate={"starting_step": 42})
    assert directories.steps() == [0, 41, 42, 43]


def test_a_second_start_without_resume_keeps_its_steps_beside_the_first(directories: Directories) -> None:
    directories.add(start(0), row(0, a=1), row(1, a=1), row(7, a=1))
    directories.add(start(1), row(0, a=2), row(5, a=2))
    rows = rows_of(directories.run())
    assert [(row.step, row.values["a"]) for row in rows] == [(0, 1), (0, 2), (1, 1), (5, 2), (7, 1)]
    assert [row.step for row in rows_of(directories.run(), 0)] == [1, 5, 7]


def test_directories_are_read_in_order_of_start_not_of_name(directories: Directories) -> None:
    directories.add(start(9, display_name="second"), row(5, a=2), record(exit={"exit_code": 1}))
    directories.add(start(0, display_name="first", notes="kept"), row(0, a=1), record(**EXIT))
    run = directories.run()
    assert [row.values["a"] for row in rows_of(run)] == [1, 2]
    attributes = run.attributes()
    assert (attributes.name, attributes.notes) == ("second", "kept")
    assert attributes.wandb["state"] == "failed"
    assert attributes.created_at == datetime.fromtimestamp(START_S, UTC)


def test_pages_hold_as_much_of_the_log_whatever_the_values_are(directories: Directories) -> None:
    third = PAGE_BYTES // 3
    values: list[Any] = ["x" * third, [0.25] * (third // 6), {"a": {"b": ["é"] * (third // 10)}}, [[]] * (third // 4)]
    directories.add(start(), *(row(i, value=values[i % 4]) for i in range(16)), record(**EXIT))
    found = list(directories.run().history(None))
    assert [row.values["value"] for page in found for row in page] == values * 4
    assert all(2 <= len(page) <= 4 for page in found[:-1])


def test_long_histories_come_in_pages_that_end_where_the_step_changes(directories: Directories) -> None:
    directories.add(start(), *(row(i, **{f"k{k}": k for k in range(20)}) for i in range(4000)), record(**EXIT))
    found = list(directories.run().history(None))
    assert [row.step for page in found for row in page] == list(range(4000))
    assert len(found) > 1
    doubled = [(HistoryRow(step, None, {}), PAGE_BYTES // 5) for step in range(50) for _ in range(2)]
    assert [len(page) for page in pages(doubled)] == [6] * 16 + [4]


def test_history_far_into_a_log_is_found_without_reading_what_lies_before(directories: Directories) -> None:
    place = directories.add(start(), *(row(2 * i, a=i) for i in range(25_000)), record(**EXIT))
    run = directories.run()
    assert run.survey().rows == 25_000
    log = place / "run-r.wandb"
    content = bytearray(log.read_bytes())
    content[32768:65536] = bytes(32768)  # the second block, long before the rows wanted
    log.write_bytes(content)
    assert [row.step for row in rows_of(run, 45_000.5)] == list(range(45_002, 50_000, 2))


def test_rows_of_older_formats_are_read_too(directories: Directories) -> None:
    older = record(
        history={
            "item": [
                {"key": "loss", "value_json": "0.5"},
                {"key": "_step", "value_json": "7"},
                {"key": "_timestamp", "value_json": "1.5e9"},
            ]
        }
    )
    typed = record(
        history={
            "item": [{"nested_key": ["n"], "integer": 2**60}, {"nested_key": ["t"], "text": "x"}],
            "step": {"num": 8},
        }
    )
    stepless = record(history={"item": items({"loss": 1})})
    directories.add(start(), older, typed, stepless, record(**EXIT))
    assert rows_of(directories.run()) == [
        HistoryRow(7, 1.5e9, {"loss": 0.5}),
        HistoryRow(8, None, {"n": 2**60, "t": "x"}),
        HistoryRow(9, None, {"loss": 1}),
    ]


def test_a_value_that_is_no_json_stays_as_text_and_harms_no_other(directories: Directories) -> None:
    broken = [{"nested_key": ["bad"], "value_json": "1,2"}, {"nested_key": ["worse"], "value_json": "{"}]
    directories.add(start(), record(history={"item": [*items({"a": 1}), *broken], "step": {"num": 0}}))
    assert rows_of(directories.run())[0].values == {"a": 1, "bad": "1,2", "worse": "{"}


def test_config_follows_updates_and_removals(directories: Directories) -> None:
    first = {"config": {"update": [{"key": "a", "value_json": "1"}, {"key": "b", "value_json": '{"x": 1}'}]}}
    directories.add(
        start(**first),
        record(config={"update": [{"key": "c", "value_json": "NaN"}], "remove": [{"key": "a"}]}),
        start(config={"update": [{"key": "d", "value_json": '"new"'}]}),
        record(config={"update": [{"nested_key": ["b", "y"], "value_json": "2"}]}),
        record(
            config={"update": [{"nested_key": ["e", "f"], "value_json": "3"}], "remove": [{"nested_key": ["b", "x"]}]}
        ),
    )
    config = directories.run().config()
    assert same(config.values, {"b": {"y": 2}, "c": math.nan, "d": "new", "e": {"f": 3}})
    assert config.raw == (
        b'{"b": {"value": {"y": 2}}, "c": {"value": NaN}, "d": {"value": "new"}, "e": {"value": {"f": 3}}}'
    )


def test_the_summary_follows_updates_and_removals_of_nested_values(directories: Directories) -> None:
    def summary(**paths: str) -> Any:
        return record(
            summary={"update": [{"nested_key": path.split("__"), "value_json": json} for path, json in paths.items()]}
        )

    directories.add(
        start(),
        summary(a="1", d__x="1", d__y__z="2", gone__x="1"),
        summary(a='{"min": 0}', d="5"),
        summary(d__x="3"),
        record(summary={"remove": [{"nested_key": ["gone", "x"]}, {"nested_key": ["nowhere", "x"]}]}),
    )
    assert directories.run().summary().values == {"a": {"min": 0}, "d": {"x": 3}, "gone": {}}


def test_kinds_that_meet_at_one_key_are_all_in_the_survey(directories: Directories) -> None:
    directories.add(
        start(),
        row(0, k=1, d={"x": 1}),
        row(1, k="NaN"),
        row(2, k="text", d={"x": "text"}),
        row(3, k={"_type": "image-file", "path": "media/images/a.png", "caption": "c"}, late=None),
        row(4, k=[{"_type": "image-file", "path": "media/images/b.png"}]),
        row(5, late=True),
    )
    survey = directories.run().survey()
    assert list(survey.series) == [
        SeriesKey("d.x", "", SeriesKind.NUMBER),
        SeriesKey("k", "", SeriesKind.NUMBER),
        SeriesKey("d.x", "", SeriesKind.TEXT),
        SeriesKey("k", "", SeriesKind.TEXT),
        SeriesKey("k", "", SeriesKind.FILE),
        SeriesKey("k", "caption", SeriesKind.TEXT),
        SeriesKey("k", "0", SeriesKind.FILE),
        SeriesKey("late", "", SeriesKind.NUMBER),
    ]
    assert survey.media == {("k", "media/images/a.png"), ("k", "media/images/b.png")}


def test_objects_in_a_config_are_joined_as_wandb_core_joins_them(directories: Directories) -> None:
    def change(key: str, value: Any) -> Any:
        return record(config={"update": items({key: value})})

    directories.add(
        start(config={"update": items({"opt": {"name": "adam", "lr": 0.1, "deep": {"a": 1, "b": [1]}}, "n": 1})}),
        change("opt", {"lr": 0.2, "deep": {"b": {"c": 2}}, "new": {"x": 1.0}}),
        change("n", {"now": "an object"}),
        change("opt", {}),
        record(config={"update": [{"nested_key": ["opt", "deep"], "value_json": '{"a": 3}'}]}),
    )
    config = directories.run().config()
    wanted = {"opt": {"name": "adam", "lr": 0.2, "deep": {"a": 3, "b": {"c": 2}}, "new": {"x": 1.0}}}
    assert config.values == wanted | {"n": {"now": "an object"}}
    assert {key: value["value"] for key, value in json.loads(config.raw).items()} == config.values


def test_a_run_keeps_its_first_entity_and_project(directories: Directories) -> None:
    directories.add(start(0), row(0), start(0, entity="team", project="q", tags=["late"]))
    directories.add(start(1, resume=True), row(1))
    [project] = LocalSource([directories.root]).projects(None)
    assert (project.entity, project.name) == ("team", "p")
    assert directories.steps() == [0, 1]
    assert directories.run().attributes().tags == ("late",)
    assert directories.run().attributes().wandb["entity"] == "team"


def test_rows_that_a_rewind_undid_are_left_out(directories: Directories) -> None:
    image = {"_type": "image-file", "path": "media/images/late.png"}
    directories.add(start(0), *(row(step, a=step) for step in range(5)), row(5, late=image))
    rewind = {"branch_point": {"run": "r", "metric": "_step", "value": 2}}
    directories.add(start(1, resume=True, **rewind), *(row(step, a=100 + step) for step in (3, 4)))
    run = directories.run()
    assert [(found.step, found.values["a"]) for found in rows_of(run)] == [(0, 0), (1, 1), (2, 2), (3, 103), (4, 104)]
    assert [found.step for found in rows_of(run, 1)] == [2, 3, 4]
    assert (run.survey().rows, run.survey().media) == (5, frozenset())
    assert run.attributes().wandb["history_line_count"] == 5


def test_a_fork_is_known_and_a_rewind_is_none(directories: Directories) -> None:
    directories.add(start(branch_point={"run": "parent", "value": 7, "metric": "_step"}), row(8))
    directories.add(start(run_id="s", branch_point={"run": "s", "value": 7, "metric": "_step"}), run_id="s")
    assert directories.run().attributes().fork == Fork("parent", 7)
    assert directories.run("s").attributes().fork is None


def test_sweep_user_host_and_used_artifacts_come_from_their_records(directories: Directories) -> None:
    directories.add(
        start(sweep_id="sw", host="box"),
        record(environment={"username": "ann", "writer_id": "1"}),
        record(environment={"cpu_count": 2}),
        record(use_artifact={"id": "QXJ0", "type": "dataset", "name": "team/p/data:v3"}),
        record(use_artifact={"id": "QXJ1", "type": "dataset"}),
    )
    run = directories.run()
    attributes = run.attributes()
    assert {"sweep": "sw", "host": "box", "user": "ann"}.items() <= dict(attributes.wandb).items()
    assert attributes.sweep
    assert (attributes.sweep.id, attributes.sweep.name) == ("sw", None)
    assert list(run.used_artifacts()) == ["team/p/data:v3", "QXJ1"]


def test_samples_count_over_all_directories(directories: Directories) -> None:
    directories.add(start(0), stats(1, cpu=1), stats(2, cpu=2))
    directories.add(start(9), stats(10, cpu=3), stats(11, cpu=math.nan))
    run = directories.run()
    rows = [row for page in run.system(0) for row in page]
    assert [(row.number, row.time) for row in rows] == [
        (0, START_S + 1),
        (1, START_S + 2),
        (2, START_S + 10),
        (3, START_S + 11),
    ]
    assert same([row.values["cpu"] for row in rows], [1, 2, 3, math.nan])
    for first in range(5):
        assert [row.number for page in run.system(first) for row in page] == list(range(first, 4))


def test_wide_samples_come_in_short_pages(directories: Directories) -> None:
    wide = {f"gpu.{n}.{'x' * 100}": n / 7 for n in range(PAGE_BYTES // 500)}
    directories.add(start(), *(stats(second, **wide) for second in range(12)))
    found = list(directories.run().system(0))
    assert [row.number for page in found for row in page] == list(range(12))
    assert all(3 <= len(page) <= 5 for page in found[:-1])


# ---------------------------------------------------------------- console


def shown(*pieces: tuple[str, str]) -> list[tuple[str, str]]:
    """The lines of ("out" or "err", text) pieces; their numbers and times must count up."""
    console = Terminal()
    lines = [line for at, (stream, text) in enumerate(pieces) for line in console.write(f"std{stream}", at, text)]
    lines += console.finish()
    assert [line.number for line in lines] == list(range(len(lines)))
    times = [line.time for line in lines if line.time is not None]
    assert times == sorted(times)
    return [(line.stream.removeprefix("std"), line.text) for line in lines]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["a", "\n", "b\nc"], ["a", "b", "c"]),
        (["a\n\nb\n"], ["a", "", "b"]),
        (["10%", "\r20%", "\r100%", "\n"], ["100%"]),
        (["long text\rshort"], ["shorttext"]),
        (["windows\r\n", "line\r\n"], ["windows", "line"]),
        (["\x1b[32mgreen\x1b[0m\n"], ["\x1b[32mgreen\x1b[0m"]),
        (["one\ntwo", "\x1b[A\r", "ONE", "\x1b[B\r", "TWO\n"], ["ONE", "TWO"]),
        (["one\ntwo\x1b", "[", "A\rONE"], ["ONE", "two"]),
        (["ends in \x1b", "["], ["ends in \x1b["]),
        (["", ""], []),
        ([f"{i}\n" for i in range(100)], [str(i) for i in range(100)]),
    ],
)
def test_a_stream_reads_as_on_a_terminal(pieces: Sequence[str], lines: Sequence[str]) -> None:
    assert shown(*(("out", piece) for piece in pieces)) == [("out", line) for line in lines]


def test_streams_do_not_mix_and_no_text_is_dropped() -> None:
    others = [("out", f"{i}\n") for i in range(40)]
    lines = shown(("err", "begun "), *others[:3], ("err", "ended\n"), ("err", "slow "), *others, ("err", "late\n"))
    assert lines[0] == ("err", "begun ended")
    assert [text for stream, text in lines if stream == "err"] == ["begun ended", "slow ", "late"]
    assert [text for stream, text in lines if stream == "out"] == [text.strip() for _, text in [*others[:3], *others]]


def test_of_an_endless_line_as_much_is_kept_as_says_that_it_is_cut() -> None:
    lines = shown(*[("out", "ab" * 50_000)] * 40, ("out", "\nnext\n"), ("err", "\N{SNOWMAN}" * LINE_MAX * 2))
    assert lines == [("out", ("ab" * LINE_MAX)[:LINE_MAX]), ("out", "next"), ("err", "\N{SNOWMAN}" * LINE_MAX)]
    single = bounded_text(lines[0][1])
    assert single.note
    assert len(str(single.value)) == STRING_MAX_BYTES


def test_the_start_of_an_endless_line_can_still_be_overwritten() -> None:
    endless = [("out", "x" * LINE_MAX), ("out", "beyond")]
    (line,) = shown(*endless, ("out", "\rabc"))
    assert line[1] == "abc" + "x" * (LINE_MAX - 3)
    first, second = shown(*endless, ("out", "\x1b[B"), ("out", "far right\rleft"))
    assert first[1] == "x" * LINE_MAX
    assert second[1] == "left" + " " * (LINE_MAX - 4)


def test_a_long_line_of_small_pieces_takes_no_longer_than_they_do() -> None:
    def seconds(pieces: int) -> float:
        began = time.process_time()
        (line,) = shown(*[("out", "x"), ("out", "\r")] * 9, *[("out", "y")] * pieces)
        assert line[1] == "y" * pieces
        return time.process_time() - began

    assert seconds(400_000) < 30 * seconds(40_000)


def test_long_lines_come_in_short_pages_and_endless_ones_cut(directories: Directories) -> None:
    texts = [f"{n} ".ljust(PAGE_BYTES // 3, "x") for n in range(9)]
    place = directories.add(start(), *(record(output_raw={"line": f"{text}\n"}) for text in texts))
    found = list(directories.run().console(0))
    assert [line.text for page in found for line in page] == texts
    assert max(len(page) for page in found) <= 3
    shutil.rmtree(place)
    (directories.add(start()) / "files").mkdir()
    endless = "z" * 3 * LINE_MAX
    exact = "w" * STRING_MAX_BYTES
    (directories.root / "wandb" / "run-20260101_000001-r" / "files" / "output.log").write_text(
        "\n".join([*texts, endless, exact + "\r", exact + "v", "end"])
    )
    found = list(directories.run().console(0))
    lines = [line.text for page in found for line in page]
    assert lines == [*texts, endless[:LINE_MAX], exact, exact + "v", "end"]
    assert [line.number for page in found for line in page] == list(range(len(lines)))
    assert max(len(page) for page in found) <= 3


@pytest.mark.slow
def test_a_record_of_300_mb_is_skipped_in_little_memory(directories: Directories) -> None:
    long = row(1, text="")
    long.history.item[0].value_json = f'"{"x" * 300_000_000}"'
    directories.add(start(), row(0, loss=0.5), long, row(2, loss=0.25), record(**EXIT))
    del long
    with measured() as growth:
        run = directories.run()
        assert [(one.step, dict(one.values)) for one in rows_of(run)] == [(0, {"loss": 0.5}), (2, {"loss": 0.25})]
        [found] = [one for one in run.findings() if one.kind == "skipped"]
    assert found.reason == "unreadable"
    assert "1 of these records over 64 MiB" in found.path
    assert growth.mb < 150


def test_a_run_without_output_records_has_the_lines_of_output_log(directories: Directories) -> None:
    for second, text in enumerate(("one\r\ntwo", "thr\xee\xff")):
        place = directories.add(start(second))
        (place / "files").mkdir()
        (place / "files" / "output.log").write_bytes(text.encode("latin-1"))
    run = directories.run()
    lines = [line for page in run.console(1) for line in page]
    assert [(line.number, line.time, line.stream, line.text) for line in lines] == [
        (1, None, "stdout", "two"),
        (2, None, "stdout", "thr\ufffd\ufffd"),
    ]


def test_a_run_id_of_any_form_is_no_path(directories: Directories) -> None:
    for second, run_id in enumerate(("a/b", "../up", "x y%", "ünï")):
        write_log(directories.root / "wandb" / f"run-20260101_00000{second}-x" / "run-x.wandb", [start(run_id=run_id)])
        assert directories.run(run_id).attributes().wandb["id"] == run_id


# ---------------------------------------------------------------- files and artifacts


def test_a_later_directory_gives_the_files_it_has_again(directories: Directories) -> None:
    for second, names in enumerate((["a.txt", "sub/b.txt"], ["a.txt"])):
        place = directories.add(start(second))
        for name in names:
            (place / "files" / name).parent.mkdir(parents=True, exist_ok=True)
            (place / "files" / name).write_text(f"{name} of {second}")
    run = directories.run()
    assert [file.name for file in run.files()] == ["a.txt", "sub/b.txt"]
    found = [run.fetch(file.name) for file in run.files()]
    assert [file.path.read_text() for file in found if file] == ["a.txt of 1", "sub/b.txt of 0"]


def test_links_that_the_log_does_not_name_are_listed_but_not_read(directories: Directories, tmp_path: Path) -> None:
    place = directories.add(start())
    (place / "files").mkdir()
    (place / "files" / "gone.txt").symlink_to(tmp_path / "nowhere")
    (place / "files" / "folder").symlink_to(tmp_path)
    os.mkfifo(place / "files" / "pipe")
    (place / "files" / "here.txt").write_text("x")
    run = directories.run()
    assert [file.name for file in run.files()] == ["folder", "gone.txt", "here.txt"]
    for name in ("folder", "gone.txt"):
        with pytest.raises(Withheld, match="link"):
            run.fetch(name)
    (place / "files" / "here.txt").unlink()
    assert run.fetch("here.txt") is None


def artifact_record(**fields: Any) -> Any:
    return record(artifact={"type": "dataset", "name": "data", "digest": "d0", "aliases": ["latest"]} | fields)


MD5_OF_X = {"digest": base64.b64encode(hashlib.md5(b"x").digest()).decode(), "size": 1}


@pytest.fixture
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the SDK stages the files of artifacts."""
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    place = tmp_path / "artifacts" / "staging"
    place.mkdir(parents=True)
    return place


def test_an_artifact_whose_staged_copy_is_gone_still_names_its_files(directories: Directories, staging: Path) -> None:
    (staging / "kept").write_bytes(b"x")
    (staging / "other").write_bytes(b"y")
    contents = [
        {"path": "gone.bin", "local_path": str(staging / "gone"), **MD5_OF_X},
        {"path": "kept.bin", "local_path": str(staging / "kept"), **MD5_OF_X},
        {"path": "changed.bin", "local_path": str(staging / "other"), **MD5_OF_X},
        {"path": "uploaded.bin", **MD5_OF_X},
        {"path": "folder.bin", "local_path": str(staging), **MD5_OF_X},
    ]
    directories.add(start(), artifact_record(manifest={"contents": contents}))
    run = directories.run()
    (artifact,) = run.artifacts()
    assert [file.name for file in artifact.files] == sorted(entry["path"] for entry in contents)
    assert run.fetch_artifact_file(artifact, "kept.bin").path.read_bytes() == b"x"
    for name in ("gone.bin", "changed.bin", "uploaded.bin", "folder.bin", "unknown.bin"):
        with pytest.raises(Rejected, match=f"data:v0/{name}") as caught:
            run.fetch_artifact_file(artifact, name)
        assert caught.value.error_class is ErrorClass.NOT_FOUND


def test_equal_content_is_one_version_and_aliases_go_to_the_last_that_takes_them(directories: Directories) -> None:
    directories.add(
        start(),
        artifact_record(aliases=["latest", "a"]),
        artifact_record(digest="d1", aliases=["latest", "b"]),
        artifact_record(aliases=["b"]),
        artifact_record(type="wandb-history"),
    )
    assert [(a.version, a.digest, sorted(a.aliases)) for a in directories.run().artifacts()] == [
        ("v0", "d0", ["a", "b"]),
        ("v1", "d1", ["latest"]),
    ]


def test_a_long_manifest_is_read_from_its_file(directories: Directories, staging: Path) -> None:
    (staging / "x").write_bytes(b"x")
    lines = [
        {"path": "x.bin", "local_path": str(staging / "x"), **MD5_OF_X},
        {"path": "ref", "digest": "etag", "ref": "s3://bucket/ref"},
    ]
    manifest = staging / "1.manifest_contents.jl.gz"
    manifest.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    directories.add(start(), artifact_record(manifest={"manifest_file_path": str(manifest)}))
    run = directories.run()
    (artifact,) = run.artifacts()
    assert run.fetch_artifact_file(artifact, "x.bin").path.read_bytes() == b"x"
    assert artifact.references == {"ref": "s3://bucket/ref"}
    manifest.unlink()
    (artifact,) = run.artifacts()
    with pytest.raises(Rejected, match=r"is gone"):
        run.fetch_artifact_file(artifact, artifact.files[0].name)


# ---------------------------------------------------------------- what the run as a whole is told


def test_custom_axes_preemption_and_links_are_attributes(directories: Directories) -> None:
    def metric(**fields: Any) -> Any:
        return record(metric=fields)

    directories.add(
        start(),
        metric(name="epoch"),
        metric(name="val/loss", step_metric="epoch", options={"hidden": True, "step_sync": True}),
        metric(glob_name="train/*", step_metric="batch"),
        metric(glob_name="*", step_metric="train/batch"),
        metric(name="a\\.b", step_metric="x\\.y"),
        metric(name="later", step_metric="epoch"),
        metric(name="later", step_metric="batch"),
        row(0, **{"train/loss": 1, "train/batch": 2, "val/loss": 3, "other": 4, "_private": 5}),
        record(preempting={}),
        record(
            request={
                "link_artifact": {
                    "portfolio_name": "best",
                    "portfolio_entity": "team",
                    "portfolio_project": "models",
                    "portfolio_aliases": ["prod", "v"],
                }
            }
        ),
    )
    told = directories.run().attributes().wandb
    axes = {name.removeprefix("step_metric/"): axis for name, axis in told.items() if name.startswith("step_metric/")}
    assert axes == {
        "val/loss": "epoch",
        "a.b": "x.y",
        "later": "batch",
        "train/loss": "batch",
        "train/batch": "batch",
        "other": "train/batch",
    }
    assert told["preempting"] is True
    assert json.loads(str(told["link_artifact"])) == ["team/models/best:prod,v"]


# ---------------------------------------------------------------- what is wrong with a directory


def test_a_directory_without_runs_is_named_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "run-notes").mkdir()
    with pytest.raises(UserError, match=r"no \.wandb file and no run-\*") as caught:
        list(LocalSource([tmp_path]).projects(None))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        LocalSource([tmp_path / "no"]).count_runs(SourceProject("local", "p", ""))


def test_an_unreadable_log_is_left_out_and_the_others_are_listed(directories: Directories) -> None:
    directories.add(start(), row(0), record(**EXIT))
    foreign = directories.add(run_id="foreign")
    (foreign / "run-foreign.wandb").write_bytes(b"PK something else")
    empty = directories.add(run_id="empty")
    (directories.root / "wandb" / "run-20260101_000000-nothing").mkdir()
    (directories.root / "wandb" / "offline-run-20260101_000000-dangling").symlink_to("nowhere")
    source = LocalSource([directories.root])
    assert listings(source).keys() == {"r"}
    assert {(one.cause, one.path) for one in source.left_out} == {
        (Cause.NO_LOG, str(directories.root / "wandb" / "run-20260101_000000-nothing")),
        (Cause.NOT_A_LOG, str(foreign / "run-foreign.wandb")),
        (Cause.EMPTY_LOG, str(empty / "run-empty.wandb")),
    }


def test_logs_are_read_once_for_all_listings(directories: Directories) -> None:
    place = directories.add(start(), row(0), record(**EXIT))
    source = LocalSource([directories.root])
    before = listings(source)
    shutil.rmtree(place)
    assert listings(source) == before
    assert source.count_runs(SourceProject("local", "p", "")) == 1


def test_a_run_that_vanished_is_not_found(directories: Directories) -> None:
    place = directories.add(start(), row(0))
    source = LocalSource([directories.root])
    ref = RunRef("local", "p", "r", listings(source)["r"].location)
    run = source.open_run(ref, Path())
    shutil.rmtree(place)
    for read in (run.survey, lambda: source.open_run(ref, Path())):
        with pytest.raises(Rejected) as caught:
            read()
        assert caught.value.error_class is ErrorClass.NOT_FOUND


def test_a_log_of_another_run_is_refused(directories: Directories) -> None:
    place = directories.add(start(run_id="other"), row(0))
    run = LocalSource([directories.root]).open_run(RunRef("local", "p", "r", [str(place)]), Path())
    with pytest.raises(Rejected) as caught:
        run.attributes()
    assert caught.value.error_class is ErrorClass.BAD_DATA


def test_what_is_logged_after_the_first_pass_is_left_for_the_next_time(directories: Directories) -> None:
    records = [start(), row(0), stats(1, cpu=1)]
    place = directories.add(*records)
    run = directories.run()
    assert len(rows_of(run)) == 1
    write_log(place / "run-r.wandb", [*records, row(1), stats(2, cpu=1), record(output_raw={"line": "late"})])
    assert len(rows_of(run)) == 1
    assert [row.number for page in run.system(0) for row in page] == [0]
    assert list(run.console(0)) == []
    assert len(rows_of(directories.run())) == 2


def test_a_link_to_a_directory_is_followed_at_once(directories: Directories, tmp_path: Path) -> None:
    place = directories.add(start(), row(0))
    link = tmp_path / "wandb" / "latest-run"
    link.symlink_to(place.name)
    assert listings(LocalSource([link]))["r"].location == [str(place)]


def test_artifacts_are_not_in_the_directory_of_an_online_run(directories: Directories) -> None:
    directories.add(start(telemetry={"feature": {"offline": True}}), row(0), run_id="r")
    assert directories.run().partial("artifacts") is None
    directories.add(start(1, resume=True), row(1))
    assert directories.run().partial("artifacts")


def test_importing_the_source_does_not_import_wandb() -> None:
    slow = "{'wandb', 'google.protobuf'}"
    code = f"import sys, migrator.sources.wandb_local.listing; sys.exit(bool({slow} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0

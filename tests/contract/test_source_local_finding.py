"""Which runs lie below a directory, whose they are, and what is told of things that are none."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from migrator.errors import Rejected, UserError
from migrator.listed import Cause, RunRef
from migrator.sources.base import RunFilter
from migrator.sources.wandb_local.listing import LocalSource
from tests.contract.local_source import listings, opened, rows_of
from tests.servers.offline_runs import BEGAN_S, StartLog

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 1234567\n"
OLD = "wandb/dryrun-20200305_101112-old00001"


def log(root: Path, run_id: str, after_s: float = 0, **fields: object) -> StartLog:
    return StartLog(root, run_id, BEGAN_S + after_s, **{"entity": "", **fields}).row(0, a=1)  # type: ignore[arg-type]


def put(root: Path, name: str, content: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def told(source: LocalSource, root: Path) -> dict[str, Cause]:
    assert len({one.path for one in source.left_out}) == len(source.left_out)
    return {one.path.removeprefix(f"{root}/"): one.cause for one in source.left_out}


def run_ids(*paths: Path) -> set[str]:
    return set(listings(LocalSource(paths)))


# ---------------------------------------------------------------- what is found


def test_runs_are_found_whatever_their_directories_and_logs_are_called(tmp_path: Path) -> None:
    log(tmp_path, "dated001").exit()
    log(tmp_path, "renamed1", 1, directory="wandb/my-best-run").exit()
    log(tmp_path, "plain001", 2, directory="wandb/latest-run").exit()
    log(tmp_path / "run-20240101_120000-exp", "below001", 3).exit()
    log(tmp_path / "run-20240101_120000-exp/run-20240101_120001-exp/files", "below002", 4).exit()
    for number in (1, 2):  # in one directory, under other names
        log(tmp_path, f"moved{number:03}", 4 + number, directory="kept").exit().path.rename(
            tmp_path / f"kept/{number}.wandb"
        )
    source = LocalSource([tmp_path])
    found = listings(source)
    assert set(found) == {"dated001", "renamed1", "plain001", "below001", "below002", "moved001", "moved002"}
    assert told(source, tmp_path) == {}
    assert {run_id: len(rows_of(opened(source, run_id))) for run_id in found} == dict.fromkeys(found, 1)


def test_a_log_itself_a_run_directory_and_a_link_to_one_are_taken(tmp_path: Path) -> None:
    path = log(tmp_path, "dated001").exit().path
    link = tmp_path / "latest-run"
    link.symlink_to(path.parent)
    for given in ([path], [path.parent], [link], [tmp_path, path.parent, link]):
        assert run_ids(*given) == {"dated001"}
    with pytest.raises(UserError, match="does not exist"):
        run_ids(tmp_path / "no")
    with pytest.raises(UserError, match="WANDB_DIR of the training"):
        run_ids(put(tmp_path / "empty", "notes.txt", "x").parent)


def test_each_thing_that_is_no_whole_run_is_named_with_its_cause(tmp_path: Path) -> None:
    log(tmp_path, "good0001").exit()
    places = {}
    for number, name in enumerate(["pointer", "crlf", "empty", "header", "other", "norun", "torn", "pipe", "denied"]):
        one = log(tmp_path, name, 10 + number).row(1, text="a\nb\nc").row(2, text="d\n").exit()
        places[name] = one.path
    content = {name: path.read_bytes() for name, path in places.items()}
    changed = {
        "pointer": POINTER.encode(),
        "crlf": content["crlf"].replace(b"\n", b"\r\n"),
        "empty": b"",
        "header": content["header"][:7],
        "other": b"a text",
        "norun": content["norun"][:20],
        "torn": content["torn"][:-5],
    }
    for name, data in changed.items():
        places[name].write_bytes(data)
        os.utime(places[name], (BEGAN_S, BEGAN_S))
    for name in ("pipe", "denied"):
        places[name].unlink()
    os.mkfifo(places["pipe"])
    places["denied"].symlink_to("/nowhere")
    (tmp_path / "wandb" / "run-20220101_000000-nothing0").mkdir()
    log(tmp_path.parent / f"{tmp_path.name}-elsewhere", "linked01").exit()
    (tmp_path / "more").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "again").symlink_to(tmp_path / "wandb")
    source = LocalSource([tmp_path])
    assert set(listings(source)) == {"good0001", "torn"}
    short = {name.partition(":")[0].rpartition("/")[2]: cause for name, cause in told(source, tmp_path).items()}
    assert short == {
        "run-pointer.wandb": Cause.LFS_POINTER,
        "run-crlf.wandb": Cause.CRLF,
        "run-empty.wandb": Cause.EMPTY_LOG,
        "run-header.wandb": Cause.EMPTY_LOG,
        "run-other.wandb": Cause.NOT_A_LOG,
        "run-norun.wandb": Cause.NO_RUN,
        "run-torn.wandb": Cause.INCOMPLETE,
        "run-pipe.wandb": Cause.NOT_A_LOG,
        "run-denied.wandb": Cause.UNREADABLE,
        "run-20220101_000000-nothing0": Cause.NO_LOG,
        "more": Cause.LINK,
    }


# ---------------------------------------------------------------- whose runs they are


def projects(*paths: Path) -> dict[str, set[str]]:
    source = LocalSource(paths)
    return {
        f"{project.entity}/{project.name}": {listing.run_id for listing in source.runs(project, RunFilter())}
        for project in source.projects(None)
    }


def debug_log(one: StartLog, text: str) -> None:
    put(one.directory, "logs/debug.log", f"2022-04-15 00:00:00,000 INFO    MainThread:1 [x.py:f():1] {text}\n")


def test_the_entity_comes_from_the_log_from_beside_it_or_from_another_run_of_the_project(tmp_path: Path) -> None:
    debug_log(log(tmp_path / "a", "debug001", project="x").exit(), "finishing run one/x/debug001")
    log(tmp_path / "a", "silent01", 1, project="x").exit()
    put(
        log(tmp_path / "b", "metadata", 2, project="x").exit().directory,
        "files/wandb-metadata.json",
        '{"entity": "two"}',
    )
    debug_log(log(tmp_path / "c", "settings", 3, project="x").exit(), "config: {'entity': 'three', 'project': 'x'}")
    log(tmp_path / "d", "sweep001", 4, project="x", entity="four").exit()
    debug_log(log(tmp_path / "d", "other001", 5, project="y").exit(), "finishing run y/other001")
    debug_log(log(tmp_path / "d", "foreign1", 6, project="y").exit(), "finishing run five/z/another1")
    put(tmp_path / "e/wandb", "settings", "[default]\nentity = six\nproject = x\n")
    log(tmp_path / "e", "initial1", 7, project="x").exit()
    for number, entity in enumerate(["seven", "eight", ""]):  # nobody can say which of two
        log(tmp_path / "f", f"unclear{number}", 8 + number, project="x", entity=entity).exit()
    assert projects(tmp_path) == {
        "one/x": {"debug001", "silent01"},
        "two/x": {"metadata"},
        "three/x": {"settings"},
        "four/x": {"sweep001"},
        "local/y": {"other001", "foreign1"},
        "six/x": {"initial1"},
        "seven/x": {"unclear0"},
        "eight/x": {"unclear1"},
        "local/x": {"unclear2"},
    }


def test_a_backup_belongs_to_the_entity_of_its_original(tmp_path: Path) -> None:
    one = log(tmp_path, "kept0001", project="x").exit()
    debug_log(one, "finishing run team/x/kept0001")
    shutil.copytree(one.directory, tmp_path / "backup" / "old", ignore=shutil.ignore_patterns("logs"))
    assert projects(tmp_path) == {"team/x": {"kept0001"}}
    run = opened(LocalSource([tmp_path]), "kept0001")
    assert run.attributes().wandb["path"] == "team/x/kept0001"


def test_an_unknown_entity_is_a_note_of_the_run(tmp_path: Path) -> None:
    log(tmp_path, "known001", project="x", entity="team").exit()
    log(tmp_path, "unknown1", 1, project="y").exit()
    source = LocalSource([tmp_path])
    noted = {run_id: [one.path for one in opened(source, run_id).findings()] for run_id in listings(source)}
    assert ["entity" in paths for paths in (noted["known001"], noted["unknown1"])] == [False, True]


def test_a_run_that_was_listed_before_its_entity_was_known_stays_where_it_is(tmp_path: Path) -> None:
    debug_log(log(tmp_path, "before01", project="x").exit(), "finishing run team/x/before01")
    log(tmp_path, "behind01", 1, project="x").exit()
    source = LocalSource([tmp_path], known={("local", "x", "before01"): ["/elsewhere"]})
    found = {
        f"{one.entity}/{one.name}": [run.run_id for run in source.runs(one, RunFilter())]
        for one in source.projects(None)
    }
    assert found == {"local/x": ["before01"], "team/x": ["behind01"]}


# ---------------------------------------------------------------- runs without a log


def old_run(root: Path, rows: int = 3, directory: str = OLD, first: int = 0) -> Path:
    """As SDKs before 0.10 left it."""
    began_s = 1_583_400_000
    history = [
        {"loss": 1 / (i + 1), "nan": "NaN", "_step": i, "_timestamp": began_s + i, "_runtime": i}
        for i in range(first, first + rows)
    ]
    events = [
        {"system.cpu": 1.5 * i, "system.network": {"sent": i}, "_wandb": True, "_timestamp": began_s} for i in range(2)
    ]
    metadata = {
        "startedAt": "2020-03-05T10:11:13.5",
        "state": "finished",
        "project": "vision",
        "git": {"commit": "abc"},
    }
    for name, lines in (("wandb-history.jsonl", history), ("wandb-events.jsonl", events)):
        put(root, f"{directory}/{name}", "".join(json.dumps(line) + "\n" for line in lines))
    put(root, f"{directory}/wandb-metadata.json", json.dumps(metadata))
    put(root, f"{directory}/wandb-summary.json", '{"loss": 0.25, "_step": 2}')
    values = "lr:\n  desc: null\n  value: 1e-05\ndeep:\n  value: {a: [1, x]}\nday:\n  value: 2020-01-02\n"
    put(root, f"{directory}/config.yaml", f"wandb_version: 1\n\n{values}")
    put(root, f"{directory}/output.log", "one\ntwo\n")
    return put(root, f"{directory}/media/images/a_0.png", b"\x89PNG").parents[2]


def test_runs_of_sdks_before_0_10_are_read_whole(tmp_path: Path) -> None:
    old_run(tmp_path)
    source = LocalSource([tmp_path])
    [listing] = listings(source).values()
    assert (listing.run_id, listing.source_state, listing.history_rows) == ("old00001", "finished", 3)
    assert projects(tmp_path) == {"local/vision": {"old00001"}}
    assert source.left_out == []
    run = opened(source, "old00001")
    told_of = run.attributes().wandb
    assert (told_of["commit"], told_of["last_history_step"], told_of["state"]) == ("abc", 2, "finished")
    assert str(told_of["created_at"]) == "2020-03-05 10:11:13.500000+00:00"
    assert run.config().values == {"lr": 1e-05, "deep": {"a": [1, "x"]}, "day": "2020-01-02"}
    assert json.loads(run.config().raw)["lr"] == {"desc": None, "value": 1e-05}
    assert run.summary().values == {"loss": 0.25, "_step": 2}
    assert [(row.step, row.time, row.values["loss"]) for row in rows_of(run)] == [
        (i, 1_583_400_000 + i, 1 / (i + 1)) for i in range(3)
    ]
    assert [row.step for row in rows_of(run, 0)] == [1, 2]
    samples = [(row.number, row.values) for page in run.system(1) for row in page]
    assert samples == [(1, {"cpu": 1.5, "network": {"sent": 1}})]
    assert [line.text for page in run.console(1) for line in page] == ["two"]
    assert {"media/images/a_0.png", "wandb-history.jsonl", "config.yaml"} <= {file.name for file in run.files()}
    file = run.fetch("media/images/a_0.png")
    assert file
    assert file.path.read_bytes() == b"\x89PNG"
    assert [one.path for one in run.findings()] == ["entity"]
    assert [series.key for series in run.survey().series] == ["_runtime", "loss", "nan"]


def test_starts_of_an_old_run_are_one_run_and_what_is_damaged_is_told(tmp_path: Path) -> None:
    old_run(tmp_path)
    later = old_run(tmp_path, 2, "wandb/run-20200306_000000-old00001", first=3)
    put(later, "wandb-metadata.json", '{"startedAt": "2020-03-06T00:00:00"}')
    with (later / "wandb-history.jsonl").open("a") as file:
        file.write('{"loss": 9, "_step": 3}\n{"loss": ')
    for place in (later, tmp_path / OLD):
        (place / "wandb-summary.json").unlink()
    put(later, "config.yaml", "a: &a [*a, *a]\nb: {value: [")
    run = opened(LocalSource([tmp_path]), "old00001")
    assert [row.step for row in rows_of(run)] == [0, 1, 2, 3, 4, 5]  # a step that falls is the next one
    assert run.summary().values["loss"] == 9
    assert run.config().values["lr"] == 1e-05
    found = {(one.kind, Path(one.path).name, one.count) for one in run.findings()}
    assert found >= {("skipped", "config.yaml", 1), ("skipped", "wandb-history.jsonl", 1), ("estimated", "summary", 1)}


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]" for i in range(8)
)])  # fmt: skip
def test_yaml_that_does_not_end_is_damage(tmp_path: Path, text: str) -> None:
    put(old_run(tmp_path), "config.yaml", text)
    run = opened(LocalSource([tmp_path]), "old00001")
    assert run.config().values == {}
    assert [one.reason for one in run.findings() if one.kind == "skipped"] == ["unreadable"]


def test_files_without_a_log_are_a_run_without_history(tmp_path: Path) -> None:
    place = "wandb/run-20220415_000000-bare0001"
    put(tmp_path, f"{place}/files/config.yaml", "lr:\n  value: 0.1\n")
    put(tmp_path, f"{place}/files/wandb-summary.json", '{"a": 1}')
    put(tmp_path, f"{place}/files/output.log", "line\n")
    put(tmp_path, f"{place}/logs/debug.log", "x finishing run team/p/bare0001\n")
    empty = log(tmp_path, "bare0002", 60).file("wandb-summary.json", '{"b": 2}').exit()
    empty.path.write_bytes(b"")
    whole = log(tmp_path, "bare0003", 120, entity="team").exit()
    put(tmp_path, "wandb/run-20220416_000000-bare0003/files/a.txt", "of a start whose log is gone")
    source = LocalSource([tmp_path])
    assert set(listings(source)) == {"bare0001", "bare0002", "bare0003"}
    assert projects(tmp_path)["team/p"] == {"bare0001", "bare0002", "bare0003"}
    assert told(source, tmp_path) == {
        place: Cause.NO_HISTORY,
        str(empty.path.relative_to(tmp_path)): Cause.EMPTY_LOG,
        "wandb/run-20220416_000000-bare0003": Cause.NO_HISTORY,
    }
    assert len(rows_of(opened(source, "bare0003"))) == 1
    run = opened(source, "bare0001")
    assert (run.config().values, run.summary().values, rows_of(run)) == ({"lr": 0.1}, {"a": 1}, [])
    assert run.attributes().wandb["state"] == "finished"
    assert {file.name for file in run.files()} == {"config.yaml", "wandb-summary.json", "output.log"}
    assert ("sampled", "history") in {(one.kind, one.path) for one in run.findings()}
    location = listings(source)["bare0003"].location
    whole.path.unlink()  # a run whose log is gone since is not copied as one that never had any
    with pytest.raises(Rejected):
        source.open_run(RunRef("team", "p", "bare0003", location), Path())
    before = listings(LocalSource([tmp_path]))["bare0001"].fingerprint
    put(tmp_path, f"{place}/files/output.log", "LINE\n")
    assert listings(LocalSource([tmp_path]))["bare0001"].fingerprint != before


# ---------------------------------------------------------------- what an inventory did not look at


def test_starts_that_lie_elsewhere_stay_part_of_a_run(tmp_path: Path) -> None:
    log(tmp_path / "a", "both0001", offline=True, resume=True).exit()
    log(tmp_path / "b", "both0001", 100, offline=True, resume=True).exit()
    both = listings(LocalSource([tmp_path / "a", tmp_path / "b"]))["both0001"]
    again = LocalSource([tmp_path / "b"], known={("local", "p", "both0001"): list(both.location or ())})
    assert listings(again)["both0001"] == both
    assert len(rows_of(opened(again, "both0001"))) == 2


def test_a_file_that_changes_at_constant_size_changes_the_run_and_its_version(tmp_path: Path) -> None:
    one = log(tmp_path, "files001").file("model.ckpt", "before").exit()

    def seen() -> tuple[str, str]:
        source = LocalSource([tmp_path])
        [file] = opened(source, "files001").files()
        return listings(source)["files001"].fingerprint, file.version

    before = seen()
    assert seen() == before
    one.file("model.ckpt", "behind")
    assert all(now != then for now, then in zip(seen(), before, strict=True))

"""Everything that a migration can stumble over, as W&B serves it in each of its ways: the mapping says what arrives.

`tests.flow.expected` is the mapping; `tests.servers.wandb_data.hostile_runs` says what the runs hold.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.flow.conftest import WORKSPACE, Scene, SetScene
from tests.flow.expected import Options, arrived, content_of, same
from tests.servers.wandb_data import EPOCH_S, Mode, Project, Row, Run, hostile_runs, hostile_sweeps, logged


def skips_expected(scene: Scene, options: Options) -> Counter[tuple[str, str]]:
    (project,) = scene.wandb.entities["team"].projects
    counts: Counter[tuple[str, str]] = Counter()
    for run in project.runs:
        counts += content_of(run, project, scene.wandb.url, options).skips
    return counts


def skips_told(status: dict[str, Any]) -> dict[tuple[str, str], int]:
    return {(group["part"], group["reason"]): group["count"] for group in status["skips"]}


MODES = ["parquet", *(pytest.param(mode, marks=pytest.mark.heavy) for mode in ("live", "mixed"))]


@pytest.mark.parametrize("mode", MODES)
def test_hostile_runs_arrive_as_the_mapping_says_and_every_skip_is_counted(set_scene: SetScene, mode: Mode) -> None:
    scene = set_scene(Project("hostile_runs", hostile_runs(mode), hostile_sweeps()))
    options = Options(artifacts=True)
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run", "--include", "artifacts")
    assert scene.differences(options) == []
    status = scene.migrate.status()
    assert skips_told(status) == skips_expected(scene, options)
    assert sum(status["runs"].values()) == 2 * status["runs"]["done"]
    for part in status["parts"].values():
        assert part["read"] == part["written"] + part["skipped"]


def test_options_change_the_mapping_as_they_say_and_strict_tells_of_skips(set_scene: SetScene) -> None:
    wanted = {"numbers", "many-types", "keys", "private", "config", "files", "streams", "media"}
    runs = [run for run in hostile_runs("mixed") if run.id in wanted]
    scene = set_scene(Project("hostile", runs))
    options = Options(private=True, stringify=True, namespace="wandb-metrics", max_file_bytes=1999)
    arguments = ["--include-private", "--stringify-config", "--metrics-namespace", "wandb-metrics"]
    scene.migrate.succeed("inventory")
    assert scene.migrate.run("run", *arguments, "--max-file-size", "1999", "--strict").exit_code == 3
    assert scene.differences(options) == []
    assert skips_told(scene.migrate.status()) == skips_expected(scene, options)


class Texts(Run):
    """A run whose config is JSON text that no Python value gives."""

    def config_text(self) -> str:
        wrapped = {
            "dicts": '{"k": ' * 1000 + "1" + "}" * 1000,
            "list": "[ " * 100_000 + "]" * 100_000,
            "digits": "9" * 5000,
            "text": '"[{ \\ud800"',
            "plain": "1.0",
        }
        return "{" + ", ".join(f'"{key}": {{"value": {text}}}' for key, text in wrapped.items()) + "}"


def image(name: str, **more: Any) -> Row:
    return {"_type": "image-file", "path": f"media/images/{name}.png"} | more


def odd_runs() -> list[Run]:
    """What the real SDK would not make, but a service may hold."""
    bars = [([1, 2], [3, 2, 1]), ([], []), ([1], [0, 1]), ([0.5, 1.5], [0, 1, 2]), ([1, 2], [0, 0, 1])]
    histograms = [{"h": {"_type": "histogram", "values": values, "bins": edges}} for values, edges in bars]
    twice = [{"_step": 0, "_timestamp": EPOCH_S, "i": image(name)} for name in ("first", "second")]
    separated = {"_type": "images/separated", "filenames": ["media/images/a.png"], "captions": False}
    events: Row = {"system.": 1, "system.bool": True, "system.text": "x", "system.dict": {"a": 1}}
    files = {f"media/images/{name}.png": name.encode() for name in ("first", "second", "private", "a")}
    return [
        Run("histograms", history=logged(histograms)),
        Run("two-rows", history=twice, files=files),
        Run("private", history=logged([{"_i": image("private"), "i": image("a", caption="")}]), files=files),
        Run("separated", history=logged([{"s": separated, "t": [image("a"), image("gone")]}]), files=files),
        Run("system", history=logged([{"x": 1.0}]), events=[{"_timestamp": EPOCH_S} | events]),
        Run("times", " ", created_at="0001-01-01T00:00:00Z", console=[(None, None, "a\0\x1b[2K\r")]),
        Run("tags", tags=[f"{n:03}" for n in range(200)] + ["t" * 3000, "\u202e", "a\0b"]),
        Texts("texts"),
    ]


#: (type, value) by run and path; of series the values of all points. None: nothing is there.
ODD: dict[str, dict[str, tuple[str, Any] | None]] = {
    "histograms": {
        "h": ("histogramSeries", [((0.0, 1.0), "counts", (1,)), ((0.0, 1.0, 2.0), "densities", (0.5, 1.5))])
    },
    "two-rows": {"i": ("fileRefSeries", [b"first"]), "files/media/images/second.png": ("file", b"second")},
    "private": {
        "i": ("fileRefSeries", [b"a"]),
        "i/caption": None,
        "files/media/images/private.png": ("file", b"private"),
        "files/media/images/a.png": None,
    },
    "separated": {"s/0": ("fileRefSeries", [b"a"]), "t/0": ("fileRefSeries", [b"a"]), "t/1": None, "s/0/caption": None},
    "system": {
        "system/_": ("floatSeries", [1.0]),
        "system/bool": ("floatSeries", [1.0]),
        "system/text": None,
        "system/dict.a": ("floatSeries", [1.0]),
    },
    "times": {
        "sys/creation_time": ("datetime", 0),
        "wandb/created_at": ("string", "0001-01-01T00:00:00+00:00"),
        "sys/name": ("string", "times"),
        "wandb/name": ("string", " "),
        "runtime/stdout": ("stringSeries", ["a\0\x1b[2K\r"]),
    },
    "tags": {
        "sys/tags": ("stringSet", frozenset([*(f"{n:03}" for n in range(200)), "t" * 3000, "\u202e", "a\0b"])),
    },
    "texts": {
        "config/" + "/".join(["dicts", *"k" * 297]): ("string", '{"k":' * 703 + "1" + "}" * 703),
        "config/list": ("string", "[" * 100_000 + "]" * 100_000),
        "config/digits": ("string", "9" * 5000),
        "config/text": ("string", "[{ \ufffd"),
        "config/plain": ("float", 1.0),
    },
}


@pytest.mark.parametrize("mode", MODES)
def test_odd_values_arrive_in_their_closest_form_or_are_skipped(set_scene: SetScene, mode: Mode) -> None:
    runs = odd_runs()
    for run in runs:
        run.mode = mode
    scene = set_scene(Project("odd", runs))
    scene.migrate.succeed("inventory")
    scene.migrate.succeed("run")
    for run_id, wanted in ODD.items():
        content = arrived(scene.neptune.store.run(f"{WORKSPACE}/odd", run_id))
        found: dict[str, tuple[str, Any]] = {path: ("file", data) for path, data in content.files.items()}
        found |= content.values
        found |= {path: (type_, [value for *_, value in points]) for path, (type_, points) in content.series.items()}
        for path, value in wanted.items():
            assert same(value, found.get(path)), (run_id, path, found.get(path))
    status = scene.migrate.status()
    assert skips_told(status) == {
        ("history", "bad_histogram"): 3,
        ("history", "duplicate_step"): 1,
        ("history", "missing_file"): 1,
        ("summary", "wandb_object"): 4,
        ("system", "not_a_number"): 1,
    }
    for part in status["parts"].values():
        assert part["read"] == part["written"] + part["skipped"]

"""`migrate plan`: what would be copied, how much it is, and that asking for it changes nothing anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.contract.local_source import EXIT, Directories, record, row, start
from tests.flow.conftest import Scene, SetScene
from tests.servers.wandb_data import Project, sample_runs


def everything(scene: Scene) -> tuple[Any, ...]:
    """The working directory, and what the servers were asked."""
    names = sorted(str(path) for path in scene.migrate.directory.rglob("*"))
    return names, scene.migrate.files(), dict(scene.wandb.log.counts), dict(scene.neptune.log.counts)


def disk_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_a_plan_tells_what_a_run_then_does_and_writes_nothing(set_scene: SetScene) -> None:
    scene = set_scene(Project("nl p", sample_runs(3, steps=40)), Project("vision_2", sample_runs(3, steps=120, seed=1)))
    migrate, offline = scene.migrate, ["--mode", "offline"]
    place = Directories(migrate.directory / "local")
    for number in range(2):
        rows = [row(step, **dict.fromkeys("abcde", step / 2)) for step in range(50)]
        place.add(start(run_id=f"r{number}/x"), *rows, record(**EXIT), run_id=f"r{number}")
    (place.root / "wandb" / "run-20260101_000000-r0" / "files").mkdir()
    (place.root / "wandb" / "run-20260101_000000-r0" / "files" / "model.bin").write_bytes(bytes(5_000))
    migrate.succeed("inventory")
    migrate.succeed("inventory", "--local", "local")

    before = everything(scene)
    plan = migrate.succeed("plan", "--max-file-size", "1kB", "--json").json
    assert (plan["mode"], plan["total"]["runs"], plan["total"]["history_rows"]) == ("online", 8, 3 * 40 + 3 * 120 + 100)
    assert (plan["total"]["values"], plan["time_s"], plan["offline"]) == (None, None, None)
    assert plan["projects"]["local/p"]["files"] == 1
    assert {(one["what"], one["count"]) for one in plan["renamed"]} == {("project", 2), ("project", 1), ("run id", 2)}
    [unfit] = plan["will_not_fit"]
    assert (unfit["reason"], unfit["examples"]) == (
        "files over --max-file-size are skipped",
        [["local/p/r0/x", "1 of 1"]],
    )
    assert everything(scene) == before

    migrate.succeed("run", "--limit", "3", *offline)
    copied = disk_bytes(migrate.directory / "neptune-offline")
    before = everything(scene)
    plan = migrate.succeed("run", "--dry-run", "--json").json
    text = migrate.succeed("plan", "--include", "artifacts", COLUMNS="80").stdout
    assert everything(scene) == before
    assert max(map(len, text.splitlines())) <= 80
    told = " ".join(text.split())
    for words in (
        "would be copied to offline files in",
        "estimates from 3 runs that are done",
        "Artifacts are not in these figures: they are not known before they are listed",
        "at the speed of the last `migrate run` (3 runs in",
        "bytes per value (measured with the 3 runs there)",
        "team/vision_2 → vision-2",
        "r0/x → r0-x-",
        "Requests: about",
        "Nothing was written",
    ):
        assert words in told

    asked = sum(scene.wandb.log.counts.values())
    ended = migrate.succeed("run", "--json").json
    total = plan["total"]
    assert 0.5 < total["requests"]["wandb"] / (sum(scene.wandb.log.counts.values()) - asked) < 2
    assert total["runs"] == 5
    assert 0.5 < total["values"] / ended["written_now"] < 2
    assert 0.5 < total["bytes"] / ended["bytes_now"] < 2
    assert 0.5 < plan["offline"]["bytes"] / (disk_bytes(migrate.directory / "neptune-offline") - copied) < 2

"""`migrate doctor`: what keeps a job from running is told before it is begun, all at once."""

from __future__ import annotations

from typing import Any

from tests.flow.conftest import NEPTUNE_KEY, SetScene
from tests.servers.neptune_server import api_token
from tests.servers.wandb_data import sample_runs

TOO_FEW_FILES = ["bash", "-c", 'ulimit -n 100; exec "$@"', "bash"]


def results(document: Any) -> dict[str, str]:
    """How each check came out; what this machine has free, and installed, is not the test's business."""
    checks = {check["name"]: check["result"] for check in document["checks"]}
    return {name: result for name, result in checks.items() if name not in ("scratch files", "offline files")}


def test_all_is_well_and_one_run_is_written_where_that_is_asked_for(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(1, steps=4))
    ended = scene.migrate.succeed("doctor", "--write", "--json")
    names = "versions,open files,proxies,certificates,log,state database,destination,W&B,Neptune,write,clock"
    assert results(ended.json) == dict.fromkeys(names.split(","), "ok")
    told = {check["name"]: check["message"] for check in ended.json["checks"]}
    for name, words in {
        "W&B": f"{scene.wandb.url} as ann, sees entities team; 1 project of team; can read team/demo/run00000",
        "Neptune": f"{scene.neptune.url} as tester",
        "write": "Both stay",
        "proxies": "HTTPS_PROXY",
        "versions": "neptune-scale 0.30",
    }.items():
        assert words in told[name]
    assert [(run.project, run.run_id) for run in scene.neptune.store.runs()] == [("team/migrate-doctor", "doctor")]
    assert {path.split("/")[0] for path in scene.migrate.files()} == {"migration-logs"}


def test_everything_that_is_bad_is_told_at_once(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(1, steps=4))
    nobody = api_token("http://127.0.0.1:9", NEPTUNE_KEY)
    wrong = "5ec2e7" + "v" * 34
    scene.migrate.secrets += [nobody, wrong]
    scene.migrate.prefix = TOO_FEW_FILES
    ended = scene.migrate.run(
        *("doctor", "--json", "--db", "/sys/migration.db"), WANDB_API_KEY=wrong, NEPTUNE_API_TOKEN=nobody
    )
    assert ended.exit_code == ended.json["exit_code"] == 4
    found = results(ended.json)
    assert [name for name, result in found.items() if result == "bad"] == [
        *("open files", "state database", "W&B", "Neptune")
    ]
    told = {check["name"]: f"{check['message']} {check['next']}" for check in ended.json["checks"]}
    for name, words in {
        "open files": "ulimit -n 1024",
        "state database": "another place with --db",
        "W&B": "WANDB_API_KEY",
        "Neptune": "http://127.0.0.1:9: ConnectError",
    }.items():
        assert words in told[name]


def test_offline_needs_no_token_and_a_wrong_clock_is_told(set_scene: SetScene) -> None:
    scene = set_scene(sample_runs(1, steps=4))
    scene.wandb.clock_ahead_s = 3600.0
    ended = scene.migrate.succeed(
        *("doctor", "--mode", "offline"), NEPTUNE_API_TOKEN=None, NEPTUNE_PROJECT=None, COLUMNS="80"
    )
    assert max(map(len, ended.stdout.splitlines())) <= 80
    lines = ended.stdout.splitlines()
    assert not [line for line in lines if line.startswith("bad") or "Neptune" in line]
    assert [line.split()[1] for line in lines if line.startswith("warn") and "files" not in line] == ["clock"]
    assert "clock is 60 min behind W&B's" in " ".join(ended.stdout.split())
    assert scene.neptune.log.counts == {}

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from migrator.redaction import own_keys, without_keys
from migrator.settings import hold
from migrator.settings import keys as keys_held

WANDB, INNER, NETRC = "0f1e2d3c4b5a69788796a5b4c3d2e1f0deadbeef", "inner/key+of=the?token", "netrc0123456789abcdef"
TOKEN = b64encode(json.dumps({"api_address": "https://neptune.test", "api_key": INNER}).encode()).decode()


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine wandb.test login user password {NETRC}\n")
    for name, value in {
        "WANDB_API_KEY": WANDB,
        "NEPTUNE_API_TOKEN": TOKEN,
        "WANDB_BASE_URL": "https://wandb.test",
        "NETRC": str(tmp_path / "netrc"),
    }.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        (WANDB, "WANDB_API_KEY"),
        (WANDB[3:15], "WANDB_API_KEY"),
        (b64encode(WANDB.encode()).decode()[:40], "WANDB_API_KEY"),
        (b64encode(f"api:{WANDB}".encode()).decode()[8:40], "WANDB_API_KEY"),
        (NETRC, "WANDB_API_KEY"),
        (TOKEN, "NEPTUNE_API_TOKEN"),
        (TOKEN[-30:], "NEPTUNE_API_TOKEN"),
        (quote(TOKEN, safe=""), "NEPTUNE_API_TOKEN"),
        (INNER, "NEPTUNE_API_TOKEN"),
        (quote(INNER, safe="")[4:20], "NEPTUNE_API_TOKEN"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjEyMzQ1fQ.c2lnbmF0dXJl", "token"),
        (urlsafe_b64encode(INNER.encode()).decode()[:20], "NEPTUNE_API_TOKEN"),
    ],
)
def test_a_key_does_not_show_whole_cut_or_encoded(shown: str, name: str) -> None:
    assert without_keys(f"HTTP 400: {shown}") == f"HTTP 400: <{name}>"
    assert without_keys(shown + shown).count(f"<{name}>") in (1, 2)


@pytest.mark.parametrize("host", ["api.forge.coreweave.com", "api.wandb.ai", "wandb.example.com:8080"])
def test_a_key_in_netrc_does_not_show_whatever_its_host(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key = f"{host}-0123456789abcdef"
    (tmp_path / "netrc").write_text(f"machine {host} login user password {key}\n")
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", f"another{host[::-1]}")  # what is known of keys is kept for each
    assert without_keys(f"HTTP 400: {key}") == "HTTP 400: <WANDB_API_KEY>"


def test_keys_of_other_places_do_not_show_either(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC")
    (tmp_path / ".netrc").write_text("machine a.test login user password first0123456789\n")
    (tmp_path / "_netrc").write_text("machine b.test\n  login user\n  nonsense\n  password second0123456789\n")
    (tmp_path / "token").write_text("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJlc2lnbmF0dXJl\n")
    (tmp_path / "credentials").write_text(
        '{"credentials": {"https://wandb.test": {"access_token": "access0123456789"}}}'
    )
    monkeypatch.setenv("WANDB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("WANDB_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for key in ("first0123456789", "second0123456789"):
        assert without_keys(f"HTTP 400: {key}") == "HTTP 400: <WANDB_API_KEY>"
        assert key.encode() in own_keys()
    for token in ((tmp_path / "token").read_text().strip(), "nbmF0dXJlc2lnbmF0", "access0123456789"):
        assert without_keys(f"HTTP 400: {token}") == "HTTP 400: <WANDB_IDENTITY_TOKEN_FILE>"
    assert b"access0123456789" in own_keys()


def test_a_short_key_is_hidden_as_a_word_and_leaves_other_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "K")
    assert without_keys("key=K, WANDB_API_KEY, 'K'") == "key=<WANDB_API_KEY>, WANDB_API_KEY, '<WANDB_API_KEY>'"
    monkeypatch.setenv("WANDB_API_KEY", "s3cr3t")
    assert without_keys("Bearer_s3cr3t: s3cr3tly") == "Bearer_<WANDB_API_KEY>: s3cr3tly"


def test_only_its_owner_can_read_a_log(tmp_path: Path) -> None:
    code = "import sys, pathlib, migrator.job.log as log; log.start_log(pathlib.Path(sys.argv[1]), False)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.jsonl")], check=True)
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600


def test_what_is_no_key_stays(keys: None) -> None:
    for text in ("", "https://neptune.test", WANDB[:11], "a" * 1000, "🌊" * 20):
        assert without_keys(text) == text


def test_keys_are_taken_out_of_the_environment_and_handed_on_to_workers() -> None:
    both = {"WANDB_API_KEY": WANDB, "NEPTUNE_API_TOKEN": TOKEN}
    assert keys_of(multiprocessing.get_context("spawn")) == (set(), both)
    assert keys_held() == both
    assert not both.keys() & os.environ.keys()


def keys_of(context: Any) -> Any:
    """What a process that is started now finds in its environment, and holds once it is given ours."""
    given = keys_held()
    with context.Pool(1) as pool:
        return pool.apply(as_worker, (given,))


def as_worker(given: dict[str, str]) -> tuple[set[str], dict[str, str]]:
    inherited = given.keys() & os.environ.keys()
    hold(given)
    return inherited, keys_held()

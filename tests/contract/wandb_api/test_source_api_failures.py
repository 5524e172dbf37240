"""Failures of W&B, its account and wandb-core, met by the API source through the real SDK."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from migrator.errors import ErrorClass, ExitCode, Rejected, Retryable, RunError, Throttled, UserError
from migrator.listed import RunRef
from migrator.sources.base import RunFilter
from migrator.sources.wandb.downloads import Transport
from migrator.sources.wandb.errors import of_message, one_line
from migrator.sources.wandb.glance import obstacle
from migrator.sources.wandb.listing import WandbApiSource
from tests.contract.api_source import Make, Opened, P, error_of, rows_of, run_python
from tests.servers.http import Fault, Request, Response, Server
from tests.servers.wandb_data import (
    Entity,
    Run,
)
from tests.servers.wandb_server import API_KEY, WandbServer

# ---------------------------------------------------------------- failures of the service


@pytest.mark.parametrize(
    ("fault", "kind", "error_class"),
    [
        (Fault("", "status", status=403), Rejected, ErrorClass.PERMISSION),
        (Fault("", "status", status=404), Rejected, ErrorClass.NOT_FOUND),
        (Fault("", "status", status=400), Rejected, ErrorClass.UNKNOWN),
        (Fault("", "status", status=429, headers={"Retry-After": "0"}), Throttled, ErrorClass.RATE_LIMITED),
        (Fault("", "status", status=503, headers={"Retry-After": "0"}), Retryable, ErrorClass.UNAVAILABLE),
        (Fault("", "status", status=500, headers={"Retry-After": "0"}), Retryable, ErrorClass.UNAVAILABLE),
        (Fault("", "status", status=200), Retryable, ErrorClass.UNAVAILABLE),
        (Fault("", "truncate"), Retryable, ErrorClass.UNAVAILABLE),
    ],
    ids=lambda value: f"{value.action}-{value.status}" if isinstance(value, Fault) else "",
)
def test_failures_are_told_apart(
    fault: Fault, kind: type[RunError], error_class: ErrorClass, make: Make, opened: Opened
) -> None:
    server, source = make(Run("r"))
    server.faults.set([replace(fault, match="graphql Run$", times=None)])
    assert error_of(kind, lambda: opened(source, "r")).error_class is error_class


@pytest.mark.parametrize(
    ("message", "kind", "error_class"),
    [
        ("the service process is busy and did not respond in time.", Retryable, ErrorClass.TIMEOUT),
        ("giving up: Post: dial tcp 10.0.0.1:443: connect: connection refused", Throttled, ErrorClass.UNAVAILABLE),
        ("giving up after 3 attempt(s)\nwhile retrying: HTTP 429: slow down", Throttled, ErrorClass.RATE_LIMITED),
        ("giving up after 3 attempt(s)\nwhile retrying: HTTP 502: oops", Retryable, ErrorClass.UNAVAILABLE),
        ("input: rate limit exceeded\n", Throttled, ErrorClass.RATE_LIMITED),
        ("HTTP 403: API rate limit exceeded", Throttled, ErrorClass.RATE_LIMITED),
        ("input: Too many requests, try again later", Throttled, ErrorClass.RATE_LIMITED),
        ("input: run rate-limit-3 not found\n", Rejected, ErrorClass.NOT_FOUND),
        ("invalid character '<' looking for beginning of value", Retryable, ErrorClass.UNAVAILABLE),
        ("input: permission denied\n", Rejected, ErrorClass.PERMISSION),
        ("input: run not found\n", Rejected, ErrorClass.NOT_FOUND),
        ("input: internal error\n", Retryable, ErrorClass.UNAVAILABLE),
    ],
)
def test_what_wandb_core_says_is_understood(message: str, kind: type[RunError], error_class: ErrorClass) -> None:
    told = of_message(message, "run")
    assert isinstance(told, kind)
    assert told.error_class is error_class


def test_messages_keep_no_secrets() -> None:
    text = one_line(f"Get https://storage/a/b?X-Signature=abc&k=1: key {API_KEY}\n  refused")
    assert text == "Get https://storage/a/b?*** key *** refused"


def test_a_server_that_is_away_is_told_once(make: Make) -> None:
    server, source = make(Run("r"))
    server.stop()
    with pytest.raises(Throttled, match="cannot be reached") as caught:
        next(iter(source.runs(P, RunFilter())))
    assert str(caught.value).count("connection refused") == 1
    assert "giving up" not in str(caught.value)


@pytest.mark.parametrize("action", ["truncate", "drop"])
def test_answers_that_are_cut_are_asked_for_again(action: str, make: Make, opened: Opened) -> None:
    server, source = make(Run("r", "name"))
    server.faults.set([Fault("graphql Run$", action)])
    assert opened(source, "r").attributes().name == "name"


def test_a_short_limit_of_requests_is_waited_for(make: Make, opened: Opened) -> None:
    server, source = make(Run("r", "name"))
    server.faults.set([Fault("graphql Run$", "status", status=429, times=2, headers={"Retry-After": "0"})])
    assert opened(source, "r").attributes().name == "name"


def test_listing_what_one_may_not_see_is_for_a_person(make: Make) -> None:
    server, source = make(Run("r"))
    server.faults.set([Fault("Runs", "status", status=403, times=None)])
    with pytest.raises(UserError) as caught:
        list(source.runs(P, RunFilter()))
    assert caught.value.exit_code is ExitCode.CREDENTIALS


def test_a_key_that_is_refused_later_ends_the_command(make: Make, opened: Opened) -> None:
    server, source = make(Run("r"))
    server.faults.set([Fault("graphql Run$", "status", status=401, times=None)])
    with pytest.raises(UserError) as caught:
        opened(source, "r")
    assert caught.value.exit_code is ExitCode.CREDENTIALS


def test_wandb_core_is_started_again_when_it_was_killed(make: Make, opened: Opened) -> None:
    _, source = make(Run("r", "name"))
    killed = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
    assert killed
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=10)
    assert opened(source, "r").attributes().name == "name"


# ---------------------------------------------------------------- the account and the process


@pytest.mark.parametrize("key", ["w" * 40, "short"])
def test_a_refused_key_ends_with_what_to_do(key: str, server: WandbServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="WANDB_API_KEY") as caught:
        WandbApiSource(server.url, key, tmp_path)
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    assert key not in str(caught.value)
    assert "wandb login" in str(caught.value)


def test_a_missing_key_ends_with_what_to_do_and_netrc_will_do(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UserError, match=r"WANDB_API_KEY.*wandb login") as caught:
        WandbApiSource(server.url, None, tmp_path)
    assert caught.value.exit_code is ExitCode.CREDENTIALS
    netrc.write_text(f"machine 127.0.0.1:{server.port}\n  login user\n  password {API_KEY}\n")
    source = WandbApiSource(server.url, None, tmp_path)
    assert list(source.projects(None))
    with source.open_run(RunRef("team", "sample", "run00001"), tmp_path / "s") as run:
        assert run.fetch("config.yaml")
    source.close()


def test_a_service_that_is_down_is_waited_for(tmp_path: Path) -> None:
    with WandbServer(Entity("team")) as gone:
        pass
    with pytest.raises(Throttled) as caught:
        WandbApiSource(gone.url, API_KEY, tmp_path)
    assert caught.value.error_class is ErrorClass.UNAVAILABLE


LIMITED = '{"errors": [{"message": "rate limit exceeded for this account"}]}'


def test_a_limit_that_is_told_in_words_pauses_all_workers(make: Make, opened: Opened) -> None:
    server, source = make(Run("r"))
    server.faults.set([Fault("graphql Run$", "status", None, status=200, body=LIMITED)])
    assert error_of(Throttled, lambda: opened(source, "r")).error_class is ErrorClass.RATE_LIMITED


def test_a_pause_longer_than_any_request_is_passed_on(server: WandbServer, tmp_path: Path, opened: Opened) -> None:
    source = WandbApiSource(server.url, API_KEY, tmp_path / "w", timeout_s=2)
    wait = Fault("graphql", "status", times=None, status=429, headers={"Retry-After": "900"})
    server.faults.set([wait])
    try:
        told = error_of(Throttled, lambda: opened(source, "r"))
    finally:
        server.faults.set([])
        source.close()
    assert isinstance(told, Throttled)
    assert (told.error_class, told.retry_after_s) == (ErrorClass.RATE_LIMITED, 900)


def everlasting(path: str) -> Response:
    return Response(302, headers={"Location": f"{path}x"})


class Odd(Server):
    """Gives one answer to everything."""

    answer_to_all: Callable[[str], Response]

    def handle(self, request: Request) -> Response:
        return self.answer_to_all(request.path)


@pytest.mark.parametrize(
    ("answer", "error_class", "words"),
    [
        (lambda _: Response(200, b"<!DOCTYPE html>", "text/html"), ErrorClass.UNAVAILABLE, "web page.*WANDB_BASE_URL"),
        (lambda _: Response(429, headers={"Retry-After": "1000000000"}), ErrorClass.RATE_LIMITED, "asks to wait"),
        (lambda _: Response(503, headers={"Retry-After": "1000000000"}), ErrorClass.UNAVAILABLE, "asks to wait"),
        (everlasting, ErrorClass.UNAVAILABLE, "redirects without end"),
        (lambda _: Response(200, b"{" * 10_000_000), ErrorClass.UNAVAILABLE, "over 64 KiB"),
    ],
    ids=["web page", "429", "503", "redirects", "no JSON"],
)
def test_absurd_answers_at_login_are_no_refused_key(
    answer: Callable[[str], Response], error_class: ErrorClass, words: str, tmp_path: Path
) -> None:
    with Odd() as server:
        server.answer_to_all = answer
        with pytest.raises(Throttled, match=words) as caught:
            WandbApiSource(server.url, API_KEY, tmp_path)
    assert caught.value.error_class is error_class


def test_an_answer_that_comes_byte_by_byte_is_too_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        told = obstacle(url, Transport(), look_s=1.0)
    assert told
    assert (told.error_class, told.service) == (ErrorClass.TIMEOUT, "wandb")


def drip(listening: socket.socket) -> None:
    """Accept one connection and send a header that never ends, one byte every tenth of a second."""
    connection, _ = listening.accept()
    try:
        for byte in itertools.chain(b"HTTP/1.1 200 OK\r\nX-Odd: ", itertools.repeat(65)):
            connection.sendall(bytes([byte]))
            time.sleep(0.1)
    except OSError:  # the other side gave up
        connection.close()


def test_an_address_that_is_none_is_for_a_person(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="WANDB_BASE_URL"):
        WandbApiSource("not an address", API_KEY, tmp_path)


def test_settings_of_the_surroundings_do_not_leak_in_and_come_back_at_the_end(
    server: WandbServer, source: WandbApiSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a process of its own: this one's wandb is already set up
    script = """
import os, sys, psutil
from pathlib import Path
from migrator.sources.wandb.listing import WandbApiSource
assert "wandb" not in sys.modules and "pyarrow" not in sys.modules
before = dict(os.environ)
source = WandbApiSource(None, None, Path(sys.argv[1]) / "scratch")
print(sorted(project.name for project in source.projects(None)))
assert "wandb-core" in [child.name() for child in psutil.Process().children()]
source.close()
assert not psutil.Process().children(), psutil.Process().children()
assert {**os.environ, "WANDB_SERVICE": ""} == before, before.items() ^ os.environ.items()
"""
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nbase_url = http://127.0.0.1:9\nentity = nobody\n")
    surroundings = {
        "WANDB_ENTITY": "nobody",
        "WANDB_PROJECT": "nothing",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SERVICE": "",
    }
    surroundings |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": API_KEY, "PYTHONPATH": os.getcwd()}
    done = run_python(script, tmp_path, os.environ | surroundings)
    assert done == str(sorted(project.name for project in server.entities["team"].projects))
    assert not [name for name in os.listdir(tmp_path) if name not in ("wandb", "scratch")]


def test_one_source_serves_many_threads(server: WandbServer, source: WandbApiSource, opened: Opened) -> None:
    def read(number: int) -> int:
        reader = opened(source, f"run{number % 3:05}", "sample")
        files = [reader.fetch(file.name) for file in reader.files()]
        return len(rows_of(reader)) + len(files)

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(read, range(48))) == {56}

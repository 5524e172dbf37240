"""The checks of `migrate doctor` that need no service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from email.utils import formatdate
from functools import partial
from pathlib import Path

import pytest

from migrations_db import StateReadOnly, open_store
from migrator.commands.doctor import machine, places
from migrator.commands.doctor.checks import Check, Health, attempted, attempted_at_once, bad, ok, warn, worst
from migrator.commands.remembered import Settled
from migrator.errors import ErrorClass, ExitCode, MigratorError, Rejected, Retryable, UserError
from migrator.job.address import COPIES
from migrator.parts.base import MappingOptions
from migrator.services import Introduction, ahead_s


@pytest.mark.parametrize(
    ("error", "exit_code", "words"),
    [
        (UserError("no such key", ExitCode.CREDENTIALS), ExitCode.CREDENTIALS, "no such key"),
        (UserError("no such option"), ExitCode.USAGE, "no such option"),
        (Retryable(ErrorClass.UNAVAILABLE, "it is down"), ExitCode.TRY_LATER, "firewall"),
        (Rejected(ErrorClass.PERMISSION, "not you"), ExitCode.CREDENTIALS, "administrator"),
        (StateReadOnly("x.db may not be written"), ExitCode.STATE, "x.db"),
        (PermissionError(13, "Permission denied", "/x"), ExitCode.USAGE, "/x: Permission denied"),
        (MigratorError("odd"), ExitCode.UNEXPECTED, "report"),
        (ZeroDivisionError("a bug"), ExitCode.UNEXPECTED, "migration-logs/"),
        (Retryable(ErrorClass.UNAVAILABLE, "https://me:pw@host?X-Sig=abcdefghij"), ExitCode.TRY_LATER, "***@host"),
    ],
)
def test_an_error_becomes_a_line_behind_what_was_found(error: Exception, exit_code: ExitCode, words: str) -> None:
    def look() -> Iterator[Check]:
        yield ok("first", "fine")
        raise error

    first, failed = attempted("second", look)
    assert (first.name, failed.name, failed.health, failed.exit_code) == ("first", "second", Health.BAD, exit_code)
    told = f"{failed.message} {failed.next_step}"
    assert words in told
    assert "pw@" not in told
    assert "abcdefghij" not in told
    assert [check.name for check in attempted_at_once({"second": look, "third": lambda: [ok("third", "")]})] == [
        "first",
        "second",
        "third",
    ]


def test_what_a_person_must_correct_is_the_exit_code_before_what_may_pass() -> None:
    later, state = bad("a", "", "", ExitCode.TRY_LATER), bad("b", "", "", ExitCode.STATE)
    key = bad("c", "", "", ExitCode.CREDENTIALS)
    assert worst([ok("x", ""), warn("y", "", "")]) is ExitCode.OK
    assert worst([later, ok("x", "")]) is ExitCode.TRY_LATER
    assert worst([later, state]) is ExitCode.STATE
    assert worst([later, state, key]) is ExitCode.CREDENTIALS


@pytest.mark.parametrize(
    ("variables", "results", "words"),
    [
        ({}, ["ok", "ok"], ["none set", "usual"]),
        ({"https_proxy": "http://me:s3cret@proxy:3128"}, ["ok", "ok"], ["https_proxy (***@proxy:3128)"]),
        ({"HTTPS_PROXY": "me:s3cret@[bad"}, ["ok", "ok"], ["HTTPS_PROXY (***)"]),
        ({"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "a,b"}, ["ok", "ok"], ["(http://proxy:1)", "NO_PROXY (a,b)"]),
        ({"REQUESTS_CA_BUNDLE": __file__}, ["ok", "ok"], ["as REQUESTS_CA_BUNDLE says"]),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, ["ok", "bad"], ["SSL_CERT_FILE", "does not exist"]),
        ({"NEPTUNE_VERIFY_SSL": "False"}, ["ok", "warn"], ["NEPTUNE_VERIFY_SSL"]),
        ({"WANDB_INSECURE_DISABLE_SSL": "false"}, ["ok", "ok"], ["usual"]),
    ],
)
def test_proxies_and_certificates_are_told_without_passwords(
    variables: dict[str, str], results: list[str], words: list[str]
) -> None:
    found = list(machine.environment(variables))
    text = json.dumps([check.message for check in found])
    assert [check.health for check in found] == results
    assert [word for word in words if word not in text] == []
    assert "s3cret" not in text


def test_a_directory_need_not_be_there_to_be_tried(tmp_path: Path) -> None:
    [found] = machine.disk("scratch files", tmp_path / "not" / "yet", "scratch files")
    assert "free for scratch files in" in found.message
    assert list(tmp_path.iterdir()) == []
    [refused] = attempted("scratch files", lambda: machine.disk("scratch files", Path("/sys/x"), "scratch files"))
    assert (refused.health, refused.exit_code) == (Health.BAD, ExitCode.USAGE)


def test_local_directories_are_read(tmp_path: Path) -> None:
    [missing] = attempted("local runs", lambda: places.local_directories([tmp_path / "nowhere"]))
    assert (missing.health, "does not exist" in missing.message) == (Health.BAD, True)
    run = tmp_path / "run-20240501_120000-abc"
    (run / "files").mkdir(parents=True)
    (run / "run-abc.wandb").write_bytes(b"")
    (run / "files" / "output.log").write_text("hello\n")
    [found] = places.local_directories([tmp_path])
    assert found.health is Health.WARN
    assert "1 run of 1 project" in found.message
    assert "empty_log" in found.message


def test_a_database_that_belongs_to_another_destination_is_told(tmp_path: Path) -> None:
    db = tmp_path / "migration.db"
    with open_store(db) as store:
        store.claim_setting(COPIES, "offline:/elsewhere")
    where = Settled("offline", "workspace", tmp_path / "here", MappingOptions())
    for is_there, health in ((False, Health.OK), (True, Health.BAD)):
        [found] = attempted("destination", partial(places.destination, str(db), where, is_there=is_there))
        assert found.health is health
    assert "/elsewhere" in found.message


@pytest.mark.parametrize(("ahead", "health"), [(2.0, "ok"), (3600.0, "warn"), (-90.0, "warn")])
def test_a_clock_is_compared_with_the_services(ahead: float, health: str) -> None:
    services = places.Services()
    assert list(services.clock()) == []
    services.note("W&B", replace(Introduction("http://w"), ahead_s=ahead))
    services.note("Neptune", Introduction("http://n"))
    [found] = services.clock()
    assert found.health == health
    assert "Neptune" not in found.message
    assert ("behind" in found.message) == (ahead > 30)


def test_a_date_header_is_read_or_ignored() -> None:
    assert ahead_s(formatdate(1_000_060, usegmt=True), 1_000_000.0, 1_000_001.0) == 60.0
    assert [ahead_s(header, 0.0, 0.0) for header in (None, "", "yesterday", "Thu, 99 Foo 2024")] == [None] * 4

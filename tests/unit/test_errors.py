from __future__ import annotations

import errno
import resource
import shutil
from pathlib import Path

import pytest

from migrator.errors import (
    FULL_BELOW_BYTES,
    RETRY_AFTER_MAX_S,
    ErrorClass,
    ExitCode,
    Rejected,
    Retryable,
    RunError,
    Throttled,
    again_on_the_spot,
    disk_full,
    of_status,
    refuses_address,
    retry_after_s,
    too_few_files,
)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("Wed, 99 Oct 2099 07:28:00 GMT", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-5", None),
        ("nan", None),
        ("inf", RETRY_AFTER_MAX_S),
        ("99999999", RETRY_AFTER_MAX_S),
        ("Thu, 21 Oct 1999 07:28:00 GMT", None),
        ("Thu, 21 Oct 2199 07:28:00 GMT", RETRY_AFTER_MAX_S),
    ],
)
def test_a_retry_after_is_seconds_or_a_date_and_never_too_long(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds


@pytest.mark.parametrize(
    ("status", "wait_s", "kind", "error_class"),
    [
        (302, None, Rejected, ErrorClass.UNKNOWN),
        (400, None, Rejected, ErrorClass.UNKNOWN),
        (403, None, Rejected, ErrorClass.PERMISSION),
        (404, None, Rejected, ErrorClass.NOT_FOUND),
        (408, None, Retryable, ErrorClass.TIMEOUT),
        (410, None, Rejected, ErrorClass.NOT_FOUND),
        (413, None, Rejected, ErrorClass.BAD_DATA),
        (425, None, Retryable, ErrorClass.UNAVAILABLE),
        (429, None, Throttled, ErrorClass.RATE_LIMITED),
        (429, 7.0, Throttled, ErrorClass.RATE_LIMITED),
        (500, 7.0, Retryable, ErrorClass.UNAVAILABLE),
        (503, None, Retryable, ErrorClass.UNAVAILABLE),
        (503, 7.0, Throttled, ErrorClass.UNAVAILABLE),
        (520, None, Retryable, ErrorClass.UNAVAILABLE),
    ],
)
def test_a_status_means_the_same_whoever_sends_it_unless_a_service_differs(
    status: int, wait_s: float | None, kind: type[RunError], error_class: ErrorClass
) -> None:
    told = of_status(status, "words", "service", wait_s, differs={413: (Rejected, ErrorClass.BAD_DATA)})
    assert (type(told), told.error_class, str(told)) == (kind, error_class, "words")
    assert getattr(told, "retry_after_s", wait_s if kind is not Throttled else None) == wait_s
    assert refuses_address(status) == (kind is Rejected and status >= 400)


def test_a_service_is_waited_for_on_the_spot_only_if_it_does_not_take_long() -> None:
    for wait_s, again in {None: True, 0.0: 0.0, 10.0: 10.0, 10.5: False}.items():
        assert again_on_the_spot(Throttled(ErrorClass.UNAVAILABLE, "", "s", wait_s), may_pass=True) == again
    assert again_on_the_spot(Rejected(ErrorClass.UNKNOWN, ""), may_pass=False) is False


def test_only_a_disk_without_room_for_anybody_concerns_all_runs(tmp_path: Path) -> None:
    gone = tmp_path / "removed" / "since"
    too_large = disk_full(OSError(errno.ENOSPC, ""), "a file", gone)
    over_quota = disk_full(OSError(errno.EDQUOT, ""), "a file", gone)
    assert too_large
    assert over_quota
    assert too_large.concerns_all() is (shutil.disk_usage(tmp_path).free < FULL_BELOW_BYTES)
    assert over_quota.concerns_all()
    assert disk_full(OSError(errno.EACCES, ""), "a file", gone) is None


def test_a_limit_of_open_files_is_named() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    told = too_few_files()
    assert f"allows {limit} per process (`ulimit -n`)" in str(told)
    assert told.exit_code is ExitCode.UNEXPECTED

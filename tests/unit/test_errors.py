from __future__ import annotations

import errno
import resource
import shutil
from pathlib import Path

import pytest

from migrator.errors import FULL_BELOW_BYTES, RETRY_AFTER_MAX_S, ExitCode, disk_full, retry_after_s, too_few_files


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

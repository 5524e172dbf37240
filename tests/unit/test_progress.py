"""How fast a job goes, how long it will take, and how that is told."""

from __future__ import annotations

import io
from typing import Any

import pytest

from migrations_db.report_types import Progress, RunningRun
from migrations_db.states import RunStatus
from migrator.figures import age_text, amount
from migrator.job.display import Bars, Lines, running_text, speed_text
from migrator.job.pace import Pace, Speed, time_left_s


def progress(done: int = 0, pending: int = 0, **more: Any) -> Progress:
    counts = dict.fromkeys(RunStatus, 0) | {RunStatus.DONE: done, RunStatus.PENDING: pending}
    return Progress(counts, **{"points_read": 0, "points_written": 0, "points_expected": 0, "size_bytes": 0} | more)


@pytest.mark.parametrize(
    ("figures", "per_s", "left_s"),
    [
        ({"pending": 0}, (0.0, 0.0), 0.0),
        ({"points_read": 100, "points_expected": 600}, (50.0, 1.0), 10.0),
        (
            {"points_read": 100, "points_expected": 600, "bytes_expected": 4_000},
            (50.0, 100.0),
            40.0,
        ),  # files take longer
        ({"points_read": 100, "points_expected": 600}, (0.0, 1.0), None),
        ({"points_read": 100, "points_expected": 600, "is_measured": False}, (50.0, 1.0), None),
    ],
)
def test_the_time_left_follows_from_what_is_left_to_copy(
    figures: dict[str, Any], per_s: tuple[float, float], left_s: float | None
) -> None:
    assert time_left_s(progress(**{"done": 3, "pending": 5} | figures), *per_s) == left_s


def test_the_speed_is_that_of_the_last_minute() -> None:
    pace = Pace()
    total = {"done": 3, "pending": 1, "points_expected": 100_000}
    assert pace.note(progress(**total), 0.0) == Speed(0.0, 0.0, None)
    assert pace.note(progress(**total, points_read=1_000), 10.0) == Speed(100.0, 0.0, None)  # too early to tell
    for second in range(20, 200, 10):
        speed = pace.note(progress(**total, points_read=1_000 + 10 * (second - 10)), float(second))
    assert speed.values == pytest.approx(10.0)
    assert speed.left_s == pytest.approx((100_000 - 2_800) / 10)


def test_a_short_job_tells_the_time_left_once_a_share_of_it_is_copied() -> None:
    total, pace = {"done": 3, "pending": 1, "points_expected": 10_000}, Pace()
    pace.note(progress(**total), 0.0)
    assert pace.note(progress(**total, points_read=1_900), 2.0).left_s is None
    assert pace.note(progress(**total, points_read=4_000), 4.0).left_s == pytest.approx(6.0)


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (999.6, "1.0k"), (12_345, "12.3k"), (123_456, "123k"), (4.5e6, "4.5M")]
)
def test_amounts_have_about_three_digits(number: float, text: str) -> None:
    assert amount(number) == text


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12_600, "3.5 h"), (600_000, "6.9 days")])
def test_times_are_told_in_one_unit(seconds: float, text: str) -> None:
    assert age_text(seconds) == text


def running(run_id: str, elapsed_s: float) -> RunningRun:
    return RunningRun(1, f"team/p/{run_id}", "", "w", "history", 1, 2, 0.0, elapsed_s)


def test_the_runs_that_take_longest_are_named() -> None:
    runs = [running("quick", 3), running("slow", 700), running("slower\x1b", 4_000)]
    assert running_text(runs) == "now    slower\\x1b history 67 min, slow history 12 min, +1"
    assert running_text([]) == ""


def test_figures_fit_a_line_of_80_columns() -> None:
    told = speed_text(progress(points_read=123_456_789), Speed(12_345, 45.6e6, 7_000))
    assert told == "123M, 12.3k/s, 45.6MB/s, 117 min left"
    assert len("values 100% |" + "#" * 20 + "| " + told) <= 80
    assert speed_text(progress(points_read=5), Speed(1, 0, None)) == "5, 1/s, estimating"


def test_away_from_a_terminal_a_line_tells_speed_time_and_what_is_slow(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(every_s=0.0)
    lines.update(progress(2, 3, points_written=1_234, running=[running("slow", 120)]))
    said = capsys.readouterr().err
    assert "2 of 5 runs done, 0 running, 0 failed; 1,234 values written, 0/s; 0 s so far" in said
    assert "time left: estimating; now    slow history 2 min" in said


def test_bars_show_runs_values_and_what_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    bars = Bars()
    bars.update(progress(2, 3, points_read=500, points_expected=1_000, running=[running("slow", 120)]))
    bars.close()
    shown = screen.getvalue()
    assert "2 of 5" in shown
    assert "500, 0/s, estimating" in shown
    assert "now    slow history 2 min" in shown

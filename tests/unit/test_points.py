"""Points of series: kept by path however many there are, and compared one by one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from migrator.copying.digests import FLOATS, TEXTS, micro_steps
from migrator.copying.points import Column, Differences, PointSpool, column_of, columns_of, differing
from migrator.records import Columns, Histogram, LocalFile, Points

AT_US = 1_700_000_000_000_400


def column(values: dict[float, Any], kind: str = FLOATS, late_us: int = 0) -> Column:
    """Points by step, a second apart."""
    steps = micro_steps([*values])
    return column_of(kind, steps, AT_US + np.arange(len(steps)) * 1_000_000 + late_us, [*values.values()])


def moved(one: Column, step: float, by_us: int) -> Column:
    """The same with another time at a step."""
    return one._replace(times_us=np.where(one.steps == micro_steps(step), one.times_us + by_us, one.times_us))


FIVE: dict[float, Any] = {0: 0.5, 1: math.nan, 2: -0.0, 3: math.inf, 4.5: 1e-300}


@pytest.mark.parametrize(
    ("got", "found"),
    [
        (column(FIVE), None),
        (column(FIVE | {2: 0.0}), None),
        (column(FIVE, late_us=-400), None),  # cut to milliseconds
        (column(FIVE | {4.5: 2e-300}), (0, 1, "step 4.5: 1e-300", "step 4.5: 2e-300")),
        (column(FIVE | {1: 0.0}), (0, 1, "step 1: nan", "step 1: 0.0")),
        (
            moved(column(FIVE), 3, 1_100),
            (0, 1, "step 3: time 1700000003.000 s since 1970", "step 3: time 1700000003.001 s since 1970"),
        ),
        (
            Column(*(array[[0, 1, 4]] for array in column(FIVE)[:3])),
            (2, 0, "step 2: 0.0; step 3: inf", "step 2: missing; step 3: missing"),
        ),
        (column(FIVE | {9: 1.0}), (0, 1, "step 9: nothing", "step 9: 1.0")),
        (
            column(dict.fromkeys(FIVE, 7.0)),
            (0, 5, "step 0: 0.5; step 1: nan; step 2: 0.0", "step 0: 7.0; step 1: 7.0; step 2: 7.0 (5 points differ)"),
        ),
    ],
)
def test_the_first_points_that_differ_are_named(got: Column, found: tuple[Any, ...] | None) -> None:
    expected = found and Differences(*found)
    assert differing(column(FIVE), got) == expected
    backwards = Column(*(array[::-1] for array in got[:3]))  # as it is read back
    assert differing(column(FIVE), backwards) == expected


def test_texts_that_look_alike_are_told_apart() -> None:
    long = {0: "x" * 500 + "a", 1: 'quoted "text"\n'}
    assert differing(column(long, TEXTS), column(dict(long), TEXTS)) is None
    found = differing(column(long, TEXTS), column(long | {0: "x" * 500 + "b"}, TEXTS))
    assert found
    assert found.want.startswith('step 0: "xxx')
    assert found.want != found.got
    found = differing(column(long, TEXTS), column({0: long[0]}, TEXTS))
    assert found == Differences(1, 0, 'step 1: "quoted \\"text\\"\\n"', "step 1: missing")


def test_points_of_all_kinds_come_back_from_memory_and_from_the_file(tmp_path: Path) -> None:
    steps = np.arange(50, dtype=np.int64)
    numbers = Columns(steps, AT_US + steps, {"loss": steps / 7}, {})
    image = LocalFile(tmp_path / "a", "a", 9, "0" * 32)
    rows = [
        Points(
            step, AT_US + step, {"note": f"text {step}", "dist": Histogram((0.0, 1.0), (step,)), "image": image, "n": 3}
        )
        for step in range(100)
    ]
    kept = []
    for held in (10**6, 60):
        spool = PointSpool(tmp_path / "points", held)
        for records in ([numbers], rows[:40], rows[40:]):
            for path, one in columns_of(records):
                spool.add(path, one)
        assert (tmp_path / "points").exists() == (held == 60)
        kept.append({path: spool.column(path) for path in ("loss", "note", "dist", "image", "n", "absent")})
        spool.close()
        assert not (tmp_path / "points").exists()
    assert {path: len(one.steps) for path, one in kept[0].items()} == {
        **dict.fromkeys(("note", "dist", "image", "n"), 100),
        "loss": 50,
        "absent": 0,
    }
    assert all(differing(one, kept[1][path]) is None for path, one in kept[0].items())
    assert kept[1]["note"].value(99) == '"text 99"'
    assert kept[1]["loss"].value(7) == "1.0"

"""Measures work of users, with the goals of the project, beside two references measured in the same run.

    python -m tests.benchmarks                       everything, once
    python -m tests.benchmarks small long --repeat 3
    python -m tests.benchmarks --markdown            the table in README: medians of 3

*public API*: one `neptune_scale.Run(mode="async")` per run and one `log_metrics` per step, as a script would do it.
*bare limit*: the same bytes read from the source and pushed to the destination, without converting or checking.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter

from tests.benchmarks import cases, looks
from tests.benchmarks.harness import Figure, busy_percent, machine

BUSY_PERCENT = 20.0  # of all processors, by others

CASES: dict[str, Callable[[float], Iterator[Figure]]] = {
    "help": cases.help_text,
    "start": cases.start,
    "inventory": cases.inventory,
    "claims": cases.claims,
    "small": cases.small_runs,
    "long": cases.long_runs,
    "local": cases.local_run,
    "shapes": cases.shapes,
    "memory": cases.memory,
    "status": looks.looking,
    "verify": looks.verifying,
    "report": looks.reporting,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *CASES], help="which (default: all)")
    parser.add_argument("--repeat", type=int, help="and print medians (default: once; with --markdown 3 times)")
    parser.add_argument("--markdown", action="store_true", help="end with a table for README")
    parser.add_argument("--scale", type=float, default=1.0, help="of sizes: 0.1 for a quick look")
    arguments = parser.parse_args()
    repeat = arguments.repeat or (3 if arguments.markdown else 1)
    print(machine())
    if (busy := busy_percent()) > BUSY_PERCENT:
        print(f"Warning: something else uses {busy:.0f} % of this machine, so the figures will be worse than they are")
    medians: dict[str, list[Figure]] = {}
    for name in arguments.names or CASES:
        figures: dict[str, list[Figure]] = {}
        for _ in range(repeat):
            print(f"\n{name}")
            for figure in CASES[name](arguments.scale):
                figures.setdefault(figure.name, []).append(figure)
                print(figure, flush=True)
        medians[name] = [_median(measured) for measured in figures.values()]
    if repeat > 1:
        print(f"\nmedian of {repeat}", *itertools.chain.from_iterable(medians.values()), sep="\n")
    if arguments.markdown:
        print("", *_markdown(medians, repeat), sep="\n")


def _median(measured: Sequence[Figure]) -> Figure:
    """The figure in the middle; of an even number the lower one, so that its CPU time belongs to it."""
    return sorted(measured, key=attrgetter("value"))[(len(measured) - 1) // 2]


def _markdown(medians: Mapping[str, Sequence[Figure]], repeat: int) -> Iterator[str]:
    """A table with a row for each case."""
    yield f"| {datetime.now(UTC):%Y-%m-%d} | {machine()}; medians of {repeat} |"
    yield "|---|---|"
    for case, figures in medians.items():
        yield f"| {case} | {'<br>'.join(map(_in_a_cell, figures))} |"


def _in_a_cell(figure: Figure) -> str:
    beside = "; ".join(text for text in (figure.use, figure.note) if text)
    return f"{figure.name}: **{figure.number} {figure.unit}**" + (f" ({beside})" if beside else "")


if __name__ == "__main__":
    main()

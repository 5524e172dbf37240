"""Measures what the project promises, beside two references measured in the same run.

    python -m tests.benchmarks                       everything, once
    python -m tests.benchmarks small long --repeat 3

*public API*: one `neptune_scale.Run(mode="async")` a run and one `log_metrics` a step, the way a script would do it.
*bare limit*: the same bytes read from the source and pushed to the destination, without converting or checking.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from statistics import median

from tests.benchmarks import cases
from tests.benchmarks.harness import Figure, machine

CASES: dict[str, Callable[[float], Iterator[Figure]]] = {
    "help": cases.help_text,
    "start": cases.start,
    "inventory": cases.inventory,
    "claims": cases.claims,
    "small": cases.small_runs,
    "long": cases.long_runs,
    "local": cases.local_run,
    "memory": cases.huge_run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *CASES], help="which (default: all)")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of sizes: 0.1 for a quick look")
    arguments = parser.parse_args()
    print(machine())
    figures: dict[str, list[Figure]] = {}
    for name in arguments.names or CASES:
        for _ in range(arguments.repeat):
            print(f"\n{name}")
            for figure in CASES[name](arguments.scale):
                figures.setdefault(figure.name, []).append(figure)
                print(figure, flush=True)
    if arguments.repeat > 1:
        print(f"\nmedian of {arguments.repeat}")
        for measured in figures.values():
            print(replace(measured[-1], value=median(figure.value for figure in measured)))


if __name__ == "__main__":
    main()

"""Measures what the project promises, beside two references measured in the same run.

    python -m tests.benchmarks                       everything, once
    python -m tests.benchmarks small long --repeat 3

*public API*: one `neptune_scale.Run(mode="async")` a run and one `log_metrics` a step, the way a script would do it.
*bare limit*: the same bytes read from the source and pushed to the destination, without converting or checking.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from tests.benchmarks import cases
from tests.benchmarks.harness import machine

CASES: dict[str, Callable[[float], None]] = {
    "help": cases.help_text,
    "start": cases.start,
    "inventory": cases.inventory,
    "claims": cases.claims,
    "small": cases.small_runs,
    "long": cases.long_runs,
    "local": cases.local_run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *CASES], help="which (default: all)")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="of sizes: 0.1 for a quick look")
    arguments = parser.parse_args()
    print(machine())
    for name in arguments.names or CASES:
        for _ in range(arguments.repeat):
            print(f"\n{name}")
            CASES[name](arguments.scale)


if __name__ == "__main__":
    main()

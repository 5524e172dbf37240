"""The `migrate` that tests, soak and benchmarks drive: another process, in another environment if need be."""

from __future__ import annotations

import os
import sys

VARIABLE = "MIGRATE_TEST_COMMAND"


def migrate_command() -> list[str]:
    """The executable that MIGRATE_TEST_COMMAND names; without it, the program in the environment of the tests."""
    driven = os.environ.get(VARIABLE)
    return [driven] if driven else [sys.executable, "-m", "migrator"]

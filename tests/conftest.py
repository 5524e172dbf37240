"""Says which tests are slow; puts temporary files of the vendors' SDKs into a directory that is removed.

Those files live as long as the processes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from migrator.settings import KEYS, keys

#: fixtures of tests that start processes, each of which costs seconds: the command (`migrate`), or the safe client's
STARTING = {"migrate", "set_scene", "safe_place"}

_ours = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start processes are slow, except for the main jobs."""
    for item in items:
        if STARTING.intersection(getattr(item, "fixturenames", ())) and not item.get_closest_marker("installed"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def no_keys_of_other_tests() -> Iterator[None]:
    """A process that has seen a key keeps it; the next test is another user's."""
    yield
    os.environ |= dict.fromkeys(KEYS, "")
    keys()


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # of pytest-xdist: it has the environment of the process that started it
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # what tests wrote stays where people look
    config.stash[_ours] = tempfile.mkdtemp(prefix="migrate-")  # a short name: sockets lie in it
    os.environ["TMPDIR"] = tempfile.tempdir = config.stash[_ours]


def pytest_unconfigure(config: pytest.Config) -> None:
    if directory := config.stash.get(_ours, None):
        shutil.rmtree(directory, ignore_errors=True)

"""Temporary files of the vendors' SDKs, which live as long as their processes, lie in a directory that is removed."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

_ours = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # of pytest-xdist: it has the environment of the process that started it
        return
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # what tests wrote stays where people look
    config.stash[_ours] = tempfile.mkdtemp(prefix="migrate-")  # a short name: sockets lie in it
    os.environ["TMPDIR"] = tempfile.tempdir = config.stash[_ours]


def pytest_unconfigure(config: pytest.Config) -> None:
    if directory := config.stash.get(_ours, None):
        shutil.rmtree(directory, ignore_errors=True)

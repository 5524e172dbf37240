"""Imported before workers are forked (see `migrator.job.forking`): the SDK, with the settings it reads on import."""

from __future__ import annotations

import os

from migrator.sources.wandb.client import SETTINGS, UNSET

os.environ.update(SETTINGS)
for _name in UNSET:
    os.environ.pop(_name, None)


import migrator.sources.wandb.listing  # noqa: E402, F401

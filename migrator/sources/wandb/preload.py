"""Imported before workers are forked (see `migrator.job.forking`): the SDK, with the settings it reads on import."""

from __future__ import annotations

import os
from importlib import import_module

from migrator.sources.wandb.client import SETTINGS, UNSET

os.environ.update(SETTINGS)
for name in UNSET:
    os.environ.pop(name, None)
for name in ("wandb.apis.public", "wandb.sdk.wandb_setup", "wandb.sdk.lib.wbauth", "migrator.sources.wandb.run"):
    import_module(name)

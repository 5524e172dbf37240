"""Imported first by the server from which workers are forked: it makes the imports that follow faster."""

from __future__ import annotations

from migrator.garbage import collect_rarely

collect_rarely()

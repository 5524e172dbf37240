"""The parts of a run, in copy order. A new kind of metadata is one module and one line here."""

from __future__ import annotations

from migrator.parts import artifacts, attributes, console, documents, files, history, system
from migrator.parts.base import Part

PARTS: dict[str, Part] = {
    "attributes": attributes.batches,
    "config": documents.config_batches,
    "summary": documents.summary_batches,
    "history": history.batches,
    "system": system.batches,
    "console": console.batches,
    "files": files.batches,
    "artifacts": artifacts.batches,
}

#: copied only with --include: artifacts can be terabytes
OPTIONAL_PARTS = frozenset({"artifacts"})

#: copied unless --exclude names them
STANDARD_PARTS = tuple(name for name in PARTS if name not in OPTIONAL_PARTS)

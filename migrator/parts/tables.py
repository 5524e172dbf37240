"""What a table file does not hold: W&B writes media in its cells as the name of their kind alone."""

from __future__ import annotations

import json
from pathlib import Path

#: what `wandb.util.json_friendly_val` (0.31) makes of media: the name of their class
MEDIA = ("Image", "Audio", "Video", "Html", "Object3D", "Molecule", "Plotly", "Bokeh", "Table", "JoinedTable")
PARSED_BYTES = 64 * 1024 * 1024  # of larger tables the text alone is searched


def media_in_cells(path: Path) -> list[str]:
    """Kinds of media that cells of a table stand for, in the order of `MEDIA`; a text of that name counts, too."""
    content = path.read_bytes()
    named = [kind for kind in MEDIA if f'"{kind}"'.encode() in content]
    if not named or len(content) > PARSED_BYTES:
        return named
    try:
        rows = json.loads(content).get("data", ())
        cells = {cell for row in rows for cell in row if isinstance(cell, str)}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []
    return [kind for kind in named if kind in cells]

"""What a table file lacks: for media in a cell, W&B writes only the name of their kind."""

from __future__ import annotations

import json
from pathlib import Path

#: what `wandb.util.json_friendly_val` (0.31) replaces media with: the name of their class
MEDIA = ("Image", "Audio", "Video", "Html", "Object3D", "Molecule", "Plotly", "Bokeh", "Table", "JoinedTable")
PARSED_BYTES = 64 * 1024 * 1024  # larger tables are not parsed: their text is searched for the names


def media_in_cells(path: Path) -> list[str]:
    """The kinds of media named in the cells of a table, in the order of `MEDIA`. Text equal to a name counts too."""
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

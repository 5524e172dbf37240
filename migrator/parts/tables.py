"""What a table file lacks: for media in a cell, W&B writes only the name of their kind."""

from __future__ import annotations

import json
from mmap import ACCESS_READ, mmap
from pathlib import Path

#: what `wandb.util.json_friendly_val` (0.31) replaces media with: the name of their class
MEDIA = ("Image", "Audio", "Video", "Html", "Object3D", "Molecule", "Plotly", "Bokeh", "Table", "JoinedTable")
PARSED_BYTES = 64 * 1024 * 1024  # larger tables are not parsed: their text is searched for the names


def media_in_cells(path: Path) -> list[str]:
    """The kinds of media named in the cells of a table, in the order of `MEDIA`. Text equal to a name counts too."""
    if not path.stat().st_size:  # cannot be mapped
        return []
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        named = [kind for kind in MEDIA if content.find(f'"{kind}"'.encode()) >= 0]
        if not named or len(content) > PARSED_BYTES:
            return named
        text = content[:]
    try:
        rows = json.loads(text).get("data", ())
        cells = {cell for row in rows for cell in row if isinstance(cell, str)}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return []
    return [kind for kind in named if kind in cells]

"""Many records at a time, where there are many. Few are left to protobuf: numpy and pyarrow take 0.2 s to import."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from migrator.records import HistoryColumns
from migrator.sources.wandb_local.log import HISTORY

if TYPE_CHECKING:
    from migrator.sources.wandb_local.items import Items, Numbers, Records

MANY_BYTES = 128 * 1024


class OneByOne(Exception):
    """These records must be read one by one: they are few, or something about them is not as usual."""


def records_of(payloads: Sequence[bytes]) -> Records:
    """Serialized records, to be read together."""
    if sum(map(len, payloads)) < MANY_BYTES:
        raise OneByOne
    from migrator.sources.wandb_local.items import Records

    return Records(payloads)


def steps_of(items: Items, floor: int | None, before: int) -> Numbers:
    """Do `LogScan.step_of` for rows in order, the first of which follows step `before`."""
    from migrator.sources.wandb_local.columns import numbered

    return numbered(items, floor, before)


def columns_of(payloads: Sequence[bytes], floor: int | None, before: int) -> HistoryColumns:
    """The rows among serialized records as columns. Their steps are as in `steps_of`."""
    items = records_of(payloads).items(HISTORY)
    from migrator.sources.wandb_local.columns import history_columns

    return history_columns(items, steps_of(items, floor, before))

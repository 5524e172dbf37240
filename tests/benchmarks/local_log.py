"""Writes a long `.wandb` log quickly, in bounded memory, as wandb 0.31 does: two records of the summary go with a row.

The items of a row are in random order, and those of its summary are the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.servers.offline_runs import LOG_HEADER, chunks

ORDERS = 100  # the items of this many rows are in orders of their own


def write_log(directory: Path, rows: int, metrics: int) -> None:
    """A finished offline run of `rows` rows below `directory`."""
    run_directory = directory / "offline-run-20240101_000000-long"
    (run_directory / "files").mkdir(parents=True)
    with (run_directory / "run-long.wandb").open("wb") as log:
        position = log.write(LOG_HEADER)
        for payload in _records(rows, metrics):
            position += log.write(chunks(payload, position))


def _records(rows: int, metrics: int) -> Iterator[bytes]:
    from wandb.proto import wandb_internal_pb2 as pb

    pb_any: Any = pb
    header = pb_any.Record(num=1)
    header.header.version_info.producer = "0.31.0"
    yield header.SerializeToString()
    run = pb_any.Record(num=2)
    run.run.run_id, run.run.project, run.run.display_name = "long", "big", "long run"
    run.run.start_time.FromSeconds(1_700_000_000)
    yield run.SerializeToString()
    chance = random.Random(0)
    names = [f"train/metric_{n:02}" for n in range(metrics)]
    orders = [chance.sample(range(metrics + 3), metrics + 3) for _ in range(ORDERS)]
    number = 3
    for step in range(rows):
        seconds = f"{step * 0.1:.6f}"
        items = [_item([name], repr(chance.random())) for name in names]
        items += [_item(["_step"], str(step)), _item(["_runtime"], seconds)]
        items += [_item(["_timestamp"], f"{1_700_000_000 + step * 0.1:.6f}")]
        in_order = b"".join(map(items.__getitem__, orders[step % ORDERS]))
        shuffled = b"".join(map(items.__getitem__, orders[step * 7 % ORDERS]))
        runtime = _item(["_wandb", "runtime"], seconds) + _item(["_runtime"], seconds)
        row_step = _field(2, b"\x08" + _varint(step) if step else b"")
        for kind, body in ((3, runtime), (3, shuffled), (2, in_order + row_step)):
            yield b"\x08" + _varint(number) + _field(kind, body)
            number += 1
    end = pb_any.Record(num=number)
    end.exit.exit_code = 0
    yield end.SerializeToString()


def _item(path: Sequence[str], text: str) -> bytes:
    return _field(1, b"".join(_field(2, name.encode()) for name in path) + _field(16, text.encode()))


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))

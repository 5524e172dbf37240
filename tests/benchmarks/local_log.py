"""Writes a long `.wandb` log quickly, in bounded memory: one encoded row serves as the template of the others."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

BLOCK = 32768


def write_log(directory: Path, rows: int, metrics: int) -> None:
    """A finished offline run of `rows` rows below `directory`; wandb 0.31 log format."""
    from wandb.proto import wandb_internal_pb2 as pb

    run_directory = directory / "offline-run-20240101_000000-long"
    (run_directory / "files").mkdir(parents=True)
    with (run_directory / "run-long.wandb").open("wb") as log:
        log.write(b":W&B\xe1\xbe\x00")
        position = 7
        for payload in _records(pb, rows, metrics):
            chunks = _chunks(payload, position)
            log.write(chunks)
            position += len(chunks)


def _records(pb: object, rows: int, metrics: int) -> Iterator[bytes]:
    header = pb.Record(num=1)  # type: ignore[attr-defined]
    header.header.version_info.producer = "0.31.0"
    yield header.SerializeToString()
    run = pb.Record(num=2)  # type: ignore[attr-defined]
    run.run.run_id, run.run.project, run.run.display_name = "long", "big", "long run"
    run.run.start_time.FromSeconds(1_700_000_000)
    yield run.SerializeToString()
    chance = random.Random(0)
    names = [f"train/metric_{n:02}" for n in range(metrics)]
    for step in range(rows):
        record = pb.Record(num=step + 3)  # type: ignore[attr-defined]
        record.history.step.num = step
        for name in names:
            item = record.history.item.add()
            item.nested_key.append(name)
            item.value_json = repr(chance.random())
        for name, value in (("_step", str(step)), ("_timestamp", f"{1_700_000_000 + step * 0.1:.6f}")):
            item = record.history.item.add()
            item.nested_key.append(name)
            item.value_json = value
        yield record.SerializeToString()
    end = pb.Record(num=rows + 3)  # type: ignore[attr-defined]
    end.exit.exit_code = 0
    yield end.SerializeToString()


def _chunks(payload: bytes, position: int) -> bytes:
    """The payload as the log's chunks (crc32, length, type) from a file position on."""
    result = bytearray()
    begun = False
    while True:
        room = BLOCK - (position + len(result)) % BLOCK
        if room < 7:
            result += bytes(room)
            room = BLOCK
        piece, payload = payload[: room - 7], payload[room - 7 :]
        kind = (3 if payload else 4) if begun else (2 if payload else 1)
        result += struct.pack("<IHB", zlib.crc32(bytes([kind]) + piece), len(piece), kind) + piece
        begun = True
        if not payload:
            return bytes(result)

"""The reader of `.wandb` logs: everything whole is read, nothing is invented, the reader says what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from migrator.errors import ErrorClass, Rejected
from migrator.sources.wandb_local.log import BLOCK_BYTES, HEADER, RECORD_BYTES_MAX, Tail, WandbLog
from tests.servers.offline_runs import serialized_log

ONE_FILE = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MIXED_BYTES = (5, 0, 300, 7, 1, 40_000, 12, 70_000, 3)  # over three blocks: full, first, middle and last chunks


def sample(sizes: Sequence[int]) -> tuple[list[bytes], bytes, list[int]]:
    """Payloads of these sizes, all different and without zeros, their log, and the offset behind each."""
    patterns = (bytes((i * 31 + k) % 255 + 1 for k in range(251)) for i in range(len(sizes)))
    parts = [(pattern * (size // 251 + 1))[:size] for pattern, size in zip(patterns, sizes, strict=True)]
    return parts, serialized_log(parts), [len(serialized_log(parts[: i + 1])) for i in range(len(parts))]


def read(path: Path, log: bytes, offset: int = 0) -> tuple[list[tuple[bytes, int]], Tail]:
    path.write_bytes(log)
    reader = WandbLog(path, offset)
    return list(reader.payloads()), reader.tail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run-x.wandb"


@ONE_FILE
@given(st.lists(st.one_of(st.integers(0, 50), st.integers(BLOCK_BYTES - 40, BLOCK_BYTES + 40)), max_size=12))
def test_records_of_any_size_come_back_with_the_offset_behind_each(path: Path, sizes: list[int]) -> None:
    parts, log, ends = sample(sizes)
    assert read(path, log) == (list(zip(parts, ends, strict=True)), Tail())


@pytest.mark.parametrize("left", range(20))
def test_a_block_that_ends_with_few_bytes_left_is_padded_with_zeros(path: Path, left: int) -> None:
    sizes = (BLOCK_BYTES - len(HEADER) - 7 - left, 100, 5)
    parts, log, ends = sample(sizes)
    assert read(path, log) == (list(zip(parts, ends, strict=True)), Tail())


def test_reading_goes_on_at_the_offset_behind_any_record(path: Path) -> None:
    parts, log, ends = sample(MIXED_BYTES)
    for i, end in enumerate(ends):
        assert [payload for payload, _ in read(path, log, end)[0]] == parts[i + 1 :]


def test_a_log_torn_at_any_byte_gives_exactly_its_whole_records(path: Path) -> None:
    parts, log, ends = sample((5, 0, 300, 7, 1, 60))
    for size in range(len(HEADER), len(log) + 1):
        found, tail = read(path, log[:size])
        whole = [(part, end) for part, end in zip(parts, ends, strict=True) if end <= size]
        good_end = whole[-1][1] if whole else len(HEADER)
        assert found == whole
        assert tail == (Tail() if size == good_end else Tail(good_end, size - good_end))


def test_a_log_torn_near_a_block_border_gives_exactly_its_whole_records(path: Path) -> None:
    parts, log, ends = sample(MIXED_BYTES)
    near = {edge + i for edge in (*range(0, len(log), BLOCK_BYTES), *ends) for i in range(-9, 10)}
    for size in sorted(size for size in near if len(HEADER) <= size <= len(log)):
        found, tail = read(path, log[:size])
        assert found == [(part, end) for part, end in zip(parts, ends, strict=True) if end <= size]
        assert (tail.torn_at is None) == (tail.bytes_lost == 0)
        assert tail.torn_at in (None, found[-1][1] if found else len(HEADER))


def test_a_flipped_byte_costs_only_records_of_its_block(path: Path) -> None:
    sizes = [997] * 130  # four blocks
    parts, log, ends = sample(sizes)
    starts = [len(HEADER), *ends[:-1]]
    for at in range(len(HEADER), len(log), 211):
        broken = bytearray(log)
        broken[at] ^= 0x55
        found, tail = read(path, bytes(broken))
        block = at // BLOCK_BYTES
        elsewhere = {
            part
            for part, start, end in zip(parts, starts, ends, strict=True)
            if block not in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1) or end <= at
        }
        assert elsewhere <= {payload for payload, _ in found} <= set(parts)
        assert [payload for payload, _ in found] == sorted((p for p, _ in found), key=parts.index)
        in_padding = not any(start <= at < end for start, end in zip(starts, ends, strict=True))
        assert tail.bytes_lost > 0 or in_padding
        if block < len(log) // BLOCK_BYTES:
            assert tail.torn_at is None
            assert found[-1][1] == len(log)


def test_a_lost_middle_of_a_long_record_costs_that_record(path: Path) -> None:
    parts, log, ends = sample((10, 3 * BLOCK_BYTES, 20))
    zeroed = log[:BLOCK_BYTES] + bytes(BLOCK_BYTES) + log[2 * BLOCK_BYTES :]
    found, tail = read(path, zeroed)
    assert found == [(parts[0], ends[0]), (parts[2], ends[2])]
    assert tail == Tail(None, ends[1] - ends[0], ((ends[0], ends[1]),))


def test_a_record_that_is_too_long_is_skipped_and_told_and_the_next_ones_are_read(path: Path) -> None:
    parts, log, ends = sample((10, RECORD_BYTES_MAX, 20, RECORD_BYTES_MAX + 1, 30))
    found, tail = read(path, log)
    assert found == [(parts[i], ends[i]) for i in (0, 1, 2, 4)]
    assert tail == Tail(None, ends[3] - ends[2], ((ends[2], ends[3]),), too_long=1)
    assert "1 of these records over 64 MiB" in str(tail)
    assert read(path, log, ends[2])[0] == [(parts[4], ends[4])]
    torn = log[: ends[3] - 1]
    assert read(path, torn)[1] == Tail(ends[2], len(torn) - ends[2])


def test_zeros_are_lost_data_wherever_they_lie(path: Path) -> None:
    parts, log, ends = sample((BLOCK_BYTES - len(HEADER) - 7, *[BLOCK_BYTES - 7] * 3, 50))
    records = list(zip(parts, ends, strict=True))
    for block in range(1, 4):
        at = block * BLOCK_BYTES
        found, tail = read(path, log[:at] + bytes(BLOCK_BYTES) + log[at + BLOCK_BYTES :])
        assert found == records[:block] + records[block + 1 :]
        assert tail == Tail(None, BLOCK_BYTES, ((at, at + BLOCK_BYTES),))
        assert f"bytes {at} to {at + BLOCK_BYTES}" in str(tail)
    assert read(path, log + bytes(3 * BLOCK_BYTES)) == (records, Tail(ends[-1], 3 * BLOCK_BYTES))


def test_a_message_names_the_first_holes_and_counts_the_others(path: Path) -> None:
    _, log, _ = sample([997] * 330)
    for block in range(1, 10, 2):
        log = log[: block * BLOCK_BYTES] + bytes(BLOCK_BYTES) + log[(block + 1) * BLOCK_BYTES :]
    _, tail = read(path, log)
    assert len(tail.holes) == 5
    assert "2 more places" in str(tail)


@pytest.mark.parametrize("size", range(len(HEADER) + 1))
def test_a_log_that_ends_in_its_header_has_no_records(path: Path, size: int) -> None:
    assert read(path, HEADER[:size])[0] == []


@pytest.mark.parametrize("content", [b"PK\x03\x04 something else", b":W&B\xe1\xbe\x01", b"{", b":W&C"])
def test_another_file_is_refused_by_name(path: Path, content: bytes) -> None:
    with pytest.raises(Rejected, match=r"run-x\.wandb is not a W&B log") as caught:
        read(path, content)
    assert caught.value.error_class is ErrorClass.BAD_DATA


def test_a_log_that_is_gone_is_not_found(path: Path) -> None:
    with pytest.raises(Rejected) as caught:
        list(WandbLog(path).payloads())
    assert caught.value.error_class is ErrorClass.NOT_FOUND


def test_a_payload_that_is_no_record_is_counted_as_lost(path: Path) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    good = Record(num=7).SerializeToString()
    path.write_bytes(serialized_log([good, b"\xff\xff\xff", good]))
    reader = WandbLog(path)
    assert [record.num for record, _ in reader.records()] == [7, 7]
    begin = len(serialized_log([good]))
    assert reader.tail == Tail(None, 10, ((begin, begin + 10),))

"""Many records at once, and their items, as arrays: a tenth of the work of reading them from protobuf messages.

Serialized records lie end to end in one array of bytes, and are read in parallel: the first item of every record,
then the second, and so on. That works for what wandb 0.31 writes for a row and for its summary:

    record   num (1, a varint), then the row (2) or the summary (3), and nothing else
    row      items (1), then the step (2): a message with the number (1), empty for 0
    summary  items (1)
    item     its path: a key (1), or nested keys (2) from the top;  then its JSON text (16)

If there is anything else, it is `OneByOne`.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf.message import DecodeError
from wandb.proto.wandb_internal_pb2 import HistoryItem

from migrator.sources.wandb_local.bulk import MANY_BYTES, OneByOne
from migrator.sources.wandb_local.log import HISTORY
from migrator.sources.wandb_local.values import item_path

NUM, ITEM, STEP, STEP_NUM, KEY, NESTED_KEY, JSON = b"\x08", b"\x0a", b"\x12", b"\x08", b"\x0a", b"\x12", b"\x82\x01"
RECORD_BYTES_MAX = 256 * 1024  # a larger record has few items, and needs a multiple of its size here
VARINT_BYTES_MAX = 5  # lengths, numbers of records and steps below 2^35
AHEAD_BYTES = 16  # what is read behind the end of a record that is not as expected, at most

Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Path = tuple[str, ...]


class Items(NamedTuple):
    """Arrays with an entry for each item, and `steps` with one for each record.

    `records`: the number of the item's record. `places`: order of the items in the log. `codes`: indices in `paths`.
    `begins`, `ends`: where the JSON texts are in `wire`. `steps`: None if a record has no step.
    """

    records: Numbers
    places: Numbers
    codes: Numbers
    paths: Sequence[Path]
    begins: Numbers
    ends: Numbers
    steps: Numbers | None
    wire: _Wire

    def texts(self, which: Any = slice(None)) -> Any:
        """The JSON texts of some of the items: a pyarrow array."""
        try:
            return self.wire.slices(self.begins[which], self.ends[which]).cast(pa.string())
        except pa.ArrowInvalid as error:  # not UTF-8
            raise OneByOne from error

    def in_order(self, which: Mask) -> list[tuple[int, Path, str]]:
        """Some of the items in their order in the log: (record, path, JSON text)."""
        chosen = np.flatnonzero(which)
        chosen = chosen[np.argsort(self.places[chosen])]
        paths = [self.paths[code] for code in self.codes[chosen].tolist()]
        return [*zip(self.records[chosen].tolist(), paths, self.texts(chosen).to_pylist(), strict=True)]

    def besides(self, known: Sequence[bool], initials: Set[str]) -> list[tuple[int, Path, str]]:
        """All items but those at `known` paths (an entry for each path) whose text begins with one of `initials`."""
        is_initial = np.zeros(256, np.bool_)
        is_initial[[*map(ord, initials)]] = True
        return self.in_order(~(np.array(known)[self.codes] & is_initial[self.wire.bytes_at(self.begins)]))

    def last_texts(self) -> dict[Path, str]:
        """The last text of each path, in order of their first ones."""
        known = {*self.paths}
        if any(path[:depth] in known for path in self.paths for depth in range(1, len(path))):
            raise OneByOne  # a path leads through another one, so the order matters
        first, last = np.full(len(self.paths), np.iinfo(np.int64).max), np.full(len(self.paths), -1)
        np.minimum.at(first, self.codes, self.places)
        np.maximum.at(last, self.codes, self.places)
        texts = {path: text for _, path, text in self.in_order(self.places == last[self.codes])}
        return {self.paths[code]: texts[self.paths[code]] for code in np.argsort(first).tolist()}


class Records:
    """Serialized records. `kinds`: for each of them what it is (see `log.record_kind`)."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self._wire = wire = _Wire(payloads)
        _, at = wire.varint(wire.behind(wire.begins, NUM))
        self._begins = at  # behind `num`
        tag, more = (wire.bytes_at(at + number).astype(np.int64) for number in range(2))
        self.kinds = np.where(tag < 0x80, tag >> 3, (tag & 0x7F) >> 3 | more << 4)

    def items(self, kind: int) -> Items:
        """The items of all records of a kind, HISTORY or SUMMARY, which are numbered anew."""
        wire, which = self._wire, self.kinds == kind
        sizes = (wire.ends - wire.begins)[which]
        if sizes.sum() < MANY_BYTES or sizes.max() > RECORD_BYTES_MAX:
            raise OneByOne
        at, ends = wire.message(self._begins[which], bytes([kind << 3 | 2]))
        _insist(ends == wire.ends[which])
        found: list[tuple[Numbers, ...]] = []  # records, places, then where paths and texts begin and end
        rests = at.copy()  # behind the items, by record
        records = np.arange(len(at))
        for number in count():
            more = wire.is_at(at, ITEM)
            if not more.all():
                rests[records[~more]] = at[~more]
                records, at = records[more], at[more]
                if not len(records):
                    break
            path_begin, end = wire.message(at, ITEM)
            path_end = wire.path_end(path_begin, end)
            text_begin, text_end = wire.message(path_end, JSON)
            _insist((text_end == end) & (text_begin < end))
            found.append((records, records << 32 | number, path_begin, path_end, text_begin, text_end))
            at = end
        if not found:
            raise OneByOne
        steps = wire.steps(rests, ends) if kind == HISTORY else None
        if steps is None:
            _insist(rests == ends)
        all_records, places, path_begins, path_ends, begins, text_ends = map(np.concatenate, zip(*found, strict=True))
        codes, paths = _paths(wire.slices(path_begins, path_ends))
        return Items(all_records, places, codes, paths, begins, text_ends, steps, wire)


def _paths(encoded: pa.BinaryArray) -> tuple[Numbers, list[Path]]:
    """Of encoded paths: for each its index in the list of different paths, and that list."""
    distinct = encoded.dictionary_encode()
    try:
        paths = [tuple(item_path(HistoryItem.FromString(path.as_py()))) for path in distinct.dictionary]
    except DecodeError as error:
        raise OneByOne from error
    known = {path: code for code, path in enumerate(dict.fromkeys(paths))}  # one path may be encoded in two ways
    codes = np.array([known[path] for path in paths])
    return codes[distinct.indices.to_numpy()], [*known]


def _insist(holds: Mask) -> None:
    if not holds.all():
        raise OneByOne


class _Wire:
    """Serialized messages, read in parallel at arrays of positions."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self.ends = np.fromiter(map(len, payloads), np.int64, len(payloads)).cumsum()
        self.begins = np.concatenate([[0], self.ends[:-1]])
        self._bytes = np.frombuffer(b"".join([*payloads, bytes(AHEAD_BYTES)]), np.uint8)

    def bytes_at(self, at: Numbers) -> npt.NDArray[np.uint8]:
        return self._bytes[at]

    def is_at(self, at: Numbers, byte: bytes) -> Mask:
        return np.equal(self._bytes[at], byte[0])

    def behind(self, at: Numbers, tag: bytes) -> Numbers:
        """The positions behind a tag."""
        for number, byte in enumerate(tag):
            _insist(self._bytes[at + number] == byte)
        return at + len(tag)

    def varint(self, at: Numbers) -> tuple[Numbers, Numbers]:
        """The varints, and the positions behind them."""
        byte = self._bytes[at]
        value, at = (byte & 0x7F).astype(np.int64), at + 1
        for number in range(1, VARINT_BYTES_MAX + 1):
            more = byte > 0x7F
            if not more.any():
                return value, at
            byte = np.where(more, self._bytes[at], 0)
            value |= (byte & 0x7F).astype(np.int64) << 7 * number
            at = at + more
        raise OneByOne

    def message(self, at: Numbers, tag: bytes) -> tuple[Numbers, Numbers]:
        """Where messages or strings with this tag begin and end."""
        size, begin = self.varint(self.behind(at, tag))
        end = begin + size
        _insist(end <= self.ends[-1])
        return begin, end

    def path_end(self, at: Numbers, end: Numbers) -> Numbers:
        """The positions behind the paths of items that end at `end`."""
        goes_on = (self.is_at(at, KEY) | self.is_at(at, NESTED_KEY)) & (at < end)
        _insist(goes_on)
        while goes_on.any():
            size, begin = self.varint(at + 1)
            at = np.where(goes_on, begin + size, at)
            _insist(at <= end)
            goes_on &= self.is_at(at, NESTED_KEY) & (at < end)
        return at

    def steps(self, at: Numbers, end: Numbers) -> Numbers | None:
        """The numbers in the step messages between `at` and `end`. None: there are records without one."""
        if (at == end).any():
            return None
        begin, message_end = self.message(at, STEP)
        _insist(message_end == end)
        steps = np.zeros(len(at), np.int64)
        more = begin < end
        steps[more], behind = self.varint(self.behind(begin[more], STEP_NUM))
        _insist(behind == end[more])
        return steps

    def slices(self, begin: Numbers, end: Numbers) -> pa.BinaryArray:
        """The bytes between the positions; none of the slices is empty."""
        offsets = np.concatenate([[0], (end - begin).cumsum()])
        where = np.ones(offsets[-1], np.int64)  # the position of each byte: first its distance from the one before it
        where[offsets[:-1]] = begin - np.concatenate([[0], end[:-1] - 1])
        content = self._bytes[where.cumsum(out=where)]
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(content)]
        return pa.Array.from_buffers(pa.binary(), len(begin), buffers)

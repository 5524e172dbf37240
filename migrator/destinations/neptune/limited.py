"""Limits how much of Neptune's answers is read: a failing server may send gigabytes, or a few bytes of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import httpx

ANSWER_BYTES_MAX = 128 * 1024 * 1024  # decompressed; ten times the largest page that is normally requested
PIECE_BYTES = 1024 * 1024  # decompressed at once
GZIP = 16 + zlib.MAX_WBITS

#: the only compression to offer: `limit_answer` undoes it piece by piece
HEADERS = {"Accept-Encoding": "gzip"}


class AnswerTooLong(Exception):
    """Raised while an answer is read; translated by `errors.translated`."""


def limit_answer(response: httpx.Response) -> None:
    """A response hook for `httpx.Client`: makes reading the answer raise `AnswerTooLong` beyond ANSWER_BYTES_MAX."""
    encoding = response.headers.pop("Content-Encoding", "identity").lower()
    if encoding not in ("identity", "gzip"):
        raise httpx.DecodingError(f"an answer in '{encoding}', which was not offered", request=response.request)
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = _Limited(response.stream, is_gzip=encoding == "gzip")


class _Limited(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, *, is_gzip: bool) -> None:
        self._stream, self._is_gzip = stream, is_gzip

    def __iter__(self) -> Iterator[bytes]:
        read_bytes = 0
        for piece in _expanded(self._stream) if self._is_gzip else self._stream:
            read_bytes += len(piece)
            if read_bytes > ANSWER_BYTES_MAX:
                raise AnswerTooLong
            yield piece

    def close(self) -> None:
        """Let go of the stream, too: it refers to its answer, which refers to the whole request, up to 16 MiB.

        Python would find such a circle only after many new objects, and columns of numbers make few.
        """
        stream, self._stream = self._stream, httpx.ByteStream(b"")
        stream.close()


def _expanded(pieces: Iterator[bytes] | httpx.SyncByteStream) -> Iterator[bytes]:
    expander = zlib.decompressobj(GZIP)
    try:
        for piece in pieces:
            while piece:
                yield expander.decompress(piece, PIECE_BYTES)
                piece = expander.unconsumed_tail
        yield expander.flush()
    except zlib.error as error:
        raise httpx.DecodingError(str(error)) from error

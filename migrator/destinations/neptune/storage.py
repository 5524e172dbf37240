"""Stores and reads files at signed addresses of S3, Google Cloud Storage and Azure, over persistent connections.

neptune-scale creates an event loop, an HTTP client and a TLS context for each file sent to Google or Azure, which takes
ten times the CPU time of the upload itself. Here their protocols are a few requests. No file is held in memory as a
whole, and an interrupted upload resumes at the position that the storage reports.

Sources: https://cloud.google.com/storage/docs/performing-resumable-uploads#chunked-upload,
https://learn.microsoft.com/rest/api/storageservices/put-blob, put-block and put-block-list; S3's PUT Object.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from hashlib import md5
from pathlib import Path
from urllib.parse import quote

import httpx

from migrator import life
from migrator.destinations.neptune.errors import check_storage, patiently_in_place, translated
from migrator.destinations.neptune.limited import HEADERS, limit_answer
from migrator.destinations.neptune.wire import Upload
from migrator.errors import ErrorClass, Retryable

TIMEOUT_S = 60.0  # for one read or write on the connection of an upload
BLOCK_BYTES = 1024 * 1024  # of a file in memory
READ_BYTES = 64 * 1024  # shorter answers are read to their end
CHUNK_BYTES = 16 * 1024 * 1024  # per request to Google (which requires a multiple of 256 KiB), or per block in Azure
AZURE_WHOLE_BYTES = 64 * 1024 * 1024  # larger files go in blocks, as in azure-storage-blob; Azure allows 5,000 MiB
AZURE_BLOCKS_MAX = 50_000  # of one blob
AZURE_VERSION = "2021-12-02"  # of the service's API
RESUME_INCOMPLETE = 308  # Google: continue after the bytes in `Range`


class Storage:
    """Connections to file storages; may be used from several threads. Errors are `Retryable`."""

    def __init__(self, *, verify: bool) -> None:
        hooks = {"response": [_limit_confirmation]}
        self._http = httpx.Client(timeout=TIMEOUT_S, verify=verify, headers=HEADERS, event_hooks=hooks)

    def close(self) -> None:
        self._http.close()

    # ------------------------------------------------------------ reading

    def stored_size(self, url: str, what: str) -> int | None:
        """The size of a stored file, found by requesting one byte. None: the file is missing."""
        with translated(what), self._http.stream("GET", url, headers={"Range": "bytes=0-0"}) as response:
            length = response.headers.get("content-length", "")
            if length.isdigit() and int(length) <= READ_BYTES:
                response.read()  # otherwise its connection could not be used again
            whole = response.headers.get("content-range", "").rpartition("/")[2]
            if response.status_code == 416 or (response.status_code == 206 and whole.isdigit()):
                return int(whole or 0)  # 416: there is no first byte
            if response.status_code == 404:
                return None
            check_storage(response, what)
            return int(length) if length else sum(map(len, response.iter_bytes()))

    def stored_content(self, url: str, what: str) -> tuple[int, str] | None:
        """The size and md5 of a stored file, which is read completely. None: the file is missing."""
        digest, size_bytes = md5(usedforsecurity=False), 0
        with translated(what), self._http.stream("GET", url) as response:
            if response.status_code == 404:
                return None
            check_storage(response, what)
            for block in response.iter_bytes():
                digest.update(block)
                size_bytes += len(block)
        return size_bytes, digest.hexdigest()

    # ------------------------------------------------------------ S3

    def put(self, url: str, upload: Upload, start: int, size_bytes: int, what: str) -> str:
        """Store some bytes of the file. Returns their ETag, which confirms them."""
        answer = self.send(url, upload.file.path, start, size_bytes, {"Content-Type": upload.mime_type}, what)
        check_storage(answer, what)
        return _etag(answer, what)

    def put_parts(self, urls: Sequence[str], part_bytes: int, upload: Upload, what: str) -> Mapping[int, str]:
        """Store the parts of a file. Returns their ETags by number, starting at 1."""
        etags: dict[int, str] = {}
        size_bytes = upload.file.size_bytes
        for number, url in enumerate(urls, start=1):
            start = (number - 1) * part_bytes
            part = partial(self.put, url, upload, start, min(part_bytes, size_bytes - start), what)
            etags[number] = patiently_in_place(part)  # otherwise the whole file would start again
        return etags

    # ------------------------------------------------------------ Google

    def put_to_google(self, url: str, upload: Upload, what: str) -> None:
        """Store a file with a resumable upload."""
        begin = {"X-goog-resumable": "start", "Content-Type": upload.mime_type}
        with translated(what):
            begun = self._http.post(url, headers=begin)
        check_storage(begun, what)
        session = begun.headers.get("Location")
        if not session:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: the storage did not start the upload")
        resumable = _Resumable(self, session, upload, what)
        while not resumable.done:
            patiently_in_place(resumable.advance)

    # ------------------------------------------------------------ Azure

    def put_to_azure(self, url: str, upload: Upload, what: str) -> None:
        """Store a file as a block blob, whole or in blocks. It replaces any existing blob."""
        kind = {"x-ms-version": AZURE_VERSION, "x-ms-blob-content-type": upload.mime_type}
        size_bytes, path = upload.file.size_bytes, upload.file.path
        if size_bytes <= AZURE_WHOLE_BYTES:
            headers = {**kind, "x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
            answer = self.send(url, path, 0, size_bytes, headers, what)
        else:
            names = self._put_blocks(url, upload, what)
            latest = "".join(f"<Latest>{name}</Latest>" for name in names)
            blocks = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{latest}</BlockList>'.encode()
            headers = {**kind, "Content-Type": "application/xml"}
            with translated(what):
                answer = self._http.put(_with_query(url, "comp=blocklist"), content=blocks, headers=headers)
        check_storage(answer, what)
        _etag(answer, what)

    def _put_blocks(self, url: str, upload: Upload, what: str) -> Sequence[str]:
        """Store the blocks of a file. Returns their names. The blob changes only when it gets the list of blocks."""
        size_bytes = upload.file.size_bytes
        block_bytes = max(CHUNK_BYTES, -(-size_bytes // AZURE_BLOCKS_MAX))
        names: list[str] = []
        for start in range(0, size_bytes, block_bytes):
            name = b64encode(f"{len(names):05}".encode()).decode()  # all of equal length, as Azure requires
            place = _with_query(url, f"comp=block&blockid={quote(name, safe='')}")

            def put_block(place: str = place, start: int = start) -> None:
                headers = {"x-ms-version": AZURE_VERSION, "Content-Type": "application/octet-stream"}
                length = min(block_bytes, size_bytes - start)
                check_storage(self.send(place, upload.file.path, start, length, headers, what), what)

            patiently_in_place(put_block)
            names.append(name)
        return names

    # ------------------------------------------------------------ all

    def send(
        self, url: str, path: Path, start: int, size_bytes: int, headers: Mapping[str, str], what: str
    ) -> httpx.Response:
        """PUT some bytes of a file."""
        content = _blocks(path, start, size_bytes)
        with translated(what):
            return self._http.put(url, content=content, headers={**headers, "Content-Length": str(size_bytes)})


class _Resumable:
    """One resumable upload to Google. `done`: Google has the whole file."""

    def __init__(self, storage: Storage, session: str, upload: Upload, what: str) -> None:
        self.done = False
        self._storage, self._session, self._file, self._what = storage, session, upload.file, what
        self._stored_bytes: int | None = 0  # as confirmed by Google; None: the last answer was lost, ask again

    def advance(self) -> None:
        """Store one more chunk at the current position."""
        size_bytes, stored = self._file.size_bytes, self._stored_bytes
        if stored is None:
            stored = self._told(self._send(0, 0, f"bytes */{size_bytes}"))
            if self.done:
                return
        self._stored_bytes = None
        length = min(CHUNK_BYTES, size_bytes - stored)
        span = f"{stored}-{stored + length - 1}" if length else "*"
        told = self._told(self._send(stored, length, f"bytes {span}/{size_bytes}"))
        if not self.done and told <= stored:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{self._what}: the storage did not take bytes from {stored} on")
        self._stored_bytes = told

    def _send(self, start: int, length: int, content_range: str) -> httpx.Response:
        headers = {"Content-Range": content_range}
        return self._storage.send(self._session, self._file.path, start, length, headers, self._what)

    def _told(self, answer: httpx.Response) -> int:
        """How many bytes Google has, according to its answer."""
        if answer.status_code != RESUME_INCOMPLETE:
            check_storage(answer, self._what)
            self.done = True
            return self._file.size_bytes
        told = answer.headers.get("Range")
        if told is None:
            return 0
        found = re.fullmatch(r"bytes=0-(\d+)", told)
        if not found or int(found[1]) >= self._file.size_bytes:
            raise Retryable(ErrorClass.UNAVAILABLE, f"{self._what}: the storage claims to have {told}")
        return int(found[1]) + 1


def _limit_confirmation(answer: httpx.Response) -> None:
    """Limit answers to uploads. Stored files, which may have any size, are read piece by piece."""
    if answer.request.method != "GET":
        limit_answer(answer)


def _etag(answer: httpx.Response, what: str) -> str:
    etag = str(answer.headers.get("etag", "")).strip('"')
    if not etag:
        raise Retryable(ErrorClass.UNAVAILABLE, f"{what}: the storage did not confirm it")
    return etag


def _with_query(url: str, query: str) -> str:
    """Add a parameter to the address. The signature in it stays the same, byte for byte."""
    return f"{url}{'&' if '?' in url else '?'}{query}"


def _blocks(path: Path, start: int, size_bytes: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(start)
        while size_bytes and (block := stream.read(min(BLOCK_BYTES, size_bytes))):
            size_bytes -= len(block)
            life.sign()
            yield block

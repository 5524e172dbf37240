"""Plain downloads: run files, exports and artifact files, by several threads over persistent connections.

Requests look like those of the wandb SDK (`Transport`). The key is sent only to W&B's own addresses, never to a storage
host: neither after a redirect nor from ~/.netrc. Proxies and certificates come from wandb's settings, else from
`requests` (HTTPS_PROXY, REQUESTS_CA_BUNDLE). A file is accepted only if it is complete: it must have the length in
Content-Length, and the size and checksum that W&B has recorded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
import xxhash
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase, HTTPBasicAuth

from migrator import life
from migrator.errors import (
    ErrorClass,
    MigratorError,
    Rejected,
    Retryable,
    Throttled,
    UserError,
    again_on_the_spot,
    refuses_address,
    retry_after_s,
)
from migrator.records import LocalFile
from migrator.sources.wandb.errors import SERVICE, Passing, of_disk, of_status, retries

CONNECTIONS = 16  # kept open per host
TIMEOUT_S = (10.0, 60.0)  # to connect; between two pieces of a body
PIECE_BYTES = 1 << 20
ENCODED_PIECE_BYTES = 16 << 10  # decompressed, it may be a thousand times as long

#: W&B's service has both names (wandb 0.31, sdk/lib/urls.py); addresses of files may use either
SAME_SERVICE = frozenset({"api.forge.coreweave.com", "api.wandb.ai"})

#: Headers from the user's settings that may be keys. All others are also sent to storage hosts, as the SDK does
KEY_HEADERS = frozenset({"authorization", "cookie"})

#: Returns the addresses of a file, the best one first; with True, new ones. Empty: there is no such file
Addresses = Callable[[bool], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Transport:
    """wandb's settings for requests. `bearer` returns the current access token. None: an API key is used."""

    headers: Mapping[str, str] = field(default_factory=dict)
    proxies: Mapping[str, str] = field(default_factory=dict)  # by scheme
    verify: bool = True  # False: accept any certificate
    bearer: Callable[[], str] | None = None

    def options(self) -> dict[str, Any]:
        """Options to pass with each request, because requests prefers its environment variables to session settings."""
        told: dict[str, Any] = {"proxies": dict(self.proxies)} if self.proxies else {}
        if not self.verify:
            told["verify"] = False
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # the user has chosen this
        return told


@dataclass(frozen=True, slots=True)
class Recorded:
    """What W&B has recorded about a file. None: not recorded. Checksums are hex."""

    size_bytes: int | None = None
    md5: str | None = None
    xxh128: str | None = None

    def check(self, found: LocalFile) -> None:
        """Raise `Passing` if the download differs."""
        if self.size_bytes is not None and found.size_bytes != self.size_bytes:
            told = f"{found.size_bytes} bytes instead of {self.size_bytes}"
        elif self.md5 is not None and found.md5 != self.md5:
            told = f"md5 {found.md5} instead of {self.md5}"
        elif self.xxh128 is not None and (xxh128 := _xxh128(found.path)) != self.xxh128:
            told = f"xxh128 {xxh128} instead of {self.xxh128}"
        else:
            return
        raise Passing(ErrorClass.BAD_DATA, f"{found.name}: the download does not match W&B's record: {told}")


class Downloads:
    """A pool of connections that sends the key where it belongs."""

    def __init__(self, base_url: str, api_key: str | None, transport: Transport | None = None) -> None:
        transport = transport or Transport()
        self._options = transport.options()
        self._session = _Session(base_url, api_key, transport)

    def save(
        self,
        addresses: Addresses,
        path: Path,
        name: str,
        expected: Recorded | None = None,
        at_most: float = math.inf,
    ) -> LocalFile | None:
        """Download to `path` and check. None: every address says that there is no such file (404, 410).

        Of a file with more than `at_most` bytes, a little more than that is saved.

        If addresses are refused, new ones are requested once, because signed ones expire. Truncated bodies, 5xx and
        wrong checksums are tried again.
        """
        if expected is not None and expected.size_bytes is not None:
            at_most = min(at_most, expected.size_bytes)
        for attempt in retries(_again):
            with attempt:
                found = self._save_from_any(addresses, path, name, at_most)
                if found is not None and expected is not None:
                    expected.check(found)
                return found
        raise AssertionError("retries() raises its last error")

    def _save_from_any(self, addresses: Addresses, path: Path, name: str, at_most: float) -> LocalFile | None:
        refusals: list[_RefusedAddress] = []
        for fresh in (False, True):
            urls = dict.fromkeys(addresses(fresh))
            refusals = [] if urls else refusals  # refusals of new addresses say more
            for url in urls:
                try:
                    return self._save_once(url, path, name, at_most)
                except _RefusedAddress as refused:
                    refusals.append(refused)
        others = [refusal for refusal in refusals if not refusal.is_absent]
        if others:
            raise others[0].as_error(name) from others[0]
        return None

    def _save_once(self, url: str, path: Path, name: str, at_most: float) -> LocalFile:
        try:
            with self._session.get(url, stream=True, timeout=TIMEOUT_S, **self._options) as answer:
                if answer.status_code != 200:
                    raise _of_answer(answer, name)
                encoded = "Content-Encoding" in answer.headers  # decoded while reading, although not requested
                size, md5 = _copy(answer, path, ENCODED_PIECE_BYTES if encoded else PIECE_BYTES, at_most)
                promised = None if encoded else answer.headers.get("Content-Length")
        except (requests.RequestException, HTTPException) as error:
            raise _of_network(error, url, name) from error
        except OSError as error:  # not from the network: requests wraps those
            raise of_disk(error, name, path.parent) from error
        if promised is not None and promised.isdigit() and size != int(promised) and size <= at_most:
            raise Passing(ErrorClass.UNAVAILABLE, f"{name}: cut after {size} of {promised} bytes")
        return LocalFile(path, name, size, md5)

    def close(self) -> None:
        self._session.close()


def _copy(answer: requests.Response, path: Path, piece_bytes: int, at_most: float) -> tuple[int, str]:
    """Write the body, up to a piece beyond `at_most` bytes. Returns the size of what was written and its md5 in hex."""
    size, sums = 0, hashlib.md5(usedforsecurity=False)
    with path.open("wb") as out:
        for piece in answer.iter_content(piece_bytes):
            out.write(piece)
            sums.update(piece)
            size += len(piece)
            life.sign()
            if size > at_most:
                break
    return size, sums.hexdigest()


def _xxh128(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh128).hexdigest()


# ---------------------------------------------------------------- the key, only for W&B


class _Session(requests.Session):
    """A session that sends the key only to W&B's own addresses."""

    def __init__(self, base_url: str, api_key: str | None, transport: Transport) -> None:
        super().__init__()
        hosts: Sequence[str] = [base_url]
        if urlsplit(base_url).hostname in SAME_SERVICE:
            hosts = [f"https://{name}" for name in SAME_SERVICE]
        self._key = KeyForWandb(hosts, api_key, transport)
        self.auth = self._key  # with an auth object, requests does not read ~/.netrc
        self.headers.update({name: text for name, text in transport.headers.items() if not _is_key(name)})
        self.headers["Accept-Encoding"] = "identity"  # sizes and checksums are those of the stored bytes
        adapter = HTTPAdapter(pool_connections=CONNECTIONS, pool_maxsize=CONNECTIONS)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Keep the path unchanged: requests would turn `a/../b` into `b`, but W&B's files may be called `a/../b`."""
        prepared = super().prepare_request(request)
        if "/." in urlsplit(str(request.url)).path:
            prepared.url = str(request.url)
        return prepared

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Set the key after a redirect. The method of requests would read ~/.netrc here."""
        for name in [name for name in prepared_request.headers if _is_key(name)]:
            del prepared_request.headers[name]
        self._key(prepared_request)


class KeyForWandb(AuthBase):
    """Adds the key to requests to `hosts`."""

    def __init__(self, hosts: Sequence[str], api_key: str | None, transport: Transport) -> None:
        self._hosts = [_origin(host) for host in hosts]
        self._basic = HTTPBasicAuth("api", api_key) if api_key else None
        self._bearer = transport.bearer
        self._headers = {name: text for name, text in transport.headers.items() if _is_key(name)}

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if _origin(request.url or "") not in self._hosts:
            return request
        if self._bearer:
            request.headers["Authorization"] = f"Bearer {self._bearer()}"
        elif self._basic:
            self._basic(request)
        request.headers.update(self._headers)
        return request


def _is_key(header: str) -> bool:
    return header.lower() in KEY_HEADERS


def _origin(url: str) -> tuple[str, str | None, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


# ---------------------------------------------------------------- failures


class _RefusedAddress(Exception):
    """Storage services answer 400, 401, 403, 404 or 410 when a signed address has expired."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status

    @property
    def is_absent(self) -> bool:
        return self.status in (404, 410)

    def as_error(self, name: str) -> MigratorError:
        """The error for this file. A 401 does not mean that the key is wrong: GraphQL requests check that."""
        if self.status in (401, 403):
            return Rejected(ErrorClass.PERMISSION, f"{name}: HTTP {self.status}: this account may not download it")
        return of_status(self.status, name)


def _of_answer(answer: requests.Response, name: str) -> Exception:
    status = answer.status_code
    if refuses_address(status):
        return _RefusedAddress(status)
    told = of_status(status, name, retry_after_s=retry_after_s(answer.headers.get("Retry-After")))
    if isinstance(told, Retryable) and not isinstance(told, Throttled):
        return Passing(told.error_class, str(told))
    return told


def _again(error: Exception) -> bool | float:
    """Whether to try a download again."""
    return again_on_the_spot(error, may_pass=isinstance(error, Passing | Throttled))


def _of_network(error: Exception, url: str, name: str) -> MigratorError:
    host = urlsplit(url).netloc
    if isinstance(error, requests.exceptions.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return UserError(
            f"The certificate of {host} is not accepted. Set REQUESTS_CA_BUNDLE to a file of your authorities."
        )
    if isinstance(error, requests.TooManyRedirects):
        return Passing(ErrorClass.UNAVAILABLE, f"{name}: {host} redirects without end")
    if isinstance(error, requests.Timeout):
        return Passing(ErrorClass.TIMEOUT, f"{name}: {host} was too slow")
    if isinstance(error, requests.ConnectionError) and ("refused" in str(error) or "resolve" in str(error)):
        return Throttled(ErrorClass.UNAVAILABLE, f"{name}: {host} cannot be reached", SERVICE)
    if isinstance(error, ValueError):  # requests' InvalidURL, MissingSchema, InvalidSchema
        return Rejected(ErrorClass.BAD_DATA, f"{name}: W&B returned an address that cannot be used")
    return Passing(ErrorClass.UNAVAILABLE, f"{name}: {host}: connection lost ({type(error).__name__})")

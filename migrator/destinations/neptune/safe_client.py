"""One Neptune client: the public `Run(mode="async")`, its process and its log. All of it is removed at the end.

The client drops some values with only a line in its log, hangs on large ones, computes times and steps in doubles,
retries forever, and reports refused operations as processed. This module detects what can be detected of that.
"""

from __future__ import annotations

import math
import mimetypes
import multiprocessing
import shutil
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import file_digest
from pathlib import Path
from typing import Any, TypeVar

from neptune_scale import Run
from neptune_scale import types as neptune
from neptune_scale.exceptions import NeptuneRetryableError, NeptuneUnableToLogData

from migrator.destinations.base import RunTarget
from migrator.errors import DiskFull, ErrorClass, Retryable
from migrator.limits import HISTOGRAM_MAX_BINS, PATH_MAX_BYTES, STRING_MAX_BYTES
from migrator.records import AddTags, Assign, AssignFile, Columns, Histogram, LocalFile, Points, Record

POLL_S = 0.1  # between two checks whether all is processed; without a timeout, the client checks once per second
CLOSE_TIMEOUT_S = 30.0  # for the client's process to end by itself when it has nothing left to do
UPLOAD_ERRORS_MAX = 20  # then the storage is regarded as failed: the client repeats uploads at once, and forever
CALL_BYTES = 1024 * 1024  # texts or histograms in one call: near 2 MiB the client miscounts and raises
CALL_VALUE_BYTES = 16 * 1024  # of a value that is not text, at most
SET_MEMBERS_MAX = 100_000  # more members may need over 2 MiB, however short they are
EXACT_STEP_MAX = 2**53 // 10**6  # the client computes micro-steps in doubles
EXACT_TIME_MAX_US = 2**33 * 10**6  # and times: within half a microsecond up to here, the year 2242
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

NOT_FINITE = "NaN or infinite: an old Neptune server drops it without telling the safe client"
INEXACT_STEP = "the safe client rounds steps above 9e9"
INEXACT_TIME = "the safe client rounds times before 1970 and after 2242"

#: the server's codes by the client's errors that stand for them
CODES = {
    "NeptuneProjectNotFound": "PROJECT_NOT_FOUND",
    "NeptuneProjectInvalidName": "PROJECT_INVALID_NAME",
    "NeptuneRunNotFound": "RUN_NOT_FOUND",
    "NeptuneRunDuplicate": "RUN_DUPLICATE",
    "NeptuneRunConflicting": "RUN_CONFLICTING",
    "NeptuneRunForkParentNotFound": "RUN_FORK_PARENT_NOT_FOUND",
    "NeptuneRunInvalidCreationParameters": "RUN_INVALID_CREATION_PARAMETERS",
    "NeptuneAttributePathExceedsSizeLimit": "FIELD_PATH_EXCEEDS_SIZE_LIMIT",
    "NeptuneAttributePathEmpty": "FIELD_PATH_EMPTY",
    "NeptuneAttributePathInvalid": "FIELD_PATH_INVALID",
    "NeptuneAttributePathNonWritable": "FIELD_PATH_NON_WRITABLE",
    "NeptuneAttributeTypeUnsupported": "FIELD_TYPE_UNSUPPORTED",
    "NeptuneAttributeTypeMismatch": "FIELD_TYPE_CONFLICTING",
    "NeptuneSeriesPointDuplicate": "SERIES_POINT_DUPLICATE",
    "NeptuneSeriesStepNonIncreasing": "SERIES_STEP_NON_INCREASING",
    "NeptuneSeriesStepNotAfterForkPoint": "SERIES_STEP_NOT_AFTER_FORK_POINT",
    "NeptuneSeriesStepTooLarge": "SERIES_STEP_TOO_LARGE",
    "NeptuneSeriesTimestampDecreasing": "SERIES_TIMESTAMP_DECREASING",
    "NeptunePreviewStepNotAfterLastCommittedStep": "SERIES_PREVIEW_STEP_NOT_AFTER_LAST_COMMITTED_STEP",
    "NeptuneStringValueExceedsSizeLimit": "STRING_VALUE_EXCEEDS_SIZE_LIMIT",
    "NeptuneStringSetExceedsSizeLimit": "STRING_SET_EXCEEDS_SIZE_LIMIT",
    "NeptuneFileMetadataExceedsSizeLimit": "FILE_REF_EXCEEDS_SIZE_LIMIT",
    "NeptuneHistogramBinEdgesContainNaN": "HISTOGRAM_BIN_EDGES_CONTAINS_NAN",
    "NeptuneHistogramTooManyBins": "HISTOGRAM_TOO_MANY_BINS",
    "NeptuneHistogramBinEdgesNotIncreasing": "HISTOGRAM_BIN_EDGES_NOT_INCREASING",
    "NeptuneHistogramValuesLengthMismatch": "HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS",
}
#: errors of the client itself, other than those after which it continues (NeptuneRetryableError)
TROUBLE = {
    "NeptuneFileUploadError",
    "NeptuneInvalidCredentialsError",
    "NeptuneSynchronizationStopped",
    "NeptuneUnauthorizedError",
    "NeptuneUnexpectedError",
}

T = TypeVar("T")


class Client:
    """Creates a run and logs its records. Start one client at a time, so that each finds its own process."""

    def __init__(self, target: RunTarget, api_token: str, timeout_s: float) -> None:
        #: after `finish`: whether everything was processed; whether the client's process ended before that
        self.is_done = self.has_died = False
        #: found here, not by the server: refused values by (path, reason); and (path, note)
        self.refused: Counter[tuple[str, str]] = Counter()
        self.notes: set[tuple[str, str]] = set()
        self._timeout_s = timeout_s
        self._told: list[BaseException] = []
        self._files: list[LocalFile] = []
        self._directory = Path(tempfile.mkdtemp(prefix="neptune-"))
        others = set(multiprocessing.active_children())
        with self._disk_errors():
            self._run = Run(
                run_id=target.run_id,
                project=target.project,
                api_token=api_token,
                mode="async",
                experiment_name=target.name,
                creation_time=target.created_at,
                fork_run_id=target.fork.run_id if target.fork else None,
                fork_step=target.fork.step if target.fork else None,
                log_directory=self._directory,
                on_network_error_callback=self._tell,
                on_error_callback=self._tell,
                on_warning_callback=self._tell,
                enable_console_log_capture=False,
                source_tracking_config=None,
                inherit_configs=False,
            )
        self._processes = set(multiprocessing.active_children()) - others

    def _tell(self, error: BaseException, last_seen_at: float | None) -> None:
        self._told.append(error)

    # ------------------------------------------------------------ records

    def log(self, records: Sequence[Record]) -> None:
        """Log records, in order. They are sent while more are logged."""
        with self._disk_errors():
            for record in records:
                match record:
                    case Points(step, time_us, values):
                        self._append(step, time_us, values)
                    case Columns():
                        for step, time_us, values in record.points():
                            self._append(step, time_us, values)
                    case Assign(values):
                        self._run.log_configs({path: self._single(path, value) for path, value in self._taken(values)})
                    case AddTags(tags, group, gone):
                        for _ in self._taken({"sys/group_tags" if group else "sys/tags": tags}):
                            self._run.add_tags(sorted(tags), group_tags=group)
                        if gone:
                            self._run.remove_tags(sorted(gone), group_tags=group)
                    case AssignFile(path, file):
                        self._run.assign_files({path: self._file(file) for path, _ in self._taken({path: file})})

    def _append(self, step: float, time_us: int, values: Mapping[str, Any]) -> None:
        if step > EXACT_STEP_MAX:
            self.notes.update((path, INEXACT_STEP) for path in values)
        if not _is_exact(time_us):
            self.notes.update((path, INEXACT_TIME) for path in values)
        numbers: dict[str, float] = {}
        texts: dict[str, str] = {}
        histograms: dict[str, neptune.Histogram] = {}
        files: dict[str, neptune.File] = {}
        for path, value in self._taken(values):
            match value:
                case str():
                    texts[path] = value
                case Histogram():
                    histograms[path] = _histogram(value)
                case LocalFile():
                    files[path] = self._file(value)
                case _:
                    numbers[path] = value
                    if type(value) is float and not math.isfinite(value):
                        self.notes.add((path, NOT_FINITE))
        timestamp = EPOCH + timedelta(microseconds=time_us)
        if numbers:
            self._run.log_metrics(numbers, step, timestamp=timestamp)
        for call in _calls(texts):
            self._run.log_string_series(call, step, timestamp=timestamp)
        for call in _calls(histograms):
            self._run.log_histograms(call, step, timestamp=timestamp)
        if files:
            self._run.log_files(files, step, timestamp=timestamp)

    def _taken(self, values: Mapping[str, T]) -> Iterator[tuple[str, T]]:
        """Yield the values that the client can handle; refuse the others."""
        for path, value in values.items():
            reason = _refusal(path, value)
            if reason is None:
                yield path, value
            else:
                self.refused[path, reason] += 1

    def _single(self, path: str, value: Any) -> Any:
        if isinstance(value, datetime) and not _is_exact((value - EPOCH) // timedelta(microseconds=1)):
            self.notes.add((path, INEXACT_TIME))
        return sorted(value) if isinstance(value, frozenset) else value

    def _file(self, file: LocalFile) -> neptune.File:
        """Describe a file completely, so that the client need not read it: it skips files that it cannot read."""
        self._files.append(file)
        guesses = (mimetypes.guess_type(name)[0] for name in (file.path.name, file.name))
        mime_type = next(filter(None, guesses), "application/octet-stream")
        return neptune.File(file.path, mime_type=mime_type, size=file.size_bytes)

    # ------------------------------------------------------------ the end

    def finish(self) -> None:
        """Wait until all is processed or never will be, then end the client. `Retryable` if a file has changed."""
        give_up = time.monotonic() + self._timeout_s
        while not (self.is_done or self._is_hopeless() or time.monotonic() > give_up):
            self.is_done = self._run.wait_for_processing(timeout=POLL_S, verbose=False)
        self.has_died = not self._is_alive()
        if self.is_done:
            self._run.close(timeout=CLOSE_TIMEOUT_S)
            self.is_done = not any(self._directory.iterdir())  # the client removes its log once it is sent
        self.abandon()
        for file in self._files:
            _check(file)

    def abandon(self) -> None:
        """Kill the client's process and close its `Run`: only a closed `Run` has reported all its errors."""
        for process in self._processes:
            process.kill()
            process.join()
        self._run.close(timeout=CLOSE_TIMEOUT_S)
        shutil.rmtree(self._directory, ignore_errors=True)

    def codes(self) -> Counter[str]:
        """The server's codes, with the number of requests that had each. Unknown errors keep the client's name."""
        names = [type(error).__name__ for error in self._told if not _is_trouble(error)]
        return Counter(CODES.get(name, name) for name in names)

    def trouble(self) -> dict[str, BaseException]:
        """The errors of the client itself, by name."""
        return {type(error).__name__: error for error in self._told if _is_trouble(error)}

    def _is_hopeless(self) -> bool:
        """Whether the process has died or may retry forever. It reports a failing request only after six minutes."""
        names = Counter(type(error).__name__ for error in self._told if _is_trouble(error))
        uploads = names.pop("NeptuneFileUploadTemporaryError", 0)
        return bool(names) or uploads > UPLOAD_ERRORS_MAX or not self._is_alive()

    def _is_alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Translate errors of writing to the client's log. The client raises them only if configured to: see job."""
        try:
            yield
        except (NeptuneUnableToLogData, sqlite3.Error) as error:
            cause = error.__cause__ or error
            if getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise DiskFull("the log of Neptune's client", self._directory) from error
            raise Retryable(ErrorClass.UNKNOWN, f"Neptune's client in {self._directory}: {cause}") from error


def _is_trouble(error: BaseException) -> bool:
    return isinstance(error, NeptuneRetryableError) or type(error).__name__ in TROUBLE


def _refusal(path: str, value: Any) -> str | None:
    """The server's code for a value that the client would drop with only a line in its log, or hang on. None: valid."""
    if _is_longer(path, PATH_MAX_BYTES):
        return "FIELD_PATH_EXCEEDS_SIZE_LIMIT"
    match value:
        case str() if _is_longer(value, STRING_MAX_BYTES):
            return "STRING_VALUE_EXCEEDS_SIZE_LIMIT"
        case frozenset() if _is_longer("".join(value), STRING_MAX_BYTES) or len(value) > SET_MEMBERS_MAX:
            return "STRING_SET_EXCEEDS_SIZE_LIMIT"
        case Histogram(edges, _) if len(edges) > HISTOGRAM_MAX_BINS + 1:
            return "HISTOGRAM_TOO_MANY_BINS"
        case Histogram(edges, values) if len(values) != len(edges) - 1:
            return "HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS"
    return None


def _is_longer(text: str, limit_bytes: int) -> bool:
    return len(text) * 4 > limit_bytes and len(text.encode()) > limit_bytes


def _is_exact(time_us: int) -> bool:
    return 0 <= time_us <= EXACT_TIME_MAX_US or time_us % 1_000_000 == 0


def _histogram(histogram: Histogram) -> neptune.Histogram:
    edges, values = list(histogram.edges), list(histogram.values)
    if all(type(value) is int for value in values):
        return neptune.Histogram(edges, counts=values)
    return neptune.Histogram(edges, densities=values)


def _calls(values: Mapping[str, T]) -> Iterator[dict[str, T]]:
    """Split the values into as few calls as CALL_BYTES allows."""
    call: dict[str, T] = {}
    size_bytes = 0
    for path, value in values.items():
        need_bytes = CALL_VALUE_BYTES + (4 * len(value) if isinstance(value, str) else 0)
        if call and size_bytes + need_bytes > CALL_BYTES:
            yield call
            call, size_bytes = {}, 0
        call[path] = value
        size_bytes += need_bytes
    if call:
        yield call


def _check(file: LocalFile) -> None:
    """Raise `Retryable` if the file has changed."""
    try:
        with file.path.open("rb") as stream:
            unchanged = file_digest(stream, "md5").hexdigest() == file.md5
    except OSError as error:
        raise Retryable(ErrorClass.BAD_DATA, f"store {file.name}: {error}") from error
    if not unchanged:
        raise Retryable(ErrorClass.BAD_DATA, f"store {file.name}: the file has changed on this machine")

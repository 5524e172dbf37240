"""`migrate sync`: uploads one run's offline file to Neptune, with the same claims, states and checks as a copy.

    for each group of files:    store  ->  checkpoint
    for each request:  intend  ->  send  ->  wait until it is processed  ->  checkpoint

The part is called `upload`. Its cursor holds two ids from the offline file: the last file that is stored, and the last
operation that Neptune has processed. The offline file stays unchanged until all of it is in Neptune, and is then
removed. Lost attachments are skipped, with a ledger entry. A run that changes later is copied to a new file, whose ids
start again at 1. Because an intent can only grow, it counts the operations of all files, including earlier ones
(`before`). Everything goes to the workspace of the upload: the one in the file may be a placeholder.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

from migrations_db.types import Claim, DigestRow, PartProgress, PartUpdate
from migrator.copying.copy import EPOCH, RunTools
from migrator.copying.pipeline import ClaimStore, RunControl, Tally
from migrator.copying.run_digests import Digests
from migrator.destinations.base import UPLOADED, Destination, Refused
from migrator.destinations.neptune.answers import CREATED, EXISTED, Past
from migrator.destinations.neptune.offline_log import OfflineLog
from migrator.destinations.neptune.offline_places import find_directory
from migrator.destinations.neptune.online import NeptuneDestination, NeptuneRun
from migrator.destinations.neptune.provenance import Provenance
from migrator.errors import ErrorClass, Rejected, Retryable, Vanished
from migrator.naming import neptune_run_id

PART = "upload"
FILES_AT_A_TIME = 64  # files stored between two checkpoints


def upload_run(
    claim: Claim, destination: Destination, claims: ClaimStore, workspace: str, offline_dir: Path, tools: RunTools
) -> None:
    """Send all files and operations after the cursor to `workspace`, then remove the offline file."""
    assert isinstance(destination, NeptuneDestination)
    project, run_id = f"{workspace}/{claim.destination_name}", neptune_run_id(claim.run_id).name
    directory = find_directory(offline_dir, project, run_id, partial(_is_source_of, claim))
    if claim.position != UPLOADED:  # otherwise an earlier attempt has uploaded everything
        log = OfflineLog(directory, project)
        if not log.path.exists():
            raise _missing(claim, log.path)
        lost = log.lost_files()
        if not log.path.exists():  # the whole directory has disappeared just now
            raise _missing(claim, log.path)
        saved = claims.parts(claim).get(PART, PartProgress())
        past, control = _past(saved), tools.control
        source = Provenance(log.source_url() or "", log.created_at() or EPOCH)
        with log, destination.resend(project, run_id, past, source, control.confirm) as out:
            upload = _Upload(claim, claims, saved, log, lost, out, past, control)
            try:
                if past.saved:
                    out.find()
                created = upload.send_creation()
                upload.send_files()  # first, so that `migration/complete`, the last operation, is true when it arrives
                upload.send_operations(created)
            except Vanished as error:
                if upload.is_later_part:
                    raise  # what was uploaded earlier is not in this offline file: it must come from the source
                claims.forget_part(claim, PART)
                raise Retryable(
                    error.error_class, f"Neptune has lost {error.what}: it is uploaded again from the start"
                ) from error
        end = {"before": upload.announced, "existed": past.position == EXISTED}
        update = PartUpdate(PART, end, done=True)
        claims.checkpoint(claim, [update], position=UPLOADED)
        upload.tally.add(update)
    shutil.rmtree(directory, ignore_errors=True)  # before `complete`: a done run is not claimed again to clean up
    claims.complete(claim, [PART])


def _is_source_of(claim: Claim, url: str) -> bool:
    """Whether `url` is the source address of the claim's run: a web page (API), or one of its directories (local)."""
    if claim.location is not None:
        return url in {Path(place).absolute().as_uri() for place in claim.location}
    return url.startswith(f"{claim.project_url}/") and url.endswith(f"/{quote(claim.run_id, safe='')}")


def _missing(claim: Claim, log: Path) -> Rejected:
    """The error for a missing file. The file may still exist (on a disk that is not mounted), so a person decides."""
    ref = shlex.quote(claim.ref)
    return Rejected(
        ErrorClass.NOT_FOUND,
        f"offline file {log} is missing. Put it back (is its disk mounted?), then `migrate retry-failed` and "
        f"`migrate sync`. If it is lost: `migrate forget {ref}`, then `migrate run` copies the run again",
    )


def _past(saved: PartProgress) -> Past:
    """What earlier attempts and uploads have recorded about the run."""
    cursor = saved.cursor or {}
    if saved.intent is None:
        return Past(None)
    sent = bool(cursor.get("operation") or cursor.get("before"))
    return Past(EXISTED if cursor.get("existed") else CREATED, begun=True, saved=sent)


class _Upload:
    """Reads from the log, sends, and saves its progress."""

    def __init__(
        self,
        claim: Claim,
        claims: ClaimStore,
        saved: PartProgress,
        log: OfflineLog,
        lost_files: Mapping[str, str],
        out: NeptuneRun,
        past: Past,
        control: RunControl,
    ) -> None:
        self._claim, self._claims = claim, claims
        self._log, self._out, self._past, self._control = log, out, past, control
        self._lost_files = lost_files
        self._cursor = {"file": 0, "operation": 0, "before": 0} | (saved.cursor or {})
        self.announced = int(saved.intent or 0)
        self.tally = Tally(claim.ref, PART, time.monotonic)

    @property
    def is_later_part(self) -> bool:
        """Whether an earlier file of the run was uploaded and removed: this one holds only what came after it."""
        return bool(self._cursor["before"])

    def send_creation(self) -> int:
        """Create the run. If it exists already, check whose it is first, because its files would be overwritten.

        Returns the id of the row after which the other operations follow.
        """
        after: int = self._cursor["operation"]
        logged = self._log.next_operation(after)
        if logged is None or not logged.operation.HasField("create"):
            return after
        self._go_on()
        self._out.send_operation(logged.operation, replayed=False)
        self._out.identify()
        return logged.last_id

    def send_files(self) -> None:
        while logged := self._log.next_uploads(self._cursor["file"], FILES_AT_A_TIME, self._lost_files):
            self._go_on()
            whole = [file.upload for file in logged if file.upload]
            self._out.send_files(whole)
            self._out.flush().wait()
            size_bytes = sum(upload.file.size_bytes for upload in whole)
            self._save("file", logged[-1].id, PartUpdate(PART, None, read=len(whole), size_bytes=size_bytes))

    def send_operations(self, after: int) -> None:
        sent_before = self.announced - self._cursor["before"]
        while logged := self._log.next_operation(after, self._lost_files):
            self._go_on()
            self.announced = max(self.announced, self._cursor["before"] + logged.last_id)
            self._claims.intend(self._claim, {PART: self.announced})
            self._out.send_operation(logged.operation, replayed=after < sent_before)
            after = logged.last_id
            if logged.operation.HasField("create"):
                continue  # its answer is awaited together with that of the next operation
            refused = self._out.flush().wait()
            skipped = len(logged.lost) + sum(refusal.count for refusal in refused)
            update = PartUpdate(
                PART,
                None,
                read=logged.values,
                skipped=min(logged.values, skipped),
                size_bytes=logged.operation.ByteSize(),
                ledger=[*logged.lost, *(refusal.entry() for refusal in refused)],
            )
            self._save("operation", after, update, self._without(refused))
        self._out.flush().wait()

    def _go_on(self) -> None:
        self._control.check()
        self._control.at(PART)

    def _without(self, refused: Sequence[Refused]) -> dict[str, DigestRow]:
        """The digests that change because something was refused. The copy to the file could not know that."""
        if not refused:
            return {}
        digests = Digests(self._claims.digests(self._claim))
        digests.refuse(refused)
        return digests.take()

    def _save(self, kind: str, id_: int, update: PartUpdate, digests: Mapping[str, DigestRow] | None = None) -> None:
        self._cursor = self._cursor | {kind: id_, "existed": self._past.position == EXISTED}
        update = replace(update, cursor=self._cursor, written=update.read - update.skipped)
        self._claims.checkpoint(self._claim, [update], digests=digests)
        self.tally.add(update)

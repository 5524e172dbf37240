"""`migrate sync`: one run's offline file goes to Neptune, by the same claims, states and checks as a copy.

The part is called `upload`. Its cursor is the id of the last operation that Neptune has processed; the offline file
stays as it is until the run is done, and is removed then.
"""

from __future__ import annotations

import shutil

from migrations_db.types import Claim, LedgerEntry, PartProgress, PartUpdate
from migrator.copy import Claims, Workspace
from migrator.destinations.base import Destination
from migrator.destinations.neptune import NeptuneDestination, NeptuneRun
from migrator.destinations.neptune_log import LOG_NAME, OfflineLog
from migrator.destinations.neptune_offline import UPLOADED, run_directory
from migrator.errors import ErrorClass, Rejected
from migrator.job import Job
from migrator.naming import neptune_run_id
from migrator.records import Kind

PART = "upload"


def upload_run(claim: Claim, destination: Destination, claims: Claims, job: Job, workspace: Workspace) -> None:
    """Send all operations and files behind the cursor, then remove the offline file."""
    assert isinstance(destination, NeptuneDestination)
    run_id = neptune_run_id(claim.run_id).name
    directory = run_directory(job.offline_dir, f"{job.workspace}/{claim.destination_name}", run_id)
    if not (directory / LOG_NAME).exists():
        raise Rejected(ErrorClass.NOT_FOUND, f"offline file {directory / LOG_NAME} is gone")
    saved = claims.parts(claim).get(PART, PartProgress())
    cursor = saved.cursor or {}
    after = int(cursor.get("sequence", 0))
    sent_before = int(saved.intent or 0)
    log = OfflineLog(directory)
    try:
        with destination.resend(*log.target()) as out:
            if not cursor.get("files"):
                claims.checkpoint(claim, [_send_files(log, out)])
            while True:
                workspace.progress.check()
                workspace.progress.at(PART)
                operation, last, count = log.operations(after)
                if operation is None:
                    break
                claims.intend(claim, PART, last)
                out.send_operation(operation, replayed=after < sent_before)
                refused = out.flush().wait()
                skipped = min(count, sum(refusal.count for refusal in refused))
                update = PartUpdate(
                    name=PART,
                    cursor={"sequence": last, "files": True},
                    read=count,
                    written=count - skipped,
                    skipped=skipped,
                    size_bytes=operation.ByteSize(),
                    ledger=[LedgerEntry(Kind.SKIPPED, r.path, f"refused: {r.reason}", r.count) for r in refused],
                )
                claims.checkpoint(claim, [update])
                after = last
        claims.checkpoint(claim, [PartUpdate(PART, {}, done=True)], position=UPLOADED)
    finally:
        log.close()
    claims.complete(claim, [PART])
    shutil.rmtree(directory, ignore_errors=True)


def _send_files(log: OfflineLog, out: NeptuneRun) -> PartUpdate:
    """Files go first, so that `migration/complete`, the last operation, is true when it arrives."""
    uploads = log.uploads()
    for upload in uploads:
        if not upload.file.path.exists():
            raise Rejected(ErrorClass.NOT_FOUND, f"{upload.file.path} is gone: the offline file needs it")
    out.send_files(uploads)
    out.flush().wait()
    size_bytes = sum(upload.file.size_bytes for upload in uploads)
    return PartUpdate(PART, {"files": True}, read=len(uploads), written=len(uploads), size_bytes=size_bytes)

"""Moves experiment history from Weights & Biases to Neptune. In reading order:

listed          the data: projects and runs, as a source lists them
records         the data: rows and files from a source, points and values to a destination, the ledger
values, naming  what a W&B value is, and which Neptune name it gets;  json_text  how it is parsed (pure)
sources/        where runs come from: base (the contract), the W&B API, local W&B directories, memory
destinations/   where runs go: base (the contract), Neptune online, Neptune's offline files, memory
parts/          one module per kind of metadata: reads batches after a cursor and converts them (pure)
copying/        copy: one run, part by part;  pipeline: write, flush, checkpoint, with requests in flight;
                upload: one run from its offline file to Neptune;  verify: what was written, read back;
                reread: the source, read again to compare with it
job/            supervisor: one command, keeps workers alive, shows progress, ends when nothing is left;
                worker: one process, copies several runs at a time;  leases: the runs it has claimed;
                outcomes: how errors are handled
commands/       what each command does and prints
cli, __main__   the command line; errors become messages and exit codes
redaction       takes secrets out of texts that are stored, logged or shown
settings, limits, errors, services, visible, disk, life    used by all others

The state database is a package of its own: migrations_db.

The story of one run:

    inventory   source.runs() -> a row of the state database: pending
    claim       worker -> UPDATE run ... RETURNING: running, with a lease that heartbeats renew
    open        source.open_run(), destination.open_run(): the Neptune run is created, or found
    copy        for each part:  source -> batches behind the cursor -> points and values
                    intend      "steps up to here may have been sent" is saved first
                    write       to the destination; several requests are in flight
                    barrier     the destination has answered for all of it
                    checkpoint  cursor, counts, ledger and digests are saved in one transaction
    complete    every part is done, and read == written + skipped: done
    verify      the run is read back and compared with its digests: verified, or differs

Whatever ends a worker, the next claim of the run goes on behind the last checkpoint. What lies between a checkpoint
and the intent may be sent twice: only there is the answer "already there" no refusal.

Words:

    part         one kind of a run's metadata: attributes, config, summary, history, system, console, files, artifacts
    batch        what a part reads and converts at a time; it ends with a cursor
    cursor       where a part goes on: JSON, saved with what was copied up to there
    checkpoint   the transaction that saves cursors, counts, ledger entries and digests
    intent       the highest steps that may have been sent since the last checkpoint
    position     what a destination knows of a run that is being copied, to be given back to it later
    barrier      the destination's answers to everything that was written before it
    ledger       what was skipped or changed, each with its reason: skipped, renamed, converted, estimated, ...
    digest       count, sums of hashes and bounds of what was written at one path
    fingerprint  the state of a run at its source; another one means that the run has changed
    claim        a run in the hands of one worker;  attempt: the number of a claim, which fences writes
    lease        how long a claim holds without a heartbeat
    lane         a thread of a worker that copies one run after the other
    pause        all workers wait for a service that throttles or is away
    suspect      a run whose last workers died; it is copied alone, so that the next death has a culprit
"""

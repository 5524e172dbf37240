"""Moves experiment history from Weights & Biases to Neptune. In reading order:

records         what flows: rows and files from a source, points and values to a destination, the ledger
values, naming  what a W&B value is, and which Neptune name it gets;  json_text  how it is parsed (pure)
sources/        where runs come from: base (the contract), the W&B API, local W&B directories, memory
destinations/   where runs go: base (the contract), Neptune online, Neptune's offline files, memory
parts/          one module a kind of metadata: reads batches behind a cursor, converts them (pure)
copying/        copy: one run, part by part;  pipeline: write, flush, checkpoint, with requests in flight;
                upload: one run from its offline file to Neptune
job/            supervisor: one command, keeps workers alive, shows progress, ends when nothing is left;
                worker: one process, claims runs, copies several at a time;  outcomes: what an error costs
commands/       what each command does and prints
cli, __main__   the command line; errors become messages and exit codes
settings, limits, errors, visible    what the others stand on

The state database is a package of its own: migrations_db.
"""

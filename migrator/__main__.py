"""The `migrate` command: errors become messages and exit codes here, and nowhere else."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn

from migrator.errors import ExitCode, MigratorError, Retryable, RunError, UserError, disk_full, too_few_files
from migrator.garbage import collect_no_more, collect_rarely
from migrator.job.signals import ending

#: options that may come before or after the command; True: a value follows
_GLOBAL_OPTIONS = {"--db": True, "--config": True, "--json": False, "--verbose": False, "-v": False}
_GLOBAL_OPTIONS |= {"--quiet": False, "-q": False}


def global_options_first(arguments: Sequence[str]) -> list[str]:
    """`migrate status --json` means `migrate --json status`."""
    first: list[str] = []
    others: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            others += [word, *words]
        elif (takes_value := _GLOBAL_OPTIONS.get(word)) is not None:
            first.append(word)
            if takes_value:
                if (value := next(words, None)) is None:
                    return first  # click tells that it takes an argument
                first.append(value)
        elif word.startswith(("--db=", "--config=")):
            first.append(word)
        else:
            others.append(word)
    return first + others


def main() -> NoReturn:
    collect_rarely()
    if sys.stderr is None:  # closed by the process that started us
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - stays open until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # for names that the terminal's encoding cannot show
    for number in ending():
        signal.signal(number, _terminated)
    exit_code = _flushed(int(exit_code_of(sys.argv[1:])))
    collect_no_more()
    sys.exit(exit_code)


def _flushed(exit_code: int) -> int:
    """Flush the output. If that fails, keep Python from reporting it again at exit."""
    if sys.stdout is None:
        return exit_code
    try:
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:  # the reader is gone: `| head`
        pass
    except OSError as error:
        exit_code = exit_code or _say(_no_output(error), ExitCode.UNEXPECTED)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return exit_code


def _no_output(error: OSError) -> str:
    return f"the output cannot be written: {error.strerror or error}"


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    """End as after Ctrl-C, so that everything is released on the way out."""
    raise SystemExit(ExitCode.TERMINATED)


def exit_code_of(arguments: Sequence[str]) -> int:
    """Run a command in this process. Errors become messages on stderr."""
    import typer

    from migrator.cli import app

    try:
        ended = app(global_options_first(arguments), prog_name="migrate", standalone_mode=False)
        return ended if isinstance(ended, int) else ExitCode.OK
    except typer.Abort:  # the end of the input, at a question
        return _say("there was no answer", ExitCode.UNEXPECTED)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # how click handles `| head`
            return ExitCode.OK
        return end.code if isinstance(end.code, int) else ExitCode.USAGE
    except UserError as error:
        return _say(str(error), error.exit_code)
    except RunError as error:  # outside a run: it concerns the source or the destination as a whole
        return _say(str(error), ExitCode.TRY_LATER if isinstance(error, Retryable) else ExitCode.UNEXPECTED)
    except MigratorError as error:
        return _say(str(error), ExitCode.UNEXPECTED)
    except KeyboardInterrupt:
        return _say("interrupted", ExitCode.INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader is gone; Python would report that again at exit
        return ExitCode.OK
    except Exception as error:  # noqa: BLE001 - a bug: the user gets a message, the log gets the traceback
        usage = _usage(error)
        return _say(usage, ExitCode.USAGE) if usage else _unexpected(error)


def _usage(error: Exception) -> str | None:
    """In one line, what click says about options and commands in three. None: it is another error."""
    if not hasattr(error, "format_message"):  # typer exports no base class of click's errors
        return None
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "migrate"
    # the variable matters only if it is set: then the value may come from there
    message = re.sub(
        r" \(env var: '(\w+)'\)", lambda named: f" ({named[1]} is set)" if named[1] in os.environ else "", message
    )
    if choice := re.search(r"'([^']*)' is not one of (.+)", message):
        from migrator.commands.choosing import did_you_mean

        message += did_you_mean([choice[1]], re.findall(r"'([^']*)'", choice[2]))
    end = "" if message.endswith("?") else "."
    return f"{message.replace('Value error, ', '')}{end} See `{command} --help`"


def _unexpected(error: Exception) -> int:
    from migrations_db import StateError

    if isinstance(error, StateError):
        return _say(str(error), ExitCode.STATE)
    if isinstance(error, OSError):
        if error.filename is None and _output_fails():
            return _say(_no_output(error), ExitCode.UNEXPECTED)
        if error.errno in (errno.EMFILE, errno.ENFILE):
            return _say(str(too_few_files()), ExitCode.UNEXPECTED)
    if full := disk_full(error, "this command", Path(getattr(error, "filename", None) or ".").parent):
        return _say(f"{full}. Free some space, then run the same command again", ExitCode.UNEXPECTED)
    return _say(f"unexpected error: {type(error).__name__}: {error}. {_logged(error)}", ExitCode.UNEXPECTED)


def _output_fails() -> bool:
    """Whether an error may come from printing: then even a line end cannot be printed."""
    try:
        if sys.stdout is not None:
            os.write(sys.stdout.fileno(), b"\n")
    except OSError:
        return True
    return False


def _logged(error: Exception) -> str:
    """Tell the user what to do with the traceback, which is in the log of the command, or else in a log of its own."""
    import logging

    from migrator.job.log import log_path, start_log

    log = logging.getLogger("migrator")
    try:
        if not log.handlers:
            start_log(log_path("error"), verbose=False)
    except UserError as no_log:
        return str(no_log)
    log.error("unexpected error", exc_info=error)
    return "Please report it with the newest file of migration-logs/"


def _say(message: str, exit_code: ExitCode) -> ExitCode:
    from migrator.redaction import without_keys
    from migrator.visible import tell

    tell(f"Error: {without_keys(message)}")
    return exit_code


if __name__ == "__main__":
    main()

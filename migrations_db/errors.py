"""What can go wrong with the state database.

    StateError                 the base; messages name the database, the cause and the next command
    |- LeaseLost               another worker has the run: stop, write nothing more
    |- CountsDisagree          a run cannot be done: a part is open, or read != written + skipped
    |- StateMissing            there is no such database
    |- StateTooNew             written by a newer version
    |- StateDamaged            not a state database, or malformed
    |- StateUnsupported        this kind of database, or this place, cannot hold the state
    |- StateLocked             somebody else has locked it for longer than we wait
    |- StateReadOnly           it cannot be written
    |- StateDiskFull           no space left for it
    `- StateUnreachable        the server refuses, or the disk fails
       `- StateSilent          the server closed a connection or does not answer; this may pass


Messages never contain a password.
"""

from __future__ import annotations


class StateError(Exception):
    """Something is wrong with the state database. The message says what, and what to do."""


class LeaseLost(StateError):
    """Another worker has the run, or the claim was withdrawn: stop, and write nothing more anywhere."""


class CountsDisagree(StateError):
    """The run cannot be marked done. `part` names the first part that is open or does not add up."""

    def __init__(self, message: str, part: str) -> None:
        super().__init__(message)
        self.part = part


class StateMissing(StateError):
    """There is no database where one was expected."""


class StateTooNew(StateError):
    """The schema's revision is unknown here: a newer version of the program wrote it."""


class StateDamaged(StateError):
    """Not a state database, or a malformed one."""


class StateUnsupported(StateError):
    """This kind of database, or the file system at its place, cannot hold the state."""


class StateLocked(StateError):
    """Somebody else has locked the database for longer than we wait."""


class StateReadOnly(StateError):
    """The database cannot be written."""


class StateDiskFull(StateError):
    """No space left for the database."""


class StateUnreachable(StateError):
    """The server refuses connections or is gone, or the disk fails."""


class StateSilent(StateUnreachable):
    """The server closed a connection, is starting or does not answer: a restart, or a short failure of the network."""

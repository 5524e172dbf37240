"""A state database belongs to one destination: its cursors say what is durable there.

It is bound when the destination has taken the first project, and not before: a mistyped workspace, which Neptune
refuses, must not bind it for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from migrations_db.store import Store
from migrator.errors import UserError

COPIES, UPLOADS = "destination", "upload destination"  # keys of settings in the state database
_OFFLINE = "offline:"  # begins the address of a directory


def offline_address(directory: Path) -> str:
    """What a state database is bound to when its runs go to offline files."""
    return f"{_OFFLINE}{directory.absolute()}"


def directory_of(address: str) -> Path | None:
    """The directory of offline files that an address names; None: it names a Neptune server."""
    return Path(address.removeprefix(_OFFLINE)) if address.startswith(_OFFLINE) else None


def is_same_directory(one: Path, other: Path) -> bool:
    """Whether two paths lead to one directory, through symbolic links or not; it need not be there."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


@dataclass(frozen=True, slots=True)
class Binding:
    """`setting` is COPIES, or for offline files on their way to Neptune UPLOADS."""

    setting: str
    address: str

    def check(self, store: Store) -> None:
        """`UserError` if the database belongs to another destination."""
        self._compare(store.setting(self.setting) or self.address)

    def bind(self, store: Store) -> None:
        """From now on the database belongs to this one. `UserError` if it belongs to another already."""
        self._compare(store.claim_setting(self.setting, self.address))

    def _compare(self, bound: str) -> None:
        if not _is_same(bound, self.address):
            advice = "`migrate sync` uploads offline files" if directory_of(bound) else "use the same settings"
            raise UserError(
                f"the runs of this state database go to {bound}, not to {self.address}: {advice}, "
                "or take --db OTHER for another destination"
            )


def _is_same(one: str, other: str) -> bool:
    directories = directory_of(one), directory_of(other)
    if directories[0] and directories[1]:
        return is_same_directory(directories[0], directories[1])
    return one == other

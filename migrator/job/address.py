"""A state database belongs to one destination: its cursors say what is durable there.

It is bound when the destination has taken the first project, and not before: a mistyped workspace, which Neptune
refuses, must not bind it for ever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from migrations_db.store import Store
from migrator.errors import UserError

COPIES, UPLOADS = "destination", "upload destination"  # keys of settings in the state database
_OFFLINE = "offline:"


@dataclass(frozen=True, slots=True)
class Address:
    """Where runs go: a directory of offline files, or a workspace of a Neptune server.

    `text` is what the state database keeps and messages show; `parse` reads it.
    """

    directory: Path | None = None
    server: str = ""
    workspace: str | None = None

    @classmethod
    def of_directory(cls, directory: Path) -> Address:
        return cls(directory.absolute())

    @classmethod
    def parse(cls, text: str) -> Address:
        if text.startswith(_OFFLINE):
            return cls(Path(text.removeprefix(_OFFLINE)))
        server, workspace = re.fullmatch(r"(.*?)(?: workspace (\S+))?", text, re.DOTALL).groups()  # type: ignore[union-attr]
        return cls(server=server, workspace=workspace)

    @property
    def text(self) -> str:
        if self.directory is not None:
            return f"{_OFFLINE}{self.directory}"
        return f"{self.server} workspace {self.workspace}" if self.workspace else self.server

    def is_same(self, other: Address) -> bool:
        if self.directory and other.directory:
            return is_same_directory(self.directory, other.directory)
        return self == other


def is_same_directory(one: Path, other: Path) -> bool:
    """Whether two paths lead to one directory, through symbolic links or not; it need not be there."""
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()


def bound_address(store: Store, setting: str = COPIES) -> Address | None:
    """Where the runs of a state database go; None: it is not bound yet."""
    text = store.setting(setting)
    return Address.parse(text) if text else None


@dataclass(frozen=True, slots=True)
class Binding:
    """Binds a database to `address`. `setting` is COPIES or, for uploads of offline files, UPLOADS."""

    setting: str
    address: Address

    def check(self, store: Store) -> None:
        """`UserError` if the database belongs to another destination."""
        self._compare(bound_address(store, self.setting) or self.address)

    def bind(self, store: Store) -> None:
        """Bind the database to this destination. `UserError` if it already belongs to another."""
        self._compare(Address.parse(store.claim_setting(self.setting, self.address.text)))

    def _compare(self, bound: Address) -> None:
        if not bound.is_same(self.address):
            advice = "`migrate sync` uploads offline files" if bound.directory else "use the same settings"
            raise UserError(
                f"the runs of this state database go to {bound.text}, not to {self.address.text}: {advice}, "
                "or take --db OTHER for another destination"
            )

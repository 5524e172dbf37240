"""Who may import whom: one way, cli -> commands -> copy -> parts -> contracts -> records."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import migrations_db
import migrator

ROOT = Path(migrator.__file__).parent.parent

#: knows nothing of sources, destinations or the state database
PURE = {"errors", "json_text", "limits", "naming", "records", "values", "visible"}
CONTRACTS = {"sources.base", "destinations.base"}
#: builds the adapters; the others touch one adapter, for the reason given
BUILDER = "job"
EXCEPTIONS = {
    "upload": "sends Neptune's own offline files, whatever the destination",
    "run": "asks where runs would go, without connecting",
}
VENDORS = {
    "wandb": ("sources.wandb_", "demo"),
    "pyarrow": ("sources.wandb_", "demo"),
    "neptune_scale": ("destinations.neptune",),
    "neptune_api": ("destinations.neptune",),
    "alembic": (),
}


def modules(package: str) -> dict[str, ast.Module]:
    """Name, without the package, -> syntax tree."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / package).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MIGRATOR, STATE = modules(migrator.__name__), modules(migrations_db.__name__)


def imports(tree: ast.AST) -> Iterator[str]:
    """All that a module imports, anywhere in it, in full; `from a import b` gives a.b, a module or not."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module, names, 0):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.ImportFrom():
                raise AssertionError("imports are absolute here")


def ours(name: str) -> set[str]:
    """The modules of the package that a module imports."""
    inside = {full.removeprefix("migrator.") for full in imports(MIGRATOR[name]) if full.startswith("migrator.")}
    return {each if each in MIGRATOR else each.rpartition(".")[0] for each in inside}


def is_adapter(name: str) -> bool:
    return name.startswith(("sources.", "destinations.")) and name not in CONTRACTS


def packages(tree: ast.AST) -> set[str]:
    return {full.split(".")[0] for full in imports(tree)}


@pytest.mark.parametrize("name", sorted(STATE))
def test_the_state_database_imports_nothing_of_the_program(name: str) -> None:
    assert "migrator" not in packages(STATE[name])


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_only_each_other(name: str) -> None:
    assert ours(name) <= PURE
    assert packages(MIGRATOR[name]) <= {*sys.stdlib_module_names, "migrator"}


@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_contracts_import_only_pure_modules(name: str) -> None:
    assert ours(name) <= PURE


@pytest.mark.parametrize("name", sorted(name for name in MIGRATOR if name.split(".")[0] == "parts"))
def test_parts_know_the_source_contract_and_no_destination(name: str) -> None:
    assert {each for each in ours(name) if each.split(".")[0] != "parts"} <= PURE | {"sources.base"}
    assert packages(MIGRATOR[name]) <= {*sys.stdlib_module_names, "migrator"}


@pytest.mark.parametrize("name", ["copy", "pipeline"])
def test_the_copy_knows_parts_contracts_and_what_the_state_database_speaks_of(name: str) -> None:
    below = PURE | CONTRACTS | {"copy", "pipeline"}
    assert {each for each in ours(name) if each.split(".")[0] != "parts"} <= below
    state = {full for full in imports(MIGRATOR[name]) if full.startswith("migrations_db")}
    assert {".".join(full.split(".")[:2]) for full in state} <= {"migrations_db.types", "migrations_db.states"}


@pytest.mark.parametrize("name", sorted(filter(is_adapter, MIGRATOR)))
def test_sources_and_destinations_never_meet_nor_look_up(name: str) -> None:
    side = name.split(".")[0]
    assert {each for each in ours(name) if each.split(".")[0] != side} <= PURE
    assert "migrations_db" not in packages(MIGRATOR[name])


@pytest.mark.parametrize("name", sorted(name for name in MIGRATOR if not is_adapter(name)))
def test_only_one_module_builds_adapters(name: str) -> None:
    assert name in (BUILDER, *EXCEPTIONS) or not any(map(is_adapter, ours(name)))


def test_the_exceptions_are_still_needed() -> None:
    assert all(any(map(is_adapter, ours(name))) for name in EXCEPTIONS)


@pytest.mark.parametrize("name", sorted(MIGRATOR))
def test_nothing_but_the_entry_point_imports_the_command_line(name: str) -> None:
    assert name == "__main__" or "cli" not in ours(name)


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_each_vendors_package_stays_with_its_adapter(vendor: str) -> None:
    users = {name for name, tree in MIGRATOR.items() if vendor in packages(tree)}
    assert {name for name in users if not name.startswith(VENDORS[vendor])} == set()


def test_the_command_line_starts_without_slow_packages() -> None:
    slow = ["wandb", "neptune_scale", "neptune_api", "pyarrow", "alembic"]
    code = f"import sys, migrator.cli; print([name for name in {slow} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")

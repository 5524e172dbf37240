"""Who may import whom: one way, down the list of folders."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest

import migrations_db
import migrator

ROOT = Path(__file__).parents[2]

#: pure data and pure rules, and what everybody may say
WORDS = frozenset(
    {
        "disk",
        "garbage",
        "records",
        "listed",
        "values",
        "json_text",
        "naming",
        "limits",
        "errors",
        "visible",
        "figures",
        "life",
        "services",
    }
)
#: from the top down: each folder may import the ones behind it, and itself
LAYERS: list[frozenset[str]] = [
    frozenset({"__main__"}),
    frozenset({"cli", "options", "help"}),
    frozenset({"commands"}),
    frozenset({"job"}),
    frozenset({"copying"}),
    frozenset({"parts"}),
    frozenset({"sources", "destinations"}),
    frozenset({"settings", "redaction"}),
    WORDS,
]
CONTRACTS = {"sources.base", "destinations.base"}
#: the folders below `copying` know the adapters by their contracts alone; these modules name one, for the reason given
NAME_ADAPTERS = {
    "job.job": "builds them",
    "copying.upload": "sends Neptune's own offline files, whatever the destination",
    "commands.run": "asks where runs would go, without connecting",
}
VENDORS = {
    "wandb": ("sources.wandb", "commands.demo"),
    "pyarrow": ("sources.wandb.", "sources.wandb_local.items", "sources.wandb_local.columns", "commands.demo"),
    "neptune_scale": ("destinations.neptune.",),
    "neptune_api": ("destinations.neptune.",),
    "alembic": (),
}


def modules(package: str) -> dict[str, ast.Module]:
    """Name, without the package, -> syntax tree."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / package).with_suffix("").parts).removesuffix(".__init__")
        if name != "__init__":
            found[name] = ast.parse(path.read_text(encoding="utf-8"))
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


def folder(name: str) -> str:
    return name.split(".")[0]


def layer(name: str) -> int:
    return next(number for number, folders in enumerate(LAYERS) if folder(name) in folders)


def adapter(name: str) -> str | None:
    """The adapter that a module belongs to: `sources.wandb`, `destinations.memory` ..."""
    if folder(name) not in ("sources", "destinations") or name in CONTRACTS:
        return None
    return ".".join(name.split(".")[:2])


def packages(tree: ast.AST) -> set[str]:
    return {full.split(".")[0] for full in imports(tree)}


@pytest.mark.parametrize("name", sorted(STATE))
def test_the_state_database_imports_nothing_of_the_program(name: str) -> None:
    assert "migrator" not in packages(STATE[name])


@pytest.mark.parametrize("name", sorted(MIGRATOR))
def test_imports_go_down(name: str) -> None:
    assert {each for each in ours(name) if layer(each) < layer(name)} == set()


@pytest.mark.parametrize("name", sorted(name for name in MIGRATOR if name in WORDS or folder(name) == "parts"))
def test_words_and_parts_are_pure(name: str) -> None:
    assert packages(MIGRATOR[name]) <= {*sys.stdlib_module_names, "migrator"}


@pytest.mark.parametrize("name", sorted(name for name in MIGRATOR if folder(name) == "parts"))
def test_parts_know_no_destination_and_of_sources_the_contract(name: str) -> None:
    assert {each for each in ours(name) if folder(each) in ("sources", "destinations")} <= {"sources.base"}


@pytest.mark.parametrize("name", ["copying.copy", "copying.pipeline"])
def test_a_copy_knows_what_the_state_database_speaks_of(name: str) -> None:
    state = {full for full in imports(MIGRATOR[name]) if full.startswith("migrations_db")}
    assert {".".join(full.split(".")[:2]) for full in state} <= {"migrations_db.types", "migrations_db.states"}


@pytest.mark.parametrize("name", sorted(name for name in MIGRATOR if folder(name) in ("sources", "destinations")))
def test_adapters_never_meet(name: str) -> None:
    shared = {"sources.paging", "sources.row_columns", "sources.wandb_facts"}
    met = {adapter(each) for each in ours(name) if each not in shared} - {None, adapter(name)}
    assert met == set()
    assert not {folder(each) for each in ours(name)} & ({"sources", "destinations"} - {folder(name)})
    assert "migrations_db" not in packages(MIGRATOR[name])


@pytest.mark.parametrize("name", sorted(name for name in MIGRATOR if layer(name) < layer("sources")))
def test_only_one_module_builds_adapters(name: str) -> None:
    assert name in NAME_ADAPTERS or not any(map(adapter, ours(name)))


def test_the_exceptions_are_still_needed() -> None:
    assert {name for name in NAME_ADAPTERS if not any(map(adapter, ours(name)))} == set()


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_each_vendors_package_stays_with_its_adapter(vendor: str) -> None:
    users = {name for name, tree in MIGRATOR.items() if vendor in packages(tree)}
    assert {name for name in users if not name.startswith(VENDORS[vendor])} == set()


def provided_by(module: str, packages: Mapping[str, list[str]]) -> set[str]:
    """Names of the distributions that bring `module` (in full); a namespace such as `google` is shared by several."""
    found = set(packages.get(module.split(".")[0], ()))
    if len(found) > 1:
        folder = "/".join(module.split(".")[:2])
        found = {name for name in found if any(str(file).startswith(folder) for file in distribution(name).files or ())}
    return {canonical(name) for name in found}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_imported_package_is_a_declared_dependency() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    declared = {canonical(re.split(r"[^\w.-]", line)[0]) for line in project["dependencies"]}
    packages = packages_distributions()
    imported = {full for tree in (*MIGRATOR.values(), *STATE.values()) for full in imports(tree)}
    ours = {*sys.stdlib_module_names, "migrator", "migrations_db"}
    outside = {full for full in imported if full.split(".")[0] not in ours}
    assert {full for full in outside if not provided_by(full, packages) & declared} == set()


def test_the_command_line_starts_without_slow_packages() -> None:
    slow = ["wandb", "neptune_scale", "neptune_api", "pyarrow", "alembic"]
    code = f"import sys, migrator.cli; print([name for name in {slow} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")

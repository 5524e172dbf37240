"""README is complete: every command, option, part and exit code is in it, and every command explains itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from migrator.cli import app
from migrator.commands.left_out import LEFT_OUT_MEANS
from migrator.commands.text import SKIPS_MEAN
from migrator.errors import ErrorClass, ExitCode
from migrator.listed import Cause
from migrator.parts import PARTS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_in_the_readme_and_explains_itself(name: str) -> None:
    assert f"`migrate {name}" in README
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0
    assert COMMANDS[name].help.split("\n")[0] in result.output


@pytest.mark.parametrize("name", ["doctor", "inventory", "plan", "run", "status", "verify", "report", "clean"])
def test_every_option_is_in_the_readme(name: str) -> None:
    options = [word for parameter in COMMANDS[name].params for word in parameter.opts if word.startswith("--")]
    missing = [option for option in options if f"{option} " not in README and f"{option}`" not in README]
    assert missing == []


def test_the_kubernetes_job_runs_a_command_that_exists() -> None:
    [block] = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    job = yaml.safe_load(block)
    [container] = job["spec"]["template"]["spec"]["containers"]
    program, name, *arguments = container["command"]
    assert program == "migrate"
    COMMANDS[name].make_context(name, arguments)
    known = {parameter.envvar for parameter in COMMANDS[name].params}
    assert {variable["name"] for variable in container["env"]} <= known
    end, _evicted = job["spec"]["podFailurePolicy"]["rules"]
    assert set(end["onExitCodes"]["values"]) == {ExitCode.USAGE, ExitCode.SOME_FAILED, ExitCode.CREDENTIALS}


def test_every_part_and_exit_code_is_in_the_readme() -> None:
    assert [name for name in PARTS if f"`{name}`" not in README] == []
    table = README.split("## Exit codes")[1].split("##")[0]
    codes = {int(code) for code in re.findall(r"\d+", " ".join(re.findall(r"^\| ([\d, ]+) \|", table, re.MULTILINE)))}
    assert codes == {int(code) for code in ExitCode}


def test_every_code_of_a_skip_is_explained_in_the_same_words_everywhere() -> None:
    table = README.split("| skipped as | means |")[1].split("\n\n")[0]
    assert dict(re.findall(r"^\| `(\w+)(?:: CODE)?` \| (.+) \|$", table, re.MULTILINE)) == SKIPS_MEAN
    modules = (Path(__file__).parents[2] / "migrator" / "parts").glob("*.py")
    calls = [
        node for module in modules for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.Call)
    ]
    skips = [call for call in calls if "skip" in ast.unparse(call).partition(",")[0].lower()]
    codes = {word.value for call in skips for word in call.args if isinstance(word, ast.Constant)}
    of_sources = {"link", "contains_key", "unreadable", "overwritten", "outside"}
    assert codes | of_sources | {"refused", "damaged_file"} == SKIPS_MEAN.keys()


def test_every_cause_of_something_left_out_is_in_the_readme_and_has_advice() -> None:
    assert set(LEFT_OUT_MEANS) == set(Cause)
    assert [cause for cause in Cause if f"`{cause}`" not in README] == []


def test_every_error_class_has_advice() -> None:
    from migrator.errors import ADVICE

    assert set(ADVICE) == set(ErrorClass)

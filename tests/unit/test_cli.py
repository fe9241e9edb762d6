from __future__ import annotations

import importlib
import subprocess
import sys
from importlib import metadata, util

import click
import pytest
from click.testing import CliRunner

from lakemill import cli
from lakemill.errors import ConfError, LakemillError

HEAVY = {"aiohttp", "delta", "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyspark", "ray", "torch", "vllm"}


def test_help_lists_every_command_without_importing_it() -> None:
    code = f"""
import sys
from click.testing import CliRunner
from lakemill.cli import COMMANDS, cli
said = CliRunner().invoke(cli, ["--help"]).output
assert all(name in said for name in COMMANDS), said
print(sorted({HEAVY!r} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_version_is_that_of_the_package() -> None:
    assert metadata.version("lakemill") in CliRunner().invoke(cli.cli, ["--version"]).output


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_is_where_the_table_says(name: str) -> None:
    module, _, attribute = cli.COMMANDS[name][0].partition(":")
    assert util.find_spec(module) is not None, module
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.help


def test_an_unknown_command_is_wrong_use() -> None:
    done = CliRunner().invoke(cli.cli, ["frobnicate"])
    assert done.exit_code == 2
    assert "No such command 'frobnicate'" in done.output


@pytest.mark.parametrize("kind", [LakemillError, ConfError])
def test_an_error_is_one_clear_line_and_its_exit_code(
    kind: type[LakemillError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(**_options: object) -> None:
        raise kind("the mill stands still", hint="give it water")

    monkeypatch.setattr(cli, "cli", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == kind.exit_code
    assert capsys.readouterr().err == "error: the mill stands still\n  → give it water\n"


def test_ctrl_c_is_told_and_exits_as_shells_do(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Command, "invoke", interrupted)
    result = CliRunner().invoke(cli.cli, ["doctor"])
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")

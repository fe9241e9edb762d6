from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lakemill.errors import LakemillError, RowFailedError, UsageError
from lakemill.udfs import shell

MODEL = "smollm2-135m-instruct"


def test_statements_are_cut_as_sparks_own_command_line_cuts_them(spark):
    text = """SELECT 'a;b', "c;\\\\", `d;e`; -- a; comment
    /* one; more */ SELECT 2 ; ;"""
    first, second = shell.statements(spark, text)
    assert first == """SELECT 'a;b', "c;\\\\", `d;e`"""
    assert second.endswith("SELECT 2")
    assert shell.statements(spark, "BEGIN SELECT 3; SELECT 4; END;") == ["BEGIN SELECT 3; SELECT 4; END;"]
    assert shell.statements(spark, " ; -- nothing") == []


def test_a_table_shows_types_and_nulls(spark, capsys):
    shell.run_one(spark, "SELECT CAST(NULL AS STRING) AS nothing, 7 AS seven, '[red]x' AS markup", "table")
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[1].strip("|").split("|")] == ["nothing", "seven", "markup"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["string", "int", "string"]
    assert [cell.strip() for cell in lines[4].strip("|").split("|")] == ["NULL", "7", "[red]x"]
    assert lines[-1] == "1 row"


def test_a_table_ends_after_a_thousand_rows_and_says_so_while_json_gives_all(spark, capsys):
    shell.run_one(spark, "SELECT id FROM range(1500)", "table")
    shown = capsys.readouterr()
    assert "1000+ rows" in shown.out
    assert "only the first 1000 rows" in shown.err
    shell.run_one(spark, "SELECT id FROM range(1500)", "json")
    assert len(capsys.readouterr().out.splitlines()) == 1500


@pytest.mark.parametrize(
    ("statement", "kind", "begins"),
    [
        ("SELEC 1", UsageError, "[PARSE_SYNTAX_ERROR]"),
        ("SELECT nope FROM range(2)", UsageError, "[UNRESOLVED_COLUMN"),
        ("SELECT ai_summarize('x', nosuch => 1)", UsageError, "ai_summarize: unknown argument nosuch"),
        ("SELECT 1 / 0", LakemillError, "[DIVIDE_BY_ZERO]"),
        (f"SELECT ai_query('{MODEL}', repeat('word ', 60000))", RowFailedError, "ai_query: CONTEXT_LENGTH_EXCEEDED"),
    ],
)
def test_an_error_is_one_clear_message(spark, statement: str, kind: type[LakemillError], begins: str):
    with pytest.raises(LakemillError) as caught:
        shell.run_one(spark, statement, "table")
    assert type(caught.value) is kind
    assert caught.value.message.startswith(begins)
    for noise in ("Traceback", "\tat ", "JVM stacktrace", "'Project", "+- "):
        assert noise not in caught.value.message


def sql(contract: Any, home: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    given = {"LAKEMILL_HOME": str(home), "LAKEMILL_ENDPOINT": contract.url, "LAKEMILL_TOKEN": contract.token}
    line = [sys.executable, "-c", "from lakemill.cli import main; main()", "sql", *arguments]
    return subprocess.run(
        line, input=stdin, capture_output=True, text=True, env=os.environ | given, timeout=180, check=False
    )


def test_the_command_runs_a_file_prints_rows_and_warns_at_the_end(contract, tmp_path):
    script = f"CREATE TABLE t AS SELECT '{'word ' * 20000}' AS body UNION ALL SELECT 'short'; \n"
    script += "SELECT ai_summarize(body) IS NULL AS failed FROM t"
    done = sql(contract, tmp_path, "-f", "-", "--format", "json", stdin=script)
    assert done.returncode == 0, done.stderr
    assert sorted(json.loads(line)["failed"] for line in done.stdout.splitlines()) == [False, True]
    assert "1 of 2 rows failed (CONTEXT_LENGTH_EXCEEDED 1)" in done.stderr


def test_the_command_refuses_with_status_2_and_without_a_trace(contract, tmp_path):
    done = sql(contract, tmp_path, "-e", "SELECT 1 AS one; SELECT nope")
    assert done.returncode == 2
    assert "one" in done.stdout
    assert "error: [UNRESOLVED_COLUMN" in done.stderr
    assert "Traceback" not in done.stderr
    assert sql(contract, tmp_path, "-e", " ; ").returncode == 0
    assert sql(contract, tmp_path).returncode == 2

"""Every way of calling the functions, and what they give."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import pytest
from pyspark.errors import AnalysisException, PythonException
from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812

from lakemill.serving.contract_server import ContractServer

MODEL = "smollm2-135m-instruct"


def value(spark: SparkSession, expression: str, *, source: str = "") -> object:
    return spark.sql(f"SELECT {expression} AS v {source}").collect()[0].v


def asked(contract: ContractServer, mark: str) -> int:
    """Return how many rows with this mark the engine was handed."""
    return sum(
        any(mark in message["content"] for message in prompt.messages or ())
        for batch in contract.engine.batches
        for prompt in batch.prompts
    )


class TestEveryWayOfCalling:
    def test_a_plain_query_gives_text(self, spark: SparkSession) -> None:
        assert str(value(spark, f"ai_query('{MODEL}', 'Say hi')")).endswith("Say hi")

    def test_every_form_asks_the_same(self, spark: SparkSession) -> None:
        forms = [
            "ai_summarize(body, 20, map('temperature', '0'))",
            "ai_summarize(content => body, max_words => 20, options => map('temperature', '0'))",
            "ai_summarize(body, max_words => 20, options => map('temperature', '0'))",
            "ai_summarize(options => map('temperature', '0'), max_words => 10 + 10, content => body)",
        ]
        row = spark.sql(f"SELECT {', '.join(forms)} FROM VALUES ('some long text') AS t(body)").collect()[0]
        assert len(set(row)) == 1
        assert row[0] is not None

    def test_a_trailing_map_is_the_options(self, spark: SparkSession) -> None:
        keys = spark.sql(
            "SELECT lakemill_key_ai_summarize('x', map('max_tokens', '9')), "
            "lakemill_key_ai_summarize('x', options => map('max_tokens', '9')), lakemill_key_ai_summarize('x')"
        ).collect()[0]
        assert keys[0] == keys[1] != keys[2]

    def test_a_map_where_labels_belong_is_the_labels(self, spark: SparkSession) -> None:
        given = "ai_classify('x', map('card', 'payment cards', 'app', 'the app'), map('instructions', 'be careful'))"
        assert value(spark, given) in ("card", "app")

    def test_data_frame_expressions(self, spark: SparkSession) -> None:
        frame = spark.range(2).select(F.expr("ai_summarize(concat('text ', id))").alias("v"))
        assert all(row.v for row in frame.collect())

    def test_call_function(self, spark: SparkSession) -> None:
        frame = spark.range(1).select(F.call_function("ai_summarize", F.lit("text")).alias("v"))
        assert frame.collect()[0].v

    def test_a_common_table_expression_a_view_and_a_table(self, spark: SparkSession) -> None:
        query = f"SELECT id, ai_query('{MODEL}', concat('row ', id)) AS v FROM range(3)"
        expected = {row.id: row.v for row in spark.sql(query).collect()}
        assert {r.id: r.v for r in spark.sql(f"WITH c AS ({query}) SELECT * FROM c").collect()} == expected
        spark.sql(f"CREATE OR REPLACE TEMPORARY VIEW answers_view AS {query}")
        assert {r.id: r.v for r in spark.table("answers_view").collect()} == expected
        spark.sql(f"CREATE OR REPLACE TABLE answers_table USING delta AS {query}")
        assert {r.id: r.v for r in spark.table("answers_table").collect()} == expected
        spark.sql("DROP TABLE answers_table")

    def test_a_permanent_view_is_refused_by_spark(self, spark: SparkSession) -> None:
        with pytest.raises(AnalysisException, match="temporary object `ai_summarize`"):
            spark.sql("CREATE VIEW kept AS SELECT ai_summarize('x') AS v")

    def test_deterministic_uses_that_spark_refuses_otherwise(self, spark: SparkSession) -> None:
        frame = spark.sql(
            "SELECT s, count(*) AS n FROM range(4) t, "
            "LATERAL (SELECT ai_classify(concat('x', t.id), array('a', 'b')) AS s) GROUP BY s ORDER BY s"
        )
        assert sum(row.n for row in frame.collect()) == 4

    def test_other_types_are_read_as_text(self, spark: SparkSession) -> None:
        assert value(spark, "ai_summarize(42)") == value(spark, "ai_summarize('42')")

    def test_columns_are_named_after_the_call(self, spark: SparkSession) -> None:
        assert spark.sql("SELECT ai_summarize(body) FROM VALUES ('x') AS t(body)").columns == ["ai_summarize(body)"]


class TestQuery:
    def test_fail_on_error_false_gives_a_pair(self, spark: SparkSession) -> None:
        frame = spark.sql(f"SELECT ai_query('{MODEL}', t, failOnError => false) AS v FROM VALUES ('fine') AS x(t)")
        assert frame.schema["v"].dataType.simpleString() == "struct<result:string,errorMessage:string>"
        row = frame.select("v.result", "v.errorMessage").collect()[0]
        assert row.result
        assert row.errorMessage is None

    def test_the_result_of_a_pair_can_be_named_at_once(self, spark: SparkSession) -> None:
        assert value(spark, f"ai_query('{MODEL}', 'hi', failOnError => false).result")
        failed = value(spark, f"ai_query('{MODEL}', 'x [[lakemill:fail TIMEOUT]] 1', failOnError => false)")
        assert failed.result is None  # type: ignore[attr-defined]
        assert failed.errorMessage.startswith("TIMEOUT: ")  # type: ignore[attr-defined]

    def test_by_position(self, spark: SparkSession) -> None:
        given = f"ai_query('{MODEL}', 'hi', 'STRUCT<a: INT>', false, named_struct('max_tokens', 99))"
        assert isinstance(value(spark, given).result.a, int)  # type: ignore[attr-defined]

    def test_the_default_fails_the_query_with_the_error(self, spark: SparkSession) -> None:
        with pytest.raises(PythonException) as caught:
            value(spark, f"ai_query('{MODEL}', 'x [[lakemill:fail CONTENT_FILTERED]]')")
        told = str(caught.value)
        assert "ai_query: CONTENT_FILTERED: the row asked to fail" in told
        assert "Traceback" not in told

    def test_a_struct_of_every_type(self, spark: SparkSession) -> None:
        ddl = (
            "STRUCT<a: INT, b: BIGINT, c: DOUBLE, d: DATE, e: TIMESTAMP, f: DECIMAL(10, 2), g: BOOLEAN, "
            "h: ARRAY<STRUCT<x: FLOAT>>, i: MAP<STRING, INT>, j: STRUCT<k: STRUCT<l: STRING>>>"
        )
        frame = spark.sql(
            f"SELECT ai_query('{MODEL}', t, returnType => '{ddl}') AS v FROM VALUES ('one'), (NULL) AS x(t)"
        )
        expected = spark.sql(f"SELECT from_json('', '{ddl}') AS v").schema["v"].dataType.simpleString()
        assert frame.schema["v"].dataType.simpleString() == expected
        row = frame.where("v IS NOT NULL").collect()[0].v
        assert row.d == dt.date(2024, 2, 29)
        assert isinstance(row.f, Decimal)
        assert isinstance(row.h[0].x, float)
        assert isinstance(row.j.k.l, str)
        assert frame.where("v IS NULL").count() == 1

    @pytest.mark.parametrize(
        ("ddl", "kind"),
        [("INT", int), ("BOOLEAN", bool), ("ARRAY<STRING>", list), ("DATE", dt.date), ("STRING", str)],
    )
    def test_other_types(self, spark: SparkSession, ddl: str, kind: type) -> None:
        assert isinstance(value(spark, f"ai_query('{MODEL}', 'hi', returnType => '{ddl}')"), kind)

    def test_response_formats(self, spark: SparkSession) -> None:
        schema = json.dumps(
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"n": {"type": "integer"}}}}}
        )
        assert isinstance(value(spark, f"ai_query('{MODEL}', 'x', responseFormat => 'text')"), str)
        free = value(spark, f"""ai_query('{MODEL}', 'x', responseFormat => '{{"type": "json_object"}}')""")
        assert isinstance(json.loads(str(free)), dict)
        bound = value(spark, f"from_json(ai_query('{MODEL}', 'x', responseFormat => '{schema}'), 'n INT').n")
        assert isinstance(bound, int)
        typed = value(spark, f"ai_query('{MODEL}', 'x', responseFormat => 'STRUCT<city: STRUCT<name: STRING>>')")
        assert isinstance(typed.city.name, str)  # type: ignore[attr-defined]

    def test_model_parameters_reach_the_service(self, spark: SparkSession, contract: ContractServer) -> None:
        value(spark, f"ai_query('{MODEL}', 'm1', modelParameters => named_struct('max_tokens', 77, 'top_p', 0.5))")
        value(spark, f"ai_query('{MODEL}', 'm2', modelParameters => map('max_tokens', '78', 'stop', 'END'))")
        first, second = contract.engine.batches[-2:]
        assert first.params["max_tokens"] == 77
        assert first.params["top_p"] == 0.5
        assert second.params["stop"] == ["END"]


class TestTask:
    def test_a_summary_has_its_word_limit_as_an_instruction(
        self, spark: SparkSession, contract: ContractServer
    ) -> None:
        for words, expected in (("", "at most 50 words"), (", 7", "at most 7 words"), (", 0", None)):
            value(spark, f"ai_summarize('limit{words}'{words})")
            asked = (contract.engine.batches[-1].prompts[0].messages or ())[-1]["content"]
            assert ("at most" in asked) == (expected is not None)
            assert expected is None or expected in asked

    def test_a_label_with_confidence(self, spark: SparkSession) -> None:
        frame = spark.sql("SELECT try_ai_classify('some text', array('card', 'account', 'app')) AS v")
        assert frame.schema["v"].dataType.names[-3:] == ["key", "confidence", "scores"]
        row = frame.collect()[0].v
        assert row.result == max(row.scores, key=row.scores.get)
        assert row.confidence == row.scores[row.result]
        assert sum(row.scores.values()) == pytest.approx(1)
        assert row.result == value(spark, "ai_classify('some text', array('card', 'account', 'app'))")

    def test_the_plain_form_and_the_try_form_share_one_answer(
        self, spark: SparkSession, contract: ContractServer
    ) -> None:
        value(spark, "struct(ai_classify('shared-zq', array('a', 'b')), try_ai_classify('shared-zq', array('a', 'b')))")
        assert asked(contract, "shared-zq") == 1

    def test_extract_names(self, spark: SparkSession) -> None:
        frame = spark.sql("SELECT ai_extract('Ada lives in London', array('person', 'the city')) AS v")
        assert frame.schema["v"].dataType.simpleString() == "struct<person:string,the city:string>"
        assert set(frame.collect()[0].v.asDict()) == {"person", "the city"}

    def test_an_absent_field_is_null(self, spark: SparkSession) -> None:
        said = '[[lakemill:say {"person": "Ada", "city": null}]]'
        row = value(spark, f"ai_extract('{said}', array('person', 'city', 'age'))")
        assert (row.person, row.city, row.age) == ("Ada", None, None)  # type: ignore[attr-defined]

    def test_extract_by_schema_is_a_variant(self, spark: SparkSession) -> None:
        schema = '{"age": {"type": "integer"}, "kind": {"type": "enum", "labels": ["x", "y"]}}'
        frame = spark.sql(f"SELECT ai_extract(t, '{schema}') AS v FROM VALUES ('Ada'), (NULL) AS x(t)")
        assert frame.schema["v"].dataType.simpleString() == "variant"
        row = frame.selectExpr("v IS NULL AS blank", "v:response.age::int AS age", "v:error_message AS e").collect()
        assert [(r.blank, isinstance(r.age, int), r.e is None or r.e.toPython() is None) for r in row] == [
            (False, True, True),
            (True, False, True),
        ]

    def test_extract_by_schema_carries_its_error(self, spark: SparkSession) -> None:
        said = '[[lakemill:say {"age": "old"}]]'
        given = f"""ai_extract('{said}', '{{"age": {{"type": "integer"}}}}')"""
        assert value(spark, f"{given}:response").toPython() is None  # type: ignore[attr-defined]
        assert str(value(spark, f"{given}:error_message::string")).startswith("SCHEMA_MISMATCH: $.age")

    def test_try_extract_by_schema(self, spark: SparkSession) -> None:
        frame = spark.sql("""SELECT try_ai_extract(t, '["name"]') AS v FROM VALUES ('Ada'), ('') AS x(t)""")
        rows = frame.selectExpr("v IS NULL AS blank", "v.result:response.name::string AS name", "v.key").collect()
        assert [(r.blank, r.name is None, r.key is None) for r in rows] == [(False, False, False), (True, True, True)]


class TestWrongCalls:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            ("ai_summarize('x', foo => 1)", "ai_summarize: unknown argument foo (expected ai_summarize(content"),
            ("ai_summarize()", "ai_summarize: missing argument content"),
            ("ai_summarize('x', 1, map('k', 'v'), 2)", "ai_summarize: too many arguments"),
            ("ai_summarize('x', map('tokens', '1'))", "ai_summarize: unknown option tokens (known options: model, "),
            ("ai_summarize('x', map('max_tokens', '0'))", "option max_tokens must be a whole number of at least 1"),
            ("ai_summarize('x', map('temperature', 'hot'))", "option temperature must lie in 0 to 2, found 'hot'"),
            ("ai_summarize('x', map('on_error', 'stop'))", "option on_error must be 'null' or 'fail', found 'stop'"),
            ("ai_summarize('x', map('cache', 'off'))", "option cache: 'off' is not supported yet"),
            ("ai_summarize('x', map('prompt', '99'))", "prompt must be one of 1, found '99'"),
            ("ai_summarize('x', map('model', 'nope'))", f"ai_summarize: unknown model 'nope' (served: {MODEL})"),
            ("ai_summarize('x', -1)", "max_words must be a literal whole number of at least 0, found -1"),
            ("ai_summarize('x', cast(id as int))", "max_words must be a literal INT, found CAST(id AS INT)"),
            ("ai_summarize(array('x'))", "content must be STRING, found array('x') of type ARRAY<STRING>"),
            ("ai_classify('x', array())", "labels must be a non-empty literal array of strings, or a map"),
            ("ai_classify('x', array('a', NULL))", "labels must be a non-empty literal array of strings"),
            ("ai_classify('x', array(1, 2))", "labels must be a non-empty literal array of strings"),
            ("ai_classify('x', array('a', 'a'))", "ai_classify: labels must differ, found 'a' twice"),
            ("ai_classify('x', array('a'))", "ai_classify: labels must be 2 to 500, found 1"),
            ("ai_classify('x', array('a', concat('b', id)))", "labels must be a literal array of strings, found"),
            ("ai_classify('x')", "ai_classify: missing argument labels"),
            ("ai_classify('x', array('a', 'b'), map('multilabel', 'true'))", "option multilabel is not supported yet"),
            (
                "ai_extract('x', array())",
                "ai_extract: labels must be a non-empty literal array of strings, or a schema",
            ),
            ("ai_extract('x', array('a', 'A'))", "ai_extract: labels must differ in more than case, found 'a' and 'A'"),
            ("ai_extract('x', 'a, b')", "ai_extract: schema: expected a JSON array of names"),
            (
                """ai_extract('x', '{"type": "object", "properties": {"a": {"type": "integer"}}}')""",
                'ai_extract: schema: this is JSON Schema; write {"a": {"type": "integer"}}',
            ),
            ("ai_query('nope', 'x')", f"ai_query: unknown model 'nope' (served: {MODEL})"),
            (f"ai_query('{MODEL}')", "ai_query: missing argument request"),
            (f"ai_query('{MODEL}', 'x', returnType => 'INTEGRAL')", "ai_query: returnType: 'INTEGRAL' is no type"),
            (f"ai_query('{MODEL}', 'x', returnType => 'BINARY')", "returnType: type BINARY is not supported"),
            (f"ai_query('{MODEL}', 'x', failOnError => 'no')", "failOnError must be a literal BOOLEAN, found 'no'"),
            (f"ai_query('{MODEL}', 'x', files => x'00')", "ai_query: argument files is not supported"),
            (f"ai_query('{MODEL}', 'x', responseFormat => 'INT')", "responseFormat: expected text, a JSON object, or"),
            (f"ai_query('{MODEL}', 'x', responseFormat => '{{\"type\": \"x\"}}')", "type must be text, json_object or"),
            (
                f"ai_query('{MODEL}', 'x', 'INT', responseFormat => 'text')",
                "give returnType or responseFormat, not both",
            ),
            (f"ai_query('{MODEL}', 'x', modelParameters => map('n', 2))", "modelParameters: unknown n (known: max_tok"),
            (f"ai_query('{MODEL}', 'x', modelParameters => map('top_p', 2))", "top_p must lie in 0 to 1, found 2"),
            (f"ai_query('{MODEL}', 'x', request => 'y')", "ai_query: argument request is given twice"),
            ("try_ai_summarize('x', foo => 1)", "try_ai_summarize: unknown argument foo"),
        ],
    )
    def test_is_refused_with_one_line_and_its_position(self, spark: SparkSession, call: str, message: str) -> None:
        with pytest.raises(AnalysisException) as caught:
            spark.sql(f"SELECT 1,\n       {call}\nFROM range(1)")
        told = str(caught.value)
        assert message in told
        assert told.endswith("; line 2 pos 7")
        assert "\n" not in told
        assert "Traceback" not in told

    def test_a_refused_call_leaves_the_session_well(self, spark: SparkSession) -> None:
        with pytest.raises(AnalysisException):
            spark.sql("SELECT ai_summarize('x', foo => 1)")
        assert value(spark, "ai_summarize('x')")

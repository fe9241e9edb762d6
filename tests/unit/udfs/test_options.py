from __future__ import annotations

import pytest
from pyspark.sql.types import MapType, StringType

from lakemill.errors import UsageError
from lakemill.udfs import options
from lakemill.udfs.arguments import Argument, Bound


def bound(**given: str) -> Bound:
    kind = MapType(StringType(), StringType())
    return {"options": Argument("map(…)", kind, True, evaluate=lambda: given)}


def test_nothing_given_is_the_defaults() -> None:
    assert options.read("f", {}) == options.Options()


def test_every_option_is_read() -> None:
    given = bound(
        model="m", prompt="2", max_tokens="9", temperature="0.5", on_error="fail", instructions="rhyme", cache="on"
    )
    found = options.read("f", given)
    assert found == options.Options("m", "2", 9, 0.5, "fail", "rhyme")
    assert found.instructions_text == "\nFurther instructions: rhyme"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"modle": "x"}, "f: unknown option modle (known options: model, prompt, max_tokens, temperature, on_error"),
        ({"examples": "x"}, "f: option examples is not supported yet"),
        ({"cache": "off"}, "f: option cache: 'off' is not supported yet"),
        ({"cache": "no"}, "f: option cache must be 'on' or 'off', found 'no'"),
        ({"max_tokens": "1.5"}, "f: option max_tokens must be a whole number of at least 1, found '1.5'"),
        ({"max_tokens": "²"}, "f: option max_tokens must be a whole number of at least 1, found '²'"),
        ({"temperature": "nan"}, "f: option temperature must lie in 0 to 2, found 'nan'"),
        ({"temperature": "-1"}, "f: option temperature must lie in 0 to 2, found '-1'"),
        ({"on_error": "stop"}, "f: option on_error must be 'null' or 'fail', found 'stop'"),
        ({"instructions": "x" * 20_001}, "f: option instructions: at most 20000 characters, found 20001"),
    ],
)
def test_a_wrong_option_is_refused(given: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        options.read("f", bound(**given))
    assert caught.value.message.startswith(message)

from __future__ import annotations

import hashlib
import json

import pytest

from lakemill import keys

ROUTE = {"model": "m", "messages": [{"role": "user", "content": "hé"}], "prompt": None, "params": {"temperature": 0}}


def test_digest_is_sha256_of_canonical_json() -> None:
    assert keys.digest({"b": [1, "é"], "a": None}) == hashlib.sha256('{"a":null,"b":[1,"é"]}'.encode()).hexdigest()


@pytest.mark.parametrize(("left", "right"), [({"a": 1, "b": 2}, {"b": 2, "a": 1}), (1.0, 1), ("\u00e9", "é")])
def test_equal_values_have_one_digest(left: object, right: object) -> None:
    assert keys.digest(left) == keys.digest(right)


@pytest.mark.parametrize("value", [float("nan"), "\ud800", 2**53 + 1])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (the message is of the JSON library)
        keys.digest({"value": value})


@pytest.mark.parametrize(
    "change",
    [
        {"function": "ai_b"},
        {"prompt_version": "2"},
        {"inputs": ["y"]},
        {"options": {"max_words": "3"}},
        {"model": "m@2"},
    ],
)
def test_each_part_of_a_call_changes_its_key(change: dict[str, object]) -> None:
    call = {"function": "ai_a", "prompt_version": "1", "inputs": ["x"], "options": {}, "model": "m@1"}
    assert keys.call_key(**call) != keys.call_key(**(call | change))


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"messages": None, "prompt": "hé"},
        {"params": {"temperature": 1}},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_each_part_of_a_request_changes_its_route(change: dict[str, object]) -> None:
    route = ROUTE | {"response_format": None}
    assert keys.route_key(**route) != keys.route_key(**(route | change))


def test_keys_do_not_move_between_releases() -> None:
    # A ledger holds keys for years: another value here pays for every stored answer again.
    call = keys.call_key(function="ai_gen", prompt_version="1", inputs=["hi"], options={"max_tokens": "5"}, model="m@1")
    text = '{"function":"ai_gen","inputs":["hi"],"model":"m@1","options":{"max_tokens":"5"},"prompt_version":"1"}'
    assert json.loads(text)["inputs"] == ["hi"]
    assert call == hashlib.sha256(text.encode()).hexdigest()


def test_versions_part_request_keys() -> None:
    assert keys.request_key("r", "m@1") != keys.request_key("r", "m@2")
    assert keys.request_key("r", "m@1") == keys.request_key("r", "m@1")


@pytest.mark.parametrize("request_key", ["0" * 64, "f" * 64, keys.digest("x")])
def test_seed_is_what_samplers_take(request_key: str) -> None:
    assert 0 <= keys.seed_of(request_key) < 2**31
    assert keys.seed_of(request_key) == keys.seed_of(request_key)


def test_seeds_differ() -> None:
    assert len({keys.seed_of(keys.digest(number)) for number in range(100)}) == 100

from __future__ import annotations

import http.client
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from lakemill.serving import protocol
from lakemill.serving.contract import serve_contract
from lakemill.serving.service import Limits

MODEL = "smollm2-135m-instruct"


@pytest.fixture
def server():
    with serve_contract() as running:
        yield running


def connect(server):
    address = urlsplit(server.url)
    return http.client.HTTPConnection(address.hostname, address.port, timeout=20)


def post(server, rows, **more):
    connection = connect(server)
    body = json.dumps({"kind": "generate", "model": MODEL, "rows": rows, **more})
    connection.request("POST", "/v1/rows", body, {"Authorization": f"Bearer {server.token}"})
    return connection, connection.getresponse()


def lines(server, rows, **more):
    connection, reply = post(server, rows, **more)
    found = [json.loads(line) for line in reply.read().split(b"\n")[:-1]]
    connection.close()
    return found


def row(name, text):
    return {"id": name, "prompt": text}


def test_answers_come_in_order_of_completion_as_they_are_ready(server):
    connection, reply = post(server, [row("slow", "[[lakemill:sleep 1]] a"), row("fast", "b")])
    started = time.monotonic()
    first = json.loads(reply.readline())
    waited = time.monotonic() - started
    rest = [json.loads(line) for line in reply.read().splitlines()]
    connection.close()
    assert first["id"] == "fast"
    assert waited < 0.7
    assert [line.get("id") for line in rest] == ["slow", None]
    assert rest[0]["latency_ms"] >= 1000


def test_a_row_that_fails_says_so_and_may_be_asked_again(server):
    rows = [row("1", "[[lakemill:once RATE_LIMITED]] a"), row("2", "[[lakemill:fail CONTENT_FILTERED]]"), row("3", "x")]
    first = {line["id"]: line for line in lines(server, rows)[:-1]}
    assert first["1"]["error"]["code"] == "RATE_LIMITED"
    assert first["1"]["error"]["retryable"] is True
    assert first["2"]["error"]["retryable"] is False
    second = {line["id"]: line for line in lines(server, rows)[:-1]}
    assert (second["1"]["error"], second["1"]["cached"]) == (None, False)
    assert second["2"]["error"]["code"] == "CONTENT_FILTERED"
    assert second["3"]["cached"] is True


@pytest.mark.parametrize(
    ("text", "result", "finish"),
    [
        ("[[lakemill:say Hello\x00 there]]", "Hello\x00 there", "stop"),
        ("[[lakemill:empty]] x", "", "stop"),
        ("[[lakemill:echo]] שלום 👩‍👩‍👧", "[[lakemill:echo]] שלום 👩‍👩‍👧", "stop"),
        ("[[lakemill:say abcdef]] [[lakemill:truncate]]", "abc", "length"),
    ],
)
def test_a_text_can_ask_for_its_answer(server, text, result, finish):
    answer = lines(server, [row("1", text)])[0]
    assert (answer["result"], answer["finish_reason"]) == (result, finish)


def test_garbage_is_no_json_even_under_a_schema(server):
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}
    answer = lines(server, [row("1", "[[lakemill:garbage]]")], response_format=wanted)[0]
    with pytest.raises(ValueError, match="Expecting"):
        json.loads(answer["result"])


def test_a_directive_that_cannot_be_read_fails_its_row_alone(server):
    found = {line.get("id"): line for line in lines(server, [row("1", "[[lakemill:sleep x]]"), row("2", "y")])}
    assert found["1"]["error"]["code"] == "INVALID_REQUEST"
    assert found["2"]["error"] is None


def test_a_dead_engine_fails_the_rest_and_the_health_check():
    with serve_contract(die_after=3, slots=1) as server:
        found = lines(server, [row(str(i), f"text {i}") for i in range(8)])
        assert found[-1] == {"summary": {"rows": 8, "failed": 5}}
        errors = [line["error"] for line in found[:-1] if line["error"]]
        assert {error["code"] for error in errors} == {"ENGINE_UNAVAILABLE"}
        assert all("died" in error["message"] for error in errors)
        connection = connect(server)
        connection.request("GET", "/healthz")
        reply = connection.getresponse()
        assert reply.status == 503
        assert "died" in json.loads(reply.read())["engines"][MODEL]
        connection.close()


def test_a_body_that_is_too_large_is_refused(server, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_BODY_BYTES", 1000)
    connection, reply = post(server, [row("1", "x" * 2000)])
    assert reply.status == 413
    assert json.loads(reply.read())["error"]["code"] == "INVALID_REQUEST"
    connection.close()


def test_a_body_without_a_length_is_bounded_too(server, monkeypatch):
    monkeypatch.setattr(protocol, "MAX_BODY_BYTES", 1000)
    connection = connect(server)
    headers = {"Authorization": f"Bearer {server.token}", "Transfer-Encoding": "chunked"}
    connection.request("POST", "/v1/rows", iter([b"x" * 600] * 3), headers, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_more_rows_than_there_is_room_for_come_back_later():
    with serve_contract(limits=Limits(open_rows=10), latency_s=0.5) as server, ThreadPoolExecutor(1) as pool:
        first = pool.submit(lines, server, [row(str(i), f"text {i}") for i in range(8)])
        time.sleep(0.2)
        connection, reply = post(server, [row(str(i), f"more {i}") for i in range(8)])
        assert (reply.status, reply.headers["Retry-After"]) == (503, "1")
        assert json.loads(reply.read())["error"] == {
            "code": "RATE_LIMITED",
            "message": "8 rows are open, at most 10 may be",
            "retryable": True,
        }
        connection.close()
        assert first.result()[-1]["summary"] == {"rows": 8, "failed": 0}


def test_a_client_that_goes_away_gives_its_places_back(server):
    sock = socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port))
    body = json.dumps({"kind": "generate", "model": MODEL, "rows": [row("1", "[[lakemill:sleep 0.3]] z")]}).encode()
    headers = f"Host: x\r\nAuthorization: Bearer {server.token}\r\nContent-Length: {len(body)}"
    head = f"POST /v1/rows HTTP/1.1\r\n{headers}\r\n\r\n"
    sock.sendall(head.encode() + body)
    deadline = time.monotonic() + 5
    while server.service._open == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sock.close()
    while server.service._open or len(server.service._flights):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert lines(server, [row("1", "[[lakemill:sleep 0.3]] z")])[0]["cached"] is True


def test_a_stream_that_is_cut_has_no_summary_and_no_end():
    server = serve_contract()
    connection, reply = post(server, [row("1", "a"), row("2", "[[lakemill:sleep 30]] b")])
    assert json.loads(reply.readline())["id"] == "1"
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(server.stop)
        try:
            rest = reply.read()
        except http.client.IncompleteRead as error:
            rest = error.partial
        stopping.result()
    connection.close()
    # Either the row fails by name and the summary counts it, or the stream ends without one.
    summary = [json.loads(line) for line in rest.splitlines() if b'"summary"' in line]
    assert summary in ([], [{"summary": {"rows": 2, "failed": 1}}])


def test_the_journal_of_a_home_outlives_the_service(tmp_path):
    with serve_contract(tmp_path) as server:
        first = lines(server, [row("1", "remember me")])[0]
        assert json.loads((tmp_path / "serving.json").read_text())["url"] == server.url
    assert not (tmp_path / "serving.json").exists()
    with serve_contract(tmp_path) as server:
        second = lines(server, [row("1", "remember me")])[0]
        assert sum(server.engine.asked.values()) == 0
    assert (second["cached"], second["result"], second["usage"]) == (True, first["result"], first["usage"])


def test_five_thousand_rows_each_asked_once(server):
    rows = [row(str(i), f"text {i % 2500}") for i in range(4000)]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: lines(server, rows), range(2)))
    for found in both:
        assert found[-1] == {"summary": {"rows": 4000, "failed": 0}}
        assert {line["id"] for line in found[:-1]} == {each["id"] for each in rows}
    assert sorted(set(server.engine.asked.values())) == [1]
    assert len(server.engine.asked) == 2500

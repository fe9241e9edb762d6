"""The row protocol over vLLM behind Ray Serve: the suite of every engine, and what only a real model shows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import yaml

from lakemill import conf_files

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
pytest.register_assert_rewrite("row_protocol")

from row_protocol import RowProtocol, ask, fresh, send, user  # noqa: E402


class TestVllm(RowProtocol):
    """vLLM passes the suite that the contract engine passes."""


CHOICES = ["no", "no way", "maybe", "yes", "yes of course", "ask again", "the answer is unclear", "the answer is no"]


@pytest.mark.parametrize("question", ["Is the sky blue?", "Is fire cold?", "word " * 300 + "Shall we?"])
def test_choice_scores_are_those_of_a_second_implementation(endpoint: SimpleNamespace, question: str) -> None:
    messages = user(fresh(question))
    wanted = {"type": "choice", "choices": CHOICES}
    answer = ask(endpoint, [{"id": "1", "messages": messages}], kind="choose", response_format=wanted).answers["1"]
    [folder] = [path for path in (endpoint.home / "models").iterdir() if path.is_dir()]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hf_scores.py")), str(folder)],
        input=json.dumps({"messages": messages, "choices": CHOICES}),
        capture_output=True,
        text=True,
        check=True,
    )
    expected = json.loads(done.stdout)
    assert sum(expected.values()) == pytest.approx(1, abs=1e-4)
    # vLLM computes in bfloat16, whose logits lie 1/8 apart from 16 on: one question may be off by 0.03, and a
    # choice may lie several questions deep.
    assert answer["scores"] == pytest.approx(expected, abs=0.08)


def test_choices_with_distinct_beginnings_cost_one_token(endpoint: SimpleNamespace) -> None:
    wanted = {"type": "choice", "choices": ["red", "green", "blue"]}
    rows = [{"id": "1", "messages": user(fresh("The sky is"))}]
    answer = ask(endpoint, rows, kind="choose", response_format=wanted).answers["1"]
    assert answer["usage"]["completion_tokens"] == 1


def test_more_choices_than_one_question_takes(endpoint: SimpleNamespace) -> None:
    choices = [
        f"{first}{second}" for first in "abcdefghijklmnopqrst" for second in ("1", "2x", "-", " is", "!", "?", "#", "")
    ]
    wanted = {"type": "choice", "choices": choices}
    rows = [{"id": "1", "messages": user(fresh("Choose."))}]
    answer = ask(endpoint, rows, kind="choose", response_format=wanted).answers["1"]
    assert answer["error"] is None
    assert sum(answer["scores"].values()) == pytest.approx(1)


def test_a_sampled_row_comes_from_its_key(endpoint: SimpleNamespace) -> None:
    rows = [{"id": str(i), "messages": user(fresh("Invent a name."))} for i in range(4)]
    answers = ask(endpoint, rows, params={"max_tokens": 12, "temperature": 1.5}).answers
    assert len({answer["result"] for answer in answers.values()}) > 1


def test_an_answer_takes_the_room_that_the_window_leaves(endpoint: SimpleNamespace) -> None:
    prompt = " ".join(["word"] * 8187)
    counted = ask(endpoint, [{"id": "1", "prompt": prompt}], kind="count").answers["1"]["result"]
    assert counted == 8187
    answer = ask(endpoint, [{"id": "1", "prompt": prompt}], params={"max_tokens": 500}).answers["1"]
    assert answer["error"] is None
    assert answer["usage"]["completion_tokens"] <= 8192 - counted
    assert answer["finish_reason"] == "length"


def test_the_journal_keeps_answers_under_home(endpoint: SimpleNamespace) -> None:
    assert (endpoint.home / "journal" / "answers.sqlite").is_file()


def test_everything_listens_on_the_loopback_address_only(endpoint: SimpleNamespace, supervisor: Any) -> None:
    addresses = {
        connection.laddr.ip
        for process in [psutil.Process(supervisor.process.pid), *supervisor.descendants()]
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def engine_process(supervisor: Any) -> psutil.Process:
    [found] = [process for process in supervisor.descendants() if process.name().startswith("VLLM::")]
    return found


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def health(endpoint: SimpleNamespace) -> tuple[int, str]:
    reply = send(endpoint, "GET", "/healthz", token=None)
    return reply.status, json.loads(reply.body)["engines"][endpoint.model]


def test_a_stopped_engine_is_not_called_well(endpoint: SimpleNamespace, supervisor: Any) -> None:
    with stopped(engine_process(supervisor)):
        deadline = time.monotonic() + 60
        while health(endpoint)[0] == 200 and time.monotonic() < deadline:
            time.sleep(1)
        status, cause = health(endpoint)
        assert status == 503
        assert "does not" in cause
    deadline = time.monotonic() + 60
    while health(endpoint)[0] != 200 and time.monotonic() < deadline:
        time.sleep(1)
    assert health(endpoint) == (200, "ok")


@pytest.mark.slow
def test_a_killed_engine_fails_its_rows_and_comes_back(endpoint: SimpleNamespace, supervisor: Any) -> None:
    engine_process(supervisor).kill()
    time.sleep(1)
    answer = ask(endpoint, [{"id": "1", "messages": user(fresh("Say hi."))}]).answers["1"]
    assert answer["error"] is None or answer["error"]["code"] == "ENGINE_UNAVAILABLE"
    deadline = time.monotonic() + 240
    while health(endpoint)[0] != 200 and time.monotonic() < deadline:
        time.sleep(2)
    assert health(endpoint) == (200, "ok")
    assert ask(endpoint, [{"id": "1", "messages": user(fresh("Say hi."))}]).answers["1"]["error"] is None


@pytest.mark.slow
def test_a_start_that_fails_says_why_in_one_line(tmp_path: Path, supervisor: Any, endpoint: SimpleNamespace) -> None:
    entry = conf_files.read(conf_files.files_in("models")[endpoint.model])
    entry["engine"]["max_model_len"] = 9_999_999
    (tmp_path / "conf" / "models").mkdir(parents=True)
    (tmp_path / "conf" / "models" / f"{endpoint.model}.yaml").write_text(yaml.safe_dump(entry))
    broken = type(supervisor)(tmp_path / "home", "--conf-dir", str(tmp_path / "conf"))
    try:
        error = broken.wait("failed")["error"]
        assert broken.process.wait(60) == 1
    finally:
        assert broken.stop() == []
    assert "9999999" in error["message"]
    assert "max_model_len" in error["message"]
    assert "\n" not in error["message"]
    assert "engine-smollm2-135m-instruct.log" in error["hint"]

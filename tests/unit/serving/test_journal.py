from __future__ import annotations

import hashlib
import sqlite3
import threading

import pytest

from lakemill.rows import Usage
from lakemill.serving.engine import Completion
from lakemill.serving.journal import MemoryJournal, SqliteJournal, decode, encode


def key(name):
    return hashlib.sha256(str(name).encode()).hexdigest()


@pytest.fixture(params=["memory", "sqlite"])
def journal(request, tmp_path):
    made = MemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "j" / "a.sqlite")
    yield made
    made.close()


def test_what_was_put_is_found(journal):
    journal.put_many({key(1): b"one", key(2): b"t\x00o"})
    assert journal.get_many([key(2), key(3), key(1)]) == {key(1): b"one", key(2): b"t\x00o"}
    assert journal.get_many([]) == {}


def test_the_first_answer_of_a_key_stays(journal):
    journal.put_many({key(1): b"one"})
    journal.put_many({key(1): b"another"})
    assert journal.get_many([key(1)]) == {key(1): b"one"}


def test_many_keys_are_found_at_once(journal):
    journal.put_many({key(i): str(i).encode() for i in range(2000)})
    assert len(journal.get_many([key(i) for i in range(3000)])) == 2000


def test_it_outlives_its_process_and_serves_two(tmp_path):
    first, second = SqliteJournal(tmp_path / "a.sqlite"), SqliteJournal(tmp_path / "a.sqlite")
    first.put_many({key(1): b"one"})
    assert second.get_many([key(1)]) == {key(1): b"one"}
    first.close()
    first.close()
    second.close()
    third = SqliteJournal(tmp_path / "a.sqlite")
    assert third.get_many([key(1)]) == {key(1): b"one"}
    third.close()


def test_two_writers_at_once_lose_nothing(tmp_path):
    journals = [SqliteJournal(tmp_path / "a.sqlite") for _ in range(2)]

    def write(number):
        for i in range(50):
            journals[number].put_many({key((number, i)): b"x"})

    threads = [threading.Thread(target=write, args=[number]) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journals[0].get_many([key((n, i)) for n in range(2) for i in range(50)])) == 100
    for journal in journals:
        journal.close()


def test_the_oldest_go_when_it_is_full(tmp_path):
    journal = SqliteJournal(tmp_path / "a.sqlite", max_bytes=1000)
    for i in range(50):
        journal.put_many({key(i): b"x" * 100})
    left = [i for i in range(50) if journal.get_many([key(i)])]
    journal.close()
    assert left == list(range(50 - len(left), 50))
    assert 5 <= len(left) <= 10


def test_a_value_larger_than_the_bound_does_not_break_it(tmp_path):
    journal = SqliteJournal(tmp_path / "a.sqlite", max_bytes=100)
    journal.put_many({key(1): b"x" * 1000})
    journal.put_many({key(2): b"y"})
    assert journal.get_many([key(1), key(2)]) == {key(2): b"y"}
    journal.close()


def test_old_answers_are_not_found_and_go(tmp_path):
    now = [1000.0]
    journal = SqliteJournal(tmp_path / "a.sqlite", max_age_s=100, clock=lambda: now[0])
    journal.put_many({key(1): b"old"})
    now[0] = 1200.0
    assert journal.get_many([key(1)]) == {}
    journal.put_many({key(1): b"new"})
    assert journal.get_many([key(1)]) == {key(1): b"new"}
    now[0] = 1400.0
    journal.put_many({key(2): b"x"})
    assert sqlite3.connect(tmp_path / "a.sqlite").execute("SELECT count(*) FROM answers").fetchone() == (1,)
    journal.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_damaged_file_is_set_aside_and_made_anew(tmp_path, caplog):
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"this is no database at all, " * 100)
    journal = SqliteJournal(path)
    journal.put_many({key(1): b"one"})
    assert journal.get_many([key(1)]) == {key(1): b"one"}
    assert (tmp_path / "a.sqlite.damaged").read_bytes().startswith(b"this is no database")
    assert "is damaged" in caplog.text
    journal.close()


def test_damage_in_use_is_noticed(tmp_path):
    path = tmp_path / "a.sqlite"
    journal = SqliteJournal(path)
    journal.put_many({key(i): b"x" * 1000 for i in range(100)})
    journal.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    journal = SqliteJournal(path)
    journal.get_many([key(1)])
    journal.put_many({key(1): b"one"})
    assert journal.get_many([key(1)]) == {key(1): b"one"}
    journal.close()


def test_a_completion_comes_back_as_it_was():
    made = Completion(key(1), "a\x00b 👩‍👩‍👧", {"a": 0.25, "b": 0.75}, None, "length", Usage(1, 2, 3), 12.0)
    back = decode(key(1), encode(made))
    assert back == Completion(key(1), "a\x00b 👩‍👩‍👧", {"a": 0.25, "b": 0.75}, None, "length", Usage(1, 2, 3))


@pytest.mark.parametrize("value", [b"", b"{", b"[]", b"{}", b'{"result": 1}'])
def test_a_damaged_value_is_a_miss(value):
    assert decode(key(1), value) is None

from __future__ import annotations

import pickle

import pytest

from lakemill import errors
from lakemill.errors import LakemillError

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LakemillError)]
KINDS = [kind for kind in CLASSES if kind.__init__ is LakemillError.__init__]


@pytest.mark.parametrize("kind", KINDS)
def test_survives_pickling_with_its_hint(kind: type[LakemillError]) -> None:
    error = pickle.loads(pickle.dumps(kind("row 7 is bad", hint="mend it")))
    assert type(error) is kind
    assert (error.message, error.hint) == ("row 7 is bad", "mend it")


def test_a_refusal_survives_pickling_with_all_it_says() -> None:
    refusal = errors.RequestRefusedError("RATE_LIMITED", "slow down", status=429, retry_after_s=3)
    again = pickle.loads(pickle.dumps(refusal))
    assert (type(again), vars(again)) == (type(refusal), vars(refusal))


def test_shows_the_hint_on_a_line_of_its_own() -> None:
    assert str(LakemillError("bad", hint="mend it")) == "bad\n  → mend it"
    assert str(LakemillError("bad")) == "bad"


@pytest.mark.parametrize("kind", [errors.ConfError, errors.UsageError, errors.ModelNotFoundError])
def test_wrong_use_exits_with_two(kind: type[LakemillError]) -> None:
    assert kind.exit_code == 2


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_says_when_it_is_raised(kind: type[LakemillError]) -> None:
    assert (kind.__doc__ or "").startswith(("Raised when ", "Base class of "))

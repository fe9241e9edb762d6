"""Choice scores: exact products along the trie, asked only where it branches."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from lakemill.serving.choices import Branch, ChoiceTrie

END = 0


def table(path: tuple[int, ...], token: int) -> float:
    """Return a fixed pseudo-random log-probability: a little language model."""
    return -5.0 * random.Random(f"{path}{token}").random()


def by_hand(sequences: dict[str, tuple[int, ...]]) -> dict[str, float]:
    """Score by brute force: renormalise over what any choice allows next, at every position of every choice."""
    scores = {}
    for choice, ids in sequences.items():
        share = 1.0
        for i in range(len(ids) + 1):
            allowed = {(*s, END)[i] for s in sequences.values() if s[:i] == ids[:i]}
            token = (*ids, END)[i]
            share *= math.exp(table(ids[:i], token)) / sum(math.exp(table(ids[:i], t)) for t in allowed)
        scores[choice] = share
    return scores


def scored(sequences: dict[str, tuple[int, ...]]) -> dict[str, float]:
    trie = ChoiceTrie(list(sequences), list(sequences.values()), end=END)
    return trie.scores({b.path: {t: table(b.path, t) for t in b.tokens} for b in trie.branches})


@pytest.mark.parametrize(
    "sequences",
    [
        {"a": (1,), "b": (2,)},
        {"no": (5,), "no way": (5, 6), "never": (7, 8), "nevermore": (7, 8, 9), "x": (7, 9)},
        {"shared a": (1, 2, 3), "shared b": (1, 2, 4)},
        {"".join(map(str, s)): s for s in itertools.product((1, 2, 3), repeat=3)},
    ],
)
def test_scores_are_those_of_brute_force_and_sum_to_one(sequences: dict[str, tuple[int, ...]]) -> None:
    scores = scored(sequences)
    assert scores == pytest.approx(by_hand(sequences))
    assert math.fsum(scores.values()) == pytest.approx(1.0)
    assert list(scores) == list(sequences)


def test_distinct_first_tokens_are_one_question() -> None:
    trie = ChoiceTrie(["a b", "c d"], [(1, 2), (3, 4)], end=END)
    assert trie.branches == (Branch((), (1, 3)),)


def test_a_choice_that_begins_another_asks_for_the_end_of_the_answer() -> None:
    trie = ChoiceTrie(["no", "no way"], [(5,), (5, 6)], end=END)
    assert [(b.path, set(b.tokens)) for b in trie.branches] == [((5,), {6, END})]


def test_a_single_choice_asks_nothing_and_is_certain() -> None:
    trie = ChoiceTrie(["only"], [(4, 4)], end=END)
    assert trie.branches == ()
    assert trie.scores({}) == {"only": 1.0}


def test_impossible_tokens_share_evenly_instead_of_dividing_by_zero() -> None:
    trie = ChoiceTrie(["a", "b"], [(1,), (2,)], end=END)
    assert trie.scores({(): {1: -math.inf, 2: -math.inf}}) == {"a": 0.5, "b": 0.5}


def test_choices_that_the_tokenizer_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="'a' and 'A' are the same"):
        ChoiceTrie(["a", "A"], [(1,), (1,)], end=END)


def test_a_choice_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="has no tokens"):
        ChoiceTrie([""], [()], end=END)

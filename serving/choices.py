"""Probabilities of given answers: a walk over the trie of their tokens.

choices → token sequences → trie → one question a branching node ("which of these tokens comes next?") →
product along each path. Only branching nodes are asked, so choices with distinct first tokens cost one
reading of the prompt and nothing more. The probabilities are exact, and sum to 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Node:
    """Hold one node: what may come next, and the choice that ends here."""

    children: dict[int, Node] = field(default_factory=dict)
    choice: str | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """Hold one question: after `path`, which of `tokens` comes next?"""

    path: tuple[int, ...]
    tokens: tuple[int, ...]


class ChoiceTrie:
    """Hold the trie of a list of choices.

    Args:
        choices: The choices, all different.
        tokens: The token ids of each choice.
        end: The token that ends an answer; it is asked for where one choice is the beginning of another.

    Raises:
        ValueError: A choice has no token, or two choices have the same ones.

    Example:
        >>> trie = ChoiceTrie(["no", "yes"], [[7], [9]], end=2)
        >>> trie.branches
        (Branch(path=(), tokens=(7, 9)),)
        >>> {k: round(v, 2) for k, v in trie.scores({(): {7: -1.0, 9: -2.0}}).items()}
        {'no': 0.73, 'yes': 0.27}
    """

    def __init__(self, choices: Sequence[str], tokens: Sequence[Sequence[int]], *, end: int) -> None:
        self._root = Node()
        for choice, ids in zip(choices, tokens, strict=True):
            self._add(choice, ids)
        self._end_inner_choices(end)
        self.choices = tuple(choices)
        self.branches = tuple(self._branches())

    def scores(self, logprobs: Mapping[tuple[int, ...], Mapping[int, float]]) -> dict[str, float]:
        """Return the probability of each choice.

        Args:
            logprobs: For the path of every branch, the log-probability of each of its tokens; they need not
                be normalised.
        """
        found: dict[str, float] = {}
        stack: list[tuple[Node, tuple[int, ...], float]] = [(self._root, (), 1.0)]
        while stack:
            node, path, share = stack.pop()
            if node.choice is not None:
                found[node.choice] = share
                continue
            shares = _softmax(logprobs[path]) if len(node.children) > 1 else {}
            stack += [
                ((child), (*path, token), share * shares.get(token, 1.0)) for token, child in node.children.items()
            ]
        return {choice: found[choice] for choice in self.choices}

    def _add(self, choice: str, ids: Sequence[int]) -> None:
        if not ids:
            raise ValueError(f"choice {choice!r} has no tokens")
        node = self._root
        for token in ids:
            node = node.children.setdefault(token, Node())
        if node.choice is not None:
            raise ValueError(f"choices {node.choice!r} and {choice!r} are the same to the model's tokenizer")
        node.choice = choice

    def _end_inner_choices(self, end: int) -> None:
        stack = [self._root]
        while stack:
            node = stack.pop()
            stack += node.children.values()
            if node.choice is not None and node.children:
                node.children[end] = Node(choice=node.choice)
                node.choice = None

    def _branches(self) -> list[Branch]:
        found: list[Branch] = []
        stack: list[tuple[Node, tuple[int, ...]]] = [(self._root, ())]
        while stack:
            node, path = stack.pop()
            if len(node.children) > 1:
                found.append(Branch(path, tuple(node.children)))
            stack += [(child, (*path, token)) for token, child in node.children.items()]
        # Shortest path first: its question leaves the prompt in the prefix cache for all others.
        return sorted(found, key=lambda branch: len(branch.path))


def _softmax(logprobs: Mapping[int, float]) -> dict[int, float]:
    highest = max(logprobs.values())
    if highest == -math.inf:
        return dict.fromkeys(logprobs, 1 / len(logprobs))
    weights = {token: math.exp(value - highest) for token, value in logprobs.items()}
    total = math.fsum(weights.values())
    return {token: weight / total for token, weight in weights.items()}

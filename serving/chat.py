"""Chat messages to prompt tokens, with the model's own template; what a row holds stays data.

A message that spells out a special token (`<|im_end|>` in a product text) would otherwise end its own turn:
such content is encoded apart from the template, without looking for special tokens in it.
"""

from __future__ import annotations

import copy
import re
import secrets
from collections.abc import Sequence
from typing import Any

from lakemill.errors import ServingError
from lakemill.rows import Message

_ROLES = ("system", "user", "assistant")


class ChatRenderer:
    """Turn chat messages and bare prompts into token ids.

    Args:
        tokenizer: A fast tokenizer of `transformers`; it is copied and not changed.

    Raises:
        ServingError: The tokenizer is not a fast one.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ServingError(
                f"the tokenizer {type(tokenizer).__name__} has no tokenizer.json; only those are supported"
            )
        self._tokenizer = tokenizer
        # Two copies whose settings never change: encoding is then safe from several threads.
        self._template = _bare(backend, special=True)
        self._data = _bare(backend, special=False)
        specials = sorted(backend.get_added_tokens_decoder().values(), key=lambda token: -len(token.content))
        self._special = re.compile("|".join(re.escape(token.content) for token in specials) or r"(?!)")
        self._prefix = tokenizer.build_inputs_with_special_tokens([])[:1] if _adds_bos(tokenizer) else []

    @property
    def eos_token_id(self) -> int:
        """Return the token that ends an answer."""
        return int(self._tokenizer.eos_token_id)

    def chat(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Return the prompt tokens of each conversation, up to where the answer begins.

        Raises:
            ValueError: A message has a role that chats do not have, or the template refuses the conversation.
        """
        plain = [i for i, messages in enumerate(conversations) if not self._spells_special(messages)]
        texts = [self._render(conversations[i]) for i in plain]
        ids = dict(zip(plain, _encode(self._template, texts), strict=True))
        return [ids[i] if i in ids else self._pieces(messages) for i, messages in enumerate(conversations)]

    def text(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of bare prompts, the model's begin token before them where it has one."""
        return [self._prefix + ids for ids in _encode(self._data, prompts)]

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of texts as the model would generate them after a chat prompt."""
        return _encode(self._data, texts)

    def _spells_special(self, messages: Sequence[Message]) -> bool:
        return any(self._special.search(message["content"]) for message in messages)

    def _render(self, messages: Sequence[Message]) -> str:
        for message in messages:
            if message["role"] not in _ROLES:
                raise ValueError(f"role {message['role']!r} is not one of {', '.join(_ROLES)}")
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:
            raise ValueError(f"the chat template refuses the messages: {error}") from error

    def _pieces(self, messages: Sequence[Message]) -> list[int]:
        mark = secrets.token_hex(8)
        cores = [message["content"].strip() for message in messages]
        # White space around the mark stays, so that a template which strips it still does.
        marked = [
            {**message, "content": message["content"].replace(core, f"@{mark}:{i}@", 1) if core else message["content"]}
            for i, (message, core) in enumerate(zip(messages, cores, strict=True))
        ]
        pieces = re.split(f"@{mark}:([0-9]+)@", self._render(marked))
        template = _encode(self._template, pieces[0::2])
        content = _encode(self._data, [cores[int(number)] for number in pieces[1::2]])
        return [token for pair in zip(template, [*content, []], strict=True) for ids in pair for token in ids]


def _bare(backend: Any, *, special: bool) -> Any:
    tokenizer = copy.deepcopy(backend)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = not special  # the library's name for "encode them as plain text"
    return tokenizer


def _encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    # encode_batch lets other threads run meanwhile, encode does not.
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _adds_bos(tokenizer: Any) -> bool:
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("a")[:1] == [bos]

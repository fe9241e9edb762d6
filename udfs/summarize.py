"""`ai_summarize(content [, max_words] [, options])` → STRING."""

from __future__ import annotations

from pyspark.sql.types import StringType

from lakemill.udfs import arguments, options, prompts
from lakemill.udfs.arguments import OPTIONS, Bound, Parameter
from lakemill.udfs.call import Task, pack
from lakemill.udfs.families import Context, Plan
from lakemill.udfs.readers import Text

DEFAULT_WORDS = 50
_ONE_SENTENCE = 25
_UNBOUNDED = 512
_LEAST = 64
_TOKENS_A_WORD = 3
_MOST = 2048


class Summarize:
    """Summarise a text in at most `max_words` words (0: as many as it takes)."""

    name = "ai_summarize"
    parameters = (Parameter("content", required=True, column=True), Parameter("max_words"), OPTIONS)
    content = "content"
    on_error = "null"

    def plan(self, bound: Bound, context: Context) -> Plan:
        """Check the call; the word limit is an instruction, and its token bound not the caller's."""
        given = options.read(context.function, bound)
        words = arguments.integer(context.function, bound, "max_words", default=DEFAULT_WORDS, least=0)
        places = frozenset({"content", "limit", "instructions"})
        task = Task(
            kind="generate",
            result=StringType(),
            prompt=prompts.load(self.name, given.prompt, places=places, conf_dir=context.conf_dir),
            reader=Text(),
            values=(("instructions", given.instructions_text), ("limit", _limit(words))),
            params=pack({"max_tokens": given.max_tokens or _bound(words), "temperature": given.temperature}),
            own_limit=given.max_tokens is not None,
        )
        return Plan(task, given.model, given.on_error)


def _limit(words: int) -> str:
    if not words:
        return ""
    return f" in {'one sentence of ' if words <= _ONE_SENTENCE else ''}at most {words} words"


def _bound(words: int) -> int:
    return min(_MOST, max(_LEAST, _TOKENS_A_WORD * words)) if words else _UNBOUNDED

"""An engine behind a Ray Serve deployment handle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any

from lakemill.errors import ServingError
from lakemill.rows import ErrorCode, RowError
from lakemill.serving.engine import Batch, Completion, ModelInfo

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 20.0


class RemoteEngine:
    """Send batches to the replicas of one model; implements `lakemill.serving.engine.Engine`.

    Args:
        model: The model that the replicas serve.
        handle: The handle of their deployment.
    """

    def __init__(self, model: ModelInfo, handle: Any) -> None:
        self._model = model
        self._stream = handle.options(stream=True)
        self._handle = handle

    @property
    def model(self) -> ModelInfo:
        """Return the model that answers."""
        return self._model

    async def answer(self, batch: Batch) -> AsyncGenerator[list[Completion]]:
        """Yield completions as a replica makes them; rows of a replica that goes away get an error."""
        left = dict.fromkeys(prompt.id for prompt in batch.prompts)
        answers = self._stream.answer.remote(batch)
        try:
            async for ready in answers:
                for completion in ready:
                    left.pop(completion.id, None)
                yield ready
        except asyncio.CancelledError:
            answers.cancel()
            raise
        except GeneratorExit:
            answers.cancel()
            raise
        except Exception as error:
            log.warning("a replica of %s failed: %s", self._model.name, error)
            cause = f"the replica of {self._model.name} went away: {type(error).__name__}"
            yield [Completion(id_, error=RowError(ErrorCode.ENGINE_UNAVAILABLE, cause)) for id_ in left]

    async def check(self) -> None:
        """Ask a replica whether its engine is well.

        Raises:
            ServingError: It is not, or no replica answers in time.
        """
        try:
            cause = await asyncio.wait_for(self._handle.check.remote(), CHECK_TIMEOUT_S)
        except Exception as error:
            raise ServingError(f"no replica of {self._model.name} answers ({type(error).__name__})") from error
        if cause is not None:
            raise ServingError(cause)

    async def close(self) -> None:
        """Do nothing: the replicas belong to Ray Serve."""

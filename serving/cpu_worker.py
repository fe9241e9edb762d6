"""vLLM's CPU worker without the run that only compiles and measures, where there is nothing of either.

vLLM answers a made-up batch of the largest size before it takes a row: 6 to 12 s on two cores. What that run
compiles is not compiled in eager mode, and what it measures is not asked for where the catalog entry gives
`kv_cache_memory_bytes`. The warm-up prompts of `vllm_engine` come afterwards all the same.
"""

from __future__ import annotations

from vllm.v1.worker.cpu_worker import CPUWorker


class EagerCpuWorker(CPUWorker):  # type: ignore[misc]  # vLLM is untyped here
    """Start without the made-up batch, where its outcome is known."""

    def determine_available_memory(self) -> int:
        """Return the bytes of the KV cache."""
        if self.model_config.enforce_eager and self.cache_config.kv_cache_memory_bytes:
            self.model_runner.warming_up_model = _nothing
        return int(super().determine_available_memory())


def _nothing() -> None: ...

"""The engine alone: vLLM's own `LLM.chat` over all prompts at once. Run by `bench.spec.run_side`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from bench import spec
from lakemill.serving import catalog


def main(home: str) -> None:
    """Load the model, warm up, answer every prompt, and leave the rate."""
    told = spec.read(home)
    entry = catalog.entry(told.model)
    from lakemill.serving import replica

    # The same threads and caches as a replica; vLLM reads them while it is imported.
    os.environ.update(replica.environment(entry, Path(home)))
    from vllm import LLM, SamplingParams

    began = time.perf_counter()
    llm = LLM(model=str(told.weights), **entry.engine)
    params = SamplingParams(temperature=0, max_tokens=told.max_tokens)
    warm: Any = [[{"role": "user", "content": f"Say hello to the world in line {n}, please."}] for n in range(8)]
    llm.chat(warm, params, use_tqdm=False)
    started = time.perf_counter()
    prompts: Any = told.prompts
    outputs = llm.chat(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    rate = spec.Rate(
        rows=len(outputs),
        seconds=seconds,
        prompt_tokens=sum(len(output.prompt_token_ids or ()) for output in outputs),
        completion_tokens=sum(len(output.outputs[0].token_ids) for output in outputs),
        generations=len(outputs),
        failed=sum(output.outputs[0].finish_reason == "length" for output in outputs),
        start_s=started - began,
    )
    spec.write(home, "bench.offline", rate)


if __name__ == "__main__":
    main(sys.argv[1])

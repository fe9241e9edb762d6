"""Engine arguments, sampling parameters and response formats, as vLLM takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

# Engine arguments that every model gets unless its catalog entry says otherwise.
DEFAULTS: Mapping[str, Any] = {
    "scheduling_policy": "priority",
    # White space between JSON tokens costs tokens and lets small models run on for ever.
    "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    "enable_prefix_caching": True,
    "disable_log_stats": True,
}
# One process that schedules and computes, and starts without vLLM's own trial run.
ON_CPU = {"distributed_executor_backend": "uni", "worker_cls": "lakemill.serving.cpu_worker.EagerCpuWorker"}


def sampling_params(max_tokens: int, **given: Any) -> SamplingParams:
    """Return sampling parameters whose answer comes once, when it is whole.

    Raises:
        ValueError: vLLM refuses a value.
    """
    return SamplingParams(max_tokens=max_tokens, output_kind=RequestOutputKind.FINAL_ONLY, **given)


def structured_outputs(wanted: Mapping[str, Any] | None) -> StructuredOutputsParams | None:
    """Return the constraint of a response format; None for text.

    Raises:
        ValueError: The format is not one of the protocol's.
    """
    kind = (wanted or {"type": "text"}).get("type")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    if kind == "json_schema":
        return StructuredOutputsParams(json=dict(wanted["json_schema"]["schema"]))
    if kind == "choice":
        return StructuredOutputsParams(choice=[str(choice) for choice in wanted["choices"]])
    raise ValueError(f"response_format.type {kind!r} is not one of text, json_object, json_schema, choice")

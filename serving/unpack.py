"""Unpack a GGUF file into a bf16 checkpoint: `python -m lakemill.serving.unpack FILE.gguf FOLDER`.

Run as a process of its own by `lakemill.serving.weights`; it alone imports torch and transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path


def unpack(source: Path, target: Path) -> None:
    """Write config, generation settings, tokenizer with its chat template, and weights of `source` into `target`."""
    import torch  # noqa: PLC0415 - importing this module must stay cheap
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    place = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(
        **place, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    # The tensors are plain bf16 now: a reader that believed the setting would look for packed ones.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    target.mkdir(parents=True)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**place).save_pretrained(target)


if __name__ == "__main__":
    unpack(Path(sys.argv[1]), Path(sys.argv[2]))

"""Score choices with transformers, without vLLM and without a trie: `python hf_scores.py MODEL < request > scores`.

At every position of every choice: the whole distribution, renormalised over what any choice allows there.
"""

from __future__ import annotations

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    request = json.load(sys.stdin)
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(request["messages"], add_generation_prompt=True, return_dict=False)
    end = tokenizer.eos_token_id
    choices = {choice: [*tokenizer.encode(choice, add_special_tokens=False), end] for choice in request["choices"]}
    scores = {}
    for choice, ids in choices.items():
        with torch.no_grad():
            logits = model(torch.tensor([prompt + ids])).logits[0].float()
        share = 1.0
        for i, token in enumerate(ids):
            allowed = sorted({other[i] for other in choices.values() if other[:i] == ids[:i]})
            shares = torch.softmax(logits[len(prompt) + i - 1][allowed], dim=0)
            share *= float(shares[allowed.index(token)])
        scores[choice] = share
    json.dump(scores, sys.stdout)


if __name__ == "__main__":
    main()

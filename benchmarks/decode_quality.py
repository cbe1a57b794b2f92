"""What bfloat16 and int8 cost a trained language model: loss, perplexity and tokens, against float32.

    OMP_NUM_THREADS=1 python benchmarks/decode_quality.py MODEL_FOLDER TEXT_FILE

The text, which should be one that the model was not trained on, is cut into rows; each token after the first 16 of a
row is predicted by the decoding steps themselves. Then each row's beginning is continued greedily.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_genai
from hf_genai.decoding.generate import choose_steps

PROMPT, LENGTH, NEW_TOKENS = 16, 96, 64


@torch.no_grad()
def predictions(model, rows: torch.Tensor, dtype: str) -> tuple[float, torch.Tensor]:
    """Return the loss in nats per token, and the likeliest token of each place, of rows (B, T)."""
    steps = choose_steps(model, {}, beams=1, dtype=dtype)
    position_ids = torch.arange(PROMPT).unsqueeze(0)
    steps.prefill(rows[:, :PROMPT], {"past_key_values": None, "use_cache": True, "position_ids": position_ids})
    losses, likeliest = [], []
    for end in range(PROMPT + 1, rows.shape[1]):
        logits = steps.step(rows[:, :end], None)
        losses.append(torch.nn.functional.cross_entropy(logits, rows[:, end]))
        likeliest.append(logits.argmax(1))
    return torch.stack(losses).mean().item(), torch.stack(likeliest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub name of a GenaiGPTForCausalLM with its tokenizer")
    parser.add_argument("text", type=Path)
    parser.add_argument("--rows", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(options.model).eval()
    ids = AutoTokenizer.from_pretrained(options.model)(options.text.read_text("utf-8"))["input_ids"]
    count = min(options.rows, len(ids) // LENGTH)
    if not count:
        raise SystemExit(f"{options.text} has {len(ids)} tokens; at least {LENGTH} are needed")
    rows = torch.tensor(ids[: count * LENGTH]).view(count, LENGTH)
    continued = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    print("| dtype | loss | perplexity | same likeliest token | same token of a continuation | same continuations |")
    print("| --- | --- | --- | --- | --- | --- |")
    for dtype in ("float32", "bfloat16", "int8"):
        loss, likeliest = predictions(model, rows, dtype)
        texts = model.generate(rows[:, :PROMPT], **continued, custom_generate=hf_genai.fast_generate, dtype=dtype)
        if dtype == "float32":
            wanted, wanted_texts = likeliest, texts
        same = (texts == wanted_texts)[:, PROMPT:]
        shares = [(likeliest == wanted).float().mean(), same.float().mean(), same.all(1).float().mean()]
        perplexity = torch.tensor(loss).exp().item()
        print(f"| {dtype} | {loss:.4f} | {perplexity:.2f} | " + " | ".join(f"{100 * s:.1f} %" for s in shares) + " |")


if __name__ == "__main__":
    main()

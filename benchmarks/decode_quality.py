"""Loss, perplexity and tokens of a trained language model that decodes in bfloat16 and int8, beside float32.

    OMP_NUM_THREADS=1 python benchmarks/decode_quality.py --model MODEL_FOLDER --text TEXT_FILE

The text should be one that the model was not trained on. The script cuts it into rows; fast_generate's steps predict
each token after the first 16 of a row. Then the script continues the beginning of each row greedily.
"""

import json
import tempfile
from pathlib import Path

import torch
from measure import machine, made_up_texts, parse_options
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_genai
from hf_genai.data import train_tokenizer
from hf_genai.decoding.generate import choose_steps

PROMPT, LENGTH, NEW_TOKENS = 16, 96, 64  # tokens


def make_smoke_files(folder: Path) -> None:
    """Save a tiny untrained model with its tokenizer, and a text."""
    texts = made_up_texts(200)
    tokenizer = train_tokenizer(texts, vocab_size=300)
    sizes = {"vocab_size": 512, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    hf_genai.GenaiGPTForCausalLM(hf_genai.GenaiGPTConfig(**sizes)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "text.txt").write_text(" ".join(texts), "utf-8")


@torch.no_grad()
def predictions(model, rows: torch.Tensor, dtype: str) -> tuple[float, torch.Tensor]:
    """Return the loss of rows (B, T) in nats per token, and the most likely token of each position."""
    steps = choose_steps(model, {}, beams=1, dtype=dtype)
    position_ids = torch.arange(PROMPT).unsqueeze(0)
    steps.prefill(rows[:, :PROMPT], {"past_key_values": None, "use_cache": True, "position_ids": position_ids})
    losses, tokens = [], []
    for end in range(PROMPT + 1, rows.shape[1]):
        logits = steps.step(rows[:, :end], None)
        losses.append(torch.nn.functional.cross_entropy(logits, rows[:, end]))
        tokens.append(logits.argmax(1))
    return torch.stack(losses).mean().item(), torch.stack(tokens)


def main() -> None:
    options = parse_options(
        __doc__,
        model={"help": "folder or Hub name of a GenaiGPTForCausalLM with its tokenizer"},
        text={"type": Path, "help": "file of a text that the model has not seen"},
        rows={"type": int, "default": 64, "help": "rows of the text"},
    )
    with tempfile.TemporaryDirectory() as folder:
        if options.smoke:
            make_smoke_files(Path(folder))
            options.model, options.text, options.rows = f"{folder}/model", Path(folder, "text.txt"), 2
        if not options.model or not options.text:
            raise SystemExit("--model and --text must be given")
        model = AutoModelForCausalLM.from_pretrained(options.model).eval()
        ids = AutoTokenizer.from_pretrained(options.model)(options.text.read_text("utf-8"), verbose=False)["input_ids"]
    count = min(options.rows, len(ids) // LENGTH)
    if not count:
        raise SystemExit(f"{options.text} must have {LENGTH} tokens at least, not {len(ids)}")
    rows = torch.tensor(ids[: count * LENGTH]).view(count, LENGTH)
    settings = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "eos_token_id": None}
    settings["custom_generate"] = hf_genai.fast_generate
    about = machine(options)
    print("; ".join(f"{name}: {value}" for name, value in about.items()))
    print("| dtype | loss | perplexity | same most likely token | same token of a continuation | same continuations |")
    print("| --- | --- | --- | --- | --- | --- |")
    results: dict[str, tuple] = {}
    figures = []
    for dtype in ("float32", "bfloat16", "int8"):
        loss, tokens = predictions(model, rows, dtype)
        results[dtype] = tokens, model.generate(rows[:, :PROMPT], dtype=dtype, **settings)[:, PROMPT:]
        same_token, same_text = (
            result == expected for result, expected in zip(results[dtype], results["float32"], strict=True)
        )
        shares = [same_token.float().mean(), same_text.float().mean(), same_text.all(1).float().mean()]
        perplexity = torch.tensor(loss).exp().item()
        print(f"| {dtype} | {loss:.4f} | {perplexity:.2f} | " + " | ".join(f"{100 * s:.1f} %" for s in shares) + " |")
        figures.append({"dtype": dtype, "loss": loss, "shares": [share.item() for share in shares]})
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()

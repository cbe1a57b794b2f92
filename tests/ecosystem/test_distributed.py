"""Two processes on a CPU, by transformers' own parallelism: the logits are those of one."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from tiny_families import HEAD, make

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from transformers.distributed import DistributedConfig
from tiny_families import HEAD, batch_of
import hf_genai

for case in sys.argv[2:]:
    family, layout, kind = case.split("-")
    batch, model_class = batch_of(family), getattr(hf_genai, HEAD[family])
    folder = f"{sys.argv[1]}/{family}-{layout}"
    alone = model_class.from_pretrained(folder).eval()
    parts = DistributedConfig(**{f"{kind}_size": 2})
    shared = model_class.from_pretrained(folder, distributed_config=parts).eval()
    with torch.no_grad():
        expected, found = alone(**batch).logits, shared(**batch).logits
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference < 1e-6, f"{case}: relative difference {difference:.1e}"
    if kind == "tp":  # each process holds half of a projection
        weight = next(p for name, p in shared.named_parameters() if name.endswith("layers.1.self_attn.q_proj.weight"))
        assert getattr(weight, "_local_tensor", weight).shape[0] == alone.config.hidden_size // 2, case
    if dist.get_rank() == 0:
        print("equal", case, flush=True)
dist.barrier()
dist.destroy_process_group()  # its threads, still there at exit, can abort the process
"""
CASES = (
    *("GPT-modern-tp", "GPT-classic-tp", "GPT-modern-fsdp", "GPT-modern-pp", "GPT-classic-pp"),
    *("BERT-modern-tp", "BERT-classic-tp", "BERT-modern-fsdp"),
    *("T5-modern-tp", "T5-classic-tp", "T5-modern-fsdp", "T5-classic-fsdp"),
)


def test_tensor_data_and_pipeline_parallel_models_give_the_logits_of_one_process(tmp_path):
    for family in HEAD:
        for layout in ("modern", "classic"):
            make(family, layout).save_pretrained(tmp_path / f"{family}-{layout}")
    (tmp_path / "script.py").write_text(SCRIPT)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = str(chosen.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", port]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [*launch, str(tmp_path / "script.py"), str(tmp_path), *CASES],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("equal ")] == list(CASES)

"""transformers' server answers an OpenAI-style client with a model of ours."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import openai
import pytest
import torch

from hf_genai import GenaiGPTConfig, GenaiGPTForCausalLM, GenaiT5Config
from hf_genai.cli import main
from hf_genai.data import train_tokenizer
from hf_genai.serving import _chats_as_text

TEMPLATE = "{% for message in messages %}{{ message['role'][0] }}: {{ message['content'] }}\n{% endfor %}a:"
QUESTION = [{"role": "user", "content": "one two"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GPT with a tokenizer that has a chat template."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("gpt")
    tokenizer = train_tokenizer(["one two three four a: u: system\n"] * 2, kind="char", vocab_size=60)
    tokenizer.chat_template = TEMPLATE
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 256}
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = GenaiGPTForCausalLM(GenaiGPTConfig(vocab_size=len(tokenizer), initializer_range=0.2, **sizes, **special))
    model.generation_config.do_sample = False
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return chosen.getsockname()[1]


def expected_answer(folder, new_tokens: int) -> str:
    """What `generate` gives for the question."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = GenaiGPTForCausalLM.from_pretrained(folder).eval()
    inputs = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def client_of(port: int):
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=900, max_retries=0)


def ask(port: int, folder) -> tuple[str, str]:
    """Return the answer of a chat, at once and streamed."""
    client, asked = client_of(port), {"model": str(folder), "messages": QUESTION, "max_tokens": 8, "temperature": 0.0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**asked, stream=True)]
    assert len([piece for piece in pieces if piece]) > 1  # it came bit by bit
    return whole, "".join(pieces)


def expected_text(folder, prompt: str, length: int) -> str:
    """Return what generate() writes after a prompt."""
    from transformers import AutoTokenizer

    model, tokenizer = GenaiGPTForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=length, do_sample=False)
    return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("continuous_batching", [False, True], ids=["plain", "continuous batching"])
def test_the_server_answers_what_generate_gives_at_once_and_streamed(folder, continuous_batching):
    from transformers.cli.serve import Serve

    from hf_genai.serving import make_visible

    make_visible()
    port = free_port()
    paged = (
        {"continuous_batching": True, "cb_num_blocks": 16, "cb_max_batch_tokens": 64} if continuous_batching else {}
    )
    server = Serve(
        str(folder),
        host="127.0.0.1",
        port=port,
        non_blocking=True,
        dtype="float32",
        **(paged if continuous_batching else {}),
    )
    try:
        wait_for(port)
        assert ask(port, folder) == (expected_answer(folder, 8),) * 2
    finally:
        server.kill_server()


def wait_for(port: int, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing answers on port {port}")


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(folder):
    port = free_port()
    command = [sys.executable, "-m", "hf_genai.cli", "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--continuous_batching", "--cb_num_blocks=16", "--cb-max-batch-tokens", "64"]
    with subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) as server:
        try:
            wait_for(port, 120)
            answer, streamed = ask(port, folder)
            assert answer == streamed != ""
            asked = {"model": str(folder), "prompt": "one", "max_tokens": 4, "temperature": 0.0}
            assert client_of(port).completions.create(**asked).choices[0].text == expected_text(folder, "one", 4)
            server.send_signal(signal.SIGINT)
            assert server.wait(30) in (0, 130)
        finally:
            server.kill()


def test_a_missing_package_is_named_with_its_extra(folder, monkeypatch):
    from hf_genai import serving

    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "fastapi" else object())
    with pytest.raises(ImportError, match=re.escape("serving needs fastapi: pip install 'hf_genai[serve]'")):
        serving.serve([str(folder)])


def test_an_encoder_decoder_is_refused_before_the_server_starts(tmp_path, capsys):
    from hf_genai import GenaiT5ForConditionalGeneration

    config = GenaiT5Config(vocab_size=20, hidden_size=16, num_attention_heads=2, encoder_layers=1, decoder_layers=1)
    GenaiT5ForConditionalGeneration(config).save_pretrained(tmp_path)
    for argv in ([str(tmp_path)], ["--port", "0", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *argv])
        assert ended.value.code == 2 and "holds a GenaiT5ForConditionalGeneration" in capsys.readouterr().err


def test_control_tokens_in_messages_are_text_unless_the_operator_says_otherwise():
    assert json.loads(_chats_as_text(None)) == {"sanitize_control_tokens": True}
    given = '{"enable_thinking": true, "sanitize_control_tokens": false}'
    assert json.loads(_chats_as_text(given)) == json.loads(given)
    assert _chats_as_text("[]") == "[]"  # which the server refuses

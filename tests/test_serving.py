"""transformers' server answers an OpenAI-style client with a model of ours."""

import asyncio
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

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


PAGED = {"continuous_batching": True, "cb_num_blocks": 16, "cb_max_batch_tokens": 64}


@contextmanager
def running(folder, limits=None, **options):
    """A server of the folder's model behind the front, in a thread; gives its port."""
    from transformers.cli.serve import Serve

    from hf_genai.serving import make_visible, put_front_before
    from hf_genai.serving_front import Limits

    class Later(Serve):
        def start_server(self):
            options = {"chat_template_kwargs": _chats_as_text(None), **given}
            put_front_before(self, limits or Limits(), options)
            super().start_server()

    make_visible()
    given = {"force_model": str(folder), "host": "127.0.0.1", "port": free_port(), **options}
    server = Later(**given, dtype="float32", non_blocking=True)
    try:
        wait_for(given["port"])
        yield given["port"]
    finally:
        server.kill_server()


@pytest.mark.parametrize("options", [{}, PAGED], ids=["plain", "continuous batching"])
def test_the_server_answers_what_generate_gives_at_once_and_streamed(folder, options):
    with running(folder, **options) as port:
        assert ask(port, folder) == (expected_answer(folder, 8),) * 2


@pytest.fixture(scope="module")
def port(folder):
    """A server with low limits, whose model has 256 positions."""
    from hf_genai.serving_front import Limits

    limits = Limits(max_prompt_tokens=300, max_new_tokens=200, max_beams=2, max_seconds=5, max_requests=3)
    with running(folder, limits) as port:
        yield port


def post(port: int, body, path: str = "/v1/completions", key: str = "a") -> tuple[int, str]:
    """Return the status and the message of an error, or the body, of a request."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Authorization": key}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=900) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]["message"]


CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/v1/completions", {"model": "other", "prompt": "one"}, 404, "model must be "),
        ("/v1/completions", {}, 400, "prompt is missing"),
        ("/v1/completions", {"prompt": ""}, 400, "prompt: "),
        ("/v1/completions", {"prompt": ["one"]}, 400, "prompt: "),
        ("/v1/completions", b'{"prompt": "\\ud800"}', 400, "the body: Invalid JSON"),
        ("/v1/completions", b"[" * 100_000, 400, "the body: Invalid JSON: recursion limit"),
        ("/v1/completions", b"\xff", 400, "the body: Invalid JSON"),
        ("/v1/completions", b" " * 2_000_000, 413, "a request must have at most"),
        ("/v1/completions", {"prompt": "one", "max_tokens": "4"}, 400, "max_tokens: "),
        ("/v1/completions", {"prompt": "one", "max_tokens": 201}, 400, "max_tokens must be at most 200, not 201"),
        ("/v1/completions", {"prompt": "one " * 25, "max_tokens": 200}, 400, "max_tokens must be at most 155 after"),
        ("/v1/completions", {"prompt": "one " * 70}, 400, "the prompt must leave room in the model's 256 positions"),
        ("/v1/completions", {"prompt": "one " * 90}, 400, "the prompt must have at most 300 tokens, not 361"),
        ("/v1/completions", {"prompt": "one", "temperature": 1e-9}, 400, "temperature: must be 0"),
        ("/v1/completions", {"prompt": "one", "stop": ["t"]}, 400, "stop does not work with the model's tokenizer"),
        ("/v1/completions", {"prompt": "one", "n": 2}, 400, "n: "),
        ("/v1/completions", {"prompt": "one", "no_such": 2}, 422, "Unexpected fields in the request: {'no_such'}"),
        ("/v1/completions", {"prompt": "one", "generation_config": '{"num_beams": 3}'}, 400, "must be at most 2"),
        ("/v1/completions", {"prompt": "one", "generation_config": '{"max_time": 1e9}'}, 400, "config.max_time: "),
        ("/v1/completions", {"prompt": "o", "stream": True, "generation_config": '{"num_beams": 2}'}, 400, "stream "),
        (CHAT, {}, 400, "messages is missing"),
        (CHAT, {"messages": []}, 400, "messages: "),
        (CHAT, {"messages": [{"content": "one"}]}, 400, "messages.0.role is missing"),
        (CHAT, {"messages": [{"role": "user", "content": 7}]}, 400, "messages.0.content: "),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content.0.type"),
        (CHAT, {"messages": [{"role": "user", "tool_calls": [{}]}]}, 400, "messages do not fit"),
        (CHAT, {"messages": QUESTION, "chat_template_kwargs": {"chat_template": "x"}}, 400, "chat_template_kwargs."),
        (CHAT, {"messages": QUESTION, "logit_bias": {"99999": 1}}, 400, "logit_bias: token ids must be below"),
        ("/reset", {}, 404, "there is no /reset"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_with_a_sentence(port, path, body, status, message):
    got, reason = post(port, body, path)
    assert (got, message in reason) == (status, True), reason


def test_a_request_without_a_model_gets_the_servers_and_room_for_what_it_leaves_open(port, folder):
    status, answer = post(port, {"prompt": "one " * 30})
    assert status == 200 and json.loads(answer)["usage"] == {
        "prompt_tokens": 121,
        "completion_tokens": 256 - 121,
        "total_tokens": 256,
    }
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as models:
        assert [model["id"] for model in json.load(models)["data"]] == [str(folder)]


def test_neither_silent_connections_nor_a_flood_of_requests_stop_another_client(port):
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    for number, connection in enumerate(silent):
        with suppress(ConnectionError):  # of more than 256 the server closes the one that was idle longest
            connection.send(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n")
            connection.send(b"Content-Length: 9\r\n\r\n" if number % 2 else b"X-Slow: ")
    long = {"prompt": "one", "max_tokens": 200, "generation_config": '{"min_new_tokens": 200}'}
    with ThreadPoolExecutor(20) as pool:
        flood = [pool.submit(post, port, long, "/v1/completions", "flood") for _ in range(20)]
        while not any(request.done() for request in flood):
            time.sleep(0.01)
        status, _ = post(port, {"prompt": "one", "max_tokens": 1}, key="other")
        assert status == 200
        statuses = Counter(request.result()[0] for request in flood)
    assert set(statuses) == {200, 429} and statuses[429] >= 10
    for connection in silent:
        connection.close()


def test_clients_take_turns_however_many_requests_each_has():
    from hf_genai.serving_front import Refused, Turns

    async def order():
        turns, answered = Turns(at_once=1, per_client=3), []

        async def request(client):
            async with turns.taken(client):
                await asyncio.sleep(0)
                answered.append(client)

        tasks = [asyncio.ensure_future(request(client)) for client in "aaabbc"]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="3 requests of this client"):
            await request("a")
        tasks[2].cancel()  # a client that hangs up
        await asyncio.gather(*tasks, return_exceptions=True)
        return "".join(answered), turns.free, dict(turns.counts), turns.waiting

    assert asyncio.run(order()) == ("aabcb", 1, {}, {})


@pytest.mark.parametrize("options", [{}, PAGED], ids=["plain", "continuous batching"])
def test_an_answer_ends_when_its_time_does(folder, options, monkeypatch):
    from hf_genai.serving_front import Limits

    forward = GenaiGPTForCausalLM.forward

    def slow(self, *args, **kwargs):
        time.sleep(0.1)
        return forward(self, *args, **kwargs)

    slow.__signature__ = inspect.signature(forward)
    monkeypatch.setattr(GenaiGPTForCausalLM, "forward", slow)
    body = {"prompt": "one", "max_tokens": 200, "generation_config": '{"min_new_tokens": 200}'}
    with running(folder, Limits(max_seconds=1), **options) as port:
        begun = time.monotonic()
        status, answer = post(port, body)
        assert time.monotonic() - begun < 15  # of 20 seconds
        if options:
            assert (status, answer) == (503, "the answer took longer than 1 seconds")
        else:
            assert status == 200 and json.loads(answer)["usage"]["completion_tokens"] < 150


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
            long = {**asked, "max_tokens": 240, "extra_body": {"generation_config": '{"min_new_tokens": 240}'}}
            with ThreadPoolExecutor(1) as pool:
                pool.submit(lambda: client_of(port).completions.create(**long))
                time.sleep(0.2)
                server.send_signal(signal.SIGINT)
                begun = time.monotonic()
                assert server.wait(30) == 130 and time.monotonic() - begun < 2
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

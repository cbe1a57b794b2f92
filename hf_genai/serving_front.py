"""The front of `hf-genai serve`: what a request may ask of transformers' server, and whose turn it is.

transformers' server takes what comes: it generates as many tokens as are asked for, one request after the other, and
what it cannot read ends in status 500. The front reads a request whole, checks it, counts its tokens, lets clients
take turns, and hands on what the limits allow.
"""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from inspect import signature
from typing import Annotated, Any, Literal

from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Json, ValidationError
from transformers import StopStringCriteria
from transformers.cli.serving.utils import BaseHandler, Modality
from uvicorn.protocols.http.h11_impl import H11Protocol

BODY_BYTES = 2**20
READ_SECONDS = 10  # for a request to arrive; as long again for a client to read an answer
CONNECTIONS = 256


def _limit(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Limits:
    """What a request may ask for; the options of `hf-genai serve`."""

    max_prompt_tokens: int = _limit(8192, "Tokens of a request's prompt.")
    max_new_tokens: int = _limit(1024, "Tokens that a request may ask for, and gets if it says nothing.")
    max_beams: int = _limit(4, "Beams of a request; 1 with --continuous-batching.")
    max_seconds: float = _limit(120.0, "Time to generate an answer, which ends where the time does.")
    max_requests: int = _limit(8, "Requests of a client (address and API key) that run or wait; more get status 429.")

    def __post_init__(self):
        for name, value in vars(self).items():
            if not 0 < value < 2**31:
                raise ValueError(f"{name} must be a positive number below 2^31, not {value}")


class Refused(Exception):
    """A request that gets no answer: status, and the sentence that says why."""

    def __init__(self, status: int, reason: str):
        self.status = status
        super().__init__(reason)

    @property
    def response(self) -> JSONResponse:
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return JSONResponse({"error": {"message": str(self), "type": kind}}, status_code=self.status)


def _temperature(value: float | None) -> float | None:
    if value and not 0.001 <= value <= 100:
        raise ValueError("must be 0 (no sampling) or from 0.001 to 100")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


Temperature = Annotated[float | None, AfterValidator(_temperature)]
TopP = Annotated[float | None, Field(gt=0, le=1)]
Tokens = Annotated[int | None, Field(ge=1)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class Checked(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Generation(Checked):
    """What a request's `generation_config` may set."""

    model_config = ConfigDict(extra="forbid")
    do_sample: bool | None = None
    num_beams: Annotated[int | None, Field(ge=1)] = None
    temperature: Temperature = None
    top_k: Annotated[int | None, Field(ge=0, lt=2**31)] = None
    top_p: TopP = None
    min_p: Annotated[float | None, Field(ge=0, le=1)] = None
    repetition_penalty: Annotated[float | None, Field(ge=0.1, le=10)] = None
    no_repeat_ngram_size: Annotated[int | None, Field(ge=0, le=1000)] = None
    length_penalty: Annotated[float | None, Field(ge=-10, le=10)] = None
    early_stopping: bool | None = None
    min_new_tokens: Tokens = None
    max_new_tokens: Tokens = None


class Asked(Checked):
    """What both kinds of request have. Further fields are left to transformers' server."""

    model: str | None = None
    stream: bool | None = None
    n: Literal[1] | None = None
    max_tokens: Tokens = None
    temperature: Temperature = None
    top_p: TopP = None
    seed: Annotated[int | None, Field(ge=0, lt=2**63)] = None
    frequency_penalty: Annotated[float | None, Field(ge=-0.9, le=2)] = None
    stop: Annotated[list[Stop] | None, BeforeValidator(_as_list), Field(max_length=4)] = None
    generation_config: Json[Generation] | None = None


class Completion(Asked):
    prompt: Annotated[str, Field(min_length=1)]
    suffix: str | None = None


class Part(Checked):
    type: Literal["text"]
    text: str


class Message(Checked):
    role: Annotated[str, Field(min_length=1)]
    content: Annotated[list[Part] | None, BeforeValidator(_as_parts)] = None


class Chat(Asked):
    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    logit_bias: Annotated[dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], float] | None, Field(max_length=300)] = (
        None
    )
    max_completion_tokens: Tokens = None


KINDS: dict[str, type[Asked]] = {"/v1/completions": Completion, "/v1/chat/completions": Chat}
TO_LOOK_AT = ("/v1/models", "/health")
# of two requests with one id, continuous batching would give one client the other's answer
REPLACED = (b"content-length", b"content-type", b"transfer-encoding", b"x-request-id")


def parse(kind: type[Asked], body: bytes) -> Any:
    """Return the request in a body of JSON.

    Raises:
        Refused: if it is none, or a field is missing or has no value that is allowed; the first such is named.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"])) or "the body"
    if first["type"] == "missing":
        raise Refused(400, f"{name} is missing")
    came = "" if first["type"].startswith("json") or not first["loc"] else f", not {first['input']!r:.100}"
    raise Refused(400, f"{name}: {first['msg'].removeprefix('Value error, ')}{came}")


class Turns:
    """Lets some requests run at once; clients with waiting requests take turns, however many each has."""

    def __init__(self, at_once: int, per_client: int):
        self.free, self.per_client = at_once, per_client
        self.waiting: dict[Any, deque[asyncio.Future]] = {}  # in the order of turns
        self.counts: Counter = Counter()

    @asynccontextmanager
    async def taken(self, client: Any):
        """Wait for a turn and keep it.

        Raises:
            Refused: if the client has `per_client` requests here already.
        """
        if self.counts[client] >= self.per_client:
            raise Refused(429, f"{self.per_client} requests of this client are running or waiting: try again later")
        self.counts[client] += 1
        try:
            await self._take(client)
            try:
                yield
            finally:
                self._give_back()
        finally:
            self.counts[client] -= 1
            if not self.counts[client]:
                del self.counts[client]

    async def _take(self, client: Any) -> None:
        if self.free:
            self.free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self.waiting.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given at the same moment
                self._give_back()
            raise

    def _give_back(self) -> None:
        while self.waiting:
            client = next(iter(self.waiting))
            queue = self.waiting.pop(client)
            turn = queue.popleft()
            if queue:
                self.waiting[client] = queue  # at the end
            if not turn.done():
                turn.set_result(None)
                return
        self.free += 1


class Front:
    """ASGI middleware before transformers' server.

    Args:
        app: transformers' server.
        model, processor: what it answers with, and `name`, by which requests may ask for it.
        chat_template_kwargs: the server's own arguments of the chat template.
        at_once: how many requests generate at the same time.
    """

    def __init__(
        self,
        app: Any,
        name: str,
        model: Any,
        processor: Any,
        limits: Limits,
        chat_template_kwargs: dict[str, Any],
        at_once: int,
    ):
        self.app, self.name, self.model, self.limits = app, name, model, limits
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.chat_template_kwargs = chat_template_kwargs
        self.created = int(time.time())
        self.turns = Turns(at_once=at_once, per_client=limits.max_requests)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] == "OPTIONS" or scope["path"] == "/health":
            await self.app(scope, receive, send)
            return
        if scope["path"] == "/v1/models":  # the app lists what lies in the Hub's cache
            model = {"id": self.name, "object": "model", "created": self.created, "owned_by": "hf_genai"}
            await JSONResponse({"object": "list", "data": [model]})(scope, receive, send)
            return
        try:
            if scope["path"] not in KINDS:
                raise Refused(404, f"there is no {scope['path']}: requests go to {', '.join([*KINDS, *TO_LOOK_AT])}")
            if scope["method"] != "POST":
                raise Refused(405, f"{scope['path']} takes POST, not {scope['method']}")
            body = await read_body(receive)
            # counting tokens takes a while, in which others are answered
            body = await asyncio.to_thread(self.checked, parse(KINDS[scope["path"]], body))
            await self.answer(body, scope, receive, send)
        except Refused as error:
            await error.response(scope, receive, send)

    def checked(self, asked: Any) -> bytes:
        """Return the body that transformers' server gets for a request.

        Raises:
            Refused: if it asks for more than the limits or the model allow.
        """
        if asked.model not in (None, self.name):
            raise Refused(404, f"model must be {self.name!r}, which this server has, not {asked.model!r:.200}")
        prompt, limits = self.count(asked), self.limits
        if not prompt:
            raise Refused(400, "the prompt is empty: no token is left of it")
        if prompt > limits.max_prompt_tokens:
            raise Refused(400, f"the prompt must have at most {limits.max_prompt_tokens} tokens, not {prompt}")
        config = self.model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or prompt + limits.max_new_tokens
        if prompt >= positions:
            raise Refused(400, f"the prompt must leave room in the model's {positions} positions, but has {prompt}")
        generation = asked.generation_config or Generation()
        new = getattr(asked, "max_completion_tokens", None) or asked.max_tokens or generation.max_new_tokens
        if new is not None and new > limits.max_new_tokens:
            raise Refused(400, f"max_tokens must be at most {limits.max_new_tokens}, not {new}")
        if new is not None and prompt + new > positions:
            raise Refused(
                400, f"max_tokens must be at most {positions - prompt} after a prompt of {prompt} tokens, not {new}"
            )
        beams = generation.num_beams or self.model.generation_config.num_beams or 1
        if generation.num_beams and beams > limits.max_beams:
            raise Refused(400, f"generation_config.num_beams must be at most {limits.max_beams}, not {beams}")
        if asked.stream and beams > 1:
            raise Refused(400, f"stream must be false with {beams} beams: nothing is known before the end")
        if (bias := getattr(asked, "logit_bias", None)) and max(map(int, bias)) >= config.vocab_size:
            raise Refused(400, f"logit_bias: token ids must be below {config.vocab_size}, not {max(map(int, bias))}")
        if asked.stop:
            try:
                StopStringCriteria(self.tokenizer, asked.stop)
            except ValueError as error:
                raise Refused(400, "stop does not work with the model's tokenizer: leave it out") from error
        new = new or min(limits.max_new_tokens, positions - prompt)
        body = asked.model_dump(exclude_none=True, exclude={"n", "max_completion_tokens"})
        settings = json.loads(self.model.generation_config.to_json_string(ignore_metadata=True))
        settings |= generation.model_dump(exclude_none=True)
        settings |= {"max_new_tokens": new, "max_time": limits.max_seconds}
        body |= {"model": self.name, "max_tokens": new, "generation_config": json.dumps(settings)}
        return json.dumps(body).encode()

    def count(self, asked: Any) -> int:
        """Return the number of tokens of a prompt.

        Raises:
            Refused: if the messages do not fit the chat template.
        """
        if isinstance(asked, Completion):
            return len(self.tokenizer(asked.prompt)["input_ids"])
        if not self.tokenizer.chat_template:
            raise Refused(400, f"{self.name} has no chat template: send a prompt to /v1/completions")
        own = {**(asked.chat_template_kwargs or {})}
        allowed = {"sanitize_control_tokens"}
        for name in (set(own) & set(signature(self.tokenizer.apply_chat_template).parameters)) - allowed:
            raise Refused(400, f"chat_template_kwargs.{name} is for the server to set: give the template's variables")
        try:
            messages = [message.model_dump(exclude_none=True) for message in asked.messages]
            ids = self.tokenizer.apply_chat_template(
                BaseHandler.get_processor_inputs_from_messages(messages, Modality.LLM),
                tools=asked.tools,
                add_generation_prompt=True,
                return_dict=True,
                load_audio_from_video=False,
                **{**self.chat_template_kwargs, **own},
            )["input_ids"]
        except Exception as error:  # whatever the template raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise Refused(400, f"messages do not fit the model's chat template: {reason:.300}") from error
        return len(ids)

    async def answer(self, body: bytes, scope: Any, receive: Any, send: Any) -> None:
        """Hand a request on when it is its turn, and what comes back as fast as the client reads."""
        client = (scope["client"] or [""])[0], dict(scope["headers"]).get(b"authorization")
        gone = asyncio.ensure_future(receive())  # all that still can come is that the client hangs up
        unread: asyncio.Queue = asyncio.Queue()
        writer = asyncio.ensure_future(write(unread, send))
        work = asyncio.ensure_future(self.generate(body, client, gone, scope, unread.put_nowait))
        try:
            await work  # which frees the turn, be the client as slow as it may
            unread.put_nowait(None)
            async with asyncio.timeout(READ_SECONDS):
                await writer
        except TimeoutError:
            pass  # uvicorn ends the connection
        finally:
            for task in (gone, writer, work):
                task.cancel()

    async def generate(
        self, body: bytes, client: Any, gone: asyncio.Future, scope: Any, put: Callable[[Any], None]
    ) -> None:
        """Let transformers' server answer within the time limit."""
        begun, started = [body], []

        async def hand_over() -> Any:
            if begun:
                return {"type": "http.request", "body": begun.pop(), "more_body": False}
            return await asyncio.shield(gone)

        async def keep(message: Any) -> None:
            started.append(message["type"])
            put(message)

        headers = [(key, value) for key, value in scope["headers"] if key not in REPLACED]
        headers += [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        async with self.turns.taken(client):
            if gone.done():
                return
            try:
                # generation ends by itself in time; continuous batching and what else takes long does not
                async with asyncio.timeout(self.limits.max_seconds + 1):
                    await self.app({**scope, "headers": headers}, hand_over, keep)
            except TimeoutError:
                late = Refused(503, f"the answer took longer than {self.limits.max_seconds:g} seconds")
                if not started:
                    raise late from None
                line = b"data: " + bytes(late.response.body) + b"\n\n"
                put({"type": "http.response.body", "body": line, "more_body": False})


async def write(unread: asyncio.Queue, send: Callable[[Any], Awaitable[None]]) -> None:
    while (message := await unread.get()) is not None:
        await send(message)


async def read_body(receive: Any) -> bytes:
    """Return a request's body.

    Raises:
        Refused: if it is too long, or does not arrive in time.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > BODY_BYTES:
                    raise Refused(413, f"a request must have at most {BODY_BYTES} bytes")
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, f"the request did not arrive within {READ_SECONDS} seconds") from None


class Protocol(H11Protocol):
    """uvicorn's, without the connections that wait for nothing.

    A connection without a request is closed after a while, and at once when there are too many of them: the one that
    has been idle for longest gives way.
    """

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.made = self.loop.time()
        if len(self.connections) > CONNECTIONS:
            idle = [one for one in self.connections if isinstance(one, Protocol) and one.idle]
            min(idle, key=lambda one: one.made).transport.abort()
        self.loop.call_later(READ_SECONDS, self.close_if_idle_since, self.cycle)

    @property
    def idle(self) -> bool:
        """Whether no request is being answered: there is none, or it has not arrived."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def close_if_idle_since(self, seen: Any) -> None:
        if self.transport.is_closing():
            return
        if self.idle and self.cycle is seen:  # `read_body` has answered by then where a body is missing
            self.transport.abort()
        else:
            self.loop.call_later(READ_SECONDS, self.close_if_idle_since, self.cycle)

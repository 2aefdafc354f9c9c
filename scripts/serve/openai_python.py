"""OpenAI's client for Python, as its users call it."""

import asyncio
import json
import threading
import time

import openai

from .checks import check, refused, same
from .program import CANCELLED, Server

PART = "openai (Python)"
PROMPT = "Kari mote"


class Clients:
    """A server, and clients of it."""

    def __init__(self, kinglet, runs, server):
        self.kinglet, self.runs, self.server = kinglet, runs, server
        self.client = client_of(server)

    def write(self, prompt=PROMPT, model="text", **options):
        options = {"max_tokens": 30, "seed": 1} | options
        return self.client.completions.create(model=model, prompt=prompt, **options)

    def talk(self, text="say 12", model="chat", **options):
        options = {"max_tokens": 20, "seed": 1} | options
        return self.client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **options)

    def few(self, *options):
        """Another server, which soon has enough to do."""
        return Server(self.kinglet, self.runs, options=options)


def client_of(server, **options):
    options = {"max_retries": 0, "timeout": 60} | options
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.token or "none", **options)


def joined(chunks):
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


@check(PART)
def models(c):
    """Models are listed, and one is retrieved."""
    listed = {model.id: model for model in c.client.models.list()}
    same(set(listed), {"text", "pieces", "chat"})
    one = c.client.models.retrieve("text")
    same((one.id, one.object), ("text", "model"))
    assert one.created > 1_500_000_000 and one.owned_by


@check(PART)
def completion(c):
    """A completion has its text, its reason, its usage, and every field of the official type."""
    answer = c.write()
    choice = answer.choices[0]
    same((answer.object, answer.model, choice.index, choice.finish_reason, choice.logprobs), ("text_completion", "text", 0, "length", None))
    same(len(choice.text), 30)
    same((answer.usage.completion_tokens, answer.usage.total_tokens), (30, 30 + answer.usage.prompt_tokens))
    same(answer.usage.prompt_tokens, len(PROMPT))
    assert answer.id and answer.created and answer.system_fingerprint and answer._request_id


@check(PART)
def seeds(c):
    """A seed writes one text; another one, another."""
    same(c.write().choices[0].text, c.write().choices[0].text)
    assert c.write().choices[0].text != c.write(seed=2).choices[0].text
    same(c.write(temperature=0, seed=1).choices[0].text, c.write(temperature=0, seed=2).choices[0].text)


@check(PART)
def streamed(c):
    """A stream has the text of the whole answer, one id, and a reason at the end."""
    whole = c.write().choices[0].text
    chunks = list(c.write(stream=True))
    same(joined(chunks), whole)
    same(len({chunk.id for chunk in chunks}), 1)
    same([chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1], "length")
    assert all(chunk.usage is None for chunk in chunks), "usage, though nobody asked for it"


@check(PART)
def characters(c):
    """Characters of several bytes are never cut, streamed or not, whatever the model writes."""
    for seed in range(8):
        whole = c.write("bra ", "pieces", seed=seed, max_tokens=60).choices[0].text
        chunks = list(c.write("bra ", "pieces", seed=seed, max_tokens=60, stream=True))
        same(joined(chunks), whole)


@check(PART)
def usage(c):
    """The usage of a stream comes in a chunk of its own, which has no choices."""
    chunks = list(c.write(stream=True, stream_options={"include_usage": True}))
    assert all(chunk.usage is None for chunk in chunks[:-1])
    same((chunks[-1].choices, chunks[-1].usage.completion_tokens), ([], 30))


@check(PART)
def several(c):
    """n texts differ, stand in order, and are those of `sample --num`, streamed too."""
    answer = c.write(n=3)
    same([choice.index for choice in answer.choices], [0, 1, 2])
    texts = [choice.text for choice in answer.choices]
    same(len(set(texts)), 3)
    same(texts[0], c.write().choices[0].text)
    run = c.runs / "text"
    lines = c.kinglet.sample(run, "--prompt", PROMPT, "-n", 30, "--num", 3, "--seed", 1)
    same(texts, [line["text"].removeprefix(PROMPT) for line in lines])
    parts = {}
    for chunk in c.write(n=3, stream=True):
        for choice in chunk.choices:
            parts[choice.index] = parts.get(choice.index, "") + choice.text
    same([parts[i] for i in range(3)], texts)
    same(answer.usage.completion_tokens, 90)


@check(PART)
def stops(c):
    """A text ends before any of four stop strings, streamed too, and nothing of them is sent."""
    text = c.write().choices[0].text
    stop = text[10:13]
    wanted = text[: text.index(stop)]
    for given in (stop, [stop], ["\x01", "\x02", stop, "\x03"]):
        answer = c.write(stop=given)
        same((answer.choices[0].text, answer.choices[0].finish_reason), (wanted, "stop"))
        chunks = list(c.write(stop=given, stream=True))
        same(joined(chunks), wanted)
        same([chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1], "stop")
    refused(openai.BadRequestError, lambda: c.write(stop=list("abcde")), param="stop")


@check(PART)
def logprobs(c):
    """Log-probabilities of a completion: tokens, offsets, the best ones, in the same shape when streamed."""
    choice = c.write(logprobs=3).choices[0]
    found = choice.logprobs
    same("".join(found.tokens), choice.text)
    # They are places in the text of the choice.
    same(found.text_offset, list(range(30)))
    assert all(value <= 0 for value in found.token_logprobs)
    for token, value, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        assert len(top) in (3, 4), top
        assert abs(top.get(token, value) - value) < 1e-6 and max(top.values()) >= value
    assert len({json.dumps(top) for top in found.top_logprobs}) > 3, "the same for all places"
    chunks = [chunk.choices[0].logprobs for chunk in c.write(logprobs=3, stream=True) if chunk.choices and chunk.choices[0].logprobs]
    same([token for chunk in chunks for token in chunk.tokens], found.tokens)
    same([value for chunk in chunks for value in chunk.token_logprobs], found.token_logprobs)
    same([offset for chunk in chunks for offset in chunk.text_offset], found.text_offset)


@check(PART)
def echo(c):
    """echo gives the prompt and its log-probabilities, the first of them null."""
    answer = c.write(echo=True, logprobs=1, max_tokens=1).choices[0]
    assert answer.text.startswith(PROMPT) and len(answer.text) == len(PROMPT) + 1, answer.text
    found = answer.logprobs
    same(len(found.tokens), len(PROMPT) + 1)
    same((found.token_logprobs[0], found.top_logprobs[0]), (None, None))
    assert all(value < 0 for value in found.token_logprobs[1:])
    none = c.write(echo=True, logprobs=1, max_tokens=0).choices[0]
    same((none.text, none.logprobs.token_logprobs), (PROMPT, found.token_logprobs[:-1]))


@check(PART)
def prompts(c):
    """A prompt may be a text, ids, or lists of either."""
    ids = c.server.post("/tokenize", model="text", prompt=PROMPT).json["tokens"]
    text = c.write().choices[0].text
    same(c.write(ids).choices[0].text, text)
    for both in ([PROMPT, "Dor ith"], [ids, ids]):
        answer = c.write(both, n=2)
        same([choice.index for choice in answer.choices], [0, 1, 2, 3])
        same(answer.choices[0].text, text)


@check(PART)
def knobs(c):
    """logit_bias, penalties, top_p, and the samplers beyond OpenAI's do what they say."""
    ids = c.server.post("/tokenize", model="text", prompt="a").json["tokens"]
    same(set(c.write(logit_bias={str(ids[0]): 100}).choices[0].text), {"a"})
    greedy = c.write(temperature=0).choices[0].text
    same(c.write(top_p=1e-6).choices[0].text, greedy)
    same(c.write(extra_body={"top_k": 1}).choices[0].text, greedy)
    same(c.write(extra_body={"min_p": 1}).choices[0].text, greedy)
    free, held = (c.write("a", temperature=0, max_tokens=200, frequency_penalty=x).choices[0].text for x in (0, 2))
    assert len(set(held)) > len(set(free)), "a frequency penalty of 2 does not make a text more varied"
    assert c.write(presence_penalty=-2).choices[0].text


@check(PART)
def chat(c):
    """A chat answers with a message; streamed, the first chunk has the role and the last no content."""
    answer = c.talk()
    choice = answer.choices[0]
    same((answer.object, choice.message.role), ("chat.completion", "assistant"))
    assert choice.message.content and choice.finish_reason in ("stop", "length")
    same(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
    chunks = list(c.talk(stream=True, stream_options={"include_usage": True}))
    same((chunks[0].object, chunks[0].choices[0].delta.role), ("chat.completion.chunk", "assistant"))
    assert not chunks[0].choices[0].delta.content
    same("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices), choice.message.content)
    last = [chunk for chunk in chunks if chunk.choices][-1]
    assert not last.choices[0].delta.content
    same(last.choices[0].finish_reason, choice.finish_reason)
    same((len({chunk.id for chunk in chunks}), chunks[-1].usage.model_dump()), (1, answer.usage.model_dump()))
    same(c.talk(max_tokens=openai.NOT_GIVEN, max_completion_tokens=20).choices[0].message.content, choice.message.content)


@check(PART)
def chat_logprobs(c):
    """Log-probabilities of a chat: tokens with bytes and the best ones, which joined are the content."""
    choice = c.talk(logprobs=True, top_logprobs=2).choices[0]
    content = choice.logprobs.content
    assert content, "none"
    joined = b"".join(bytes(token.bytes) for token in content)
    assert joined.decode(errors="replace").startswith(choice.message.content), (joined, choice.message.content)
    assert all(len(token.top_logprobs) == 2 and token.logprob <= token.top_logprobs[0].logprob + 1e-6 for token in content)
    parts = [chunk.choices[0].logprobs for chunk in c.talk(logprobs=True, top_logprobs=2, stream=True) if chunk.choices]
    same([token.model_dump() for part in parts if part for token in part.content or []], [token.model_dump() for token in content])
    refused(openai.BadRequestError, lambda: c.talk(top_logprobs=2), param="top_logprobs")


@check(PART)
def no_template(c):
    """A model without a template refuses to chat, by the name of what it lacks."""
    refused(openai.BadRequestError, lambda: c.talk(model="text"), code="model_has_no_chat_template")


@check(PART)
def wrong_values(c):
    """What is out of range, of the wrong kind or unsupported is refused by the name of the parameter."""
    many = {"temperature": -1, "top_p": 2, "n": 0, "max_tokens": -1, "logprobs": 21, "seed": "x", "logit_bias": {"a": 1}, "stop": 5, "presence_penalty": 3}
    for name, value in many.items():
        refused(openai.BadRequestError, lambda: c.write(extra_body={name: value}), param=name, type="invalid_request_error")
    refused(openai.BadRequestError, lambda: c.write(n=17), param="n")
    refused(openai.BadRequestError, lambda: c.write([10**6]), param="prompt")
    for name, value in {"suffix": "end", "best_of": 2}.items():
        refused(openai.BadRequestError, lambda: c.write(**{name: value}), code="unsupported_parameter", param=name)
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    for name, value in {"tools": [tool], "response_format": {"type": "json_object"}}.items():
        refused(openai.BadRequestError, lambda: c.talk(**{name: value}), code="unsupported_parameter", param=name)
    assert c.write(extra_body={"nobody_knows": 1}).choices, "unknown fields are to be let through"


@check(PART)
def messages(c):
    """Lists of messages that make no conversation are refused."""
    user = {"role": "user", "content": "say 1"}
    lists = [[], [{}], [{"role": "user"}], [{"content": "x"}], [{"role": "user", "content": 5}], ["x"], "x", [user, None],
             [{"role": "nobody", "content": "x"}]]  # fmt: skip
    for wrong in lists:
        call = lambda: c.client.chat.completions.create(model="chat", messages=wrong, max_tokens=2)
        error = refused(openai.BadRequestError, call)
        assert error.param and error.param.startswith("messages"), f"{wrong}: {error}"
    parts = [{"role": "user", "content": [{"type": "text", "text": "say 12"}]}]
    answer = c.client.chat.completions.create(model="chat", messages=parts, max_tokens=20, seed=1)
    same(answer.choices[0].message.content, c.talk().choices[0].message.content)


@check(PART)
def not_found(c):
    """A model that is not there is NotFoundError, in every call."""
    for call in (lambda: c.write(model="none"), lambda: c.talk(model="none"), lambda: c.client.models.retrieve("none")):
        refused(openai.NotFoundError, call, code="model_not_found")


@check(PART)
def tokens(c):
    """With a token in a file, other keys are AuthenticationError."""
    file = c.runs.parent / "token"
    file.write_text("a-token-of-some-length-0123456789\n")
    with Server(c.kinglet, c.runs, options=["--token-file", file], token=file.read_text().strip()) as server:
        assert client_of(server).completions.create(model="text", prompt="a", max_tokens=2).choices
        wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
        refused(openai.AuthenticationError, wrong.models.list)


@check(PART)
def busy(c):
    """A full queue is RateLimitError; a client that retries gets its text once there is room."""
    with c.few("--parallel", 1, "--queue", 31) as server:
        # Two times 16 texts fill it, until the time of these clients is up.
        fill = lambda: client_of(server, timeout=2).completions.create(model="text", prompt="a", max_tokens=32_000, n=16)
        threads = [threading.Thread(target=refused, args=(openai.APITimeoutError, fill)) for _ in range(2)]
        for thread in threads:
            thread.start()
        server.wait_until(lambda: server.open_texts() == 32, 2, "it is full")
        call = lambda client: client.completions.with_raw_response.create(model="text", prompt="a", max_tokens=5)
        error = refused(openai.RateLimitError, lambda: call(client_of(server)))
        assert int(error.response.headers["retry-after"]) >= 1
        answer = call(client_of(server, max_retries=8))
        assert answer.retries_taken >= 1 and answer.parse().choices[0].text
        for thread in threads:
            thread.join()


@check(PART)
def aborts(c):
    """Leaving a stream ends the text, and is counted."""
    before = c.server.metric(CANCELLED)
    with c.write(stream=True, max_tokens=60_000) as stream:
        for _ in zip(range(3), stream):
            pass
        assert c.server.open_texts() == 1
    begun = time.monotonic()
    c.server.wait_until(c.server.is_idle, 1, "nothing is written any more")
    c.server.wait_until(lambda: c.server.metric(CANCELLED) == before + 1, 1, "it is counted")
    assert time.monotonic() - begun < 1


@check(PART)
def timeouts(c):
    """A client whose time is up frees the text that it waited for."""
    before = c.server.metric(CANCELLED)
    refused(openai.APITimeoutError, lambda: c.client.with_options(timeout=0.3).completions.create(model="text", prompt="a", max_tokens=65_000))
    c.server.wait_until(c.server.is_idle, 1, "nothing is written any more")
    same(c.server.metric(CANCELLED), before + 1)


@check(PART)
def at_once(c):
    """48 requests at once, more than are written at once, have the texts that they have alone."""

    async def all_of_them():
        client = openai.AsyncOpenAI(base_url=f"{c.server.url}/v1", api_key="none")
        ask = lambda seed: client.completions.create(model="text", prompt=PROMPT, seed=seed, max_tokens=20 + seed)
        return [answer.choices[0].text for answer in await asyncio.gather(*map(ask, range(48)))]

    together = asyncio.run(all_of_them())
    same(together, [c.write(seed=seed, max_tokens=20 + seed).choices[0].text for seed in range(48)])


@check(PART)
def long_texts(c):
    """A text goes on past the block, and a prompt may be longer than it."""
    same(len(c.write(max_tokens=200).choices[0].text), 200)
    long = PROMPT * 40
    same(c.write(long).choices[0].text, c.write(long[-200:]).choices[0].text)

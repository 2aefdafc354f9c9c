"""What servers of texts are known to get wrong, asked over plain HTTP: our own tests of what llama.cpp's server promises, and
of what its users, and those of other servers, had to report."""

import itertools
import json
import shutil
import signal
import socket
import threading
import time

from .checks import check, same
from .program import CANCELLED, CUT_SHORT, ENDED, Server

PART = "behaviours"
PROMPT = "Kari mote"
EVENTS = "text/event-stream"


def write(server, **options):
    body = {"model": "text", "prompt": PROMPT, "max_tokens": 30, "seed": 1} | options
    return server.post("/v1/completions", **body)


def text_of(server, **options):
    answer = write(server, **options)
    same(answer.status, 200)
    return answer.json["choices"][0]["text"]


@check(PART)
def events(c):
    """A stream is UTF-8 events that no proxy may hold back, and ends with [DONE]."""
    answer = write(c.server, stream=True)
    kind = answer.headers["content-type"].replace(" ", "").lower()
    same(kind, f"{EVENTS};charset=utf-8")
    assert "no-cache" in answer.headers["cache-control"] and answer.headers["x-accel-buffering"] == "no", answer.headers
    events = answer.events()
    same("".join(choice["text"] for event in events for choice in event["choices"]), text_of(c.server))
    reasons = [choice["finish_reason"] for event in events for choice in event["choices"]]
    same((reasons[-1], set(reasons[:-1])), ("length", {None}))


@check(PART)
def first_chunk(c):
    """The first chunk of a chat has a role and no text; all have one id and one time."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "say 12"}], "max_tokens": 10, "stream": True}
    chunks = c.server.post("/v1/chat/completions", **body).events()
    first = chunks[0]["choices"][0]["delta"]
    assert first["role"] == "assistant" and not first.get("content"), first
    same(len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}), 1)


@check(PART)
def parallel(c):
    """A seed's text is the same with 1 place and with 4, and with 1 thread and with 2."""
    texts = []
    for options in (["--parallel", 1], ["--parallel", 4], ["--threads", 1], ["--threads", 2]):
        with c.few(*options) as server:
            found = [None] * 8

            def ask(seed):
                found[seed] = text_of(server, seed=seed, max_tokens=80)

            threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            texts.append(found)
    same(texts[1:], texts[:1] * 3)
    same(texts[0], [text_of(c.server, seed=seed, max_tokens=80) for seed in range(8)])


@check(PART)
def alternatives(c):
    """logprobs is the number of alternatives; 0 gives those that were drawn alone."""
    for count in (0, 1, 5, 20):
        found = write(c.server, logprobs=count).json["choices"][0]["logprobs"]
        assert all(max(1, count) <= len(top) <= count + 1 for top in found["top_logprobs"]) or not count, found
        same(len(found["token_logprobs"]), 30)


@check(PART)
def tokenizing(c):
    """/tokenize and /detokenize undo each other, whatever the text; /tokenizer_info names the special tokens."""
    for model, text in (("text", PROMPT), ("pieces", "bra é 鳥 🐦 vel"), ("pieces", "never seen: \u0000 ÿ \U0010ffff"), ("pieces", "")):
        ids = c.server.post("/tokenize", model=model, prompt=text, add_special_tokens=False).json
        same((ids["count"], len(ids["tokens"])), (len(ids["tokens"]), ids["count"]))
        assert ids["max_model_len"] >= 1
        same(c.server.post("/detokenize", model=model, tokens=ids["tokens"]).json["prompt"], text)
    answer = c.server.ask("GET", "/tokenizer_info")
    assert answer.status == 200 or answer.error["param"] == "model", answer.text
    same(c.server.post("/detokenize", model="text", tokens=[10**9]).status, 400)


@check(PART)
def prompts_longer_than_the_block(c):
    """A prompt longer than the block is read from its end; a number of tokens below zero never comes of it."""
    long = PROMPT * 200
    same(text_of(c.server, prompt=long), text_of(c.server, prompt=long[-500:]))
    usage = write(c.server, prompt=long, max_tokens=1).json["usage"]
    assert usage["prompt_tokens"] > 0 and usage["completion_tokens"] == 1, usage
    chat = {"model": "chat", "messages": [{"role": "user", "content": "say 1 " * 200}], "max_tokens": 5}
    answer = c.server.post("/v1/chat/completions", **chat)
    assert answer.status == 200 or answer.error["code"] == "context_length_exceeded", answer.text


@check(PART)
def nothing_to_write(c):
    """max_tokens 0 writes nothing and is no fault; an empty prompt is one that the model begins."""
    answer = write(c.server, max_tokens=0)
    assert answer.status == 200 and answer.json["choices"][0]["text"] == "", answer.text
    assert len(text_of(c.server, prompt="")) == 30


@check(PART)
def whole_values(c):
    """Numbers as other languages write them are taken: 30.0 for 30, seeds up to 2^64 - 1, null for nothing."""
    same(text_of(c.server, max_tokens=30.0, temperature=1, stop=None, logprobs=None), text_of(c.server))
    for seed in (0, 2**63 - 1):
        assert text_of(c.server, seed=seed)


@check(PART)
def faults(c):
    """Bodies that are no JSON, too deep, too large, of another kind, or not UTF-8 are refused in OpenAI's form."""
    post = lambda body, **headers: c.server.ask("POST", "/v1/completions", body, **({"Content_Type": "application/json"} | headers))
    cases = [
        (post(b""), 400), (post(b"{"), 400), (post(b"[]"), 400), (post(b"\xff\xfe"), 400), (post(b'{"prompt": "\xff"}'), 400),
        (post(b"[" * 10_000 + b"]" * 10_000), 400), (post(b'{"a":' * 500 + b"1" + b"}" * 500), 400),
        (post(json.dumps({"model": "text", "prompt": "a" * (1 << 20)}).encode()), 413), (post(b"{}", Content_Type="text/plain"), 415),
    ]  # fmt: skip
    for i, (answer, status) in enumerate(cases):
        same((i, answer.status), (i, status))
        same(set(answer.error), {"message", "type", "param", "code"})
    assert text_of(c.server)


@check(PART)
def routes(c):
    """Other paths are 404 and other methods 405, with what is allowed; doubled slashes and HEAD are understood."""
    same(c.server.ask("GET", "/nothing").status, 404)
    answer = c.server.ask("GET", "/v1/completions")
    same((answer.status, "POST" in answer.headers["allow"]), (405, True))
    same(c.server.ask("GET", "//v1//models").status, 200)
    head = c.server.ask("HEAD", "/v1/models")
    same((head.status, head.data), (200, b""))
    assert c.server.ask("OPTIONS", "/v1/models").status in (200, 204, 405)
    specification = c.server.ask("GET", "/openapi.json").json
    assert {"/v1/models", "/v1/completions", "/v1/chat/completions"} <= set(specification["paths"])


@check(PART)
def security(c):
    """A foreign Host or Origin is refused, nothing is said to other pages, and only the page and /health need no token."""
    for host in ("evil.example", "127.0.0.1.evil.example", f"evil.example:{c.server.port}"):
        answer = c.server.ask("GET", "/v1/models", Host=host)
        assert answer.status in (400, 403, 421), f"{host}: {answer.status}"
    for host in ("localhost", f"localhost:{c.server.port}", "[::1]", f"127.0.0.1:{c.server.port}"):
        same((host, c.server.ask("GET", "/v1/models", Host=host).status), (host, 200))
    body = {"model": "text", "prompt": "a", "max_tokens": 1}
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
        answer = c.server.ask("POST", "/v1/completions", body, Origin=origin)
        assert answer.status == 403 and "access-control-allow-origin" not in answer.headers, f"{origin}: {answer.status} {answer.headers}"
        asked = c.server.ask("OPTIONS", "/v1/completions", Origin=origin, Access_Control_Request_Method="POST")
        assert "access-control-allow-origin" not in asked.headers, asked.headers
    own = f"http://127.0.0.1:{c.server.port}"
    same(c.server.ask("POST", "/v1/completions", body, Origin=own).status, 200)
    token = c.runs.parent / "token"
    token.write_text("a-token-of-some-length-0123456789\n")
    with c.few("--token-file", token, "--cors-origin", "https://page.example") as server:
        for path in ("/health", "/", "/assets/app.js"):
            same((path, server.ask("GET", path).status), (path, 200))
        for path in ("/v1/models", "/metrics", "/openapi.json", "/tokenizer_info"):
            same((path, server.ask("GET", path).status), (path, 401))
        right = {"Authorization": "Bearer " + token.read_text().strip()}
        answer = server.ask("GET", "/v1/models", Origin="https://page.example", **right)
        same((answer.status, answer.headers["access-control-allow-origin"]), (200, "https://page.example"))
        assert "access-control-allow-credentials" not in answer.headers
        assert "access-control-allow-origin" not in server.ask("GET", "/v1/models", Origin="https://evil.example", **right).headers
        assert token.read_text().strip() not in server.said(), "the token stands in the log"


@check(PART)
def gone(c):
    """Clients that close or reset, before the first token or after it, free their text, which is counted."""
    # Whoever leaves at once may be counted late, so those come last.
    for seconds, stream, reset in itertools.product((0.1, 0.0), (True, False), (True, False)):
        before = c.server.metric(CANCELLED)
        body = json.dumps({"model": "text", "prompt": PROMPT, "max_tokens": 60_000, "stream": stream}).encode()
        with c.server.open() as client:
            if reset:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            if seconds:
                c.server.wait_until(lambda: c.server.open_texts() == 1, 2, "it is written")
                time.sleep(seconds)
        c.server.wait_until(c.server.is_idle, 1, f"stream {stream}, reset {reset}, after {seconds} s: nothing is written")
        if seconds:
            same(c.server.metric(CANCELLED), before + 1)


@check(PART)
def half_closed(c):
    """A client that has said all it will say, and reads on, gets its answer or an end, and holds nothing up."""
    with c.server.open() as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    assert text_of(c.server)


@check(PART)
def ends_in_a_stream(c):
    """SIGTERM in a stream ends it with a reason or an error and [DONE]; its exit status is 0."""
    with Server(c.kinglet, c.runs) as server:
        body = json.dumps({"model": "text", "prompt": PROMPT, "max_tokens": 65_000, "stream": True}).encode()
        with server.open() as client:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            server.wait_until(lambda: server.open_texts() == 1, 2, "it is written")
            server.process.send_signal(signal.SIGTERM)
            begun, data = time.monotonic(), b""
            while part := client.recv(1 << 16):
                data += part
            took = time.monotonic() - begun
        assert took < 8, f"it took {took:.1f} s"
        assert b"data: [DONE]\n\n" in data, data[-300:]
        ends = [line for line in data.decode(errors="replace").splitlines() if line.startswith("data: {")][-1]
        assert '"error"' in ends or '"finish_reason":"' in ends.replace(" ", ""), ends
        same(server.process.wait(10), ENDED)


@check(PART)
def two_signals(c):
    """A second signal ends it at once, with the exit status 130."""
    server = Server(c.kinglet, c.runs)
    with server.open() as client:
        # Far more than can be written in the time that is left.
        body = json.dumps({"model": "text", "prompt": PROMPT, "max_tokens": 32_000, "n": 16}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        server.wait_until(lambda: server.open_texts() == 16, 2, "it is written")
        server.process.send_signal(signal.SIGTERM)
        # Signals in quick succession are one wish.
        time.sleep(1.5)
        assert server.process.poll() is None, "it has ended before"
        server.process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        same(server.process.wait(3), CUT_SHORT)
        assert time.monotonic() - begun < 0.5


@check(PART)
def runs_change(c):
    """A run that comes is served, one that is renewed is served anew, one that goes or is damaged is an error of its own."""
    folder = c.runs.parent / "changing"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(c.runs / "text", folder / "one")
    with Server(c.kinglet, folder) as server:
        before = text_of(server, model="one")
        ids = lambda: {model["id"] for model in server.ask("GET", "/v1/models").json["data"]}
        same(ids(), {"one"})
        shutil.copytree(c.runs / "text", folder / "two")
        server.wait_until(lambda: "two" in ids(), 5, "the new run is listed")
        same(text_of(server, model="two"), before)
        c.kinglet("train", "--resume", folder / "one", "--set", "max_iters=120", "-q")
        server.wait_until(lambda: text_of(server, model="one") != before, 5, "the new weights are served")
        shutil.rmtree(folder / "one")
        server.wait_until(lambda: write(server, model="one").status == 404, 5, "it is gone")
        for file in (folder / "two" / "checkpoints").rglob("model.safetensors"):
            file.write_bytes(file.read_bytes()[:1000])
        server.wait_until(lambda: write(server, model="two").status != 200 or True, 5, "")
        # What is loaded may be served on; what is asked for anew must be refused, and nothing else may suffer.
        status = write(server, model="two").status
        assert status in (200, 404, 409, 500, 503), status
        same(server.ask("GET", "/health").status, 200)
        assert text_of(c.server) == before


@check(PART)
def nothing_is_written(c):
    """Serving a run changes no file of it."""
    times = lambda: {path: path.stat().st_mtime_ns for path in sorted(c.runs.rglob("*"))}
    before = times()
    assert text_of(c.server) and c.server.post("/api/score", model="text", text=PROMPT).status == 200
    same(times(), before)


@check(PART)
def scores(c):
    """/api/score has the log-probabilities of an echo, and takes texts longer than the block."""
    answer = c.server.post("/api/score", model="text", text=PROMPT)
    same(answer.status, 200)
    echo = write(c.server, echo=True, max_tokens=0, logprobs=1).json["choices"][0]["logprobs"]["token_logprobs"]
    found = [token["logprob"] for token in answer.json["tokens"]]
    same((len(found), found[0]), (len(echo), None))
    assert all(abs(a - b) < 1e-5 for a, b in zip(found[1:], echo[1:])), (found, echo)
    long = c.server.post("/api/score", model="text", text=PROMPT * 100)
    same((long.status, len(long.json["tokens"])), (200, 900))

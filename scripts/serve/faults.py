"""Everything that clients do wrong, at random, for minutes, while others are served as if nothing were."""

import json
import random
import shutil
import socket
import sys
import threading
import time

from .program import ENDED, Server

PART = "faults"
IDLE, WORKING, FAULTY = 1000, 32, 8
MIB = 1 << 20
RESET = b"\x01\0\0\0\0\0\0\0"


def check(c, report, minutes):
    folder = c.runs.parent / "faulty"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(c.runs, folder)
    with Server(c.kinglet, folder) as server:
        siege = Siege(c, server, folder)
        siege.answers = {question: siege.ask(question) for question in siege.questions}
        # What is made at the first need is there before anything is counted.
        siege.run(seconds=5, faults=False)
        server.wait_until(server.is_idle, 10, "idle")
        time.sleep(1)
        before = server.memory(), server.threads(), server.descriptors()
        siege.run(seconds=60 * minutes, faults=True)
        server.wait_until(server.is_idle, 40, "idle")
        settle(server, before)
        grown, threads, descriptors = (now - then for now, then in zip((server.memory(), server.threads(), server.descriptors()), before))
        what = f"{minutes:g} minutes, {IDLE} idle connections, {siege.right} good requests among {sum(siege.counts.values())} faults"
        report.equal(PART, f"{what}: good requests answered wrongly", siege.wrong[:3], [])
        report.equal(PART, "faults that were answered as if they were none", siege.taken[:3], [])
        report.most(PART, "memory grew by, MiB", grown / MIB, 20.0)
        report.most(PART, "threads left", threads, 0)
        report.most(PART, "descriptors left", descriptors, 0)
        report.holds(PART, "nothing panicked", "panicked" not in server.said(), server.said()[-500:] if "panicked" in server.said() else "")
        report.equal(PART, "texts afterwards", {question: siege.ask(question) for question in siege.questions}, siege.answers)
    report.equal(PART, "exit status on SIGTERM", server.process.returncode, ENDED)


def settle(server, before):
    """Connections and idle threads end a while after their last use."""
    until = time.monotonic() + 30
    while (server.threads() > before[1] or server.descriptors() > before[2]) and time.monotonic() < until:
        time.sleep(0.2)


class Siege:
    def __init__(self, c, server, folder):
        self.c, self.server, self.folder = c, server, folder
        self.questions = [("text", "Kari mote", seed, stream) for seed in range(8) for stream in (False, True)]
        self.questions += [("pieces", "bra é", seed, stream) for seed in range(4) for stream in (False, True)]
        self.answers, self.wrong, self.taken, self.right, self.counts = {}, [], [], 0, {}
        self.over = threading.Event()

    def run(self, seconds, faults):
        self.over.clear()
        threads = [threading.Thread(target=self.work, args=(seed,)) for seed in range(WORKING)]
        threads += [threading.Thread(target=self.idle)]
        if faults:
            threads += [threading.Thread(target=self.harm, args=(seed,)) for seed in range(FAULTY)]
            threads += [threading.Thread(target=self.change)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(10, max(0, until - time.monotonic())))
            print(f"{self.server.memory() / MIB:.1f} MiB, {self.right} good requests", file=sys.stderr, flush=True)
        self.over.set()
        for thread in threads:
            thread.join()

    def ask(self, question):
        model, prompt, seed, stream = question
        body = {"model": model, "prompt": prompt, "seed": seed, "max_tokens": 40 + seed, "stream": stream}
        answer = self.server.post("/v1/completions", **body)
        assert answer.status == 200, f"{answer.status}: {answer.text[:300]}"
        choices = [choice for event in answer.events() for choice in event["choices"]] if stream else answer.json["choices"]
        return "".join(choice["text"] for choice in choices)

    # ---- those who behave

    def work(self, seed):
        rng = random.Random(seed)
        while not self.over.is_set():
            question = rng.choice(self.questions)
            try:
                found = self.ask(question)
                if found != self.answers[question]:
                    self.wrong.append(f"{question}: {found!r}")
                self.right += 1
            except Exception as error:
                self.wrong.append(f"{question}: {type(error).__name__}: {error}")

    def idle(self):
        """Connections without a request; what the server closes is opened again."""
        held = []
        while not self.over.wait(0.5):
            kept = []
            for client in held:
                try:
                    client.setblocking(False)
                    if client.recv(1, socket.MSG_PEEK) == b"":
                        client.close()
                        continue
                except BlockingIOError:
                    pass
                except OSError:
                    client.close()
                    continue
                kept.append(client)
            held = kept
            try:
                held += [self.server.open() for _ in range(IDLE - len(held))]
            except OSError as error:
                self.wrong.append(f"an idle connection: {error}")
        for client in held:
            client.close()

    # ---- those who do not

    def harm(self, seed):
        rng = random.Random(100 + seed)
        kinds = [getattr(self, name) for name in dir(self) if name.startswith("fault_")]
        while not self.over.is_set():
            fault = rng.choice(kinds)
            self.counts[fault.__name__] = self.counts.get(fault.__name__, 0) + 1
            try:
                with self.server.open() as client:
                    client.settimeout(15)
                    fault(client, rng)
            except OSError:
                # The server has closed it, as it should.
                pass
            except AssertionError as error:
                self.taken.append(f"{fault.__name__}: {error}")

    def post(self, client, body, *headers, host="localhost", path="/v1/completions"):
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
        client.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def long(self, **options):
        body = {"model": "text", "prompt": "Kari", "max_tokens": 3000, "stream": True} | options
        return json.dumps(body).encode()

    def status(self, client):
        """The status of the first answer; 0 if there is none."""
        data = b""
        while b"\r\n" not in data:
            part = client.recv(4096)
            if not part:
                return 0
            data += part
        return int(data.split()[1])

    def everything(self, client):
        data = b""
        while part := client.recv(1 << 16):
            data += part
        return data

    def fault_slow_headers(self, client, rng):
        for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 60:
            if self.over.is_set():
                break
            client.sendall(bytes([byte]))
            time.sleep(rng.choice([0.001, 0.2]))

    def fault_slow_body(self, client, rng):
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n")
        for _ in range(10):
            client.sendall(b" ")
            time.sleep(0.1)

    def fault_large_header(self, client, rng):
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Large: " + b"a" * rng.choice([100_000, 2_000_000]) + b"\r\n\r\n")
        assert self.status(client) in (0, 400, 413, 431), "it was taken"

    def fault_many_headers(self, client, rng):
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n")
        assert self.status(client) in (0, 400, 413, 431), "they were taken"

    def fault_large_body(self, client, rng):
        self.post(client, b'{"prompt": "' + b"a" * (3 * MIB) + b'"}')
        assert self.status(client) in (0, 413), "it was taken"

    def fault_large_promise(self, client, rng):
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n")
        assert self.status(client) in (0, 400, 413), "it was believed"

    def fault_endless_chunks(self, client, rng):
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(40):
            client.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert self.status(client) in (0, 413), "they were taken"

    def fault_malformed_body(self, client, rng):
        bodies = [b"{", b"\xff\xff", b"\0" * 100, b"[" * 50_000, b'{"a":' * 10_000, b"nul", b'{"model": "text"', b"[]", b'"x"', b'{"prompt": 1e999}',
                  b'{"model":"text","prompt":"\\ud800"}', b'{"model":"text","prompt":{"a":[]}}', rng.randbytes(300)]  # fmt: skip
        self.post(client, rng.choice(bodies))
        status = self.status(client)
        assert status in (400, 404, 422), f"status {status}"

    def fault_wrong_values(self, client, rng):
        key, value = rng.choice([("max_tokens", -1), ("n", 10**9), ("temperature", "hot"), ("prompt", [-1]), ("model", "../../etc/passwd"),
                                 ("model", "a" * 10_000), ("stop", [""] * 9), ("logprobs", 10**6), ("seed", 1.5), ("logit_bias", {"x": "y"})])  # fmt: skip
        self.post(client, self.long(**{key: value}))
        status = self.status(client)
        assert status in (400, 404, 422), f"{key}: status {status}"

    def fault_no_http(self, client, rng):
        noise = [b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + rng.randbytes(200), rng.randbytes(500), b"\r\n" * 500, b"GET\r\n\r\n", b"SSH-2.0-x\r\n",
                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n"]  # fmt: skip
        client.sendall(rng.choice(noise))
        client.shutdown(socket.SHUT_WR)
        assert b"HTTP/1.1 200" not in self.everything(client), "it was taken"

    def fault_smuggling(self, client, rng):
        """Two lengths that disagree: at most one answer, and never one to what is hidden in the body."""
        hidden = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        pairs = [
            f"Content-Length: {len(hidden) + 5}\r\nTransfer-Encoding: chunked", f"Content-Length: 0\r\nContent-Length: {len(hidden)}",
            f"Content-Length: {len(hidden)}, 0", "Transfer-Encoding: chunked, identity", "Transfer-Encoding: xchunked",
            f"Content-Length: +{len(hidden)}", f"Content-Length: 0x{len(hidden):x}", "Transfer-Encoding : chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", f" Content-Length: {len(hidden)}",
        ]  # fmt: skip
        pair = rng.choice(pairs)
        client.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{pair}\r\n\r\n".encode() + b"0\r\n\r\n" + hidden)
        client.shutdown(socket.SHUT_WR)
        answers = self.everything(client)
        assert b'"object":"list"' not in answers.replace(b" ", b""), f"{pair}: what was hidden was answered"

    def fault_foreign_host(self, client, rng):
        host = rng.choice(["evil.example", "127.0.0.1.evil.example", "localhost@evil.example", "", "a b", "evil.example\r\nHost: localhost"])
        self.post(client, self.long(), host=host)
        status = self.status(client)
        assert status in (0, 400, 403, 421), f"{host!r}: status {status}"

    def fault_foreign_origin(self, client, rng):
        self.post(client, self.long(), f"Origin: {rng.choice(['https://evil.example', 'null', 'http://localhost.evil.example'])}")
        status = self.status(client)
        assert status == 403, f"status {status}"

    def fault_form(self, client, rng):
        body = self.long()
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        status = self.status(client)
        assert status == 415, f"status {status}"

    def fault_leaves(self, client, rng):
        """Goes before, in or after the first token; politely or not."""
        self.post(client, self.long(stream=rng.random() < 0.7, n=rng.choice([1, 3]), prompt="Kari " * rng.choice([1, 500])))
        if rng.random() < 0.5:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        time.sleep(rng.choice([0, 0.001, 0.02, 0.2]))
        if rng.random() < 0.5:
            client.recv(rng.choice([1, 1000]))

    def fault_leaves_in_the_request(self, client, rng):
        request = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 200\r\n\r\n" + self.long()
        client.sendall(request[: rng.randrange(len(request) - 1)])

    def fault_does_not_read(self, client, rng):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self.post(client, self.long(max_tokens=60_000, n=2))
        self.over.wait(rng.random() * 5)

    def fault_half_closes(self, client, rng):
        self.post(client, self.long(max_tokens=50))
        client.shutdown(socket.SHUT_WR)
        self.everything(client)

    def fault_pipelines(self, client, rng):
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
        if rng.random() < 0.5:
            client.recv(100)

    def fault_old_http(self, client, rng):
        client.sendall(b"GET /v1/models HTTP/1.0\r\n\r\n")
        self.everything(client)

    # ---- runs

    def change(self):
        """A run that comes, is damaged, is renewed, and goes, and is asked for all the while."""
        rng, run = random.Random(5), self.folder / "changing"
        while not self.over.wait(0.3):
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(self.folder / rng.choice(["text", "chat"]), run)
            for _ in range(rng.randint(1, 4)):
                try:
                    answer = self.server.post("/v1/completions", model="changing", prompt="a", max_tokens=200)
                    if answer.status not in (200, 400, 404, 409, 500, 503):
                        self.taken.append(f"a changing run: {answer.status} {answer.text[:200]}")
                except OSError as error:
                    self.wrong.append(f"a changing run: {error}")
                files = [path for path in run.rglob("*") if path.is_file()]
                file = rng.choice(files)
                way = rng.randrange(4)
                if way == 0:
                    file.unlink()
                elif way == 1:
                    file.write_bytes(file.read_bytes()[: rng.randrange(1 + file.stat().st_size)])
                elif way == 2:
                    file.write_bytes(rng.randbytes(200))
                else:
                    shutil.rmtree(run, ignore_errors=True)
                    break
                self.over.wait(rng.random() * 3)
        shutil.rmtree(run, ignore_errors=True)

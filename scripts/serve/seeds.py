"""A seed is one text: on the command line, by the API, streamed or not, alone or among 31 others."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

PART = "seeds"


def check(c, report, count):
    """`count` requests of random knobs, in f32 and in bf16, each asked for in five ways."""
    for precision in ("f32", "bf16"):
        run = c.runs.parent / "precise" / precision
        if not run.exists():
            c.kinglet.train(run, c.runs.parent / "text.txt", "--tokenizer", "char", position="rotary", precision=precision)
    from .program import Server

    with Server(c.kinglet, c.runs.parent / "precise") as server:
        for precision in ("f32", "bf16"):
            compare(c, server, report, precision, count)


def requests(count):
    rng = random.Random(1)
    for seed in range(count):
        knobs = {"temperature": rng.choice([0.5, 1.0, 1.3]), "top_k": rng.choice([0, 0, 5]), "top_p": rng.choice([1.0, 0.9]),
                 "min_p": rng.choice([0.0, 0.05]), "repetition_penalty": rng.choice([1.0, 1.2])}  # fmt: skip
        prompt = "".join(rng.choices("abdeiklmnorstuvw ", k=rng.randint(1, 90)))
        yield {"prompt": prompt, "seed": seed, "max_tokens": rng.randint(1, 150), **knobs}


def compare(c, server, report, model, count):
    asked = list(requests(count))
    alone = [written(server, model, request, seed % 2) for seed, request in enumerate(asked)]
    other = [written(server, model, request, 1 - seed % 2) for seed, request in enumerate(asked)]
    report.equal(PART, f"{model}: {count} texts, streamed and not streamed", other, alone)
    command_line = [sampled(c, server, model, request) for request in asked]
    report.equal(PART, f"{model}: {count} texts of the command line and of the API", command_line, alone)
    report.equal(PART, f"{model}: {count} texts alone and among 31 others that come and go", among_others(server, model, asked), alone)


def written(server, model, request, stream):
    answer = server.post("/v1/completions", model=model, stream=bool(stream), **request)
    assert answer.status == 200, answer.text
    if stream:
        return "".join(choice["text"] for event in answer.events() for choice in event["choices"])
    return answer.json["choices"][0]["text"]


def sampled(c, server, model, request):
    options = [part for key, value in request.items() if key not in ("prompt", "max_tokens") for part in (f"--{key.replace('_', '-')}", value)]
    run = c.runs.parent / "precise" / model
    line = c.kinglet.sample(run, f"--prompt={request['prompt']}", "-n", request["max_tokens"], "--checkpoint", "last", *options)[-1]
    return line["text"].removeprefix(request["prompt"])


def among_others(server, model, asked):
    """31 others arrive at random, stop at random, and want other things."""
    over = threading.Event()

    def noise(seed):
        rng = random.Random(1000 + seed)
        while not over.is_set():
            body = {"prompt": "ka" * rng.randint(1, 60), "max_tokens": rng.randint(1, 200), "seed": rng.randint(0, 9), "temperature": rng.choice([0, 1])}
            written(server, rng.choice(["f32", "bf16"]), body, rng.random() < 0.5)
            time.sleep(rng.random() * 0.005)

    with ThreadPoolExecutor(32) as pool:
        others = [pool.submit(noise, seed) for seed in range(31)]
        try:
            found = [written(server, model, request, seed % 2) for seed, request in enumerate(asked)]
        finally:
            over.set()
        for other in others:
            other.result()
    return found

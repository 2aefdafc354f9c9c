"""Makes the work of examples shorter, without changing what they ask for: the words of the command, and the calls of the Python module.

Steps are divided by 500, estimates are of two batches; budgets, measurements and reproductions are the shortest there are. This file
imports nothing that is not Python's own, so that any Python can run it: `runpy.run_path("scripts/shorter.py")["shorten"]()`.
"""

import functools
import re

SHORTER = 500
STEPS = ("max_iters", "eval_interval", "warmup_iters", "lr_decay_iters")


def steps(number):
    return max(1, int(number) // SHORTER)


# ---- the command

def words(args):
    """The words of the command `kinglet`, with less work."""
    if "--help" in args or "-h" in args or not args:
        return args
    args = [re.sub(r"@(\d+)$", lambda step: f"@{steps(step[1])}", arg) for arg in args]
    for i, arg in enumerate(args[:-1]):
        if arg == "--checkpoint" and args[i + 1].isdigit():
            args[i + 1] = str(steps(args[i + 1]))
        if arg == "--set":
            key, _, value = args[i + 1].partition("=")
            if key in STEPS and value.isdigit():
                args[i + 1] = f"{key}={steps(value)}"
    command = next((arg for arg in args if not arg.startswith("-")), "")
    given = {arg.partition("=")[0] for option, arg in zip(args, args[1:]) if option == "--set"}

    def put(key, value):
        if key not in given:
            args.extend(["--set", f"{key}={value}"])

    if command in ("train", "finetune"):
        resumes = "--resume" in args
        # What 5000 steps of a training and 1000 of a fine-tuning, the usual numbers, come to.
        iters = 10 if command == "train" else 2
        for key, value in dict(max_iters=iters, eval_interval=1, eval_iters=2, log_interval=1).items():
            # A run goes on to where it was to end, unless told otherwise.
            if not (resumes and key == "max_iters"):
                put(key, value)
    if command == "tune":
        replace(args, "--budget", "60s")
        replace(args, "--trials", "3")
        if "--resume" not in args:
            put("max_iters", 20)
    if command == "sweep" and "--resume" not in args:
        given |= {arg.partition("=")[0] for option, arg in zip(args, args[1:]) if option == "--grid"}
        for key, value in dict(max_iters=10, eval_interval=5, eval_iters=2).items():
            put(key, value)
    if command in ("plan", "bench"):
        replace(args, "--seconds", "0")
    if command == "bench" and "--profile" not in args and "--quick" not in args:
        args.append("--quick")
    if command == "reproduce":
        args.extend(option for option in ("--quick",) if option not in args)
        if "--preset" not in args:
            args.extend(["--preset", "big-0.2m"])
        replace(args, "--seeds", "1")
    if command == "speedrun":
        args.extend(option for option in ("--quick",) if option not in args)
        replace(args, "--seeds", "1")
    if command in ("rm", "prune") and not {"-y", "--yes"} & set(args):
        args.append("--yes")
    return args


def replace(args, option, value):
    """Gives an option another value, wherever it stands."""
    if option in args:
        args[args.index(option) + 1] = value
    else:
        args.extend([option, value])


# ---- the Python module

def settings(call, given):
    """The keyword arguments of a call of the module, with less work."""
    given = {key: steps(value) if key in STEPS and isinstance(value, int) else value for key, value in given.items()}
    if isinstance(given.get("checkpoint"), int):
        given["checkpoint"] = steps(given["checkpoint"])
    less = {}
    if call in ("train", "finetune"):
        less = dict(max_iters=10 if call == "train" else 2, eval_interval=1, eval_iters=2, log_interval=1)
    if call == "tune":
        less = dict(max_iters=20)
        given |= dict(minutes=1, trials=3)
    return less | given


def shorten():
    """Makes the calls of the module `kinglet` of this process shorter."""
    import kinglet

    def replaced(name, change):
        call = getattr(kinglet, name)

        @functools.wraps(call)
        def shorter(*args, **given):
            args, given = change(args, given)
            return call(*args, **given)

        setattr(kinglet, name, shorter)

    for name in ("train", "finetune", "resume", "tune", "load", "evaluate"):
        replaced(name, lambda args, given, name=name: (args, settings(name, given)))
    replaced("command", lambda args, given: (words([str(arg) for arg in args]), given))

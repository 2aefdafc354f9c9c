"""How the cost of a training step grows: big-0.2m with one thing changed at a time, by `kinglet bench`.

    cargo build --release
    python3 scripts/growth.py
"""

import json
import subprocess
from pathlib import Path

KINGLET = Path(__file__).resolve().parent.parent / "target/release/kinglet"
CHANGES = {
    "threads": [1, 2],
    "batch_size": [1, 4, 16, 64, 256],
    "block_size": [16, 32, 64, 256, 1024],
    "n_embd": [64, 128, 256, 512, 1024],
}


def bench(key, value):
    change = ["--threads", str(value)] if key == "threads" else ["--set", f"{key}={value}"]
    command = [KINGLET, "bench", "--quick", "--profile", "--seconds", "1", "--json", *change]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


print("| changed | ms a step | us a token | GFLOP/s | of peak | outside GEMM | first | second |")
print("|---|---|---|---|---|---|---|---|")
for key, values in CHANGES.items():
    for value in values:
        d = bench(key, value)
        tops = [f"{row['op']} {100 * row['share']:.0f} %" for row in d["profile"][:2]]
        ms, tokens = d["ms_per_step"], d["tokens_per_s"]
        outside = f"{100 * d['parts']['outside_gemm']:.0f} %"
        print(
            f"| {key} {value} | {ms:.2f} | {1e6 / tokens:.1f} | {d['gflops']:.0f} | {100 * d['fraction_of_peak']:.0f} % "
            f"| {outside} | {tops[0]} | {tops[1]} |"
        )

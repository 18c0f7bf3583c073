# SPDX-License-Identifier: Apache-2.0
"""Runs the programs of the report, and writes what they print to docs/report/*.csv."""

import collections
import datetime
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

import data

IMAGE_SESSION = ["examples/image_cache/image_cache", "--csv=1", "--in_turns=1"]
HIT_RATIO = "benchmarks/hit_ratio/hit_ratio"
SHARES = ["1 %", "2 %", "5 %", "10 %", "20 %", "40 %"]
SYNTHETIC_TRACES = ["loop", "shuffled_epochs", "scan", "working_set_change", "one_hit_flood"]
# Of the capacity for which a synthetic trace is meant.
SYNTHETIC_SHARES = {"1/4": 0.25, "1/2": 0.5, "1": 1, "2": 2}

Step = collections.namedtuple("Step", "program filter options")
REPEATED = [
    "--benchmark_enable_random_interleaving=true", "--benchmark_repetitions=7",
]


def repeated(program, sizes, pattern, least):
    """Steps that measure one size each: interleaved repetitions keep all tables in memory."""
    return [
        Step(program, pattern.replace("SIZE", str(size)),
             [*REPEATED, f"--benchmark_min_time={least}"])
        for size in sizes
    ]


SIZES = [1000, 100_000, 1_000_000]
QUICK = [
    *repeated("weak_value_map", SIZES, "^get_hit/.*/SIZE$", 0.03),
    *repeated("concurrent_weak_value_map", SIZES, "^get_hit/.*/SIZE/", 0.03),
    *repeated("large_object_cache", SIZES[:2], "^(hit|miss|zipf)(16)?/.*/SIZE/", 0.05),
]
# Everything of which docs/performance.md has figures.
FULL = [
    *repeated("weakref", [0], "", 0.1),
    *repeated("weak_value_map", SIZES, "^(get|churn).*/SIZE$|^churn.*/SIZE/", 0.03),
    *repeated("weak_value_map", [0], "^iterate", 0.03),
    *repeated("concurrent_weak_value_map", SIZES[:2], "^(get|mixed).*/SIZE/", 0.03),
    # Its churn of a million objects alone would take a quarter of an hour.
    *repeated("concurrent_weak_value_map", SIZES[2:], "^(get_hit|mixed_95_5)/.*/SIZE/", 0.03),
    Step("concurrent_weak_value_map", "^growth", []),
    *repeated("large_object_cache", SIZES[:2], "/SIZE/", 0.05),
]
MEMORY = [Step("weak_value_map", "^memory", [])]
MASS_EXPIRY = [Step("weak_value_map", "^mass_expiry", [])]

PARTS = ["image_session", "hit_ratio", "memory", "mass_expiry", "speed"]


class Runner:
    """Runs programs below `binaries`, and notes their command lines."""

    def __init__(self, binaries):
        self.binaries = pathlib.Path(binaries)
        self.commands = []

    def output(self, command):
        self.commands.append(" ".join(quoted(word) for word in command))
        print("+", self.commands[-1], file=sys.stderr, flush=True)
        done = subprocess.run(
            [self.binaries / command[0], *command[1:]], check=True, text=True, cwd=data.ROOT,
            stdout=subprocess.PIPE,
        )
        return done.stdout

    def benchmarks(self, steps):
        rows = []
        for step in steps:
            command = [
                f"benchmarks/{step.program}_benchmark", "--benchmark_format=json", *step.options,
            ]
            if step.filter:
                command.append(f"--benchmark_filter={step.filter}")
            rows += data.benchmark_rows(step.program, self.output(command))
        return rows


def quoted(word):
    return word if re.fullmatch(r"[\w%+,./:=@-]+", word) else f"'{word}'"


def image_session(runner):
    samples = data.table(runner.output(IMAGE_SESSION))
    return {"image_session": samples, "image_summary": list(data.session_summary(samples))}


def hit_ratio(runner, traces):
    rows = []
    if traces is None:
        for trace in SYNTHETIC_TRACES:
            option = f"--synthetic={trace}"
            (meant,) = {row["capacity"] for row in data.table(runner.output([HIT_RATIO, option]))}
            capacities = [int(int(meant) * share) for share in SYNTHETIC_SHARES.values()]
            command = [HIT_RATIO, option, *(f"--capacity={number}" for number in capacities)]
            rows += data.hit_ratio_rows(trace, SYNTHETIC_SHARES, runner.output(command))
        return {"hit_ratio": rows}
    paths = sorted(path for path in pathlib.Path(traces).iterdir() if ".txt" in path.suffixes)
    if not paths:
        raise ValueError(f"there are no traces (*.txt, *.txt.gz) in {traces}")
    for path in paths:
        weight = data.trace_weight(path)
        capacities = [weight * int(share.split()[0]) // 100 for share in SHARES]
        command = [HIT_RATIO, f"--trace={path}", *(f"--capacity={size}" for size in capacities)]
        rows += data.hit_ratio_rows(path.name.split(".")[0], SHARES, runner.output(command))
    # Where the traces are is nobody's business.
    folder = str(pathlib.Path(traces))
    runner.commands = [command.replace(folder, "TRACES") for command in runner.commands]
    return {"hit_ratio": rows}


def measure(part, binaries, full, traces):
    """Runs one part, and writes its CSV files and its row in runs.csv."""
    runner = Runner(binaries)
    start = time.monotonic()
    tables = {
        "image_session": lambda: image_session(runner),
        "hit_ratio": lambda: hit_ratio(runner, traces),
        "memory": lambda: {"memory": runner.benchmarks(MEMORY)},
        "mass_expiry": lambda: {"mass_expiry": runner.benchmarks(MASS_EXPIRY)},
        "speed": lambda: {"speed": runner.benchmarks(FULL if full else QUICK)},
    }[part]()
    for name, rows in tables.items():
        data.write(name, rows)
    seconds = round(time.monotonic() - start)
    note_run(part, runner.commands, "full" if full else "quick", seconds)


def note_run(part, commands, mode, seconds):
    runs = [row for row in data.read("runs") or [] if row["part"] != part]
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    runs += [
        {"part": part, "commit": commit(), "date": today, "mode": mode, "seconds": seconds,
         "command": command}
        for command in commands
    ]
    data.write("runs", sorted(runs, key=lambda row: PARTS.index(row["part"])))


# --- The machine -----------------------------------------------------------------------------------


def first_line(*command):
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=data.ROOT)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout.splitlines() or ["unknown"])[0]


def commit():
    """The commit, with a + if the tree has changes besides those of the report."""
    changes = first_line(
        "git", "status", "--porcelain", "--untracked-files=no", ".", ":!docs/report", ":!README.md",
        ":!docs/performance.md",
    )
    return first_line("git", "rev-parse", "--short", "HEAD") + ("" if changes == "unknown" else "+")


def field(path, name):
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    found = re.search(rf"^{name}\s*[:=]\s*\"?(.*?)\"?$", text, re.MULTILINE)
    return found[1] if found else "unknown"


def note_machine():
    kilobytes = field("/proc/meminfo", "MemTotal").split()[0]
    memory = f"{int(kilobytes) / 1e6:.0f} GB" if kilobytes.isdigit() else "unknown"
    facts = {
        "processor": field("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": memory,
        "system": field("/etc/os-release", "PRETTY_NAME"),
        "kernel": re.match(r"[\d.]*\d", platform.release())[0],
        "compiler": first_line("g++", "--version"),
        "C library": first_line("ldd", "--version"),
    }
    libraries = ["absl_base", "benchmark", "tbb", "rocksdb"]
    for library in libraries:
        facts[library.removesuffix("_base")] = first_line("pkg-config", "--modversion", library)
    data.write("machine", [{"fact": name, "value": value} for name, value in facts.items()])

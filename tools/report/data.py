# SPDX-License-Identifier: Apache-2.0
"""The report's data: CSV files, and what the measured programs print."""

import csv
import gzip
import io
import json
import pathlib
import statistics

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
REPORT = ROOT / "docs" / "report"

# --- CSV -------------------------------------------------------------------------------------------


def read(name, folder=REPORT):
    """The rows of a CSV file as dictionaries, or None if there is no such file."""
    path = folder / f"{name}.csv"
    if not path.exists():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(name, rows, folder=REPORT):
    with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


# --- What programs print ---------------------------------------------------------------------------


def table(text):
    """The rows of a CSV text as dictionaries."""
    return list(csv.DictReader(io.StringIO(text)))


# The rest of what Google Benchmark says of a run.
NO_COUNTERS = {
    "family_index", "per_family_instance_index", "repetitions", "repetition_index", "threads",
    "iterations", "real_time", "cpu_time",
}
NANOSECONDS = {"ns": 1, "us": 1e3, "ms": 1e6, "s": 1e9}


def benchmark_rows(program, text):
    """The figures of each benchmark in the JSON of Google Benchmark, over its repetitions."""
    figures = {}
    for run in json.loads(text)["benchmarks"]:
        if run.get("run_type") == "aggregate":
            continue
        if run.get("error_occurred"):
            raise ValueError(f"{run['name']}: {run.get('error_message')}")
        # The name of the run has the settings, such as its repetitions, which are no part of it.
        name = run["run_name"].replace("/real_time", "").replace("/manual_time", "")
        name = "/".join(part for part in name.split("/") if not part.startswith("iterations:"))
        values = {"time_ns": run["real_time"] * NANOSECONDS[run["time_unit"]]}
        for key, value in run.items():
            if isinstance(value, (int, float)) and key not in NO_COUNTERS:
                values[key] = value
        for figure, value in values.items():
            figures.setdefault((name, figure), []).append(value)
    for (name, figure), values in figures.items():
        yield {
            "program": program, "benchmark": name, "figure": figure,
            "median": number(statistics.median(values)), "least": number(min(values)),
            "greatest": number(max(values)), "repetitions": len(values),
        }


def number(value):
    """Four significant digits."""
    return f"{float(f'{value:.4g}'):.10g}"


def session_summary(samples):
    """What each store of the image session decoded and kept."""
    stores = {}
    for sample in samples:
        stores.setdefault(sample["store"], []).append(sample)
    for store, rows in stores.items():
        *lookups, end = rows
        live = [int(row["live_bytes"]) for row in lookups]
        yield {
            "store": store, "lookups": end["lookups"], "decodes": end["decodes"],
            "peak_mb": f"{int(end['peak_bytes']) / 1e6:.1f}",
            "mean_mb": f"{statistics.mean(live) / 1e6:.1f}",
            "final_mb": f"{int(end['live_bytes']) / 1e6:.1f}",
        }


def hit_ratio_rows(trace, shares, text):
    """A row for each capacity and policy. `shares` are the capacities as the report names them."""
    for share, row in zip(shares, table(text), strict=True):
        for column, value in row.items():
            if column.endswith("_objects"):
                policy = column.removesuffix("_objects")
                yield {
                    "trace": trace, "share": share, "policy": policy, "capacity": row["capacity"],
                    "objects": value, "bytes": row[policy + "_bytes"],
                }


# --- Traces ----------------------------------------------------------------------------------------


def trace_weight(path):
    """The weight of all distinct objects of a trace: their bytes, or their number."""
    weights = {}
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for line in file:
            words = line.split()
            if words:
                # As it was when it was requested last. As in the program, 0 is 1.
                weights[words[0]] = max(1, int(words[1])) if len(words) > 1 else 1
    return sum(weights.values())

# SPDX-License-Identifier: Apache-2.0
"""Writes docs/report/report.md from the CSV files and figures beside it."""

import data
import plots

# Markdown, because both GitHub and the site of tools/docs.sh show it together with its figures;
# GitHub shows a page of HTML as its source.
OPENING = """\
<!-- tools/report.sh writes this page. -->
# Report

What was measured, drawn. `tools/report.sh` ran the programs, and wrote this page, its figures and its data; [the
performance page](../performance.md) says what the figures mean, and [the eviction page](../eviction.md) what the
policies are.
"""

SECTIONS = {
    "image_session": ("Memory of an image session", """\
Four viewers look at 40 images each, some of which are far more popular than others; each viewer's screen shows the last
three. `examples/image_cache` has the session and the stores. The LRU and the `LargeObjectCache` have a budget of 128 MB.
The LRU does not know what the screens show: an image that it has evicted is decoded once more, beside the copy that a
screen still shows. The viewers take turns, so the session is the same in each run."""),
    "hit_ratio": ("Hit ratios", """\
The share of requests that hit, by the capacity. The program has this library's policy and models of others, written
from the papers. *Belady* knows the future; where objects differ in size (`adaptsize`, `cloudphysics`) it is a bound
that a cache may be unable to reach."""),
    "hit_latency": ("Hits", """\
Keys are 8 bytes (in the last panel 16), evenly picked, objects 128. *Floor* finds a plain pointer in a `flat_hash_map`
without a lock, and counts up and down once. Medians; both axes are logarithmic."""),
    "throughput": ("Hits on two threads", """\
The same with 100,000 entries, all threads together."""),
    "mass_expiry": ("Mass expiry", """\
What a single insertion or look-up can take until the table has got rid of a million dead entries. An operation counts
with the least time that it took in five runs of the same sequence, which leaves interruptions by the operating system
out. The axis is logarithmic. The maps of `weak_ptr` sweep the whole table when it has doubled."""),
    "memory": ("Memory of a dead object", """\
Everything that is left of an object of 128 bytes that has died, until its entry is purged: from 1,000 to 1,000,000
entries, the least and the most; the bar is the most. With `std::make_shared` the object's memory stays, too."""),
}


def markdown_table(rows, columns):
    """`columns` has the name of each in the CSV, and its heading."""
    yield "| " + " | ".join(columns.values()) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(str(row[column]) for column in columns) + " |"


def session_table(folder):
    return markdown_table(data.read("image_summary", folder), {
        "store": "store", "decodes": "images decoded", "mean_mb": "live MB, mean",
        "peak_mb": "most", "final_mb": "once all screens are empty",
    })


def sections(folder):
    for name, (title, text) in SECTIONS.items():
        _, source, description = plots.FIGURES[name]
        if data.read(source, folder) is None:
            continue
        yield f"\n## {title}\n"
        yield text + "\n"
        yield f"![{description}]({name}.svg)\n"
        if name == "image_session":
            yield from session_table(folder)
            yield ""
        extra = ", [image_summary.csv](image_summary.csv)" if name == "image_session" else ""
        yield f"Data: [{source}.csv]({source}.csv){extra}."


def provenance(folder):
    runs = data.read("runs", folder)
    yield "\n## How\n"
    yield from markdown_table(data.read("machine", folder), {"fact": "machine", "value": ""})
    yield "\nThe parts, each at its commit (*+*: with changes), built with `-c opt`, or as they were handed over by `--binaries`:\n"
    columns = {
        "part": "part", "commit": "commit", "date": "date", "mode": "run", "seconds": "seconds",
    }
    # A part has a row for each of its commands.
    parts = {row["part"]: row for row in runs}
    yield from markdown_table(parts.values(), columns)
    yield "\nThe commands, below `bazel-bin/`; `TRACES` is the folder of `--traces`:\n"
    yield from (f"    {row['command']}" for row in runs)
    yield "\nData: [runs.csv](runs.csv), [machine.csv](machine.csv)."


def write(folder=data.REPORT):
    lines = [OPENING.rstrip(), *sections(folder), *provenance(folder)]
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

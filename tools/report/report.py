#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Measures, draws and writes the report: see tools/report.sh, which calls this."""

import argparse
import pathlib
import sys

sys.dont_write_bytecode = True

import data
import measure


def main():
    parser = argparse.ArgumentParser(prog="report.sh")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--quick", action="store_true",
                      help="what the figures need, in ten minutes at most (the default)")
    mode.add_argument("--full", action="store_true",
                      help="everything of which docs/performance.md has figures")
    parser.add_argument("--traces", type=pathlib.Path,
                        help="a folder of traces for the hit ratios; without it, synthetic ones")
    parser.add_argument("--only", metavar="PART,…",
                        help=f"of {', '.join(measure.PARTS)}; none: only draw and write again")
    parser.add_argument("--binaries", default=data.ROOT / "bazel-bin", type=pathlib.Path,
                        help="where the programs are, built already")
    options = parser.parse_args()
    parts = measure.PARTS if options.only is None else options.only.split(",")
    unknown = set(parts) - {*measure.PARTS, "none"}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")

    data.REPORT.mkdir(exist_ok=True)
    for part in parts:
        if part != "none":
            measure.measure(part, options.binaries.resolve(), options.full, options.traces)
    if parts != ["none"]:
        measure.note_machine()
    # Here, so that what measures needs no matplotlib.
    import page
    import plots

    plots.draw_all()
    page.write()
    print(data.REPORT / "report.md")


if __name__ == "__main__":
    main()

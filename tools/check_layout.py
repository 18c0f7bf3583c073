#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Refuses includes against the layers, and other breaches of the layout that no compiler reports.

Prints each breach on a line of its own and fails if there is one.
"""

import pathlib
import re
import subprocess
import sys

# Each folder of the library, and the folders whose headers it may include besides its own.
LAYERS = {
    "weakref/internal": [],
    "weakref": ["weakref/internal"],
    "cache/internal/slot": ["weakref", "weakref/internal"],
    "cache/internal/key": ["cache", "cache/internal/slot", "weakref", "weakref/internal"],
    "cache/internal/table": [
        "cache", "cache/internal/key", "cache/internal/slot", "weakref", "weakref/internal",
    ],
    "cache/internal/creation": [
        "cache", "cache/internal/slot", "weakref", "weakref/internal",
    ],
    "cache/internal/concurrent": [
        "cache", "cache/internal/creation", "cache/internal/key", "cache/internal/slot", "weakref",
        "weakref/internal",
    ],
    "cache/internal/stats": ["cache", "cache/internal/slot", "weakref", "weakref/internal"],
    "cache/internal/retention": [
        "cache", "cache/internal/slot", "cache/internal/stats", "weakref", "weakref/internal",
    ],
    "cache/internal/loading": [
        "cache", "cache/internal/creation", "cache/internal/slot", "weakref", "weakref/internal",
    ],
    "cache/internal/redis": [
        "cache", "cache/internal/creation", "cache/internal/slot", "cache/internal/tier", "weakref",
        "weakref/internal",
    ],
    "cache/internal/tier": [
        "cache", "cache/internal/creation", "cache/internal/loading", "cache/internal/slot",
        "weakref", "weakref/internal",
    ],
    "cache/internal/core": [
        "cache", "cache/internal/concurrent", "cache/internal/creation", "cache/internal/key",
        "cache/internal/loading", "cache/internal/retention", "cache/internal/stats",
        "cache/internal/tier", "weakref", "weakref/internal",
    ],
    "cache": [
        "cache/internal/concurrent", "cache/internal/core", "cache/internal/creation",
        "cache/internal/key", "cache/internal/loading", "cache/internal/redis", "cache/internal/slot",
        "cache/internal/table", "cache/internal/tier", "weakref", "weakref/internal",
    ],
}
# What the folders above use of cache/: headers that stand alone, so that no circle arises.
STANDALONE = {
    "cache/cache_holders.h", "cache/cache_options.h", "cache/cache_stats.h",
    "cache/held_value.h",
    "cache/holder_label.h", "cache/key_policy.h",
    "cache/load_completion.h", "cache/load_options.h", "cache/loaded.h", "cache/object_info.h",
    "cache/prefetch_options.h",
    "cache/recursive_creation_error.h", "cache/redis_tier_options.h", "cache/removal_cause.h",
    "cache/second_tier.h",
}
# Folders that see public headers only.
USERS = ("examples/",)

MAX_HEADER_LINES = 400
MAX_OPENING_LINES = 25
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
COMMENTED = {".h": "//", ".cc": "//", ".py": "#", ".sh": "#", ".bzl": "#"}


def tracked_files():
    listing = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], check=True, capture_output=True, text=True
    ).stdout
    for name in listing.splitlines():
        path = pathlib.Path(name)
        if path.is_file() and not path.is_symlink() and "_corpus" not in path.parent.name:
            yield name


def included_breach(name, included):
    """What is wrong with that `name` includes `included`, or None."""
    folder = str(pathlib.Path(name).parent)
    # An application of tests/consumer/ may have such folders itself.
    if included.startswith(("cache/", "weakref/")) and not name.startswith("tests/consumer/"):
        return "a header of the library is included as weakcache/…"
    if folder.startswith("weakref") and re.match(r"absl/(?!base/)", included):
        return "weakref/ includes nothing but std, absl/base and itself"
    if not included.startswith("weakcache/"):
        return None
    target = included.removeprefix("weakcache/")
    target_folder = str(pathlib.Path(target).parent)
    if name.startswith(USERS) and "/internal" in target_folder:
        return "internal headers are not for users"
    if folder not in LAYERS or target_folder == folder:
        return None
    if target_folder not in LAYERS[folder]:
        return f"{folder} is below {target_folder}"
    if target_folder == "cache" and target not in STANDALONE:
        return f"{folder} is below {target}"
    return None


def breaches(name, text):
    for included in INCLUDE.findall(text):
        breach = included_breach(name, included)
        if breach:
            yield f'#include "{included}": {breach}'
    comment = COMMENTED.get(pathlib.Path(name).suffix)
    if pathlib.Path(name).name in ("BUILD", "WORKSPACE"):
        comment = "#"
    if comment and f"{comment} SPDX-License-Identifier: Apache-2.0\n" not in text[:200]:
        yield "no SPDX line"
    if re.fullmatch(r"(cache|weakref)/[a-z_]+\.h", name):
        lines = text.splitlines()
        if len(lines) > MAX_HEADER_LINES:
            yield f"a public header of {len(lines)} lines (at most {MAX_HEADER_LINES})"
        opening = next(i for i, line in enumerate(lines) if line.startswith("#ifndef"))
        # The SPDX line comes on top of it.
        if opening > MAX_OPENING_LINES + 1:
            yield f"opens with {opening} lines (at most {MAX_OPENING_LINES})"


def main():
    failed = False
    for name in tracked_files():
        try:
            text = pathlib.Path(name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for breach in breaches(name, text):
            print(f"{name}: {breach}")
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

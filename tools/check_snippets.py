#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that the programs in the documents are the ones that the tests compile and run.

A block of code in a document names its test in the line above it:

    <!-- tests/guide_test.cc: load -->
    ```cpp

and the test has the same code between "// snippet: load" and "// end". Comments, white space, and
the test's lines that begin with EXPECT_ don't count. Every block in docs/guide.md names a test.
"""

import pathlib
import re
import sys

PAGES = [pathlib.Path("README.md"), *sorted(pathlib.Path("docs").glob("*.md"))]
ALL_BLOCKS_NAMED = pathlib.Path("docs/guide.md")

BLOCK = re.compile(
    r"^(?: *<!-- (?P<test>\S+): (?P<name>\S+) -->\n)? *```cpp\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
SNIPPET = re.compile(
    r"^ *// snippet: (?P<name>\S+)\n(?P<code>.*?)^ *// end$", re.MULTILINE | re.DOTALL
)


def tokens(code):
    """The code as one string, without what does not count."""
    code = re.sub(r"^ *EXPECT_.*?;$", "", code, flags=re.MULTILINE | re.DOTALL)
    code = re.sub(r"(^|\s)//.*$", "", code, flags=re.MULTILINE)
    return re.sub(r"\s+", "", code)


def snippets(test):
    return {match["name"]: match["code"] for match in SNIPPET.finditer(test.read_text("utf-8"))}


def main():
    failed = False
    used = {}

    def report(page, text, start, message):
        nonlocal failed
        failed = True
        print(f"{page}:{text.count(chr(10), 0, start) + 1}: {message}")

    for page in PAGES:
        text = page.read_text("utf-8")
        for block in BLOCK.finditer(text):
            if block["test"] is None:
                if page == ALL_BLOCKS_NAMED:
                    report(page, text, block.start(), "names no test")
                continue
            test = pathlib.Path(block["test"])
            used.setdefault(test, set()).add(block["name"])
            code = snippets(test).get(block["name"]) if test.is_file() else None
            if code is None:
                report(page, text, block.start(), f"{test} has no snippet {block['name']}")
            elif tokens(code) != tokens(block["code"]):
                report(page, text, block.start(), f"differs from {block['name']} in {test}")
    for test, names in used.items():
        for name in sorted(snippets(test).keys() - names):
            failed = True
            print(f"{test}: no page has the snippet {name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

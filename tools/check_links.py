#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the links between the documents: that each file and each heading that one names exists.

    tools/check_links.py [PAGE…]    by default all Markdown files of the project

Links to other sites are not followed.
"""

import pathlib
import re
import subprocess
import sys

LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+(?:\([^()\s]*\))?)\)")
HEADING = re.compile(r"^#{1,6} +(.*?)\s*$", re.MULTILINE)
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)


def anchors(text):
    """The anchors of a page, made from its headings as GitHub makes them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        heading = re.sub(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([^()]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number, unique = 0, slug
        while unique in found:
            number += 1
            unique = f"{slug}-{number}"
        found.add(unique)
    return found


def prose(text):
    """The text without code, each character of which becomes a space: links keep their lines."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])
    return FENCE.sub(blank, text)


def broken(page, text):
    for match in LINK.finditer(prose(text)):
        target, _, anchor = match[1].partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target) if target else page
        line = text.count("\n", 0, match.start()) + 1
        if not path.exists():
            yield f"{page}:{line}: there is no {match[1]}"
        elif anchor and path.suffix == ".md":
            if anchor not in anchors(path.read_text("utf-8")):
                yield f"{page}:{line}: {path} has no heading #{anchor}"


def main():
    pages = [pathlib.Path(name) for name in sys.argv[1:]]
    if not pages:
        listing = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
            check=True, capture_output=True, text=True,
        ).stdout
        pages = [pathlib.Path(name) for name in listing.splitlines()]
    failed = False
    for page in pages:
        for message in broken(page, page.read_text("utf-8")):
            print(message)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the site that tools/docs.sh builds.

    tools/docs/check_site.py FOLDER

Every link to a file of the site, and to a place in one, leads somewhere; every public header has a
page with its text; every document is there; and the search finds each class. Not checked: links to
other sites, and what scripts do in a browser (the search is checked in its data).
"""

import html.parser
import pathlib
import re
import sys
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Page(html.parser.HTMLParser):
    """The links of a page, the places that links can name, and the text."""

    def __init__(self, path):
        super().__init__()
        self.links, self.names, self.text = [], set(), []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("id", "name") and value:
                self.names.add(value)
            elif key in ("href", "src", "data") and value:
                self.links.append(value)

    def handle_data(self, data):
        self.text.append(data)


def broken_links(pages, folder):
    for name, page in sorted(pages.items()):
        for link in page.links:
            target = urllib.parse.urlsplit(link)
            if target.scheme or link.startswith("javascript:"):
                continue
            path = urllib.parse.unquote(target.path) or name
            if not (folder / path).is_file():
                yield f"{name}: there is no {path}"
            elif target.fragment and path in pages:
                if urllib.parse.unquote(target.fragment) not in pages[path].names:
                    yield f"{name}: {path} has no #{target.fragment}"


def doxygen_name(name):
    """The name of the page of a file: lower case as it is, _ doubled."""
    return name.replace("_", "__").replace(".", "_8")


def missing_pages(pages):
    for layer in ("weakref", "cache"):
        for header in sorted((ROOT / layer).glob("*.h")):
            name = doxygen_name(header.name) + ".html"
            if name not in pages:  # two headers have that name
                name = f"{layer}_2{name}"
            # A few words of its second line, which no other page begins with.
            words = re.findall(r"\w+", header.read_text("utf-8").splitlines()[1])[:3]
            if name not in pages:
                yield f"{header.relative_to(ROOT)} has no page"
            elif not all(word in " ".join(pages[name].text) for word in words):
                yield f"{name} does not begin as {header.relative_to(ROOT)} does"
    for document in sorted((ROOT / "docs").rglob("*.md")):
        if f"{document.stem}.html" not in pages:
            yield f"{document.relative_to(ROOT)} has no page"
    if not any("When not to use" in text for text in pages["index.html"].text):
        yield "index.html is not README.md"


# What Doxygen prints where it has not understood a page.
NOT_UNDERSTOOD = ("@ref", "@section", "@subsection", "<table", "<tt>", "{#")


def not_understood(pages):
    for name, page in sorted(pages.items()):
        for text in page.text:
            for token in NOT_UNDERSTOOD:
                if token in text:
                    yield f"{name}: has {token}: {text.strip()[:80]}"


def missing_in_search(folder):
    """The search's data are scripts: a list of names and where they are, by their first letter."""
    data = "".join(path.read_text("utf-8") for path in sorted((folder / "search").glob("*_*.js")))
    for name in ("LargeObjectCache", "WeakValueMap", "WeakRef", "OnExpire", "CacheStats"):
        if not re.search(rf"\['{name}',\['\.\./\w+\.html", data):
            yield f"the search does not find {name}"


def main():
    folder = pathlib.Path(sys.argv[1])
    pages = {path.name: Page(path) for path in folder.glob("*.html")}
    messages = [
        *broken_links(pages, folder),
        *missing_pages(pages),
        *not_understood(pages),
        *missing_in_search(folder),
    ]
    print(*messages, sep="\n", end="\n" if messages else "")
    links = sum(len(page.links) for page in pages.values())
    print(f"{len(pages)} pages with {links} links, {len(messages)} mistakes")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())

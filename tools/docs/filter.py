#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints a header or a page as Doxygen wants it: see tools/docs.sh.

A header's ordinary comments become documentation. A page's headings get names, by which the links
of other pages find them; links to files that are not part of the site become plain text.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "tools"))

import check_links

# --- Headers ---------------------------------------------------------------------------------------


def escaped(text):
    """A comment's text without what Doxygen takes for commands, tags and links."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"([\\@#%&<>*_|\[\]])", r"\\\1", parts[i])
    return "".join(parts)


def comment_line(text):
    """One line of a comment, after its slashes: code is indented by three spaces or more."""
    if text.startswith("   "):
        return "///     " + text[3:]
    return "///" + escaped(text)


class Scopes:
    """Which braces are open: those of a namespace, class or enumeration, or of anything else."""

    def __init__(self):
        self.statement = ""
        self.open = []

    def read(self, line):
        line = re.sub(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])\'', "", line.split("//")[0])
        if line.startswith("#"):
            return
        for character in line + " ":
            if character == "{":
                self.open.append(DECLARES_MEMBERS.search(self.statement) is not None)
            elif character == "}" and self.open:
                self.open.pop()
            if character in "{};":
                self.statement = ""
            else:
                self.statement += character

    def in_function(self):
        return not all(self.open)


DECLARES_MEMBERS = re.compile(r"\b(class|struct|union|enum|namespace)\b[^()=]*$")


def header(lines):
    """A line for each line, so that warnings name the right ones."""
    scopes = Scopes()
    hidden = None  # the line that ends what the site leaves out
    for line in lines:
        if hidden is not None and re.match(hidden, line):
            hidden = None
        comment = re.match(r"^( *)//(.*)$", line)
        trailing = re.match(r"^(.*[;,]) +// (?!NOLINT)(.*)$", line)
        if line.startswith("// SPDX"):
            yield "/// @file"
        elif scopes.in_function() or hidden is not None:
            yield "" if hidden is not None else re.sub(r"(^| +)//.*$", "", line)
        elif comment:
            is_note = comment[2].strip().startswith("NOLINT")
            yield "" if is_note else comment[1] + comment_line(comment[2])
        elif trailing and not re.match(r" *using ", line):
            yield f"{trailing[1]}  ///< {escaped(trailing[2])}"
        elif line.startswith("struct std::"):  # Doxygen does not know what it specialises
            hidden = "^$"
            yield "struct hidden;"
        elif line.strip() == "private:":
            indent = len(line) - len(line.lstrip())
            hidden = f"^ {{{indent}}}(public|protected):|^ {{{max(indent - 1, 0)}}}}}"
            yield line
        else:
            yield re.sub(r" +// .*$", "", line)
        scopes.read(line)


def class_of_opening(lines):
    """The opening once more, as the documentation of the class that it is about, if that has none."""
    opening = [line[2:] for line in lines[1 : next(i for i, l in enumerate(lines) if l[:7] == "#ifndef")]]
    name = re.match(r" (\w+)", opening[0])[1]
    for i, line in enumerate(lines):
        if re.match(rf"(class|struct) {name}\b", line) and not line.endswith(";"):
            while i > 0 and lines[i - 1] and not lines[i - 1].startswith("//"):
                i -= 1
            if not lines[i - 1]:
                yield from ["", f"/// @class weakcache::{name}", *map(comment_line, opening)]
            return


# --- Pages -----------------------------------------------------------------------------------------


def label(page, anchor=""):
    """The name of a heading on the site."""
    name = page.stem if page.stem != "README" else "mainpage"
    return f"{name}-{anchor}" if anchor else name


def page(path, text):
    path = path.resolve().relative_to(ROOT)
    seen = set()
    first = True
    fence = False
    # The addresses of figures, which span lines.
    text = re.sub(r"<!-- figures.*?-->", lambda comment: "\n" * comment[0].count("\n"), text,
                  flags=re.DOTALL)
    for line in text.splitlines():
        if re.match(r" *```", line):
            fence = not fence
            yield line
            continue
        if not fence and re.match(r" *<!-- .* -->$", line):
            yield ""
            continue
        heading = None if fence else re.match(r"^(#{1,6}) +(.*?)\s*$", line)
        if heading:
            # The anchor as in check_links.anchors.
            slug = next(iter(check_links.anchors(line)))
            number, unique = 0, slug
            while unique in seen:
                number += 1
                unique = f"{slug}-{number}"
            seen.add(unique)
            name = label(path) if first else label(path, unique)
            title = re.sub(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\([^()]*\)", r"\1", heading[2])
            # Nor code in a heading.
            yield f"{heading[1]} {title.replace('`', '')} {{#{name}}}"
            first = False
            continue
        yield line


def main():
    path = pathlib.Path(sys.argv[1])
    text = path.read_text("utf-8")
    if path.suffix == ".h":
        lines = text.splitlines()
        print("\n".join([*header(lines), *class_of_opening(lines)]))
        return
    print("\n".join(page(path, links(path, text))))


SITE_PAGES = {
    ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "report").glob("*.md")
}


def links(path, text):
    """The text with links that Doxygen understands."""

    def replaced(match):
        # Doxygen understands neither a line break nor code in a link.
        shown, target = match[1].replace("\n", " "), match[2]
        if match.string[: match.start()].endswith("!"):
            return f"[{shown}]({pathlib.PurePath(target).name})"  # a picture: Doxygen looks for it
        if re.match(r"[a-z]+:", target):
            return f"[{shown}]({target})"
        name, _, anchor = target.partition("#")
        linked = (path.resolve().parent / name) if name else path.resolve()
        linked = linked.resolve()
        if linked in SITE_PAGES:
            relative = linked.relative_to(ROOT)
            return f"[{shown.replace('`', '')}](@ref {label(relative, anchor)})"
        if linked.suffix == ".h" and linked.parent in (ROOT / "cache", ROOT / "weakref"):
            return f"[{shown.replace('`', '')}](@ref {linked.relative_to(ROOT)})"
        return shown

    pieces = re.split(r"(^ *```.*?^ *```$)", text, flags=re.MULTILINE | re.DOTALL)
    for i in range(0, len(pieces), 2):
        pieces[i] = re.sub(
            r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+(?:\([^()\s]*\))?)\)", replaced, pieces[i]
        )
    return "".join(pieces)


if __name__ == "__main__":
    main()

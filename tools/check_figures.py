#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the figures that the documents quote from the report with its data, docs/report/*.csv.

    tools/check_figures.py           fails where a document has another figure
    tools/check_figures.py --write   puts the report's figures into the documents

A comment in a document says where figures come from, a line each:

    <!-- figures
    "24 here" = image_summary[large object cache].decodes
    "1.1 to 1.2 of" = speed[…, get_hit/weakcache/{1000,100000}, …].median / speed[…].median
    -->

The words in quotation marks stand in the document once, with a number, or two: the least and the
greatest. An address is a file, the values of its first columns, and a column; braces are for several
rows. Before it may stand `mean`, and after it `/` and another address or a number.

A comment above a table has the first cell of each row, in order, and an address with COLUMN for the
other cells; `-` is a column without figures:

    <!-- figures of a table
    columns: weakcache, floor, -
    hit, 1,000 = speed[weak_value_map, get_hit/COLUMN/1000, time_ns].median
    -->

A cell of several figures has all of them, with commas, or the least and the greatest: "1 to 2".

What the last run did not measure is left alone: a file that is missing or, if that run was a quick
one, a row of speed.csv.
"""

import csv
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENTS = ["README.md", "docs/performance.md"]

ADDRESS = re.compile(r"(\w+)\[([^\]]*)\]\.(\w+)")
NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?![\w])")


class NotMeasured(Exception):
    pass


class Report:
    def __init__(self, folder):
        self.folder = folder
        self.tables = {}
        modes = {row["mode"] for row in self.rows("runs", []) if row["part"] == "speed"}
        self.has_all_speed = modes == {"full"}

    def rows(self, name, otherwise=None):
        if name not in self.tables:
            path = self.folder / f"{name}.csv"
            if not path.exists():
                if otherwise is not None:
                    return otherwise
                raise NotMeasured(name)
            with path.open(encoding="utf-8", newline="") as file:
                self.tables[name] = list(csv.DictReader(file))
        return self.tables[name]

    def values(self, address):
        """The figures of all rows that an address names."""
        match = ADDRESS.fullmatch(address.strip())
        if not match:
            raise ValueError(f"not an address: {address}")
        name, keys, column = match.groups()
        return [self.value(name, key, column) for key in expanded(keys)]

    def value(self, name, keys, column):
        wanted = [key.strip() for key in keys.split(", ")]
        found = [row for row in self.rows(name) if list(row.values())[: len(wanted)] == wanted]
        if not found and name == "speed" and not self.has_all_speed:
            raise NotMeasured(keys)
        if len(found) != 1:
            raise ValueError(f"{name}.csv has {len(found)} rows {keys}")
        return float(found[0][column])

    def evaluate(self, expression):
        mean = expression.startswith("mean ")
        left, _, right = expression.removeprefix("mean ").partition(" / ")
        values = self.values(left)
        if right:
            divisors = [float(right)] if re.fullmatch(r"[\d.]+", right) else self.values(right)
            if len(divisors) not in (1, len(values)):
                raise ValueError(f"{len(values)} rows / {len(divisors)}")
            divisors *= len(values) // len(divisors)
            values = [value / divisor for value, divisor in zip(values, divisors)]
        return [sum(values) / len(values)] if mean else values


def expanded(text):
    """The texts that braces stand for: a{1,2}c is a1c and a2c."""
    match = re.search(r"\{([^{}]*)\}", text)
    if not match:
        return [text]
    return [
        result
        for choice in match[1].split(",")
        for result in expanded(text[: match.start()] + choice + text[match.end() :])
    ]


# --- Numbers in a text -----------------------------------------------------------------------------


def numbers(text):
    return [match for match in NUMBER.finditer(text) if match[0] not in ("", ".")]


def like(value, old):
    """The value, written as the old one was: .415, 1,204 or 3.2."""
    decimals = len(old.partition(".")[2])
    # A figure such as 65,600 was rounded to three digits.
    rounded = value if decimals or value < 1000 else float(f"{value:.3g}")
    text = f"{rounded:,.{decimals}f}"
    return text.removeprefix("0") if old.startswith(".") else text


def cell(values, old):
    """The values, as the tables of docs/performance.md have them."""
    if " to " in old:
        return f"{digits(min(values), True)} to {digits(max(values), True)}"
    return ", ".join(map(digits, values))


def digits(value, whole=False):
    """The three leading digits of a value, or all those of a whole one with four."""
    if whole or 1000 <= value < 10_000:
        return f"{float(f'{value:.4g}'):,.0f}" if value >= 10_000 else f"{value:.0f}"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if value >= 10_000 else f"{rounded:g}"


def replaced_phrase(phrase, values):
    found = numbers(phrase)
    if len(found) == 2 and len(values) > 1:
        values = [min(values), max(values)]
    if len(found) != len(values):
        raise ValueError(f"“{phrase}” has {len(found)} numbers, and the report {len(values)}")
    for match, value in reversed(list(zip(found, values))):
        phrase = phrase[: match.start()] + like(value, match[0]) + phrase[match.end() :]
    return phrase


# --- Documents -------------------------------------------------------------------------------------

COMMENT = re.compile(r"<!-- figures( of a table)?\n(.*?)-->", re.DOTALL)


class Document:
    def __init__(self, text, report):
        self.text = text
        self.report = report
        self.checked = 0
        self.not_measured = 0
        self.mistakes = []

    def update(self):
        """Puts the report's figures in, and notes where there were others."""
        for comment in reversed(list(COMMENT.finditer(self.text))):
            position = comment.end()
            columns = []
            for line in comment[2].splitlines():
                if line.startswith("columns: "):
                    columns = line.removeprefix("columns: ").split(", ")
                    continue
                try:
                    quoted, address = line.split(" = ", 1)
                    if comment[1]:
                        position = self.row_position(quoted, position)
                        self.update_row(position, address, columns)
                    else:
                        self.update_phrase(quoted.strip('"'), address)
                except NotMeasured:
                    self.not_measured += 1
                except ValueError as error:
                    self.mistakes.append(f"{line}: {error}")

    def update_phrase(self, phrase, expression):
        pattern = r"\s+".join(re.escape(word) for word in phrase.split())
        outside = COMMENT.sub(lambda comment: "\0" * len(comment[0]), self.text)
        found = list(re.finditer(pattern, outside))
        if len(found) != 1:
            raise ValueError(f"“{phrase}” stands there {len(found)} times")
        new = replaced_phrase(phrase, self.report.evaluate(expression))
        self.checked += 1
        if new == phrase:
            return
        self.mistakes.append(f"“{phrase}” is “{new}” in the report")
        # In the text, with its line breaks, and in the comment.
        spaces = re.findall(r"\s+", found[0][0])
        words = new.split()
        with_breaks = words[0] + "".join(space + word for space, word in zip(spaces, words[1:]))
        self.text = self.text[: found[0].start()] + with_breaks + self.text[found[0].end() :]
        self.text = self.text.replace(f'"{phrase}" = {expression}', f'"{new}" = {expression}')

    def row_position(self, label, start):
        """Where the next row after `start` of that first cell begins."""
        found = re.compile(rf"^\| {re.escape(label)} \|", re.MULTILINE).search(self.text, start + 1)
        if not found:
            raise ValueError(f"there is no such row “{label}”")
        return found.start()

    def update_row(self, start, expression, columns):
        end = self.text.index("\n", start)
        label, *cells = [text.strip() for text in self.text[start:end].split("|")[1:-1]]
        if len(cells) != len(columns):
            raise ValueError(f"the row has {len(cells)} cells")
        for place, (column, old) in enumerate(zip(columns, cells)):
            if column == "-" or not re.search(r"\d", old):
                continue
            values = self.report.evaluate(expression.replace("COLUMN", column))
            cells[place] = cell(values, old)
            self.checked += 1
            if cells[place] != old:
                self.mistakes.append(f"{label}, {column}: {old} is {cells[place]} in the report")
        row = "| " + " | ".join([label, *cells]) + " |"
        # An empty last cell has one space.
        self.text = self.text[:start] + row.replace("|  |", "| |") + self.text[end:]


def main():
    write = sys.argv[1:] == ["--write"]
    report = Report(ROOT / "docs" / "report")
    failed = False
    for name in DOCUMENTS:
        path = ROOT / name
        document = Document(path.read_text("utf-8"), report)
        document.update()
        if write:
            path.write_text(document.text, "utf-8")
        for mistake in document.mistakes:
            print(f"{name}: {mistake}")
        print(f"{name}: {document.checked} figures compared, {document.not_measured} not measured")
        failed = failed or bool(document.mistakes)
    if failed and not write:
        print("tools/check_figures.py --write repairs what the report has")
    return 1 if failed and not write else 0


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0

"""Writes many mutants of one file into one text: a variable chooses at run time which of them is on.

So a test is compiled once for all mutants, not once for each (Untch, Offutt and Harrold, "Mutation
analysis using mutant schemata", 1993). A mutant becomes one of these, the first that compiles:

    (MUTANT(7) ? changed : text)                         within an expression
    if (MUTANT(7)) { changed } else { text }             around a statement
    if (MUTANT(7)) { changed … } else { text … }         from a declaration to the end of its block

Switches nest. Where nothing of this compiles, the mutant has to be compiled on its own.
"""

import collections
import re

# Included by the compiler before everything else.
HEADER = """\
#pragma once
#include <cstdlib>
namespace mutation {
inline const int chosen = [] {
  const char* const number = std::getenv("WEAKCACHE_MUTANT");
  return number == nullptr ? 0 : std::atoi(number);
}();
}
#define MUTANT(number) (::mutation::chosen == (number))
"""
VARIABLE = "WEAKCACHE_MUTANT"

# Text [start, end) of a file, to be written twice: as it is and, if the mutant is on, as `changed`.
Switch = collections.namedtuple("Switch", "number start end changed is_expression")

OPENING = {")": "(", "]": "[", "}": "{"}
DECLARATION = re.compile(
    r"(?!return\b|delete\b|throw\b|if\b|for\b|while\b|else\b|switch\b|do\b|case\b|co_)"
    r"(?:static_assert\b|using\b|(?:[\w:]+(?:<.*>)?(?:::\w+)*[\s*&]+)+\w+\s*(?:[={(;]|\[))", re.DOTALL)


def blank_comments(text):
    """The text with spaces in place of comments and of what stands between quotes."""
    pattern = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|(?<!\w)'(?:\\.|[^'\\\n])+'", re.DOTALL)
    return pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)


def is_balanced(text):
    """Whether each bracket has its counterpart. There are no comments or quotes in the text."""
    open_brackets = []
    for character in text:
        if character in "([{":
            open_brackets.append(character)
        elif character in ")]}" and (not open_brackets or open_brackets.pop() != OPENING[character]):
            return False
    return not open_brackets


class Source:
    """Knows the statements of a file that clang-format has formatted."""

    def __init__(self, text):
        self.text = text
        self._blank = blank_comments(text)
        self._match = {}
        stack = []
        for position, character in enumerate(self._blank):
            if character in "([{":
                stack.append(position)
            elif character in ")]}":
                opening = stack.pop()
                assert self._blank[opening] == OPENING[character]
                self._match[opening] = position
                self._match[position] = opening

    def switches(self, number, start, end, replacement):
        """The forms that a mutant can take, the best one first."""
        for switch in self._switches(number, start, end, replacement):
            if is_balanced(blank_comments(switch.changed)):
                yield switch

    def _switches(self, number, start, end, replacement):
        text = self.text
        changed = lambda a, b: text[a:start] + replacement + text[end:b]
        order = re.compile(r"std::memory_order_$")
        word = order.search(text[:start][-30:])
        if word:
            begin = start - len("std::memory_order_")
            yield Switch(number, begin, end, changed(begin, end), True)
            return
        condition = self._enclosing_condition(start, end)
        if condition is not None:
            yield Switch(number, *condition, changed(*condition), True)
        block, statement, stop = self._statement(start, end)
        if block is None:
            return
        if self._declares(statement, stop):
            initializer = self._initializer(statement, stop)
            if initializer is not None and initializer[0] <= start and end <= initializer[1]:
                yield Switch(number, *initializer, changed(*initializer), True)
        else:
            yield Switch(number, statement, stop, changed(statement, stop), False)
        block_end = self._match[block]
        yield Switch(number, statement, block_end, changed(statement, block_end), False)

    def _enclosing(self, position):
        """The brackets that are open at a position, innermost first."""
        depth = 0
        for at in range(position - 1, -1, -1):
            character = self._blank[at]
            if character in ")]}":
                depth += 1
            elif character in "([{":
                if depth == 0:
                    yield at
                else:
                    depth -= 1

    def _is_block(self, brace):
        """Whether a brace begins a block of statements, not an initializer."""
        before = self._blank[:brace].rstrip()
        return bool(re.search(r"(\)|\belse|\bdo|\bconst|\bnoexcept|\boverride|\bmutable|\btry|[;{}]|\]"
                              r"|->\s*[\w:<>*& ]+|\)\s*ABSL_\w+(\([^()]*\))?|ABSL_\w+(\([^()]*\))?)$",
                              before[-120:]))

    def _enclosing_condition(self, start, end):
        """The inside of the parentheses of an `if` or `while` that the range lies in, if it does."""
        for at in self._enclosing(start):
            if self._blank[at] == "{" and self._is_block(at):
                return None
            if self._blank[at] == "(" and re.search(r"\b(if|while)\s*$", self._blank[:at][-10:]):
                inside = (at + 1, self._match[at])
                return inside if end <= inside[1] else None
        return None

    def _statement(self, start, end):
        """The block, and in it the statements, that the range lies in."""
        begin = start
        while begin < end and self._blank[begin].isspace():
            begin += 1
        anchor = begin
        for at in self._enclosing(begin):
            if self._blank[at] == "{" and self._is_block(at):
                return self._statements(at, anchor, end)
            anchor = at
        return None, None, None

    def _statements(self, block, anchor, end):
        at = anchor
        while at > block + 1:
            character = self._blank[at - 1]
            if character == ";":
                break
            if character in ")]":
                at = self._match[at - 1]
                continue
            if character == "}":
                follows = self._blank[at:].lstrip()
                if follows.startswith(("else", "while", ",", ";", ")", ".", "]")):
                    at = self._match[at - 1]
                    continue
                break
            at -= 1
        begin = at
        limit = self._match[block]
        last = end
        while last > anchor and self._blank[last - 1].isspace():
            last -= 1
        at = begin
        while at < limit:
            character = self._blank[at]
            if character in "([{":
                at = self._match[at] + 1
                if character != "{" or at < last:
                    continue
                follows = self._blank[at:limit].lstrip()
                if follows.startswith(("else", "while", ",", ";", ")", ".", "]")):
                    continue
                return block, begin, at
            at += 1
            if character == ";" and at >= last:
                return block, begin, at
        return block, begin, limit

    def _declares(self, start, end):
        """Whether one of the statements declares what may be used, or live on, after the last."""
        at = start
        begins = True
        while at < end:
            if begins and DECLARATION.match(self._blank[at:end].lstrip()):
                return True
            begins = self._blank[at] in ";}"
            if self._blank[at] in "([{":
                at = self._match[at]
                begins = self._blank[at] == "}"
            at += 1
        return False

    def _initializer(self, start, end):
        at = start
        while at < end:
            character = self._blank[at]
            if character in "([{":
                at = self._match[at]
            elif character == "=" and self._blank[at + 1] != "=":
                return at + 1, end - 1
            at += 1
        return None


def crosses(a, b):
    """Whether two switches overlap, and neither lies within the other."""
    return a.start < b.start < a.end < b.end or b.start < a.start < b.end < a.end


def render(text, switches):
    """The text with all switches, no two of which cross."""
    ordered = sorted(switches, key=lambda switch: (switch.start, -switch.end))

    def render_range(begin, end, inner):
        pieces = []
        while inner:
            switch = inner.pop(0)
            nested = []
            while inner and inner[0].end <= switch.end:
                nested.append(inner.pop(0))
            pieces.append(text[begin:switch.start])
            same = render_range(switch.start, switch.end, nested)
            mark = f"/*{switch.number}<*/"
            if switch.is_expression:
                pieces.append(f"{mark}(MUTANT({switch.number}) ? ({switch.changed}\n) : ({same}\n))")
            else:
                pieces.append(f"{mark}if (MUTANT({switch.number})) {{{switch.changed}\n}} else {{{same}\n}}")
            pieces.append(f"/*>{switch.number}*/")
            begin = switch.end
        pieces.append(text[begin:end])
        return "".join(pieces)

    return render_range(0, len(text), ordered)


def mutants_of_line(rendered, line):
    """The numbers of the mutants whose switches a line of a rendered text lies in, innermost first.

    If it lies in none, the last one before it, which may have hidden a declaration.
    """
    lines = rendered.split("\n")
    before = "\n".join(lines[:line])
    begun = re.findall(r"/\*(\d+)<\*/", before)
    ended = set(re.findall(r"/\*>(\d+)\*/", "\n".join(lines[:line - 1])))
    return [int(number) for number in reversed(begun) if number not in ended] or list(
        map(int, begun[-1:]))

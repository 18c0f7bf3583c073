#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests what the report computes, and the check of quoted figures. Needs no matplotlib."""

import json
import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import check_figures
import data
import measure


class DataTest(unittest.TestCase):
    def test_benchmarks_have_medians_of_repetitions(self):
        def run(time, **more):
            return {"name": "x", "run_name": "hit/weakcache/1000/iterations:5/real_time/threads:2",
                    "run_type": "iteration", "real_time": time, "time_unit": "us", **more}

        runs = [run(3), run(1, bytes=7.0), run(2), run(9, run_type="aggregate")]
        time, size = data.benchmark_rows("p", json.dumps({"benchmarks": runs}))
        self.assertEqual(time, {
            "program": "p", "benchmark": "hit/weakcache/1000/threads:2", "figure": "time_ns",
            "median": "2000", "least": "1000", "greatest": "3000", "repetitions": 3,
        })
        self.assertEqual((size["figure"], size["median"]), ("bytes", "7"))

    def test_a_failed_benchmark_is_no_figure(self):
        runs = [{"name": "x", "error_occurred": True, "error_message": "wrong answer"}]
        with self.assertRaisesRegex(ValueError, "wrong answer"):
            list(data.benchmark_rows("p", json.dumps({"benchmarks": runs})))

    def test_session_ends_with_the_books_of_its_end(self):
        text = ("store,lookups,decodes,live_bytes,peak_bytes\n"
                "LRU,1,1,1000000,2000000\nLRU,2,2,3000000,4000000\nLRU,2,2,500000,4000000\n")
        (row,) = data.session_summary(data.table(text))
        self.assertEqual(list(row.values()), ["LRU", "2", "2", "4.0", "2.0", "0.5"])

    def test_hit_ratios_have_a_row_for_each_policy(self):
        rows = list(data.hit_ratio_rows("t", ["1 %"], "capacity,a_objects,a_bytes\n5,.5,.25\n"))
        self.assertEqual(rows, [{"trace": "t", "share": "1 %", "policy": "a", "capacity": "5",
                                 "objects": ".5", "bytes": ".25"}])

    def test_a_trace_weighs_what_its_distinct_objects_do(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "t.txt"
            path.write_text("a 10\nb 0\n\na 20\nc\n")
            self.assertEqual(data.trace_weight(path), 22)

    def test_commands_are_quoted_for_a_shell(self):
        self.assertEqual(measure.quoted("--capacity=10"), "--capacity=10")
        self.assertEqual(measure.quoted("^(a|b)$"), "'^(a|b)$'")


SPEED = """program,benchmark,figure,median
p,hit/a/1,time_ns,10.04
p,hit/a/2,time_ns,123.4
p,hit/b/1,time_ns,20
p,hit/b/2,time_ns,65432
"""


class CheckFiguresTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.write("speed", SPEED)
        self.write("runs", "part,mode\nspeed,full\n")

    def write(self, name, text):
        (pathlib.Path(self.folder.name) / f"{name}.csv").write_text(text)

    def update(self, text):
        report = check_figures.Report(pathlib.Path(self.folder.name))
        document = check_figures.Document(text, report)
        document.update()
        return document

    def phrase(self, quoted, expression, text):
        return self.update(f'{text}\n<!-- figures\n"{quoted}" = {expression}\n-->\n')

    def test_a_figure_is_compared_as_it_is_written(self):
        for text, expected in (("10 ns", []), ("10.0 ns", []), ("10.1 ns", ["10.0 ns"]),
                               ("11 ns", ["10 ns"]), ("9,000 ns", ["10 ns"])):
            document = self.phrase(text, "speed[p, hit/a/1].median", f"It takes {text}.")
            found = [mistake.split("“")[2].split("”")[0] for mistake in document.mistakes]
            self.assertEqual((document.checked, found), (1, expected), text)

    def test_a_new_figure_is_put_into_text_and_comment(self):
        document = self.phrase("11 ns each", "speed[p, hit/a/1].median", "It takes 11\nns each.")
        self.assertEqual(
            document.text,
            'It takes 10\nns each.\n<!-- figures\n"10 ns each" = speed[p, hit/a/1].median\n-->\n',
        )

    def test_two_numbers_are_the_least_and_the_greatest(self):
        ratio = "speed[p, hit/b/{1,2}].median / speed[p, hit/a/{1,2}].median"
        self.assertEqual(self.phrase("2 to 530 times", ratio, "2 to 530 times").mistakes, [])
        mean = "mean speed[p, hit/a/{1,2}].median / 10"
        self.assertEqual(self.phrase("6.67 x", mean, "6.67 x").mistakes, [])

    def test_what_can_not_be_right_is_a_mistake(self):
        for quoted, expression, text in (
            ("10 ns", "speed[p, hit/a/1].median", "It takes 10 ns, or 10 ns."),
            ("10 ns", "speed[p, hit/a/1].median", "It takes ten."),
            ("10 ns", "speed[p, hit/a/{1,2}].median", "10 ns"),
            ("10 ns", "speed[p, hit/c/1].median", "10 ns"),
            ("10 ns", "speed p hit", "10 ns"),
        ):
            self.assertEqual(len(self.phrase(quoted, expression, text).mistakes), 1, text)

    def test_what_was_not_measured_is_left_alone(self):
        document = self.phrase("10 ns", "other[p].median", "10 ns")
        self.assertEqual((document.mistakes, document.not_measured), ([], 1))
        self.write("runs", "part,mode\nspeed,quick\n")
        document = self.phrase("10 ns", "speed[p, hit/c/1].median", "10 ns")
        self.assertEqual((document.mistakes, document.not_measured), ([], 1))

    def test_a_table_is_filled(self):
        comment = ("<!-- figures of a table\ncolumns: a, -, b\n"
                   "one = speed[p, hit/COLUMN/1].median\nsame = speed[p, hit/COLUMN/2].median\n"
                   "same = speed[p, hit/COLUMN/{1,2}].median\n-->\n")
        table = "| x | a | n | b |\n|---|---|---|---|\n| one | 9 | 5 | |\n| same | 1 | | 1 |\n"
        document = self.update(f"{comment}\n{table}| same | 1, 2 | | 1 to 2 |\n")
        self.assertEqual(
            document.text.splitlines()[-3:],
            ["| one | 10 | 5 | |", "| same | 123 | | 65,400 |", "| same | 10, 123 | | 20 to 65,430 |"],
        )


if __name__ == "__main__":
    unittest.main()

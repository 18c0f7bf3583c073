# SPDX-License-Identifier: Apache-2.0

"""Counts the tests of one `bazel test` from its --build_event_json_file.

Prints "PASSED FAILED" on stdout and the end of each failed test's log on stderr.
"""

import json
import sys
import urllib.parse
import urllib.request

LOG_LINES = 40


def read_events(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError:
        return  # Bazel did not come as far as writing it.
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return  # Bazel was stopped in the middle of a line.


def print_log_tail(label, uri):
    path = urllib.request.url2pathname(urllib.parse.urlparse(uri).path)
    print(f"--- {label}: end of {path}", file=sys.stderr)
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            sys.stderr.writelines(file.readlines()[-LOG_LINES:])
    except OSError as error:
        print(error, file=sys.stderr)


def main():
    tests = set()
    passed = set()
    for event in read_events(sys.argv[1]):
        event_id = event.get("id", {})
        if "testSize" in event.get("configured", {}):
            tests.add(event_id["targetConfigured"]["label"])
        elif "testSummary" in event:
            label = event_id["testSummary"]["label"]
            tests.add(label)
            if event["testSummary"].get("overallStatus") in ("PASSED", "FLAKY"):
                passed.add(label)
        elif event.get("testResult", {}).get("status", "PASSED") != "PASSED":
            for output in event["testResult"].get("testActionOutput", []):
                if output.get("name") == "test.log":
                    print_log_tail(event_id["testResult"]["label"], output["uri"])
    for label in sorted(tests - passed):
        print(f"FAILED: {label}", file=sys.stderr)
    print(len(passed), len(tests - passed))


main()

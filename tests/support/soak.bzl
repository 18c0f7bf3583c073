# SPDX-License-Identifier: Apache-2.0

"""Soaks: programs that run for as long as told, and as a test for a moment."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_test")

def soak(name, operations, deps):
    """A program `name`.cc, and a test `name`_test of it.

    Args:
      name: of the program.
      operations: of the test.
      deps: as of cc_binary, besides what all soaks need.
    """
    common = {
        "srcs": [name + ".cc"],
        "deps": deps + ["//tests/support:soak"],
    }
    cc_binary(name = name, testonly = True, **common)
    cc_test(
        name = name + "_test",
        args = ["--operations=%d" % operations],
        tags = ["cpu:4"],
        **common
    )

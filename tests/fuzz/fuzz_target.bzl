# SPDX-License-Identifier: Apache-2.0

"""Fuzz targets: tools/fuzz.sh runs them under libFuzzer, everything else on their corpus."""

load("@rules_cc//cc:defs.bzl", "cc_test")

def fuzz_target(name, script):
    """A fuzz target with its corpus in the directory `name`_corpus.

    Args:
      name: of the target.
      script: the function that runs one, of those in //tests/script.
    """
    corpus = native.glob([name + "_corpus/*"])
    cc_test(
        name = name,
        srcs = ["script_fuzz.cc"] + select({
            "//tools:fuzz": [],
            "//conditions:default": ["main.cc"],
        }),
        args = ["$(location %s)" % file for file in corpus],
        data = corpus,
        linkopts = select({
            # Bazel links with the driver for C, which leaves out the C++ part of the sanitizers.
            "//tools:fuzz": [
                "-fsanitize=fuzzer",
                "-fsanitize-link-c++-runtime",
            ],
            "//conditions:default": [],
        }),
        tags = ["one-thread"],
        local_defines = ["WEAKCACHE_FUZZED_SCRIPT=" + script],
        deps = ["//tests/script:scripts"],
    )

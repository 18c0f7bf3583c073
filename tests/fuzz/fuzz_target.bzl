# SPDX-License-Identifier: Apache-2.0

"""Fuzz targets: tools/fuzz.sh runs them under libFuzzer, everything else on their corpus."""

load("@rules_cc//cc:defs.bzl", "cc_test")

def fuzz_target(name, srcs, deps, **kwargs):
    """A fuzz target with its corpus in the directory `name`_corpus.

    Args:
      name: of the target.
      srcs: define LLVMFuzzerTestOneInput.
      deps: what they use.
      **kwargs: of cc_test.
    """
    corpus = native.glob([name + "_corpus/*"])
    cc_test(
        name = name,
        srcs = srcs + select({
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
        deps = deps,
        **kwargs
    )

def script_fuzz_target(name, script):
    """A fuzz target for scripts.

    Args:
      name: of the target.
      script: the function that runs one, of those in //tests/script.
    """
    fuzz_target(
        name = name,
        srcs = ["script_fuzz.cc"],
        local_defines = ["WEAKCACHE_FUZZED_SCRIPT=" + script],
        deps = ["//tests/script:scripts"],
    )

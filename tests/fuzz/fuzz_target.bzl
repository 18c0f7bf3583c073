"""Fuzz targets: tools/fuzz.sh runs them under libFuzzer, everything else on their corpus."""

load("@rules_cc//cc:defs.bzl", "cc_test")

def fuzz_target(name, deps):
    """A fuzz target `name`.cc, with its corpus in the directory `name`_corpus.

    Args:
      name: of the target.
      deps: as of cc_test.
    """
    corpus = native.glob([name + "_corpus/*"])
    cc_test(
        name = name,
        srcs = [name + ".cc"] + select({
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
        deps = deps,
    )

# SPDX-License-Identifier: Apache-2.0

"""Checks that a public header needs no other to be included before it."""

load("@rules_cc//cc:defs.bzl", "cc_library")

_WITHOUT_EXCEPTIONS_AND_RTTI = [
    "-fno-exceptions",
    "-fno-rtti",
]

def compile_each_header(name, headers):
    """Compiles each header alone, as it is and without exceptions and run-time type information.

    That its library is named like the header and has the dependencies it needs is checked as well.

    Args:
      name: of a library to depend on.
      headers: files of the calling package.
    """
    alone = []
    for header in headers:
        base = header[:-len(".h")]
        native.genrule(
            name = base + "_alone_source",
            outs = [base + "_alone.cc"],
            # Twice: the second time the guard has to hold.
            cmd = "for i in 1 2; do echo '#include \"weakcache/%s/%s\"'; done > $@" %
                  (native.package_name(), header),
            visibility = ["//visibility:private"],
        )
        for suffix, copts in [("", []), ("_no_exceptions", _WITHOUT_EXCEPTIONS_AND_RTTI)]:
            cc_library(
                name = base + "_alone" + suffix,
                testonly = True,
                srcs = [base + "_alone.cc"],
                copts = copts,
                visibility = ["//visibility:private"],
                deps = [":" + base],
            )
            alone.append(":" + base + "_alone" + suffix)
    cc_library(
        name = name,
        testonly = True,
        visibility = ["//tests:__subpackages__"],
        deps = alone,
    )

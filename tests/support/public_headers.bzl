# SPDX-License-Identifier: Apache-2.0

"""Checks that a public header needs no other to be included before it."""

load("@rules_cc//cc:defs.bzl", "cc_library")

_WITHOUT_EXCEPTIONS_AND_RTTI = [
    "-fno-exceptions",
    "-fno-rtti",
]

def compile_each_header(name, headers):
    """Compiles each header alone, and all of them without exceptions and run-time type information.

    That its library is named like the header and has the dependencies it needs is checked as well.

    Args:
      name: of a library to depend on.
      headers: files of the calling package.
    """
    bases = [header[:-len(".h")] for header in headers]
    for base in bases:
        # Twice: the second time the guard has to hold.
        _including_library(base + "_alone", [base, base], [":" + base])
    _including_library(
        name + "_no_exceptions",
        bases,
        [":" + base for base in bases],
        copts = _WITHOUT_EXCEPTIONS_AND_RTTI,
    )
    cc_library(
        name = name,
        testonly = True,
        visibility = ["//tests:__subpackages__"],
        deps = [":" + base + "_alone" for base in bases] + [":" + name + "_no_exceptions"],
    )

def _including_library(name, bases, deps, copts = []):
    lines = ["#include \"weakcache/%s/%s.h\"" % (native.package_name(), base) for base in bases]
    native.genrule(
        name = name + "_source",
        outs = [name + ".cc"],
        cmd = "printf '%s\\n' " + " ".join(["'%s'" % line for line in lines]) + " > $@",
        visibility = ["//visibility:private"],
    )
    cc_library(
        name = name,
        testonly = True,
        srcs = [name + ".cc"],
        copts = copts,
        visibility = ["//visibility:private"],
        deps = deps,
    )

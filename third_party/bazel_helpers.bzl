# SPDX-License-Identifier: Apache-2.0

"""Stand-ins for the repositories that Bazel itself wants to download."""

def _inline_repository_impl(ctx):
    for path, content in ctx.attr.files.items():
        ctx.file(path, content, False)

inline_repository = repository_rule(
    implementation = _inline_repository_impl,
    doc = "A repository whose few files are written in place.",
    attrs = {
        "files": attr.string_dict(mandatory = True, doc = "Path to content."),
    },
)

def _installed_rules_impl(ctx):
    source = ctx.path(ctx.attr.path)
    if not source.exists:
        fail("@{}: {} not found: install {}, or leave weakcache_offline_bazel() out of WORKSPACE".format(
            ctx.name,
            source,
            ctx.attr.system_package,
        ))
    for entry in source.readdir():
        ctx.symlink(entry, entry.basename)

installed_rules = repository_rule(
    implementation = _installed_rules_impl,
    doc = "Bazel rules that a system package installed.",
    attrs = {
        "path": attr.string(mandatory = True),
        "system_package": attr.string(mandatory = True),
    },
    local = True,
)

# Every Bazel that reads a WORKSPACE has these rules built in.
NATIVE_RULES_CC = {
    "BUILD": "",
    "cc/BUILD": "",
    "cc/defs.bzl": "".join([
        "{0} = native.{0}\n".format(rule)
        for rule in [
            "cc_binary",
            "cc_import",
            "cc_library",
            "cc_proto_library",
            "cc_test",
            "cc_toolchain",
            "cc_toolchain_suite",
            "objc_library",
        ]
    ]),
}

# `bazel test` resolves this label even when no coverage is collected.
EMPTY_COVERAGE_TOOLS = {
    "BUILD": """\
filegroup(
    name = "coverage_report_generator",
    visibility = ["//visibility:public"],
)
""",
}

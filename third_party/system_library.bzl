# SPDX-License-Identifier: Apache-2.0

"""A repository rule that gives installed libraries their usual Bazel labels.

Compile and link flags come from pkg-config, so nothing is downloaded and nothing is built twice; a
library that is not installed is an error that names the package to install. Bazel fetches a
repository when something first depends on it: a library that nothing uses may be missing.
"""

_DEFAULT_INCLUDE_DIRS = ["/usr/include", "/usr/local/include"]

_LOAD = """\
load("@rules_cc//cc:defs.bzl", "cc_library")
"""

_HEADERS_TEMPLATE = """\
cc_library(
    name = "{name}",
    hdrs = glob(["{dir}/**"]),
    includes = ["{dir}"],
    visibility = ["//visibility:public"],
)
"""

_LIBRARY_TEMPLATE = """\
cc_library(
    name = "{name}",
    defines = {defines},
    linkopts = {linkopts},
    visibility = ["//visibility:public"],
    deps = {deps},
)
"""

def _missing(ctx, what):
    fail("@{}: {} not found: install {} (./bazelw does it on Debian and Ubuntu)".format(
        ctx.name,
        what,
        ctx.attr.system_package,
    ))

def _check_headers(ctx):
    for header in ctx.attr.headers:
        if not any([ctx.path(dir + "/" + header).exists for dir in _DEFAULT_INCLUDE_DIRS]):
            _missing(ctx, "header <{}>".format(header))

def _pkg_config(ctx, module):
    """Returns the compile and link flags of a module, or None if it is not installed."""
    tool = ctx.which("pkg-config")
    if not tool:
        fail("@{}: pkg-config not found: install pkg-config".format(ctx.name))
    result = ctx.execute([tool, "--cflags", "--libs", module])
    if result.return_code != 0:
        return None
    return [flag for flag in result.stdout.strip().split(" ") if flag]

def _flags(ctx, spec):
    """Returns the flags of all words of a target's spec, or None if a module is not installed."""
    flags = []
    for word in spec.split(" "):
        if word.startswith("-"):
            flags.append(word)
        elif word:
            found = _pkg_config(ctx, word)
            if found == None:
                return None
            flags += found
    return flags

def _headers_label(ctx, header_dirs, dir):
    """Returns the label of a target that adds `dir` to the system include path."""
    if dir not in header_dirs:
        # Bazel refuses headers outside of the repository unless the compiler looks there anyway.
        name = "include_{}".format(len(header_dirs))
        ctx.symlink(dir, name)
        header_dirs[dir] = name
    return "//:" + header_dirs[dir] + "_headers"

def _link_flags(ctx, flags):
    if ctx.attr.header_only:
        return []
    linkopts = []
    for flag in flags:
        if flag.startswith("-L"):
            linkopts.append("-Wl,-rpath," + flag[2:])
        if flag[:2] not in ["-I", "-D"]:
            linkopts.append(flag)
    if not linkopts:
        return []

    # pkg-config names every library that might be needed; keep those that are.
    return ["-Wl,--push-state,--as-needed"] + linkopts + ["-Wl,--pop-state"]

def _library(ctx, header_dirs, name, flags):
    return _LIBRARY_TEMPLATE.format(
        name = name,
        defines = [flag[2:] for flag in flags if flag.startswith("-D")],
        deps = [
            _headers_label(ctx, header_dirs, flag[2:])
            for flag in flags
            if flag.startswith("-I") and flag[2:] not in _DEFAULT_INCLUDE_DIRS
        ],
        linkopts = _link_flags(ctx, flags),
    )

def _system_library_impl(ctx):
    _check_headers(ctx)
    packages = {"": []}
    header_dirs = {}
    absent = []
    for label, spec in ctx.attr.targets.items():
        flags = _flags(ctx, spec)
        if flags == None:
            absent.append(spec)
            continue
        package, _, name = label.partition(":")
        packages.setdefault(package, []).append(_library(ctx, header_dirs, name, flags))
    if len(absent) == len(ctx.attr.targets):
        _missing(ctx, "pkg-config module " + absent[0])
    packages[""] += [
        _HEADERS_TEMPLATE.format(name = dir + "_headers", dir = dir)
        for dir in header_dirs.values()
    ]
    for package, libraries in packages.items():
        ctx.file(package + "/BUILD" if package else "BUILD", "\n".join([_LOAD] + libraries), False)

system_library = repository_rule(
    implementation = _system_library_impl,
    attrs = {
        "header_only": attr.bool(
            doc = "Take no link flags from pkg-config.",
        ),
        "headers": attr.string_list(
            doc = "Headers that must be in a default include directory.",
        ),
        "system_package": attr.string(
            mandatory = True,
            doc = "The Debian package, for error messages.",
        ),
        "targets": attr.string_dict(
            mandatory = True,
            doc = "\"package:name\" to the pkg-config modules and literal flags that make it up, " +
                  "separated by spaces. A target whose module is not installed does not exist, " +
                  "as versions differ; it is an error if that leaves no target.",
        ),
    },
    configure = True,  # After an upgrade of the system: bazel sync --configure
    environ = ["PKG_CONFIG_PATH"],
)

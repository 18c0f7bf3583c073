#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keeps CMake's list of files that of Bazel's BUILD files, and the version everywhere the same.

    tools/check_cmake_files.py               fails if cmake/library_files.cmake is out of date, or
                                             MODULE.bazel has another version than weakref/version.h
    tools/check_cmake_files.py --write       writes it
    tools/check_cmake_files.py --tests FILE  writes the tests and examples for CMake, which asks for
                                             them whenever it configures

The BUILD files and their macros are read as what they are: Starlark, a subset of Python.
"""

import argparse
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARY_FILES = ROOT / "cmake" / "library_files.cmake"
# As CMake names them, where that is not the label's last part.
ABSEIL_TARGETS = {"absl/flags:flag": "flags", "absl/flags:parse": "flags_parse"}
# The optional parts of the library, by what they link besides Abseil and what all of them do, which
# TIER has: no application without a second tier links any of it.
PARTS = {"hiredis": "REDIS_TIER", "rocksdb": "ROCKSDB_TIER"}
TIER_LIBRARIES = {"xxhash", "zstd"}
# Bazel's timeouts, in seconds, by the size of a test.
TIMEOUTS = {"small": 60, "medium": 300, "large": 900, "enormous": 3600}


class Rule:
    """A cc_library, cc_binary or cc_test."""

    def __init__(self, kind, package, attributes):
        self.kind = kind
        self.package = package
        self.name = attributes["name"]
        self.label = f"//{package}:{self.name}"
        self.attributes = attributes

    def labels(self, attribute):
        return [absolute(label, self.package) for label in self.attributes.get(attribute, [])]

    def files(self, attribute, *suffixes):
        """The files of the folder among an attribute's labels, from the project's root."""
        return [
            f"{self.package}/{name}"
            for name in self.attributes.get(attribute, [])
            if name.endswith(suffixes) and not name.startswith((":", "/", "@"))
        ]

    @property
    def sources(self):
        return self.files("srcs", ".cc")


def absolute(label, package):
    """//a/b:c for each spelling of it; the label of an external repository as it is."""
    if label.startswith("@"):
        return label
    if label.startswith("//"):
        return label if ":" in label else f"{label}:{label.rsplit('/', 1)[1]}"
    return f"//{package}:{label.lstrip(':')}"


class Native:
    """What Bazel offers to the macros as `native`, and to the BUILD files without it."""

    def __init__(self, build, package):
        self.build = build
        self.package = package

    def package_name(self):
        return self.package

    def glob(self, patterns, exclude=(), **_):
        folder = ROOT / self.package
        found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
        found -= {path for pattern in exclude for path in folder.glob(pattern)}
        return sorted(str(path.relative_to(folder)) for path in found)

    def genrule(self, **_):
        pass


class Build:
    """The rules of all BUILD files in some folders."""

    def __init__(self, folders):
        self.rules = {}
        # By target: the public headers of which each is compiled alone.
        self.headers_alone = {}
        for folder in folders:
            for path in sorted((ROOT / folder).rglob("BUILD")):
                package = str(path.parent.relative_to(ROOT))
                if not package.startswith("tests/consumer"):
                    self.evaluate(path, package)

    def evaluate(self, path, package):
        """Runs a BUILD file, or a file of macros on behalf of one; returns what it defines."""
        native = Native(self, package)
        scope = {
            "native": native,
            "glob": native.glob,
            "select": lambda branches: branches["//conditions:default"],
            "load": lambda label, *names: self.load(scope, label, names, package),
            "alias": self.ignore,
            "config_setting": self.ignore,
            "exports_files": self.ignore,
            "filegroup": self.ignore,
            "genrule": self.ignore,
            "package": self.ignore,
            "test_suite": self.ignore,
        }
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), scope)
        return scope

    @staticmethod
    def ignore(*_, **__):
        pass

    def load(self, scope, label, names, package):
        loaded = {}
        if label.startswith("@rules_cc//"):
            for name in names:
                loaded[name] = lambda kind=name, **attributes: self.add(kind, package, attributes)
        elif names == ("compile_each_header",):
            loaded["compile_each_header"] = lambda name, headers: self.headers_alone.update(
                {f"//{package}:{name}": [f"{package}/{header}" for header in headers]}
            )
        elif label.startswith("@"):
            loaded = dict.fromkeys(names, self.ignore)
        else:
            path = ROOT / absolute(label, package).removeprefix("//").replace(":", "/")
            loaded = self.evaluate(path, package)
        scope.update((name, loaded[name]) for name in names)

    def add(self, kind, package, attributes):
        if kind in ("cc_library", "cc_binary", "cc_test"):
            rule = Rule(kind, package, attributes)
            self.rules[rule.label] = rule

    def closure(self, rule):
        """Returns the labels of everything that a rule depends on, in the order of its BUILD file."""
        found = {}
        waiting = rule.labels("deps")
        while waiting:
            label = waiting.pop(0)
            if label not in found:
                found[label] = True
                if label in self.rules:
                    waiting += self.rules[label].labels("deps")
        return list(found)


# --- The library -----------------------------------------------------------------------------------


def abseil_targets(labels):
    prefix = "@com_google_absl//"
    names = [label.removeprefix(prefix) for label in labels if label.startswith(prefix)]
    return [
        ABSEIL_TARGETS.get(name, name.rsplit(":" if ":" in name else "/", 1)[1]) for name in names
    ]


def foreign_libraries(build, rule):
    """Returns the repositories besides Abseil's that a rule of the library depends on."""
    return {
        label.lstrip("@").split("//")[0]
        for label in build.closure(rule)
        if label.startswith("@") and not label.startswith("@com_google_absl//")
    }


def library_of(build, rule):
    """Returns the library in CMake that has a rule's sources, as the lists of files name it."""
    if rule.package.startswith("weakref"):
        return "WEAKREF"
    foreign = foreign_libraries(build, rule)
    unknown = foreign - TIER_LIBRARIES - set(PARTS)
    if unknown:
        sys.exit(f"{rule.label}: the library may not use {', '.join(sorted(unknown))}")
    for library, part in PARTS.items():
        if library in foreign:
            return part
    if foreign:
        return "TIER"
    # What no target of the core uses is there for the tiers.
    core = [r for r in build.rules.values() if r.package == "cache" and not foreign_libraries(build, r)]
    used = rule in core or any(rule.label in build.closure(r) for r in core)
    return "CACHE" if used or not rule.sources else "TIER"


def cmake_list(name, values):
    return "\n".join([f"set({name}", *(f"  {value}" for value in sorted(set(values))), ")"])


def library_files():
    """Returns the text of cmake/library_files.cmake."""
    build = Build(["weakref", "cache"])
    libraries = ["WEAKREF", "CACHE", "TIER", *PARTS.values()]
    sources = {library: [] for library in libraries}
    abseil = {library: [] for library in libraries}
    for rule in build.rules.values():
        if not rule.attributes.get("testonly"):
            library = library_of(build, rule)
            sources[library] += rule.sources
            abseil[library] += abseil_targets(rule.labels("deps"))
    if set(abseil["WEAKREF"]) - {"core_headers"}:
        sys.exit("weakref/ uses more of Abseil than headers of absl/base: CMakeLists.txt has to know")
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "# Written by tools/check_cmake_files.py --write, from the BUILD files.",
    ]
    for library in libraries:
        lines += ["", cmake_list(f"WEAKCACHE_{library}_SOURCES", sources[library])]
    unlisted = {name for names in abseil.values() for name in names} - set(abseil["CACHE"])
    if unlisted:
        sys.exit(f"Of Abseil, the tiers may use what the core does, and not: {', '.join(unlisted)}")
    lines += [
        "",
        "# Abseil's targets in CMake; the pkg-config module of NAME is absl_NAME.",
        cmake_list("WEAKCACHE_ABSEIL", abseil["CACHE"]),
        "",
    ]
    return "\n".join(lines)


def wrong_version():
    """Says where the version is not that of weakref/version.h, or returns None."""
    header = (ROOT / "weakref" / "version.h").read_text(encoding="utf-8")
    numbers = re.findall(r"#define WEAKCACHE_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    version = ".".join(numbers)
    module = (ROOT / "MODULE.bazel").read_text(encoding="utf-8")
    # The module's own, and that of the example in its comment.
    if re.findall(r'"weakcache",\s+version = "([^"]+)"', module) != [version, version]:
        return f"MODULE.bazel: the version is not {version}"
    return None


# --- Tests and examples ----------------------------------------------------------------------------


def target_name(label):
    """The name in CMake of a cc_library of the tests or examples."""
    return "weakcache_" + label.removeprefix("//").replace("/", "_").replace(":", "_")


class CMakeTargets:
    """Writes calls of the functions in cmake/WeakcacheTests.cmake."""

    def __init__(self, build):
        self.build = build
        self.lines = [
            "# Written by tools/check_cmake_files.py --tests, from the BUILD files.",
        ]

    def call(self, function, name, **arguments):
        self.lines.append(f"{function}({name}")
        for keyword, values in arguments.items():
            values = [values] if isinstance(values, (str, int)) else values
            if values:
                quoted = " ".join(f'"{value}"' for value in values)
                self.lines.append(f"  {keyword} {quoted}")
        self.lines.append(")")

    def dependencies(self, rule):
        """Returns what to link, and which libraries besides Abseil have to be installed for it."""
        link, needs, absl = [], [], []
        closure = self.build.closure(rule)
        for label in closure:
            if label in self.build.rules and self.build.rules[label].sources:
                if label.startswith(("//tests", "//examples")):
                    link.append(target_name(label))
                elif label.startswith("//cache"):
                    library = library_of(self.build, self.build.rules[label])
                    if library != "CACHE":
                        needs.append(library.lower())
            elif label in self.build.headers_alone:
                link.append(target_name(label))
            elif label.startswith("@com_google_googletest"):
                needs.append("gtest_main" if label.endswith("gtest_main") else "gtest")
            elif label.startswith("@com_google_absl"):
                absl += abseil_targets([label])
            elif label.startswith("@"):
                needs.append(label.removeprefix("@").split("//")[0])
        layers = {label.removeprefix("//").split("/")[0].split(":")[0] for label in closure}
        if "cache" in layers or absl:
            link.append("weakcache::weakcache")
        elif "weakref" in layers:
            link.append("weakcache::weakref")
        needs += [f"absl_{name}" for name in absl if name.startswith("flags")]
        needs = list(dict.fromkeys(needs))
        if "gtest_main" in needs:
            needs = [name for name in needs if name != "gtest"]
        return {"LINK": link, "NEEDS": needs}

    def compiled(self, rule):
        return {
            "SOURCES": rule.sources,
            "OPTIONS": rule.attributes.get("copts", []),
            "DEFINES": rule.attributes.get("local_defines", []),
            **self.dependencies(rule),
        }

    def library(self, rule):
        self.call("weakcache_test_library", target_name(rule.label), **self.compiled(rule))

    def program(self, rule):
        self.call("weakcache_program", rule.name, FOLDER=rule.package, **self.compiled(rule))

    def test(self, rule):
        tags = rule.attributes.get("tags", [])
        arguments = [
            word.replace("$(location ", f"{ROOT}/{rule.package}/").replace(")", "")
            for word in rule.attributes.get("args", [])
        ]
        folders = rule.package.split("/")
        self.call(
            "weakcache_test",
            rule.name,
            FOLDER=rule.package,
            ARGUMENTS=arguments,
            # The program finds its data by their paths in the project.
            DATA=[] if arguments else rule.files("data", ".txt"),
            PROGRAMS=[
                self.build.rules[label].name
                for label in rule.labels("data")
                if label in self.build.rules
            ],
            LABELS=folders[1:2] if folders[0] == "tests" else ["examples"],
            SERIAL=["TRUE"] if "cpu:4" in tags else [],
            TIMEOUT=TIMEOUTS[rule.attributes.get("size", "medium")],
            **self.compiled(rule),
        )


def is_cxx_only(rule):
    """Whether CMake can run a test: its data are files, or programs of the same build."""
    return all(
        not label.startswith("//") or label.startswith(f"//{rule.package}:")
        for label in rule.attributes.get("data", [])
    )


def tests():
    """Returns CMake's calls for the tests and examples, libraries first."""
    build = Build(["weakref", "cache", "tests", "examples"])
    targets = CMakeTargets(build)
    for label, headers in build.headers_alone.items():
        targets.call("weakcache_headers_alone", target_name(label), HEADERS=headers)
    ours = [r for r in build.rules.values() if r.package.startswith(("tests", "examples"))]
    for rule in ours:
        if rule.kind == "cc_library" and rule.sources:
            targets.library(rule)
    for rule in ours:
        if rule.kind == "cc_binary" and rule.package.startswith("examples"):
            targets.program(rule)
    for rule in ours:
        if rule.kind == "cc_test" and is_cxx_only(rule):
            targets.test(rule)
    names = collections.Counter(
        r.name for r in ours if r.kind == "cc_test" or r.package.startswith("examples"))
    for name, count in names.items():
        if count > 1:
            sys.exit(f"{name}: {count} targets have this name, which in CMake may be only one's")
    build_files = [path for folder in ("weakref", "cache", "tests", "examples")
                   for path in sorted((ROOT / folder).rglob("BUILD"))]
    targets.lines.append("set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS")
    targets.lines += [f'  "{path}"' for path in build_files]
    targets.lines.append(")")
    return "\n".join(targets.lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--tests", metavar="FILE", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.tests:
        arguments.tests.write_text(tests(), encoding="utf-8")
        return 0
    text = library_files()
    if arguments.write:
        LIBRARY_FILES.write_text(text, encoding="utf-8")
    elif not LIBRARY_FILES.exists() or LIBRARY_FILES.read_text(encoding="utf-8") != text:
        print("cmake/library_files.cmake is out of date: run tools/check_cmake_files.py --write")
        return 1
    wrong = wrong_version()
    if wrong:
        print(wrong)
        return 1
    tests()  # A BUILD file that it cannot read must not wait for somebody to run CMake.
    return 0


if __name__ == "__main__":
    sys.exit(main())

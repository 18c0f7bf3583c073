# SPDX-License-Identifier: Apache-2.0

"""The repositories that weakcache needs. In a WORKSPACE that has weakcache as @weakcache:

    load("@weakcache//third_party:repositories.bzl", "weakcache_dependencies", "weakcache_offline_bazel")

    weakcache_dependencies()

    weakcache_offline_bazel()  # Leave out where Bazel may download its own helpers.

Neither macro replaces a repository that was declared before: a project with its own Abseil keeps it.
"""

load("//third_party:abseil.bzl", "ABSEIL_MODULES")
load("//third_party:bazel_helpers.bzl", "EMPTY_COVERAGE_TOOLS", "NATIVE_RULES_CC", "inline_repository", "installed_rules")
load("//third_party:system_library.bzl", "system_library")

def _maybe(rule, name, **attrs):
    if not native.existing_rule(name):
        rule(name = name, **attrs)

def weakcache_dependencies():
    """Declares the libraries that weakcache, its tests and its benchmarks use."""
    _maybe(
        inline_repository,
        name = "rules_cc",
        files = NATIVE_RULES_CC,
    )
    _maybe(
        system_library,
        name = "com_google_absl",
        headers = ["absl/base/config.h"],
        system_package = "libabsl-dev",
        targets = ABSEIL_MODULES,
    )

    # Second tiers: of what follows, only these are the library's own, for //cache:redis_tier and
    # //cache:rocksdb_tier. The benchmarks use RocksDB, too.
    _maybe(
        system_library,
        name = "hiredis",
        headers = ["hiredis/hiredis.h"],
        system_package = "libhiredis-dev",
        targets = {":hiredis": "hiredis"},
    )
    _maybe(
        system_library,
        name = "rocksdb",
        headers = ["rocksdb/cache.h"],
        system_package = "librocksdb-dev",
        targets = {":rocksdb": "rocksdb"},
    )
    _maybe(
        system_library,
        name = "xxhash",
        headers = ["xxhash.h"],
        system_package = "libxxhash-dev",
        targets = {":xxhash": "libxxhash"},
    )
    _maybe(
        system_library,
        name = "zstd",
        headers = ["zstd.h"],
        system_package = "libzstd-dev",
        targets = {":zstd": "libzstd"},
    )

    # Tests and benchmarks.
    _maybe(
        system_library,
        name = "com_google_googletest",
        headers = ["gtest/gtest.h", "gmock/gmock.h"],
        system_package = "libgtest-dev libgmock-dev",
        targets = {
            # As upstream, both targets include GoogleMock.
            ":gtest": "gmock",
            ":gtest_main": "gmock_main",
        },
    )
    _maybe(
        system_library,
        name = "com_github_google_benchmark",
        headers = ["benchmark/benchmark.h"],
        system_package = "libbenchmark-dev",
        targets = {
            ":benchmark": "benchmark -pthread",
            ":benchmark_main": "-lbenchmark_main benchmark -pthread",
        },
    )
    _maybe(
        system_library,
        name = "relacy",
        headers = ["relacy/relacy.hpp"],
        system_package = "relacy-dev",
        targets = {":relacy": ""},
    )
    _maybe(
        system_library,
        name = "onetbb",
        headers = ["oneapi/tbb/version.h"],
        system_package = "libtbb-dev",
        targets = {":tbb": "tbb"},
    )
    _maybe(
        system_library,
        name = "boost",
        headers = ["boost/version.hpp"],
        system_package = "libboost-dev",
        targets = {":headers": ""},
    )

    # Examples; zlib also reads the benchmarks' traces.
    _maybe(
        system_library,
        name = "stb",
        header_only = True,
        headers = ["stb/stb_image.h"],
        system_package = "libstb-dev",
        targets = {
            ":stb_image": "stb",
            ":stb_image_resize": "stb",
            ":stb_image_write": "stb",
        },
    )
    _maybe(
        system_library,
        name = "httplib",
        headers = ["httplib.h"],
        system_package = "libcpp-httplib-dev",
        targets = {":httplib": "cpp-httplib"},
    )
    _maybe(
        system_library,
        name = "zlib",
        headers = ["zlib.h"],
        system_package = "zlib1g-dev",
        targets = {":zlib": "zlib"},
    )

def weakcache_offline_bazel():
    """Declares what Bazel itself would download, so that it builds without a network.

    The Java and protocol buffer rules are Debian's, and fit Debian's Bazel.
    """
    _maybe(
        installed_rules,
        name = "rules_java",
        path = "/usr/share/bazel/rules/java",
        system_package = "bazel-rules-java",
    )
    _maybe(
        installed_rules,
        name = "rules_proto",
        path = "/usr/share/bazel/rules/proto",
        system_package = "bazel-rules-proto",
    )
    _maybe(
        inline_repository,
        name = "remote_coverage_tools",
        files = EMPTY_COVERAGE_TOOLS,
    )

# SPDX-License-Identifier: Apache-2.0

"""System libraries for MODULE.bazel (Bazel 7 and later; nothing else loads this file)."""

load("//third_party:system_library.bzl", "system_library")

def _system_libraries_impl(_ctx):
    system_library(
        name = "relacy",
        headers = ["relacy/relacy.hpp"],
        system_package = "relacy-dev",
        targets = {":relacy": ""},
    )
    system_library(
        name = "boost",
        headers = ["boost/version.hpp"],
        system_package = "libboost-dev",
        targets = {":headers": ""},
    )
    system_library(
        name = "rocksdb",
        headers = ["rocksdb/cache.h"],
        system_package = "librocksdb-dev",
        targets = {":rocksdb": "rocksdb"},
    )
    system_library(
        name = "hiredis",
        headers = ["hiredis/hiredis.h"],
        system_package = "libhiredis-dev",
        targets = {":hiredis": "hiredis"},
    )
    system_library(
        name = "xxhash",
        headers = ["xxhash.h"],
        system_package = "libxxhash-dev",
        targets = {":xxhash": "libxxhash"},
    )
    system_library(
        name = "zstd",
        headers = ["zstd.h"],
        system_package = "libzstd-dev",
        targets = {":zstd": "libzstd"},
    )
    system_library(
        name = "httplib",
        headers = ["httplib.h"],
        system_package = "libcpp-httplib-dev",
        targets = {":httplib": "cpp-httplib"},
    )
    system_library(
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

system_libraries = module_extension(implementation = _system_libraries_impl)

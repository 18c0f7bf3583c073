#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Has clang check source files, with -Wthread-safety, and make no code: all of them, or those in
# the given folders. (`./bazelw build --config=clang //...` makes it, too.)
#
#   tools/clang_check.sh [FOLDER|FILE]…
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

check() {
  local flags=(-std=c++20 -Wall -Wextra -Werror -Wthread-safety -Iinclude -I.)
  case $1 in
    tests/*no_exceptions_test.cc) flags+=(-fno-exceptions -fno-rtti) ;;
    tests/fuzz/script_fuzz.cc) flags+=(-DWEAKCACHE_FUZZED_SCRIPT=RunWeakValueMapScript) ;;
  esac
  clang++ -fsyntax-only "${flags[@]}" "$1"
}
export -f check
(($#)) || set -- weakref cache examples benchmarks tests
# shellcheck disable=SC2016
find "$@" -name '*.cc' -not -path 'tests/consumer/*' -print0 |
  xargs -0 -n 1 -P "$(nproc)" bash -c 'check "$0"'

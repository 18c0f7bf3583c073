#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Has clang check every source file, with -Wthread-safety, and make no code.
# (`./bazelw build --config=clang //...` makes it, too.)
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
# shellcheck disable=SC2016
find weakref cache examples benchmarks tests -name '*.cc' -not -path 'tests/consumer/*' -print0 |
  xargs -0 -n 1 -P "$(nproc)" bash -c 'check "$0"'

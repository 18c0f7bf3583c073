#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compiles uses of all public headers as applications do that turn on their compiler's warnings:
# g++ and clang, with and without optimisation (some warnings come from the optimiser only). The
# headers are on the path as an application's own, so no warning is hidden.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() {
  local compiler=$1 level=$2
  "$compiler" -std=c++20 "$level" -Wall -Wextra -Wpedantic -Wshadow -Wconversion \
    -Wsign-conversion -Wnon-virtual-dtor -Werror -Iinclude -include "$3/all_headers.h" \
    -c tests/header_uses.cc -o "$3/$compiler$level.o"
}
export -f check
# Also the public headers that tests/header_uses.cc does not use.
printf '#include "weakcache/%s"\n' weakref/*.h cache/*.h >"$work/all_headers.h"
# An old language is one clear error, not pages of them.
refuses_old_language() {
  local errors
  errors=$(echo '#include "weakcache/weakref/ref.h"' |
    g++ -std=c++17 -Iinclude -fsyntax-only -x c++ - 2>&1 |
    grep -v 'fatal error: weakcache needs C++20' | grep -c 'error:') || true  # that one only stops
  [[ $errors == 1 ]] || {
    echo "C++17: $errors errors instead of one"
    return 1
  }
}
# shellcheck disable=SC2016
printf '%s\n' 'g++ -O2' 'g++ -O3' 'clang++ -O0' 'clang++ -O2' |
  WORK=$work xargs -P "$(nproc)" -I{} bash -c 'check {} "$WORK"'
refuses_old_language

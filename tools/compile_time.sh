#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Prints how many seconds of CPU each public header costs whoever includes it: compiled alone, the
# best of three. Beside them, for comparison, headers of std and Abseil.
#
#   tools/compile_time.sh [COMPILER'S OPTIONS, by default -O2]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

(($#)) || set -- -O2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

seconds() {
  local TIMEFORMAT=%U best=1000 spent
  echo "#include $1" >"$work/one.cc"
  shift
  for _ in 1 2 3; do
    spent=$({ time g++ -std=c++20 -Iinclude "$@" -c "$work/one.cc" -o "$work/one.o"; } 2>&1)
    best=$(printf '%s\n%s\n' "$best" "$spent" | sort -n | head -n 1)
  done
  echo "$best"
}

for header in '<memory>' '<functional>' '"absl/container/flat_hash_map.h"' '"absl/status/statusor.h"'; do
  printf '%6s  %s\n' "$(seconds "$header" "$@")" "$header"
done
for header in weakref/*.h cache/*.h; do
  printf '%6s  weakcache/%s\n' "$(seconds "\"weakcache/$header\"" "$@")" "$header"
done

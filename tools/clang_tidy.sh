#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs clang-tidy over weakref/ and cache/: over each source, and over each public header alone,
# which also shows that the header includes what it needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for header in weakref/*.h cache/*.h; do
  [[ ! -f $header ]] || echo "#include \"weakcache/$header\"" >"$work/${header//\//_}.cc"
done

tidy() {
  set -o pipefail
  clang-tidy --quiet --config-file=.clang-tidy "$1" -- -std=c++20 -Wall -Wextra -Iinclude -I. \
    -DWEAKCACHE_REDIS_TIER -DWEAKCACHE_ROCKSDB_TIER 2>&1 |
    { grep -v ' warnings\? generated\.$' || true; }
}
export -f tidy
# shellcheck disable=SC2016
find "$work" weakref cache -name '*.cc' -print0 | xargs -0 -n 1 -P "$(nproc)" bash -c 'tidy "$0"'

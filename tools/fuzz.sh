#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Fuzzes a container, or what reads a second tier's entries: tools/fuzz.sh [TARGET] [libFuzzer's options].
#
#   tools/fuzz.sh                                        # for a minute
#   tools/fuzz.sh weak_value_map_fuzz -runs=5000000
#   tools/fuzz.sh envelope_fuzz -runs=5000000
#   tools/fuzz.sh -max_total_time=600 -jobs=2
#
# Begins with the checked-in corpus. New inputs go to .cache/fuzz/, and one that fails to the current
# directory; to debug it, name it in place of the options.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=weak_value_map_fuzz
if [[ ${1-} == *_fuzz ]]; then
  target=$1
  shift
fi
(($#)) || set -- -max_total_time=60

./bazelw build --jobs=1 --config=fuzz "//tests/fuzz:$target"
binary=$(./bazelw info --config=fuzz bazel-bin)/tests/fuzz/$target
found=.cache/fuzz/$target
mkdir -p "$found"
if [[ -f $1 ]]; then
  exec "$binary" "$@"
fi
# zstd's contexts would go round a quarantine of 256 MB, each in fresh pages: twice the time.
export ASAN_OPTIONS=quarantine_size_mb=4${ASAN_OPTIONS:+:$ASAN_OPTIONS}
# Entropic scheduling takes five times as long as the scripts.
exec "$binary" -max_len=512 -entropic=0 "$@" "$found" "tests/fuzz/${target}_corpus"

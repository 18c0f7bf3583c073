#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Writes compile_commands.json for clangd and other tools: an entry for every source file. Builds
# nothing and takes no time; run it again when a source file is added or renamed.
#
# Headers need no entry: clangd gives each the flags of the source whose name is most like its own, and
# apart from the exceptions below, all sources have the same flags.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Prints the arguments as strings of JSON, separated by commas.
strings() {
  local word separator=""
  for word in "$@"; do
    word=${word//\\/\\\\}
    printf '%s"%s"' "$separator" "${word//\"/\\\"}"
    separator=", "
  done
}

# Sets `flags` to the flags of a source file, as far as they change what a reader of the code sees.
find_flags() {
  flags=(clang++ -std=c++20 -Wall -Wextra -Wthread-safety -Iinclude -I.)
  flags+=(-DWEAKCACHE_REDIS_TIER -DWEAKCACHE_ROCKSDB_TIER)
  case $1 in
    tests/*no_exceptions_test.cc) flags+=(-fno-exceptions -fno-rtti) ;;
    tests/fuzz/script_fuzz.cc) flags+=(-DWEAKCACHE_FUZZED_SCRIPT=RunWeakValueMapScript) ;;
    examples/*/stb*.cc) flags+=(-w) ;; # Nothing but stb's code.
  esac
}

directory=$(strings "$PWD")
output=$(mktemp compile_commands.json.XXXXXX)
trap 'rm -f "$output"' EXIT
separator="["
while IFS= read -r source; do
  find_flags "$source"
  printf '%s\n{"directory": %s, "file": %s, "arguments": [%s]}' \
    "$separator" "$directory" "$(strings "$source")" "$(strings "${flags[@]}" -c "$source")"
  separator=","
done < <(find . \( -name .git -o -name .cache -o -name 'bazel-*' \) -prune -o -type f -name '*.cc' -print |
  sed 's|^\./||' | sort) >"$output"
printf '\n]\n' >>"$output"
chmod 644 "$output"
mv "$output" compile_commands.json

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Compiles an application as README says for those without a build system, and runs it. The
# application's own headers come first on the include path.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The sources of tiers have nothing in them: else they would not find what they include.
# shellcheck disable=SC2046
g++ -std=c++20 -fsyntax-only $(find cache/internal -name '*.cc') cache/redis_tier.cc cache/rocksdb_tier.cc

# shellcheck disable=SC2046
g++ -std=c++20 -Itests/consumer/application -Iinclude tests/consumer/application/main.cc \
  weakref/*.cc cache/*.cc \
  $(pkg-config --cflags --libs absl_hash absl_statusor absl_str_format absl_symbolize absl_time) \
  -pthread -o "$work/application"
output=$("$work/application")
[[ $output == "contents 42" ]] || {
  echo "the application printed: $output"
  exit 1
}

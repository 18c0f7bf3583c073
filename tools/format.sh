#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Formats the C++ sources in place. With --check, changes nothing and fails if a file would change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mode=(-i)
[[ ${1-} != --check ]] || mode=(--dry-run -Werror)

find . \( -name .git -o -name 'bazel-*' \) -prune -o -type f \( -name '*.h' -o -name '*.cc' \) -print0 |
  xargs -0 --no-run-if-empty clang-format "${mode[@]}"

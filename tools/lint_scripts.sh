#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs shellcheck over every script of the project.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find . \( -name .git -o -name .cache -o -name 'bazel-*' \) -prune -o -type f \
  \( -name '*.sh' -o -path ./bazelw -o -path ./.ci/run \) -print0 |
  xargs -0 shellcheck

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Shows that every memory order and every re-check of the lock-free core is needed: changes them one
# at a time, in a copy, and runs the tests that should notice. Prints for each mutant which test
# killed it, or SURVIVED; then the totals. Exits with 0 only if tools/mutation_survivors.txt proves
# for each survivor that it is equivalent.
#
#   tools/mutation_gate.sh               all mutants
#   tools/mutation_gate.sh WORD…         those whose id contains one of the words
#   tools/mutation_gate.sh --jobs=1      one at a time instead of one for each core
#   tools/mutation_gate.sh --list        their ids, nothing else
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec python3 tools/mutation_gate.py "$@"

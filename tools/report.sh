#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Measures this library and its peers, and writes docs/report/: a page, its figures, and their data.
#
#   tools/report.sh [--quick|--full] [--traces=DIR] [--only=PART,…] [--binaries=DIR]
#
# --quick (the default) takes at most ten minutes once everything is built; --full measures all that
# docs/performance.md has figures of, too. DIR has the traces of the hit ratios (*.txt, *.txt.gz; see
# benchmarks/hit_ratio); without it, they are of synthetic traces. --help lists the parts.
#
# Leave the machine alone meanwhile. Afterwards `tools/check_figures.py --write` brings the figures in
# README.md and docs/performance.md up to date.
set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

/usr/bin/python3 -c 'import matplotlib' 2>/dev/null || {
  echo "report.sh: there is no matplotlib (Debian: apt-get install python3-matplotlib)"
  exit 1
}
if [[ " $* " != *" --binaries"* && " $* " != *" --only=none "* && " $* " != *" --help "* ]]; then
  ./bazelw build -c opt //benchmarks/... //examples/image_cache
fi
arguments=()
for argument; do
  # Folders are meant from where the user is.
  if [[ $argument =~ ^(--traces|--binaries)=([^/].*)$ ]]; then
    argument=${BASH_REMATCH[1]}=$here/${BASH_REMATCH[2]}
  fi
  arguments+=("$argument")
done
exec /usr/bin/python3 tools/report/report.py "${arguments[@]}"

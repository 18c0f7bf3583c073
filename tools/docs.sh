#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds one static site from README.md, the documents and the comments of the public headers, by
# Doxygen, and checks its links. A warning of Doxygen is an error.
#
#   tools/docs.sh [FOLDER]    by default build/docs; open FOLDER/index.html
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v doxygen >/dev/null || {
  echo "docs.sh: there is no doxygen (Debian: apt-get install doxygen)"
  exit 1
}
folder=${1:-build/docs}
# It is replaced as a whole.
if [[ -e $folder && ! -e $folder/annotated.html ]]; then
  echo "docs.sh: $folder exists, and is no site of this script"
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version=$(sed -n 's/^#define WEAKCACHE_VERSION_[A-Z]* //p' weakref/version.h | paste -sd .)
{
  cat tools/docs/Doxyfile
  echo "PROJECT_NUMBER = $version"
  echo "OUTPUT_DIRECTORY = \"$work\""
} >"$work/Doxyfile"
doxygen "$work/Doxyfile"
tools/docs/check_site.py "$work/html"
rm -rf "${folder:?}"
mkdir -p "$(dirname "$folder")"
mv "$work/html" "$folder"
echo "$folder/index.html"

#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds and tests the library with CMake on other systems, in a chroot for each release of Debian.
#
#   tools/systems.sh           all systems, all tests
#   tools/systems.sh NAME…     only these systems
#   tools/systems.sh --quick   only the quick tests, which touch every layer (before the names)
#   tools/systems.sh --list    the names
#
# Prints a line for each system: its name, its compiler, Abseil and GoogleTest, the tests that passed
# and failed, and the minutes that it took. Exits with 0 only if all of them passed.
#
# Needs root, debootstrap, and a mirror of Debian. The chroots take 1 to 2 GB each; they and the logs
# stay in $WEAKCACHE_SYSTEMS_DIR (default: /var/tmp/weakcache_systems) and are used again. What is
# tested are the committed files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

directory=${WEAKCACHE_SYSTEMS_DIR:-/var/tmp/weakcache_systems}
quick=false
mirror=${WEAKCACHE_SYSTEMS_MIRROR:-http://deb.debian.org/debian}

# Name, release, architecture (cross: the build runs on amd64, the tests under qemu), compiler's
# package, compiler, C++ standard, flags.
systems=(
  "debian12_gcc12_cxx23   bookworm amd64 g++      g++        23"
  "debian12_gcc12_debug   bookworm amd64 g++      g++        20 -D_GLIBCXX_DEBUG"
  "debian12_clang14       bookworm amd64 clang    clang++    20"
  "debian12_clang19       bookworm amd64 clang-19 clang++-19 20"
  "debian12_libcxx19      bookworm amd64 clang-19 clang++-19 20 -stdlib=libc++"
  "debian12_arm64         bookworm cross g++-aarch64-linux-gnu aarch64-linux-gnu-g++ 20"
  "debian13_gcc14         trixie   amd64 g++      g++        20"
  "debian13_clang19_cxx23 trixie   amd64 clang-19 clang++-19 23"
  "forky                  forky    amd64 g++      g++        20"
)

main() {
  local system wanted failed=0
  if [[ ${1-} == --list ]]; then
    printf '%s\n' "${systems[@]%% *}"
    return
  fi
  if [[ ${1-} == --quick ]]; then
    quick=true
    shift
  fi
  if ((EUID != 0)) || ! command -v debootstrap >/dev/null; then
    echo "systems.sh: needs root and debootstrap (Debian: apt-get install debootstrap)"
    return 1
  fi
  for wanted; do
    [[ " ${systems[*]%% *} " == *" $wanted "* ]] || {
      echo "systems.sh: no such system: $wanted"
      return 1
    }
  done
  mkdir -p "$directory"
  for system in "${systems[@]}"; do
    if (($# == 0)) || [[ " $* " == *" ${system%% *} "* ]]; then
      # shellcheck disable=SC2086
      try $system || failed=1
    fi
  done
  return "$failed"
}

# Runs one system and prints its line.
try() {
  local name=$1 start=$SECONDS status=0
  log=$directory/$name.log root=$directory/$2-$3
  (set -e && prepare "$@" && build_and_test "$@") >"$log" 2>&1 </dev/null || status=$?
  printf '%-24s %s; %s, %d min\n' "$name" "$(sed -n 's/^versions: //p' "$log")" \
    "$(sed -n 's/^\([0-9]*% tests passed.*\)/\1/p' "$log" | tail -n 1)" $(((SECONDS - start) / 60))
  if ((status)); then
    echo "failed, see $log:"
    grep -E 'error|Error|\*\*\*Failed|not found' "$log" | head -n 10 || tail -n 10 "$log"
  fi
  return "$status"
}

inside() { chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C "$@"; }

# Makes the chroot, unless it is there, and installs what the build needs.
prepare() {
  local name=$1 release=$2 architecture=$3 package=$4 suffix="" packages
  [[ -e $root/made ]] || {
    rm -rf "$root"
    debootstrap --variant=minbase --arch="${architecture/cross/amd64}" "$release" "$root" "$mirror" \
      /usr/share/debootstrap/scripts/sid
    touch "$root/made"
  }
  printf 'APT::Install-Recommends "false";\n' >"$root/etc/apt/apt.conf.d/weakcache"
  packages=("$package" cmake ninja-build pkg-config python3)
  if [[ $architecture == cross ]]; then
    inside dpkg --add-architecture arm64
    suffix=:arm64
    packages+=(qemu-user)
  fi
  if [[ $name == *_libcxx* ]]; then
    # No package of Abseil or GoogleTest uses libc++: both are built from their Debian sources.
    printf 'deb-src %s %s main\n' "$mirror" "$release" >"$root/etc/apt/sources.list.d/source.list"
    packages+=("libc++-${package##*-}-dev" "libc++abi-${package##*-}-dev" dpkg-dev googletest)
  else
    packages+=("libabsl-dev$suffix" "libgtest-dev$suffix" "libgmock-dev$suffix")
  fi
  inside apt-get update
  inside env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    "${packages[@]}"
}

build_and_test() {
  local name=$1 architecture=$3 compiler=$5 standard=$6 flags=${*:7} options
  rm -rf "$root/src" "$root/build"
  mkdir "$root/src"
  git archive HEAD | tar -x -C "$root/src"
  options=(-G Ninja -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_BUILD_TYPE=Debug
    -DCMAKE_CXX_STANDARD="$standard" -DCMAKE_CXX_FLAGS="$flags" -DCMAKE_CXX_FLAGS_DEBUG=-O0)
  if [[ $architecture == cross ]]; then
    options+=(-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64
      -DCMAKE_LIBRARY_ARCHITECTURE=aarch64-linux-gnu -DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64)
  fi
  if [[ $name == *_libcxx* ]]; then
    build_with_libcxx "$compiler" "$standard"
    options+=(-DCMAKE_PREFIX_PATH=/libcxx)
  fi
  inside cmake -S /src -B /build "${options[@]}"
  echo "versions: $(inside "$compiler" -dumpfullversion -dumpversion |
    head -n 1), Abseil $(package_version libabsl-dev), GoogleTest $(package_version libgtest-dev)"
  if [[ $architecture == cross ]]; then
    options=(-E weakref_tour_test) # runs a program that is not of the machine
  else
    options=()
  fi
  if $quick; then
    inside cmake --build /build --target weakcache weakcache_quick_tests
    inside ctest --test-dir /build --no-tests=error --output-on-failure "${options[@]}" -L quick
  else
    inside cmake --build /build
    inside ctest --test-dir /build --no-tests=error --output-on-failure "${options[@]}"
  fi
}

# Prints the upstream version of what a package, or its source, is.
package_version() {
  local version
  version=$(inside dpkg-query -W "$1" 2>/dev/null | cut -f 2 | sed 's/-[^-]*$//')
  echo "${version:-from source}"
}

build_with_libcxx() {
  local compiler=$1 standard=$2 source
  [[ -e $root/libcxx/done ]] && return
  rm -rf "$root/sources"
  mkdir "$root/sources"
  inside sh -c 'cd /sources && apt-get source abseil'
  for source in "$(cd "$root" && echo sources/abseil-*/)" usr/src/googletest; do
    rm -rf "$root/dependency"
    inside cmake -S "/$source" -B /dependency -G Ninja -DCMAKE_CXX_COMPILER="$compiler" \
      -DCMAKE_CXX_STANDARD="$standard" -DCMAKE_CXX_FLAGS=-stdlib=libc++ -DCMAKE_BUILD_TYPE=Release \
      -DCMAKE_INSTALL_PREFIX=/libcxx -DABSL_PROPAGATE_CXX_STD=ON -DBUILD_TESTING=OFF
    inside cmake --build /dependency
    inside cmake --install /dependency
  done
  touch "$root/libcxx/done"
}

main "$@"

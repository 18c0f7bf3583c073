#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds and installs the library with CMake, as a static and as a shared one, runs the quick tests,
# and then builds and runs applications that use it:
#
#   cmake_package       by find_package; also where Abseil is known to pkg-config alone
#   cmake_tiers         by find_package, with the second tiers as components
#   cmake_weakref       by find_package, only the handles, without Abseil
#   cmake_subdirectory  by add_subdirectory and by FetchContent, with a folder cache/ of its own
#   application         by pkg-config and a plain compiler
#
# Prints what it does, and the output of a step that fails.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
consumers=$root/tests/consumer

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What this environment sets is no part of the test.
unset CMAKE_PREFIX_PATH PKG_CONFIG_PATH LD_LIBRARY_PATH CMAKE_BUILD_TYPE
CMAKE_BUILD_PARALLEL_LEVEL=$(nproc)
export CMAKE_BUILD_PARALLEL_LEVEL

step() { echo "--- $*"; }

quietly() {
  local log=$work/log.$BASHPID
  "$@" >"$log" 2>&1 || {
    echo "failed: $*"
    tail -n 60 "$log"
    return 1
  }
}

# Starts an application's build and run, when fewer are under way than there are cores.
running=0
start() {
  if ((running == CMAKE_BUILD_PARALLEL_LEVEL)); then
    wait -n
    running=$((running - 1))
  fi
  "$@" &
  running=$((running + 1))
}
finish_all() {
  for (( ; running > 0; running--)); do wait -n; done
}

# Runs an application: all of them print the same.
check_output() {
  local output
  output=$("$@") || {
    echo "failed: $*"
    return 1
  }
  [[ $output == "contents 42" ]] || {
    echo "$*: printed: $output"
    return 1
  }
}

# Configures, builds and runs the application in the folder $2 of tests/consumer, as $1.
cmake_consumer() {
  local name=$1 folder=$2
  shift 2
  step "$name"
  quietly cmake -S "$consumers/$folder" -B "$work/$name" "$@"
  quietly cmake --build "$work/$name"
  check_output "$work/$name/application"
}

# Compiles and runs the application with the flags of pkg-config, for the library installed in $1 and
# with the options of pkg-config and the compiler after it.
pkg_config_consumer() {
  local prefix=$1 libdir flags application
  shift
  application=$(mktemp "$work/application.XXXXXX")
  step "pkg-config ${prefix##*/} $*"
  libdir=$(dirname "$(find "$prefix" -name weakcache.pc)")
  # shellcheck disable=SC2046
  flags=$(PKG_CONFIG_PATH=$libdir pkg-config --cflags --libs $([[ " $* " != *" -static "* ]] ||
    echo --static) 'weakcache >= 0.1')
  # shellcheck disable=SC2086
  quietly "${CXX:-g++}" -std=c++20 "$@" -Itests/consumer/application \
    tests/consumer/application/main.cc $flags -o "$application"
  LD_LIBRARY_PATH=${libdir%/*} check_output "$application"
}

install_library() {
  local name=$1
  shift
  step "install the $name library"
  quietly cmake -S "$root" -B "$work/build_$name" -DCMAKE_BUILD_TYPE=Debug "$@"
  quietly cmake --build "$work/build_$name" --target weakcache_libraries
  # The folder is chosen here, not before: the files must not name another one.
  quietly cmake -DCMAKE_INSTALL_PREFIX="$work/$name" -P "$work/build_$name/cmake_install.cmake"
}

install_library static
install_library shared -DBUILD_SHARED_LIBS=ON -DWEAKCACHE_BUILD_TESTS=OFF

step "quick tests"
quietly cmake --build "$work/build_static" --target weakcache_quick_tests
quietly ctest --test-dir "$work/build_static" -L quick --no-tests=error --output-on-failure

for name in static shared; do
  [[ -e $work/$name/share/weakcache/gdb/weakcache.py ]]
  start cmake_consumer "package_$name" cmake_package -DCMAKE_PREFIX_PATH="$work/$name"
  start cmake_consumer "tiers_$name" cmake_tiers -DCMAKE_PREFIX_PATH="$work/$name"
done
start cmake_consumer package_pkg_config cmake_package -DCMAKE_PREFIX_PATH="$work/static" \
  -DCMAKE_DISABLE_FIND_PACKAGE_absl=ON
start cmake_consumer weakref cmake_weakref -DCMAKE_PREFIX_PATH="$work/static"
start cmake_consumer subdirectory cmake_subdirectory -DWEAKCACHE_DIR="$root"
start cmake_consumer fetch_content cmake_subdirectory -DWEAKCACHE_DIR="$root" -DUSE_FETCH_CONTENT=ON
start pkg_config_consumer "$work/static"
start pkg_config_consumer "$work/static" -static
start pkg_config_consumer "$work/shared"
finish_all

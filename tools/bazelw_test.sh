#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Tests what bazelw installs, and when, with stand-ins for apt-get, apt-cache, dpkg-query, sudo, id and
# bazel. Touches neither the network nor the system. Prints what failed; exits with 0 if nothing did.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
project=$PWD

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stubs=$work/stubs root=$work/root system=$work/system
failures=0

# --- The stand-ins ---------------------------------------------------------------------------------

# A command that appends its name and arguments to $CALLS and then runs the given lines.
stub() {
  {
    echo '#!/bin/bash'
    # shellcheck disable=SC2016
    echo 'echo "${0##*/} $*" >>"$CALLS"'
    cat
  } >"$stubs/$1"
  chmod +x "$stubs/$1"
}

mkdir -p "$stubs"
stub bazel </dev/null
# $INSTALLED: names of packages.
stub dpkg-query <<'STUB'
status=0
for name in "${@:4}"; do
  case " $INSTALLED " in
    *" $name "*) echo "installed $name" ;;
    *) status=1 ;;
  esac
done
exit $status
STUB
# $UNKNOWN: packages that others mention, and none provides: `show` succeeds without output.
stub apt-cache <<'STUB'
name=${!#}
case " $UNKNOWN " in *" $name "*) exit ;; esac
case $1 in
  show) echo "Package: $name" ;;
  policy) printf '%s:\n  Installed: (none)\n  Candidate: 1.0\n' "$name" ;;
esac
STUB
# $CONFLICTING: packages that apt-get cannot install without removing another.
stub apt-get <<'STUB'
[[ " $* " == *" install "* ]] || exit "${UPDATE_STATUS:-0}"
[[ " $* " == *" --no-remove "* ]] || { echo "REMOVED SOMETHING" >>"$CALLS"; exit 0; }
for name in $CONFLICTING; do
  if [[ " $* " == *" $name "* ]]; then
    echo "E: Packages need to be removed but remove is disabled."
    exit 100
  fi
done
STUB
# $USER_ID: 0 is root.
stub id <<'STUB'
echo "$USER_ID"
STUB
stub sudo_stub <<'STUB'
if [[ $1 == -n ]]; then
  [[ -z ${SUDO_PASSWORD-} ]] || { echo "sudo: a password is required"; exit 1; }
  shift
elif [[ -n ${SUDO_PASSWORD-} ]]; then
  echo "[sudo] password:" >/dev/tty
fi
exec "$@"
STUB

# What is on PATH besides: the few ordinary commands that bazelw uses, and no sudo.
for tool in bash cat dirname env mktemp rm tail true; do
  ln -s "$(type -P "$tool")" "$stubs/$tool"
done

# The project: bazelw, with another place for the system's files.
mkdir -p "$root"/{benchmarks,cache,tests/consumer,examples} "$work/elsewhere" "$system/include"
sed -e "s|^os_release=.*|os_release=$system/os-release|" \
  -e "s|^include_dirs=.*|include_dirs=($system/include)|" bazelw >"$root/bazelw"
chmod +x "$root/bazelw"
touch "$root/WORKSPACE" "$root/tests/consumer/WORKSPACE"
if (($(grep -c "$system" "$root/bazelw") != 2)); then
  echo "FAILED: bazelw has no longer the lines that this test replaces"
  exit 1
fi

# --- One case --------------------------------------------------------------------------------------

base="g++ bazel-bootstrap bazel-rules-java bazel-rules-proto pkg-config libabsl-dev"
clang="clang lld libclang-rt-dev"
lint="$clang cmake make clang-format clang-tidy doxygen shellcheck"
nightly="chromium chromium-driver python3-selenium prometheus debootstrap"
tiers="librocksdb-dev libhiredis-dev libxxhash-dev libzstd-dev"
all_libraries="libgtest-dev libgmock-dev libbenchmark-dev relacy-dev libboost-dev libtbb-dev"
all_libraries+=" $tiers redis-server libstb-dev libcpp-httplib-dev zlib1g-dev gdb"
examples="libgtest-dev libgmock-dev $tiers redis-server libstb-dev libcpp-httplib-dev zlib1g-dev"

# Back to a bare system: Debian, root, nothing installed, everything installable.
reset_case() {
  export USER_ID=0 INSTALLED="" UNKNOWN="" CONFLICTING="" UPDATE_STATUS=0 CALLS=$work/calls
  unset SUDO_PASSWORD WEAKCACHE_SKIP_INSTALL
  directory=$root on_terminal=
  echo "ID=debian" >"$system/os-release"
  rm -rf "$system/include" "$stubs/sudo"
}

# Runs bazelw with the arguments; sets `status`, `output`, `calls` and `installed`, the packages of all
# calls of apt-get install, a line each.
run() {
  : >"$CALLS"
  if [[ -n ${on_terminal-} ]]; then
    output=$(cd "$directory" && script -qec "PATH=$stubs $root/bazelw $*" /dev/null </dev/null)
  else
    output=$(cd "$directory" && PATH=$stubs "$root/bazelw" "$@" 2>&1 </dev/null)
  fi
  status=$?
  calls=$(cat "$CALLS")
  installed=$(sed -n 's/^apt-get .* --no-install-recommends //p' "$CALLS")
  if [[ $calls == *"REMOVED SOMETHING"* ]]; then
    fail "apt-get could remove packages"
  fi
}

fail() {
  echo "FAILED: $name: $1"
  echo "  status $status; output:"
  echo "${output//$'\n'/$'\n'    }"
  echo "  calls: ${calls//$'\n'/$'\n'    }"
  failures=$((failures + 1))
}

begin() {
  name=$1
  reset_case
}

expect_status() { ((status == $1)) || fail "expected status $1"; }
expect_installed() { [[ $installed == "$1" ]] || fail "expected to install: $1"; }
expect_output() { [[ $output == *"$1"* ]] || fail "expected output: $1"; }
expect_no_output() { [[ $output != *"$1"* ]] || fail "unexpected output: $1"; }
expect_call() { [[ $'\n'$calls$'\n' == *$'\n'"$1"$'\n'* ]] || fail "expected call: $1"; }
expect_no_call() { [[ $'\n'$calls != *$'\n'"$1"* ]] || fail "unexpected call: $1"; }

# --- The cases -------------------------------------------------------------------------------------

begin "a bare system installs what an example needs, and says so before"
run run //examples:image_cache
expect_status 0
expect_installed "$base $examples"
expect_output "installing with apt-get: $base libgtest-dev"
expect_output "WEAKCACHE_SKIP_INSTALL=1"
expect_call "bazel run //examples:image_cache"

begin "a bare system installs everything for //..."
run test //...
expect_status 0
expect_installed "$base $all_libraries"
expect_call "bazel test //..."

begin "what is installed is not installed again"
INSTALLED=$base
mkdir -p "$system/include/boost"
touch "$system/include/boost/version.hpp"
run test //...
expect_installed "${all_libraries/libboost-dev /}"

begin "nothing missing: one dpkg-query, no network, no word"
INSTALLED=$base
run build //weakref/...
expect_status 0
[[ $output == "" ]] || fail "expected no output"
expect_no_call "apt"
expect_no_call "id"

# Which folders the command line reaches: "DIRECTORY|LIBRARIES|ARGUMENTS".
tests="libgtest-dev libgmock-dev relacy-dev libboost-dev $tiers"
all_tests="$tests redis-server gdb"
benchmarks="libgtest-dev libgmock-dev libbenchmark-dev libboost-dev libtbb-dev"
benchmarks+=" $tiers redis-server zlib1g-dev"
redis_tier="libhiredis-dev libxxhash-dev libzstd-dev"
rocksdb_tier="librocksdb-dev libxxhash-dev libzstd-dev"
while IFS='|' read -r where libraries line; do
  begin "in /$where: bazelw $line"
  INSTALLED=$base directory=$root/$where
  read -ra words <<<"$line"
  run "${words[@]}"
  expect_status 0
  expect_installed "$libraries"
done <<CASES
||version
||build //cache:weak_value_map //weakref/...
||build -c opt --output_base=//tests/... //weakref/...
||build weakref/...
||run //cache:tool -- //tests/... examples:x
||build //cache:large_object_cache //cache:second_tier //cache/internal/core
|$tiers|build //cache/...
|$tiers|build cache/...
|$tiers|build //cache:all
|$tiers|build //cache/internal/...
|$tiers|build //cache/internal/tier:envelope
|$redis_tier|build //cache:redis_tier
|$rocksdb_tier|build cache:rocksdb_tier
||build //tests_of_another:x //my/tests
|$all_tests|test --config=tsan //tests/...
|$tests gdb|test //tests/gdb:printers_test
|$tests redis-server|test //tests/cache:codec_test
|$tests|test //tests:ref_test
|$tests|--batch test -- //tests
|$tests|build @weakcache//tests/model:all
|$tests|test tests:ref_test
|$tests|query deps(//tests)
|$benchmarks|run -c opt //benchmarks:weakref_benchmark -- //tests/...
|$benchmarks|build benchmarks/...
|$examples|run examples:drop_in
|$all_libraries|test -- //... -//benchmarks/...
|$all_libraries|test ...
|$all_libraries|query kind(cc_test, //...)
cache||build :large_object_cache
cache|$tiers|build :all
cache|$redis_tier|build :redis_tier
benchmarks|$benchmarks|run :weakref_benchmark
benchmarks|$benchmarks|build ...
benchmarks|$examples|build //examples:drop_in
tests/consumer||test //...
tests/consumer||test //tests/...
tests/consumer|$all_tests|test @weakcache//tests/...
../elsewhere|$tests|test tests:ref_test
CASES

begin "in no workspace: the project's"
directory=$work/elsewhere INSTALLED=$base
run build //cache/...
expect_installed "$tiers"
expect_call "bazel build //cache/..."

begin "--install-lint adds the lint packages and runs nothing"
run --install-lint
expect_status 0
expect_installed "$base $lint $all_libraries"
expect_no_call "bazel"

begin "--install-nightly adds those of the nightly lane"
run --install-nightly
expect_status 0
expect_installed "$base $lint $nightly $all_libraries"
expect_no_call "bazel"

begin "a configuration that uses clang needs it"
run test --config=asan //weakref/...
expect_installed "$base $clang"
expect_call "bazel test --config=asan //weakref/..."

begin "an installed alternative is as good"
INSTALLED="${base/bazel-bootstrap/bazel} ${lint/libclang-rt-dev/libclang-rt-14-dev}"
run --install-lint
expect_installed "$all_libraries"

begin "an alternative is chosen if the first is only mentioned by others"
UNKNOWN=libclang-rt-dev INSTALLED="$base ${lint/libclang-rt-dev /}"
run --install-lint
expect_installed "libclang-rt-14-dev $all_libraries"

begin "a library that conflicts with an installed package is left out"
CONFLICTING=libboost-dev
run test //...
expect_status 0
expect_installed "$base $all_libraries
$base
${all_libraries// /$'\n'}"
expect_output "remove is disabled"
expect_output "going on without libboost-dev: only the targets that need it will fail"
expect_call "bazel test //..."

begin "a library that no package list has is left out"
UNKNOWN="relacy-dev" INSTALLED=$base
run test //...
expect_status 0
expect_installed "${all_libraries/relacy-dev /}"
expect_output "not in the package lists: relacy-dev"
expect_output "going on without relacy-dev"
expect_call "bazel test //..."

begin "a package that everything needs is not left out"
CONFLICTING=libabsl-dev
run test //...
expect_status 1
expect_output "remove is disabled"
expect_output "not installed: $base"
expect_no_call "bazel"

begin "likewise if no package list has it"
UNKNOWN="bazel-bootstrap bazel"
run test //...
expect_status 1
expect_output "not in the package lists: bazel-bootstrap"
expect_installed ""
expect_no_call "bazel"

begin "no new package lists: those at hand"
UPDATE_STATUS=100
run build //weakref/...
expect_status 0
expect_output "apt-get update failed"
expect_installed "$base"

begin "with sudo"
USER_ID=1000
ln -s sudo_stub "$stubs/sudo"
run build //weakref/...
expect_status 0
expect_output "installing with sudo apt-get: $base"
expect_installed "$base"

begin "sudo may ask for a password on a terminal"
USER_ID=1000 on_terminal=1
export SUDO_PASSWORD=1
ln -s sudo_stub "$stubs/sudo"
run build //weakref/...
expect_status 0
expect_installed "$base"
expect_call "bazel build //weakref/..."
[[ $output == *"installing with"*"to refuse"*"[sudo] password:"* ]] ||
  fail "expected to hear what is installed, and how to refuse, before the password is asked for"

begin "sudo wants a password, and there is no terminal: the line that helps"
USER_ID=1000
export SUDO_PASSWORD=1
ln -s sudo_stub "$stubs/sudo"
run build //weakref/...
expect_status 1
expect_output "  sudo apt-get install --no-remove --no-install-recommends $base"
expect_output "WEAKCACHE_SKIP_INSTALL=1"
expect_installed ""
expect_no_call "bazel"

begin "neither root nor sudo: the line that helps"
USER_ID=1000
run test //tests/...
expect_status 1
expect_output "  su -c 'apt-get install --no-remove --no-install-recommends $base $all_tests'"
expect_no_call "apt-get"
expect_no_call "bazel"

begin "neither root nor sudo, and only libraries of folders are missing: go on"
USER_ID=1000 INSTALLED=$base
run test //tests/...
expect_status 0
expect_output "  su -c 'apt-get install --no-remove --no-install-recommends $all_tests'"
expect_output "going on without $all_tests"
expect_call "bazel test //tests/..."

begin "WEAKCACHE_SKIP_INSTALL=1 checks nothing"
export WEAKCACHE_SKIP_INSTALL=1
run test //...
expect_status 0
[[ $calls == "bazel test //..." ]] || fail "expected no other call"

begin "another system: what the build needs"
echo "ID=fedora" >"$system/os-release"
run test //...
expect_status 1
expect_output "neither Debian nor Ubuntu"
expect_no_output "apt-get"
expect_no_call "bazel"

# Every library that third_party/repositories.bzl takes from a package is known to bazelw, with the
# same header; and every folder that uses one directly is named with it.
begin "bazelw and third_party/repositories.bzl agree"
status=- output="" calls=""
tiers_folders=$(sed -n 's/^tiers="\(.*\)"$/\1/p' bazelw)
check_folders() {
  local repository=$1 headers=$2 packages=$3 package entry folder
  for package in $packages; do
    [[ " $base " != *" $package "* ]] || continue
    # The line of `folder_libraries`.
    entry=$(grep -E "^ *\"[^ ]+ +$package " "$project/bazelw") || fail "bazelw has no $package"
    entry=${entry//\$tiers/$tiers_folders}
    read -r header _ <<<"${entry#*\"}"
    [[ " $headers " == *" $header "* ]] || fail "$header shows $package, and not: $headers"
    for folder in cache weakref tests examples benchmarks; do
      if grep -rqE "\"@$repository(\"|//)" --include=BUILD --include='*.bzl' "$project/$folder" &&
        [[ " ${entry//\"/ } " != *" $folder"[\ :/[]* ]]; then
        fail "bazelw does not name $folder for $package"
      fi
    done
  done
}
libraries=$(
  python3 - third_party/repositories.bzl <<'PYTHON'
import re, sys
for rule in re.findall(r"\n        system_library,\n(.*?)\n    \)\n", open(sys.argv[1]).read(), re.S):
    name, package = (re.search(rf'\b{key} = "(.*?)"', rule)[1] for key in ("name", "system_package"))
    headers = " ".join(re.findall(r'"(.*?)"', re.search(r"headers = \[(.*?)\]", rule)[1]))
    print(f"{name}|{headers}|{package}")
PYTHON
)
[[ $(wc -l <<<"$libraries") -ge 8 ]] || fail "found too few libraries: $libraries"
while IFS='|' read -r repository headers packages; do
  check_folders "$repository" "$headers" "$packages"
done <<<"$libraries"

if ((failures)); then
  echo "$failures checks of bazelw failed"
  exit 1
fi

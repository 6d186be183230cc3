#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# consumer_test.sh BUILD_DIR TESTS_DIR COMPILER: installs the build into an empty prefix, builds somebody else's virtual machine
# monitor against it, and boots a tiny guest with that.
set -eu
build=$1 tests=$2 compiler=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" >"$work/log"
! grep -rlF "$build" "$work/prefix" --include=*.cmake || { echo "the installed package names its build directory"; exit 1; }
cmake -S "$tests/consumer" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_PREFIX_PATH="$work/prefix"
cmake --build "$work/build"

gcc -nostdlib -static -no-pie -Wl,-Ttext=0x100000,--build-id=none,-n -o "$work/guest" "$tests/tiny_guest.S"
run="$work/build/consumer $work/guest"
# Any engine will do: a KVM that emulates runs so small a guest at once.
$run auto >"$work/out" || [ $? = 10 ] || $run kvm >"$work/out" || [ $? = 10 ] ||
  "$tests/../../scripts/with-kvm" --timeout=120 $run kvm >"$work/out" || [ $? = 10 ]
cat "$work/out"
grep -q '^hello from the guest' "$work/out"

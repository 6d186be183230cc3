#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# consumer_test.sh BUILD_DIR TESTS_DIR COMPILER: installs the build into an empty prefix, builds somebody else's virtual machine
# monitor and each of the examples against it, boots a tiny guest with the former and runs the tests of the latter.
set -eu
build=$1 tests=$2 compiler=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" >"$work/log"
! grep -rlF "$build" "$work/prefix" --include=*.cmake || { echo "the installed package names its build directory"; exit 1; }

# build_alone SOURCE NAME: from a copy, so that nothing beside it is found by chance.
build_alone() {
  cp -r "$1" "$work/$2" &&
    cmake -S "$work/$2" -B "$work/build/$2" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
      -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_PREFIX_PATH="$work/prefix" >"$work/$2.log" 2>&1 &&
    cmake --build "$work/build/$2" -j 1 >>"$work/$2.log" 2>&1 &&
    echo "built $2" || { cat "$work/$2.log"; return 1; }
}

build_alone "$tests/consumer" consumer &
consumer=$!
examples=
for folder in "$tests/../../examples"/*/; do
  examples="$examples $(basename "$folder")"
done
[ -n "$examples" ]
for example in $examples; do
  build_alone "$tests/../../examples/$example" "$example"
done
wait "$consumer"
for example in $examples; do
  [ ! -f "$work/build/$example/CTestTestfile.cmake" ] ||
    ctest --test-dir "$work/build/$example" --no-tests=error --output-on-failure
done

gcc -nostdlib -static -no-pie -Wl,-Ttext=0x100000,--build-id=none,-n -o "$work/guest" "$tests/tiny_guest.S"
run="$work/build/consumer/consumer $work/guest"
# Any engine will do: a KVM that emulates runs so small a guest at once.
$run auto >"$work/out" || [ $? = 10 ] || $run kvm >"$work/out" || [ $? = 10 ] ||
  "$tests/../../scripts/with-kvm" --timeout=120 $run kvm >"$work/out" || [ $? = 10 ]
cat "$work/out"
grep -q '^hello from the guest' "$work/out"

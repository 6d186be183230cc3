#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# consumer_test.sh BUILD_DIR CONSUMER_DIR COMPILER: installs the build into an empty prefix, then builds a project of somebody
# else against it, and runs it.
set -eu
build=$1 consumer=$2 compiler=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" >"$work/log"
! grep -rlF "$build" "$work/prefix" --include=*.cmake || { echo "the installed package names its build directory"; exit 1; }
cmake -S "$consumer" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_COMPILER="$compiler" \
  -DCMAKE_PREFIX_PATH="$work/prefix"
cmake --build "$work/build"
"$work/build/consumer"

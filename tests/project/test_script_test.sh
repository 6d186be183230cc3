#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# test_script_test.sh ROOT: scripts/test goes on after a failure, and its summary and exit status say what became of the tests.
# Everything that it calls is played by stubs.
set -euo pipefail
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

mkdir -p "$work/tree/scripts/lib" "$work/bin"
cp "$root/scripts/test" "$work/tree/scripts/"
cp "$root/scripts/lib/common.sh" "$work/tree/scripts/lib/"
stub() { printf '#!/bin/bash\n%s\n' "$2" >"$1" && chmod +x "$1"; }
stub "$work/bin/cmake" 'exit "${CMAKE_STATUS:-0}"'
stub "$work/bin/ctest" 'echo "$CTEST_SAYS"; exit 8'
PATH=$work/bin:$PATH

# expect NAME STATUS LINE [VARIABLE=VALUE]...: scripts/test --quick with these variables.
expect() {
  local name=$1 wanted=$2 line=$3 status=0
  shift 3
  env "$@" "$work/tree/scripts/test" --quick >"$work/out" 2>&1 || status=$?
  if [ "$status" != "$wanted" ] || ! grep -qxF -- "$line" "$work/out"; then
    echo "FAILED $name: status $status instead of $wanted, or no line '$line':"
    cat "$work/out"
    failures=$((failures + 1))
  else
    echo "ok $name"
  fi
}

good='100% tests passed, 0 tests failed out of 5'
bad='60% tests passed, 2 tests failed out of 5'
for status in 0 3 124; do
  for script in setup guest-assets debian-disk nested; do
    stub "$work/tree/scripts/$script" "exit $status"
  done
  expect "what it prepares ends with status $status, the tests pass" 0 "$good" "CTEST_SAYS=$good"
  expect "what it prepares ends with status $status, tests fail" 1 "$bad" "CTEST_SAYS=$bad"
done
expect "no test ran" 1 '0% tests passed, 1 tests failed out of 1' CTEST_SAYS=
expect "the build fails" 1 '0% tests passed, 1 tests failed out of 1' CMAKE_STATUS=1 "CTEST_SAYS=$good"

exit "$((failures > 0))"

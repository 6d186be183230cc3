#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Checks a Promela model exhaustively: check_model.sh holds|fails model.pml [-Dname]...
#
# holds: no interleaving deadlocks. fails: one does, which proves that the check can see what it is there for.
# Exit status: 0 as expected, 1 not, 77 (skipped) without spin or a C compiler.
set -u
expected=$1
model=$(realpath "$2")
shift 2

command -v spin >/dev/null || { echo "spin is not installed"; exit 77; }
compiler=$(command -v cc || command -v gcc) || { echo "no C compiler"; exit 77; }

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
spin "$@" -a "$model" || exit 1
"$compiler" -O1 -w -DSAFETY -o pan pan.c || exit 1
./pan -m1000000 | tee report

# A search that ran out of depth or memory proves nothing.
grep -Eq 'max search depth too small|out of memory|search truncated' report && exit 1
errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' report)
case "$expected" in
  holds) [ "$errors" = 0 ] ;;
  fails) [ "$errors" = 1 ] && grep -q 'invalid end state' report ;;
  *) echo "holds or fails, not $expected"; exit 2 ;;
esac

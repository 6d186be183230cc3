#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# format_test.sh ROOT: every C++ file is as clang-format would have it.

set -euo pipefail
cd "$1"
command -v clang-format >/dev/null || { echo 'no clang-format; scripts/setup installs it'; exit 77; }
mapfile -t files < <(find bench examples fuzz include src tests \( -name '*.h' -o -name '*.cc' \) | sort)
[ ${#files[@]} -gt 100 ] || { echo "only ${#files[@]} C++ files below $1"; exit 1; }
clang-format --dry-run --Werror "${files[@]}"

# SPDX-License-Identifier: Apache-2.0
# What hvsdk's scripts share. Sourced by bash after `set -euo pipefail`.

hvsdk_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

# die MESSAGE: the user's mistake. fail MESSAGE: a failure of the machine or the network.
die() { say "$*"; exit 2; }
fail() { say "$*"; exit 3; }

# usage: the comment at the head of the script is its help.
usage() { sed -n '3,/^$/s/^# \{0,1\}//p' "$0"; }

# retry COMMAND...: three attempts, because mirrors and networks have bad moments.
retry() {
  local attempt
  for attempt in 1 2 3; do
    "$@" && return
    [ "$attempt" = 3 ] || { say "attempt $attempt failed: $*"; sleep $((attempt * 3)); }
  done
  return 1
}

# build LOG PRESET TARGET: configures and builds; all output goes to LOG, and a line every 20 s says how far it is.
build() {
  local job ticks=0
  { cmake --preset "$2" && cmake --build --preset "$2" --target "$3" -j "$(nproc)"; } >"$1" 2>&1 &
  job=$!
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.5
    ((++ticks % 40 != 0)) || say "$(grep -oE '^\[[0-9]+/[0-9]+\]' "$1" | tail -n 1)"
  done
  wait "$job"
}

# have_kvm: hardware virtualisation that this user may use. A /dev/kvm alone is not enough: where the
# processor reports neither vmx nor svm, it emulates kernel code one instruction at a time.
have_kvm() { grep -qwE 'vmx|svm' /proc/cpuinfo && [ -r /dev/kvm ] && [ -w /dev/kvm ]; }

# SPDX-License-Identifier: Apache-2.0
# The QEMU that emulates hardware virtualisation, and that benchmarks compare with. Sourced after common.sh and debian.sh.
#
# Debian 12's own, 7.2, hangs or resets guests under SVM before long when each of its processors has a thread. The one in
# bookworm-backports does not, and is twice as fast; it is unpacked in build/qemu, not installed. It runs on the libraries
# that scripts/setup installs with 7.2.

# find_qemu [installed]: sets $qemu, a program and its first options, and $qemu_threads, `multi` if its processors may run at once.
find_qemu() {
  local tree=$hvsdk_root/build/qemu
  [ "${1:-}" != installed ] || tree=/nowhere
  # What could not be had is asked for again the next day.
  if [ "$tree" != /nowhere ] && [ ! -x "$tree/usr/bin/qemu-system-x86_64" ] && [ -z "$(find "$tree.none" -mtime -1 2>/dev/null)" ]; then
    make_qemu "$tree" || { say "no newer QEMU to be had; the installed one it is"; touch "$tree.none"; }
  fi
  if [ -x "$tree/usr/bin/qemu-system-x86_64" ]; then
    qemu=("$tree/usr/bin/qemu-system-x86_64" -L "$tree/usr/share/qemu" -L /usr/share/seabios) qemu_threads=multi
  elif command -v qemu-system-x86_64 >/dev/null; then
    qemu=(qemu-system-x86_64) qemu_threads=single
  else
    return 1
  fi
}

# make_qemu TREE: downloads and unpacks it.
make_qemu() (
  tree=$1
  mkdir -p "${tree%/*}"
  exec 9>"$tree.lock"
  flock 9
  [ ! -x "$tree/usr/bin/qemu-system-x86_64" ] || exit 0
  work=$(mktemp -d "$tree.XXXXXX") || exit
  trap 'rm -rf "$work"' EXIT
  packages=(qemu-system-x86 qemu-system-data qemu-system-common)
  use_suites bookworm-backports bookworm-backports &&
    unpack_packages "$work/tree" &&
    "$work/tree/usr/bin/qemu-system-x86_64" --version >/dev/null &&
    mv "$work/tree" "$tree"
)

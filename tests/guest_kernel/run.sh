#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# run.sh MINI_VMM KERNEL BACKEND [WRAPPER ARGUMENT...]
#
# Boots the guest kernel with a disk, two network adapters on a switch, a screen and a keyboard, at which typist.py sits, and
# compares its report with expected.tap, line by line: the report is the same on every engine. BACKEND is one of mini_vmm's, or
# emulated-kvm: a /dev/kvm without hardware virtualisation behind it, which alone may do with less than a whole APIC (examples/guest_kernel/cpu.h).
# WRAPPER runs mini_vmm somewhere else.
#
# Exit status: 0 the same, 1 not, 77 (skipped) if there is no such engine here.
set -u
mini_vmm=$1 kernel=$2 backend=$3
shift 3
here=$(dirname "$(realpath "$0")")

command_line="require-whole-apic screen"
case "$backend" in
  emulated-kvm)
    if [ ! -r /dev/kvm ] || grep -Eqw 'vmx|svm' /proc/cpuinfo; then
      echo "no /dev/kvm that emulates here"
      exit 77
    fi
    backend=kvm command_line=screen ;;
  *)
    if ! "$mini_vmm" --help | grep -Eq -- "--backend=.*\b$backend\b"; then
      echo "mini_vmm has no backend $backend"
      exit 77
    fi ;;
esac

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
# A disk of 1 MiB whose first sector ends as a boot sector does.
dd if=/dev/zero of="$work/disk" bs=1048576 count=1 2>/dev/null
printf '\125\252' | dd of="$work/disk" bs=1 seek=510 conv=notrunc 2>/dev/null

# The SynIC's tests want ports of their own.
echo 'loopback_ports: true' >"$work/machine.textproto"

"$@" python3 "$here/typist.py" "$work/vnc" "$mini_vmm" --config="$work/machine.textproto" --backend="$backend" --kernel="$kernel" --cmdline="$command_line" \
  --memory=64M --cpus=2 --disk="$work/disk" --net=switch --net=switch \
  --video=640x480 --input=keyboard --no-reboot </dev/null >"$work/output" 2>"$work/errors"
status=$?
[ $status = 77 ] && { cat "$work/errors"; exit 77; }
tr -d '\r' <"$work/output" >"$work/report"
cat "$work/report" "$work/errors"
if [ $status != 0 ]; then
  echo "mini_vmm ended with $status"
  exit 1
fi
diff -u "$here/expected.tap" "$work/report"

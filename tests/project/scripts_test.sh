#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# scripts_test.sh ROOT: what scripts/guest-assets, scripts/nested and scripts/soak promise.
set -uo pipefail
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# expect NAME STATUS PATTERN COMMAND...: the command's exit status, and a line of its output.
expect() {
  local name=$1 wanted=$2 pattern=$3 status=0
  shift 3
  "$@" >"$work/out" 2>&1 </dev/null || status=$?
  if [ "$status" != "$wanted" ] || { [ -n "$pattern" ] && ! grep -qE -- "$pattern" "$work/out"; }; then
    echo "FAILED $name: status $status instead of $wanted, or no line matches '$pattern':"
    tail -n 20 "$work/out"
    failures=$((failures + 1))
  else
    echo "ok $name"
  fi
}

expect "soak says what there is" 0 'kills .* 1000 times' "$root/scripts/soak" --help
expect "soak refuses what there is not" 2 "no soak 'forever'; there are: kills" "$root/scripts/soak" kills forever

command -v qemu-system-x86_64 >/dev/null || exit "$((failures > 0 ? 1 : 77))"

expect "guest-assets needs a directory" 2 'scripts/guest-assets .*DIR' "$root/scripts/guest-assets"
expect "guest-assets makes the images" 0 '' "$root/scripts/guest-assets" "$work/a"
expect "the same packages give the same bytes" 0 '' bash -c \
  '"$1/scripts/guest-assets" "$2/b" && cmp "$2/a/initrd.img" "$2/b/initrd.img" && cmp "$2/a/vmlinuz" "$2/b/vmlinuz"' - "$root" "$work"

# boot KERNEL_PARAMETERS: the guest under QEMU's TCG, which is no Hyper-V.
boot() {
  timeout 60 qemu-system-x86_64 -accel tcg -M pc -m 256M -nodefaults -no-reboot -display none -serial stdio \
    -kernel "$work/a/vmlinuz" -initrd "$work/a/initrd.img" -append "console=ttyS0 quiet panic=-1 $1"
}
encoded=$(printf '%s' 'echo "a  b" | wc -c; exit 4' | base64 -w 0)
expect "hvsdk.exec with spaces and quotes" 0 '^a  "b" c.$' boot "hvsdk.exec=\"echo 'a  \"b\" c' | grep \"b\"\" loglevel=4"
expect "the command's status" 0 '^HVSDK-EXIT:7.$' boot 'hvsdk.exec="exit 7"'
expect "hvsdk.exec_b64" 0 '^HVSDK-EXIT:4.$' boot "hvsdk.exec_b64=$encoded"
expect "no command and no Hyper-V" 0 '^no VMBus.$' boot ''
expect "mkfs.ext4 in the guest" 0 '^HVSDK-EXIT:0.$' boot \
  'hvsdk.exec="dd if=/dev/zero of=/d bs=1M count=8 && mkfs.ext4 -q /d"'

nested=$root/scripts/nested
expect "nested refuses an unknown option" 2 'unknown option --bogus' "$nested" --bogus true
expect "nested refuses a wrong size" 2 '--memory' "$nested" --memory=lots true
mkdir "$work/share"
expect "nested passes status and output through" 9 '^svm [1-9] .*/dev/kvm a  b$' env "TEST_VALUE=a  b" \
  "$nested" --share="$work/share" bash -c \
  'echo "svm $(grep -cw svm /proc/cpuinfo) $(ls /dev/kvm) $TEST_VALUE"; echo kept >"$1/kept"; echo gone >"$2"; exit 9' - "$work/share" "$work/gone"
expect "a shared directory keeps what was written" 0 kept cat "$work/share/kept"
expect "any other does not" 1 '' test -e "$work/gone"
expect "nested has terminals and shared memory" 0 '' "$nested" python3 -c \
  'import os, pty; pty.openpty(); open("/dev/shm/x", "w"); os.stat("/dev/stdin")'
expect "nested ends on time" 124 'timed out' "$nested" --timeout=3 sleep 100

exit "$((failures > 0))"

# SPDX-License-Identifier: Apache-2.0
# Disks with Debian on them, for scripts/debian-disk and scripts/debian-system.

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

# begin_disk DISK SCRIPT [TOOL...]: ends the script if DISK is there and SCRIPT made it; else `work` is a folder that goes with
# the script, and what it needs is there.
begin_disk() {
  disk=$1
  local script=$2 tool
  shift 2
  exec 9>"$disk.lock"
  flock 9
  recipe=$(cat "$script" "$hvsdk_root/scripts/lib/debootstrap.sh" | sha256sum | cut -c 1-16)
  [ ! -s "$disk" ] || [ "$(cat "$disk.recipe" 2>/dev/null)" != "$recipe" ] || exit 0
  PATH=$PATH:/sbin:/usr/sbin
  for tool in debootstrap mkfs.ext4 "$@"; do
    command -v "$tool" >/dev/null || fail "needs $tool; scripts/setup installs it"
  done
  [ "$(id -u)" = 0 ] || command -v sudo >/dev/null || fail "debootstrap needs root, and there is no sudo"
  work=$(mktemp -d "$disk.work.XXXXXX")
  trap 'as_root rm -rf "$work"' EXIT
}

# bootstrap_disk PACKAGE...: a minimal Debian with these in $work/root. debootstrap mounts /proc below the new root, in a mount
# namespace that ends with it.
bootstrap_disk() {
  local packages mirror
  packages=$(IFS=,; echo "$*")
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Identifier: Packages' 'Codename: bookworm' 2>/dev/null | head -n 1) || true
  say "making $disk"
  bootstrap_once() {
    as_root rm -rf "$work/root"
    as_root unshare --mount --propagation private debootstrap --variant=minbase --include="$packages" bookworm "$work/root" \
      ${mirror:+"$mirror"} >"$work/log" 2>&1
  }
  retry bootstrap_once || { tail -n 20 "$work/log" >&2; fail "debootstrap failed"; }
  as_root rm -rf "$work"/root/var/{cache/apt,lib/apt/lists,log}/* "$work"/root/usr/share/{doc,man,locale}/*
}

# end_disk SIZE: $work/root as an ext4 file system of that size in DISK.
end_disk() {
  as_root mkfs.ext4 -q -d "$work/root" "$work/disk.img" "$1" || fail "mkfs.ext4 failed"
  as_root chown "$(id -u):$(id -g)" "$work/disk.img"
  mv "$work/disk.img" "$disk"
  echo "$recipe" >"$disk.recipe"
}

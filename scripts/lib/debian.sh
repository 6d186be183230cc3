# SPDX-License-Identifier: Apache-2.0
# Boot images from Debian packages, made without root and without installing anything. Sourced after
# common.sh. The work directory is $work, which the caller makes and removes.

# Options of a private set of package lists, for when apt's own are missing or out of date and we
# are not root. Empty until refresh_lists.
apt_options=()

# refresh_lists [OPTION...]: OPTIONs are apt's, for this and what follows.
refresh_lists() {
  mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
  apt_options=(-o "Dir::State::lists=$work/apt/lists" -o "Dir::Cache=$work/apt/cache" -o APT::Sandbox::User= "$@")
  retry apt-get "${apt_options[@]}" -qq update
}

# use_suite SUITE: from here on packages are those of Debian 13's SUITE, trixie or trixie-backports, from where apt has its own.
use_suite() {
  use_suites "$1" trixie trixie-backports
}

# use_suites DEFAULT SUITE...: likewise those of several; what more than one has is DEFAULT's.
use_suites() {
  local keys=/usr/share/keyrings/debian-archive-keyring.gpg default=$1 mirror suite
  shift
  if [ -r "$keys" ]; then keys="[signed-by=$keys]"; else keys=; fi
  mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' | awk '$2 == "bookworm" { print $1; exit }')
  [ -n "$mirror" ] || return
  for suite; do echo "deb $keys $mirror $suite main"; done >"$work/sources.list"
  refresh_lists -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "APT::Default-Release=$default"
}

# kernel_package META: prints the versioned image package that META (linux-image-amd64) stands for.
kernel_package() {
  apt-cache "${apt_options[@]}" depends "$1" | sed -n 's/^  Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1
}

# resolve_all KERNEL_META PACKAGE...: sets $packages to the versions that apt would install now, the kernel's first. Newer kernels have their
# image and their modules in packages of their own.
resolve_all() {
  local kernel
  kernel=$(kernel_package "$1") && [ -n "$kernel" ] || return 1
  shift
  set -- "$kernel" $(apt-cache "${apt_options[@]}" depends "$kernel" | sed -n 's/^  Depends: \(linux-\(base\|binary\|modules\)-[0-9].*\)/\1/p') "$@"
  mapfile -t packages < <(apt-cache "${apt_options[@]}" policy "$@" |
    awk '/^[^ ].*:$/ { name = substr($0, 1, length($0) - 1) } $1 == "Candidate:" && $2 != "(none)" { print name "=" $2 }')
  [ ${#packages[@]} = $# ]
}

# lists_older_than FILE: apt has learnt nothing since FILE was written.
lists_older_than() { [ -e "$1" ] && [ -z "$(find /var/lib/apt/lists /etc/apt -newer "$1" -print -quit 2>/dev/null)" ]; }

# unpack_packages TREE: downloads $packages and unpacks them into TREE, which has /bin, /lib and so on also where Debian has them below /usr.
# Of two versions of one package, the older one's files stay.
unpack_packages() {
  local deb folder
  mkdir -p "$work/debs" "$1"
  (cd "$work/debs" && retry apt-get "${apt_options[@]}" -o APT::Sandbox::User= -qq download "${packages[@]}") || return 1
  for deb in $(printf '%s\n' "$work"/debs/*.deb | sort -rV); do
    dpkg-deb -x "$deb" "$1"
  done
  for folder in bin sbin lib lib64; do
    [ -e "$1/$folder" ] || ln -s "usr/$folder" "$1/$folder"
  done
}

# decompress_kernel BZIMAGE ELF: the ELF file inside a bzImage, which boots by PVH without the time a guest
# needs to decompress itself. Offsets: Linux' Documentation/x86/boot.rst.
decompress_kernel() {
  python3 - "$1" "$2" <<'PYTHON'
import struct, subprocess, sys
image = open(sys.argv[1], 'rb').read()
setup_sectors = image[0x1f1] or 4
offset, length = struct.unpack_from('<II', image, 0x248)
start = (setup_sectors + 1) * 512 + offset
payload = image[start:start + length]
# The last four bytes are the length of what comes out, and no decompressor's business.
size = struct.unpack('<I', payload[-4:])[0]
if payload.startswith(b'\x02\x21\x4c\x18'):
    command, payload = ['lz4', '-dcq'], payload[:-4]
elif payload.startswith(b'\xfd7zXZ'):
    command = ['xz', '-dcq', '--single-stream']
else:
    sys.exit('unknown kernel compression: ' + payload[:6].hex())
elf = subprocess.run(command, input=payload, stdout=subprocess.PIPE).stdout
if len(elf) != size or not elf.startswith(b'\x7fELF'):
    sys.exit(f'kernel decompressed to {len(elf)} bytes instead of {size}')
open(sys.argv[2], 'wb').write(elf)
PYTHON
}

# copy_modules TREE RAMDISK MODULE...: copies the modules and all they depend on, uncompressed, with a modules.dep and a
# modules.alias that name just these, so that modprobe works in the guest. `MODULE?` is one that not every kernel has.
copy_modules() {
  local tree=$1 ramdisk=$2 release
  shift 2
  release=$(ls "$tree/lib/modules")
  PATH=$PATH:/sbin:/usr/sbin depmod -b "$tree" "$release"
  python3 - "$tree/lib/modules/$release" "$ramdisk/lib/modules/$release" "$@" <<'PYTHON'
import lzma, os, shutil, sys
source, target, *names = sys.argv[1:]
def name_of(path):
    return os.path.basename(path).split('.')[0].replace('-', '_')
def plain(path):
    return path.removesuffix('.xz')
dependencies = {}
for line in open(source + '/modules.dep'):
    path, _, rest = line.partition(':')
    dependencies[name_of(path)] = [path] + rest.split()
built_in = {name_of(line.strip()) for line in open(source + '/modules.builtin')}
wanted = {}
for name in names:
    is_optional = name.endswith('?')
    name = name.rstrip('?').replace('-', '_')
    if name in built_in or (is_optional and name not in dependencies):
        continue
    if name not in dependencies:
        sys.exit(f'this kernel has no module {name}')
    for path in dependencies[name]:
        wanted[name_of(path)] = path
for path in wanted.values():
    os.makedirs(os.path.dirname(f'{target}/{path}'), exist_ok=True)
    with (lzma.open if path.endswith('.xz') else open)(f'{source}/{path}', 'rb') as module, open(f'{target}/{plain(path)}', 'wb') as copy:
        shutil.copyfileobj(module, copy)
with open(source + '/modules.alias') as lines, open(target + '/modules.alias', 'w') as out:
    out.writelines(line for line in lines if line.split()[-1].replace('-', '_') in wanted)
with open(target + '/modules.dep', 'w') as out:
    for name in sorted(wanted):
        path, *rest = dependencies[name]
        out.write(f"{plain(path)}:{''.join(' ' + plain(other) for other in rest)}\n")
PYTHON
}

# copy_busybox TREE RAMDISK: busybox and a link for each of its applets.
copy_busybox() {
  local applet
  mkdir -p "$2/bin"
  ln -s bin "$2/sbin"
  cp "$1/bin/busybox" "$2/bin/busybox"
  for applet in $("$1/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$2/bin/$applet"
  done
}

# copy_programs TREE RAMDISK PROGRAM...: copies programs to /bin with the shared libraries that they need, all out of TREE.
# `mkfs.ext4=mke2fs` makes a link.
copy_programs() {
  local tree=$1 ramdisk=$2 program path library
  shift 2
  mkdir -p "$ramdisk/lib" "$ramdisk/lib64"
  local -a queue=() done=()
  for program in "$@"; do
    if [[ $program == *=* ]]; then
      ln -sf "${program#*=}" "$ramdisk/bin/${program%%=*}"
      continue
    fi
    path=$(find "$tree/bin" "$tree/sbin" "$tree/usr/bin" "$tree/usr/sbin" -name "$program" -type f 2>/dev/null | head -n 1)
    [ -n "$path" ] || fail "no program $program in ${packages[*]}"
    rm -f "$ramdisk/bin/$program"
    cp "$path" "$ramdisk/bin/"
    queue+=("$path")
  done
  while [ ${#queue[@]} -gt 0 ]; do
    path=${queue[0]}
    queue=("${queue[@]:1}")
    for library in $(objdump -p "$path" | sed -n 's/^ *NEEDED *//p'); do
      [ -e "$ramdisk/lib/$library" ] && continue
      path=$(find "$tree/lib" "$tree/usr/lib" -name "$library" | head -n 1)
      [ -n "$path" ] || fail "no library $library in ${packages[*]}"
      cp -L "$path" "$ramdisk/lib/$library"
      queue+=("$path")
    done
  done
  cp -L "$tree/lib64/ld-linux-x86-64.so.2" "$ramdisk/lib64/" 2>/dev/null ||
    cp -L "$(find "$tree/lib" -name ld-linux-x86-64.so.2 | head -n 1)" "$ramdisk/lib64/"
  rm -f "$ramdisk/lib/ld-linux-x86-64.so.2"
}

# pack_ramdisk RAMDISK FILE: the same tree gives the same bytes. Not compressed: unpacking would cost the guest
# more than the host saves by reading less.
pack_ramdisk() {
  chmod -R u=rwX,go=rX "$1"
  find "$1" -exec touch -h -d @0 {} +
  (cd "$1" && find . -mindepth 1 | LC_ALL=C sort | cpio --quiet --reproducible --owner=0:0 -o -H newc) >"$2"
}

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Random sequences of writes, discards, resizes, snapshots and more on images of each kind, made by hvimg or by qemu-img and
written by either: the disk is as a model has it, in the eyes of hvimg, qemu-img and libvhdi, as far as they know the kind.

Usage: image_sequences_test.py HVIMG IMAGE_SCRIPT

HVSDK_SEQUENCES is how many there are of each kind, if it is not set 5. Without qemu-img or pyvhdi those are not asked.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile

# Debian's packages are Debian's Python's, which need not be this one.
sys.path.append('/usr/lib/python3/dist-packages')
try:
    import pyvhdi
except ImportError:
    pyvhdi = None

HVIMG, SCRIPT = sys.argv[1:3]
QEMU = shutil.which('qemu-img') if shutil.which('qemu-io') else None
MIB = 1 << 20
KINDS = [('vhdx', 'dynamic'), ('vhdx', 'fixed'), ('vhdx', 'differencing'), ('vhd', 'dynamic'), ('vhd', 'fixed'),
         ('vhd', 'differencing')]


def run(*command, text=None):
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == 0, (command, text, done)
    return done.stdout


class Sequence:
    """An image, its parents, and what its disk holds."""

    def __init__(self, kind, rng):
        self.format, self.type = kind
        self.qemu_format = 'vpc' if self.format == 'vhd' else 'vhdx'
        self.rng, self.number, self.log = rng, 0, []
        self.chain = []  # the image, and its parents in turn
        self.is_resized = False
        size = rng.randrange(2, 9 if self.type == 'fixed' else 24) * MIB
        self.model = bytearray(size)
        self.chain.append(self.create(size))
        if self.type == 'differencing':
            self.change(rng.randrange(1, 6))
            self.snapshot()

    def name(self):
        self.number += 1
        return f'image{self.number}.{self.format}'

    def create(self, size):
        path = self.name()
        is_fixed = self.type == 'fixed'
        # QEMU's fixed VHDX has blocks that are not all there at once; and its VHD only sizes by geometry or by force.
        self.by_qemu = bool(QEMU) and self.rng.random() < 0.4
        if self.by_qemu:
            options = [f'subformat={"fixed" if is_fixed else "dynamic"}', 'force_size=on' if self.format == 'vhd' else 'block_size=1M']
            run(QEMU, 'create', '-q', '-f', self.qemu_format, '-o', ','.join(options), path, str(size))
        else:
            block = [] if is_fixed and self.format == 'vhd' else [f'--block={self.rng.choice(["1M", "2M"])}']
            run(HVIMG, 'create', f'--size={size}', f'--format={self.format}', *(['--type=fixed'] if is_fixed else []), *block, path)
        self.log.append(f'create {path} {"by qemu-img" if self.by_qemu else ""}')
        return path

    def part(self):
        sectors = len(self.model) // 512
        # libvhdi takes the bits of a VHD's sector bitmap eight by eight.
        unit = 8 if self.format == 'vhd' and len(self.chain) > 1 else 1
        if self.rng.random() < 0.4:  # whole blocks
            start = self.rng.randrange(-(-sectors // 2048)) * 2048
            return start * 512, min(sectors - start, 2048 * self.rng.randrange(1, 4)) * 512
        start = self.rng.randrange(-(-sectors // unit)) * unit
        return start * 512, min(sectors - start, self.rng.randrange(1, 3000 // unit) * unit) * 512

    def change(self, count):
        """Writes, by us or, where it knows the kind, by QEMU."""
        by_qemu = QEMU and len(self.chain) == 1 and self.rng.random() < 0.4
        lines = []
        for _ in range(count):
            offset, size = self.part()
            what, value = self.rng.choice((('write', self.rng.randrange(1, 256)), ('write', 0), ('zero', 0), ('discard', 0), ('write', 77)))
            if by_qemu:
                lines.append(f'write -P {value} {offset} {size}')
            else:
                lines.append(f'{what} {offset} {size} {value}')
            self.model[offset:offset + size] = bytes([value]) * size
            if self.rng.random() < 0.3:
                lines.append('flush')
        self.log.append(f'{"qemu-io" if by_qemu else "hvsdk"}: {lines}')
        if by_qemu:
            out = run('qemu-io', '-f', self.qemu_format, *[word for line in lines for word in ('-c', line)], self.chain[0])
            assert 'failed' not in out, (self.log, out)
        else:
            run(SCRIPT, self.format, self.chain[0], text='\n'.join(lines) + '\n')

    def resize(self):
        # A child of VHD has its parent's size, and QEMU's VHDs are left as large as their geometry says.
        if self.format == 'vhd' and (len(self.chain) > 1 or self.by_qemu):
            return
        more = self.rng.randrange(1, 9 if self.type != 'fixed' else 4) * 512 * self.rng.choice((1, 2048))
        self.model += bytes(more)
        run(HVIMG, 'resize', f'--format={self.format}', f'--size={len(self.model)}', self.chain[0])
        self.is_resized = True
        self.log.append(f'resize +{more}')

    def snapshot(self):
        if len(self.chain) >= 4:
            return
        path = self.name()
        run(HVIMG, 'create', f'--format={self.format}', f'--parent={self.chain[0]}', path)
        self.chain.insert(0, path)
        self.log.append(f'snapshot {path}')

    def compact(self):
        if self.type != 'fixed' or len(self.chain) > 1:
            run(HVIMG, 'compact', f'--format={self.format}', self.chain[0])
            self.log.append('compact')

    def merge(self):
        if len(self.chain) < 2 or (self.type == 'differencing' and len(self.chain) == 2):
            return
        run(HVIMG, 'merge', f'--format={self.format}', self.chain[0])
        os.remove(self.chain.pop(0))
        self.log.append('merge')

    def check(self):
        with open('model', 'wb') as file:
            file.write(self.model)
        image = self.chain[0]
        run(HVIMG, 'compare', 'model', image)
        for each in self.chain:
            run(HVIMG, 'check', f'--format={self.format}', each)
        if QEMU and len(self.chain) == 1:
            run(QEMU, 'compare', '-f', 'raw', '-F', self.qemu_format, 'model', image)
            if self.format == 'vhdx':
                run(QEMU, 'check', '-q', '-f', 'vhdx', image)
        # It takes a block that a VHDX leaves to its parent for one whose sector bitmap is where the file begins.
        # And the size with which a VHD was made for the size that it has.
        if pyvhdi and (not self.is_resized if self.format == 'vhd' else len(self.chain) == 1):
            self.check_with_libvhdi()

    def check_with_libvhdi(self):
        opened = []
        for path in self.chain:
            file = pyvhdi.file()
            file.open(path)
            if opened:
                opened[-1].set_parent(file)
            opened.append(file)
        size = opened[0].get_media_size()
        assert size == len(self.model), (self.log, 'libvhdi sees another size', size, len(self.model))
        for offset in range(0, size, MIB):
            got = opened[0].read_buffer_at_offset(min(MIB, size - offset), offset)
            assert got == self.model[offset:offset + len(got)], (self.log, 'libvhdi sees other bytes', offset)
        for file in opened:
            file.close()

    def play(self):
        for _ in range(self.rng.randrange(3, 8)):
            step = self.rng.choice((self.change, self.change, self.change, self.resize, self.snapshot, self.compact, self.merge))
            step(*([self.rng.randrange(1, 10)] if step == self.change else []))
            if self.rng.random() < 0.2:
                self.check()
        self.check()


def main():
    count = int(os.environ.get('HVSDK_SEQUENCES', '5'))
    seed = int(os.environ.get('HVSDK_TEST_SEED', random.randrange(1 << 32)))
    print(f'HVSDK_TEST_SEED={seed}; qemu-img: {"yes" if QEMU else "no"}, libvhdi: {"yes" if pyvhdi else "no"}', flush=True)
    where = os.environ.get('HVSDK_TEST_FILES') or ('/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
    for kind in KINDS:
        for number in range(count):
            with tempfile.TemporaryDirectory(dir=where) as folder:
                os.chdir(folder)
                sequence = None
                try:
                    sequence = Sequence(kind, random.Random(f'{seed} {kind} {number}'))
                    sequence.play()
                except BaseException:
                    print(f'{kind}, sequence {number}:', *(sequence.log if sequence else ()), sep='\n  ', flush=True)
                    raise
                finally:
                    os.chdir('/')
        print(f'{" ".join(kind)}: {count} sequences', flush=True)


if __name__ == '__main__':
    main()

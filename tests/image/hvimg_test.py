#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""hvimg on real files, and what it makes and writes before qemu-img, which reads and writes both formats, too.

Usage: hvimg_test.py HVIMG
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HVIMG = sys.argv[1]
QEMU = shutil.which('qemu-img')
MIB = 1 << 20


def run(*command, status=0):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=120)
    assert done.returncode == status, (command, done)
    if status != 0 and command[0] == HVIMG:
        assert done.stderr.count('\n') == 1 and done.stderr.startswith('hvimg: '), done.stderr
        return done.stderr
    return done.stdout


def hvimg(*arguments, status=0):
    return run(HVIMG, *arguments, status=status)


def make_raw(path, size, rng):
    with open(path, 'wb') as raw:
        raw.truncate(size)
        for _ in range(12):
            offset = rng.randrange(size // 512) * 512
            raw.seek(offset)
            raw.write(rng.randbytes(min(size - offset, 512 * rng.randrange(1, 3000))))


def kinds():
    yield 'vhdx', ()
    yield 'vhdx', ('--block=1M',)
    yield 'vhdx', ('--sector=4096',)
    yield 'vhdx', ('--type=fixed', '--block=2M')
    yield 'vhd', ()
    yield 'vhd', ('--block=512K',)
    yield 'vhd', ('--type=fixed',)


def test_conversions(rng):
    make_raw('raw', 41 * MIB + 4096, rng)
    for number, (kind, options) in enumerate(kinds()):
        image, back = f'{number}.{kind}', f'{number}.raw'
        hvimg('convert', f'--format={kind}', *options, 'raw', image)
        assert f'format:   {kind}\n' in hvimg('info', image)
        told = json.loads(hvimg('info', '--json', image))
        assert (told['format'], told['type']) == (kind, 'fixed' if '--type=fixed' in options else 'dynamic'), told
        assert told['disk_bytes'] >= 41 * MIB + 4096 and told['file_bytes'] == os.path.getsize(image), told
        hvimg('compare', 'raw', image)
        hvimg('convert', '--format=raw', image, back)
        run('cmp', 'raw', back)
        hvimg('check', image)
        if QEMU and '--sector=4096' not in options:  # which QEMU does not read
            run(QEMU, 'compare', '-f', 'raw', '-F', 'vpc' if kind == 'vhd' else kind, 'raw', image)
            if kind == 'vhdx':
                run(QEMU, 'check', '-f', 'vhdx', image)
    message = hvimg('compare', 'raw', '0.vhdx', status=0)
    assert message == ''
    with open('raw', 'r+b') as raw:
        raw.seek(5 * MIB)
        raw.write(b'another')
    assert 'differ at byte' in hvimg('compare', 'raw', '0.vhdx', status=1)


def test_images_of_qemu(rng):
    if not QEMU:
        return
    # QEMU's VHD sizes follow cylinders; 41 MiB of force_size stays.
    make_raw('q', 41 * MIB, rng)
    for number, (kind, options) in enumerate((('vhdx', 'subformat=dynamic,block_size=1M'), ('vhdx', 'subformat=dynamic'),
                                              ('vhdx', 'subformat=fixed'), ('vpc', 'subformat=dynamic,force_size=on'),
                                              ('vpc', 'subformat=fixed,force_size=on'))):
        image = f'q{number}'
        run(QEMU, 'convert', '-f', 'raw', '-O', kind, '-o', options, 'q', image)
        hvimg('compare', 'q', image)
        hvimg('check', image)
        # What it wrote there goes on in ours.
        hvimg('convert', '--format=vhdx', image, image + '.vhdx')
        run(QEMU, 'compare', '-f', kind, '-F', 'vhdx', image, image + '.vhdx')


def test_differencing(rng):
    os.mkdir('bases')
    for kind in ('vhdx', 'vhd'):
        base, child, grandchild = f'bases/base.{kind}', f'child.{kind}', f'bases/grandchild.{kind}'
        hvimg('convert', f'--format={kind}', 'raw', base)
        hvimg('create', f'--format={kind}', f'--parent={base}', child)
        hvimg('create', f'--format={kind}', f'--parent={child}', grandchild)
        assert 'kind:     differencing' in hvimg('info', child)
        told = json.loads(hvimg('info', '--json', child))
        assert told['type'] == 'differencing' and any(os.path.basename(base) in each for each in told['parents']), told
        hvimg('compare', base, child)
        hvimg('compare', base, grandchild)
        # In another place together they find each other, and apart not.
        os.makedirs(f'moved-{kind}/bases')
        for name in (base, child, grandchild):
            shutil.copy(name, f'moved-{kind}/{name}')
        os.rename(base, base + '.away')
        hvimg('compare', base + '.away', f'moved-{kind}/{grandchild}')
        message = hvimg('compare', 'raw', grandchild, status=2)
        assert grandchild in message and child in message and base in message, message
        # Not the one.
        hvimg('convert', f'--format={kind}', 'raw', base)
        message = hvimg('compare', 'raw', child, status=2)
        assert child in message and base in message and 'is not the one' in message, message
        # Itself.
        shutil.copy(child, base + '.copy')
        os.remove(base)
        os.symlink('../' + child, base)
        message = hvimg('compare', 'raw', child, status=2)
        assert child in message and base in message and 'for a parent, too' in message, message


def test_compact(rng):
    for kind in ('vhdx', 'vhd'):
        image = f'compact.{kind}'
        # Half of its blocks are zeroes, which QEMU's way of writing does not leave out.
        make_raw('half', 40 * MIB, rng)
        hvimg('convert', f'--format={kind}', '--block=1M', 'half', image)
        hvimg('compact', image)
        size = os.stat(image).st_size
        with open('half', 'r+b') as raw:
            raw.write(bytes(30 * MIB))
        if QEMU:
            # Its zeroes are written as data.
            qemu = 'vpc' if kind == 'vhd' else kind
            for start in range(0, 30, 5):
                run('qemu-io', '-f', qemu, '-c', f'write -P 0 {start}M 5M', image)
            assert os.stat(image).st_size > size
            assert 'its file had' in hvimg('compact', image)
            run(QEMU, 'compare', '-f', 'raw', '-F', qemu, 'half', image)
            hvimg('compare', 'half', image)
            if kind == 'vhdx':
                run(QEMU, 'check', '-f', 'vhdx', image)
            assert os.stat(image).st_size < size
        hvimg('check', image)
        hvimg('create', f'--format={kind}', '--type=fixed', '--size=4M', 'fixed.' + kind)
        assert 'fixed' in hvimg('compact', 'fixed.' + kind, status=2)
    assert 'raw' in hvimg('compact', 'half', status=2)


def test_merge_and_rebase(rng):
    for kind in ('vhdx', 'vhd'):
        base, child, grandchild, other = (f'm-{name}.{kind}' for name in ('base', 'child', 'grandchild', 'other'))
        make_raw('first', 12 * MIB, rng)
        make_raw('second', 12 * MIB, rng)
        hvimg('convert', f'--format={kind}', 'first', base)
        hvimg('convert', f'--format={kind}', 'second', other)
        hvimg('create', f'--format={kind}', f'--parent={base}', child)
        hvimg('create', f'--format={kind}', f'--parent={child}', grandchild)
        # Over another parent the child has all that the two do not have in common.
        hvimg('rebase', f'--parent={other}', child)
        assert other in hvimg('info', child)
        hvimg('compare', 'first', child)
        hvimg('compare', 'first', grandchild)
        # Merged, that is its parent's; and so is the grandchild's, when it is told.
        hvimg('merge', child)
        hvimg('compare', 'first', other)
        hvimg('compare', 'first', child)
        hvimg('create', f'--format={kind}', f'--parent={child}', grandchild + '2')
        hvimg('rebase', f'--parent={other}', grandchild + '2')
        os.remove(child)
        hvimg('compare', 'first', grandchild + '2')
        # One that has moved only.
        os.rename(other, other + '.moved')
        hvimg('compare', 'first', grandchild + '2', status=2)
        hvimg('rebase', f'--parent={other}.moved', grandchild + '2')
        hvimg('compare', 'first', grandchild + '2')
        hvimg('check', grandchild + '2')
        # Mistakes: no parent, itself, its own child.
        assert 'no parent' in hvimg('merge', base, status=2)
        assert 'no parent' in hvimg('rebase', f'--parent={other}.moved', base, status=2)
        assert 'its own parent' in hvimg('rebase', f'--parent={grandchild}2', grandchild + '2', status=2)
        hvimg('create', f'--format={kind}', f'--parent={grandchild}2', grandchild + '3')
        message = hvimg('rebase', f'--parent={grandchild}3', grandchild + '2', status=2)
        assert grandchild + '3' in message, message
        hvimg('compare', 'first', grandchild + '3')
        hvimg('rebase', grandchild + '2', status=2)


def test_large():
    hvimg('create', '--size=64T', '--block=1M', 'large.vhdx')
    assert '64 TiB' in hvimg('info', 'large.vhdx')
    assert os.stat('large.vhdx').st_blocks * 512 < 4 * MIB
    hvimg('create', '--size=2040G', '--format=vhd', 'large.vhd')
    if QEMU:
        # QEMU reads the whole table of blocks, which is 512 MiB with blocks of 1 MiB.
        hvimg('create', '--size=64T', '--block=256M', 'larger.vhdx')
        assert str(64 << 40) in run(QEMU, 'info', '--output=json', 'larger.vhdx')
        assert str(2040 << 30) in run(QEMU, 'info', '--output=json', '-f', 'vpc', 'large.vhd')


def test_cut_off(rng):
    """What a conversion leaves that was ended by a signal: nothing that could be taken for the image."""
    def is_begun(path):
        return os.path.exists(path) and os.stat(path).st_size > 32 * MIB

    block = rng.randbytes(MIB)
    with open('much', 'wb') as much:
        for _ in range(256):
            much.write(block)
    for end in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        for _ in range(20):
            with subprocess.Popen((HVIMG, 'convert', 'much', 'cut.vhdx'), stderr=subprocess.DEVNULL) as converts:
                while converts.poll() is None and not is_begun('cut.vhdx.part'):
                    time.sleep(0.001)
                converts.send_signal(end)
            assert os.path.exists('cut.vhdx') == (converts.returncode == 0), converts.returncode
            if converts.returncode != 0:
                break
            hvimg('compare', 'much', 'cut.vhdx')
            os.remove('cut.vhdx')
        assert converts.returncode == -end, converts.returncode
        assert os.path.exists('cut.vhdx.part') == (end == signal.SIGKILL), end
    assert "disk 'cut.vhdx.part': File exists; " in hvimg('convert', 'much', 'cut.vhdx', status=2)
    os.remove('cut.vhdx.part')
    hvimg('convert', 'much', 'cut.vhdx')
    hvimg('compare', 'much', 'cut.vhdx')
    assert 'File exists' in hvimg('convert', 'much', 'cut.vhdx', status=2)
    os.remove('cut.vhdx')
    os.remove('much')


def test_mistakes():
    for arguments in (('fly',), (), ('info',), ('info', 'nowhere'), ('create', 'x'), ('create', '--size=1Q', 'x'),
                      ('create', '--size=65T', 'x'), ('create', '--size=1000', 'x'), ('create', '--size=1M', 'raw'),
                      ('create', '--size=1M', '--sector=4096', '--format=vhd', 'x'), ('info', '--speed=1', 'raw'),
                      ('create', '--size=1M', '--format=qcow2', 'x'), ('info', '--format=vhdx', 'raw'),
                      ('create', '--size=1M', '--block=3M', 'x'), ('create', '--size=1M', '--type=sparse', 'x'),
                      ('create', '--size=1M', '--type=differencing', 'x'), ('create', '--type=fixed', '--parent=raw', 'x'), ('info', '--format', 'raw'),
                      ('create', '--size=1M', '--size=2M', 'x'), ('create', '--size=1M', '--format=raw', '--block=1M', 'x'),
                      ('create', '--size=1M', '--format=raw', '--sector=4096', 'x'), ('convert', '--json', 'raw', 'x')):
        hvimg(*arguments, status=2)
    assert not os.path.exists('x')


def main():
    seed = int(os.environ.get('HVSDK_TEST_SEED', random.randrange(1 << 32)))
    print(f'HVSDK_TEST_SEED={seed}', flush=True)
    rng = random.Random(seed)
    # In memory, for a disk is waited for at each sync; HVSDK_TEST_FILES=DIR has it elsewhere.
    where = os.environ.get('HVSDK_TEST_FILES') or ('/dev/shm' if os.access('/dev/shm', os.W_OK) else None)
    with tempfile.TemporaryDirectory(dir=where) as folder:
        os.chdir(folder)
        test_conversions(rng)
        test_images_of_qemu(rng)
        test_differencing(rng)
        test_compact(rng)
        test_merge_and_rebase(rng)
        test_large()
        test_cut_off(rng)
        test_mistakes()
        os.chdir('/')


if __name__ == '__main__':
    main()

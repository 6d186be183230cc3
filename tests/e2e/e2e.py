#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Whole guests on mini_vmm, and what it says to a user's mistakes.

e2e.py --mini-vmm=FILE --guest=DIR [--debian-disk=FILE] [--backend=NAME] CASE...
"""

import argparse
import base64
import concurrent.futures
import fcntl
import functools
import hashlib
import json
import mmap
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import traceback

CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


class Failure(Exception):
    pass


def expect(condition, message, *details):
    if not condition:
        raise Failure('\n'.join([message, *map(str, details)]))


class Result:
    def __init__(self, status, out, err, seconds):
        self.status, self.out, self.err, self.seconds = status, out, err, seconds

    def expect_status(self, status):
        expect(self.status == status, f'exit status {self.status} instead of {status}', self.out[-8000:], self.err[-4000:])
        return self


class Context:
    """mini_vmm, its guest, and a folder for a case's files."""

    def __init__(self, arguments, folder):
        self.mini_vmm, self.guest, self.backend = arguments.mini_vmm, arguments.guest, arguments.backend
        self.debian_disk, self.forgetful_file = arguments.debian_disk, arguments.forgetful_file
        self.hvimg = arguments.hvimg and os.path.abspath(arguments.hvimg)
        self.shared, self.guest_agent = arguments.shared, arguments.guest_agent
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def vmm(self, *flags, timeout=300, stdin=subprocess.DEVNULL):
        start = time.monotonic()
        try:
            done = subprocess.run([self.mini_vmm, *flags], stdin=stdin, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise Failure(f'no end after {timeout} s\n{(error.stdout or b"").decode(errors="replace")[-8000:]}') from None
        return Result(done.returncode, done.stdout.decode(errors='replace').replace('\r\n', '\n'),
                      done.stderr.decode(errors='replace'), time.monotonic() - start)

    def program(self, name):
        """What the source of that name beside this file becomes, in a guest that has no libraries."""
        path = self.path(name)
        if not os.path.exists(path):
            source = os.path.join(os.path.dirname(os.path.abspath(__file__)), f'{name}.cc')
            subprocess.run([os.environ.get('CXX', 'c++'), '-std=c++20', '-static', '-O1', '-o', path, source], check=True)
        with open(path, 'rb') as file:
            return file.read()

    def initrd_with(self, name):
        """The guest's initial RAM disk, and in it that program."""
        path = self.path(f'{name}.img')
        if not os.path.exists(path):
            with open(f'{self.guest}/initrd.img', 'rb') as plain, open(path, 'wb') as made:
                made.write(plain.read() + ramdisk({name: self.program(name)}))
        return path

    def guest_flags(self, command, disks=0, program=None):
        # The emulated processors that this may run on lack the microcode that a kernel asks for by a warning.
        text = base64.b64encode(command.encode()).decode()
        cmdline = f'console=ttyS0 loglevel=5 panic=-1 mitigations=off hvsdk.disks={disks} hvsdk.exec_b64={text}'
        initrd = self.initrd_with(program) if program else f'{self.guest}/initrd.img'
        return [f'--kernel={self.guest}/vmlinuz', f'--initrd={initrd}', f'--cmdline={cmdline}',
                f'--backend={self.backend}', '--no-reboot']

    def run(self, command, *flags, disks=0, timeout=300):
        return self.vmm(*self.guest_flags(command, disks), *flags, timeout=timeout)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_kernel_log(text):
    """Fails on warnings and worse, but for what says only that the host is slow or busy, and for the list of processors
    that the kernel prints in pieces without a level."""
    # Where virtualisation is emulated, a busy host may hold a processor up for so long that Linux prints where it stands.
    if os.environ.get('HVSDK_NESTED') and re.search(r'rcu: INFO: .* stall|watchdog: BUG: soft lockup', text):
        return
    # Linux says of every driver whose segments come coalesced by the host, as those of Hyper-V do, that they are suspect.
    harmless = re.compile(r'Driver has suspect GRO implementation|hrtimer: interrupt took|rcu: .*stall|clocksource: .*skew|workqueue: .* hogged CPU|\] +#\d+$')
    bad = [line for line in text.splitlines() if re.match(r'<[0-4]>', line) and not harmless.search(line)]
    expect(not bad, 'the guest kernel complains:', *bad)
    expect('Call Trace' not in text and 'cut here' not in text, 'a backtrace in the kernel log', text)


def checked_boot(context, cpus, *flags, disks=0):
    """One boot to power-off, with everything checked that a boot shows. Returns its result and what the guest printed."""
    result = context.run('echo "[cpus]"; nproc; echo "[clocksource]"; '
                         'cd /sys/devices/system/clocksource/clocksource0; cat current_clocksource available_clocksource; '
                         'grep -m1 -o tsc_reliable /proc/cpuinfo; '
                         'echo "[disks]"; for d in /sys/block/sd*; do head -c 512 /dev/${d##*/} | sha256sum; done; '
                         'echo "[interrupts]"; cat /proc/interrupts; echo "[log]"; dmesg -r',
                         f'--cpus={cpus}', *flags, disks=disks).expect_status(0)
    expect('HVSDK-EXIT:0' in result.out, 'the guest did not finish', result.out)
    sections = dict(re.findall(r'^\[(\w+)\]\n(.*?)(?=^\[\w+\]\n|\Z)', result.out, re.M | re.S))
    expect(sections['cpus'].split()[0] == str(cpus), f'not {cpus} processors', sections['cpus'])
    # An invariant TSC, once the guest has been told of it, beats the reference TSC page; the software processor always has one.
    clock, *clocks = sections['clocksource'].split()
    reliable = 'tsc_reliable' in clocks
    expect(reliable or context.backend != 'software', 'no invariant TSC', sections['clocksource'])
    expect(clock == ('tsc' if reliable else 'hyperv_clocksource_tsc_page'), 'clocksource', sections['clocksource'])
    expect('hyperv_clocksource_tsc_page' in clocks, 'no reference TSC page', sections['clocksource'])
    expect('Marking TSC unstable' not in sections['log'] or not reliable, 'the TSC is called unstable', sections['log'])
    expect('Hypervisor detected: Microsoft Hyper-V' in sections['log'], 'no Hyper-V detected', sections['log'])
    counts = {line.split()[0]: [int(n) for n in line.split()[1:1 + cpus]]
              for line in sections['interrupts'].splitlines() if re.match(r'\s*(HVS|LOC):', line)}
    expect(min(counts['HVS:']) > 0, 'no synthetic timer interrupts', sections['interrupts'])
    expect(sum(counts['LOC:']) < sum(counts['HVS:']), 'the local APIC timer runs', sections['interrupts'])
    check_kernel_log(sections['log'].split('HVSDK-EXIT')[0])
    return result, sections


@case
def boot(context):
    """Debian's kernel reaches /init and uses what the hypervisor offers."""
    result, _ = checked_boot(context, 2)
    print(f'  to the end in {result.seconds:.1f} s')


@case
def without_ioapic(context):
    """A guest that is told to do without the IOAPIC, or without other processors, has its console by the 8259s."""
    for parameter in 'noapic', 'nosmp':
        flags = context.guest_flags('echo ready; read -r line; echo "got <$line>"; cat /proc/interrupts; ls /dev/rtc0')
        flags[2] += f' {parameter}'
        with subprocess.Popen([context.mini_vmm, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            limit = threading.Timer(250, process.kill)
            limit.start()
            out = b''
            while b'ready' not in out and (piece := os.read(process.stdout.fileno(), 4096)):
                out += piece
            out, err = [text.decode(errors='replace').replace('\r\n', '\n') for text in process.communicate(b'a line\n')]
            limit.cancel()
        Result(process.returncode, out, err, 0).expect_status(0)
        expect('got <a line>' in out and 'HVSDK-EXIT:0' in out, f'{parameter}: the console does not work', out[-4000:])
        counts = {device: int(count) for count, device in re.findall(r'^ *\d+: +(\d+)(?: +\d+)* +XT-PIC +(ttyS0|rtc0|acpi)$', out, re.M)}
        expect(counts.keys() == {'ttyS0', 'rtc0', 'acpi'} and counts['ttyS0'] > 0,
               f'{parameter}: the interrupts do not come by the 8259s', out[-4000:])


@case
def smbios(context):
    """Linux finds the machine's identity where tools look for it, by default and as the flags set it."""
    def identity(*flags):
        result = context.run('cd /sys/class/dmi/id; for f in *; do [ -f $f ] && echo "$f=$(cat $f)"; done; echo "[log]"; dmesg -r',
                             *flags).expect_status(0)
        text, log = result.out.split('[log]')
        check_kernel_log(log.split('HVSDK-EXIT')[0])
        expect(re.search(r'SMBIOS 3\.0\.0 present', log), 'no SMBIOS', log)
        return dict(re.findall(r'^(\w+)=(.*)$', text, re.M))

    def same(got, **wanted):
        for name, value in wanted.items():
            expect(got.get(name) == value, f'{name} is {got.get(name)!r}, not {value!r}', got)

    always = {'sys_vendor': 'Microsoft Corporation', 'chassis_vendor': 'Microsoft Corporation',
              'board_vendor': 'Microsoft Corporation', 'bios_vendor': 'hvsdk', 'chassis_type': '3'}
    got = identity()
    same(got, **always, product_name='Virtual Machine', product_version='7.0', product_serial='', chassis_asset_tag='')
    expect('product_uuid' not in got, 'a UUID that nobody gave', got)
    uuid = '4c4c4544-0042-3510-8052-b4c04f4a3132'
    got = identity(f'--smbios=uuid={uuid},serial=S 1,,2', '--smbios=asset_tag=A=1,sku=K,family=F,product=Thing')
    same(got, **always, product_uuid=uuid, product_serial='S 1,2', board_serial='S 1,2', chassis_serial='S 1,2',
         chassis_asset_tag='A=1', product_sku='K', product_family='F', product_name='Thing', board_name='Thing')


@case
def sleep(context):
    """What wakes a guest that sleeps in S0: the clock's alarm, the power button, and a serial port that is told to. The button
    turns off one that is awake."""
    result = context.run('echo +5 >/sys/class/rtc/rtc0/wakealarm; read -r before </sys/class/rtc/rtc0/since_epoch; '
                         'echo freeze >/sys/power/state && read -r after </sys/class/rtc/rtc0/since_epoch && '
                         'echo "woke after $((after - before)) s"; grep acpi /proc/interrupts; dmesg -r').expect_status(0)
    woke = re.search(r'^woke after (\d+) s$', result.out, re.M)
    expect(woke and 4 <= int(woke[1]) <= 60, 'the alarm does not wake it', result.out)
    expect(re.search(r'PM: suspend exit', result.out), 'it did not sleep', result.out)
    check_kernel_log(result.out.split('HVSDK-EXIT')[0])

    def guest(command, steps):
        """`steps`: what to wait for in the output, and what to do then; when the guest sleeps it says nothing."""
        with subprocess.Popen([context.mini_vmm, *context.guest_flags(command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT) as process:
            limit = threading.Timer(200, process.kill)
            limit.start()
            out = b''
            for mark, act in steps:
                while mark not in out and (piece := os.read(process.stdout.fileno(), 4096)):
                    out += piece
                time.sleep(5)  # until it sleeps, or is ready for the button
                act(process)
            while piece := os.read(process.stdout.fileno(), 4096):
                out += piece
            process.wait()
            limit.cancel()
        return process.returncode, out.decode(errors='replace').replace('\r\n', '\n')

    def press(process):
        process.send_signal(signal.SIGUSR1)

    status, out = guest('echo sleeps; echo freeze >/sys/power/state; echo woke; sleep 1000',
                        [(b'sleeps', press), (b'woke', press)])
    expect(status == 0 and out.count('HVSDK-POWER-BUTTON') == 1 and 'HVSDK-EXIT' not in out, 'the power button', status, out)

    def type_key(process):
        process.stdin.write(b'x')
        process.stdin.flush()

    status, out = guest('echo enabled >/sys/class/tty/ttyS0/power/wakeup; echo sleeps; echo freeze >/sys/power/state; echo woke',
                        [(b'sleeps', type_key)])
    expect(status == 0 and 'woke\nHVSDK-EXIT:0' in out, 'a key does not wake it', status, out)


@case
def console(context):
    """A terminal: input reaches the guest, Ctrl-A x ends it, and the settings come back."""
    # A machine made for one command may have no pseudo-terminals yet.
    if not os.path.exists('/dev/ptmx') or not os.path.ismount('/dev/pts'):
        os.makedirs('/dev/pts', exist_ok=True)
        subprocess.run(['mount', '-t', 'devpts', '-o', 'ptmxmode=0666', 'devpts', '/dev/pts'], check=False)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    command = [context.mini_vmm, *context.guest_flags(
        'echo ready; read -r line; echo "got <$line>"; stty raw; echo more; od -An -tx1 -N1; sleep 1000')]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    output = b''

    def wait_for(pattern, seconds):
        nonlocal output
        deadline = time.monotonic() + seconds
        while not re.search(pattern, output):
            expect(time.monotonic() < deadline and process.poll() is None, f'no {pattern}', output.decode(errors='replace'))
            if select.select([master], [], [], 0.5)[0]:
                output += os.read(master, 4096)

    try:
        wait_for(rb'ready', 200)
        expect(not termios.tcgetattr(slave)[3] & termios.ICANON, 'the terminal is not raw')
        os.write(master, b'hello\r')
        wait_for(rb'got <hello>', 60)
        wait_for(rb'more', 60)
        os.write(master, b'\x01\x01')
        wait_for(rb' 01', 60)
        os.write(master, b'\x01x')
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    expect(process.returncode == 0, f'exit status {process.returncode}', output.decode(errors='replace'))
    expect(termios.tcgetattr(slave) == before, 'the terminal settings are not back')

    # A signal puts the terminal back as well.
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    try:
        output = b''
        wait_for(rb'ready', 200)
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    expect(process.returncode == 128 + 15, f'exit status {process.returncode} after SIGTERM')
    expect(termios.tcgetattr(slave) == before, 'the terminal settings are not back after a signal')
    os.close(master)
    os.close(slave)


@case
def piped_input(context):
    """Linux gets every byte that is piped in, however fast it comes, in order; when it reads late, as well."""
    # More than the pipe and mini_vmm hold together. An emulated processor with SVM takes 0.2 ms for each byte, even when alone.
    much = 80_000 if os.environ.get('HVSDK_NESTED') else 1_000_000
    for cpus, size, wait in (2, 20_000, 0), (1, much, 0), (2, much, 3):
        data = os.urandom(size)
        flags = context.guest_flags(f'stty raw -echo; echo ready; sleep {wait}; head -c {size} | sha256sum')
        with subprocess.Popen([context.mini_vmm, *flags, f'--cpus={cpus}'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, pipesize=4096) as process:
            limit = threading.Timer(200, process.kill)
            limit.start()
            out = b''
            while b'ready' not in out and (piece := os.read(process.stdout.fileno(), 4096)):
                out += piece
            try:
                process.stdin.write(data)
                process.stdin.close()
            except BrokenPipeError:
                pass
            while piece := os.read(process.stdout.fileno(), 4096):
                out += piece
            process.wait()
            limit.cancel()
            err = process.stderr.read()
        expect(process.returncode == 0, f'{cpus} processors, {size} bytes: exit status {process.returncode}',
               out[-4000:].decode(errors='replace'), err[-4000:].decode(errors='replace'))
        expect(hashlib.sha256(data).hexdigest().encode() in out, f'{cpus} processors, {size} bytes', out[-4000:].decode(errors='replace'))


@case
def config(context):
    """The same machine from a text file; and a serial port that leads to a file."""
    text = base64.b64encode(b'nproc; free -m').decode()
    log, path = context.path('serial.log'), context.path('machine.textproto')
    with open(path, 'w', encoding='utf-8') as file:
        file.write(f'kernel: "{context.guest}/vmlinuz"\ninitrd: "{context.guest}/initrd.img"\n'
                   f'cmdline: "console=ttyS0 quiet mitigations=off hvsdk.exec_b64={text}"\n'
                   f'memory_mib: 384 cpus: 1 backend: "{context.backend}"\nserial {{ file: "{log}" }}\nno_reboot: true\n')
    result = context.vmm(f'--config={path}').expect_status(0)
    expect(result.out == '', 'output beside the serial file', result.out)
    with open(log, encoding='utf-8') as file:
        written = file.read()
    expect(re.search(r'^1\r?\n', written, re.M) and 'HVSDK-EXIT:0' in written, 'serial file', written)
    memory = int(re.search(r'Mem:\s+(\d+)', written)[1])
    expect(250 < memory < 384, f'{memory} MiB of memory instead of 384')


@case
def trace(context):
    """A trace is valid JSON with all three kinds of events, also when the guest crashes."""
    path = context.path('trace.json')
    context.run('echo c >/proc/sysrq-trigger', f'--trace={path}').expect_status(11)
    with open(path, encoding='utf-8') as file:
        events = json.load(file)
    expect(isinstance(events, list), 'not an array')
    categories = {event.get('cat') for event in events}
    expect({'exit', 'hypercall', 'vmbus'} <= categories, f'only {categories}')
    for event in events:
        expect(event['ph'] in 'MXi' and (event['ph'] == 'M' or event['ts'] >= 0), f'odd event {event}')
    names = {event['name'] for event in events}
    expect('initiate-contact' in names and any(name.startswith('HvCall') for name in names), sorted(names))


@case
def disk(context):
    """HVSDK_DISK_MIB MiB (256 by default) through a file system to a disk; a second, read-only one stays as it was."""
    mib = int(os.environ.get('HVSDK_DISK_MIB', '256'))
    data, image, constant = context.path('data.bin'), context.path('disk.img'), context.path('constant.img')
    with open(image, 'wb') as file:
        file.truncate(320 << 20)
    with open(constant, 'wb') as file:
        file.write(os.urandom(3 << 20))
    before = sha256(constant)
    command = '''
        set -e
        for d in /sys/block/sd*; do
          case "$(cat $d/ro)" in 0) rw=/dev/${d##*/} ;; 1) ro=/dev/${d##*/} ;; esac
        done
        [ "$(cat /sys/block/${ro##*/}/size)" = 6144 ]
        echo "constant $(sha256sum <$ro)"
        ! dd if=/dev/zero of=$ro bs=4096 count=1 conv=fsync 2>/dev/null
        mke2fs $rw >/dev/null
        mount -t ext4 $rw /mnt
        dd if=/dev/urandom bs=1M count=MIB 2>/dev/null | tee /mnt/data.bin | sha256sum | sed 's/^/written /'
        sync
        umount /mnt
        mount -t ext4 -o ro $rw /mnt
        echo "read $(sha256sum </mnt/data.bin)"
        umount /mnt
        echo "[log]"; dmesg -r'''.replace('MIB', str(mib))
    result = context.run(command, f'--disk={image}', f'--disk={constant},format=raw,readonly', disks=2,
                         timeout=900).expect_status(0)
    expect('HVSDK-EXIT:0' in result.out, 'the guest did not finish', result.out)
    digests = dict(re.findall(r'^(constant|written|read) ([0-9a-f]{64})', result.out, re.M))
    expect(digests['constant'] == before, 'the guest read something else from the read-only disk')
    expect(sha256(constant) == before, 'the read-only disk changed')
    expect(digests['written'] == digests['read'], 'the guest read back something else')
    subprocess.run(['debugfs', '-R', f'dump data.bin {data}', image], check=True, capture_output=True)
    expect(os.path.getsize(data) == mib << 20, f'the file on the image is not {mib} MiB')
    expect(sha256(data) == digests['written'], 'the image holds something else than what the guest wrote')
    check = subprocess.run(['e2fsck', '-fn', image], check=False, capture_output=True)
    expect(check.returncode == 0, 'the file system is damaged', check.stdout.decode())
    # Writing to the read-only disk is an error that the kernel reports, as it should; and that inodes as small as busybox
    # makes them hold no date after 2038.
    log = '\n'.join(line for line in result.out.split('[log]')[1].split('HVSDK-EXIT')[0].splitlines()
                    if not re.search(r'I/O error|lost async page write|Write Protected|Sense Key|Add. Sense|CDB:|Result:|mount|ext2', line))
    check_kernel_log(log)


@case
def images(context):
    """File systems on a VHDX, on one that is over another, and on a VHD: the images hold what the guest wrote, and are whole."""
    expect(context.hvimg is not None, '--hvimg is missing')

    def hvimg(*arguments):
        done = subprocess.run([context.hvimg, *arguments], check=False, capture_output=True, text=True)
        expect(done.returncode == 0, f'hvimg {" ".join(arguments)}', done.stdout + done.stderr)
    base = context.path('base.vhdx')
    # By their numbers on the controller: Linux may find them in any order.
    paths = {'0': context.path('plain.vhdx'), '1': context.path('child.vhdx'), '2': context.path('plain.vhd')}
    hvimg('create', '--size=40M', '--block=1M', paths['0'])
    hvimg('create', '--size=40M', base)
    hvimg('create', f'--parent={base}', paths['1'])
    hvimg('create', '--size=40M', '--format=vhd', paths['2'])
    before = sha256(base)
    command = '''
        set -e
        for d in sda sdb sdc; do
          lun=$(readlink -f /sys/block/$d/device); lun=${lun##*:}
          mke2fs /dev/$d >/dev/null
          mount -t ext4 /dev/$d /mnt
          dd if=/dev/urandom bs=1M count=3 2>/dev/null | tee /mnt/data.bin | sha256sum | sed "s/^/lun $lun /"
          dd if=/dev/urandom of=/mnt/away.bin bs=1M count=2 2>/dev/null
          sync
          rm /mnt/away.bin
          fstrim /mnt || [ $lun = 1 ]
          umount /mnt
        done'''
    result = context.run(command, f'--disk={paths["0"]}', f'--disk={paths["1"]},format=vhdx', f'--disk={paths["2"]}',
                         disks=3, timeout=600).expect_status(0)
    expect('HVSDK-EXIT:0' in result.out, 'the guest did not finish', result.out)
    digests = dict(re.findall(r'^lun ([0-2]) ([0-9a-f]{64})', result.out, re.M))
    expect(len(digests) == 3, 'not all disks were written', result.out)
    for name, path in paths.items():
        raw, data = context.path(f'{name}.raw'), context.path(f'{name}.bin')
        hvimg('check', path)
        hvimg('convert', '--format=raw', path, raw)
        subprocess.run(['debugfs', '-R', f'dump data.bin {data}', raw], check=True, capture_output=True)
        expect(sha256(data) == digests[name], f'{path} holds something else than what the guest wrote')
        check = subprocess.run(['e2fsck', '-fn', raw], check=False, capture_output=True)
        expect(check.returncode == 0, f'the file system on {path} is damaged', check.stdout.decode())
    expect(sha256(base) == before, 'the parent was written')
    # Without its format's name it is not followed to its parent.
    context.run('true', f'--disk={paths["1"]}', disks=0).expect_status(2)


def bytes_of_drive(machine):
    """What the guest has read from storage/0."""
    values = prometheus(machine.ctl('stats', '--prometheus'))['hvsdk_disk_bytes_total']
    return sum(value for labels, value in values if labels['device'] == 'storage/0' and labels['op'] == 'read')


@case
def dvd(context):
    """A guest mounts an ISO file from a DVD drive, locks it meanwhile, ejects, and finds the next disc; the drive goes and comes again."""
    maker = shutil.which('genisoimage') or shutil.which('xorrisofs')
    expect(maker, 'needs genisoimage or xorrisofs; scripts/setup installs one')
    isos, digests = [], []
    for number in range(2):
        folder = context.path(f'iso{number}')
        os.mkdir(folder)
        with open(f'{folder}/data.bin', 'wb') as file:
            file.write(os.urandom((3 << 20) + 1234 + number))
        digests.append(sha256(f'{folder}/data.bin'))
        isos.append(context.path(f'disc{number}.iso'))
        subprocess.run([maker, '-quiet', '-R', '-V', f'DISC{number}', '-o', isos[number], folder], check=True, capture_output=True)
    # A disk that is plugged in tells the guest to go on.
    command = r"""
        dmesg -n 1
        modprobe -a sr_mod isofs
        drive() { while [ ! -b /dev/sr0 ]; do sleep 0.1; done; }
        digest() {
          until mount -t iso9660 -o ro /dev/sr0 /mnt 2>/dev/null; do sleep 0.3; done
          sha256sum </mnt/data.bin | sed "s/^/$1 /"
        }
        drive
        echo "drive $(cat /sys/block/sr0/device/vendor) $(cat /sys/block/sr0/device/model)"
        digest first
        while [ ! -e /sys/block/sda ]; do sleep 0.1; done
        umount /mnt; /eject /dev/sr0; echo "ejected $?"
        digest second; umount /mnt
        echo 1 >/sys/block/sr0/device/delete
        while [ -e /sys/block/sr0 ]; do sleep 0.1; done; echo gone
        drive; digest third; umount /mnt
        echo "[log]"; dmesg -r; echo "[end]"; sleep 1000"""
    signal_disk = context.path('signal.img')
    with open(signal_disk, 'wb') as file:
        file.truncate(1 << 20)
    # busybox has no eject.
    with Running(context, [*context.guest_flags(command, program='eject'), f'--dvd={isos[0]},name=drive']) as machine:
        machine.wait_for(f'^first {digests[0]}')
        read = bytes_of_drive(machine)
        expect(read >= os.path.getsize(isos[0]) // 2, 'the drive has read nothing', str(read))
        expect(re.search('^drive Msft +Virtual DVD-ROM', machine.text(), re.M), 'another drive', machine.text())
        expect('a DVD' in machine.ctl('status') and 'disc0.iso' in machine.ctl('status'), 'the status', machine.ctl('status'))
        expect('locked' in machine.ctl('eject', 'drive', status=2), 'ejected what is mounted')
        expect('locked' in machine.ctl('insert', 'drive', isos[1], status=2), 'inserted over what is mounted')
        machine.ctl('attach', f'--disk={signal_disk}')
        machine.wait_for('^ejected 0$')
        expect('empty' in machine.ctl('status'), 'the guest has ejected', machine.ctl('status'))
        for words, error in [(['eject', 'drive'], 'empty'), (['insert', 'drive', context.path('missing')], 'missing'),
                             (['insert', 'storage/1', isos[1]], 'no DVD drive'), (['eject', 'storage/9'], 'storage/9'),
                             (['insert', 'drive', isos[0], 'more'], 'more'), (['attach', '--dvd=,odd'], 'odd')]:
            expect(error in machine.ctl(*words, status=2), f'ctl {words}')
        machine.ctl('insert', 'drive', isos[1])
        machine.wait_for(f'^second {digests[1]}')
        expect(bytes_of_drive(machine) > read, 'the drive counts one disc alone')
        machine.wait_for('^gone$')
        machine.ctl('detach', 'drive')
        expect(machine.ctl('attach', f'--dvd={isos[0]}') == 'storage/2\n', 'another place')
        machine.wait_for(rf'^third {digests[0]}.*^\[end\]$')
        # In a saved machine the drive has what was in it, or another disc.
        state = context.path('state')
        machine.ctl('save', state)
        machine.end(0)
    check_kernel_log(machine.text().split('[log]\n')[1].split('[end]')[0])
    for moved in ([], [f'--disk=storage/2={isos[1]}']):
        copy = context.path(f'state{len(moved)}')
        shutil.copytree(state, copy)
        with Running(context, [f'--restore={copy}', *moved], name=f'restored{len(moved)}') as machine:
            machine.wait_for_socket()
            expect(f'disc{len(moved)}.iso' in machine.ctl('status'), 'another disc', machine.ctl('status'))
            machine.ctl('stop')
            machine.process.wait(timeout=60)


@case
def killed(context):
    """A guest that writes and syncs is killed with its mini_vmm at random moments: what it was told is on its disks, raw, VHD and VHDX, is there.

    HVSDK_KILLS is how often, 8 if it is not set. Each begins from one saved state, with copies of its disks."""
    kills = int(os.environ.get('HVSDK_KILLS', '8'))
    blocks = 4096  # of 4 KiB
    # A block's number and version, and what was synced is said. Blocks are discarded now and then, as in a file system.
    command = r"""
        dmesg -n 1
        writer() {
          lun=$(readlink -f /sys/block/$1/device); lun=${lun##*:}
          version=0 seed=$lun
          while :; do
            seed=$(((seed * 1103515245 + 12345) % 2147483648)); block=$((seed / 16 % BLOCKS)) version=$((version + 1))
            printf '%4096s' "$block $version" | dd of=/dev/$1 bs=4k seek=$block conv=notrunc,fsync 2>/dev/null
            echo "synced $lun $block $version"
          done
        }
        for d in sda sdb sdc; do writer $d & done
        wait""".replace('BLOCKS', str(blocks))
    formats = ['raw', 'vhd', 'vhdx']
    images = [context.path(f'killed.{name}') for name in formats]
    for name, image in zip(formats, images):
        options = ['--block=1M'] if name == 'vhdx' else ['--block=64K'] if name == 'vhd' else []
        subprocess.run([context.hvimg, 'create', f'--format={name}', f'--size={blocks * 4096}', *options, image], check=True)
    disks = [f'--disk={image},format={name}' for name, image in zip(formats, images)]
    state = context.path('state')
    with Running(context, [*context.guest_flags(command, disks=3), '--memory=128M', '--cpus=1', *disks]) as machine:
        for lun in range(3):
            machine.wait_for(f'^synced {lun} ')
        machine.ctl('save', state)
        machine.end(0)
    before = machine.text()
    rng = random.Random(int(os.environ.get('HVSDK_TEST_SEED', random.randrange(1 << 32))))
    seen, replayed = 0, 0
    for number in range(kills):
        copies = [f'{image}.copy' for image in images]
        for image, copy in zip(images, copies):
            shutil.copyfile(image, copy)
        moved = [f'--disk=storage/{lun}={copy}' for lun, copy in enumerate(copies)]
        with Running(context, [f'--restore={state}', f'--backend={context.backend}', *moved], name='killed') as machine:
            machine.wait_for('^synced ', seconds=60)
            time.sleep(rng.random() * 1.5)
            machine.process.kill()
            machine.process.wait()
        lasting = {}
        for lun, block, version in re.findall(r'^synced (\d) (\d+) (\d+)$', before + machine.text(), re.M):
            key = int(lun), int(block)
            lasting[key] = max(lasting.get(key, 0), int(version))
        seen += len(re.findall('^synced ', machine.text(), re.M))
        for lun, copy in enumerate(copies):
            raw = f'{copy}.raw'
            checked = subprocess.run([context.hvimg, 'repair', copy], capture_output=True, text=True, check=False)
            expect(checked.returncode == 0, f'kill {number}: {copy}', checked.stdout, checked.stderr)
            replayed += 'replayed' in checked.stdout
            if os.path.exists(raw):
                os.remove(raw)
            subprocess.run([context.hvimg, 'convert', '--format=raw', f'--from={formats[lun]}', copy, raw], check=True)
            with open(raw, 'rb') as file:
                for (which, block), version in lasting.items():
                    if which != lun:
                        continue
                    file.seek(block * 4096)
                    words = file.read(4096).split()
                    expect(len(words) == 2 and int(words[0]) == block and int(words[1]) >= version,
                           f'kill {number}: block {block} of {copy} is not version {version}', words)
    print(f'  {kills} kills, {seen} syncs acknowledged, {replayed} logs replayed', flush=True)


@case
def failing_disk(context):
    """A disk whose medium fails a sync, then hangs: the guest learns that writes are lost and is never told otherwise, another disk
    goes on, and the machine ends."""
    with subprocess.Popen([context.forgetful_file, str(1 << 20)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                          bufsize=1) as medium:
        path = medium.stdout.readline().strip()
        if not path.startswith('/'):
            print(f'  skipped: {path}')
            return

        def tell(command):
            medium.stdin.write(command + '\n')
            expect(medium.stdout.readline() == 'ok\n', command)

        good = context.path('good.img')
        with open(good, 'wb') as file:
            file.truncate(2 << 20)
        command = '''
            for d in /sys/block/sd*; do
              case "$(cat $d/size)" in 2048) bad=/dev/${d##*/} ;; 4096) good=/dev/${d##*/} ;; esac
            done
            write() { dd if=/dev/urandom of=$1 bs=4096 count=1 seek=$2 conv=fsync 2>/dev/null; echo "write $2: $?"; }
            write $bad 0
            echo fail-sync; read answer </dev/ttyS0
            for i in 1 2 3 4; do write $bad $i; done
            dmesg | grep -c 'Sense Key : Hardware Error'
            dd if=$bad of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null; echo "read: $?"
            echo hang; read answer </dev/ttyS0
            dd if=$bad of=/dev/null bs=4096 count=1 skip=9 iflag=direct 2>/dev/null &
            sleep 1
            write $good 5
            echo stop; read answer </dev/ttyS0'''
        flags = [*context.guest_flags(command, disks=2), f'--disk={path}', f'--disk={good}']
        with subprocess.Popen([context.mini_vmm, *flags], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as vmm:
            lines = []
            for line in vmm.stdout:
                line = line.decode(errors='replace').strip()
                lines.append(line)
                if line in ('fail-sync', 'hang'):
                    tell(line)
                    vmm.stdin.write(b'\n')
                    vmm.stdin.flush()
                elif line == 'stop':
                    start = time.monotonic()
                    vmm.terminate()
            err = vmm.stderr.read().decode()
            status = vmm.wait(timeout=60)
            expect('stop' in lines, 'the guest did not come to its end', *lines, err)
            seconds = time.monotonic() - start
        medium.stdin.close()
    text = '\n'.join(lines)
    expect('write 0: 0' in lines and 'read: 0' in lines and 'write 5: 0' in lines, 'a disk that should work', text)
    expect(re.findall(r'^write ([1-4]): [1-9]', text, re.M) == ['1', '2', '3', '4'], 'a flush was believed after a failed one', text)
    expect(re.search(r'^[1-9]\d*$', text, re.M), 'the guest saw no hardware error', text)
    expect(status == 3 and seconds < 30, f'SIGTERM: exit status {status} after {seconds:.1f} s', err)
    expect(re.fullmatch(fr"mini_vmm: --disk: disk '{path}': cannot be flushed: Input/output error; [^\n]*\n"
                        fr"mini_vmm: --disk: disk '{path}' did not answer for [^\n]*\n", err), 'not two lines', err)


@case
def reset(context):
    context.run('reboot -f').expect_status(10)
    # Without --no-reboot the same guest starts again: a second boot finds the mark that the first left on the disk.
    image = context.path('mark.img')
    with open(image, 'wb') as file:
        file.truncate(1 << 20)
    flags = [flag for flag in context.guest_flags('''
        if [ "$(dd if=/dev/sda bs=4 count=1 2>/dev/null)" = MARK ]; then echo second time; exit 0; fi
        printf MARK | dd of=/dev/sda conv=fsync 2>/dev/null
        echo first time
        reboot -f''', disks=1) if flag != '--no-reboot']
    result = context.vmm(*flags, f'--disk={image}').expect_status(0)
    expect(re.search('first time.*second time', result.out, re.S), 'not two boots', result.out)


class Running:
    """A machine with a control socket, whose console goes into a file."""

    def __init__(self, context, flags, name='vm', folder=None):
        self.context, self.socket = context, context.path(f'{name}.sock')
        self.console = os.path.join(folder or context.folder, f'{name}.log')
        # What an earlier machine of this name has said is not what this one says, also before it has come to open the file.
        if os.path.exists(self.console):
            os.remove(self.console)
        self.process = subprocess.Popen([context.mini_vmm, *flags, f'--control={self.socket}', f'--serial={self.console}'],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def text(self):
        if not os.path.exists(self.console):
            return ''
        with open(self.console, encoding='utf-8', errors='replace') as file:
            return file.read().replace('\r\n', '\n')

    def wait_for(self, pattern, seconds=240):
        self.wait_until(lambda text: re.search(pattern, text, re.M | re.S), pattern, seconds)

    def wait_for_count(self, text, count, seconds=240):
        """As one pattern for all of them it would be looked for in exponential time."""
        self.wait_until(lambda said: said.count(text) >= count, f'{count} of {text}', seconds)

    def wait_until(self, has_it, wanted, seconds):
        end = time.monotonic() + seconds
        while True:
            # Asked first: what a machine says at its end it has said when it has ended.
            has_ended = self.process.poll() is not None
            if has_it(self.text()):
                return
            if has_ended or time.monotonic() > end:
                self.expect_running(end, wanted)
            time.sleep(0.1)

    def expect_running(self, end, wanted):
        expect(time.monotonic() < end, f'no {wanted} in time', self.text()[-4000:])
        status = self.process.poll()
        expect(status is None, f'ended with {status} before {wanted}', self.text()[-4000:],
               '' if status is None else self.process.stderr.read())

    def wait_for_socket(self, seconds=60):
        end = time.monotonic() + seconds
        while not os.path.exists(self.socket):
            self.expect_running(end, 'a control socket')
            time.sleep(0.1)

    def ctl(self, *words, status=0):
        done = subprocess.run([self.context.mini_vmm, 'ctl', self.socket, *words], stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=120, check=False)
        expect(done.returncode == status, f'ctl {words}: exit status {done.returncode}', done.stdout, done.stderr)
        if status != 0:
            expect(re.fullmatch(r'mini_vmm: ctl[^\n]+\n', done.stderr), 'not one line', done.stderr)
            return done.stderr
        return done.stdout

    def end(self, status):
        self.process.wait(timeout=60)
        expect(self.process.returncode == status, f'exit status {self.process.returncode}', self.text()[-4000:],
               self.process.stderr.read())


def prometheus(text):
    """What Prometheus' text format (0.0.4) says, by name: a list of (labels, value). Fails where it is not valid."""
    found, described, typed, last = {}, set(), set(), None
    expect(text.endswith('\n'), 'the last line does not end')
    for line in text.splitlines():
        if described_as := re.fullmatch(r'# HELP ([a-zA-Z_:][a-zA-Z0-9_:]*) (?:[^\\]|\\\\|\\n)+', line):
            expect(described_as[1] not in described, 'described twice', line)
            described.add(described_as[1])
            continue
        if type_of := re.fullmatch(r'# TYPE ([a-zA-Z_:][a-zA-Z0-9_:]*) (counter|gauge)', line):
            expect(type_of[1] not in typed and type_of[1] not in found, 'a type too late, or twice', line)
            typed.add(type_of[1])
            continue
        label = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\]|\\\\|\\n|\\")*"'
        sample = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:%s)(?:,%s)*)\})? (\d+)' % (label, label), line)
        expect(sample, 'no sample', line)
        name = sample[1]
        expect(name in typed and name in described and name.endswith('_total') and name.startswith('hvsdk_'), 'a name', line)
        expect(name == last or name not in found, 'samples of a name do not stand together', line)
        last = name
        labels = {key: value.replace('\\"', '"').replace('\\n', '\n').replace('\\\\', '\\')
                  for key, value in re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', sample[2] or '')}
        expect(all(labels != other for other, _ in found.get(name, [])), 'the same twice', line)
        found.setdefault(name, []).append((labels, int(sample[3])))
    return found


@case
def control(context):
    """A running guest is looked at, paused, reset and turned off through its socket."""
    flags = [flag for flag in context.guest_flags('i=0; while :; do i=$((i+1)); echo "tick $i"; sleep 0.2; done')
             if flag != '--no-reboot']
    with Running(context, flags) as machine:
        machine.wait_for('^tick 3$')
        expect(re.search(r'^state +running$', machine.ctl('status'), re.M), 'not running')
        events = subprocess.Popen([context.mini_vmm, 'ctl', machine.socket, 'events', '--json'], stdout=subprocess.PIPE, text=True)
        for _ in range(2):
            machine.ctl('pause')
            machine.ctl('pause')
            still = machine.text()
            time.sleep(1)
            expect(machine.text() == still, 'a paused guest speaks')
            expect(json.loads(machine.ctl('status', '--json'))['state'] == 'paused', 'not paused')
            machine.ctl('resume')
            last = int(re.findall(r'tick (\d+)', still)[-1])
            machine.wait_for(f'^tick {last + 3}$')
        stats = prometheus(machine.ctl('stats', '--prometheus'))
        for name, labels in [('exits', {'reason': 'hypercall'}), ('hypercalls', {'name': 'HvCallPostMessage'}), ('synic_messages', {}),
                             ('timer_expirations', {}), ('reference_time_nanoseconds', {})]:
            found = [value for got, value in stats[f'hvsdk_{name}_total'] if labels.items() <= got.items()]
            expect(len(found) == 1 and found[0] > 0, f'no {name}', stats)
        expect(re.search(r'^ +[1-9]\d*  exits  hypercall$', machine.ctl('stats'), re.M), 'no table', machine.ctl('stats'))
        expect(json.loads(machine.ctl('stats', '--json'))['counters'], 'no JSON')
        machine.ctl('stats', '--json', '--prometheus', status=2)
        for words in [], ['on'], ['off', 'x'], ['off'], ['on', '/missing/trace'], ['on', f'{context.guest}/vmlinuz']:
            machine.ctl('trace', *words, status=2)
        trace_file = context.path('trace.json')
        for _ in range(2):
            machine.ctl('trace', 'on', trace_file)
            machine.ctl('trace', 'on', trace_file, status=2)
            last = int(re.findall(r'tick (\d+)', machine.text())[-1])
            machine.wait_for(f'^tick {last + 3}$')
            machine.ctl('trace', 'off')
            with open(trace_file, encoding='utf-8') as file:
                traced = json.load(file)
            expect(any(event.get('name') == 'port write' for event in traced), 'nothing was traced', len(traced))
        machine.ctl('reset')
        machine.wait_for('^tick 5$.*HVSDK-INIT.*^tick 3$')
        machine.ctl('nothing', status=2)
        machine.ctl('status', '--jason', status=2)
        machine.ctl('save', status=2)
        expect(json.loads(machine.ctl('status', '--json'))['resets'] == 1, 'not reset once')
        machine.ctl('power-button')
        machine.end(0)
        told = [json.loads(line) for line in events.communicate(timeout=20)[0].splitlines()]
        names = [event['name'] for event in told if not event['name'].startswith(('channel', 'connected', 'disconnected', 'guest-contact'))]
        details = [event.get('details', {}) for event in told if event['name'].startswith('trace')]
        expect(details == [{'path': trace_file}, {}] * 2, 'details', details)
        expect(names == ['started'] + ['paused', 'resumed'] * 2 + ['traced', 'trace-ended'] * 2 + ['reset', 'ended'], 'events', told)
        contacts = [event['details']['state'] for event in told if event['name'] == 'guest-contact']
        expect(contacts[:3] == ['ok', 'none', 'ok'], 'contacts', contacts)
        connected = [event['details']['version'] for event in told if event['name'] == 'connected']
        expect(len(connected) == 2 and connected[0] == connected[1] == '5.3', 'the guest connects once each time', told)
        expect(told[-1]['details']['outcome'] == 'powered off', 'the outcome', told[-1])
        times = [int(event['reference_time_ns']) for event in told]
        expect(times == sorted(times), 'events out of order', told)
        machine.ctl('status', status=3)
    with Running(context, flags, 'stopped') as machine:
        machine.wait_for('^tick 1$')
        machine.ctl('stop')
        machine.end(0)


@case
def nmi(context):
    """Non-maskable interrupts: Linux says that it does not know why, each on its processor, and panics once it is told to."""
    command = '''while :; do
          set -- $(grep NMI: /proc/interrupts); echo "nmis $2 $3"
          [ "$2 $3" = "1 1" ] && echo 1 >/proc/sys/kernel/unknown_nmi_panic && echo may panic
          sleep 0.2
        done'''
    with Running(context, [*context.guest_flags(command), '--cpus=2']) as machine:
        machine.wait_for('^nmis 0 0$')
        machine.ctl('nmi', '--vp=2', status=2)
        machine.ctl('nmi', '--vp=all', status=2)
        machine.ctl('nmi')
        machine.wait_for('^nmis 1 0$')
        machine.ctl('nmi', '--vp=1')
        machine.wait_for('^may panic$')
        said = [re.search(f'NMI received for unknown reason .. on CPU {cpu}', machine.text()) for cpu in (0, 1)]
        expect(all(said), 'not said on both processors', machine.text())
        machine.ctl('nmi')
        machine.process.wait(timeout=120)
        errors = machine.process.stderr.read().decode()
        expect(machine.process.returncode == 11 and 'the guest crashed on processor 0' in errors, 'no crash', errors)
        expect('NMI: Not continuing' in errors, 'another crash', errors)


@case
def hot_plug(context):
    """Disks come and go while the guest runs: one in use by a file system, many in turn, and one that is pulled out while it is busy."""
    rounds = 4 if os.environ.get('HVSDK_NESTED') else 20
    command = r'''
        disk() { for d in /sys/block/sd*; do [ ! -e $d/dev ] || echo /dev/${d##*/}; done; }
        wait_for_disk() { while :; do d=$(disk); [ -z "$d" ] || [ ! -b "$d" ] || break; sleep 0.1; done; }
        wait_for_none() { while [ -n "$(disk)" ]; do sleep 0.1; done; }
        log() { echo "[log $1]"; dmesg -c -r; echo "[end $1]"; }
        dmesg -n 1  # or it would write into the lines that are waited for
        log boot; echo ready
        wait_for_disk
        mkfs.ext4 -q $d && mount $d /mnt && echo "hello from the guest" >/mnt/greeting && umount /mnt
        echo 1 >/sys/block/${d##*/}/device/delete
        wait_for_none
        log plugged
        for i in $(seq ROUNDS); do
          wait_for_disk; echo "round $i" | dd of=$d conv=fsync 2>/dev/null; echo "seen $i"; wait_for_none; echo "gone $i"
        done
        log rounds
        wait_for_disk
        for i in 1 2 3 4; do while [ -b $d ] && dd if=/dev/zero of=$d bs=256k count=64 oflag=direct; do :; done 2>/dev/null & done
        sleep 1; echo busy
        wait; echo idle
        wait_for_none
        log busy
        wait_for_disk; echo "again $(head -c 5 $d)"; log again; sleep 1000'''.replace('ROUNDS', str(rounds))
    images = [context.path(f'disk{i}.img') for i in range(3)]
    for image in images:
        with open(image, 'wb') as file:
            file.truncate(64 << 20)

    def logged(text, name):
        return text.split(f'[log {name}]\n')[1].split(f'[end {name}]')[0]

    with Running(context, context.guest_flags(command)) as machine:
        machine.wait_for('^ready$')
        for words, error in [(['--disk=' + context.path('missing.img')], 'missing.img'), (['--disk=/dev/null'], '/dev/null'),
                             ([f'--disk={context.guest}/vmlinuz'], 'the same file as --kernel='),
                             (['--disk=' + images[0] + ',name=a b'], 'name'), (['--disk=' + images[0] + ',odd'], 'odd'), ([], '--disk')]:
            expect(error in machine.ctl('attach', *words, status=2), f'attach {words}')
        machine.ctl('detach', 'storage/0', status=2)
        expect(machine.ctl('attach', f'--disk={images[0]},name=first') == 'storage/0\n', 'another place')
        expect('disk0.img' in machine.ctl('attach', f'--disk={images[0]}', status=2), 'attached twice')
        machine.wait_for(r'^\[end plugged\]$')
        expect('first: ' in machine.ctl('status'), 'not in the status', machine.ctl('status'))
        machine.ctl('detach', 'first')
        expect(subprocess.run(['debugfs', '-R', 'cat greeting', images[0]], capture_output=True, check=True).stdout ==
               b'hello from the guest\n', 'the image has not what the guest wrote')
        checked = subprocess.run(['e2fsck', '-fn', images[0]], capture_output=True, text=True, check=False)
        expect(checked.returncode == 0, 'the file system', checked.stdout)

        descriptors = []
        for number in range(1, rounds + 1):
            device = machine.ctl('attach', f'--disk={images[1]}').strip()
            machine.wait_for(f'^seen {number}$')
            machine.ctl('detach', device)
            machine.wait_for(f'^gone {number}$')
            with open(images[1], 'rb') as file:
                expect(file.read(12).startswith(f'round {number}\n'.encode()), f'round {number} is not on the image')
            descriptors.append(len(os.listdir(f'/proc/{machine.process.pid}/fd')))
        # A client that has just gone may still be there.
        expect(max(descriptors) <= descriptors[0] + 1, 'descriptors grow', descriptors)

        device = machine.ctl('attach', f'--disk={images[2]}').strip()
        machine.wait_for('^busy$')
        machine.ctl('detach', device)
        machine.wait_for(r'^\[end busy\]$')
        device = machine.ctl('attach', f'--disk={images[1]},name=quo"te').strip()
        machine.wait_for('^again round$.*end again')
        stats = prometheus(machine.ctl('stats', '--prometheus'))
        read = [value for labels, value in stats['hvsdk_disk_bytes_total']
                if labels == {'device': device, 'op': 'read', 'name': 'quo"te'}]
        expect(len(read) == 1 and read[0] > 0, 'nothing was read', stats)
        events = subprocess.Popen([context.mini_vmm, 'ctl', machine.socket, 'events', '--json'], stdout=subprocess.PIPE, text=True)
        # The machine that was saved has what is attached, and nothing else.
        save = [context.mini_vmm, 'ctl', machine.socket, 'save', '--live', context.path('state')]
        silent = subprocess.run(save, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=True)
        expect(silent.stderr == b'' and re.fullmatch(rb'.* the guest stood still for \S+ ms\n', silent.stdout), 'a save says', silent)
        # On a terminal it says how far it is.
        master, slave = pty.openpty()
        subprocess.run(save, stdin=subprocess.DEVNULL, stderr=slave, timeout=120, check=True)
        shown = os.read(master, 65536)
        os.close(master)
        os.close(slave)
        expect(re.search(rb'^\r0 of 512 MiB.*\r512 of 512 MiB\r?\n$', shown, re.S), 'no progress', shown)
        machine.ctl('stop')
        machine.end(0)
        told = [json.loads(line) for line in events.communicate(timeout=20)[0].splitlines()]
        opened = [event['details'] for event in told
                  if event['name'] == 'channel-opened' and not event['details']['device'].startswith('integration/')]
        expect(opened and opened[0]['device'] == 'storage' and opened[0]['subchannel'] == '0', 'no channel', told)
        expect(sum(event['name'] == 'detached' for event in told) == rounds + 2, 'events', told)
        text = machine.text()
    with Running(context, ['--restore=' + context.path('state')], 'restored') as machine:
        machine.wait_for_socket()
        status = json.loads(machine.ctl('status', '--json'))
        expect([(disk['device'], disk['name']) for disk in status['disks']] == [(device, 'quo"te')], 'other disks', status)
        machine.ctl('detach', 'quo"te')
        machine.ctl('attach', f'--disk={images[0]}')
        machine.ctl('stop')
        machine.end(0)
    # A disk that the guest did not expect to lose does not obey its last flush (0x35), and then of course what it was busy with.
    check_kernel_log(logged(text, 'plugged'))
    for name, expected in ('rounds', 'tag#.* cmd 0x35'), ('busy', 'I/O error|tag#|lost async page write|device offline error'), ('again', 'tag#.* cmd 0x35'):
        expected += '|storvsc_on_io_completion: .* callbacks suppressed'  # too many of them for the log
        check_kernel_log('\n'.join(line for line in logged(text, name).splitlines() if not re.search(expected, line)))
    expect('I/O error' in logged(text, 'busy'), 'no error of the busy disk', logged(text, 'busy'))


@case
def lost_page(context):
    """The host loses a page of a process of the guest's: Linux, which must be of the full flavour, logs it, kills that process alone, and
    goes on. The nested machine's kernel is such a one."""
    here = os.path.dirname(os.path.abspath(__file__))
    subprocess.run([os.path.join(here, '../../scripts/nested'), '--make-assets'], check=True)
    initrd = context.path('lost_page.img')
    with open(initrd, 'wb') as archive:
        archive.write(ramdisk({'init': context.program('lost_page')}))
    # Where the host is busy, processors meet later in a machine check than Linux waits for them by default.
    flags = [f'--kernel={here}/../../build/nested/vmlinux', f'--initrd={initrd}', f'--backend={context.backend}', '--no-reboot',
             '--cmdline=console=ttyS0 loglevel=5 panic=-1 mitigations=off mce=60000000', '--cpus=2', '--memory=300M']
    with Running(context, flags) as machine:
        machine.wait_for('^page 0x[0-9a-f]+$')
        machine.ctl('lose-page', '0xffff00000000', status=2)
        machine.ctl('lose-page', '12', status=2)
        machine.ctl('lose-page', status=2)
        machine.ctl('lose-page', re.search('^page (0x[0-9a-f]+)$', machine.text(), re.M)[1])
        machine.end(0)
        text = machine.text()
    expect(re.search('^SIGBUS, code 4, at the page\nchild: exit 42\nsum 190$', text, re.M), 'not as it should be', text)
    expect(re.search('^log .*Machine check events logged', text, re.M), 'no machine check logged', text)
    expect(re.search('^log .*Memory failure: .* Recovered$', text, re.M), 'not recovered', text)


@case
def stopped(context):
    """A process that is stopped for HVSDK_STOP_SECONDS (10) and goes on: the guest's clocks are right, its timers come, and Linux finds
    nothing wrong. Beyond 20 s Linux takes it for a soft lockup."""
    seconds = int(os.environ.get('HVSDK_STOP_SECONDS', '10'))
    command = f'''(sleep {seconds // 2}; echo short timer) & (sleep {seconds + 10}; echo long timer) &
        i=0; while :; do i=$((i+1)); echo "tick $i up $(cut -d' ' -f1 /proc/uptime) date $(date +%s)"
          [ $((i % 10)) = 0 ] && dmesg -r | grep -E 'BUG|stall|unstable|hung|clocksource: .*skew' | sed 's/^/complaint /'
          sleep 0.2; done'''

    def offsets(machine, count):
        """By how much the host's clocks are ahead of the guest's: the least of some looks, as each says so a little late."""
        of_uptime, of_date = [], []
        while len(of_uptime) < count:
            last = machine.text().count('tick')
            while machine.text().count('tick') == last:
                time.sleep(0.01)
            found = re.findall(r'^tick \d+ up (\S+) date (\d+)$', machine.text(), re.M)
            if found:
                of_uptime.append(time.monotonic() - float(found[-1][0]))
                of_date.append(time.time() - int(found[-1][1]))
        return min(of_uptime), min(of_date)

    with Running(context, [*context.guest_flags(command), '--cpus=2']) as machine:
        machine.wait_for('^tick 5 ')
        uptime, date = offsets(machine, 10)
        for _ in range(2):
            machine.process.send_signal(signal.SIGSTOP)
            time.sleep(seconds)
            before = machine.text()
            machine.process.send_signal(signal.SIGCONT)
            machine.wait_for(re.escape(before[-20:]) + '.*tick')
            after_uptime, after_date = offsets(machine, 10)
            print(f'  drift after {seconds} s: {(after_uptime - uptime) * 1000:.0f} ms, '
                  f'the date is {after_date - date:.2f} s late', flush=True)
            expect(abs(after_uptime - uptime) < 0.5 and abs(after_date - date) < 1.1, 'the clocks went wrong')
        machine.wait_for('^short timer$.*^long timer$')
        machine.wait_for(f'^tick {int(re.findall(r"tick ([0-9]+)", machine.text())[-1]) + 20} ')
        complaints = re.findall('^complaint .*', machine.text(), re.M)
        expect(not complaints or os.environ.get('HVSDK_NESTED'), 'the guest complains', *complaints)


@case
def resets(context):
    """Many resets in one process, each while the guest reads and writes its disk: HVSDK_RESETS of them, 6 by default."""
    count = int(os.environ.get('HVSDK_RESETS', '6'))
    image = context.path('disk.img')
    with open(image, 'wb') as file:
        file.truncate(64 << 20)
    command = ('echo working; while :; do dd if=/dev/urandom of=/dev/sda bs=64k count=40 conv=fsync; '
               'dd if=/dev/sda of=/dev/null bs=1M count=40 iflag=direct; done 2>/dev/null')
    flags = [flag for flag in context.guest_flags(command, disks=1) if flag != '--no-reboot']
    chance = chances()

    def facts(pid):
        with open(f'/proc/{pid}/smaps_rollup', encoding='utf-8') as file:
            memory = int(re.search(r'^Private_Dirty: +(\d+)', file.read(), re.M)[1])
        return memory >> 10, len(os.listdir(f'/proc/{pid}/fd')), len(os.listdir(f'/proc/{pid}/task'))

    with Running(context, [*flags, f'--disk={image}']) as machine:
        after = []
        for number in range(count):
            machine.wait_for_count('\nworking\n', number + 1)
            time.sleep(chance.random() * 1.5)
            machine.ctl('reset')
            after.append(facts(machine.process.pid))
        machine.wait_for_count('\nworking\n', count + 1)
        expect(json.loads(machine.ctl('status', '--json'))['resets'] == count, 'resets were lost')
        second = subprocess.run([context.mini_vmm, *context.guest_flags('true'), f'--disk={image}'], stdin=subprocess.DEVNULL,
                                capture_output=True, text=True, timeout=60, check=False)
        expect(second.returncode == 2 and 'disk.img' in second.stderr, 'the disk is not locked', second.stderr)
        # Memory after a reset is the guest's kernel and ours; descriptors and threads are those of before.
        expect(after[-1][0] <= after[1][0] + 8, 'memory grows, MiB', after)
        # A client that has just gone may still be there.
        expect(after[-1][1] <= after[1][1] + 1 and after[-1][2] == after[1][2], 'descriptors or threads grow', after)
        machine.ctl('stop')
        machine.end(0)
        print(f'  {count} resets; private memory after one {after[1][0]} to {after[-1][0]} MiB, '
              f'{after[-1][1]} descriptors, {after[-1][2]} threads')


def chances():
    """Random numbers, by a seed that is printed and may be given, and is given to other processes."""
    seed = int(os.environ.setdefault('HVSDK_TEST_SEED', str(random.randrange(1 << 31))))
    print(f'  HVSDK_TEST_SEED={seed}', flush=True)
    return random.Random(seed)


def load_of(workers, after_each):
    """What a guest does that is saved: each worker writes a file with fsync, and reads what is then on the disk, until there is another
    disk (`end_load`); `after_each` round it does that, too."""
    work = ' & '.join(f'work {name}' for name in workers.split())
    return rf'''
        mkfs.ext4 -q /dev/sda && mkdir -p /mnt && mount /dev/sda /mnt && echo mounted
        work() {{
          i=0
          while [ ! -e /sys/block/sdb ]; do
            i=$((i+1)); dd if=/dev/urandom of=/mnt/$1.new bs=4k count=75 conv=fsync 2>/dev/null; sum=$(sha256sum </mnt/$1.new)
            mv /mnt/$1.new /mnt/$1; sync
            [ "$(dd if=/mnt/$1 bs=300k iflag=direct 2>/dev/null | sha256sum)" = "$sum" ] || echo "WRONG $1"
            {after_each}
          done
        }}
        {work} & wait
        umount /mnt && echo unmounted; echo LOG; dmesg -r; echo LOG'''


def end_load(machine):
    """Ends the work of `load_of`, and waits for the machine to turn off."""
    disk = machine.context.path('end.img')
    with open(disk, 'wb') as file:
        file.truncate(1 << 20)
    machine.ctl('attach', f'--disk={disk}')
    machine.process.wait(timeout=300)


@case
def saves(context):
    """A guest under load is saved in a chain, HVSDK_SAVES times (4 by default): each state goes on in a new process."""
    count = int(os.environ.get('HVSDK_SAVES', '4'))
    image, state = context.path('disk.img'), context.path('state')
    with open(image, 'wb') as file:
        file.truncate(128 << 20)
    command = load_of('a b c d', '[ $((i % 5)) != 0 ] || echo "round $1"')
    flags = [*context.guest_flags(command, disks=1), f'--disk={image}']
    chance = chances()
    for number in range(count + 1):
        with Running(context, flags if number == 0 else [f'--restore={state}'], f'vm{number}') as machine:
            machine.wait_for('(round.*){2}' if number else 'mounted.*(round.*){2}')
            expect('WRONG' not in machine.text(), 'a wrong sum', machine.text())
            if number < count:
                time.sleep(chance.random() * 2)
                machine.ctl('save', state)
                machine.end(0)
            else:
                # A state that goes on while it is kept has other disks soon, and they are refused.
                machine.ctl('save', '--live', context.path('live'))
                machine.wait_for('(round.*){4}')
                end_load(machine)
                machine.end(0)
                text = machine.text()
    late = context.vmm(f'--restore={context.path("live")}', timeout=60).expect_status(2)
    expect(re.fullmatch(r'mini_vmm: --disk=storage/0=[^\n]*was written since[^\n]*\n', late.err), 'not refused', late.err)
    expect('unmounted' in text and 'WRONG' not in text, 'the work did not end', text[-4000:])
    check_kernel_log(text.split('LOG')[1])
    checked = subprocess.run(['e2fsck', '-fn', image], capture_output=True, text=True, check=False)
    expect(checked.returncode == 0, 'the file system', checked.stdout)
    print(f'  {count} states in a chain')


class BothEngines:
    """A case in two processes, each with an engine of its own, that share a folder: this one's is software, and the other, which this one
    starts, runs where KVM is and finds the folder by --shared."""

    def __init__(self, context, name):
        self.on_kvm = context.shared is not None
        self.folder, self.other = context.shared or context.folder, None
        if not self.on_kvm:
            here = os.path.dirname(os.path.abspath(__file__))
            self.other = subprocess.Popen([
                f'{here}/../../scripts/with-kvm', '--timeout=1800', f'--share={self.folder}', '--', sys.executable, __file__,
                f'--mini-vmm={context.mini_vmm}', f'--guest={context.guest}', '--backend=kvm', f'--shared={self.folder}', name])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.other is not None and self.other.poll() is None:
            self.other.terminate()
            self.other.wait()

    def path(self, name):
        return os.path.join(self.folder, name)

    def wait_for(self, *names):
        """Returns the first of these files that the other process has made."""
        until = time.monotonic() + 600
        while True:
            # What it made as its last is there when it has ended.
            has_ended = self.other is not None and self.other.poll() is not None
            for name in names:
                if os.path.exists(self.path(name)):
                    return name
            expect(time.monotonic() < until, f'none of {names}')
            expect(not has_ended, 'the part on KVM has ended')
            time.sleep(0.1)

    def end(self):
        expect(self.other is None or self.other.wait(timeout=600) == 0, 'the part on KVM failed')


@case
def engines_kernel(context):
    """The guest kernel, which asks everything of the hypervisor, goes from KVM to the software engine and back at random moments until it
    has come to its end: its report is the same as ever. It begins on KVM, as it has no time by the reference TSC page alone."""
    here = os.path.dirname(os.path.abspath(__file__))
    kernel = os.path.join(os.path.dirname(context.mini_vmm), 'guest_kernel')
    config = context.path('machine.textproto')
    with open(config, 'w', encoding='ascii') as file:
        file.write('loopback_ports: true\n')
    chance = chances()
    with BothEngines(context, 'engines_kernel') as both:
        image = both.path('disk.img')
        if not both.on_kvm:
            with open(both.path('disk.new'), 'wb') as file:
                file.write(bytes(510) + b'\x55\xaa' + bytes((1 << 20) - 512))
            os.rename(both.path('disk.new'), image)
        both.wait_for('disk.img')
        number = 0 if both.on_kvm else 1
        while not number or both.wait_for(f'kernel{number - 1}', 'ended') != 'ended':
            flags = [f'--restore={both.path(f"kernel{number - 1}")}', f'--backend={context.backend}'] if number else [
                f'--config={config}', f'--backend={context.backend}', f'--kernel={kernel}', '--memory=64M', '--cpus=2',
                f'--disk={image}', '--net=switch', '--net=switch', '--no-reboot', '--processor=portable']
            with Running(context, flags, f'report{number}', both.folder) as machine:
                machine.wait_for('.' if number else 'TAP')
                time.sleep(chance.random() * (3 if both.on_kvm else 0.3))
                save = subprocess.run([context.mini_vmm, 'ctl', machine.socket, 'save', both.path(f'kernel{number}')],
                                      stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
                machine.end(0)
                if save.returncode != 0:
                    expect(re.search(r'\n1\.\.\d+\n$', machine.text()), 'not saved', number, save.stderr, machine.text()[-400:])
                    with open(both.path('ended.new'), 'w', encoding='ascii') as file:
                        file.write(str(number))
                    os.rename(both.path('ended.new'), both.path('ended'))
            number += 2
        both.end()
    if not both.on_kvm:
        with open(both.path('ended'), encoding='ascii') as file:
            legs = int(file.read()) + 1
        report = ''
        for number in range(legs):
            with open(both.path(f'report{number}.log'), encoding='utf-8', newline='') as file:
                report += file.read()
        report = report.replace('\r\n', '\n')  # which a state may part
        with open(f'{here}/../guest_kernel/expected.tap', encoding='utf-8') as file:
            wanted = file.read()
        # Nobody sits at its screen here.
        wanted = wanted.split('# a screen and a keyboard\n')[0]
        wanted += f'1..{len(re.findall("^ok ", wanted, re.M))}\n'
        print(f'  {legs} legs', flush=True)
        expect(report == wanted, 'another report', *(set(report.splitlines()) ^ set(wanted.splitlines())))


@case
def engines(context):
    """A guest under load begins on the software engine, goes on on KVM, and from there to software and back HVSDK_ENGINE_ROUNDS times (once
    by default), each at a random moment: its clock and its timers go on, and Linux finds nothing wrong. KVM has its part in a process of
    its own, which --shared tells where the states are."""
    legs = 2 * int(os.environ.get('HVSDK_ENGINE_ROUNDS', '1')) + 2
    chance = chances()
    # Each nap is measured by the guest's clock, and that by the host's.
    command = r"""
        up() { read -r up _ </proc/uptime; echo "${up%.*}${up#*.}"; }
        naps() { while [ ! -e /sys/block/sdb ]; do t=$(up); sleep 1; echo "nap $(($(up) - t))0 ms"; done; }
        clock() { while [ ! -e /sys/block/sdb ]; do echo "up $(up)"; sleep 0.2; done; }
        echo LOG; dmesg -c -r; echo LOG; naps & clock & (sleep 20; echo long timer) &
        """ + load_of('a b c d', 'echo "round $1"')
    with BothEngines(context, 'engines') as both:
        image = both.path('disk.img')
        if not both.on_kvm:
            with open(image, 'wb') as file:
                file.truncate(128 << 20)
        for number in range(1 if both.on_kvm else 0, legs, 2):
            if number:
                both.wait_for(f'state{number - 1}')
            flags = [f'--restore={both.path(f"state{number - 1}")}', f'--backend={context.backend}'] if number else [
                *context.guest_flags(command, disks=1), f'--disk={image}', '--processor=portable', '--cpus=2', '--memory=256M']
            with Running(context, flags, f'vm{number}') as machine:
                engine_leg(machine, number)
                if number + 1 < legs:
                    time.sleep(chance.random() * 2)
                    machine.ctl('save', both.path(f'state{number}'))
                else:
                    end_load(machine)
                machine.end(0)
                text = machine.text()
                expect('WRONG' not in text, 'a wrong sum', text)
        both.end()
    if both.on_kvm:
        expect('unmounted' in text, 'the work did not end', text[-4000:])
        log = text.split('LOG')[1]
        check_kernel_log(log)
        expect(not re.search('clocksource|tsc|lockup|hung', log), 'its clock went wrong', log)
    else:
        checked = subprocess.run(['e2fsck', '-fn', image], capture_output=True, text=True, check=False)
        expect(checked.returncode == 0, 'the file system', checked.stdout)


def engine_leg(machine, number):
    """A machine of the case `engines` works on its engine, and its clock keeps pace with the host's."""
    def wait_for_lines(start, count):
        end = time.monotonic() + 300
        while len(found := re.findall(f'^{start}(.*)\n', machine.text(), re.M)) < count:
            machine.expect_running(end, f'{count} of {start}')
            time.sleep(0.05)
        return found

    def lead():
        """By how much the host's clock is ahead of the guest's: the least of some looks, as each is a little late."""
        seen = len(wait_for_lines('up ', 0))
        return min(time.monotonic() - int(wait_for_lines('up ', seen + i)[-1]) / 100 for i in range(1, 6))

    wait_for_lines('round', 8)
    # What a busy host shows late looks like drift, but not every time; a wrong frequency does.
    drifts = []
    while not drifts or abs(drifts[-1]) > 0.3:
        expect(len(drifts) < 10, 'the clock does not keep pace', drifts)
        before = lead()
        time.sleep(2)
        drifts.append(lead() - before)
    naps = [int(nap) for nap in re.findall(r'^nap (\d+) ms$', machine.text(), re.M)]
    expect(min(naps) >= 990, 'a timer fired early', naps)
    print(f'  leg {number}, {machine.context.backend}: {drifts[-1] * 1000:.0f} ms of drift; {len(naps)} naps of {min(naps)} to {max(naps)} ms', flush=True)


def memory_of(state):
    """The memory of a saved state, as docs/state.md has it."""
    with open(os.path.join(state, 'memory'), 'rb') as file:
        memory = bytearray(file.read())
    with open(os.path.join(state, 'manifest'), encoding='ascii') as file:
        names = [line.split()[0] for line in file if line.startswith('memory.')]
    for name in names:
        with open(os.path.join(state, name), 'rb') as file:
            difference = file.read()
        count = len(difference) // 4104
        for slot, page in enumerate(struct.unpack_from(f'<{count}Q', difference, count * 4096)):
            memory[page * 4096:(page + 1) * 4096] = difference[slot * 4096:(slot + 1) * 4096]
    return memory, len(names)


@case
def live_saves(context):
    """A guest under load is saved while it runs, HVSDK_SAVES times (once by default, besides the first), each a difference to the last, and
    with a copy of its disk at that moment, from which another machine goes on to the end of its work."""
    count = int(os.environ.get('HVSDK_SAVES', '1'))
    image, state, copy = (context.path(name) for name in ('disk.img', 'state', 'copy.img'))
    with open(image, 'wb') as file:
        file.truncate(128 << 20)
    flags = [*context.guest_flags(load_of('a b c d', 'echo "round $1"; usleep 50000'), disks=1), f'--disk={image}', '--memory=512M']
    chance = chances()
    still, written = [], []

    def save(machine, *words):
        told = machine.ctl('save', '--live', *words)
        match = re.fullmatch(r'([\d.]+) MiB of memory( that changed)?, in \d+ rounds; '
                             r'the guest (?:stood still for ([\d.]+) ms|stands still until "resume")\n', told)
        expect(match and (match[3] is None) == ('--pause' in words), 'what a save says', told)
        return float(match[1]), match[2] is not None, float(match[3] or 0)

    def wait_for_rounds(machine, number):
        machine.wait_for_count('round ', number)
        expect('WRONG' not in machine.text(), 'a wrong sum', machine.text())

    with Running(context, flags) as machine:
        machine.wait_for('mounted.*(round.*){2}')
        whole, _, first = save(machine, state)
        for number in range(count):
            time.sleep(chance.random() * 2)
            size, is_difference, milliseconds = save(machine, f'--base={state}', state)
            # How much it holds is up to how far the guest got; until it is as much as all memory.
            expect(is_difference or number > 10, 'not a difference', size)
            still.append(milliseconds)
            written.append(size)
            time.sleep(chance.random() * 2)
            save(machine, '--pause', f'--base={state}', state)
            shutil.copyfile(image, copy)
            if number == 0:
                save(machine, context.path('whole'))
                memory, differences = memory_of(state)
                expect(differences == 2, 'differences', differences)
                expect(memory == memory_of(context.path('whole'))[0], 'a difference is not what memory is')
                machine.ctl('save', '--live', f'--base={state}', context.path('late'), status=2)
                # Without the files it shares with others.
                shutil.rmtree(context.path('whole'))
            rounds = machine.text().count('round')
            time.sleep(0.5)
            expect(machine.text().count('round') == rounds, 'the guest does not stand still')
            machine.ctl('resume')
            with Running(context, [f'--restore={state}', f'--disk=storage/0={copy}'], f'restored{number}') as restored:
                wait_for_rounds(restored, 4)
                end_load(restored)
                restored.end(0)
                text = restored.text()
            expect('unmounted' in text and 'WRONG' not in text, 'the work did not end', text[-4000:])
            check_kernel_log(text.split('LOG')[1])
            checked = subprocess.run(['e2fsck', '-fn', copy], capture_output=True, text=True, check=False)
            expect(checked.returncode == 0, 'the file system', checked.stdout)
            wait_for_rounds(machine, rounds + 2)
            # A whole one, which is the base of the next.
            if number == 0 and count > 1:
                save(machine, state)
        machine.ctl('save', '--live', f'--base={context.path("none")}', state, status=2)
        machine.ctl('save', '--pause', state, status=2)
        expect('/nowhere/state: No such file' in machine.ctl('save', '--live', '/nowhere/state', status=2), 'where it cannot be')
        for flags, error in [(['--serial=none'], "--serial: the state's machine has a serial port; /dev/null takes what it says"),
                             (['--kernel=/nowhere/kernel'], '--kernel=/nowhere/kernel: '), (['--initrd=/nowhere/initrd'], '--initrd=/nowhere/initrd: '),
                             ([], '; --disk=storage/0=COPY gives this machine one of its own'),
                             ([f'--disk=storage/0={copy}', f'--control={machine.socket}'], "is another program's or machine's, which listens there")]:
            bad = context.vmm(f'--restore={state}', '--serial=/dev/null', *flags).expect_status(2)
            expect(error in bad.err and bad.err.count('\n') == 1, 'another line', flags, bad.err)
        machine.ctl('stop')
        machine.end(0)
    limit = float(os.environ.get('HVSDK_STAND_STILL_MS', '0'))
    expect(limit == 0 or max(first, *still) <= limit, 'the guest stood still too long', first, still)
    print(f'  {count} times: {whole:.0f} MiB, then {min(written):.1f} to {max(written):.1f} MiB each; the guest stood still for {first:.1f} ms, '
          f'then {min(still):.1f} to {max(still):.1f} ms, {statistics.median(still):.1f} in the middle')


@case
def clones(context):
    """Machines that go on from one state at once, HVSDK_CLONES of them (4 by default): each has an id, random numbers and a disk of its
    own, the date is right, and little memory is not shared. Needs a guest kernel with a driver for the generation id."""
    count = int(os.environ.get('HVSDK_CLONES', '4'))
    image, shared, state = context.path('disk.img'), context.path('shared.img'), context.path('state')
    for path, size in (image, 16 << 20), (shared, 8 << 20):
        with open(path, 'wb') as file:
            file.truncate(size)
    command = r'''
        dmesg -n 1  # or it would write into the lines that are looked for
        id() { echo "$1 id $(dd if=/dev/mem bs=16 skip=57089 count=1 2>/dev/null | od -An -tx1 | tr -d ' ')"; }  # 0xDF010
        for d in /sys/block/sd*; do
          case "$(cat $d/size)" in 32768) own=${d##*/} ;; 16384) shared=${d##*/} ;; esac
        done
        id old; head -c 4096 /dev/urandom >/dev/null; echo ready
        until dmesg | grep -q 'crng reseeded due to virtual machine fork'; do sleep 0.1; done
        id new; echo "random $(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' ')"
        write() { [ -b /dev/$2 ] && dd if=/dev/zero of=/dev/$2 bs=4096 count=1 conv=fsync 2>/dev/null && echo "writes $1"; }
        write own $own; write shared $shared
        dd if=/dev/$shared of=/dev/null bs=1M iflag=direct 2>/dev/null && echo "reads shared"
        while :; do
          [ -e /sys/block/$own ] && echo "own is there" || echo "own is pulled"
          read -r rtc </sys/class/rtc/rtc0/since_epoch; echo "rtc $rtc"
          hwclock -s -u; echo "date $(date +%s) end"; sleep 2
        done'''
    flags = context.guest_flags(command, disks=2)
    with Running(context, [*flags, f'--disk={image}', f'--disk={shared},readonly'], 'original') as machine:
        machine.wait_for('^ready$')
        machine.ctl('save', state)
        machine.end(0)
        ids = {re.search(r'^old id (\w{32})$', machine.text(), re.M)[1]}
    time.sleep(2)
    before = int(time.time())

    def clone(number):
        if number % 2 == 0:
            disk = context.path(f'copy{number}.img')
            subprocess.run(['cp', '--sparse=always', image, disk], check=True)
        else:
            disk = 'none'
        return Running(context, [f'--restore={state}', f'--disk=storage/0={disk}'], f'clone{number}')

    machines = [clone(number) for number in range(count)]
    try:
        randoms, dates, memory = set(), [], []
        for number, machine in enumerate(machines):
            machine.wait_for('(rtc.*){2}' if number % 2 == 0 else 'own is pulled.*(rtc.*){2}')
            text = machine.text()
            said = [re.search(fr'^{what} (\w{{32}})$', text, re.M) for what in ('new id', 'random')]
            expect(all(said), f'clone {number} does not say its id and random number', text)
            ids.add(said[0][1])
            randoms.add(said[1][1])
            if number % 2 == 0:
                expect('writes own' in text and 'own is pulled' not in text, 'its own disk', text)
            expect('reads shared' in text and 'writes shared' not in text, 'the shared disk', text)
        expect(len(ids) == count + 1 and len(randoms) == count, 'ids or random numbers are not their own', ids, randoms)

        # The clock that has been stopped with its machine, too.
        machines[0].process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        resumed = int(time.time())
        machines[0].process.send_signal(signal.SIGCONT)
        said = len(machines[0].text())
        machines[0].wait_for('(rtc.*end.*){%d}' % (2 + machines[0].text().count('rtc')))
        for number, machine in enumerate(machines):
            times = re.findall(r'^(?:rtc|date) (\d+)', machine.text(), re.M)
            dates += times
            expect(all(before - 1 <= int(seconds) <= time.time() + 1 for seconds in times), 'the date is wrong', before, times)
        late = re.findall(r'^rtc (\d+)', machines[0].text()[said:], re.M)
        expect(int(late[-1]) >= resumed - 1, 'the date is wrong after SIGSTOP', resumed, late)

        for machine in machines:
            with open(f'/proc/{machine.process.pid}/smaps_rollup', encoding='utf-8') as file:
                memory.append(int(re.search(r'^Private_Dirty: +(\d+)', file.read(), re.M)[1]) / 1024)
        expect(max(memory) <= 24, 'a clone has more than 24 MiB of its own', memory)

        # One disk, two writers.
        with Running(context, [f'--restore={state}'], 'first') as first:
            first.wait_for('writes own')
            second = context.vmm(f'--restore={state}', '--changed-disks=accept', timeout=60).expect_status(2)
            expect(re.fullmatch(r'mini_vmm: --disk[^\n]*disk.img[^\n]* in use [^\n]*\n', second.err), 'not refused', second.err)
    finally:
        for machine in machines:
            machine.__exit__()
    print(f'  {count} clones, {len(dates)} dates; each has {min(memory):.1f} to {max(memory):.1f} MiB of its own')


@case
def panic(context):
    result = context.run('echo c >/proc/sysrq-trigger').expect_status(11)
    expect('the guest crashed on processor' in result.err, 'no crash report', result.err)
    expect('sysrq triggered crash' in result.err, 'no message of the guest', result.err)


@case
def panics(context):
    """What Linux does after a panic by default is to spin for ever; it may also be told to restart, here after a second."""
    flags = [flag for flag in context.guest_flags('echo c >/proc/sysrq-trigger') if flag != '--no-reboot']
    for timeout, extra, silent in (0, [], True), (0, ['--on-crash=end'], False), (1, [], False):
        result = context.vmm(*[flag.replace('panic=-1', f'panic={timeout}') for flag in flags], *extra).expect_status(11)
        print(f'  panic={timeout} {" ".join(extra)}: {result.seconds:.1f} s', flush=True)
        expect(result.out.count('HVSDK-INIT') == 1, 'not one boot', result.out)
        expect(result.err.count('the guest crashed on processor') == 1, 'not one crash report', result.err)
        expect(('has been silent' in result.err) == silent, 'silent', result.err)


def ramdisk(files):
    """An archive in cpio's newc format, as Linux takes them one behind another: {name: contents}."""
    archive = b''
    for inode, (name, contents) in enumerate([*files.items(), ('TRAILER!!!', b'')], 1):
        fields = [inode, 0o100755, 0, 0, 1, 0, len(contents), 0, 0, 0, 0, len(name) + 1, 0]
        head = b'070701' + b''.join(b'%08X' % field for field in fields) + name.encode() + b'\0'
        archive += head.ljust(-(-len(head) // 4) * 4, b'\0') + contents.ljust(-(-len(contents) // 4) * 4, b'\0')
    return archive.ljust(-(-len(archive) // 512) * 512, b'\0')


@case
def kdump(context):
    """A guest that panics starts its crash kernel, which writes the dump to a disk and powers off."""
    def contents(path):
        with open(path, 'rb') as file:
            return file.read()
    initrd, dump = context.path('initrd.img'), context.path('dump.img')
    kernel, plain = contents(f'{context.guest}/vmlinuz'), contents(f'{context.guest}/initrd.img')
    with open(initrd, 'wb') as file:
        file.write(plain + ramdisk({'kexec_load': context.program('kexec_load'), 'vmlinuz': kernel, 'initrd.img': plain}))
    with open(dump, 'wb') as file:
        file.truncate(400 << 20)
    text = base64.b64encode(b'uname -r; cat /proc/vmcore | dd of=/dev/sda bs=1M conv=fsync 2>&1; echo "dumped"').decode()
    command = f'''/kexec_load /vmlinuz /initrd.img \\
        'console=ttyS0 loglevel=5 mitigations=off nr_cpus=1 reset_devices hvsdk.disks=1 hvsdk.exec_b64={text}' &&
        cat /sys/kernel/kexec_crash_loaded && echo a mark in memory | tr a-z A-Z && echo c >/proc/sysrq-trigger'''
    # So little memory keeps 128 MiB in one piece only where the kernel is not loaded at random into the middle of it.
    flags = [flag.replace('panic=-1', 'crashkernel=128M nokaslr') for flag in context.guest_flags(command, disks=1)]
    flags = [flag for flag in flags if flag != '--no-reboot' and not flag.startswith('--initrd')]
    result = context.vmm(*flags, f'--initrd={initrd}', f'--disk={dump}', '--memory=300M').expect_status(11)
    expect(result.err.count('the guest crashed on processor') == 1, 'not one crash report', result.err)
    expect('dumped' in result.out and 'HVSDK-EXIT:0' in result.out, 'no dump', result.out)
    core = contents(dump)
    expect(core[:6] == b'\x7fELF\x02\x01' and struct.unpack_from('<H', core, 16)[0] == 4, 'not an ELF core', core[:64])
    expect(b'sysrq triggered crash' in core and b'A MARK IN MEMORY' in core, 'the dump has not what the guest had in memory')


@case
def core_dump(context):
    """A core file of a guest that crashed, and one of a guest that runs: gdb shows its processors, and by what the kernel tells of itself its log."""
    def gdb(core, *commands):
        words = [word for command in commands for word in ('-ex', command)]
        done = subprocess.run(['gdb', '-nx', '-batch', *words, '-c', core], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
        return done.stdout

    def log_of(core):
        with open(core, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            at = whole.find(b'OSRELEASE=')
            info = dict(line.split('=', 1) for line in whole[at:at + 4096].split(b'\0')[0].decode().splitlines() if '=' in line)
        ring = info['OFFSET(printk_ringbuffer.text_data_ring)']
        log = context.path('log')
        gdb(core, f'set $ring = *(unsigned long *)0x{info["SYMBOL(prb)"]} + {ring}', 'set $text = *(unsigned long *)($ring + 8)',
            f'dump binary memory {log} $text $text+(1<<*(unsigned int *)$ring)')
        with open(log, 'rb') as file:
            return file.read()

    crashed, running = context.path('crashed.core'), context.path('running.core')
    flags = context.guest_flags('echo a mark in memory | tr a-z A-Z >/dev/kmsg; echo c >/proc/sysrq-trigger')
    result = context.vmm(*flags, '--on-crash=end', f'--crash-dump={crashed}').expect_status(11)
    expect(f'a core file of the guest is in {crashed}' in result.err, 'says so', result.err)
    log = log_of(crashed)
    expect(b'A MARK IN MEMORY' in log and b'sysrq triggered crash' in log, 'the log', log[:200])
    threads = gdb(crashed, 'info threads', 'thread 1', 'info registers rip')
    expect(threads.count('LWP') >= 2 and re.search(r'rip +0xffffffff\w+', threads), 'the processors', threads)
    again = context.vmm(*flags, f'--crash-dump={crashed}').expect_status(2)
    expect(again.err == f'mini_vmm: --crash-dump={crashed}: is there already\n', 'a file that is there', again.err)

    with Running(context, context.guest_flags('echo LATER MARK >/dev/kmsg; echo ready; sleep 1000')) as machine:
        machine.wait_for('^ready')
        machine.ctl('dump', running)
        expect(b'LATER MARK' in log_of(running), 'the log of one that runs')
        expect(f'dump: {running}: File exists' in machine.ctl('dump', running, status=2), 'a file that is there')
        machine.ctl('stop')


@case
def power_offs(context):
    """Boots and power-offs in a row, with a disk; on the software processor, with one, two and four processors each. HVSDK_POWER_OFFS of them,
    3 by default."""
    count = int(os.environ.get('HVSDK_POWER_OFFS', '3'))
    image = context.path('disk.img')
    first = os.urandom(512)
    with open(image, 'wb') as file:
        file.write(first + bytes(1 << 20))
    for cpus in (1, 2, 4) if context.backend == 'software' else (2,):
        seconds = []
        for i in range(count):
            result, sections = checked_boot(context, cpus, f'--disk={image}', disks=1)
            expect(sections['disks'].split()[:1] == [hashlib.sha256(first).hexdigest()],
                   f'boot {i + 1} read something else from its disk', result.out)
            seconds.append(f'{result.seconds:.1f}')
        print(f'  {cpus} processors, {count} boots: {" ".join(seconds)} s', flush=True)


@case
def processor(context):
    """What a kernel without `mitigations=off` and a C library make of the software processor: no leak, nothing done against one that
    costs, large copies by string instructions."""
    expect(context.debian_disk, '--debian-disk is missing')
    command = '''
        grep -H . /sys/devices/system/cpu/vulnerabilities/*
        grep -m1 ^flags /proc/cpuinfo
        mount -t ext4 -o ro /dev/sda /mnt
        chroot /mnt /lib64/ld-linux-x86-64.so.2 --list-tunables
        dmesg -r'''
    flags = [re.sub('mitigations=off ', '', flag) for flag in context.guest_flags(command, 1)]
    result = context.vmm(*flags, '--cpus=2', f'--disk={context.debian_disk},readonly').expect_status(0)
    expect('HVSDK-EXIT:0' in result.out, 'the guest did not finish', result.out)
    states = dict(re.findall(r'^/sys/.*/(\w+):(.*)', result.out, re.M))
    expect(len(states) > 10, 'no states', result.out)
    unlike = {name: state for name, state in states.items() if state != 'Not affected'}
    # What is said of every processor that executes ahead in some way, none of which costs more than a few instructions.
    expect(set(unlike) <= {'spectre_v1', 'spectre_v2'}, 'a vulnerability', unlike)
    expect(re.match('Mitigation: Enhanced / Automatic IBRS', unlike['spectre_v2']), 'not IBRS', unlike)
    expect(not re.search(r'ulnerable|[Rr]etpoline|SW loop|Clear CPU|PTI', ''.join(unlike.values())), 'costs', unlike)
    features = re.search(r'^flags\s*: (.*)', result.out, re.M)[1].split()
    expect({'erms', 'fsrm', 'rep_good'} <= set(features), 'no fast strings', features)
    expect('pti' not in features, 'page tables are kept apart', features)
    tunables = {name: int(value, 16) for name, value in re.findall(r'^glibc\.cpu\.(\w+): (0x\w+)', result.out, re.M)}
    expect(tunables['x86_rep_movsb_threshold'] <= 4096, 'strings only for more', tunables)
    expect(tunables['x86_non_temporal_threshold'] >= 64 << 20, 'copies go past the caches', tunables)
    check_kernel_log(result.out)


@case
def user_programs(context):
    """busybox' applets do what they do on the host's processor; a digest of 256 MiB; Debian's Python passes its own tests."""
    expect(context.debian_disk, '--debian-disk is missing')
    script = context.path('applets.img')
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'applets.sh'), 'rb') as file:
        text = file.read()
    blocks = -(-len(text) // 512)
    with open(script, 'wb') as file:
        file.write(text.ljust(blocks * 512))

    # The same busybox on this processor.
    native = context.path('native')
    os.makedirs(f'{native}/bin')
    os.mkdir(f'{native}/work')
    with open(f'{context.guest}/initrd.img', 'rb') as ramdisk, open(f'{native}/busybox', 'wb') as busybox:
        subprocess.run(['cpio', '-i', '--quiet', '--to-stdout', 'bin/busybox'], stdin=ramdisk, stdout=busybox, check=True)
    os.chmod(f'{native}/busybox', 0o755)
    subprocess.run([f'{native}/busybox', '--install', '-s', f'{native}/bin'], check=True)
    wanted = subprocess.run([f'{native}/busybox', 'sh', script], cwd=f'{native}/work', env={'PATH': f'{native}/bin'},
                            capture_output=True, text=True, check=True).stdout
    expect(wanted.count('\n= ') > 50 and '= 127' not in wanted, 'the script does not work here', wanted)
    line = ' '.join(map(str, range(1, 1001)))
    digest = hashlib.sha256(((line + '\n') * (-(-(256 << 20) // (len(line) + 1)))).encode()[:256 << 20]).hexdigest()

    command = f'''
        for d in /sys/block/sd*; do
          case "$(cat $d/size)" in {blocks}) script=/dev/${{d##*/}} ;; *) debian=/dev/${{d##*/}} ;; esac
        done
        now() {{ read -r t _ </proc/uptime; echo "[$1] $t"; }}
        mkdir /tmp/work; cd /tmp/work
        now applets
        head -c {len(text)} $script >/tmp/applets.sh; sh /tmp/applets.sh
        now digest
        yes "$(seq -s ' ' 1 1000)" | head -c {256 << 20} | sha256sum
        now python
        mount -t ext4 -o ro $debian /mnt && mount -t tmpfs tmpfs /mnt/tmp && mount -t proc proc /mnt/proc &&
          mount --bind /dev /mnt/dev &&
          chroot /mnt /usr/bin/env -i PATH=/usr/bin:/bin PYTHONDONTWRITEBYTECODE=1 TMPDIR=/tmp \\
            python3 -m unittest test.test_math test.test_struct 2>&1
        now log
        dmesg -r
        now end'''
    result = context.run(command, f'--disk={context.debian_disk},readonly', f'--disk={script},readonly', disks=2,
                         timeout=900).expect_status(0)
    expect('HVSDK-EXIT:0' in result.out, 'the guest did not finish', result.out)
    sections = re.split(r'^\[(\w+)\] ([\d.]+)\n', result.out, flags=re.M)
    text_of = dict(zip(sections[1::3], sections[3::3]))
    times = list(map(float, sections[2::3]))
    got = text_of['applets']
    if got != wanted:
        pairs = zip(got.splitlines(), wanted.splitlines())
        different = next((f'got {a!r}, not {b!r}' for a, b in pairs if a != b), 'one is shorter')
        raise Failure('\n'.join(['an applet has another result than on the host: ' + different, got]))
    expect(text_of['digest'].split()[0] == digest, 'a wrong digest of 256 MiB', text_of['digest'], digest)
    ran = re.search(r'^Ran (\d+) tests in .*\n\nOK', text_of['python'], re.M)
    expect(ran and int(ran[1]) >= 100, "Python's own tests fail", text_of['python'])
    check_kernel_log(text_of['log'])
    for name, begin, end in zip(sections[1::3], times, times[1:]):
        print(f'  {name}: {end - begin:.1f} s', flush=True)


@case
def deterministic(context):
    """Two runs on a count of instructions end in the same state, and so does one that is saved and goes on in a new process at random
    moments, HVSDK_SAVES times (once by default); another input, in another."""
    def flags_of(command):
        # Without the flags that name the engine: the mode has but one.
        flags = [flag for flag in context.guest_flags(command) if not flag.startswith('--backend')]
        return ['--deterministic', '--cpus=2', *flags]

    def final_state(command):
        result = context.vmm(*flags_of(command)).expect_status(0)
        expect('HVSDK-EXIT:0' in result.out, 'the guest did not finish', result.out)
        state = re.fullmatch(r'mini_vmm: (\d+) instructions, state hash ([0-9a-f]{16})\n', result.err)
        expect(state and int(state[1]) > 10 ** 8, 'no final state', result.err)
        print(f'  {state[1]} instructions, state hash {state[2]}, {result.seconds:.1f} s', flush=True)
        return state[0], result.out, result.seconds

    def saved_state(command, seconds):
        """What is known of a run that takes so long and is saved on its way."""
        count, chance, flags, said, saved = int(os.environ.get('HVSDK_SAVES', '1')), chances(), flags_of(command), '', 0
        for number in range(count + 1):
            with Running(context, flags, f'moved{number}') as machine:
                machine.wait_for_socket()
                ended = number == count
                if not ended:
                    time.sleep(chance.random() * 0.7 * seconds / count)
                    state = context.path(f'state{number}')
                    ended = subprocess.run([context.mini_vmm, 'ctl', machine.socket, 'save', state], stdin=subprocess.DEVNULL,
                                           capture_output=True, timeout=120, check=False).returncode != 0
                    flags, saved = [f'--restore={state}'], number + (not ended)
                state = machine.process.communicate(timeout=300)[1].decode()
                expect(machine.process.returncode == 0, 'no good end', state, machine.text())
                said += machine.text()
            if ended:
                break
        expect(saved > 0, 'it was never saved', said)
        print(f'  saved {saved} times', flush=True)
        return state, said

    command = 'nproc; cat /proc/interrupts; head -c 8 /dev/urandom | od -tx8'
    *first, seconds = final_state(command)
    *second, _ = final_state(command)
    expect(re.search(r'^2$', first[1], re.M), 'not two processors', first[1])
    expect(first == second, 'two runs differ', first, second)
    moved = saved_state(command, seconds)
    expect(first == [*moved], 'a run that was saved differs', first, moved)
    expect(final_state(command + '; true')[0] != first[0], 'another input has the same final state')


@case
def large(context):
    """Four processors and 4 GiB, of which one lies above the hole."""
    if os.environ.get('HVSDK_NESTED'):
        # The nested machine has less, and its kernel promises no more than it has until it is told to.
        with open('/proc/sys/vm/overcommit_memory', 'w', encoding='utf-8') as file:
            file.write('1')
    result = context.run('nproc; grep MemTotal /proc/meminfo; grep "System RAM" /proc/iomem; echo "[log]"; dmesg -r',
                         '--memory=4G', '--cpus=4', timeout=600).expect_status(0)
    expect(re.search(r'^4$', result.out, re.M), 'not four processors', result.out)
    expect(int(re.search(r'MemTotal:\s+(\d+)', result.out)[1]) > 3_700_000, 'not 4 GiB', result.out)
    expect(re.search(r'100000000-13fffffff : System RAM', result.out), 'no memory above 4 GiB', result.out)
    check_kernel_log(result.out.split('[log]')[1].split('HVSDK-EXIT')[0])


def beyond_host():
    """Sizes that a software processor could address and this host refuses to promise: all it has and one GiB, and the largest."""
    with open('/proc/sys/vm/overcommit_memory', encoding='utf-8') as file:
        if file.read().strip() == '1':
            return []
    with open('/proc/meminfo', encoding='utf-8') as file:
        has_kib = sum(int(line.split()[1]) for line in file if line.startswith(('MemTotal:', 'SwapTotal:')))
    return [f'{gib}G' for gib in ((has_kib >> 20) + 1, 1022) if has_kib >> 20 < gib <= 1022]


@case
def bad_input(context):
    """A mistake of the user's is one line that names it, status 2, and nothing is written."""
    kernel = context.path('kernel')
    header = bytearray(66560)
    header[0x1F1] = 1
    header[0x1F4:0x1F8] = (65536 // 16).to_bytes(4, 'little')
    header[0x1FE:0x200] = b'\x55\xaa'
    header[0x202:0x206] = b'HdrS'
    header[0x206:0x208] = (0x20F).to_bytes(2, 'little')
    header[0x22C:0x230] = (0x7FFFFFFF).to_bytes(4, 'little')
    header[0x236] = 1
    header[0x238:0x23A] = (2047).to_bytes(2, 'little')
    header[0x258:0x260] = (16 << 20).to_bytes(8, 'little')
    header[0x260:0x264] = (4 << 20).to_bytes(4, 'little')

    def write(name, contents):
        with open(context.path(name), 'wb') as file:
            file.write(contents)
        return context.path(name)

    write('kernel', header)
    truncated = write('truncated', header[:40000])
    garbage = write('garbage', os.urandom(10000))
    empty = write('empty', b'')
    odd_disk = write('odd.img', b'x' * 1000)
    disk_image = write('disk.img', b'x' * 4096)
    precious_disk = write('precious.img', b'y' * 4096)
    precious = write('precious', b'do not touch')
    pipe = context.path('pipe')
    os.mkfifo(pipe)
    unknown = write('unknown.textproto', b'kernel: "k"\nflux_capacitor: 1\n')
    wrong = write('wrong.textproto', b'kernel: "k" cpus: "two"\n')
    config = write('good.textproto', b'kernel: "%s" cpus: 1 memory_mib: 64\n' % kernel.encode())
    # What the system takes for the name of another file; a message of which the end would be lost.
    zeroes = [(flag, write(f'zero_{flag}.textproto', (b'' if flag == 'kernel' else b'kernel: "k" ') + field))
              for flag, field in (('kernel', b'kernel: "k\\000x"'), ('initrd', b'initrd: "i\\000x"'), ('trace', b'trace: "t\\000x"'),
                                  ('serial', b'serial { file: "s\\000x" }'), ('disk', b'disks { path: "d\\000x" }'))]
    endless = [write(f'endless{i}.textproto', text) for i, text in enumerate(
        [b'kernel: "%s"' % (b'x' * 900_000), b'x' * 900_000 + b': 1', b'kernel: "k" backend: "%s"' % (b'\1' * 900_000)])]
    no_uuid = write('no_uuid.textproto', b'kernel: "%s" smbios { uuid: "none" }\n' % kernel.encode())
    no_cpus = write('no_cpus.textproto', b'kernel: "%s" cpus: 0\n' % kernel.encode())
    twice = write('twice.textproto', b'kernel: "a" kernel: "b"\n')
    hard_link, loop, fifo = context.path('link'), context.path('loop'), context.path('fifo')
    os.link(disk_image, hard_link)
    os.symlink(loop, loop)
    os.mkfifo(fifo)
    missing, folder = context.path('missing'), context.folder
    long_name = 'x' * 5000
    k = f'--kernel={kernel}'
    engine = [f'--backend={context.backend}']
    mistakes = [
        ([], '--kernel'),
        (['--kernel'], '--kernel'),
        (['--kernel='], '--kernel'),
        ([f'--kernel={missing}'], missing),
        ([f'--kernel={folder}'], folder),
        ([f'--kernel={truncated}'], truncated),
        ([f'--kernel={garbage}'], garbage),
        ([f'--kernel={empty}'], empty),
        ([k, f'--initrd={missing}'], missing),
        ([k, '--cmdline=' + 'x' * 3000], '--cmdline'),
        ([k, f'--disk={missing}'], missing),
        ([k, f'--disk={folder}'], folder),
        ([k, f'--disk={odd_disk}'], odd_disk),
        ([k, f'--disk={empty}'], empty),
        ([k, f'--disk={disk_image},format=vhdx'], 'VHDX'),
        ([k, f'--disk={disk_image},colour=red'], 'colour'),
        ([k, f'--disk={disk_image},format='], 'format='),
        ([k, f'--disk={disk_image},'], '--disk'),
        ([k, *[f'--disk={disk_image},readonly'] * 65], '--disk: more than 64'),
        ([k, f'--disk={disk_image}', f'--disk={disk_image}'], disk_image),
        *[([k, f'--memory={size}'], '--memory')
          for size in ('0', '1M', 'lots', '-1M', '1.5G', '512', '99999999T', '5T', '19M', '0x200M', '', '4097G')],
        # More than the software processor's 40 address bits reach; within them, more than the host has.
        *[([k, '--backend=software', f'--memory={size}'], '--memory')
          for size in ('4T', '4095G', '1T', '1023G', *beyond_host())],
        *[([k, f'--cpus={count}'], '--cpus') for count in ('0', '-1', 'two', '1025', '99999999999', '')],
        ([k, '--backend=software', '--cpus=65'], '--cpus'),
        ([k, '--backend=quantum'], '--backend'),
        ([k, '--frobnicate'], '--frobnicate'),
        ([k, '--frobnicate=1'], '--frobnicate'),
        ([k, 'vmlinuz'], 'vmlinuz'),
        ([k, '--no-reboot=yes'], '--no-reboot'),
        ([k, '--deterministic', '--backend=kvm'], '--deterministic'),
        ([k, '--deterministic', '--backend=auto', f'--disk={disk_image}'], '--deterministic'),
        *[([k, f'--smbios={text}'], name) for text, name in (
            ('', '--smbios'), ('uuid=42', 'uuid'), ('uuid', 'uuid'), ('colour=red', 'colour'), ('serial=a,', '""'),
            ('serial=' + 'x' * 65, 'serial'), ('sku=a\nb', 'sku'), ('product=caf\xe9', 'product'), ('family= a', 'family'),
            ('=', '""'), ('uuid=4c4c4544-0042-3510-8052-b4c04f4a313g', 'uuid'))],
        *[([k, f'--net={text}'], f'mini_vmm: --net: {name}') for text, name in (
            ('wifi', '"wifi"'), ('user,colour=red', '"colour=red"'), ('user,restrict=yes', '"restrict=yes"'),
            ('user,host-loopback=maybe', '"host-loopback=maybe"'), ('user,host_loopback=on', '"host_loopback=on"'),
            ('user,', '""'), ('name=a', '"name=a"'), ('user,mtu=x', '"mtu=x"'), ('user,mtu=67', 'mtu: 67'), ('user,mtu=9001', 'mtu: 9001'), ('user,mtu=1000', 'mtu: 1000'),
            ('user,queues=65', 'queues: 65'), ('user,mac=02:15:5d:00:00', 'mac: '), ('user,mac=03:15:5d:00:00:01', 'mac: '),
            ('user,hostfwd=tcp:1', 'hostfwd: '), ('user,hostfwd=tcp:192.0.2.1:80-:80', 'hostfwd: the host refuses tcp:192.0.2.1:80'),
            ('user,dns=8.8.8.8', 'dns: '), ('user,dns=a', 'dns: '), ('user,path=x', '"path=x"'),
            ('user,name=network/0', 'name: '), (f'user,pcap={missing}/net', 'pcap: '), (f'user,pcap={folder}', 'pcap: '),
            ('tap', 'tap: '), ('tap,device=a-name-far-too-long', 'device: '), ('tap,fd=0', 'fd: '), ('tap,device=a,fd=3', 'tap: '),
            ('socket', 'socket: '), (f'socket,path={long_name}', 'path: '), (f'socket,path={precious},listen', 'path: '),
            (f'socket,path={missing}/lan,listen', 'path: '), ('socket,fd=0', 'fd: '), ('socket,fd=999', 'fd: '),
            (f'socket,path={missing},local={missing},listen', 'listen: '), ('switch,vlan=4095', 'vlan: 4095'))],
        ([k, '--net=user,name=a', '--net=user,name=a'], '--net: name: '),
        ([k, '--net=user,mac=02:15:5d:00:00:0A', '--net=user,mac=02:15:5d:00:00:0a'], '--net: mac: '),
        ([k, *['--net=user'] * 9], '--net: more than 8'),
        ([k, '--net=user', '--net=switch', '--net=tap,fd=0'], '--net: fd: '),
        ([k, '--net=user', '--net=switch', '--cmdline=' + 'x' * 65536], '--cmdline'),
        ([k, '--deterministic', '--backend=auto', '--net=user'], '--deterministic'),
        ([k, f'--net=user,pcap={precious}', f'--trace={precious}'], 'pcap'),
        ([k, f'--net=user,pcap={kernel}'], 'pcap'),
        ([k, f'--config={missing}'], missing),
        ([f'--config={unknown}'], 'flux_capacitor'),
        ([f'--config={wrong}'], wrong),
        ([f'--config={no_cpus}', '--cpus=2'], no_cpus),
        ([f'--config={no_uuid}'], f'{no_uuid}: smbios: uuid: '),
        ([f'--config={twice}'], twice),
        *[([f'--config={path}'], f'{path}: {flag}: contains a zero byte') for flag, path in zeroes],
        ([f'--config={endless[0]}'], ': File name too long'),
        *[([f'--config={path}'], path) for path in endless[1:]],
        ([f'--config={config}', '--cpus=0'], 'mini_vmm: --cpus: '),
        ([f'--config={config}', '--backend=quantum'], 'mini_vmm: --backend: '),
        ([f'--config={config}', '--processor=8086'], 'mini_vmm: --processor'),
        *[([*before_it, f'--{flag}={path}'], f'mini_vmm: --{flag}')
          for flag in ('kernel', 'initrd', 'disk', 'config', 'serial', 'trace')
          for before_it in [[k] if flag != 'kernel' else []]
          for path in ('', folder, loop, long_name, f'{folder}/{long_name}', f'{kernel}/below', '/dev/tty', fifo, 'a\nb/c', b'\xff/c')
          if not (path == '/dev/tty' and flag in ('serial', 'trace'))],
        # A file in two roles, in one of which it would be written.
        ([k, f'--serial={precious}', f'--trace={precious}'], '--trace'),
        ([k, f'--serial={context.path("both")}', f'--trace={context.path("both")}'], '--trace'),
        ([k, f'--serial={kernel}'], '--serial'),
        ([k, f'--trace={kernel}'], '--trace'),
        ([k, f'--initrd={precious}', f'--trace={precious}'], '--trace'),
        ([f'--config={config}', f'--trace={config}'], '--trace'),
        ([k, f'--disk={disk_image}', f'--trace={disk_image}'], '--trace'),
        ([k, f'--disk={disk_image},readonly', f'--serial={hard_link}'], '--serial'),
        ([k, f'--disk={disk_image}', f'--disk={hard_link}'], f'--disk={hard_link}'),
        ([k, f'--disk={disk_image},readonly', f'--disk={disk_image}'], f'--disk={disk_image}'),
        ([f'--kernel={disk_image}', f'--disk={disk_image}'], '--disk'),
        (['--help=1'], '--help: takes'),
        ([''], '""'),
        (['-'], '"-"'),
        (['--'], '--'),
        (['-kernel=x'], '-kernel'),
        ([b'--\xff=1'], '--'),
        ([k, f'--serial={folder}/no/such/folder/log'], '--serial'),
        ([k, f'--trace={folder}/no/such/folder/trace'], '--trace'),
        ([k, f'--serial={precious}', f'--trace={folder}/no/such/folder/trace'], '--trace'),
        ([f'--kernel={truncated}', f'--serial={precious}', f'--trace={context.path("new-trace")}'], truncated),
        ([f'--kernel={truncated}', f'--serial={context.path("new-log")}'], truncated),
        ([k, f'--serial={precious}', f'--control={folder}/no/such/folder/socket'], '--control'),
        ([k, f'--trace={precious}', f'--sockets={folder}/no/such/folder/socket'], '--sockets'),
        ([k, f'--disk={disk_image},name=caf'.encode() + b'\xe9'], 'name: is not UTF-8'),
        ([k, f'--net=switch,pcap={pipe}'], f'pcap: {pipe}: nobody reads from this pipe'),
        ([k, f'--crash-dump={precious}'], f'--crash-dump={precious}: is there already'),
    ]
    before = sorted(os.listdir(folder))
    for flags, name in mistakes:
        result = context.vmm(*engine, *flags, timeout=60)
        expect(result.status == 2, f'{flags}: exit status {result.status} instead of 2', result.err)
        expect(result.out == '', f'{flags}: standard output', result.out)
        expect(re.fullmatch(r'mini_vmm: [^\n]+\n', result.err), f'{flags}: not one line', result.err)
        expect(len(result.err) < 2 * len(long_name), f'{flags}: a long line', result.err)
        expect(name in result.err, f'{flags}: does not name {name}', result.err)
        expect(sorted(os.listdir(folder)) == before, f'{flags}: left files behind', os.listdir(folder))
    with open(precious, 'rb') as file:
        expect(file.read() == b'do not touch', 'a file was overwritten')

    # What another machine has for a disk.
    spin = write('spin', tiny_guest(b'x', 'spin'))
    for options in '', ',readonly':
        with subprocess.Popen([context.mini_vmm, '--backend=software', '--memory=16M', f'--kernel={spin}', f'--disk={precious_disk}{options}'],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            expect(process.stdout.read(1) == b'x', 'the guest does not start')
            for flag, shown in ('serial=', 'serial='), ('trace=', 'trace='), ('net=switch,pcap=', 'net: pcap: '):
                result = context.vmm(*engine, k, f'--{flag}{precious_disk}', timeout=60).expect_status(2)
                expect(result.err == f'mini_vmm: --{shown}{precious_disk}: is in use by another program or machine\n', result.err)
            process.kill()
    # What another machine writes.
    for flag, shown in ('serial=', 'serial='), ('net=switch,pcap=', 'net: pcap: '):
        written = context.path('written')
        with subprocess.Popen([context.mini_vmm, '--backend=software', '--memory=16M', f'--kernel={spin}', f'--serial={written}'],
                              stdin=subprocess.DEVNULL) as process:
            while not os.path.exists(written) or os.path.getsize(written) == 0:
                time.sleep(0.05)
            result = context.vmm(*engine, k, f'--{flag}{written}', timeout=60).expect_status(2)
            expect(result.err == f'mini_vmm: --{shown}{written}: another machine writes it\n', result.err)
            with open(written, 'rb') as file:
                expect(file.read() == b'x', "another machine's output was overwritten")
            process.kill()
        os.unlink(written)
    with open(precious_disk, 'rb') as file:
        expect(file.read() == b'y' * 4096, "another machine's disk was overwritten")
    print(f'  {len(mistakes)} mistakes')
    result = context.vmm('--help')
    expect(result.status == 0 and '--kernel=FILE' in result.out and result.err == '', 'help', result.out, result.err)


def tiny_guest(text, then):
    """An ELF file with a PVH entry point that prints `text`, and then: powers off, resets, spins, halts, or prints for ever; or
    tells what it reads for ever."""
    base, entry = 0x100000, 0x100200
    def out(port, value):
        return b'\x66\xba' + port.to_bytes(2, 'little') + b'\xb0' + bytes([value]) + b'\xee'  # mov dx, port; mov al, value; out
    ends = {'power_off': out(0x600, 0x34), 'reset': out(0x602, 1), 'spin': b'', 'halt': b'\xfa\xf4',  # cli; hlt
            'flood': b'\x66\xba\xf8\x03\xee\xeb\xfd',  # mov dx, 3f8; 1: out dx, al; jmp 1b
            # 1: mov dx, 3fd; 2: in al, dx; test al, 1; jz 2b; mov dx, 3f8; in al, dx; out dx, al; jmp 1b
            'echo': b'\x66\xba\xfd\x03\xec\xa8\x01\x74\xfb\x66\xba\xf8\x03\xec\xee\xeb\xef'}
    code = b''.join(out(0x3F8, byte) for byte in text) + ends[then] + b'\xeb\xfe'
    note = struct.pack('<III4sQ', 4, 8, 18, b'Xen', entry)  # XEN_ELFNOTE_PHYS32_ENTRY
    header = struct.pack('<16sHHIQQQIHHHHHH', b'\x7fELF\x02\x01\x01', 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    size = 0x200 + len(code)
    load = struct.pack('<IIQQQQQQ', 1, 5, 0, base, base, size, size, 4096)
    notes = struct.pack('<IIQQQQQQ', 4, 4, 0x100, 0, 0, len(note), len(note), 4)
    return (header + load + notes).ljust(0x100, b'\0') + note.ljust(0x100, b'\0') + code


@case
def many_processors(context):
    """As many as the flags or the engine take, with a disk, whose channels are fewer."""
    kernel, disk = context.path('kernel'), context.path('disk.img')
    with open(kernel, 'wb') as file:
        file.write(tiny_guest(b'hello\n', 'power_off'))
    with open(disk, 'wb') as file:
        file.truncate(1 << 20)
    flags = [f'--kernel={kernel}', f'--disk={disk}', f'--backend={context.backend}', '--memory=16M']
    result = context.vmm(*flags, '--cpus=1024')
    if limit := re.fullmatch(r'mini_vmm: --cpus=1024: \w+ runs 1 to (\d+) processors\n', result.err):
        expect(result.status == 2, f'exit status {result.status}', result.err)
        result = context.vmm(*flags, f'--cpus={limit[1]}')
    result.expect_status(0)
    expect(result.out == 'hello\n' and result.err == '', 'the guest', result.out, result.err)


@case
def no_descriptors(context):
    """A host that has no more files to give is no mistake of the user's."""
    kernel, disk, config = context.path('kernel'), context.path('disk.img'), context.path('config')
    with open(kernel, 'wb') as file:
        file.write(tiny_guest(b'hello\n', 'power_off'))
    with open(disk, 'wb') as file:
        file.truncate(1 << 20)
    with open(config, 'w', encoding='ascii') as file:
        file.write(f'kernel: "{kernel}"')
    flags = [f'--config={config}', f'--disk={disk}', '--backend=software', '--memory=16M', f'--serial={context.path("log")}']
    blamed = set()
    for limit in range(4, 64):
        done = subprocess.run(['sh', '-c', f'ulimit -n {limit}; exec "$@"', 'sh', context.mini_vmm, *flags], timeout=60,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        if done.returncode == 0:
            break
        err = done.stderr.decode()
        expect(done.returncode == 3, f'{limit} descriptors: exit status {done.returncode}', err)
        expect(re.fullmatch(r'mini_vmm: [^\n]+\n', err), f'{limit} descriptors: not one line', err)
        blamed.add(err.split('=')[0].split(':')[1].strip())
    expect(done.returncode == 0, 'the guest never ran', err)
    expect({'--kernel', '--serial', '--disk'} <= blamed, 'not all were short of descriptors', blamed)


@case
def outputs(context):
    """Where output can go, and what is said when it is lost."""
    def guest(text, then):
        with open(context.path(then), 'wb') as file:
            file.write(tiny_guest(text, then))
        return [f'--kernel={context.path(then)}', '--backend=software', '--memory=16M', '--cpus=1']

    power_off, reset = guest(b'hello\n', 'power_off'), [*guest(b'hello\n', 'reset'), '--no-reboot']
    log = context.path('log')
    full = 'No space left on device'
    for flags, status, err in [
            (power_off, 0, ''),
            (reset, 10, ''),
            ([*power_off, '--serial=/dev/null', '--trace=/dev/null'], 0, ''),
            ([*power_off, '--serial=/dev/full'], 3, f'mini_vmm: --serial=/dev/full: cannot be written: {full}\n'),
            ([*reset, '--serial=/dev/full'], 3, f'mini_vmm: --serial=/dev/full: cannot be written: {full}\n'),
            ([*power_off, f'--serial={log}', '--trace=/dev/full'], 3,
             f'mini_vmm: --trace=/dev/full: cannot be written: {full}\n'),
            ([*power_off, '--serial=/dev/full', '--deterministic'], 3,
             re.compile(fr'mini_vmm: \d+ instructions, .*\nmini_vmm: --serial=/dev/full: .*{full}\n')),
            (['--serial=/dev/full', '--trace=/dev/full', *power_off], 3,
             re.compile(fr'mini_vmm: --serial=/dev/full: .*{full}\nmini_vmm: --trace=/dev/full: .*{full}\n'))]:
        result = context.vmm(*flags, timeout=60).expect_status(status)
        expect(result.err == err if isinstance(err, str) else err.fullmatch(result.err), f'{flags}: standard error', result.err)
    with open(log, 'rb') as file:
        expect(file.read() == b'hello\n', 'the serial file has not what the guest said')
    with open('/dev/full', 'wb') as nowhere:
        for flags in power_off, ['--help']:
            done = subprocess.run([context.mini_vmm, *flags], stdin=subprocess.DEVNULL, stdout=nowhere, stderr=subprocess.PIPE,
                                  timeout=60, check=False)
            expect(done.returncode == 3 and full.encode() in done.stderr, f'{flags}: into a full disk', done)

    # A trace that goes through a pipe, to be packed, say.
    fifo = context.path('fifo')
    os.mkfifo(fifo)
    with subprocess.Popen(['cat', fifo], stdout=subprocess.PIPE) as reader:
        until = time.monotonic() + 60
        writer = None
        while writer is None:
            try:
                writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)  # possible once cat reads
            except OSError:
                expect(time.monotonic() < until, 'cat does not open the pipe')
                time.sleep(0.01)
        try:
            result = context.vmm(*power_off, f'--trace={fifo}', timeout=60).expect_status(0)
        finally:
            os.close(writer)
        trace = reader.stdout.read()
    expect(len(json.loads(trace)) > 5 and result.err == '', 'not a trace', trace, result.err)

    # Closed standard descriptors are nobody's: not a disk's.
    disk = context.path('disk.img')
    with open(disk, 'wb') as file:
        file.truncate(1 << 20)
    for closed in ['>&-', '2>&-', '<&-', '<&- >&-', '<&- >&- 2>&-']:
        for flags, status in (power_off, 0), ([*power_off, '--memory=2M', '--cpus=999'], 2):
            done = subprocess.run(['sh', '-c', f'exec "$@" {closed}', 'sh', context.mini_vmm, f'--disk={disk}', *flags], timeout=60,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
            expect(done.returncode == status, f'{closed}: exit status {done.returncode}', done.stderr)
            with open(disk, 'rb') as file:
                expect(file.read() == bytes(1 << 20), f'{closed}: output went into the disk')

    # A signal ends the machine, and what was written is whole.
    trace = context.path('trace')
    with subprocess.Popen([context.mini_vmm, *guest(b'x', 'spin'), f'--disk={disk}', f'--trace={trace}'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        expect(process.stdout.read(1) == b'x', 'the guest does not start')
        process.terminate()
        _, err = process.communicate(timeout=60)
        expect(process.returncode == 128 + 15 and err == b'', 'SIGTERM', process.returncode, err)
    with open(trace, 'rb') as file:
        expect(len(json.load(file)) > 3, 'not a trace')


def ends_on_sigterm(process, within=10):
    """How many seconds it takes, and what was on standard error."""
    start = time.monotonic()
    process.terminate()
    try:
        _, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Failure(f'still there {within} s after SIGTERM') from None
    return time.monotonic() - start, (err or b'').decode()


@case
def unread_outputs(context):
    """Terminals, pipes and sockets that nobody reads, for the console, for messages and for the trace: they hold up nothing."""
    def write(name, contents):
        with open(context.path(name), 'wb') as file:
            file.write(contents)
        return context.path(name)
    flags = [context.mini_vmm, '--backend=software', '--memory=16M', '--cpus=1']
    flood, spin = write('flood', tiny_guest(b'x', 'flood')), write('spin', tiny_guest(b'x', 'spin'))
    hello = write('hello', tiny_guest(b'hello\n', 'power_off'))

    def unread(kind):
        if kind == 'terminal':
            return pty.openpty()
        if kind == 'pipe':
            return os.pipe()
        return [end.detach() for end in socket.socketpair()]

    def flood_of(kind, everything):
        reader, writer = unread(kind)
        before = fcntl.fcntl(writer, fcntl.F_GETFL)
        with subprocess.Popen([*flags, f'--kernel={flood}'], stdin=subprocess.DEVNULL, stdout=writer,
                              stderr=writer if everything else subprocess.PIPE) as process:
            time.sleep(0.5)
            expect(fcntl.fcntl(writer, fcntl.F_GETFL) == before, f'{kind}: its flags have changed for all who share it')
            seconds, err = ends_on_sigterm(process)
            expect(process.returncode == 128 + 15, f'{kind}: exit status {process.returncode}', err)
            expect(everything or err == 'mini_vmm: --serial=stdio: not all of it was taken by its reader\n', kind, err)
            print(f'  {kind}{", messages as well" if everything else ""}: {seconds:.2f} s', flush=True)
        os.close(reader)
        os.close(writer)

    # Late is not never: all of it arrives, although the guest has long powered off.
    def late():
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        text = bytes(i % 251 for i in range(40_000))
        kernel = write('text', tiny_guest(text, 'power_off'))
        with subprocess.Popen([*flags, f'--kernel={kernel}'], stdin=subprocess.DEVNULL, stdout=writer) as process:
            os.close(writer)
            got = b''
            time.sleep(1)
            while piece := os.read(reader, 4096):
                got += piece
                time.sleep(0.1)
            process.wait(60)
        os.close(reader)
        expect(process.returncode == 0 and got == text, f'exit status {process.returncode}, {len(got)} bytes')

    def trace():
        reader, writer = os.pipe()
        trace = f'--trace=/dev/fd/{writer}'
        with subprocess.Popen([*flags, f'--kernel={flood}', trace], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, pass_fds=[writer]) as process:
            time.sleep(2)
            with open(f'/proc/{process.pid}/status', encoding='ascii') as file:
                resident = int(re.search(r'VmRSS:\s+(\d+)', file.read())[1])
            seconds, err = ends_on_sigterm(process)
            print(f'  trace: {seconds:.2f} s, {resident} KiB', flush=True)
            expect(process.returncode == 128 + 15 and err == f'mini_vmm: {trace}: its reader does not read\n', 'trace', err)
            expect(resident < 100_000, f'{resident} KiB')
        with subprocess.Popen([*flags, f'--kernel={hello}', trace], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, pass_fds=[writer]) as process:
            _, err = process.communicate(timeout=60)
            expect(process.returncode == 3 and err == f'mini_vmm: {trace}: its reader does not read\n'.encode(), 'trace', err)
        os.close(reader)
        os.close(writer)

    # Input that nobody reads costs nothing, and does not end the program when it ends.
    def unread_input():
        with subprocess.Popen(['yes'], stdout=subprocess.PIPE) as typist:
            with subprocess.Popen([*flags, f'--kernel={write("halt", tiny_guest(b"x", "halt"))}'], stdin=typist.stdout,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                time.sleep(2)
                with open(f'/proc/{process.pid}/stat', encoding='ascii') as file:
                    fields = file.read().rsplit(')', 1)[1].split()
                used = (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
                ends_on_sigterm(process)
            typist.kill()
        print(f'  input: {used:.2f} s of processor time in 2', flush=True)
        expect(used < 1, f'{used} s of processor time')
        with subprocess.Popen([*flags, f'--kernel={spin}'], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE) as process:
            process.stdin.write(b'\x01x' * 100)
            process.stdin.close()
            time.sleep(0.5)
            expect(process.poll() is None, 'what is piped in is no escape')
            process.stdin = None
            ends_on_sigterm(process)

    # What is piped in arrives, whatever it is: here the port's other side sends it back.
    def echoes():
        echo = write('echo', tiny_guest(b'', 'echo'))
        data = os.urandom(20_000)
        plain = write('plain', data)
        for source in 'pipe', 'file':
            with open(plain, 'rb') as file, \
                 subprocess.Popen([*flags, f'--kernel={echo}'], stdin=file if source == 'file' else subprocess.PIPE,
                                  stdout=subprocess.PIPE) as process:
                if source == 'pipe':
                    threading.Thread(target=lambda: (process.stdin.write(data), process.stdin.flush()), daemon=True).start()
                got = process.stdout.read(len(data))
                process.kill()
            expect(got == data, f'{source}: {len(got)} bytes came back')

    # They mostly wait: all at the same time.
    parts = [late, trace, unread_input, echoes]
    parts += [functools.partial(flood_of, kind, everything) for kind in ('terminal', 'pipe', 'socket') for everything in (False, True)]
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        for part in [pool.submit(part) for part in parts]:
            part.result()


@case
def signals(context):
    """A signal ends the program at any time, even while a file does not answer; SIGUSR1 never does, nor what nohup has it ignore."""
    flags = [context.mini_vmm, '--backend=software', '--memory=16M', '--cpus=1']
    kernel = context.path('kernel')
    with open(kernel, 'wb') as file:
        file.write(tiny_guest(b'x', 'spin'))

    # The shell's children ignore what it does; and the power button is pressed before there is a machine.
    script = "trap '' HUP INT QUIT; kill -USR1 $$; exec \"$@\""
    def prepare():
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    with subprocess.Popen(['sh', '-c', script, 'sh', *flags, f'--kernel={kernel}'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, preexec_fn=prepare) as process:
        expect(process.stdout.read(1) == b'x', 'the guest does not start', process.poll())
        for number in signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1:
            process.send_signal(number)
        time.sleep(0.5)
        expect(process.poll() is None, f'exit status {process.returncode} by what is ignored')
        ends_on_sigterm(process)
        expect(process.returncode == 128 + 15, f'exit status {process.returncode}')
    for number in signal.SIGHUP, signal.SIGINT, signal.SIGQUIT:
        # A shell in the background may have had this very script ignore them.
        with subprocess.Popen([*flags, f'--kernel={kernel}'], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)) as process:
            expect(process.stdout.read(1) == b'x', 'the guest does not start')
            process.send_signal(number)
            expect(process.wait(60) == 128 + number, f'signal {number}: exit status {process.returncode}')

    if context.forgetful_file is None:
        return
    for flag in 'config', 'kernel', 'initrd', 'disk', 'serial', 'trace':
        with subprocess.Popen([context.forgetful_file, str(1 << 20)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              bufsize=1) as medium:
            path = medium.stdout.readline().strip()
            if not path.startswith('/'):
                print(f'  hanging files: skipped: {path}')
                return
            medium.stdin.write('hang\n')
            expect(medium.stdout.readline() == 'ok\n', 'hang')
            with subprocess.Popen([*flags, f'--kernel={kernel}', f'--{flag}={path}'], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                time.sleep(0.3)
                process.send_signal(signal.SIGUSR1)
                time.sleep(0.1)
                expect(process.poll() is None, f'{flag}: exit status {process.returncode}')
                ends_on_sigterm(process)
                expect(process.returncode == -15, f'{flag}: exit status {process.returncode}')
            medium.stdin.close()


@case
def limits(context):
    """Whatever the host refuses is one line and status 3, with as little of it as the program can start with."""
    kernel, disk = context.path('kernel'), context.path('disk.img')
    with open(kernel, 'wb') as file:
        file.write(tiny_guest(b'hello\n', 'power_off'))
    with open(disk, 'wb') as file:
        file.truncate(1 << 20)
    os.chmod(context.folder, 0o755)
    os.chmod(disk, 0o666)
    flags = [context.mini_vmm, f'--kernel={kernel}', '--backend=software', '--memory=16M', '--cpus=2', f'--disk={disk}',
             '--trace=/dev/null']
    nobody = 65534

    def run(what, limit, command):
        def prepare():
            resource.setrlimit(what, (limit, limit))
            if what == resource.RLIMIT_NPROC:  # it counts nothing for root
                os.setgid(nobody)
                os.setuid(nobody)
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, preexec_fn=prepare, timeout=60, check=False)

    sweeps = {resource.RLIMIT_AS: range(8 << 20, 256 << 20, 2 << 20), resource.RLIMIT_NOFILE: range(3, 24)}
    if os.getuid() == 0:
        sweeps[resource.RLIMIT_NPROC] = range(1, 16)
    for what, values in sweeps.items():
        if run(what, values[-1], [context.mini_vmm, '--help']).returncode != 0:
            continue  # a sanitizer's needs are beyond measure
        seen = {}
        starts = False
        for value in values:
            starts = starts or run(what, value, [context.mini_vmm, '--help']).returncode == 0
            if not starts:
                continue
            done = run(what, value, flags)
            seen.setdefault(done.returncode, set()).add(done.stderr.decode())
            if done.returncode == 0 and what == resource.RLIMIT_AS:
                break
        print('  ' + '  '.join(sorted(line for lines in seen.values() for line in lines if line)).rstrip(), flush=True)
        expect(set(seen) == {0, 3}, f'exit status {sorted(seen)}', seen)
        expect(seen[0] == {''}, 'not silent', seen[0])
        for line in seen[3]:
            expect(re.fullmatch(r'mini_vmm: [^\n]+\n', line), 'not one line', line)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--mini-vmm', required=True, metavar='FILE')
    parser.add_argument('--guest', required=True, metavar='DIR')
    parser.add_argument('--debian-disk', metavar='FILE', help='what scripts/debian-disk made; user_programs and processor need it')
    parser.add_argument('--forgetful-file', metavar='FILE', help='the program forgetful_file; only failing_disk needs it')
    parser.add_argument('--hvimg', metavar='FILE', help='the program hvimg; images and killed need it')
    parser.add_argument('--guest-agent', metavar='FILE', help='the program guest_agent; commands in guests need it')
    parser.add_argument('--shared', metavar='DIR', help='for the part of engines that runs on KVM')
    parser.add_argument('--backend', default='auto')
    parser.add_argument('cases', nargs='+', choices=sorted(CASES))
    arguments = parser.parse_args()
    failed = 0
    for name in arguments.cases:
        print(f'{name}:', flush=True)
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix='hvsdk-e2e.') as folder:
            try:
                CASES[name](Context(arguments, folder))
                print(f'  ok, {time.monotonic() - start:.1f} s', flush=True)
            except Failure as failure:
                failed += 1
                print(f'  FAILED: {failure}', flush=True)
            except Exception:  # pylint: disable=broad-except
                failed += 1
                print('  FAILED:\n' + traceback.format_exc(), flush=True)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()

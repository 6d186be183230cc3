#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of mini_vmm that give memory up and take more, and what the host has of it; and guests that share what there is.

memory.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...
"""

import json
import os
import re
import subprocess
import time

import e2e
from e2e import Running, case, check_kernel_log, expect

MIB = 1 << 20
CYCLES = int(os.environ.get('HVSDK_BALLOON_CYCLES', '2'))

# Fills the page cache each time that the guest has got its memory back, and ends after so many times. A disk that nobody has open
# any more has nothing in it.
FILL = r'''
exec 3</dev/sda
total() { sed -n "s/MemTotal: *\([0-9]*\) kB/\1/p" /proc/meminfo; }
full=$(total) low=1 n=0
while [ $n -lt %d ]; do
  if [ $(total) -gt $((full * 9 / 10)) ]; then
    [ $low = 0 ] || { low=0 n=$((n + 1)); dd if=/dev/sda of=/dev/null bs=1M 2>/dev/null; sleep 0.2; echo "filled $n"; }
  else
    low=1
  fi
  sleep 0.1
done
dmesg -r
'''


def memory_of(machine, size_bytes, at=None):
    """Where the guest's memory is in the machine's process, and how much of it is there."""
    resident, inside = 0, False
    with open(f'/proc/{machine.process.pid}/smaps', encoding='ascii', errors='replace') as file:
        for line in file:
            if head := re.match(r'([0-9a-f]+)-([0-9a-f]+) ', line):
                start, end = int(head[1], 16), int(head[2], 16)
                if at is None and end - start == size_bytes:
                    at = start
                inside = at is not None and at <= start and end <= at + size_bytes
            elif inside and (found := re.match(r'Rss: +(\d+) kB', line)):
                resident += int(found[1]) << 10
    expect(at is not None and resident != 0, 'no memory of the guest in the process, or no process', machine.process.poll())
    return at, resident


def assigned(machine):
    return json.loads(machine.ctl('status', '--json'))['memory']['assigned']


def check_log(machine):
    check_kernel_log(machine.text())
    expect('hv_balloon: Cold memory discard hint enabled' in machine.text(), 'no free page reporting', machine.text()[-4000:])


@case
def balloon(context):
    """A guest gives half of its memory up and gets it back, again and again, and the host has what the guest has; a state in the
    midst of it goes on so."""
    disk, state, half = context.path('disk.img'), context.path('state'), 384
    with open(disk, 'wb') as file:
        file.truncate(800 * MIB)
    flags = [*context.guest_flags(FILL % (CYCLES + 1), disks=1), '--cpus=2', '--memory=768M,min=320M', f'--disk={disk},readonly']
    seen = []

    def cycle(machine, number, at, least_full=0.9):
        machine.wait_for(f'^filled {number}$')
        at, full = memory_of(machine, 768 * MIB, at)
        machine.ctl('balloon', f'{half}M')
        expect(assigned(machine) == half, f'not {half} MiB', machine.ctl('status'))
        low = memory_of(machine, 768 * MIB, at)[1]
        seen.append((full // MIB, low // MIB))
        expect(full > least_full * 768 * MIB, f'{full // MIB} MiB of a full guest', seen)
        expect(low < 1.05 * half * MIB, f'the host still has {low // MIB} MiB', seen)
        return at

    with Running(context, flags, 'vm') as machine:
        machine.wait_for('^filled 1$')
        expect('is not between 320 and 768 MiB' in machine.ctl('balloon', '319M', status=2), 'less than the least')
        expect('is not between 320 and 768 MiB' in machine.ctl('balloon', '769M', status=2), 'more than there is')
        at = None
        for number in range(1, CYCLES // 2 + 1):
            at = cycle(machine, number, at)
            machine.ctl('balloon', '768M')
            expect(assigned(machine) == 768, 'not all of it', machine.ctl('status'))
        cycle(machine, CYCLES // 2 + 1, at)
        machine.ctl('save', state)
        machine.end(0)
    expect(os.stat(os.path.join(state, 'memory')).st_blocks * 512 < 1.05 * half * MIB, 'what was given up is in the state')
    with Running(context, [f'--restore={state}'], 'restored') as machine:
        machine.wait_for_socket()
        expect(assigned(machine) == half, 'forgotten', machine.ctl('status'))
        machine.ctl('balloon', '768M')
        at = memory_of_restored(machine)
        for number in range(CYCLES // 2 + 2, CYCLES + 1):
            # What it has not touched since is the state's file.
            cycle(machine, number, at, least_full=0.8)
            machine.ctl('balloon', '768M')
        machine.wait_for(f'^filled {CYCLES + 1}$')
        machine.end(0)
        check_log(machine)
    print('  MiB resident of 768, and of 384:', ', '.join(f'{full} {low}' for full, low in seen))


def memory_of_restored(machine):
    with open(f'/proc/{machine.process.pid}/maps', encoding='ascii', errors='replace') as file:
        return min(int(line.split('-')[0], 16) for line in file if line.rstrip().endswith('/memory'))


@case
def free_pages(context):
    """What the guest has used and frees, goes back by itself: but for what is free in pieces, as Linux tells of whole blocks of 2 MiB only
    (pageblock_order, mm/page_reporting.c)."""
    command = ('dd if=/dev/zero of=/tmp/file bs=1M count=200 2>/dev/null && echo full; sleep 3; rm /tmp/file; echo freed; '
               'sleep 32; dmesg -r')
    with Running(context, [*context.guest_flags(command), '--memory=512M'], 'vm') as machine:
        machine.wait_for('^full$')
        at, full = memory_of(machine, 512 * MIB)
        machine.wait_for('^freed$')
        end = time.monotonic() + 30
        while (freed := memory_of(machine, 512 * MIB, at)[1]) > full - 180 * MIB:
            expect(time.monotonic() < end and machine.process.poll() is None, f'{freed // MIB} of {full // MIB} MiB are left')
            time.sleep(0.2)
        print(f'  {full // MIB} MiB with 200 MiB in use, {freed // MIB} MiB without')
        machine.end(0)
        check_log(machine)


# What a distribution's udev does with new memory, and by `hold N` programs that together use N times 16 MiB, each from when there is room on.
USE = r"""
echo online >/sys/devices/system/memory/auto_online_blocks
total() { sed -n "s/MemTotal: *\([0-9]*\) kB/\1/p" /proc/meminfo; }
available() { sed -n "s/MemAvailable: *\([0-9]*\) kB/\1/p" /proc/meminfo; }
hold() {
  held=0
  while [ $held -lt $1 ]; do
    if [ $(available) -gt 32000 ]; then
      held=$((held + 1))
      # It has all of it before it writes.
      { dd if=/dev/zero bs=16M count=1 2>/dev/null | { head -c 1 >/dev/null; : >/run/held.$held; sleep 100000; }; } &
      while [ ! -e /run/held.$held ]; do sleep 0.05; done
      echo "holds $held"
    fi
    sleep 0.05
  done
}
let_go() { killall sleep; wait; rm -f /run/held.*; }
"""


def resident(machine):
    with open(f'/proc/{machine.process.pid}/status', encoding='ascii') as file:
        return int(re.search(r'VmRSS:\s+(\d+) kB', file.read())[1]) << 10


def come_to(machine, mib):
    """A guest on a slow host may answer later than it is waited for, and is taken at its word then."""
    done = subprocess.run([machine.context.mini_vmm, 'ctl', machine.socket, 'balloon', f'{mib}M'], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=120, check=False)
    expect(done.returncode == 0 or 'does not answer' in done.stderr, f'ctl balloon {mib}M', done.stderr)
    end = time.monotonic() + 120
    while assigned(machine) != mib:
        machine.expect_running(end, f'{mib} MiB')
        time.sleep(0.1)


@case
def growth(context):
    """A guest grows beyond what it began with, uses that, gives half of it up and has it back; it goes on so from a state, and has what
    it began with after a reset."""
    command = USE + r"""
echo "began with $(total)"; while [ $(total) -lt 600000 ]; do sleep 0.1; done
echo "grown to $(total)"; hold 30; echo full; while [ $(total) -lt 770000 ]; do sleep 0.1; done
let_go; echo "let go of $(total)"; while [ $(total) -gt 450000 ]; do sleep 0.1; done
echo "shrunk to $(total)"; while [ $(total) -lt 1000000 ]; do sleep 0.1; done
echo "grown again to $(total)"; hold 40; dmesg -r; echo "full again"; sleep 100000
"""
    state = context.path('state')
    flags = [*[flag for flag in context.guest_flags(command) if flag != '--no-reboot'], '--cpus=2', '--memory=256M,min=200M,max=1G']

    def mib(machine, what):
        machine.wait_for(f'^{what} [0-9]+$')
        return int(re.findall(f'^{what} ([0-9]+)$', machine.text(), re.M)[-1]) // 1024

    with Running(context, flags, 'vm') as machine:
        began = mib(machine, 'began with')
        expect('is not between 200 and 1024 MiB' in machine.ctl('balloon', '1025M', status=2), 'more than there may be')
        come_to(machine, 640)
        expect(assigned(machine) == 640, 'not 640 MiB', machine.ctl('status'))
        grown = mib(machine, 'grown to')
        expect(grown == began + 640 - 256, f'{began} MiB became {grown}')
        machine.wait_for('^full$')
        full = resident(machine)
        expect(full > 30 * 16 * MIB, f'{full // MIB} MiB are resident of more that is in use')
        machine.ctl('save', '--live', state)
        # What it begins anew with is the first memory alone, and it can grow from there again.
        machine.ctl('reset')
        machine.wait_for_count('began with', 2)
        expect(mib(machine, 'began with') == began and assigned(machine) == 256, 'added memory is still there', machine.ctl('status'))
        expect(resident(machine) < full - 300 * MIB, f'the host still has {resident(machine) // MIB} MiB')
        come_to(machine, 640)
        machine.wait_for_count('grown to', 2)
        machine.ctl('stop')
        machine.end(0)
    with Running(context, [f'--restore={state}'], 'restored') as machine:
        machine.wait_for_socket()
        status = machine.ctl('status')
        expect('memory     640 MiB' in status and '640 MiB assigned, may have 1024 MiB' in status, 'forgotten', status)
        come_to(machine, 800)
        expect(mib(machine, 'let go of') == began + 800 - 256, 'not 800 MiB', machine.text()[-1000:])
        come_to(machine, 400)
        mib(machine, 'shrunk to')
        low = resident(machine)
        expect(low < 1.05 * 400 * MIB + 100 * MIB, f'the host still has {low // MIB} MiB')
        come_to(machine, 1024)
        expect(mib(machine, 'grown again to') == began + 1024 - 256, 'not all of it', machine.text()[-1000:])
        machine.wait_for('^full again$')
        high = resident(machine)
        expect(high > 40 * 16 * MIB, f'{high // MIB} MiB are resident of more that is in use')
        check_kernel_log(machine.text())
        machine.ctl('stop')
        machine.end(0)
    print(f'  MiB resident: {full // MIB} of 640, {low // MIB} of 400, {high // MIB} of 1024')


@case
def balance(context):
    """Three guests that want half as much again as there is: none has less than its least, nor runs out of memory; and what one lets go of
    the others have."""
    total, first, least, most, count, overhead = 768, 192, 160, 512, 3, 96
    report = 'echo 0 >/sys/module/hv_balloon/parameters/pressure_report_delay; '
    greedy, modest = (report + USE + line for line in ('hold 24; sleep 100000', 'hold 24 & read -r line; kill $!; let_go; echo "let go"; sleep 100000'))
    lines = [next(flag for flag in context.guest_flags(command) if flag.startswith('--cmdline='))[10:] for command in (modest, greedy, greedy)]
    consoles = context.path('console')

    def text(guest):
        if not os.path.exists(f'{consoles}{guest}'):
            return ''
        with open(f'{consoles}{guest}', encoding='utf-8', errors='replace') as file:
            return file.read()

    def holds(guest):
        return max((int(n) for n in re.findall(r'holds (\d+)', text(guest))), default=0)

    program = [os.path.join(os.path.dirname(context.mini_vmm), 'balanced_guests'), f'{context.guest}/vmlinuz', f'{context.guest}/initrd.img', context.backend,
               *(str(mib) for mib in (total, first, least, most)), consoles, *lines]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 240
            has, needs, before, held, is_over = [], [], [], 0, False
            most_used = largest = 0
            least_had = [most] * count
            while not is_over:
                expect(time.monotonic() < end and process.poll() is None, 'no balance in time', has, needs, *(text(i)[-2000:] for i in range(count)))
                numbers = [int(n) for n in process.stdout.readline().split()]
                expect(len(numbers) == 2 * count, 'not all guests are there', numbers)
                was, has, needs = has, numbers[::2], numbers[1::2]
                most_used = max(most_used, sum(has))
                least_had = [min(pair) for pair in zip(least_had, has)]
                with open(f'/proc/{process.pid}/status', encoding='ascii') as file:
                    largest = max(largest, int(re.search(r'VmRSS:\s+(\d+) kB', file.read())[1]) // 1024)
                if before:
                    is_over = has[0] < before[0] - 32 and sum(has[1:]) > sum(before[1:]) + 32 and holds(1) + holds(2) >= held + 2
                elif was == has and sum(has) > 0.9 * total and min(needs) > first:
                    before, held = has, holds(1) + holds(2)
                    process.stdin.write('\n')
                    process.stdin.flush()
            expect(most_used <= total, f'{most_used} of {total} MiB')
            expect(min(least_had) >= least, 'less than the least', least_had)
            expect(largest <= total + count * overhead, f'{largest} MiB are resident')
            for guest in range(count):
                expect(not re.search(r'Out of memory|oom-kill|Killed', text(guest)), 'out of memory', text(guest)[-3000:])
            print(f'  MiB when all wanted more: {before}; after one had let go: {has}, needed {needs}; resident {largest} at most')
        finally:
            process.stdin.close()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
        expect(process.returncode == 0, f'exit status {process.returncode}')


@case
def no_balloon(context):
    """What is not there, and what makes no sense, is said in a line."""
    flags = context.guest_flags('echo begun; sleep 100000')
    with Running(context, [*flags, '--integration=heartbeat', '--memory=256M'], 'none') as machine:
        machine.wait_for('^begun$')
        expect('no such component' in machine.ctl('balloon', '128M', status=2), 'another error')
        expect('not a size' in machine.ctl('balloon', 'half', status=2), 'another error')
        expect('a size is needed' in machine.ctl('balloon', status=2), 'another error')
        expect('memory' not in json.loads(machine.ctl('status', '--json')), 'a status')
        machine.ctl('stop')
        machine.end(0)
    for flag, why in (('--memory=256M,min=257M', '--memory: min: 257 MiB is more than'),
                      ('--memory=256M,min=few', '--memory: min: "few" is not a size'),
                      ('--memory=256M,most=1G', '--memory: unknown option "most=1G"; there are min= and max='),
                      ('--memory=256M,max=255M', '--memory: max: 255 MiB is less than'),
                      ('--memory=256M,max=5T', '--memory: max: 5242880 MiB is more than 4 TiB'),
                      ('--memory=256M,max=', '--memory: max: "" is not a size')):
        bad = context.vmm('--kernel=x', flag).expect_status(2)
        expect(re.fullmatch(r'mini_vmm: [^\n]*\n', bad.err) and why in bad.err, 'not that line', bad.err)
    bad = context.vmm('--kernel=x', '--memory=256M,min=128M', '--integration=none').expect_status(2)
    expect(re.fullmatch(r'mini_vmm: --memory: min: is for machines with [^\n]*\n', bad.err), 'not one line', bad.err)
    bad = context.vmm('--kernel=x', '--memory=256M,max=512M', '--integration=none').expect_status(2)
    expect(re.fullmatch(r'mini_vmm: --memory: max: is for machines with [^\n]*\n', bad.err), 'not one line', bad.err)
    bad = context.vmm('--kernel=x', '--memory=256M,max=512M', '--deterministic').expect_status(2)
    expect(re.fullmatch(r'mini_vmm: --deterministic: [^\n]*\n', bad.err), 'not one line', bad.err)


if __name__ == '__main__':
    e2e.main()

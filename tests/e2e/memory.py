#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of mini_vmm that give memory up, and what the host has of it.

memory.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...
"""

import json
import os
import re
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
    """What the guest has used and frees, goes back by itself."""
    command = ('dd if=/dev/zero of=/tmp/file bs=1M count=200 2>/dev/null && echo full; sleep 3; rm /tmp/file; echo freed; '
               'sleep 32; dmesg -r')
    with Running(context, [*context.guest_flags(command), '--memory=512M'], 'vm') as machine:
        machine.wait_for('^full$')
        at, full = memory_of(machine, 512 * MIB)
        machine.wait_for('^freed$')
        end = time.monotonic() + 30
        while (freed := memory_of(machine, 512 * MIB, at)[1]) > full - 190 * MIB:
            expect(time.monotonic() < end and machine.process.poll() is None, f'{freed // MIB} of {full // MIB} MiB are left')
            time.sleep(0.2)
        print(f'  {full // MIB} MiB with 200 MiB in use, {freed // MIB} MiB without')
        machine.end(0)
        check_log(machine)


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
                      ('--memory=256M,most=1G', '--memory: unknown option "most=1G"')):
        bad = context.vmm('--kernel=x', flag).expect_status(2)
        expect(re.fullmatch(r'mini_vmm: [^\n]*\n', bad.err) and why in bad.err, 'not that line', bad.err)
    bad = context.vmm('--kernel=x', '--memory=256M,min=128M', '--integration=none').expect_status(2)
    expect(re.fullmatch(r'mini_vmm: --memory: min: is for machines with [^\n]*\n', bad.err), 'not one line', bad.err)


if __name__ == '__main__':
    e2e.main()

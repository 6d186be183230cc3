#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of mini_vmm and their integration components.

integration.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...

HVSDK_CLOCK_SECONDS is how long a guest stands still before its clock is looked at; 4 if it is not set.
"""

import json
import os
import re
import signal
import time

import e2e
from e2e import Running, case, check_kernel_log, expect

STILL_SECONDS = int(os.environ.get('HVSDK_CLOCK_SECONDS', '4'))

# What the guest's own time is, to the microsecond, for as long as it runs. It has no init that would take a request to power off.
CLOCK = r'''
echo "/bin/busybox poweroff -f" >/proc/sys/kernel/poweroff_cmd
clock() { while :; do adjtimex | sed -n "s/.*time.tv_sec: *//p;s/.*time.tv_usec: *//p" | tr "\n" " "; echo; sleep 0.2; done; }
'''


def difference(machine):
    """By how many seconds the guest's clock is ahead, by the next line that it writes."""
    length = len(machine.text())
    end = time.monotonic() + 60
    while True:
        now = time.time()
        found = re.search(r'^(\d+) (\d+) $', machine.text()[length:], re.M)
        if found:
            return int(found[1]) + int(found[2]) / 1e6 - now
        expect(time.monotonic() < end, 'no time', machine.text()[-1000:])
        time.sleep(0.02)


def wait_until_right(machine, seconds):
    """Until the clock is right, to what the way of a line from the guest takes on a busy host."""
    end = time.monotonic() + seconds
    while abs(off := difference(machine)) > 0.5:
        expect(time.monotonic() < end, f'the clock is {off} s wrong after {seconds} s')
    return seconds - (end - time.monotonic())


def contact(machine):
    return json.loads(machine.ctl('status', '--json'))['contact']


def wait_for_contact(machine, wanted, seconds=60):
    end = time.monotonic() + seconds
    while (now := contact(machine)) != wanted:
        expect(time.monotonic() < end, f'the heartbeat is {now}, not {wanted}')
        time.sleep(0.1)


@case
def integration(context):
    """The guest's clock follows the host's, whatever happens to either; it answers the heartbeat, and shuts down when it is asked to."""
    state = context.path('state')
    flags = context.guest_flags(CLOCK + 'clock & echo begun; sleep 100000', disks=0)
    with Running(context, [*flags, '--cpus=2', '--memory=256M'], 'vm') as machine:
        machine.wait_for('begun')
        wait_for_contact(machine, 'ok')
        print(f'  right after {wait_until_right(machine, 10):.1f} s')
        machine.ctl('pause')
        time.sleep(STILL_SECONDS)
        machine.ctl('resume')
        print(f'  right {wait_until_right(machine, 10):.1f} s after a pause')
        machine.process.send_signal(signal.SIGSTOP)
        time.sleep(STILL_SECONDS)
        machine.process.send_signal(signal.SIGCONT)
        print(f'  right {wait_until_right(machine, 10):.1f} s after a stop')
        machine.ctl('save', state)
        machine.end(0)
        expect(not re.search('lost', machine.text()), 'lost')
    time.sleep(STILL_SECONDS)
    with Running(context, [f'--restore={state}'], 'restored') as machine:
        print(f'  right {wait_until_right(machine, 10):.1f} s after a restore')
        wait_for_contact(machine, 'ok')
        machine.ctl('shutdown', '--reason=the end of the test')
        machine.end(0)
        expect('hv_utils: Shutdown request received' in machine.text() or 'reboot: Power down' in machine.text(), 'not shut down',
               machine.text()[-2000:])
        check_kernel_log(machine.text())


@case
def wrong_clock(context):
    """One that somebody sets wrong is right again; and stays wrong where the guest is left to itself."""
    for list_of, is_right in (('all', True), ('time-samples,shutdown', False)):
        flags = context.guest_flags(CLOCK + 'clock & sleep 2; date -s 2001-01-01 >/dev/null; echo wrong; sleep 100000', disks=0)
        with Running(context, [*flags, f'--integration={list_of}', '--memory=256M'], list_of) as machine:
            machine.wait_for('^wrong$')
            if is_right:
                print(f'  right after {wait_until_right(machine, 10):.1f} s')
                wait_for_contact(machine, 'ok')
            else:
                time.sleep(8)
                expect(difference(machine) < -1e8, 'set')
                expect(contact(machine) == 'none', 'a heartbeat')
            machine.ctl('shutdown')
            machine.end(0)


@case
def no_integration(context):
    """What is not there is said in a line."""
    flags = context.guest_flags('echo begun; ls /sys/bus/vmbus/devices; echo listed; sleep 100000', disks=0)
    with Running(context, [*flags, '--integration=none', '--memory=256M'], 'none') as machine:
        machine.wait_for('^listed$')
        expect(not re.search(r'[0-9a-f]{8}-', machine.text().split('begun')[1]), 'devices', machine.text())
        expect('no such component' in machine.ctl('shutdown', status=2), 'another error')
        machine.ctl('stop')
        machine.end(0)
    bad = context.vmm('--kernel=x', '--integration=heartbeat,fax').expect_status(2)
    expect(re.fullmatch(r'mini_vmm: --integration: "fax" is none of [^\n]*\n', bad.err), 'not one line', bad.err)


if __name__ == '__main__':
    e2e.main()

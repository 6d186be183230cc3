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
import subprocess
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


# One record of a pool: a key and a value, filled up with zeros (tools/hv/hv_kvp_daemon.c).
PUT_PAIR = r'''
put() { printf "%s" "$1"; head -c $((512 - ${#1})) /dev/zero; printf "%s" "$2"; head -c $((2048 - ${#2})) /dev/zero; }
'''


@case
def key_values(context):
    """Pairs go both ways through Linux' own daemon, and it says which addresses it has."""
    flags = context.guest_flags(PUT_PAIR + r'''
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
echo started
while ! [ -e /sys/bus/vmbus/drivers/hv_utils ]; do sleep 0.1; done
sleep 3
hv_kvp_daemon; until [ -e /var/lib/hyperv/.kvp_pool_4 ]; do sleep 0.2; done; put Greeting "good day" >>/var/lib/hyperv/.kvp_pool_1
echo begun
until tr -d "\\0" </var/lib/hyperv/.kvp_pool_0 | grep -q database; do sleep 0.2; done
first() { tr "\\0" "\n" | head -n 1; }
echo "$(head -c 512 /var/lib/hyperv/.kvp_pool_0 | first) is $(tail -c +513 /var/lib/hyperv/.kvp_pool_0 | first)"; killall -STOP hv_kvp_daemon; echo stopped; sleep 100000''', disks=0)
    with Running(context, [*flags, '--memory=256M', '--net=user'], 'vm') as machine:
        machine.wait_for('^started$')
        expect('service does not run yet' in machine.ctl('kvp', 'list', status=2), 'without a daemon')
        machine.wait_for('^begun$')
        end = time.monotonic() + 90
        # The driver speaks once it has its daemon.
        while subprocess.run([context.mini_vmm, 'ctl', machine.socket, 'kvp', 'list'], capture_output=True, check=False).returncode != 0:
            expect(time.monotonic() < end, 'no pairs', machine.text()[-2000:])
            time.sleep(0.5)
        expect(machine.ctl('kvp', 'get', 'Greeting', '--pool=guest') == 'good day\n', 'not what the guest says')
        auto = json.loads(machine.ctl('kvp', 'list', '--pool=auto', '--json'))['pairs']
        pairs = {pair['key']: pair['value'] for pair in auto}
        expect(pairs['OSName'] == 'Linux' and pairs['ProcessorArchitecture'] == 'x86_64' and '10.0.2.15' in pairs['NetworkAddressIPv4'],
               'not what the guest is', pairs)
        addresses = json.loads(machine.ctl('kvp', 'addresses', '--json'))['adapters']
        expect(len(addresses) == 1 and '10.0.2.15' in addresses[0]['addresses'] and '10.0.2.2' in addresses[0]['gateways'],
               'not its addresses', addresses)
        strange = 'żółw 🪨 \\ "'
        machine.ctl('kvp', 'set', strange, strange)
        expect(json.loads(machine.ctl('kvp', 'get', strange, '--json'))['pairs'][0]['value'] == strange, 'not what was set')
        machine.ctl('kvp', 'delete', strange)
        expect('none of that name' in machine.ctl('kvp', 'get', strange, status=2), 'still there')
        expect('longer than 255' in machine.ctl('kvp', 'set', 'k' * 256, '', status=2), 'too long')
        machine.ctl('kvp', 'set', 'k' * 254, 'v' * 1000)
        expect(machine.ctl('kvp', 'get', 'k' * 254) == 'v' * 1000 + '\n', 'not the longest')
        machine.ctl('kvp', 'delete', 'k' * 254)
        machine.ctl('kvp', 'set', 'Role', 'database')
        machine.wait_for('^Role is database$')
        machine.wait_for('^stopped$')
        begin = time.monotonic()
        expect('does not answer' in machine.ctl('kvp', 'get', 'Role', status=2), 'an answer')
        expect(time.monotonic() - begin < 20, 'too late')
        machine.ctl('stop')
        machine.end(0)
        check_kernel_log(machine.text())


@case
def file_copy(context):
    """A large file arrives whole; one whose sender goes away is taken back."""
    megabytes = int(os.environ.get('HVSDK_COPY_MIB', '64'))
    flags = context.guest_flags(r'''
hv_fcopy_daemon; sleep 1; echo begun
next() { until [ -e /tmp/next ]; do sleep 0.1; done; rm /tmp/next; }
next; sha256sum /tmp/new/folder/file; echo summed
next; ls -A /tmp/new/folder; echo listed; sleep 100000''', disks=0)
    source, next_step = context.path('file'), context.path('next')
    with open(source, 'wb') as file:
        for _ in range(megabytes):
            file.write(os.urandom(1 << 20))
    open(next_step, 'wb').close()
    with Running(context, [*flags, '--memory=512M'], 'vm') as machine:
        machine.wait_for('^begun$')
        expect('fails' in machine.ctl('copy', source, '/tmp/new/folder/', status=2), 'a folder that is not there')
        begin = time.monotonic()
        machine.ctl('copy', source, '/tmp/new/folder/', '--create-path')
        seconds = time.monotonic() - begin
        print(f'  {megabytes} MiB in {seconds:.1f} s, {megabytes / seconds:.1f} MiB/s')
        machine.ctl('copy', next_step, '/tmp/next')
        machine.wait_for('^summed$')
        expect(e2e.sha256(source) in machine.text(), 'not the same file', machine.text()[-1000:])
        expect('has it already' in machine.ctl('copy', source, '/tmp/new/folder/file', status=2), 'overwritten')
        expect('No such file' in machine.ctl('copy', source + 'x', '/tmp/x', status=2), 'no file')
        # Its name goes as it came.
        with subprocess.Popen([context.mini_vmm, 'ctl', machine.socket, 'copy', source, '/tmp/new/folder/gone']) as sender:
            time.sleep(1)
            expect(sender.poll() is None, 'sent already')
            sender.terminate()
        machine.ctl('copy', next_step, '/tmp/next')
        machine.wait_for('^listed$')
        expect(re.search(r'^summed\nfile\nlisted$', machine.text(), re.M), 'the other file is there', machine.text()[-1000:])
        machine.ctl('stop')
        machine.end(0)
        check_kernel_log(machine.text())


if __name__ == '__main__':
    e2e.main()

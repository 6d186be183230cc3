#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of mini_vmm and their integration components.

integration.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...

HVSDK_CLOCK_SECONDS is how long a guest stands still before its clock is looked at; 4 if it is not set. HVSDK_CLOCK_RUN is for how many seconds `clock`
looks at clocks; 30 if it is not set.
"""

import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time

import e2e
from e2e import Running, case, check_kernel_log, expect

RUN_SECONDS = int(os.environ.get('HVSDK_CLOCK_RUN', '30'))
STILL_SECONDS = int(os.environ.get('HVSDK_CLOCK_SECONDS', '4'))

# What the guest's own time is, to the microsecond, for as long as it runs. It has no init that would take a request to power off.
CLOCK = r'''
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
    """One that somebody sets wrong by an hour is right again; and stays wrong where the guest is left to itself."""
    turn = 'turn() { date -s @$(($(date +%s) + $1)) >/dev/null; echo "turned by $1"; }\n'
    for list_of, is_right in (('all', True), ('time-samples,shutdown', False)):
        flags = context.guest_flags(CLOCK + turn + 'clock & sleep 2; turn -3600; sleep 10; turn 3600; sleep 100000', disks=0)
        with Running(context, [*flags, f'--integration={list_of}', '--memory=256M'], list_of) as machine:
            machine.wait_for('^turned by -3600$')
            if is_right:
                print(f'  right after {wait_until_right(machine, 10):.1f} s')
                machine.wait_for('^turned by 3600$')
                print(f'  right after {wait_until_right(machine, 10):.1f} s')
                wait_for_contact(machine, 'ok')
            else:
                time.sleep(8)
                expect(difference(machine) < -3500, 'set')
                expect(contact(machine) == 'none', 'a heartbeat')
            machine.ctl('shutdown')
            machine.end(0)


# chrony disciplines the clock by the PTP clock that hv_utils makes of samples; elsewhere udev gives it that name.
CHRONY = r'''
for clock in /sys/class/ptp/ptp*; do [ "$(cat $clock/clock_name)" != hyperv ] || ln -s ${clock##*/} /dev/ptp_hyperv; done
echo "root:x:0:0::/:/bin/sh" >/etc/passwd; mkdir -p /var/lib/chrony; mkdir -m 700 /run/chrony
printf "%s\n" "refclock PHC /dev/ptp_hyperv poll 3 dpoll -2 offset 0" "makestep 1 3" "user root" "driftfile /var/lib/chrony/drift" "cmdport 0" >/etc/chrony.conf
chronyd -f /etc/chrony.conf || echo "no chronyd"
(sleep 50; chronyc -n sources; chronyc -n tracking; echo "told") &
'''


class GuestClock:
    """A guest's, as its program tells it over a Hyper-V socket."""

    def __init__(self, path):
        self.server, self.socket = socket.socket(socket.AF_UNIX), None
        self.server.bind(path)
        self.server.listen()
        self.server.settimeout(120)

    def wait(self):
        with self.server:
            self.socket, _ = self.server.accept()
        self.socket.settimeout(60)

    def difference(self):
        """By how many nanoseconds it is ahead, and how exact that is: half of the way there and back that took the least time, of many."""
        best = None
        for _ in range(50):
            begin = time.time_ns()
            self.socket.sendall(b'?')
            told = self.socket.recv(8, socket.MSG_WAITALL)
            end = time.time_ns()
            expect(len(told) == 8, 'the guest has gone')
            if best is None or end - begin < best[1]:
                best = int.from_bytes(told, 'little') - (begin + end) // 2, end - begin
        return best[0], best[1] // 2


@case
def clock(context):
    """Clocks of guests that are set, that are left alone after the beginning, and that chrony disciplines."""
    limits_ms = {'set': 20, 'alone': 20, 'chrony': 1}
    lists = {'set': 'all', 'alone': 'heartbeat,time-samples', 'chrony': 'heartbeat,time-samples'}
    worst, machines = {}, {}
    clocks = {name: GuestClock(context.path(f'{name}.v_2100')) for name in lists}
    with contextlib.ExitStack() as stack:
        for name, list_of in lists.items():
            command = (CHRONY if name == 'chrony' else '') + '/clock 2100; echo gone'
            flags = context.guest_flags(command, program='clock')
            path = context.path(f'{name}.v')
            machines[name] = stack.enter_context(Running(context, [*flags, f'--integration={list_of}', f'--sockets={path}', '--memory=256M'], name))
        for guest in clocks.values():
            guest.wait()
        # What chrony needs until it knows how fast the clock runs.
        machines['chrony'].wait_for('^told$', 120)
        expect(re.search(r'^#\* PHC0', machines['chrony'].text(), re.M), 'chrony follows another clock, or none', machines['chrony'].text())
        end, samples, unclear = time.monotonic() + RUN_SECONDS, 0, 0
        while time.monotonic() < end:
            for name, guest in clocks.items():
                off, error = guest.difference()
                # A host that is too busy to tell has another try.
                if error > limits_ms[name] * 1e6 / 2:
                    unclear += 1
                    continue
                samples += 1
                if abs(off) > abs(worst.get(name, (0, 0))[0]):
                    worst[name] = off, error
            time.sleep(1)
        shown = ', '.join(f'{name} {off / 1e6:+.3f} ms (within {error / 1e6:.3f})' for name, (off, error) in worst.items())
        print(f'  at most, in {RUN_SECONDS} s and {samples} samples, {unclear} of them unclear: {shown}')
        expect(samples > 2 * unclear, 'the host is too busy', samples, unclear)
        for name, (off, error) in worst.items():
            expect(abs(off) - error <= limits_ms[name] * 1e6, f'{name}: {off / 1e6} ms')
        for machine in machines.values():
            machine.ctl('stop')
            machine.end(0)


@case
def hang(context):
    """The heartbeat of a guest whose processors do nothing any more is lost, and there again when they do."""
    # No time for others: neither the part of a second that older kernels leave them, nor the server of Linux 6.12 that has some for them.
    command = ('echo -1 >/proc/sys/kernel/sched_rt_runtime_us; mount -t debugfs none /sys/kernel/debug; '
               'for file in /sys/kernel/debug/sched/fair_server/cpu*/runtime; do [ -e $file ] && echo 0 >$file; done; while :; do echo tick; sleep 0.2; done & '
               'sleep 2; echo begun; /hang 16 && echo "gone on"; sleep 100000')
    flags = [flag.replace('loglevel=5', 'loglevel=5 threadirqs nowatchdog rcupdate.rcu_cpu_stall_suppress=1')
             for flag in context.guest_flags(command, program='hang')]
    with Running(context, [*flags, '--cpus=2', '--memory=256M'], 'vm') as machine:
        machine.wait_for_socket()
        events = subprocess.Popen([context.mini_vmm, 'ctl', machine.socket, 'events', '--json'], stdout=subprocess.PIPE, text=True)
        machine.wait_for('^begun$')
        begin = time.monotonic()
        wait_for_contact(machine, 'lost', 20)
        lost = time.monotonic() - begin
        length = len(machine.text())
        time.sleep(1)
        expect(len(machine.text()) == length and 'gone on' not in machine.text(), 'the guest goes on', machine.text()[-500:])
        wait_for_contact(machine, 'ok', 30)
        print(f'  lost after {lost:.1f} s, there again after {time.monotonic() - begin:.1f} s')
        machine.wait_for('^gone on$')
        machine.ctl('stop')
        machine.end(0)
        told = [json.loads(line) for line in events.communicate(timeout=10)[0].splitlines()]
        contacts = [event['details']['state'] for event in told if event['name'] == 'guest-contact']
        expect(contacts == ['ok', 'lost', 'ok'], 'other events', told)


@case
def no_integration(context):
    """What is not there is said in a line."""
    flags = context.guest_flags('echo begun; ls /sys/bus/vmbus/devices; echo listed; sleep 100000', disks=0)
    with Running(context, [*flags, '--integration=none', '--memory=256M'], 'none') as machine:
        machine.wait_for('^listed$')
        expect(not re.search(r'[0-9a-f]{8}-', machine.text().split('begun')[1]), 'devices', machine.text())
        expect('no such component' in machine.ctl('shutdown', status=2), 'another error')
        expect('one of --restart and --hibernate' in machine.ctl('shutdown', '--restart', '--hibernate', status=2), 'another error')
        machine.ctl('stop')
        machine.end(0)
    bad = context.vmm('--kernel=x', '--integration=heartbeat,fax').expect_status(2)
    expect(re.fullmatch(r'mini_vmm: --integration: "fax" is none of [^\n]*\n', bad.err), 'not one line', bad.err)


# One record of a pool: a key and a value, filled up with zeros (tools/hv/hv_kvp_daemon.c).
PUT_PAIR = r'''
put() { printf "%s" "$1"; head -c $((512 - ${#1})) /dev/zero; printf "%s" "$2"; head -c $((2048 - ${#2})) /dev/zero; }
'''


# What sets addresses in a guest with Debian's daemon, which has no script for that of its own: the daemon tells it a file of settings.
SET_ADDRESSES = r'''
mkdir -p /usr/libexec/hypervkvpd
cat >/usr/libexec/hypervkvpd/hv_set_ifconfig <<"END"
#!/bin/sh
. $1
cp $1 /run/told
[ $BOOTPROTO = none ] || exit 0
ip addr flush dev $DEVICE
ip addr add $IPADDR0/$NETMASK0 dev $DEVICE; ip addr add $IPADDR1/$NETMASK1 dev $DEVICE
ip addr add $IPV6ADDR$IPV6NETMASK dev $DEVICE; ip route add default via $GATEWAY
echo "nameserver $DNS1" >/etc/resolv.conf; echo "nameserver $DNS2" >>/etc/resolv.conf
END
cat >/usr/libexec/hypervkvpd/hv_get_dns_info <<"END"
#!/bin/sh
sed -n "s/nameserver //p" /etc/resolv.conf
END
chmod +x /usr/libexec/hypervkvpd/*
'''

# At the ends of the ranges of UTF-8 and UTF-16.
CHARACTERS = '\x01\x7f\x80\u07ff\u0800\ud7ff\ue000\ufeff\ufffd\uffff\U00010000\U0010ffff'


def many_pairs(count):
    """Pairs of all lengths, up to the longest that Linux keeps and lists."""
    def fill(text, character, most_units, most_bytes):
        units, size = 1 + (character > '\uffff'), len(character.encode())
        return text + character * min((most_units - len(text)) // units, (most_bytes - len(text)) // size)

    pairs = {}
    for i in range(count):
        character = CHARACTERS[i % len(CHARACTERS)]
        length = (254, 511) if i % 2 == 0 else (3 + i, 511)
        pairs[fill(f'{i:03}', character, *length)] = fill('', character, 1022 * i // (count - 1), 2047)
    return pairs


def set_addresses(machine):
    device = json.loads(machine.ctl('status', '--json'))['networks'][0]
    expect(re.fullmatch(r'[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', device['id']), 'no id', device)
    given = ['10.0.2.77', '10.7.7.7', 'fd00::77']
    machine.ctl('kvp', 'set-addresses', 'network/0', '10.0.2.77/24', '10.7.7.7/20', 'fd00::77/64', '--gateway=10.0.2.2', '--name-server=10.0.2.3',
                '--name-server=fd00::3')
    for name in (None, 'network/0', device['mac'].lower(), device['mac'].upper()):
        found = json.loads(machine.ctl('kvp', 'addresses', *([name] if name else []), '--json'))['adapters'][0]
        masks = dict(zip(found['addresses'], found['subnets']))
        expect([masks.get(address) for address in given] == ['255.255.255.0', '255.255.240.0', '/64'], 'not the addresses', found)
        expect(found['gateways'][0] == '10.0.2.2' and found['name_servers'] == ['10.0.2.3', 'fd00:0000:0000:0000:0000:0000:0000:0003'],
               'not what was set', found)
    expect('"10.0.2.77" is no address with the length' in machine.ctl('kvp', 'set-addresses', 'network/0', '10.0.2.77', status=2), 'no prefix')
    expect('is no address with' in machine.ctl('kvp', 'set-addresses', 'network/0', '10.0.2.77/33', status=2), 'a long prefix')
    expect('"x" is no address' in machine.ctl('kvp', 'set-addresses', 'network/0', '10.0.2.7/8', '--gateway=x', status=2), 'a gateway')
    expect('by DHCP' in machine.ctl('kvp', 'set-addresses', 'network/0', 'dhcp', '--gateway=10.0.2.2', status=2), 'DHCP and a gateway')
    expect('an adapter is needed' in machine.ctl('kvp', 'set-addresses', 'network/0', status=2), 'no address')
    expect('network/9: the guest has none' in machine.ctl('kvp', 'set-addresses', 'network/9', 'dhcp', status=2), 'another adapter')
    machine.ctl('kvp', 'set-addresses', device['mac'], 'dhcp')
    machine.ctl('kvp', 'set', 'Done', 'addresses')


@case
def key_values(context):
    """Pairs go both ways through Linux' own daemon, and it says which addresses it has, and takes others."""
    flags = context.guest_flags(PUT_PAIR + SET_ADDRESSES + r'''
ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up; ip route add default via 10.0.2.2
echo started
while ! [ -e /sys/bus/vmbus/drivers/hv_utils ]; do sleep 0.1; done
sleep 3
hv_kvp_daemon; until [ -e /var/lib/hyperv/.kvp_pool_4 ]; do sleep 0.2; done; put Greeting "good day" >>/var/lib/hyperv/.kvp_pool_1
echo begun
until tr -d "\\0" </var/lib/hyperv/.kvp_pool_0 | grep -q addresses; do sleep 0.2; done
ping -c 1 -W 5 10.0.2.2 >/dev/null && echo "reached it"; cat /run/told
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
        set_addresses(machine)
        machine.wait_for('^reached it$')
        machine.wait_for('^BOOTPROTO=dhcp$')
        machine.ctl('kvp', 'delete', 'Done')
        begin = time.monotonic()
        pairs = many_pairs(100)
        for pool in ('external', 'auto-external'):
            for key, value in pairs.items():
                machine.ctl('kvp', 'set', key, value, f'--pool={pool}')
            found = json.loads(machine.ctl('kvp', 'list', f'--pool={pool}', '--json'))['pairs']
            expect({pair['key']: pair['value'] for pair in found} == pairs, 'not what was set', pool)
        # More than one reply holds.
        found = json.loads(machine.ctl('kvp', 'list', '--json'))['pairs']
        expect(sum(pair['pool'] in ('external', 'auto-external') for pair in found) == 2 * len(pairs), 'not all of them', len(found))
        expect(len({(pair['pool'], pair['key']) for pair in found}) == len(found), 'some twice', len(found))
        for pool in ('external', 'auto-external'):
            for key in pairs:
                machine.ctl('kvp', 'delete', key, f'--pool={pool}')
        print(f'  100 pairs in each of two pools in {time.monotonic() - begin:.1f} s')
        strange = 'żółw 🪨 \\ "'
        machine.ctl('kvp', 'set', strange, strange)
        expect(json.loads(machine.ctl('kvp', 'get', strange, '--json'))['pairs'][0]['value'] == strange, 'not what was set')
        machine.ctl('kvp', 'delete', strange)
        expect('none of that name' in machine.ctl('kvp', 'get', strange, status=2), 'still there')
        expect('longer than 255' in machine.ctl('kvp', 'set', 'k' * 256, '', status=2), 'too long')
        machine.ctl('kvp', 'set', 'k' * 254, 'v' * 1000)
        expect(machine.ctl('kvp', 'get', 'k' * 254) == 'v' * 1000 + '\n', 'not the longest')
        machine.ctl('kvp', 'delete', 'k' * 254)
        machine.ctl('pause')
        for words in (('kvp', 'list'), ('shutdown',), ('copy', __file__, '/tmp/x')):
            expect('the machine is paused' in machine.ctl(*words, status=2), 'of a paused machine', words)
        machine.ctl('resume')
        machine.ctl('kvp', 'set', 'Role', 'database')
        machine.wait_for('^Role is database$')
        machine.wait_for('^stopped$')
        begin = time.monotonic()
        expect('does not answer' in machine.ctl('kvp', 'get', 'Role', status=2), 'an answer')
        expect(time.monotonic() - begin < 20, 'too late')
        machine.ctl('stop')
        machine.end(0)
        check_kernel_log(machine.text())


# Linux' service for files: from 6.10 on it reads its channel's rings itself.
FILE_SERVICE = '$(which hv_fcopy_daemon hv_fcopy_uio_daemon)'


@case
def file_copy(context):
    """A large file arrives whole; one whose sender goes away is taken back, if the guest's service knows how, and written anew."""
    megabytes = int(os.environ.get('HVSDK_COPY_MIB', '64'))
    flags = context.guest_flags(FILE_SERVICE + r'''; sleep 1; ls /bin/hv_fcopy_*; echo begun
next() { until [ -e /tmp/next ]; do sleep 0.1; done; rm /tmp/next; }
next; sha256sum /tmp/new/folder/file; echo summed
next; ls -A /tmp/new/folder; echo listed
next; sha256sum /tmp/new/folder/gone; sleep 100000''', disks=0)
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
        left = 'file +gone' if 'hv_fcopy_uio_daemon' in machine.text() else 'file'
        expect(re.search(rf'^summed\n{left}\nlisted$', machine.text(), re.M), 'other files are there', machine.text()[-1000:])
        machine.ctl('copy', source, '/tmp/new/folder/gone', '--overwrite')
        machine.ctl('copy', next_step, '/tmp/next')
        machine.wait_for(f'^{e2e.sha256(source)}  /tmp/new/folder/gone$')
        with subprocess.Popen([context.mini_vmm, 'ctl', machine.socket, 'copy', source, '/tmp/never'], stderr=subprocess.PIPE, text=True) as sender:
            time.sleep(0.5)
            machine.ctl('reset')
            expect(sender.communicate(timeout=60)[1].endswith('copy: the machine was reset\n') and sender.returncode == 3, 'not told of a reset')
        machine.ctl('stop')
        machine.end(0)
        check_kernel_log(machine.text())


# Writes to two file systems without end, and says how far it has come. A number is on the second disk after it is on the first.
WRITERS = r'''
echo 0 >/proc/sys/kernel/printk
next() { until [ -e /tmp/next ]; do sleep 0.1; done; rm /tmp/next; }
mkdir /data
for d in sda sdb; do  # which may be found in any order
  case $(readlink -f /sys/block/$d/device) in *:0) folder=/mnt ;; *:1) folder=/data ;; esac
  mkfs.ext4 -q /dev/$d && mount -t ext4 /dev/$d $folder || echo failed
done
write() {
  i=0
  while i=$((i + 1)); do
    dd if=/dev/urandom of=/mnt/file$((i % 8)) bs=64k count=4 2>/dev/null
    echo $i >/mnt/new; mv /mnt/new /mnt/number; echo $i >/data/new; mv /data/new /data/number
    [ $((i % 10)) != 0 ] || echo "at $i"
  done
}
''' + FILE_SERVICE + r'''; write & echo begun
next; hv_vss_daemon; echo serves
'''

# A service that freezes one file system, answers that it has, and is gone (drivers/hv/hv_snapshot.c, vss_on_msg and vss_handle_handshake).
DYING_SERVICE = r'''
next; killall -KILL hv_vss_daemon; sleep 0.5
exec 3<>/dev/vmbus/hv_vss
printf "\201\0\0\0\0\0\0\0\0\0\0\0" >&3; dd bs=4 count=1 <&3 >/dev/null 2>&1; echo registered
dd bs=12 count=1 <&3 >/dev/null 2>&1; printf "\0\0\0\0\0\0\0\0\0\0\0\0" >&3
dd bs=12 count=1 <&3 >/dev/null 2>&1; fsfreeze --freeze /mnt; printf "\0\0\0\0\0\0\0\0\0\0\0\0" >&3; exec 3>&-; echo "gone"
next; hv_vss_daemon; echo "serves again"; sleep 100000
'''


@case
def snapshots(context):
    """Disks whose images are put aside while the guest writes: what is kept is whole, and the guest goes on, whatever becomes of its service."""
    def hvimg(*arguments):
        done = subprocess.run([context.hvimg, *arguments], check=False, capture_output=True, text=True)
        expect(done.returncode == 0, f'hvimg {" ".join(arguments)}', done.stdout + done.stderr)

    def check(image, is_clean=True):
        """The number that the file system has."""
        raw = context.path('checked.raw')
        hvimg('convert', '--format=raw', '--from=vhdx', image, raw)
        found = subprocess.run(['e2fsck', '-fn', raw], check=False, capture_output=True, text=True)
        expect(('skipping journal recovery' in found.stdout + found.stderr) == (not is_clean), f'{image}: its journal', found.stdout, found.stderr)
        expect(found.returncode == 0 or not is_clean, f'{image} is damaged', found.stdout)
        number = subprocess.run(['debugfs', '-R', 'cat number', raw], check=False, capture_output=True, text=True).stdout
        os.unlink(raw)
        return int(number) if is_clean else None

    def at(machine):
        return max(map(int, re.findall(r'^at (\d+)$', machine.text(), re.M)), default=0)

    def goes_on(machine):
        begin, end = at(machine), time.monotonic() + 60
        while at(machine) < begin + 20:
            machine.expect_running(end, 'another number')
            time.sleep(0.1)

    images = [context.path(f'disk{i}.vhdx') for i in range(2)]
    for image in images:
        hvimg('create', '--size=64M', image)
    next_step, folder, raw = context.path('next'), context.path('new'), context.path('raw.img')
    open(next_step, 'wb').close()
    flags = context.guest_flags(WRITERS + DYING_SERVICE, disks=2)
    state = context.path('state')
    with Running(context, [*flags, *(f'--disk={image}' for image in images), '--memory=256M'], 'vm') as machine:
        def step():
            end = time.monotonic() + 30
            while subprocess.run([context.mini_vmm, 'ctl', machine.socket, 'copy', next_step, '/tmp/next'], capture_output=True, check=False).returncode != 0:
                expect(time.monotonic() < end, 'no copy')
                time.sleep(0.2)

        machine.wait_for('^begun$')
        goes_on(machine)
        expect('hv_vss_daemon' in machine.ctl('snapshot', folder, status=2), 'without a service')
        expect(not os.path.exists(folder), 'a folder')
        # As after a loss of power, there is no need for one.
        machine.ctl('snapshot', '--crash-consistent', context.path('crash'))
        check(images[0], is_clean=False)
        goes_on(machine)
        step()
        machine.wait_for('^serves$')
        end = time.monotonic() + 60
        # Its service registers by and by.
        while (taken := subprocess.run([context.mini_vmm, 'ctl', machine.socket, 'snapshot', '--json', folder], capture_output=True, text=True,
                                       check=False)).returncode != 0:
            expect('hv_vss_daemon' in taken.stderr and time.monotonic() < end, 'no snapshot', taken.stderr)
            time.sleep(0.2)
        result = json.loads(taken.stdout)
        expect([disk['device'] for disk in result['disks']] == ['storage/0', 'storage/1'] and 'thaw_error' in result, 'disks', result)
        print(f'  the guest stood still for {int(result["stood_still_ns"]) / 1e6:.0f} ms, its file systems for {int(result["frozen_ns"]) / 1e6:.0f} ms')
        crash = [context.path(f'crash/storage-{i}.avhdx') for i in range(2)]
        kept = [e2e.sha256(image) for image in crash]
        first, second = map(check, crash)
        expect(second <= first <= second + 1 and first > 0, 'the disks are of different moments', first, second)
        goes_on(machine)
        expect([e2e.sha256(image) for image in crash] == kept, 'a snapshot was written')
        expect('File exists' in machine.ctl('snapshot', folder, status=2), 'the same folder')
        goes_on(machine)
        # Nothing is made where something is in the way.
        with open(raw, 'wb') as file:
            file.truncate(1 << 20)
        device = machine.ctl('attach', f'--disk={raw}').strip()
        expect('"hvimg convert"' in machine.ctl('snapshot', context.path('other'), status=2), 'a raw disk')
        machine.ctl('detach', device)
        machine.ctl('pause')
        expect('is paused' in machine.ctl('snapshot', context.path('other'), status=2), 'of a paused machine')
        machine.ctl('resume')
        expect('a directory is needed' in machine.ctl('snapshot', status=2), 'no directory')
        expect('from 1 to 900' in machine.ctl('snapshot', '--freeze-within=901', folder, status=2), 'too long')
        expect(not os.path.exists(context.path('other')), 'something is left')
        # The service dies with the file systems frozen. They are thawed when it is there again.
        step()
        machine.wait_for('^registered$')
        last = context.path('last')
        expect('it was taken, but the guest does not thaw' in machine.ctl('snapshot', last, status=2), 'thawed')
        machine.wait_for('^gone$')
        second_images = [f'{folder}/storage-{i}.avhdx' for i in range(2)]
        check(second_images[0])
        step()
        machine.wait_for('^serves again$')
        goes_on(machine)
        # What is saved goes on with the newest images.
        machine.ctl('save', state)
        machine.end(0)
    with Running(context, [f'--restore={state}'], 'restored') as machine:
        machine.wait_for_socket()
        disks = json.loads(machine.ctl('status', '--json'))['disks']
        expect([base64.b64decode(disk['path']).decode() for disk in disks] == [f'{last}/storage-{i}.avhdx' for i in range(2)], 'other disks', disks)
        goes_on(machine)
        machine.ctl('snapshot', context.path('restored'))
        first, second = (check(f'{last}/storage-{i}.avhdx') for i in range(2))
        expect(second <= first <= second + 1 and first > 0, 'the disks are of different moments', first, second)
        goes_on(machine)
        machine.ctl('stop')
        machine.end(0)
        check_kernel_log(machine.text())


if __name__ == '__main__':
    e2e.main()

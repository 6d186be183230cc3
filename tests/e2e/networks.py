#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of mini_vmm and their networks: on the loopback of a network namespace of the test's own, where that is allowed.

networks.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...

HVSDK_NETWORK_MIB is what is carried each way; if it is not set 16 between host and guest, and 4 between guests, of which each
makes digests (1 in a nested machine). HVSDK_STREAM_SECONDS is how long each of the cases of `streams` takes (1), HVSDK_STREAMS how many there are at once (4).
"""

import base64
import ctypes
import fcntl
import functools
import hashlib
import http.server
import os
import random
import re
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time
import urllib.request
import zlib

import e2e
from e2e import Failure, Running, case, check_kernel_log, expect

MIB = int(os.environ.get('HVSDK_NETWORK_MIB', '16'))
# In a nested machine two guests share one emulated processor.
IS_NESTED = bool(os.environ.get('HVSDK_NESTED'))
GUESTS_MIB = int(os.environ.get('HVSDK_NETWORK_MIB', '1' if IS_NESTED else '4'))
STREAM_SECONDS = int(os.environ.get('HVSDK_STREAM_SECONDS', '1'))
STREAMS = [int(count) for count in os.environ.get('HVSDK_STREAMS', '4').split()]
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

# The guest's own: an address by DHCP, and what it prints of the lease.
DHCP = r'''
cat >/tmp/lease <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
ip route add default via "$router"
echo "nameserver $dns" >/etc/resolv.conf
echo "lease $ip $router $dns"
END
chmod +x /tmp/lease
ip link set lo up; ip link set eth0 up
udhcpc -i eth0 -n -q -t 20 -T 1 -s /tmp/lease 2>/dev/null
'''


def own_network(function):
    """Runs a case on a thread in a network and mount namespace of its own, with a name server for the host in it. Where that is not
    allowed it runs on the host's loopback, and context.has_dns is false."""

    @functools.wraps(function)
    def run(context):
        failures = []

        def body():
            context.has_dns = enter_own_network(context)
            if not context.has_dns:
                print('  no namespaces of its own are allowed: on the loopback of the host, without a name server')
            try:
                function(context)
            except BaseException as failure:  # pylint: disable=broad-except
                failures.append(failure)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
    return run


def enter_own_network(context):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        IFF_UP, SIOCSIFFLAGS = 1, 0x8914
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack('16sh14x', b'lo', IFF_UP))
    resolv = context.path('resolv.conf')
    with open(resolv, 'w', encoding='ascii') as file:
        file.write('nameserver 127.0.0.1\n')
    if libc.mount(b'none', b'/', None, MS_REC | MS_PRIVATE, None) != 0:
        return False
    if libc.mount(resolv.encode(), os.path.realpath('/etc/resolv.conf').encode(), None, MS_BIND, None) != 0:
        return False
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(('127.0.0.1', 53))
    threading.Thread(target=serve_names, args=(server,), daemon=True).start()
    return True


def serve_names(server):
    """Every name has the address 192.0.2.7 (RFC 1035)."""
    while True:
        query, client = server.recvfrom(512)
        end = query.index(b'\0', 12) + 5
        wants_address = query[end - 4:end - 2] == b'\0\1'
        reply = query[:2] + b'\x81\x80\0\1' + (b'\0\1' if wants_address else b'\0\0') + b'\0\0\0\0' + query[12:end]
        if wants_address:
            reply += b'\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4' + bytes([192, 0, 2, 7])
        server.sendto(reply, client)


def random_bytes(seed, mib):
    source = random.Random(seed)
    return b''.join(source.randbytes(1 << 20) for _ in range(mib))


class Servers:
    """On the loopback, or another address: a web server that gives `blob`, and one that keeps the digests of what it is sent."""

    def __init__(self, blob, address='127.0.0.1'):
        class Web(http.server.BaseHTTPRequestHandler):
            def do_GET(self):  # pylint: disable=invalid-name
                self.send_response(200)
                self.send_header('Content-Length', str(len(blob)))
                self.end_headers()
                self.wfile.write(blob)

            def log_message(self, *_):  # pylint: disable=arguments-differ
                pass

        digests = self.digests = []

        class Upload(socketserver.StreamRequestHandler):
            def handle(self):
                digest = hashlib.sha256()
                while block := self.rfile.read(1 << 16):
                    digest.update(block)
                digests.append(digest.hexdigest())

        self.servers = [http.server.ThreadingHTTPServer((address, 0), Web),
                        socketserver.ThreadingTCPServer((address, 0), Upload)]
        self.web_port, self.upload_port = (server.server_address[1] for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for server in self.servers:
            server.shutdown()
            server.server_close()


def free_port():
    with socket.socket() as any_socket:
        any_socket.bind(('127.0.0.1', 0))
        return any_socket.getsockname()[1]


def fetch(url, seconds=120):
    """What a server in a guest gives, once it is there."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as reply:
                return reply.read()
        except OSError as error:
            if time.monotonic() > end:
                raise Failure(f'{url}: {error}') from None
            time.sleep(0.1)


def frames_of(path):
    """The frames of a pcap file with nanoseconds."""
    with open(path, 'rb') as file:
        data = file.read()
    magic, major, minor, _, _, _, link = struct.unpack_from('<IHHIIII', data)
    expect((magic, major, minor, link) == (0xA1B23C4D, 2, 4, 1), 'not the header of a pcap file', data[:24].hex())
    frames, at = [], 24
    while at < len(data):
        _, nanoseconds, kept, size = struct.unpack_from('<IIII', data, at)
        expect(nanoseconds < 10**9 and kept == size and at + 16 + size <= len(data), f'a record at {at} is damaged')
        frames.append(data[at + 16:at + 16 + size])
        at += 16 + size
    return frames


def is_tcp(frame):
    return frame[12:14] == b'\x08\x00' and frame[23] == 6


def has_right_checksums(frame):
    """Whether IPv4's and TCP's are (RFC 1071)."""
    def is_right(data):
        total = sum(struct.unpack(f'>{(len(data) + 1) // 2}H', data + b'\0' * (len(data) % 2)))
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        return total == 0xFFFF

    header = (frame[14] & 15) * 4
    segment = frame[14 + header:14 + struct.unpack('>H', frame[16:18])[0]]
    return is_right(frame[14:14 + header]) and is_right(frame[26:34] + struct.pack('>HH', 6, len(segment)) + segment)


@case
@own_network
def user_network(context):
    """NAT in user space: DHCP, DNS, a download and an upload, a host forward into the guest."""
    blob = random_bytes(1, MIB)
    digest, forward, pcap = hashlib.sha256(blob).hexdigest(), free_port(), context.path('net.pcap')
    with Servers(blob) as server:
        url = f'http://10.0.2.2:{server.web_port}/'
        command = DHCP + f'''
        nslookup host.hvsdk.test 2>&1 | tail -n 4
        wget -q -O /tmp/blob {url} && echo "digest $(sha256sum </tmp/blob)"
        nc 10.0.2.2 {server.upload_port} </tmp/blob && echo uploaded
        mkdir /tmp/www && echo "from the guest" >/tmp/www/text && httpd -p 80 -h /tmp/www && mv /tmp/blob /tmp/www/
        nc -l -p 81 >/dev/null
        dmesg -r'''
        flags = [*context.guest_flags(command), '--cpus=2', f'--memory={max(512, 4 * MIB)}M',
                 f'--net=user,host-loopback=on,hostfwd=tcp:127.0.0.1:{forward}-:80,hostfwd=tcp:127.0.0.1:{forward + 1}-:81,pcap={pcap}']
        with Running(context, flags) as vm:
            vm.wait_for(r'^digest', 600)
            vm.wait_for(r'^uploaded', 600)
            traced = context.path('traced.pcap')
            vm.ctl('trace', 'on', traced, '--device=network/0', status=2)
            vm.ctl('trace', 'off', '--device=network/0')
            for words in (['on', context.path('missing/net')], ['on', f'{context.guest}/vmlinuz'], ['on', pcap], ['off']):
                vm.ctl('trace', *words, '--device=network/0', status=2)
            vm.ctl('trace', 'on', traced, '--device=network/1', status=2)
            vm.ctl('trace', 'on', '--device=network/0', status=2)
            for again in (False, True):
                if again:
                    vm.ctl('trace', 'off', '--device=network/0')
                vm.ctl('trace', 'on', traced, '--device=network/0')
                vm.ctl('trace', 'on', traced, '--device=network/0', status=2)
                expect(fetch(f'http://127.0.0.1:{forward}/text') == b'from the guest\n', 'another text')
                expect('traced' in vm.ctl('status'), 'not in the status', vm.ctl('status'))
            vm.ctl('trace', 'off', '--device=network/0')
            expect('traced' not in vm.ctl('status'), 'still in the status', vm.ctl('status'))
            said = [frame for frame in frames_of(traced) if is_tcp(frame)]
            expect(any(b'GET /text' in frame for frame in said) and any(b'from the guest\n' in frame for frame in said),
                   'the conversation is not in the trace', len(said))
            if shutil.which('tcpdump') is not None:
                lines = subprocess.run(['tcpdump', '-nr', traced], capture_output=True, text=True, check=True).stdout.splitlines()
                expect(len(lines) == len(frames_of(traced)), 'tcpdump reads other frames', lines)
            back = fetch(f'http://127.0.0.1:{forward}/blob')
            expect(back == blob, f'{len(back)} bytes came back from the guest, and not those that it was given')
            carried = [int(count) for count in re.findall(r'^hvsdk_network_bytes_total.*} (\d+)$', vm.ctl('stats', '--prometheus'), re.M)]
            expect(len(carried) == 2 and min(carried) > len(blob), 'it counts other bytes than it carried', carried)
            with socket.create_connection(('127.0.0.1', forward + 1)):
                pass
            vm.end(0)
            text = vm.text()
        expect('lease 10.0.2.15 10.0.2.2 10.0.2.3' in text, 'no lease', text)
        expect(not context.has_dns or '192.0.2.7' in text, 'no name found', text)
        expect(f'digest {digest}' in text, 'another digest', text)
        expect(server.digests == [digest], 'another digest of what was sent', server.digests)
        check_kernel_log(text)
    frames = frames_of(pcap)
    arrived = [frame for frame in frames if is_tcp(frame) and frame[34:36] == struct.pack('>H', server.web_port)]
    expect(len(arrived) > 100, f'{len(frames)} frames are recorded, {len(arrived)} from the server')
    for frame in arrived[:500]:
        expect(has_right_checksums(frame), 'a wrong checksum', frame.hex())


@case
@own_network
def closed_network(context):
    """The host's loopback is closed to a guest, and a restricted one reaches nobody."""
    with Servers(b'secret') as server:
        for options in ('user', 'user,restrict,host-loopback=on'):
            tries = ''.join(f'timeout 3 wget -q -O - http://{host}:{server.web_port}/ ; echo "[{host}] $?"\n'
                            for host in ('10.0.2.2', '127.0.0.1', '0.0.0.0'))
            # The guest's own loopback is not in the way.
            command = DHCP + 'ip addr flush dev lo; ip link set lo down; ip route add 127.0.0.0/8 via 10.0.2.2; ' + tries
            result = context.run(command, f'--net={options}').expect_status(0)
            expect('lease 10.0.2.15' in result.out, 'no lease', result.out)
            expect('secret' not in result.out, f'{options}: the guest reaches the host', result.out)
            expect(len(re.findall(r'^\[[0-9.]+\] [1-9]', result.out, re.M)) == 3, 'a download ended well', result.out)


def packed(command):
    """A long command, for the kernel's command line has no room for it as it is."""
    text = base64.b64encode(zlib.compress(command.encode(), level=9, wbits=31)).decode()
    return f'sh -c "$(echo {text} | base64 -d | gunzip)"'


SERVE = f'''
ip link set lo up; ip link set eth0 mtu MTU; ip link set eth0 up; ip addr add 192.168.5.1/24 dev eth0
mkdir /tmp/www; head -c {GUESTS_MIB << 20} /dev/urandom >/tmp/www/blob; echo "served $(sha256sum </tmp/www/blob)"
httpd -p 80 -h /tmp/www
nc -l -p 81 >/tmp/back; echo "back $(sha256sum </tmp/back)"
dmesg -r'''
ASK = '''
ip link set lo up; ip link set eth0 mtu MTU; ip link set eth0 up; ip addr add 192.168.5.2/24 dev eth0
until ping -c 1 -W 1 192.168.5.1 >/dev/null; do sleep 0.2; done
ping -c 3 -i 0.2 -s $((MTU - 28)) 192.168.5.1 | grep transmitted
until wget -q -O /tmp/blob http://192.168.5.1/blob; do sleep 0.2; done
echo "fetched $(sha256sum </tmp/blob)"
nc 192.168.5.1 81 </tmp/blob
dmesg -r'''


def check_talk(text):
    digests = dict(re.findall(r'^(served|fetched|back) ([0-9a-f]{64})', text, re.M))
    expect(len(digests) == 3 and len(set(digests.values())) == 1, 'digests differ', text)
    expect('3 packets received' in text, 'not all answers', text)
    check_kernel_log(text)


def talk(context, first, second, mtu=1500):
    """Two guests: the first serves a file, the second fetches it and sends it back."""
    serve, ask = (command.replace('MTU', str(mtu)) for command in (SERVE, ASK))
    with Running(context, [*context.guest_flags(serve), f'--net={first},mtu={mtu}', '--cpus=1'], 'first') as server, \
            Running(context, [*context.guest_flags(ask), f'--net={second},mtu={mtu}', '--cpus=1'], 'second') as client:
        for machine in (client, server):
            try:
                machine.process.wait(timeout=900 if IS_NESTED else 300)
            except subprocess.TimeoutExpired:
                raise Failure('no end in time', server.text()[-2000:], client.text()[-2000:]) from None
        check_talk(server.text() + client.text())
        client.end(0)
        server.end(0)


@case
def one_process(context):
    """Two guests in one process, on a switch with long packets."""
    commands = [next(flag[10:] for flag in context.guest_flags(command.replace('MTU', '9000')) if flag.startswith('--cmdline='))
                for command in (SERVE, ASK)]
    consoles = [context.path('serve.log'), context.path('ask.log')]
    program = os.path.join(os.path.dirname(context.mini_vmm), 'two_guests')
    done = subprocess.run([program, f'{context.guest}/vmlinuz', f'{context.guest}/initrd.img', context.backend, '9000',
                           commands[0], consoles[0], commands[1], consoles[1]], capture_output=True, text=True, timeout=400, check=False)
    text = ''
    for console in consoles:
        with open(console, encoding='utf-8', errors='replace') as file:
            text += file.read().replace('\r\n', '\n')
    expect(done.returncode == 0, f'exit status {done.returncode}', done.stderr, text[-4000:])
    check_talk(text)


@case
@own_network
def tap_network(context):
    """A TAP device of a network namespace of the test's own: offloads and long packets reach the host's network, and come from there."""
    if not context.has_dns or not os.access('/dev/net/tun', os.R_OK | os.W_OK):
        print('  skipped: no network namespace, or no /dev/net/tun')
        return
    blob = random_bytes(4, MIB)
    digest = hashlib.sha256(blob).hexdigest()
    subprocess.run(['ip', 'tuntap', 'add', 'tap0', 'mode', 'tap', 'multi_queue', 'vnet_hdr'], check=True)
    subprocess.run(['ip', 'link', 'set', 'tap0', 'mtu', '9000', 'up'], check=True)
    subprocess.run(['ip', 'addr', 'add', '192.168.7.1/24', 'dev', 'tap0'], check=True)
    with Servers(blob, '192.168.7.1') as servers:
        command = f'''
        ip link set lo up; ip link set eth0 mtu 9000; ip link set eth0 up; ip addr add 192.168.7.2/24 dev eth0
        ping -c 3 -i 0.2 -s 8972 192.168.7.1 | grep transmitted
        wget -q -O /tmp/blob http://192.168.7.1:{servers.web_port}/ && echo "digest $(sha256sum </tmp/blob)"
        nc 192.168.7.1 {servers.upload_port} </tmp/blob && echo uploaded
        dmesg -r'''
        result = context.run(command, '--net=tap,device=tap0,queues=2,mtu=9000', '--cpus=2', f'--memory={max(512, 4 * MIB)}M').expect_status(0)
        expect('3 packets received' in result.out, 'not all answers', result.out)
        expect(f'digest {digest}' in result.out, 'another digest', result.out)
        expect(servers.digests == [digest], 'another digest of what was sent', servers.digests)
        check_kernel_log(result.out.split('HVSDK-EXIT')[0])


@case
@own_network
def streams(context):
    """TCP streams of which every byte is known, in small and large writes, both ways over a TAP device, the adapter's queues on threads of
    their own: all bytes arrive, and no stream stands still for long."""
    if not context.has_dns or not os.access('/dev/net/tun', os.R_OK | os.W_OK):
        print('  skipped: no network namespace, or no /dev/net/tun')
        return
    longest_allowed = 60 if IS_NESTED else 20
    subprocess.run(['ip', 'tuntap', 'add', 'tap0', 'mode', 'tap', 'multi_queue', 'vnet_hdr'], check=True)
    subprocess.run(['ip', 'link', 'set', 'tap0', 'up'], check=True)
    subprocess.run(['ip', 'addr', 'add', '192.168.7.1/24', 'dev', 'tap0'], check=True)
    context.program('streams')
    cells = [(way, count, size) for count in STREAMS for size in (128, 131072) for way in ('to', 'from')]
    command = 'ip link set lo up; ip link set eth0 up; ip addr add 192.168.7.2/24 dev eth0; echo\n' + ''.join(
        f'echo "[{way} {count} {size}]"; /streams {way} 192.168.7.1 5201 {count} {size} {STREAM_SECONDS} || echo "FAILED"\n'
        for way, count, size in cells) + 'echo "[end]"; dmesg -r'
    log = context.path('served')
    with open(log, 'w', encoding='ascii') as served:
        server = subprocess.Popen([context.path('streams'), 'serve', '192.168.7.1', '5201'], stdout=served, stderr=served)
    served_by = {}
    try:
        flags = [*context.guest_flags(packed(command), program='streams'), '--net=tap,device=tap0,queues=2', '--cpus=2', '--io-threads=1']
        with Running(context, flags) as machine:
            machine.wait_for(r'^\[to', 120)
            tasks = f'/proc/{machine.process.pid}/task'
            threads = sorted(open(f'{tasks}/{task}/comm', encoding='ascii').read().strip() for task in os.listdir(tasks))
            expect('io0' in threads, 'no thread of I/O', threads)
            # What the host has received by the time that the next begins.
            for number, cell in enumerate(cells):
                following = cells[number + 1] if number + 1 < len(cells) else None
                mark = r'^\[' + (' '.join(map(str, following)) if following else 'end') + r'\]'
                machine.wait_for(mark, 120 + 3 * STREAM_SECONDS)
                with open(log, encoding='ascii') as served:
                    served_by[cell] = served.read()
            machine.process.wait(timeout=120)
            text = machine.text()
            machine.end(0)
    finally:
        server.kill()
        server.wait()
    expect('FAILED' not in text, 'a stream failed', text[-8000:])
    total, longest, before = 0, 0.0, ''
    for cell, after in served_by.items():
        way, count, size = cell
        part = re.search(rf'^\[{way} {count} {size}\]$(.*?)^\[(?:to|from|end)', text, re.M | re.S)[1] if way == 'from' else after[len(before):]
        before = after
        ended = re.findall(r'^stream: (\d+) bytes, at most ([0-9.]+) s without any, (.*)$', part, re.M)
        expect(len(ended) == count and all(how == 'all right' for _, _, how in ended), f'{cell}: not all streams', part)
        carried, gap = sum(int(size) for size, _, _ in ended), max(float(gap) for _, gap, _ in ended)
        print(f'    {way} the host, {count} streams, {size} bytes a write: {carried / STREAM_SECONDS / 1e6:.2f} MB/s, at most {gap:.2f} s without any')
        expect(gap < longest_allowed, f'{cell}: a stream stood still for {gap} s', part)
        total, longest = total + carried, max(longest, gap)
    check_kernel_log(text.split('[end]')[1].split('HVSDK-EXIT')[0])
    print(f'  {len(cells)} times {STREAM_SECONDS} s, {total / 1e6:.0f} MB, no byte lost, at most {longest:.2f} s without any')


@case
def socket_network(context):
    """Two machines over a Unix socket, as a stream and as datagrams."""
    path = context.path('lan')
    talk(context, f'socket,path={path},listen', f'socket,path={path}')
    one, other = context.path('one'), context.path('other')
    talk(context, f'socket,path={other},local={one}', f'socket,path={one},local={other}')


@case
@own_network
def qemu_network(context):
    """QEMU at the other end of a socket: its own network in user space gives the guest an address and answers it."""
    if shutil.which('qemu-system-x86_64') is None:
        print('  skipped: no QEMU here')
        return
    path, one, other = context.path('lan'), context.path('one'), context.path('other')
    for ours, theirs in ((f'socket,path={path}', f'stream,id=s,server=on,addr.type=unix,addr.path={path}'),
                         (f'socket,path={other},local={one}',
                          f'dgram,id=s,local.type=unix,local.path={other},remote.type=unix,remote.path={one}')):
        qemu = subprocess.Popen(['qemu-system-x86_64', '-machine', 'none', '-nodefaults', '-display', 'none',
                                 '-netdev', 'user,id=u,restrict=on', '-netdev', 'hubport,id=a,hubid=0,netdev=u',
                                 '-netdev', theirs, '-netdev', 'hubport,id=b,hubid=0,netdev=s'],
                                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            result = context.run(DHCP + 'ping -c 3 -i 0.2 -s 1400 10.0.2.2', f'--net={ours}', '--cpus=1').expect_status(0)
            expect('lease 10.0.2.15' in result.out, 'no lease', result.out, qemu.poll())
            expect('3 packets received' in result.out, 'not all answers', result.out)
        finally:
            qemu.kill()
            qemu.wait()


@case
@own_network
def saved_network(context):
    """A guest that is saved and restored goes on with its adapter, its address and a new port."""
    blob = random.Random(2).randbytes(1 << 20)
    with Servers(blob) as servers:
        command = DHCP + f'''
        while [ -e /sys/class/net/eth0 ]; do
          timeout 3 wget -q -O /tmp/got http://10.0.2.2:{servers.web_port}/ && sha256sum </tmp/got || echo closed; sleep 0.1
        done
        echo "no adapter"; sleep 1000'''
        flags = [*context.guest_flags(command), '--net=user,host-loopback=on', '--cpus=1', '--memory=256M']
        line = f'{hashlib.sha256(blob).hexdigest()}  -'
        state = context.path('state')
        with Running(context, flags, 'before') as vm:
            vm.wait_for(f'lease 10.0.2.15.*{line}')
            vm.ctl('save', state)
            vm.end(0)
        restore = [f'--restore={state}', f'--backend={context.backend}']
        with Running(context, restore, 'after') as vm:
            vm.wait_for(f'{line}.*{line}')
            vm.ctl('stop')
        # Plugged into something else, which then is what later states have, and left out.
        with Running(context, [*restore, '--net=network/0=user,restrict'], 'restricted') as vm:
            vm.wait_for('closed.*closed')
            expect(line not in vm.text(), 'a restricted guest reaches the host', vm.text())
            vm.ctl('save', context.path('restricted'))
        with Running(context, [f'--restore={context.path("restricted")}', '--net=network/0=user,host-loopback=on,name=open'], 'open') as vm:
            vm.wait_for(f'{line}.*{line}')
            expect('open: user' in vm.ctl('status'), 'another name', vm.ctl('status'))
            vm.ctl('stop')
        with Running(context, [*restore, '--net=network/0=none'], 'without') as vm:
            vm.wait_for('no adapter')
            expect('network/' not in vm.ctl('status'), 'it has the adapter', vm.ctl('status'))
            vm.ctl('stop')
            vm.end(0)
        missing = context.path('missing/lan')
        for flag, error in [('--net=user', '--net: '), ('--net=network/1=user', '--net: '), ('--net=network/0=wifi', '--net: "wifi"'),
                            ('--net=network/0=user,mac=02:00:00:00:00:01', '--net: mac'),
                            (f'--net=network/0=socket,path={missing},listen', '--net=network/0: path: '),
                            (f'--net=network/0=user,hostfwd=tcp:127.0.0.1:{servers.web_port}-:80', '--net=network/0: hostfwd: ')]:
            refused = context.vmm(*restore, flag, timeout=60).expect_status(2)
            expect(re.fullmatch(r'mini_vmm: [^\n]+\n', refused.err) and error in refused.err, f'{flag}: not one line', refused.err)


@case
def saved_streams(context):
    """Saved and restored in the middle of a download, of a dd and of a stream on its own switch: TCP connections over a socket, whose
    other end is another machine, and over a switch survive, and all ends right."""
    path, moved, image, state = (context.path(name) for name in ('lan', 'moved', 'disk.img', 'state'))
    with open(image, 'wb') as file:
        file.truncate(8 << 20)
    slow = r'''
    make_source() {  # of $1 times 64 KiB
      mkdir -p /tmp/www/cgi-bin; head -c $((65536 * $1)) /dev/urandom >/tmp/source; echo "source $(sha256sum </tmp/source)"
      cat >/tmp/www/cgi-bin/slow <<END
#!/bin/sh
printf 'Content-Type: application/octet-stream\r\nContent-Length: $((65536 * $1))\r\n\r\n'
i=0; while [ \$i -lt $1 ]; do dd if=/tmp/source bs=64k skip=\$i count=1 2>/dev/null; i=\$((i + 1)); sleep 0.1; done
END
      chmod +x /tmp/www/cgi-bin/slow
    }
    ip link set lo up'''
    serve = slow + r'''
    ip link set eth0 up; ip addr add 192.168.5.1/24 dev eth0
    make_source 96; httpd -p 80 -h /tmp/www; echo serving; sleep 1000'''
    ask = slow + r'''
    unshare -n sleep 1000 & other=$!
    sleep 0.3; ip link set eth1 netns $other
    in_other() { nsenter -t $other -n "$@"; }
    ip link set eth0 up; ip addr add 192.168.5.2/24 dev eth0
    in_other ip link set eth1 up; in_other ip addr add 192.168.6.1/24 dev eth1
    ip link set eth2 up; ip addr add 192.168.6.2/24 dev eth2
    for d in /sys/block/sd*; do d=${d##*/}; done
    make_source 64
    until ping -c 1 -W 1 192.168.5.1 >/dev/null; do sleep 0.2; done
    (wget -q -O /tmp/got http://192.168.5.1/cgi-bin/slow; echo "fetch ends $?" >/tmp/fetched) &
    in_other httpd -p 80 -h /tmp/www
    (wget -q -O /tmp/streamed http://192.168.6.1/cgi-bin/slow; echo "stream ends $?" >/tmp/stream) &
    until [ -s /tmp/got ] && [ -s /tmp/streamed ]; do sleep 0.1; done
    echo "in the middle"
    until [ -e /tmp/fetched ] && [ -e /tmp/stream ]; do dd if=/tmp/source of=/dev/$d bs=4k oflag=direct 2>/dev/null; echo "written $?"; done
    cat /tmp/fetched /tmp/stream; dd if=/tmp/source of=/dev/$d bs=4k conv=fsync 2>/dev/null
    echo "got $(sha256sum </tmp/got)"; echo "streamed $(sha256sum </tmp/streamed)"; echo "disk $(head -c 4194304 /dev/$d | sha256sum)"
    dmesg -r'''
    with Running(context, [*context.guest_flags(serve), f'--net=socket,path={path},listen', '--cpus=1', '--memory=256M'], 'server') as server:
        server.wait_for('^serving$')
        flags = [*context.guest_flags(packed(ask), disks=1), f'--net=socket,path={path}', '--net=switch', '--net=switch', f'--disk={image}', '--cpus=2',
                 '--io-threads=1']
        with Running(context, flags, 'before') as vm:
            vm.wait_for('^in the middle$.*^written 0$', 120)
            vm.ctl('save', state)
            vm.end(0)
            text = vm.text()
        expect('fetched' not in text and 'ends' not in text, 'not in the middle', text)
        os.symlink(path, moved)
        with Running(context, [f'--restore={state}', f'--net=network/0=socket,path={moved}'], 'after') as vm:
            vm.process.wait(timeout=240)
            text += vm.text()
            vm.end(0)
        digests = dict(re.findall(r'^(source|got|streamed|disk) ([0-9a-f]{64})', text, re.M))
        served = re.search(r'^source ([0-9a-f]{64})', server.text(), re.M)[1]
        server.ctl('stop')
    expect('fetch ends 0' in text and 'stream ends 0' in text, 'a connection ended', text)
    expect(len(digests) == 4 and digests['got'] == served, 'another download', text)
    expect(digests['streamed'] == digests['disk'] == digests['source'], 'another stream, or another disk', text)
    with open(image, 'rb') as file:
        expect(hashlib.sha256(file.read(4 << 20)).hexdigest() == digests['source'], 'the image holds something else')
    check_kernel_log(text)


@case
def switch_network(context):
    """Two adapters of one machine on a switch, each in a network namespace of the guest's, and one in another VLAN."""
    command = f'''
    ip link set lo up
    unshare -n sleep 1000 & other=$!
    sleep 0.3
    ip link set eth1 netns $other
    in_other() {{ nsenter -t $other -n "$@"; }}
    ip link set eth0 up; ip addr add 192.168.5.1/24 dev eth0
    in_other ip link set eth1 up; in_other ip addr add 192.168.5.2/24 dev eth1
    ip link set eth2 up; ip addr add 192.168.6.1/24 dev eth2
    mkdir /tmp/www; head -c {GUESTS_MIB << 20} /dev/urandom >/tmp/www/blob; echo "served $(sha256sum </tmp/www/blob)"
    in_other httpd -p 80 -h /tmp/www
    ping -c 3 -i 0.2 -W 2 192.168.5.2 | grep transmitted
    wget -q -O /tmp/blob http://192.168.5.2/blob; echo "fetched $(sha256sum </tmp/blob)"
    ping -c 1 -W 1 -I eth2 192.168.5.2 | grep transmitted
    dmesg -r'''
    result = context.run(command, '--net=switch,vlan=5', '--net=switch,vlan=5', '--net=switch,vlan=6').expect_status(0)
    digests = dict(re.findall(r'^(served|fetched) ([0-9a-f]{64})', result.out, re.M))
    expect(len(digests) == 2 and digests['served'] == digests['fetched'], 'digests differ', result.out)
    expect('3 packets received' in result.out and '0 packets received' in result.out, 'not the answers', result.out)
    check_kernel_log(result.out.split('HVSDK-EXIT')[0])


@case
@own_network
def hot_plug_network(context):
    """Adapters come and go while the guest runs: in use, many in turn, in the middle of a stream, and paused."""
    rounds = 3 if IS_NESTED else 8
    command = r'''
    up() { while :; do for n in /sys/class/net/eth*; do [ -e $n ] && n=${n##*/} && ip link set $n up && return; done; sleep 0.05; done; }
    gone() { while [ -e /sys/class/net/$n ]; do sleep 0.05; done; }
    dmesg -n 1; ip link set lo up; echo ready
    for i in $(seq ROUNDS); do
      up; ip addr add 10.0.2.15/24 dev $n
      until timeout 5 wget -q -O /tmp/blob http://10.0.2.2:PORT/; do sleep 0.1; done
      echo "round $i $(sha256sum </tmp/blob) $(cat /sys/class/net/$n/address) <$(cat /sys/class/net/$n/ifalias)>"; gone; echo "gone $i"
    done
    up; ip addr add 10.0.2.15/24 dev $n
    cat /dev/zero | nc 10.0.2.2 SINK >/dev/null 2>&1 & echo busy; gone; kill %1; echo ended
    up; ip addr add 10.0.2.15/24 dev $n; echo paused; gone; echo "out of a pause"
    dmesg -r
    echo done; sleep 1000'''.replace('ROUNDS', str(rounds))
    blob = random.Random(3).randbytes(1 << 20)
    digest = hashlib.sha256(blob).hexdigest()
    with Servers(blob) as servers, socket.create_server(('127.0.0.1', 0)) as sink:
        received = [0]

        def swallow():
            connection = sink.accept()[0]
            while data := connection.recv(1 << 16):
                received[0] += len(data)

        threading.Thread(target=swallow, daemon=True).start()
        command = command.replace('PORT', str(servers.web_port)).replace('SINK', str(sink.getsockname()[1]))
        with Running(context, [*context.guest_flags(command), '--cpus=2', '--io-threads=1', '--memory=256M']) as machine:
            machine.wait_for('^ready$')
            for words, error in [(['--net=nothing'], 'none of user'), (['--net=tap'], 'tap'), (['--net=user,mac=01:00:00:00:00:01'], 'group'),
                                 (['--net=socket,fd=0'], 'fd'), (['--net=user', '--net=user'], '--net=user'),
                                 ([f'--net=user,pcap={context.guest}/vmlinuz'], 'the same file as --kernel='),
                                 (['--net=user,mtu=900'], 'mtu: 900 is not between 1280 and 9000'),
                                 (['--net=user,name=network/1'], 'number')]:
                expect(error in machine.ctl('attach', *words, status=2), f'attach {words}')
            expect('there is no' in machine.ctl('detach', 'network/0', status=2), 'detached')
            descriptors = []
            for number in range(1, rounds + 1):
                device = machine.ctl('attach', f'--net=user,host-loopback=on,name=n{number}').strip()
                expect(device == f'network/{(number - 1) % 8}', 'another place', device)
                machine.wait_for(f'^round {number} ')
                status = machine.ctl('status')
                mac, alias = re.search(f'^round {number} {digest}  - ([0-9a-f:]+) <(.*)>$', machine.text(), re.M).groups()
                expect(alias == f'n{number}', 'the guest knows no name', alias)
                expect(re.search(f'^{device} +n{number}: user, {mac}, link up; guest: NVSP 6.1, MTU 1500, 2 channels, up$', status, re.M),
                       'status', status)
                expect(f'device="{device}",direction="receive",name="n{number}"' in machine.ctl('stats', '--prometheus'), 'no counts')
                machine.ctl('detach', f'n{number}')
                machine.wait_for(f'^gone {number}$')
                descriptors.append(len(os.listdir(f'/proc/{machine.process.pid}/fd')))
            expect(max(descriptors) <= descriptors[0] + 1, 'descriptors grow', descriptors)

            device = machine.ctl('attach', '--net=user,host-loopback=on').strip()
            machine.wait_for('^busy$')
            end = time.monotonic() + 60
            while received[0] < 1 << 20:
                expect(time.monotonic() < end, 'nothing is sent', received, machine.text()[-2000:])
                time.sleep(0.1)
            begin = time.monotonic()
            machine.ctl('detach', device)
            print(f'  a busy adapter is gone after {time.monotonic() - begin:.1f} s')
            machine.wait_for('^ended$')

            # Until it runs again a paused machine has the adapter.
            device = machine.ctl('attach', '--net=user,number=5').strip()
            expect(device == 'network/5', 'another place', device)
            for number in ('5', '8'):
                expect('number' in machine.ctl('attach', f'--net=user,number={number}', status=2), 'a place that there is not')
            machine.wait_for('^paused$')
            machine.ctl('pause')
            detach = subprocess.Popen([context.mini_vmm, 'ctl', machine.socket, 'detach', device])
            end = time.monotonic() + 60
            while 'is being pulled out' not in machine.ctl('status'):
                expect(time.monotonic() < end, 'not pulled out', machine.ctl('status'))
                time.sleep(0.1)
            expect('already' in machine.ctl('detach', device, status=2), 'detached twice')
            time.sleep(1)
            expect(detach.poll() is None, 'gone without the guest')
            machine.ctl('resume')
            expect(detach.wait(timeout=60) == 0, 'not detached')
            machine.wait_for('^out of a pause$')
            machine.wait_for('^done$')
            expect('network/' not in machine.ctl('status'), 'still there', machine.ctl('status'))
            machine.ctl('stop')
            machine.end(0)
            check_kernel_log(machine.text())


if __name__ == '__main__':
    e2e.main()

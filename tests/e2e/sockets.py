#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of mini_vmm and their sockets to the host.

sockets.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...

HVSDK_SOCKET_MIB is how much goes each way in one stream, HVSDK_SOCKETS how many there are at once; 64 if they are not set.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import socket
import threading
import time

import e2e
from e2e import Running, case, check_kernel_log, expect

STREAM_MIB = int(os.environ.get('HVSDK_SOCKET_MIB', '64'))
COUNT = int(os.environ.get('HVSDK_SOCKETS', '64'))
MIB = 1 << 20


def flags_of(context, command, path):
    """Of a guest that has its side of these tests as a program."""
    return [*context.guest_flags(command, program='sockets'), f'--memory={256 + 2 * COUNT}M', f'--sockets={path}']


def connect(path, port, seconds=60):
    """To a guest's port; one that is refused is tried again."""
    end = time.monotonic() + seconds
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(60)
        client.connect(path)
        client.sendall(f'CONNECT {port}\n'.encode())
        line = b''
        while not line.endswith(b'\n') and (byte := client.recv(1)):
            line += byte
        if re.fullmatch(rb'OK \d+\n', line):
            return client
        expect(not line, 'an answer', line)
        client.close()
        expect(time.monotonic() < end, f'nobody on port {port}')


def read_to_end(client):
    pieces = []
    while piece := client.recv(MIB):
        pieces.append(piece)
    return b''.join(pieces)


@contextlib.contextmanager
def listener(path, port, serve):
    """Serves each connection of the guest's to that port on a thread of its own."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(f'{path}_{port}')
    server.listen(4)  # less than come at once

    def accept():
        with contextlib.suppress(OSError):
            while True:
                client, _ = server.accept()
                client.settimeout(60)
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    os.unlink(f'{path}_{port}')


def echo(client):
    with contextlib.suppress(OSError), client:
        while piece := client.recv(65536):
            client.sendall(piece)


def counts(machine):
    found = {}
    for name, values in e2e.prometheus(machine.ctl('stats', '--prometheus')).items():
        if name.startswith('hvsdk_socket_'):
            for labels, value in values:
                found[name[len('hvsdk_socket_'):-len('_total')] + ' ' + ' '.join(labels.values())] = value
    return found


def wait_for_none(machine, seconds=30):
    end = time.monotonic() + seconds
    while (left := json.loads(machine.ctl('status', '--json'))['sockets']['connections']) != 0:
        expect(time.monotonic() < end, f'{left} connections are left')
        time.sleep(0.1)


@case
def sockets(context):
    """Streams both ways, many at once, half closed, refused, and with an end that vanishes."""
    path = context.path('v.sock')
    command = '''
      /sockets echo 1000 & /sockets count 1001 &
      # What the host asks for by a line on port 1002.
      while :; do
        word=$(/sockets listen 1002 </dev/null | tail -n 1)
        case "$word" in
          hello) echo hello from the guest | /sockets connect 2000 ;;
          many*) /sockets $word ;;
          nobody) /sockets connect 2999 </dev/null ;;
          flood) /sockets flood 2002 ;;
          kill) /sockets flood 2003 & sleep 2; kill -9 $! ;;
          receive) /sockets listen 1003 </dev/null | md5sum ;;
          send*) /sockets $word ;;
          log) dmesg -r; echo "the end" ;;
        esac
        echo "did $word"
      done'''
    with Running(context, flags_of(context, command, path), 'sockets') as machine:
        machine.wait_for('listening on 1001')

        def ask(word):
            with connect(path, 1002) as client:
                client.sendall(f'{word}\n'.encode())
                client.shutdown(socket.SHUT_WR)
                read_to_end(client)

        def did(word, seconds=60):
            machine.wait_for(f'did {word}', seconds)

        # From the host: an echo, and the host's end first.
        with connect(path, 1000) as client:
            client.sendall(b'a line')
            expect(client.recv(100) == b'a line', 'no echo')
        with connect(path, 1001) as client:
            client.sendall(bytes(300_000))
            client.shutdown(socket.SHUT_WR)
            expect(read_to_end(client) == b'300000 bytes\n', 'half closed by the host')
        # From the guest: its end first.
        heard = []

        def answer(client):
            heard.append(read_to_end(client))
            client.sendall(b'hello from the host\n')
            client.close()

        with listener(path, 2000, answer):
            ask('hello')
            did('hello')
        expect(heard == [b'hello from the guest\n'] and '\nhello from the host\n' in machine.text(), 'half closed by the guest', heard)

        # Many at once, either way.
        start = time.monotonic()
        clients = [connect(path, 1000) for _ in range(COUNT)]
        for number, client in enumerate(clients):
            client.sendall(number.to_bytes(2, 'big') * 5000)
        for number, client in enumerate(clients):
            got = b''
            while len(got) < 10000 and (piece := client.recv(10000)):
                got += piece
            expect(got == number.to_bytes(2, 'big') * 5000, f'connection {number}')
        expect(json.loads(machine.ctl('status', '--json'))['sockets']['connections'] == COUNT, 'not all connections')
        print(f'  {COUNT} connections from the host in {time.monotonic() - start:.1f} s')
        for client in clients:
            client.close()
        wait_for_none(machine)
        start = time.monotonic()
        with listener(path, 2001, echo):
            ask(f'many 2001 {COUNT} 20000')
            did('many', 240)
        expect(f'{COUNT} connections were right' in machine.text(), 'many from the guest', machine.text()[-500:])
        print(f'  {COUNT} connections from the guest in {time.monotonic() - start:.1f} s')

        # Nobody there.
        ask('nobody')
        did('nobody')
        expect(re.search(r'^connect: (Connection (refused|reset by peer|timed out))$', machine.text(), re.M), 'connected to nobody')
        for line in (b'CONNECT 5\n', b'CONNECT 00000000-facb-11e6-bd58-64006a7986d3\n', b'CONNECT x\n', b'\n', b'x' * 100):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(path)
                client.sendall(line)
                with contextlib.suppress(ConnectionResetError):
                    expect(client.recv(10) == b'', 'an answer to', line)

        # An end that vanishes: the host's while the guest writes, the guest's likewise, the host's before the guest has read.
        def leave(client):
            client.recv(100_000)
            client.close()

        with listener(path, 2002, leave):
            ask('flood')
            did('flood')
        # Linux says ENOMEM where the channel went in the middle of a write: whatever vmbus_sendpacket returns becomes that
        # (net/vmw_vsock/af_vsock.c, vsock_connectible_sendmsg; from 6.4 on hyperv_transport.c, hvs_stream_enqueue).
        expect(re.search(r'^write: (Broken pipe|Connection reset by peer|Cannot allocate memory)$', machine.text(), re.M),
               'it writes to nobody', machine.text()[-2000:])
        ended = threading.Event()

        def until_end(client):
            while client.recv(MIB):
                pass
            ended.set()

        with listener(path, 2003, until_end):
            ask('kill')
            did('kill')
            expect(ended.wait(30), 'the end of a program that was killed')
        client = connect(path, 1000)
        client.sendall(bytes(1000))
        client.close()
        wait_for_none(machine)

        # A long stream each way.
        limit = 60 + STREAM_MIB
        ask('receive')
        digest = hashlib.md5()
        with connect(path, 1003) as client:
            client.settimeout(limit)
            start = time.monotonic()
            for _ in range(STREAM_MIB):
                piece = random.randbytes(MIB)
                digest.update(piece)
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
            read_to_end(client)
            print(f'  {STREAM_MIB} MiB to the guest at {STREAM_MIB * MIB / 1e6 / (time.monotonic() - start):.1f} MB/s')
        did('receive', limit)
        expect(f'{digest.hexdigest()}  -' in machine.text(), 'other bytes in the guest', machine.text()[-500:])
        wrong, times = [], []

        def receive(client):
            rest = bytes((at * 31 + at // 256) & 255 for at in range(8, MIB))
            times.append(time.monotonic())
            with client, client.makefile('rb') as stream:
                for number in range(STREAM_MIB):
                    if stream.read(MIB) != number.to_bytes(8, 'little') + rest:
                        wrong.append(number)
                if stream.read():
                    wrong.append('more')
            times.append(time.monotonic())

        with listener(path, 2004, receive):
            ask(f'send 2004 {STREAM_MIB}')
            did('send', limit)
            wait_for_none(machine)
        expect(not wrong and len(times) == 2, 'other bytes from the guest', wrong[:10])
        print(f'  {STREAM_MIB} MiB from the guest at {STREAM_MIB * MIB / 1e6 / (times[1] - times[0]):.1f} MB/s')

        wait_for_none(machine)
        found = counts(machine)
        expect(found['connections guest'] == COUNT + 4 and found['connections host'] >= COUNT + 10, 'counts', found)
        expect(found['bytes transmit'] >= STREAM_MIB * MIB and found['bytes receive'] >= STREAM_MIB * MIB, 'counts', found)
        expect(found['failures refused'] >= 1 and found['failures not_accepted'] >= 2, 'counts', found)
        ask('log')
        machine.wait_for('the end')
        check_kernel_log(machine.text())
        machine.ctl('stop')
        machine.end(0)
    expect(not os.path.exists(path), 'the socket is left')


@case
def saved_sockets(context):
    """A machine that goes on, after a pause, a reset or a restore: connections stay, or both ends learn that they have ended."""
    path, state = context.path('v.sock'), context.path('state')
    command = '/sockets echo 1000 & while :; do /sockets connect 2000 </dev/null; echo ended; sleep 1; done'
    waits = []
    with listener(path, 2000, waits.append):
        flags = [flag for flag in flags_of(context, command, path) if flag != '--no-reboot']
        with Running(context, flags, 'saved') as machine:
            machine.wait_for('listening on 1000')
            client = connect(path, 1000)

            def expect_echo(client, text):
                client.sendall(text)
                expect(client.recv(100) == text, 'no echo of', text)

            expect_echo(client, b'before')
            machine.ctl('pause')
            client.sendall(b'meanwhile')
            late = socket.socket(socket.AF_UNIX)
            late.settimeout(60)
            late.connect(path)
            late.sendall(b'CONNECT 1000\n')
            time.sleep(1)
            machine.ctl('resume')
            expect(client.recv(100) == b'meanwhile', 'not after the pause')
            expect(re.fullmatch(rb'OK \d+\n', late.recv(100)), 'no answer after the pause')
            machine.ctl('save', '--live', state)
            expect_echo(client, b'after the save')
            expect_echo(late, b'the other')
            machine.ctl('reset')
            for each in client, late, waits[0]:
                each.settimeout(30)
                with contextlib.suppress(ConnectionResetError):
                    expect(each.recv(100) == b'', 'no end by a reset')
            machine.wait_for_count('listening on 1000', 2)
            with connect(path, 1000) as again:
                expect_echo(again, b'after the reset')
            machine.ctl('stop')
            machine.end(0)
        moved = context.path('moved.sock')
        with Running(context, [f'--restore={state}', f'--sockets={moved}'], 'restored') as machine:
            with listener(moved, 2000, echo):
                machine.wait_for('ended', 30)
                with connect(moved, 1000) as again:
                    expect_echo(again, b'after the restore')
                machine.ctl('stop')
                machine.end(0)


@case
def bad_sockets(context):
    """What a user can get wrong, in one line."""
    taken = context.path('taken')
    with open(taken, 'w', encoding='utf-8') as file:
        file.write('a file')
    for path, why in ((taken, 'is there already'), (context.path('x' * 120), "a socket's path has"),
                      (context.path('no/such/folder'), 'cannot make the socket')):
        bad = context.run('true', f'--sockets={path}').expect_status(2)
        expect(re.fullmatch(rf'mini_vmm: --sockets={re.escape(path)}: [^\n]*{why}[^\n]*\n', bad.err), 'not one line', bad.err)
    bad = context.vmm('--kernel=x', '--deterministic', '--backend=software', '--sockets=x').expect_status(2)
    expect(re.fullmatch(r'mini_vmm: --deterministic: needs a machine without sockets\n', bad.err), 'not one line', bad.err)
    folder = context.path('folder')
    os.mkdir(folder)
    with Running(context, [*context.guest_flags('echo begun; sleep 1000'), f'--sockets={folder}'], 'folder') as machine:
        machine.wait_for('begun')
        expect(os.listdir(folder) == ['vsock'], 'not in the folder', os.listdir(folder))
        expect(re.search(r'^sockets    \S*/folder/vsock, 0 connections$', machine.ctl('status'), re.M), 'status', machine.ctl('status'))
        machine.ctl('stop')
        machine.end(0)


if __name__ == '__main__':
    e2e.main()

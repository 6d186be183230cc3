#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Viewers as people use them, and many at once: TigerVNC on a virtual X server, noVNC in Chromium, and the tests' own.

viewers.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...
"""

import base64
import json
import mmap
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time

import browser
import e2e
from e2e import Running, case, expect
from rfb import Viewer
from video import pixels_of, wait_until_same
import web

PROGRAMS = 'xtigervncviewer', 'Xvfb', 'xdotool', 'openssl'


class XServer:
    """A virtual X server (Xvfb), whose screen's pixels are in a file."""

    def __init__(self, context, width=1400, height=1000):
        self.folder = context.path('x')
        os.makedirs(self.folder)
        said, says = os.pipe()
        # Without repetition of keys: on a busy host a letter would come twice.
        self.process = subprocess.Popen(
            ['Xvfb', '-displayfd', str(says), '-screen', '0', f'{width}x{height}x24', '-fbdir', self.folder, '-nolisten', 'tcp', '-r'],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=[says])
        os.close(says)
        with os.fdopen(said) as file:
            number = file.readline().strip()  # once it takes clients
        expect(number, 'no X server')
        self.environment = {**os.environ, 'DISPLAY': f':{number}', 'HOME': self.folder}
        self.width, self.height = width, height

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def tool(self, *words):
        """What xdotool answers."""
        return subprocess.run(['xdotool', *words], env=self.environment, capture_output=True, text=True, timeout=60, check=False).stdout

    def pixels(self, x, y, width, height):
        """Rows of RGB, of a window dump (XWDFile.h): sizes big-endian, colours, and pixels of 32 bits."""
        with open(f'{self.folder}/Xvfb_screen0', 'rb') as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as dump:
            fields = struct.unpack('>25I', dump[:100])
            begin, stride = fields[0] + 12 * fields[19], fields[12]
            expect(fields[11] == 32 and fields[7] == 0, 'another kind of dump', fields)
            rows = []
            for row in range(y, y + height):
                line = dump[begin + row * stride + 4 * x:begin + row * stride + 4 * (x + width)]
                rgb = bytearray(width * 3)
                rgb[0::3], rgb[1::3], rgb[2::3] = line[2::4], line[1::4], line[0::4]
                rows.append(bytes(rgb))
            return rows


class TigerVnc:
    """TigerVNC's viewer, without dialogs, and what it says."""

    def __init__(self, context, x_server, address, *flags, password=None):
        self.x_server, self.log = x_server, context.path(f'tigervnc-{time.monotonic_ns()}.log')
        environment = {**x_server.environment, **({'VNC_PASSWORD': password} if password is not None else {})}
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen(['xtigervncviewer', '-AlertOnFatalError=0', '-ReconnectOnError=0', '-AutoSelect=0', *flags, address],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def text(self):
        with open(self.log, encoding='utf-8', errors='replace') as file:
            return file.read()

    def window(self):
        """Its identity, and where on the X server's screen the guest's is: x, y, width, height. Nothing while it has none."""
        for window in self.x_server.tool('search', '--onlyvisible', '--pid', str(self.process.pid)).split():
            shape = dict(re.findall(r'(\w+)=(-?\d+)', self.x_server.tool('getwindowgeometry', '--shell', window)))
            if shape:
                return window, *(int(shape[name]) for name in ('X', 'Y', 'WIDTH', 'HEIGHT'))
        return None

    def wait_until_same(self, machine, seconds=60):
        """Until it shows what a screenshot has, to the pixel."""
        path, end = machine.context.path('shown.png'), time.monotonic() + seconds
        while True:
            machine.ctl('screenshot', path)
            width, height, rows = pixels_of(path)
            window = self.window()
            if window and window[3:] == (width, height) and self.x_server.pixels(*window[1:]) == rows:
                return
            expect(self.process.poll() is None, 'it has ended', self.text())
            machine.expect_running(end, f'same pixels; {window} for {width}x{height}; {self.text()}')
            time.sleep(0.2)

    def type(self, text):
        """Without a window manager nobody else gives it the keys."""
        self.x_server.tool('windowfocus', '--sync', self.window()[0])
        for line in text.splitlines():
            self.x_server.tool('type', '--delay', '20', line)
            self.x_server.tool('key', 'Return')


class Crowd:
    """Viewers of which a third reads nothing of all that it asks for, a third asks and points without an end, and a third is cut off in the
    middle of what it is sent."""

    def __init__(self, address, count):
        host, port = address.rsplit(':', 1)
        self.address, self.count, self.is_ended = (host, int(port)), count, threading.Event()
        self.sent, self.cut_off = 0, 0
        self.thread = threading.Thread(target=self.run)

    def connect(self):
        client = socket.create_connection(self.address, timeout=30)
        client.sendall(b'RFB 003.008\n\1\1')
        greeting = 12 + 2 + 4 + 24
        while greeting > 0:
            piece = client.recv(greeting)
            expect(piece, 'turned away')
            greeting -= len(piece)
        return client

    def run(self):
        whole = struct.pack('>BBHHHH', 3, 0, 0, 0, 4096, 4096)
        stalled, flooding = ([self.connect() for _ in range(self.count // 3)] for _ in range(2))
        for client in stalled:
            client.sendall(whole * 100)
        for client in flooding:
            client.setblocking(False)
        while not self.is_ended.wait(0.02):
            for client in flooding:
                try:
                    self.sent += client.send((whole + struct.pack('>BBHH', 5, 0, self.sent % 800, 7)) * 50)
                except BlockingIOError:
                    pass  # as much as the server lets it
            cut_off = [self.connect() for _ in range(self.count // 3)] if self.cut_off < 30 else []
            for client in cut_off:
                client.sendall(whole)
                client.recv(1)
                client.close()
                self.cut_off += 1
        for client in stalled + flooding:
            client.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.is_ended.set()
        self.thread.join()


def make_certificate(folder):
    """Of this host's loopback, signed by itself: DIR of --vnc's tls=, and what a viewer is to trust."""
    os.makedirs(folder)
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
                    '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', f'{folder}/server-key.pem',
                    '-out', f'{folder}/server-cert.pem'], check=True, capture_output=True)


def address_of(machine):
    return base64.b64decode(json.loads(machine.ctl('status', '--json'))['video']['vnc']).decode()


@case
def tigervnc(context):
    """TigerVNC, noVNC and a viewer of the tests' own see the same pixels through changes of the guest's mode, while others stall, flood
    and go, and type; TigerVNC alone by TLS and with a password."""
    missing = [program for program in PROGRAMS if not shutil.which(program)] + (['Chromium'] if not browser.find() else [])
    if missing:
        print(f'  skipped: there is no {missing[0]}')
        sys.exit(77)
    assets, state, word, certificate = (context.path(name) for name in ('assets', 'state', 'word', 'tls'))
    subprocess.run([f'{web.ROOT}/scripts/web-assets', assets], check=True)
    make_certificate(certificate)
    with open(word, 'w', opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write('correct\n')
    command = """
until [ -e /dev/fb0 ] && [ -d /sys/bus/serio/devices/serio0/input ]; do sleep 0.1; done; sleep 0.5
exec </dev/tty1 >/dev/tty1 2>&1; printf '\\033[2J\\033[H\\033[?25l'; echo begun >/dev/ttyS0
say() { echo "$@" >/dev/ttyS0; }
show() { ls -l /bin /etc; }
modes() { while [ ! -e /still ]; do show; done & for size in '640 480' '1024 768' '800 600'; do /set_mode $size; sleep 1; done
  >/still; wait; show; say shown; }
while read -r line; do eval "$line"; done"""
    flags = [flag.replace('console=ttyS0', 'console=ttyS0 fbcon=nodefer consoleblank=0')
             for flag in context.guest_flags(command, program='set_mode')]
    with XServer(context) as x_server:
        x_server.tool('mousemove', str(x_server.width - 1), str(x_server.height - 1))  # or its pointer would be in the picture
        with Running(context, [*flags, '--cpus=1', '--memory=256M', '--video=1024x768', '--input=all', '--vnc=127.0.0.1:0',
                               '--web=127.0.0.1:0', f'--web-assets={assets}'], 'vm') as machine, browser.Browser(browser.find()) as chrome:
            machine.wait_for_socket()
            status = lambda: json.loads(machine.ctl('status', '--json'))
            address = address_of(machine)
            chrome.open(status()['web'])
            machine.wait_for('^begun$')
            own = Viewer(address)
            own.ask(False)
            with TigerVnc(context, x_server, address.replace(':', '::')) as tiger:
                tiger.wait_until_same(machine)
                tiger.type('say "typed by TigerVNC: {}[]~|"\n')
                machine.wait_for(r'^typed by TigerVNC: \{\}\[\]~\|$', 30)
                with Crowd(address, 18) as crowd:
                    tiger.type('modes\n')
                    end = time.monotonic() + 120
                    while '\nshown\n' not in machine.text():
                        if select.select([own.socket], [], [], 0.1)[0]:
                            own.update()
                            own.ask(True)
                        machine.expect_running(end, 'all modes')
                    wait_until_same(machine, own)
                    tiger.wait_until_same(machine)
                    web.wait_until_same(machine, chrome)
                    viewers = status()['video']['vnc_viewers']
                expect((own.width, own.height) == (800, 600), 'another size', own.width)
                expect(viewers >= 14 and crowd.cut_off >= 30, 'no crowd', viewers, crowd.cut_off)
                print(f'  {viewers} viewers, {crowd.cut_off} cut off, {crowd.sent} bytes by those that flood')
                # Killed while it holds a key.
                x_server.tool('keydown', 'Shift_L')
                end = time.monotonic() + 20
                while status()['input']['held_keys'] != 1:
                    machine.expect_running(end, 'a held key')
                    time.sleep(0.1)
            end = time.monotonic() + 20
            while status()['input']['held_keys'] != 0 or status()['video']['vnc_viewers'] != 2:
                machine.expect_running(end, 'that it is let go of')
                time.sleep(0.1)
            x_server.tool('keyup', 'Shift_L')
            machine.ctl('save', state)
            machine.end(0)
        with Running(context, [f'--restore={state}', f'--vnc=127.0.0.1:0,tls={certificate},password-file={word}'], 'restored') as machine:
            machine.wait_for_socket()
            port = address_of(machine).rsplit(':', 1)[1]
            trusting = f'-X509CA={certificate}/server-cert.pem', '-PreferredEncoding=Raw'
            with TigerVnc(context, x_server, f'localhost::{port}', *trusting, password='correct') as tiger:
                tiger.wait_until_same(machine)
                tiger.type('say "secret"\n')
                machine.wait_for('^secret$', 30)
                tiger.wait_until_same(machine)
                expect('X509Vnc' in tiger.text(), 'without TLS', tiger.text())
            with TigerVnc(context, x_server, f'localhost::{port}', *trusting, password='wrong') as tiger:
                tiger.process.wait(timeout=60)
                expect('the password is wrong' in tiger.text(), 'not said', tiger.text())
            machine.ctl('stop')
            machine.end(0)


if __name__ == '__main__':
    e2e.main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""mini_vmm's page: asked without a browser, and seen by Chromium.

web.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...
"""

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.parse

import browser
import e2e
from e2e import Running, case, expect, tiny_guest
from input import events_of, expect_events, strokes
from video import pixels_of, shown

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Unix(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__('localhost', timeout=30)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self.path)


class Page:
    """Somebody who asks for it: by TCP at the page's own address, or by a Unix socket."""

    def __init__(self, url, path=None):
        self.url, self.path, parts = url, path, urllib.parse.urlsplit(url)
        self.host, self.base = parts.netloc, parts.path

    def connect(self):
        return Unix(self.path) if self.path else http.client.HTTPConnection(self.host, timeout=30)

    def ask(self, path, method='GET', body=None, **headers):
        """Status, headers and body."""
        connection = self.connect()
        connection.request(method, path, body, {name.replace('_', '-'): value for name, value in headers.items()})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, response.headers, data

    def get(self, path):
        status, _, data = self.ask(self.base + path)
        expect(status == 200, f'{path}: status {status}', data)
        return data

    def post(self, path, body=b''):
        status, _, data = self.ask(self.base + path, 'POST', body)
        expect(status in (200, 409), f'{path}: status {status}', data)
        return data.decode()

    def status(self):
        return json.loads(self.get('status'))

    def stream(self, name):
        return WebSocket(self, name)


class WebSocket:
    """RFC 6455, with binary messages."""

    def __init__(self, page, name):
        connection = page.connect()
        connection.connect()
        self.socket = connection.sock
        self.socket.sendall(f'GET {page.base}{name} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
                            'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'.encode())
        self.received = b''
        head = self.read_until(b'\r\n\r\n')
        expect(head.startswith(b'HTTP/1.1 101 ') and b's3pPLMBiTxaQ9kYGzzhZRbK+xOo=' in head, 'no WebSocket', head)  # RFC 6455, 1.3
        self.stream = b''

    def fill(self):
        piece = self.socket.recv(1 << 16)
        expect(piece, 'the server has hung up')
        self.received += piece

    def read_until(self, end):
        while end not in self.received:
            self.fill()
        head, self.received = self.received.split(end, 1)
        return head

    def send(self, payload):
        for at in range(0, len(payload), 65535):
            piece = payload[at:at + 65535]
            size = bytes([0x80 | len(piece)]) if len(piece) < 126 else b'\xfe' + len(piece).to_bytes(2, 'big')
            mask = os.urandom(4)
            self.socket.sendall(b'\x82' + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(piece)))

    def read(self, size):
        while len(self.stream) < size:
            while len(self.received) < 2:
                self.fill()
            expect(self.received[0] == 0x82, 'another frame', self.received[:4])
            length, head = self.received[1], 2
            if length >= 126:
                head = 4 if length == 126 else 10
                while len(self.received) < head:
                    self.fill()
                length = int.from_bytes(self.received[2:head], 'big')
            while len(self.received) < head + length:
                self.fill()
            self.stream += self.received[head:head + length]
            self.received = self.received[head + length:]
        data, self.stream = self.stream[:size], self.stream[size:]
        return data


def make_assets(context):
    folder = context.path('assets')
    os.makedirs(folder)
    for name in 'index.html', 'page.css', 'page.js':
        with open(f'{ROOT}/web/{name}', 'rb') as source, open(f'{folder}/{name}', 'wb') as target:
            target.write(source.read())
    return f'--web-assets={folder}'


def kernel_of(context, then):
    path = context.path(then)
    with open(path, 'wb') as file:
        file.write(tiny_guest(b'hello\n', then))
    return f'--kernel={path}'


@case
def page(context):
    """A page without a browser: who gets it, a console that is shared, buttons; mistakes are one line."""
    assets = make_assets(context)
    flags = ['--backend=software', '--memory=16M', '--cpus=1', assets]
    with Running(context, [*flags, kernel_of(context, 'echo'), '--web=127.0.0.1:0', '--dvd='], 'echo') as machine:
        machine.wait_for_socket()
        url = json.loads(machine.ctl('status', '--json'))['web']
        expect(re.fullmatch(r'http://127\.0\.0\.1:\d+/[0-9a-f]{32}/', url), 'another address', url)
        expect(f'page       {url}\n' in machine.ctl('status'), 'another line')
        line = machine.process.stderr.readline().decode()
        expect(line == f"mini_vmm: the machine's page: {url}\n", 'another line', line)
        page = Page(url)
        status, headers, body = page.ask(page.base)
        with open(f'{ROOT}/web/index.html', 'rb') as file:
            expect(status == 200 and body == file.read(), 'another page', status)
        expect(headers['Referrer-Policy'] == 'no-referrer' and headers['Cache-Control'] == 'no-store'
               and "default-src 'none'" in headers['Content-Security-Policy'], 'other headers', headers)
        wrong = page.base[:-2] + ('0' if page.base[-2] != '0' else '1') + '/'
        for path, more, wanted in [('/', {}, 404), (wrong, {}, 404), (wrong + 'status', {}, 404), (page.base[:-1], {}, 404),
                                   (page.base + '../../etc/passwd', {}, 404), (page.base, {'Host': 'rebound.example'}, 403),
                                   (page.base, {'Origin': 'http://elsewhere.example'}, 403), (page.base, {'Origin': 'null'}, 403)]:
            status, headers, body = page.ask(path, **more)
            expect(status == wanted and body == b'', f'{path} {more}: status {status}', body)
        expect(page.ask(page.base, Host='localhost:1234', Origin='http://localhost:1234')[0] == 200, 'through a tunnel')

        # The console is there for all, also for who comes late.
        machine.wait_for('^hello$')
        first, second = page.stream('console'), page.stream('console')
        expect(first.read(6) == b'hello\n' == second.read(6), 'another beginning')
        text = bytes(32 + i % 90 for i in range(2000))
        first.send(text)
        expect(first.read(len(text)) == text == second.read(len(text)), 'not what was typed')
        machine.wait_for(re.escape(text[-90:].decode()) + '$')
        expect(machine.text() == 'hello\n' + text.decode(), 'another console')

        status = page.status()
        expect(status['screen'] is False and status['console'] is True and status['machine']['state'] == 'running', 'status', status)
        expect(page.post('pause') == '' and page.status()['machine']['state'] == 'paused', 'not paused')
        expect(json.loads(machine.ctl('status', '--json'))['state'] == 'paused', 'not paused')
        expect(page.post('resume') == '' and page.status()['machine']['state'] == 'running', 'not running')
        expect('no keyboard' in page.post('ctrl-alt-delete'), 'typed without a keyboard')
        iso = context.path('some name.iso')
        with open(iso, 'wb') as file:
            file.truncate(1 << 20)
        expect('absolute path' in page.post('insert/storage/0', b'some name.iso'), 'inserted by a relative path')
        expect('No such file' in page.post('insert/storage/0', b'/missing.iso'), 'inserted what is not there')
        expect('there is no disk' in page.post('insert/storage/7', iso.encode()), 'inserted nowhere')
        expect(page.post('insert/storage/0', iso.encode()) == '', 'not inserted')
        expect(f'storage/0  {iso}, 1048576 bytes, a DVD\n' in machine.ctl('status'), 'not inserted', machine.ctl('status'))
        expect(page.post('eject/storage/0') == '' and 'storage/0  empty' in machine.ctl('status'), 'not ejected')
        expect(page.ask(page.base + 'screenshot.png')[0] == 404 and page.ask(page.base + 'stop', 'POST')[0] == 404, 'what is not there')
        resets = page.status()['machine']['resets']
        expect(resets == 0 and page.post('reset') == '', 'not reset')
        machine.wait_for_count('hello\n', 2)
        expect(page.status()['machine']['resets'] == 1, 'another count')
        expect(first.read(6) == b'hello\n', 'the console has ended')
        print(f'  ends {e2e.ends_on_sigterm(machine.process)[0]:.2f} s after SIGTERM')

    # Whoever does not read holds nobody up; and what there is of it is bounded.
    path = context.path('page.sock')
    with Running(context, [*flags, kernel_of(context, 'flood'), f'--web=unix:{path}'], 'flood') as machine:
        machine.wait_for_socket()
        url = json.loads(machine.ctl('status', '--json'))['web']
        page = Page(url, path)
        stalled, reader = [page.stream('console') for _ in range(8)], page.stream('console')
        first = os.stat(machine.console).st_size
        end = time.monotonic() + 60
        while os.stat(machine.console).st_size < first + (2 << 20):
            reader.read(1 << 16)
            machine.expect_running(end, '2 MiB of output')
        with open(f'/proc/{machine.process.pid}/status', encoding='ascii') as file:
            resident = int(re.search(r'VmRSS:\s+(\d+)', file.read())[1])
        expect(resident < 200_000 and len(stalled) == 8, f'{resident} KiB')
        expect(os.stat(path).st_mode & 0o777 == 0o600, 'others may connect')
        e2e.ends_on_sigterm(machine.process)
        expect(not os.path.exists(path), 'the socket is left')

    for more, error in [(['--web=0.0.0.0:80'], r'--web: "0\.0\.0\.0" is no address of this host\'s loopback, [^\n]+'),
                        (['--web=here'], r'--web: "here" is neither ADDRESS:PORT, such as 127\.0\.0\.1:8000, nor unix:PATH'),
                        (['--web=127.0.0.1:0', '--web-assets=/missing'], r'--web-assets=/missing: there is no page; [^\n]+'),
                        (['--web-assets=/missing'], r'--web-assets: is for machines with a page, which web gives it')]:
        bad = context.vmm(kernel_of(context, 'power_off'), '--backend=software', *more).expect_status(2)
        expect(re.fullmatch(f'mini_vmm: {error}\n', bad.err), 'not that line', bad.err)


# How many pixels of a canvas are not those of a picture (PNG).
DIFFERENCES = '''(async () => {
  const bytes = Uint8Array.from(atob("%s"), (letter) => letter.charCodeAt(0));
  const picture = await createImageBitmap(new Blob([bytes], { type: 'image/png' }));
  const shown = document.querySelector('#screen canvas');
  if (shown.width !== picture.width || shown.height !== picture.height) return -1;
  const copy = new OffscreenCanvas(picture.width, picture.height).getContext('2d');
  copy.drawImage(picture, 0, 0);
  const size = [0, 0, picture.width, picture.height];
  const wanted = new Uint32Array(copy.getImageData(...size).data.buffer);
  const got = new Uint32Array(shown.getContext('2d').getImageData(...size).data.buffer);
  return got.reduce((count, pixel, i) => count + (pixel !== wanted[i]), 0);
})()'''


def wait_until_same(machine, chrome, seconds=40):
    """Until the page shows what a screenshot has; its rows."""
    path, end = machine.context.path('shown.png'), time.monotonic() + seconds
    while True:
        machine.ctl('screenshot', path)
        with open(path, 'rb') as file:
            different = chrome.run(DIFFERENCES % base64.b64encode(file.read()).decode())
        if different == 0:
            return pixels_of(path)[2]
        machine.expect_running(end, f'same pixels ({different} differ)')
        time.sleep(0.2)


def type_and_point(machine, chrome):
    """What the guest's programs see of keys on the page's screen, and of the mouse's buttons and wheel."""
    press = lambda code, key, *held, **more: lambda: chrome.key(True, code, key, *held, **more)
    release = lambda code, key: lambda: chrome.key(False, code, key)
    stroke = lambda code, key, *held: lambda: [chrome.key(is_pressed, code, key, *held) for is_pressed in (True, False)]
    clicks = machine.text().count('key 272 0')
    chrome.click('#screen canvas')
    machine.wait_for_count('key 272 0', clicks + 1, 20)
    seen = len(events_of(machine, 0))
    # On a German keyboard, which the guest has, too: the keys are the same.
    seen = expect_events(machine, stroke('Quote', 'ä'), strokes(40), seen)
    seen = expect_events(machine, press('AltRight', 'AltGraph'), ['key 100 1'], seen)
    seen = expect_events(machine, stroke('KeyE', '€'), strokes(18), seen)
    seen = expect_events(machine, release('AltRight', 'AltGraph'), ['key 100 0'], seen)
    # By keyboards on a screen, which have no places, there is what is typed alone.
    seen = expect_events(machine, stroke('', 'ö'), strokes(39), seen)
    for code, key, number in ('ControlLeft', 'Control', 29), ('AltLeft', 'Alt', 56):
        seen = expect_events(machine, press(code, key, key), [f'key {number} 1'], seen)
        seen = expect_events(machine, stroke('KeyB', 'b', key), strokes(48), seen)
        seen = expect_events(machine, release(code, key), [f'key {number} 0'], seen)
    # Held: the browser repeats it, and Linux takes that if it is not too soon.
    seen = expect_events(machine, press('KeyX', 'x'), ['key 45 1'], seen)
    time.sleep(1)
    seen = expect_events(machine, press('KeyX', 'x', repeats=True), ['key 45 2'], seen)
    seen = expect_events(machine, release('KeyX', 'x'), ['key 45 0'], seen)
    # Who turns to something else of the page holds nothing any more.
    seen = expect_events(machine, press('ShiftLeft', 'Shift', 'Shift'), ['key 42 1'], seen)
    seen = expect_events(machine, lambda: chrome.run("document.querySelector('#path').focus({ preventScroll: true })"), ['key 42 0'], seen)
    chrome.key(False, 'ShiftLeft', 'Shift')

    there = chrome.place('#screen canvas')
    for number, (button, bit) in enumerate([('left', 1), ('right', 2), ('middle', 4), ('back', 8), ('forward', 16)]):
        seen = expect_events(machine, lambda: [chrome.mouse('Pressed', *there, bit, button), chrome.mouse('Released', *there, 0, button)],
                             strokes(272 + number), seen)
    for right, down, events in (0, -100, ['rel 8 1', 'rel 11 120']), (0, 100, ['rel 8 -1', 'rel 11 -120']), \
            (100, 0, ['rel 6 1', 'rel 12 120']), (-100, 0, ['rel 6 -1', 'rel 12 -120']):
        seen = expect_events(machine, lambda: chrome.wheel(*there, right, down), events, seen)


@case
def chromium(context):
    """What a browser shows is what a screenshot has; what is typed, pointed and pressed there comes to the guest."""
    program = browser.find()
    if program is None:
        print('  skipped: there is no Chromium')
        sys.exit(77)
    assets = context.path('assets')
    subprocess.run([f'{ROOT}/scripts/web-assets', assets], check=True)
    command = """
until [ -e /dev/fb0 ] && [ -d /sys/bus/serio/devices/serio0/input ]; do sleep 0.1; done; sleep 0.5
/input_events & sleep 1
while read -r line; do echo "by serial: $line"; done </dev/ttyS0 &
exec </dev/tty1 >/dev/tty1 2>&1; printf '\\033[2J\\033[H\\033[?25l'; echo begun >/dev/ttyS0
while read -r line; do eval "$line"; done"""
    flags = [flag.replace('console=ttyS0', 'console=ttyS0 fbcon=nodefer consoleblank=0')
             for flag in context.guest_flags(command, program='input_events')]
    with Running(context, [*flags, '--cpus=1', '--memory=256M', '--video=1024x768', '--input=all', '--keyboard-layout=de', '--dvd=',
                           '--web=127.0.0.1:0', f'--web-assets={assets}'], 'vm') as machine, browser.Browser(program) as chrome:
        machine.wait_for_socket()
        url = json.loads(machine.ctl('status', '--json'))['web']
        chrome.open(url)
        chrome.wait("document.querySelector('#screen canvas')?.width === 1024")
        machine.wait_for('^begun$')
        machine.wait_for('^listening$')

        # The screen: keys, pixels and the pointer.
        chrome.click('#screen canvas')
        chrome.type('echo hvsdk\n')
        end = time.monotonic() + 20
        # The kernel's font has another v than Debian's.
        while 'h\N{REPLACEMENT CHARACTER}sdk' not in shown(machine, 'typed.png')[1]:
            machine.expect_running(end, 'hvsdk on the console')
            time.sleep(0.2)
        expect(any(map(any, wait_until_same(machine, chrome))), 'nothing but black')
        left, top, width, height = chrome.run(
            "(({ x, y, width, height }) => [x, y, width, height])(document.querySelector('#screen canvas').getBoundingClientRect())")
        there = left + width / 4, top + height * 3 / 4
        chrome.mouse('Moved', *there)
        # A quarter and three of 32767, by pixels of the browser's.
        machine.wait_for(r'^abs 0 8[0-3]\d\d$.*^abs 1 24[4-7]\d\d$', 20)
        clicks = machine.text().count('key 272 0')
        chrome.mouse('Pressed', *there, 1)
        chrome.mouse('Released', *there)
        machine.wait_for_count('key 272 0', clicks + 1, 20)

        type_and_point(machine, chrome)

        # The serial console.
        chrome.wait("document.querySelector('#console .xterm-rows').textContent.includes('key 272 0')")
        chrome.click('#console .xterm-screen')
        chrome.type('from the page\n')
        machine.wait_for('^by serial: from the page$', 20)
        chrome.wait("document.querySelector('#console .xterm-rows').textContent.includes('by serial: from the page')")

        # Buttons, and what the page says of the machine.
        state = lambda: json.loads(machine.ctl('status', '--json'))['state']
        chrome.click('#pause')
        chrome.wait("document.querySelector('#state').textContent === 'paused'", 20)
        expect(state() == 'paused', 'not paused')
        chrome.click('#resume')
        chrome.wait("document.querySelector('#state').textContent === 'running'", 20)
        expect(state() == 'running', 'not running')
        chrome.tell('Page.setDownloadBehavior', behavior='allow', downloadPath=context.folder)
        chrome.click('#screenshot')
        end = time.monotonic() + 20
        while not os.path.exists(context.path('screenshot.png')):
            machine.expect_running(end, 'a download')
            time.sleep(0.1)
        machine.ctl('screenshot', context.path('shown.png'))
        expect(pixels_of(context.path('screenshot.png')) == pixels_of(context.path('shown.png')), 'another picture')
        iso = context.path('disc <b>.iso')
        with open(iso, 'wb') as file:
            file.truncate(1 << 20)
        chrome.run(f"document.querySelector('#path').value = {json.dumps(iso)}")
        chrome.click('#insert button')
        chrome.wait(f"document.querySelector('#status').textContent.includes({json.dumps(iso + ', 1048576 bytes')})", 20)
        expect(f'storage/0  {iso}, 1048576 bytes, a DVD\n' in machine.ctl('status'), 'not inserted')
        if path := os.environ.get('HVSDK_PAGE_PICTURE'):
            chrome.picture(path)
        chrome.run("document.querySelector('#path').value = '/missing.iso'")
        chrome.click('#insert button')
        chrome.wait("document.querySelector('#error').textContent.includes('No such file')", 20)
        wrong = [line for line in chrome.complaints() if '409' not in line]  # which the last one was
        expect(not wrong, 'the browser complains', *wrong)
        ours = url, url.replace('http', 'ws')
        foreign = [asked for asked in chrome.asked() if not asked.startswith((*ours, 'data:', 'blob:'))]
        expect(not foreign and any('ws:' in asked for asked in chrome.asked()), 'asked for elsewhere', *foreign)

        # Which Linux takes for itself.
        chrome.click('#ctrl-alt-delete')
        machine.end(10)
        chrome.wait("document.querySelector('#state').textContent === 'gone'", 20)


if __name__ == '__main__':
    e2e.main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of mini_vmm and what they show, read from screenshots by the font of Linux' console.

video.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...
"""

import gzip
import json
import os
import re
import shutil
import struct
import time
import zlib

import e2e
from e2e import Running, case, check_kernel_log, expect
from rfb import Viewer

CELL = 8, 16


def pixels_of(path):
    """Width, height and rows of a PNG with 8 bits each of red, green and blue (PNG specification, 2nd edition, 9.2)."""
    with open(path, 'rb') as file:
        data = file.read()
    expect(data[:8] == b'\x89PNG\r\n\x1a\n', 'no PNG')
    at, packed = 8, b''
    while at < len(data):
        size, kind = struct.unpack('>I4s', data[at:at + 8])
        body = data[at + 8:at + 8 + size]
        expect(zlib.crc32(kind + body) == struct.unpack('>I', data[at + 8 + size:at + 12 + size])[0], 'a wrong sum', kind)
        if kind == b'IHDR':
            width, height, *rest = struct.unpack('>IIBBBBB', body)
            expect(rest == [8, 2, 0, 0, 0], 'another kind of PNG', rest)
        packed += body if kind == b'IDAT' else b''
        at += 12 + size
    raw, stride, rows, above = zlib.decompress(packed), width * 3, [], bytes(width * 3)
    for y in range(height):
        how, row = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1:(y + 1) * (stride + 1)])
        for i in range(stride) if how else ():
            left, up, corner = row[i - 3] if i > 2 else 0, above[i], above[i - 3] if i > 2 else 0
            nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
            row[i] = row[i] + (0, left, up, (left + up) // 2, nearest)[how] & 0xFF
        rows.append(bytes(row))
        above = rows[-1]
    return width, height, rows


def font_of(path):
    """{glyph's rows: character} of a console font (PSF version 1, as kbd describes it) for ASCII."""
    with gzip.open(path) as file:
        data = file.read()
    expect(data[:2] == b'\x36\x04' and data[3] == CELL[1], 'another kind of font')
    count = 512 if data[2] & 1 else 256
    glyphs, glyph = {}, 0
    for (code,) in struct.iter_unpack('<H', data[4 + count * CELL[1]:]):
        if code == 0xFFFF:
            glyph += 1
        elif 0x20 <= code < 0x7F:
            glyphs[data[4 + glyph * CELL[1]:4 + (glyph + 1) * CELL[1]]] = chr(code)
    return glyphs


def text_of(context, path):
    """What a screenshot of a console says, line by line; cells that are no letter of the font are '\N{REPLACEMENT CHARACTER}'."""
    width, height, rows = pixels_of(path)
    glyphs = font_of(f'{context.guest}/console-font.psf.gz')
    lines = []
    for top in range(0, height - height % CELL[1], CELL[1]):
        line = ''
        for left in range(0, width - width % CELL[0], CELL[0]):
            cell = bytes(sum(0x80 >> x for x in range(CELL[0]) if any(rows[top + y][3 * (left + x):3 * (left + x) + 3]))
                         for y in range(CELL[1]))
            line += ' ' if not any(cell) else glyphs.get(cell, '\N{REPLACEMENT CHARACTER}')
        lines.append(line.rstrip())
    return (width, height), lines


def shown(machine, name):
    path = machine.context.path(name)
    machine.ctl('screenshot', path)
    return text_of(machine.context, path)


def wait_until_shown(machine, line, size, seconds=120):
    """Until the console's last lines are those that the guest has written to it."""
    end = time.monotonic() + seconds
    while True:
        video = json.loads(machine.ctl('status', '--json'))['video']
        if (video['width'], video['height']) == size:
            got, lines = shown(machine, 'shown.png')
            expect(got == size, 'another size', got)
            if line in lines:
                return lines
        machine.expect_running(end, line)
        time.sleep(0.5)


# Not among them what the font in the kernel has otherwise than Debian's: f, v and three more.
WORDS = 'The quick brown dog jumps near a lazy owl; 0123456789 !"#$%&()*+,-./:<=>?@[]^_{|}'


@case
def console(context):
    """The console is read from a picture, before and after a save, and from one that is made at the end."""
    size = (1280, 1024)  # more than hyperv_fb would take of its own memory
    state, last = context.path('state'), context.path('last.png')
    command = f"""
until [ -e /dev/fb0 ]; do sleep 0.1; done; sleep 0.5
printf '\\033[2J\\033[H\\033[?25l%s\\n' '{WORDS}' >/dev/tty0; echo begun
dmesg -r | grep -v 'fail to add MMCONFIG'; echo logged; sleep 100000"""
    flags = [flag.replace('console=ttyS0', 'console=ttyS0 fbcon=nodefer consoleblank=0') for flag in context.guest_flags(command)]
    with Running(context, [*flags, '--cpus=1', '--memory=256M', '--video=1280x1024'], 'vm') as machine:
        machine.wait_for_socket()
        bad = machine.ctl('screenshot', context.path('no.png'), status=2)
        expect('nothing' in bad and not os.path.exists(context.path('no.png')), 'a picture of nothing', bad)
        begin = time.monotonic()
        machine.wait_for('^begun$')
        lines = wait_until_shown(machine, WORDS, size)
        print(f'  shown after {time.monotonic() - begin:.1f} s')
        # By mini_vmm itself.
        font = f'--font={context.guest}/console-font.psf.gz'
        expect(machine.ctl('screen-text', font).startswith(WORDS + '\n'), 'another text', machine.ctl('screen-text', font))
        expect(machine.ctl('wait-for-text', 'near a lazy', font) == WORDS + '\n', 'another line')
        late = machine.ctl('wait-for-text', 'never said', '--timeout=1', font, status=2)
        expect('"never said" for 1 s' in late, 'another error', late)
        expect(lines[0] == WORDS and not any(lines[1:]), 'more than that', *lines)
        machine.ctl('screenshot', f'{context.guest}/vmlinuz', status=2)
        expect(re.search('is no file', machine.ctl('screenshot', '/dev/null', status=2)), 'no file')
        expect(re.search('No such file', machine.ctl('screenshot', '/missing/a.png', status=2)), 'no folder')
        machine.wait_for('^logged$')
        check_kernel_log(machine.text())
        machine.ctl('save', state)
        machine.end(0)
    with Running(context, [f'--restore={state}', f'--screenshot={last}'], 'restored') as machine:
        machine.wait_for_socket()
        expect(shown(machine, 'restored.png') == (size, lines), 'not what was shown')
        machine.ctl('stop')
        machine.end(0)
        expect(text_of(context, last) == (size, lines), 'not what was shown last')


def last_of(film):
    """The size and the rows of RGB that an animated PNG of ours ends with, and of how many pictures it is."""
    with open(film, 'rb') as file:
        data = file.read()
    expect(data[:8] == b'\x89PNG\r\n\x1a\n', 'no PNG')
    position, count, said = 8, 0, 0
    while position < len(data):
        size, kind = struct.unpack('>I4s', data[position:position + 8])
        body = data[position + 8:position + 8 + size]
        expect(zlib.crc32(kind + body) == struct.unpack('>I', data[position + 8 + size:position + 12 + size])[0], 'a wrong sum', kind)
        position += size + 12
        if kind == b'IHDR':
            width, height = struct.unpack('>II', body[:8])
            rows = [bytearray(width * 3) for _ in range(height)]
        elif kind == b'acTL':
            said = struct.unpack('>I', body[:4])[0]
        elif kind == b'fcTL':
            _, wide, high, x, y = struct.unpack('>IIIII', body[:20])
        elif kind in (b'IDAT', b'fdAT'):
            plain = zlib.decompress(body if kind == b'IDAT' else body[4:])
            for row in range(high):
                rows[y + row][x * 3:(x + wide) * 3] = plain[row * (wide * 3 + 1) + 1:(row + 1) * (wide * 3 + 1)]
            count += 1
    expect(count == said, 'another number of pictures', count, said)
    return (width, height, [bytes(row) for row in rows]), count


def ticks(process):
    with open(f'/proc/{process.pid}/stat', encoding='ascii') as file:
        fields = file.read().rsplit(')', 1)[1].split()
    return int(fields[11]) + int(fields[12])


def wait_until_same(machine, viewer, seconds=40):
    """Until the viewer sees what a screenshot has."""
    path, end = machine.context.path('shown.png'), time.monotonic() + seconds
    while True:
        machine.ctl('screenshot', path)
        if viewer.pixels() == pixels_of(path):
            return
        machine.expect_running(end, 'same pixels')
        viewer.socket.settimeout(5)
        try:
            viewer.update()
            viewer.ask(True)
        except TimeoutError:
            pass
        viewer.socket.settimeout(30)


@case
def viewers(context):
    """Viewers see what the guest shows, as a screenshot has it, and type; those that stall, talk nonsense or are many harm nobody."""
    path, state = context.path('vnc'), context.path('state')
    command = """
until [ -e /dev/fb0 ] && [ -d /sys/bus/serio/devices/serio0/input ]; do sleep 0.1; done; sleep 0.5
exec </dev/tty1 >/dev/tty1 2>&1; printf '\\033[2J\\033[H\\033[?25l'; echo begun >/dev/ttyS0
while read -r line; do eval "$line"; done"""
    flags = [flag.replace('console=ttyS0', 'console=ttyS0 fbcon=nodefer consoleblank=0') for flag in context.guest_flags(command)]

    with Running(context, [*flags, '--cpus=1', '--memory=256M', '--video=1280x1024', '--input=keyboard', f'--vnc=unix:{path}'],
                 'vm') as machine:
        machine.wait_for_socket()
        viewer = Viewer(path)
        expect(viewer.name == b'mini_vmm' and (viewer.width, viewer.height) == (640, 480), 'another beginning', viewer.name)
        viewer.ask(False)
        expect(viewer.update() == 640 * 480 * 4, 'not all of it')
        viewer.ask(True)
        machine.wait_for('^begun$')
        stalled, *crowd = [Viewer(path) for _ in range(20)]
        stalled.ask(False)
        crowd[0].socket.sendall(b'\xff' * 4096)
        for one in crowd[1:]:
            one.socket.close()
        film = context.path('film.png')
        expect('record: there is no recording' in machine.ctl('record', '--end', status=2), 'no recording has an end')
        expect('the same file as' in machine.ctl('record', f'{context.guest}/vmlinuz', status=2), 'a kernel is overwritten')
        machine.ctl('record', film)
        expect(f'there is one already, to {film}' in machine.ctl('record', context.path('other.png'), status=2), 'two recordings')
        viewer.type('echo hvsdk\n')
        end = time.monotonic() + 20
        # The kernel's font has another v than Debian's.
        while 'h\N{REPLACEMENT CHARACTER}sdk' not in shown(machine, 'typed.png')[1]:
            machine.expect_running(end, 'hvsdk on the console')
            time.sleep(0.2)
        wait_until_same(machine, viewer)
        # Linux' pointer, which is not to be seen: a pixel that is not there.
        expect(viewer.pointer is not None and viewer.pointer[:2] == (1, 1) and viewer.pointer[3] == b'\0', 'another pointer', viewer.pointer)
        expect(f'recording  {film}\n' in machine.ctl('status'), 'no recording')
        machine.ctl('record', '--end')
        shown_last, pictures = last_of(film)
        expect(shown_last == viewer.pixels() and 2 <= pictures < 1000, 'the film ends otherwise', pictures)
        status = json.loads(machine.ctl('status', '--json'))['video']
        expect(status['vnc_viewers'] == 2, 'other viewers', status)
        expect(f'vnc        unix:{path}, 2 viewers\n' in machine.ctl('status'), 'another line')

        # An idle guest's screen costs nothing.
        time.sleep(1)
        begin, used = time.monotonic(), ticks(machine.process)
        time.sleep(5)
        used = (ticks(machine.process) - used) / os.sysconf('SC_CLK_TCK') / (time.monotonic() - begin)
        print(f'  an idle guest with a viewer: {100 * used:.2f} % of a processor')

        # A paused one shows what it showed, also to who comes then.
        machine.ctl('pause')
        late = Viewer(path)
        expect((late.width, late.height) == (1280, 1024), 'another size', late.width)
        late.ask(False)
        expect(late.update() == 1280 * 1024 * 4, 'not all of it')
        wait_until_same(machine, late)
        machine.ctl('save', state)
        machine.end(0)
        expect(not os.path.exists(path), 'the socket is left')
    with Running(context, [f'--restore={state}', f'--vnc=unix:{path}'], 'restored') as machine:
        machine.wait_for_socket()
        again = Viewer(path)
        expect((again.width, again.height) == (1280, 1024), 'another size', again.width)
        again.ask(False)
        expect(again.update() == 1280 * 1024 * 4 and again.pixels() == late.pixels(), 'not what was shown')
        again.ask(False)  # and takes nothing
        print(f'  ends {e2e.ends_on_sigterm(machine.process)[0]:.2f} s after SIGTERM')
    for address, error in [('0.0.0.0:5900', r'"0\.0\.0\.0" is no address of this host\'s loopback, [^\n]+'),
                           ('5900', r'"5900" is neither ADDRESS:PORT, such as 127\.0\.0\.1:8000, nor unix:PATH')]:
        bad = context.vmm('--kernel=x', '--video=800x600', f'--vnc={address}').expect_status(2)
        expect(re.fullmatch(f'mini_vmm: --vnc: {error}\n', bad.err), 'not that line', bad.err)
    word, folder = context.path('word'), context.path('tls')
    with open(word, 'w') as file:
        file.write('longer than eight\n')
    os.chmod(word, 0o644)
    guest = [*context.guest_flags('sleep 1000'), '--video=800x600']
    for options, error in [(f'0.0.0.0:0,password-file={word}', f'password-file={word}: others may open it; chmod 600 keeps them out'),
                           ('0.0.0.0:0,password-file=/nowhere', 'password-file=/nowhere: No such file or directory'),
                           (f'0.0.0.0:0,tls={folder}', f'tls: {folder}/server-cert.pem: No such file or directory'),
                           ('0.0.0.0:0,pass=x', None)]:
        bad = context.vmm(*guest, f'--vnc={options}').expect_status(2)
        line = f'--vnc=0.0.0.0:0: {error}' if error else '--vnc: unknown option "pass=x"; there are password-file= and tls='
        expect(bad.err == f'mini_vmm: {line}\n', 'not that line', bad.err)
    os.chmod(word, 0o600)
    os.mkdir(folder)
    for name in ('server-cert.pem', 'server-key.pem'):
        shutil.copy(word, os.path.join(folder, name))
    bad = context.vmm(*guest, f'--vnc=0.0.0.0:0,tls={folder}').expect_status(2)
    expect(f'tls: {folder}/server-cert.pem: not a certificate in PEM form: ' in bad.err, 'not that line', bad.err)
    bad = context.vmm(*guest, f'--vnc=unix:{path},password-file={word}').expect_status(2)
    expect('has 17 bytes, and VNC knows 8' in bad.err, 'not that line', bad.err)
    bad = context.vmm('--kernel=x', '--vnc=127.0.0.1:0').expect_status(2)
    expect(bad.err == 'mini_vmm: --vnc: is for machines with video\n', 'not that line', bad.err)


@case
def no_video(context):
    """A machine without a display says so; as it does of sizes that there are not."""
    with Running(context, [*context.guest_flags('echo begun; sleep 100000'), '--cpus=1', '--memory=256M'], 'none') as machine:
        machine.wait_for('^begun$')
        expect('no display' in machine.ctl('screenshot', context.path('a.png'), status=2), 'another error')
        expect('video' not in {key for key, value in json.loads(machine.ctl('status', '--json')).items() if value}, 'a display')
        machine.ctl('stop')
        machine.end(0)
    for flags, error in [(['--video=huge'], r'--video: "huge" is not none or a size such as 1920x1080'),
                         (['--video=320x200'], r'--video: 320x200 is not between 640x480 and 3840x2160'),
                         (['--screenshot=a.png'], r'--screenshot: is for machines with video'),
                         (['--video=800x600', '--deterministic'], r'--deterministic: needs a machine without video')]:
        bad = context.vmm('--kernel=x', *flags).expect_status(2)
        expect(re.fullmatch(f'mini_vmm: {error}\n', bad.err), 'not that line', bad.err)
    guest = [flag for flag in context.guest_flags('true') if 'kernel' in flag or 'initrd' in flag]
    bad = context.vmm(*guest, '--video=800x600', f'--screenshot={context.guest}/vmlinuz').expect_status(2)
    expect('the same file as' in bad.err, 'a kernel is overwritten', bad.err)


if __name__ == '__main__':
    e2e.main()

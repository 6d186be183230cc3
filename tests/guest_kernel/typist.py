#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Looks at what the guest kernel shows, and types there (examples/guest_kernel/screen_tests.cc).

typist.py SOCKET MINI_VMM [FLAG]...

Runs mini_vmm, whose VNC server is at SOCKET. Its exit status, or 1 if the picture is another.
"""

import os
import subprocess
import sys
import time

sys.path.insert(0, f'{os.path.dirname(os.path.abspath(__file__))}/../e2e')
from rfb import Viewer  # pylint: disable=wrong-import-position

WIDTH, HEIGHT = 640, 480
ENTER, ESCAPE = 0xFF0D, 0xFF1B


def picture():
    """As the guest draws it: rows of RGB."""
    red = bytes(x & 0xFF for x in range(WIDTH))
    rows = []
    for y in range(HEIGHT):
        row = bytearray(3 * WIDTH)
        row[0::3], row[1::3], row[2::3] = red, bytes([y & 0xFF]) * WIDTH, bytes((x >> 8) * 64 + (y >> 8) * 16 for x in range(WIDTH))
        rows.append(bytes(row))
    return rows


def look(machine, path):
    """A viewer, when there is something to look at."""
    while not os.path.exists(path) and machine.poll() is None:
        time.sleep(0.05)
    viewer = Viewer(path)
    viewer.socket.settimeout(None)  # the guest has limits of its own
    viewer.ask(False)
    return viewer


def wait_for(viewer, rows):
    """Before the guest shows anything, all is black."""
    while viewer.pixels() != (WIDTH, HEIGHT, rows):
        viewer.update()
        viewer.ask(True)


def look_and_type(machine, path):
    shown = picture()
    viewer = look(machine, path)
    wait_for(viewer, shown)
    for key in [*map(ord, 'hvsdk'), ENTER]:
        for is_pressed in (1, 0):
            viewer.key(key, is_pressed)
    turned = bytes(255 - value for value in range(256))
    wait_for(viewer, [row.translate(turned) for row in shown])
    for is_pressed in (1, 0):
        viewer.key(ESCAPE, is_pressed)
    try:
        while viewer.socket.recv(1 << 16):  # or what it was sent might be lost
            pass
    except ConnectionError:
        pass


def main():
    path, *command = sys.argv[1:]
    with subprocess.Popen([*command, f'--vnc=unix:{path}'], stdin=subprocess.DEVNULL) as machine:
        try:
            look_and_type(machine, path)
        except Exception as error:  # pylint: disable=broad-except
            if machine.poll() is None:
                machine.kill()
            print(f'typist: {type(error).__name__}: {error}', file=sys.stderr)
            machine.wait()
            return machine.returncode or 1
        return machine.wait()


if __name__ == '__main__':
    sys.exit(main())

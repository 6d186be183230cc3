#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A whole Debian on mini_vmm: from a dynamic VHDX, by systemd, with a network, which nothing leaves.

system.py --mini-vmm=FILE --guest=DIR --hvimg=FILE --debian-disk=FILE [--backend=NAME] CASE...

--debian-disk is what scripts/debian-system made, for `desktop` with --desktop.
"""

import collections
import functools
import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import threading
import time

import e2e
from e2e import Failure, Running, case, expect
from networks import own_network
from video import pixels_of

PACKAGE = 'hvsdk-greeting'
GREETING = 'hello from a package\n'


def make_repository(folder):
    """A flat one (sources.list(5)) with one package."""
    tree = f'{folder}/tree'
    os.makedirs(f'{tree}/DEBIAN')
    os.makedirs(f'{tree}/usr/bin')
    control = (f'Package: {PACKAGE}\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n'
               'Description: says hello\n')
    with open(f'{tree}/DEBIAN/control', 'w', encoding='ascii') as file:
        file.write(control)
    with open(f'{tree}/usr/bin/{PACKAGE}', 'w', encoding='ascii') as file:
        file.write(f"#!/bin/sh\nprintf '{GREETING.encode('unicode_escape').decode()}'\n")
    os.chmod(f'{tree}/usr/bin/{PACKAGE}', 0o755)
    repository = f'{folder}/repository'
    os.mkdir(repository)
    package = f'{repository}/{PACKAGE}_1.0_all.deb'
    subprocess.run(['dpkg-deb', '--root-owner-group', '--build', tree, package], check=True, capture_output=True)
    with open(package, 'rb') as file:
        contents = file.read()
    with open(f'{repository}/Packages', 'w', encoding='ascii') as file:
        file.write(f'{control}Filename: ./{os.path.basename(package)}\nSize: {len(contents)}\n'
                   f'SHA256: {hashlib.sha256(contents).hexdigest()}\n')
    return repository


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):  # pylint: disable=arguments-differ
        pass


def serve(folder):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def free_port():
    with socket.socket() as any_socket:
        any_socket.bind(('127.0.0.1', 0))
        return any_socket.getsockname()[1]


@case
@own_network
def debian_system(context):
    """Debian boots from a dynamic VHDX to a login prompt, takes ssh through a forward, and installs a package from the host's loopback."""
    expect(context.debian_disk and context.hvimg, '--debian-disk and --hvimg are needed')
    image, key = context.path('root.vhdx'), context.path('key')
    subprocess.run([context.hvimg, 'convert', '--format=vhdx', context.debian_disk, image], check=True)
    subprocess.run(['install', '-m', '600', f'{context.debian_disk}.key', key], check=True)
    size = os.stat(image).st_size
    web, forward = serve(make_repository(context.folder)), free_port()
    flags = [f'--kernel={context.guest}/vmlinuz', f'--initrd={context.guest}/initrd.img', f'--backend={context.backend}',
             '--memory=1G', '--no-reboot', f'--disk={image},format=vhdx',
             f'--net=user,host-loopback=on,hostfwd=tcp:127.0.0.1:{forward}-:22',
             # An emulated processor takes its time.
             '--cmdline=console=ttyS0 loglevel=4 mitigations=off hvsdk.root=/dev/sda systemd.default_timeout_start_sec=600']

    def ssh(command, status=0, seconds=300):
        done = subprocess.run(['ssh', '-F', 'none', '-i', key, '-p', str(forward), '-o', 'StrictHostKeyChecking=no',
                               '-o', 'UserKnownHostsFile=/dev/null', '-o', 'LogLevel=ERROR', '-o', 'ConnectTimeout=120',
                               'root@127.0.0.1', command],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False)
        expect(status is None or done.returncode == status, f'ssh {command!r}: {done.returncode}', done.stdout, done.stderr)
        return done

    start = time.monotonic()
    with Running(context, flags) as machine:
        machine.wait_for(r'debian-system login: ', seconds=900)
        print(f'  login prompt after {time.monotonic() - start:.0f} s', flush=True)
        end = time.monotonic() + 300
        while ssh('true', status=None).returncode != 0:
            expect(time.monotonic() < end, 'no ssh', machine.text()[-3000:])
            time.sleep(2)
        print(f'  ssh after {time.monotonic() - start:.0f} s', flush=True)
        state = ssh('systemctl is-system-running --wait; systemctl --failed --no-legend --plain', status=None, seconds=600).stdout
        expect(state == 'running\n', 'units have failed', state)
        # What the host's loopback is called there.
        ssh(f'echo "deb [trusted=yes] http://10.0.2.2:{web}/ ./" >/etc/apt/sources.list; rm -rf /etc/apt/sources.list.d/*')
        ssh('apt-get -q update', seconds=600)
        ssh(f'DEBIAN_FRONTEND=noninteractive apt-get -q -y install {PACKAGE}', seconds=600)
        expect(ssh(PACKAGE).stdout == GREETING, 'not what the package says')
        expect('Status: install ok installed' in ssh(f'dpkg -s {PACKAGE}').stdout, 'not installed')
        ssh('dd if=/dev/urandom of=/root/data bs=1M count=16 2>/dev/null; sha256sum </root/data >/root/digest; sync')
        ssh('systemctl poweroff', status=None)
        machine.process.wait(timeout=600)
        expect(machine.process.returncode == 0, f'exit status {machine.process.returncode}', machine.text()[-3000:])
        print(f'  off after {time.monotonic() - start:.0f} s', flush=True)
    # The image is whole, and holds what was done.
    raw = context.path('root.raw')
    subprocess.run([context.hvimg, 'check', image], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([context.hvimg, 'convert', '--format=raw', image, raw], check=True)
    checked = subprocess.run(['e2fsck', '-fn', raw], capture_output=True, text=True, check=False)
    expect(checked.returncode == 0, 'the file system', checked.stdout)
    for name in ('data', 'digest'):
        subprocess.run(['debugfs', '-R', f'dump /root/{name} {context.path(name)}', raw], check=True, capture_output=True)
    with open(context.path('digest'), encoding='ascii') as file:
        expect(file.read().split()[0] == e2e.sha256(context.path('data')), 'the image holds something else than the guest wrote')
    if os.stat(image).st_size < size:
        raise Failure('the image has become shorter')


@case
def desktop(context):
    """Weston shows a terminal by hyperv_drm, which takes what is typed. Needs a kernel with that driver; HVSDK_PICTURE is a file for what it
    shows."""
    expect(context.debian_disk and context.hvimg, '--debian-disk and --hvimg are needed')
    image, picture = context.path('root.vhdx'), context.path('shown.png')
    subprocess.run([context.hvimg, 'convert', '--format=vhdx', context.debian_disk, image], check=True)
    flags = [f'--kernel={context.guest}/vmlinuz', f'--initrd={context.guest}/initrd.img', f'--backend={context.backend}',
             '--memory=1G', '--no-reboot', f'--disk={image},format=vhdx', '--video=1024x768', '--input=all',
             '--cmdline=console=ttyS0 loglevel=4 mitigations=off hvsdk.root=/dev/sda systemd.default_timeout_start_sec=600']
    start = time.monotonic()
    with Running(context, flags) as machine:
        machine.wait_for(r'debian-system login: ', seconds=900)
        print(f'  login prompt after {time.monotonic() - start:.0f} s', flush=True)
        # As soon as the window is there, and has the keyboard.
        while 'hvsdk is here' not in machine.text():
            machine.expect_running(start + 1200, 'an answer from the terminal')
            machine.ctl('type', "echo hvsdk 'is' here >/dev/ttyS0", '--enter')
            time.sleep(5)
        print(f'  a window after {time.monotonic() - start:.0f} s', flush=True)
        machine.ctl('type', "clear; head -3 /etc/os-release; cat /sys/class/drm/card0/device/uevent", '--enter')
        time.sleep(20)
        machine.ctl('mouse', '90%,90%')
        time.sleep(5)
        machine.ctl('screenshot', picture)
        width, height, rows = pixels_of(picture)
        expect((width, height) == (1024, 768), 'another size', width, height)
        colours = collections.Counter(row[at:at + 3] for row in rows for at in range(0, len(row), 3))
        background = colours[bytes((0x2d, 0x4f, 0x6b))]
        expect(width * height // 5 < background < width * height * 9 // 10, 'no desktop', colours.most_common(5))
        terminal = colours.most_common(2)[1][1]
        expect(terminal > width * height // 20, 'no window', colours.most_common(5))
        # The pointer is drawn by Weston, as the driver has none.
        machine.ctl('mouse', '80%,80%')
        end = time.monotonic() + 60
        while True:
            machine.ctl('screenshot', picture + '.moved')
            if pixels_of(picture + '.moved') != (width, height, rows):
                break
            machine.expect_running(end, 'that the pointer moves')
        if os.environ.get('HVSDK_PICTURE'):
            shutil.copyfile(picture, os.environ['HVSDK_PICTURE'])
        machine.ctl('type', 'systemctl poweroff', '--enter')
        machine.process.wait(timeout=600)
        expect(machine.process.returncode == 0, f'exit status {machine.process.returncode}', machine.text()[-3000:])


if __name__ == '__main__':
    e2e.main()

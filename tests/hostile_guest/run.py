#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run.py MINI_VMM KERNEL WAY [--slow=N]

Lets the hostile guest do its worst for some seconds on the software engine, and expects that mini_vmm stays small, ends within two
seconds of SIGTERM (times N under a sanitizer), and by no fault of its own. A guest that has wrecked itself before is started again.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SECONDS = 3
GROWTH_MIB = 256


def resident_mib(pid):
    try:
        with open(f'/proc/{pid}/status') as status:
            for line in status:
                if line.startswith('VmRSS:'):
                    return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0  # it has ended


def listen(listener):
    while True:
        connection = listener.accept()[0]
        threading.Thread(target=drain, args=[connection], daemon=True).start()


def drain(connection):
    try:
        while connection.recv(65536):
            pass
    except OSError:
        pass
    connection.close()


def ask(args, process, work):
    """The machine answers its owner, whatever its guest does."""
    asked = subprocess.run([args.mini_vmm, 'ctl', f'{work}/control', 'status'], capture_output=True, text=True, timeout=10 * args.slow, check=False)
    if process.poll() is None and (asked.returncode != 0 or 'storage/0' not in asked.stdout):
        sys.exit(f'the machine answers nothing: {asked.stdout}{asked.stderr}')


def run_once(args, work, seconds):
    """Returns how long the guest was at it."""
    command = [args.mini_vmm, '--backend=software', f'--kernel={args.kernel}', f'--cmdline={args.way}', '--memory=64M', '--cpus=4',
               f'--disk={work}/disk', f'--trace={work}/trace', '--no-reboot']
    if args.way == 'devices':
        # Whoever connects is heard, and not answered.
        listener = socket.socket(socket.AF_UNIX)
        if os.path.exists(f'{work}/sockets_512'):
            os.unlink(f'{work}/sockets_512')
        listener.bind(f'{work}/sockets_512')
        listener.listen(16)
        threading.Thread(target=listen, args=[listener], daemon=True).start()
        command += ['--video=800x600', '--input=all', '--net=switch', f'--sockets={work}/sockets', f'--control={work}/control']
    errors = tempfile.TemporaryFile(mode='w+')
    # AddressSanitizer keeps 256 MiB of what was freed, which would hide what grows.
    sanitizer = os.environ.get('ASAN_OPTIONS', '') + ':quarantine_size_mb=16'
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                               env=os.environ | {'ASAN_OPTIONS': sanitizer})
    lines = []
    ready = threading.Event()

    def read():
        for line in process.stdout:
            lines.append(line.decode(errors='replace'))
            if 'hostile' in lines[-1]:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        if not ready.wait(30 * args.slow):
            sys.exit(f'the guest did not begin: {lines}')
        if not any('hostile' in line for line in lines):
            process.wait(10 * args.slow)  # it was quick to wreck itself
        start = time.monotonic()
        before = resident_mib(process.pid)
        most = before
        while process.poll() is None and time.monotonic() - start < seconds:
            time.sleep(0.05)
            most = max(most, resident_mib(process.pid))
            if args.way == 'devices':
                ask(args, process, work)
        lasted = time.monotonic() - start
        asked = process.poll() is None
        if asked:
            stopped = time.monotonic()
            process.send_signal(signal.SIGTERM)
            limit = 2 * args.slow
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                sys.exit(f'still there {limit} s after SIGTERM')
            print(f'{args.way}: ended {time.monotonic() - stopped:.2f} s after SIGTERM, resident {before:.0f} to {most:.0f} MiB')
        # What a guest can do to itself: power off, reset, crash.
        if process.returncode not in ([128 + signal.SIGTERM] if asked else []) + [0, 10, 11]:
            errors.seek(0)
            sys.exit(f'mini_vmm ended with {process.returncode}:\n{errors.read()}')
        if most - before > GROWTH_MIB:
            sys.exit(f'resident memory grew from {before:.0f} to {most:.0f} MiB')
        return lasted
    finally:
        process.kill()
        process.wait()
        reader.join()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('mini_vmm')
    parser.add_argument('kernel')
    parser.add_argument('way')
    parser.add_argument('--slow', type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        with open(f'{work}/disk', 'wb') as disk:
            disk.truncate(256 << 30)
        left, runs = SECONDS, 0
        while left > 0.1 and runs < 50:
            left -= run_once(args, work, left)
            runs += 1
        print(f'{args.way}: {runs} runs')
        if left > SECONDS - 1:
            sys.exit('the guest wrecked itself too soon to do any harm')


main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Commands in guests of mini_vmm, by the agent there.

exec.py --mini-vmm=FILE --guest=DIR --guest-agent=FILE [--backend=NAME] CASE...
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import time

import e2e
from e2e import Running, case, check_kernel_log, expect

MANY = 40


def flags_of(context, command, *more):
    """Of a guest that has the agent."""
    path = context.path('agent.img')
    with open(f'{context.guest}/initrd.img', 'rb') as plain, open(context.guest_agent, 'rb') as agent, open(path, 'wb') as made:
        made.write(plain.read() + e2e.ramdisk({'bin/guest_agent': agent.read()}))
    flags = [flag for flag in context.guest_flags(command) if not flag.startswith('--initrd=')]
    return [*flags, f'--initrd={path}', '--memory=256M', f'--sockets={context.path("v.sock")}', *more]


def begin(machine, *words, **options):
    pipes = {name: subprocess.PIPE for name in ('stdin', 'stdout', 'stderr')} | options
    return subprocess.Popen([machine.context.mini_vmm, 'ctl', machine.socket, 'exec', *words], **pipes)


def run(machine, *words, data=b''):
    """Its status, output and errors."""
    with begin(machine, *words) as process:
        try:
            out, err = process.communicate(data, timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise e2e.Failure(f'{words} does not end') from None
    return process.returncode, out, err


def expect_run(machine, words, *wanted, data=b''):
    found = run(machine, *words, data=data)
    expect(found == wanted, f'{words}', found if len(str(found)) < 2000 else 'much')


def wait_for(machine, words, wanted, seconds=20):
    end = time.monotonic() + seconds
    while (found := run(machine, *words)) != wanted:
        expect(time.monotonic() < end, f'{words} in the end', found)
        time.sleep(0.2)


@case
def commands(context):
    """What goes in and comes out, how they end, and what happens when either side goes."""
    with Running(context, flags_of(context, 'echo begun; sleep 1; cat', '--cpus=2'), 'vm') as machine:
        machine.wait_for('^begun$')
        expect_run(machine, ['echo', 'a  b', ''], 0, b'a  b \n', b'')
        expect_run(machine, ['--', 'sh', '-c', 'echo out; echo error >&2; exit 7'], 7, b'out\n', b'error\n')
        expect_run(machine, ['sh', '-c', 'kill -9 $$'], 137, b'', b'')
        expect_run(machine, ['sh', '-c', 'kill -TERM $$'], 143, b'', b'')
        expect_run(machine, ['nowhere'], 127, b'', b'nowhere: No such file or directory\n')
        expect_run(machine, ['/etc'], 126, b'', b'/etc: Permission denied\n')
        expect_run(machine, ['sh', '-c', 'exec 0<&-; sleep 0.5; echo done'], 0, b'done\n', b'', data=bytes(1 << 20))
        # Every byte, both ways, and the end of what goes in.
        data = random.randbytes(3 << 20)
        start = time.monotonic()
        expect_run(machine, ['cat'], 0, data, b'', data=data)
        print(f'  3 MiB there and back in {time.monotonic() - start:.2f} s')
        expect_run(machine, ['sh', '-c', 'cat >&2; wc -c </dev/null'], 0, b'0\n', data[:100_000], data=data[:100_000])
        with open(__file__, 'rb') as file, begin(machine, 'md5sum', stdin=file) as process:
            expect(process.communicate(timeout=60)[0] == subprocess.run(['md5sum'], stdin=open(__file__, 'rb'), check=True, capture_output=True).stdout,
                   'another file')
        with begin(machine, 'cat', stdin=subprocess.DEVNULL) as process:
            expect(process.communicate(timeout=60) == (b'', b''), 'input from nowhere')
        # What it leaves in the background does not hold it up.
        start = time.monotonic()
        expect_run(machine, ['sh', '-c', 'sleep 1234 & echo left'], 0, b'left\n', b'')
        expect(time.monotonic() - start < 30, 'it waited')
        wait_for(machine, ['killall', 'sleep'], (0, b'', b''))

        # Ctrl-C reaches the command, and what it started, also if it does not read what was typed.
        full = begin(machine, 'sh', '-c', 'echo begun; sleep 2345; echo no')
        expect(full.stdout.readline() == b'begun\n', 'no beginning')
        os.set_blocking(full.stdin.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(full.stdin.fileno(), bytes(4096))
        full.send_signal(signal.SIGINT)
        expect(full.wait(30) == 130 and full.stdout.read() == b'', 'not ended by SIGINT', full.returncode)
        # The first goes to a command that does not care; the second ends this end, and that the command.
        start = time.monotonic()
        deaf = begin(machine, 'sh', '-c', 'trap "" INT TERM; echo begun; while :; do sleep 3456; done')
        expect(deaf.stdout.readline() == b'begun\n', 'no beginning')
        deaf.send_signal(signal.SIGINT)
        time.sleep(1)
        expect(deaf.poll() is None, 'ended by one signal')
        deaf.send_signal(signal.SIGTERM)
        expect(deaf.wait(30) == 143, 'not ended', deaf.returncode)
        gone = begin(machine, 'sh', '-c', 'echo begun; sleep 4567; echo no')
        expect(gone.stdout.readline() == b'begun\n', 'no beginning')
        gone.kill()
        gone.wait()
        wait_for(machine, ['sh', '-c', 'ps | grep -c "[s]leep [34]"'], (1, b'0\n', b''))
        # Nobody reads what it writes.
        with begin(machine, 'yes') as process:
            expect(process.stdout.read(4) == b'y\ny\n', 'no output')
            process.stdout.close()
            expect(process.wait(30) == 141, 'not ended', process.returncode)
        wait_for(machine, ['sh', '-c', 'ps | grep -c "[ ]yes$"'], (1, b'0\n', b''))

        # A machine that stands still is asked nothing; what runs goes on with it.
        with begin(machine, 'cat') as process:
            process.stdin.write(b'before\n')
            process.stdin.flush()
            expect(process.stdout.readline() == b'before\n', 'no echo')
            machine.ctl('pause')
            expect('the machine is paused' in machine.ctl('exec', 'true', status=125), 'of a paused machine')
            process.stdin.write(b'meanwhile\n')
            process.stdin.flush()
            machine.ctl('resume')
            expect(process.communicate(timeout=60) == (b'meanwhile\n', b'') and process.returncode == 0, 'not after the pause', process.returncode)

        # Many at once.
        start = time.monotonic()
        many = [begin(machine, 'sh', '-c', f'cat; echo {number} >&2; exit {number}') for number in range(MANY)]
        for number, process in enumerate(many):
            process.stdin.write(b'%d' % number * 1000)
            process.stdin.flush()
        for number, process in enumerate(many):
            out, err = process.communicate(timeout=120)
            expect((process.returncode, out, err) == (number, b'%d' % number * 1000, b'%d\n' % number), f'command {number}', process.returncode, err)
        print(f'  {MANY} commands at once in {time.monotonic() - start:.1f} s')

        # Programs of the guest's own are not listened to, and a peer that speaks something else is let go.
        left = begin(machine, 'sleep', '5678')
        time.sleep(1)
        expect_run(machine, ['sh', '-c', 'kill -KILL $(pidof guest_agent)'], 125, b'',
                   f'mini_vmm: ctl {machine.socket}: exec: the guest\'s agent has gone\n'.encode())
        expect(left.wait(30) == 125 and b'agent has gone' in left.stderr.read(), 'it goes on', left.returncode)
        # One that had come into its backlog before finds it gone.
        end = time.monotonic() + 20
        while (found := run(machine, 'true'))[2].endswith(b"exec: the guest's agent has gone\n"):
            expect(found[0] == 125 and time.monotonic() < end, 'an agent that goes', found)
        expect(found[0] == 125 and re.fullmatch(rb'mini_vmm: ctl \S+: exec: nobody answers at port 512 in the guest[^\n]*\n', found[2]), 'an agent', found)
        machine.ctl('stop')
        machine.end(0)
        check_kernel_log(machine.text())


@case
def no_agent(context):
    """What a user can get wrong, in one line."""
    with Running(context, [*context.guest_flags('echo begun; sleep 1000'), '--memory=256M'], 'vm') as machine:
        machine.wait_for_socket()
        expect('the machine has no sockets; see --sockets' in machine.ctl('exec', 'true', status=125), 'sockets')
        expect('a command is needed' in machine.ctl('exec', status=2), 'no command')
        expect('a command is needed' in machine.ctl('exec', '--', status=2), 'no command')
        expect('"-t" is not expected' in machine.ctl('exec', '-t', 'sh', status=2), 'an option')
        expect('longer than 64 KiB' in machine.ctl('exec', 'x' * 70_000, status=2), 'much')
        machine.ctl('stop')
        machine.end(0)
        expect('No such file' in machine.ctl('exec', 'true', status=125), 'no machine')


if __name__ == '__main__':
    e2e.main()

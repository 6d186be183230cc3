#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guests of mini_vmm and what is typed and pointed on their keyboard and mouse.

input.py --mini-vmm=FILE --guest=DIR [--backend=NAME] CASE...
"""

import json
import re
import time

import e2e
from e2e import Running, case, check_kernel_log, expect
from rfb import Viewer


def flags_of(context, command, *more):
    """Of a guest that has the program input_events."""
    return [*context.guest_flags(command, program='input_events'), '--memory=256M', *more]


def events_of(machine, seen):
    # The last line may not be whole yet.
    return re.findall(r'^((?:key|abs|rel) \d+ -?\d+|dropped)\n', machine.text().split('listening')[-1], re.M)[seen:]


def expect_events(machine, words, wanted, seen, seconds=20):
    """What a command makes the guest see, or who does it otherwise. Returns how many events it has seen then."""
    if callable(words):
        words()
    else:
        machine.ctl(*words)
    end = time.monotonic() + seconds
    while True:
        got = events_of(machine, seen)
        if got == wanted:
            return seen + len(got)
        expect(got == wanted[:len(got)] and time.monotonic() < end, f'{words}: other events', got[-20:], wanted)
        time.sleep(0.05)


def strokes(*codes):
    return [f'key {code} {value}' for code in codes for value in (1, 0)]


@case
def typing(context):
    """A text is typed to the guest's shell; what cannot be is said in a line."""
    flags = flags_of(context, 'until [ -d /sys/bus/serio/devices/serio0/input ]; do sleep 0.1; done; echo begun; '
                     'while read -r line; do eval "$line"; done </dev/tty1; echo "shell ended"')
    with Running(context, [*flags, '--input=keyboard'], 'vm') as machine:
        machine.wait_for_socket()
        expect('no driver for its keyboard yet' in machine.ctl('type', 'echo early', status=2), 'typed without a driver')
        machine.wait_for('^begun$')
        machine.ctl('type', 'echo hvsdk', '--enter')
        machine.wait_for('^hvsdk$')
        text = ''.join(chr(code) for code in range(ord(' '), ord('~') + 1) if chr(code) != "'")
        machine.ctl('type', f"printf '%s\\n' '{text}'\n")
        machine.wait_for(f'^{re.escape(text)}$')
        machine.ctl('type', 'echo ' + 'x' * 1000 + ' | wc -c\n')
        machine.wait_for('^1001$')
        expect('no keys for "☃" (U+2603)' in machine.ctl('type', 'snow ☃', status=2), 'a snowman')
        expect('"hyper" is no key' in machine.ctl('key', 'ctrl-hyper', status=2), 'a key that there is not')
        expect('is no keyboard layout' in machine.ctl('type', '--layout=../x', 'a', status=2), 'a layout that there is not')
        expect('has no mouse' in machine.ctl('mouse', '1,1', status=2), 'a mouse')
        expect(json.loads(machine.ctl('status', '--json'))['input']['keyboard'] == 'ready', 'the status')
        machine.ctl('key', 'ctrl-d')
        machine.wait_for('^shell ended$')
        machine.end(0)
        check_kernel_log(machine.text())
    bad = context.vmm('--kernel=x', '--input=keyboard,joystick').expect_status(2)
    expect(bad.err == 'mini_vmm: --input: "joystick" is none of keyboard and mouse, nor all or none by itself\n', 'not one line', bad.err)
    bad = context.vmm('--kernel=x', '--keyboard-layout=de').expect_status(2)
    expect(bad.err == 'mini_vmm: --keyboard-layout: the machine has no keyboard\n', 'not one line', bad.err)


@case
def events(context):
    """What programs see of keys and of the mouse; keys that are held when a state is saved are let go of where it goes on."""
    state = context.path('state')
    with Running(context, [*flags_of(context, '/input_events', '--input=all')], 'vm') as machine:
        machine.wait_for('^listening$')
        seen = expect_events(machine, ['type', 'aA'], [*strokes(30), 'key 42 1', *strokes(30), 'key 42 0'], 0)
        seen = expect_events(machine, ['type', '--layout=de', 'äß€'],
                             [*strokes(40, 12), 'key 100 1', *strokes(18), 'key 100 0'], seen)
        seen = expect_events(machine, ['key', 'f1', 'f12', 'up', 'pause', 'print', 'altgr', 'menu', 'numpad7'],
                             strokes(59, 88, 103, 119, 99, 100, 127, 71), seen)
        seen = expect_events(machine, ['key', 'ctrl-alt-f2'], ['key 29 1', 'key 56 1', *strokes(60), 'key 56 0', 'key 29 0'], seen)
        seen = expect_events(machine, ['key', '--press', 'shift-b'], ['key 42 1', 'key 48 1'], seen)
        # Linux leaves it to the keyboard to repeat what is held, if not too soon.
        time.sleep(1)
        seen = expect_events(machine, ['key', '--press', 'b'], ['key 48 2'], seen)
        expect(json.loads(machine.ctl('status', '--json'))['input']['held_keys'] == 2, 'the status')
        seen = expect_events(machine, ['key', '--release', 'shift-b'], ['key 48 0', 'key 42 0'], seen)

        seen = expect_events(machine, ['mouse', '100,32767'], ['abs 0 100', 'abs 1 32767'], seen)
        seen = expect_events(machine, ['mouse', '50%,0%,left', '--click'],
                             ['key 272 1', 'abs 0 16384', 'abs 1 0', 'key 272 0'], seen)
        seen = expect_events(machine, ['mouse', '50%,0,wheel=-3,pan=2'], ['rel 8 -3', 'rel 11 -360', 'rel 6 2', 'rel 12 240'], seen)
        for number, button in enumerate(['left', 'right', 'middle', 'back', 'forward']):
            seen = expect_events(machine, ['mouse', f'50%,0,{button}', '--click'], strokes(272 + number), seen)
        expect('no button' in machine.ctl('mouse', '1,1,lef', status=2), 'a button that there is not')
        expect('is no place' in machine.ctl('mouse', '1,32768', status=2), 'a place that there is not')

        seen = expect_events(machine, ['key', '--press', 'ctrl-x'], ['key 29 1', 'key 45 1'], seen)
        seen = expect_events(machine, ['mouse', '1,2,right'], ['key 273 1', 'abs 0 1', 'abs 1 2'], seen)
        # A machine that goes on still has its typist.
        machine.ctl('save', '--live', context.path('live'))
        expect(json.loads(machine.ctl('status', '--json'))['input']['held_keys'] == 2 and not events_of(machine, seen), 'let go of')
        machine.ctl('save', state)
        machine.end(0)
        check_kernel_log(machine.text())
    with Running(context, [f'--restore={state}', '--no-reboot'], 'restored') as machine:
        machine.wait_for('^key 273 0$')
        released = [event for event in events_of(machine, 0) if event.endswith(' 0')]
        expect(sorted(released) == ['key 273 0', 'key 29 0', 'key 45 0'], 'not let go of', released)
        # Which Linux takes for itself.
        machine.ctl('key', 'ctrl-alt-delete')
        machine.end(10)


@case
def viewer_events(context):
    """What programs see of a viewer's keys, by symbol and by place, its pointer and wheel; what it holds is let go of when it goes."""
    path = context.path('vnc')
    with Running(context, [*flags_of(context, '/input_events', '--input=all', '--video=800x600', '--keyboard-layout=de', f'--vnc=unix:{path}')],
                 'vm') as machine:
        machine.wait_for('^listening$')
        viewer = Viewer(path)
        last_x, last_y = viewer.width - 1, viewer.height - 1

        def keys(*events):
            return lambda: [viewer.key(symbol, is_pressed) for symbol, is_pressed in events]

        def strokes_of(*symbols):
            return keys(*[(symbol, is_pressed) for symbol in symbols for is_pressed in (1, 0)])

        control, alt, level3 = 0xFFE3, 0xFFE9, 0xFE03
        seen = expect_events(machine, strokes_of(ord('ä'), ord('ß'), ord('z')), strokes(40, 12, 21), 0)
        seen = expect_events(machine, keys((level3, 1), (0x20AC, 1), (0x20AC, 0), (level3, 0)),
                             ['key 100 1', *strokes(18), 'key 100 0'], seen)
        seen = expect_events(machine, keys((control, 1), (alt, 1), (0xFFBF, 1), (0xFFBF, 0), (alt, 0), (control, 0)),
                             ['key 29 1', 'key 56 1', *strokes(60), 'key 56 0', 'key 29 0'], seen)
        # Held: what the viewer repeats is the same key again.
        seen = expect_events(machine, keys((ord('b'), 1)), ['key 48 1'], seen)
        time.sleep(1)
        seen = expect_events(machine, keys((ord('b'), 1)), ['key 48 2'], seen)
        seen = expect_events(machine, keys((ord('b'), 0)), ['key 48 0'], seen)
        # By place: the arrow and the key that is beside the left Shift on European keyboards.
        seen = expect_events(machine, lambda: [viewer.key_code(code, is_pressed) for code in (0xC8, 0x56) for is_pressed in (1, 0)],
                             strokes(103, 86), seen)

        seen = expect_events(machine, lambda: viewer.point(0, last_x, last_y), ['abs 0 32767', 'abs 1 32767'], seen)
        seen = expect_events(machine, lambda: viewer.point(1, 0, last_y), ['key 272 1', 'abs 0 0'], seen)
        seen = expect_events(machine, lambda: viewer.point(0, 0, last_y), ['key 272 0'], seen)
        for mask, button in (4, 273), (2, 274):
            seen = expect_events(machine, lambda mask=mask: [viewer.point(mask, 0, last_y), viewer.point(0, 0, last_y)],
                                 strokes(button), seen)
        for mask, wheel, turn in (8, 8, 1), (16, 8, -1), (32, 6, -1), (64, 6, 1):
            seen = expect_events(machine, lambda mask=mask: [viewer.point(mask, 0, last_y), viewer.point(0, 0, last_y)],
                                 [f'rel {wheel} {turn}', f'rel {wheel + 3 if wheel == 8 else 12} {120 * turn}'], seen)

        seen = expect_events(machine, keys((control, 1), (ord('x'), 1)), ['key 29 1', 'key 45 1'], seen)
        seen = expect_events(machine, lambda: viewer.point(4, 0, last_y), ['key 273 1'], seen)
        viewer.socket.close()
        end = time.monotonic() + 20
        while sorted(events_of(machine, seen)) != ['key 273 0', 'key 29 0', 'key 45 0']:
            machine.expect_running(end, 'that it is let go of')
            time.sleep(0.05)
        machine.ctl('stop')
        machine.end(0)
        check_kernel_log(machine.text())


if __name__ == '__main__':
    e2e.main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads the include graph of include/ and src/ and fails on an arrow that runs up or sideways.

Floors are those of docs/architecture.md. A library may include itself and what stands on a lower floor. Some may include
less than their floor allows, because they must stay usable without the rest; NARROW says which.

Usage: floors_test.py ROOT [unittest argument]...
"""

import collections
import os
import re
import sys
import tempfile
import unittest

FLOORS = {
    'hvdef': 0, 'base': 0,
    'memory': 1, 'state': 1,
    'backend': 2, 'resource': 2,
    'interrupt': 3, 'os': 3, 'input': 3, 'ethernet': 3, 'hypercall': 3, 'vmbus_ring': 3,
    'partition': 4, 'vmbus': 4, 'chipset': 4, 'scsi': 4, 'image': 4, 'network': 4, 'viewer': 4, 'web': 4,
    'boot': 5, 'vsp': 5, 'vsc': 5, 'xen': 5,
    'backend_kvm': 5, 'backend_software': 5, 'backend_whpx': 5, 'backend_baremetal': 5,
    'machine': 6,
    'vmm': 7,
}

ENGINE = {'hvdef', 'base', 'state', 'memory', 'backend', 'interrupt'}
SERVICE = {'hvdef', 'base', 'state', 'memory', 'resource', 'ethernet', 'scsi', 'vmbus_ring', 'vmbus'}
NARROW = {
    'state': {'base'},
    'backend': {'hvdef', 'base', 'state'},
    'hvdef': set(),                                       # constants and structs; not even Abseil
    'base': {'hvdef'},
    'resource': {'hvdef', 'base', 'memory'},
    'interrupt': {'base', 'state'},
    'os': {'base', 'resource'},
    'input': {'base', 'resource'},                        # what keys are called; no guest, no display
    'ethernet': {'base', 'memory', 'resource'},
    'vmbus_ring': {'hvdef', 'memory'},
    'partition': {'hvdef', 'base', 'state', 'memory', 'backend', 'hypercall'},
    'vmbus': {'hvdef', 'base', 'state', 'memory', 'vmbus_ring'},   # runs without any CPU
    'chipset': {'base', 'state', 'memory', 'resource', 'interrupt'},
    'scsi': {'hvdef', 'base', 'state', 'memory', 'resource'},      # what SCSI says, whoever carries it
    'image': {'base', 'state', 'memory', 'resource', 'os'},
    'network': {'hvdef', 'base', 'state', 'memory', 'resource', 'os', 'ethernet'},
    'viewer': {'base', 'memory', 'resource', 'os', 'input'},       # sees a display, never a guest
    'web': {'base', 'resource', 'os'},                             # pages, whatever they show
    'boot': {'hvdef', 'base', 'state', 'memory', 'backend', 'interrupt', 'resource', 'chipset'},  # describes them to the guest
    'vsp': SERVICE, 'vsc': SERVICE,                       # never see a backend
    'backend_kvm': ENGINE, 'backend_software': ENGINE,    # know nothing of VMBus or hypercalls
    'backend_whpx': ENGINE, 'backend_baremetal': ENGINE,
    'machine': {library for library in FLOORS if not library.startswith('backend_')},  # runs on any engine
}
# Rooms within a library: a file may include those of its own room and of lower ones. '' is the library's folder itself.
ROOMS = {'backend_software': {'processor': 0, 'code': 1, 'integer': 2, 'vector': 2, '': 3}}
NO_ABSEIL = {'hvdef'}
# The one arrow within a floor: base's interfaces speak of the wire, HvStatus above all.
BESIDE = {('base', 'hvdef')}

# In angle brackets, a bare <memory> is the standard library's.
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"|<(?=hvsdk/|absl/))([^">]+)[">]', re.MULTILINE)
SOURCES = ('.h', '.cc', '.inc', '.c', '.S')


def library_of(path):
    """The library of an include path (hvsdk/x/y.h is public, x/y.h private), or None if it is none of ours."""
    parts = path.split('/')
    if parts[0] == 'hvsdk':
        parts = parts[1:]
    elif parts[0] not in FLOORS:
        return None
    if parts[:2] == ['vmbus', 'ring']:
        return 'vmbus_ring'
    if parts[:2] == ['hypercall', 'xen']:
        return 'xen'
    return parts[0]


def sources(root):
    """Yields (file, library, [included path]) of every source file below root's include/hvsdk and src."""
    for top in ('include/hvsdk', 'src'):
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                if not name.endswith(SOURCES):
                    continue
                file = os.path.join(folder, name)
                library = library_of('hvsdk/' + os.path.relpath(file, os.path.join(root, top)))
                with open(file, encoding='utf-8') as source:
                    yield os.path.relpath(file, root), library, INCLUDE.findall(source.read())


def room_of(path):
    """The room of a private path within its library: of backend_software/code/decoder.h, code."""
    return '/'.join(path.split('/')[1:-1])


def room_fault(file, library, target):
    """What is wrong between two rooms of one library, or None."""
    rooms = ROOMS.get(library)
    if rooms is None or not file.startswith('src/') or not target.startswith(library + '/'):
        return None
    here, there = room_of(file[len('src/'):]), room_of(target)
    for room in (here, there):
        if room not in rooms:
            return f'{library}/{room} has no place among the rooms'
    if here != there and rooms[there] >= rooms[here]:
        return f'{library}/{here} may not include {target}'
    return None


def fault(library, target):
    """What is wrong with the library's including the target, or None."""
    if target.startswith('absl/') and library in NO_ABSEIL:
        return f'{library} may not include {target}'
    other = library_of(target)
    if other is None or other == library:
        return None
    if other not in FLOORS:
        return f'{target} belongs to no library'
    if FLOORS[other] >= FLOORS[library] and (library, other) not in BESIDE:
        way = 'up' if FLOORS[other] > FLOORS[library] else 'sideways'
        return f'{library} (floor {FLOORS[library]}) includes {target} (floor {FLOORS[other]}): {way}'
    if other not in NARROW.get(library, FLOORS):
        return f'{library} may not know {other}, but includes {target}'
    return None


def faults(root):
    """One line for every arrow that is not allowed."""
    found = []
    for file, library, targets in sources(root):
        if library in FLOORS:
            reasons = [fault(library, target) or room_fault(file, library, target) for target in targets]
        else:
            reasons = [f'library {library} has no floor; give it one in docs/architecture.md and here']
        found += [f'{file}: {reason}' for reason in reasons if reason]
    return found


class Floors(unittest.TestCase):
    root = '.'
    maxDiff = None

    def faults_of(self, **files):
        """Faults of a tree with the given files; `__` in a name stands for a slash."""
        with tempfile.TemporaryDirectory() as tree:
            for name, text in files.items():
                path = os.path.join(tree, name.replace('__', '/') + '.h')
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, 'w', encoding='utf-8') as out:
                    out.write(text)
            return faults(tree)

    def test_tree_is_sound(self):
        self.assertEqual([], faults(self.root))

    def test_tree_is_there(self):
        files = collections.Counter(library for _, library, _ in sources(self.root))
        self.assertGreater(files['backend'], 0)
        self.assertGreater(files['memory'], 0)

    def test_down_is_allowed(self):
        self.assertEqual([], self.faults_of(
            include__hvsdk__partition__a='#include "hvsdk/hypercall/b.h"\n#include "base/check.h"\n#include <vector>\n'))

    def test_up_is_found(self):
        self.assertIn('up', self.faults_of(src__memory__a='  #  include "hvsdk/vmm/b.h"\n')[0])

    def test_sideways_is_found(self):
        self.assertIn('sideways', self.faults_of(include__hvsdk__partition__a='#include "hvsdk/chipset/b.h"\n')[0])

    def test_private_header_is_found(self):
        self.assertIn('up', self.faults_of(src__base__a='#include "partition/b.h"\n')[0])

    def test_ring_is_narrower_than_vmbus(self):
        self.assertEqual([], self.faults_of(include__hvsdk__vmbus__a='#include "hvsdk/vmbus/ring/b.h"\n'))
        self.assertEqual(1, len(self.faults_of(include__hvsdk__vmbus__ring__a='#include "hvsdk/vmbus/b.h"\n')))
        self.assertEqual(1, len(self.faults_of(include__hvsdk__vmbus__ring__a='#include "hvsdk/backend/b.h"\n')))

    def test_engine_knows_no_hypercalls(self):
        self.assertEqual(1, len(self.faults_of(src__backend_kvm__a='#include "hvsdk/hypercall/b.h"\n')))

    def test_machine_names_no_engine(self):
        self.assertEqual([], self.faults_of(src__machine__a='#include "hvsdk/backend/b.h"\n'))
        self.assertEqual(1, len(self.faults_of(src__machine__a='#include "hvsdk/backend_software/b.h"\n')))

    def test_rooms(self):
        self.assertEqual([], self.faults_of(src__backend_software__code__a='#include "backend_software/processor/b.h"\n'))
        self.assertEqual([], self.faults_of(src__backend_software__a='#include "backend_software/vector/b.h"\n'))
        self.assertEqual(1, len(self.faults_of(src__backend_software__processor__a='#include "backend_software/code/b.h"\n')))
        self.assertEqual(1, len(self.faults_of(src__backend_software__code__a='#include "backend_software/machine.h"\n')))
        self.assertEqual(1, len(self.faults_of(src__backend_software__integer__a='#include "backend_software/vector/b.h"\n')))
        self.assertEqual(1, len(self.faults_of(src__backend_software__fresh__a='#include "backend_software/vector/b.h"\n')))

    def test_base_speaks_of_the_wire(self):
        self.assertEqual([], self.faults_of(include__hvsdk__base__a='#include "hvsdk/hvdef/status.h"\n'))
        self.assertIn('sideways', self.faults_of(include__hvsdk__hvdef__a='#include "hvsdk/base/ids.h"\n')[0])

    def test_wire_knows_no_abseil(self):
        self.assertEqual(1, len(self.faults_of(include__hvsdk__hvdef__a='#include "absl/types/span.h"\n')))

    def test_unknown_library_is_found(self):
        self.assertEqual(1, len(self.faults_of(src__fresh__a='#include <vector>\n')))
        self.assertEqual(1, len(self.faults_of(src__vmm__a='#include <hvsdk/fresh/b.h>\n')))


if __name__ == '__main__':
    Floors.root = sys.argv.pop(1)
    unittest.main()

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
    'memory': 1, 'backend': 1,
    'hypercall': 2, 'vmbus_ring': 2,
    'partition': 3, 'vmbus': 3, 'chipset': 3,
    'vsp': 4, 'vsc': 4, 'block_file': 4, 'xen': 4,
    'backend_kvm': 4, 'backend_software': 4, 'backend_whpx': 4, 'backend_baremetal': 4,
    'vmm': 5,
}

ENGINE = {'hvdef', 'base', 'memory', 'backend', 'chipset'}
SERVICE = {'hvdef', 'base', 'memory', 'vmbus_ring', 'vmbus'}
NARROW = {
    'hvdef': set(),                                       # constants and structs; not even Abseil
    'vmbus_ring': {'hvdef', 'memory'},
    'vmbus': {'hvdef', 'base', 'memory', 'vmbus_ring'},   # runs without any CPU
    'vsp': SERVICE, 'vsc': SERVICE,                       # never see a backend
    'block_file': {'base'},
    'backend_kvm': ENGINE, 'backend_software': ENGINE,    # know nothing of VMBus or hypercalls
    'backend_whpx': ENGINE, 'backend_baremetal': ENGINE,
}
NO_ABSEIL = {'hvdef'}

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


def fault(library, target):
    """What is wrong with the library's including the target, or None."""
    if target.startswith('absl/') and library in NO_ABSEIL:
        return f'{library} may not include {target}'
    other = library_of(target)
    if other is None or other == library:
        return None
    if other not in FLOORS:
        return f'{target} belongs to no library'
    if FLOORS[other] >= FLOORS[library]:
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
            reasons = [fault(library, target) for target in targets]
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

    def test_wire_knows_no_abseil(self):
        self.assertEqual(1, len(self.faults_of(include__hvsdk__hvdef__a='#include "absl/types/span.h"\n')))

    def test_unknown_library_is_found(self):
        self.assertEqual(1, len(self.faults_of(src__fresh__a='#include <vector>\n')))
        self.assertEqual(1, len(self.faults_of(src__vmm__a='#include <hvsdk/fresh/b.h>\n')))


if __name__ == '__main__':
    Floors.root = sys.argv.pop(1)
    unittest.main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every structure of the wire in include/hvsdk/hvdef says where it is specified, and asserts its size and the offset of
every field, beside it in the header.

What is looked for, for `struct Name`:
  a comment above it, or behind its opening brace, that cites a specification by a name or a number;
  static_assert(sizeof(Name) == ...);
  static_assert(offsetof(Name, field) == ...), for each field. The compiler sees to it that they hold.

Usage: wire_structures_test.py SOURCE_DIR
"""

import glob
import re
import sys

CITATION = re.compile(r'\bHV_[A-Z0-9_]+|\bHvCall\w+|TLFS, "\w+|\bstruct (hv|vm|vstor|gpa)\w*_\w+|\b(SPC|SBC)-\d \d|\bMMC-\d, [A-Z]|'
                      r'\bRFC \d+|(Linux|OpenVMM), \w+')
STRUCTURE = re.compile(r'^( *)(?:struct|class|union)(?: alignas\(\w+\))? (\w+) \{(.*)$')


def strip_comment(line):
    return line.split('//')[0]


def fields_of(lines, first):
    """The names of the fields of the structure that begins on line `first`."""
    braces, fields = [], []  # of each open brace: does it begin a body of a function?
    for number in range(first, len(lines)):
        code = re.sub(r'\[[^]]*\]', '', strip_comment(lines[number])).strip()
        data = bool(braces) and not any(braces) and '(' not in code and '=' not in code and '{' not in code
        if data and code.endswith(';') and '}' not in code:
            fields += [re.search(r'\w+$', part).group() for part in code[:-1].split(',')]
        for character in code:
            if character == '{':
                braces.append('(' in code)
            elif character == '}':
                braces.pop()
        if not braces:
            return fields
    raise SystemExit('a structure that does not end')


def complaints(name, text):
    """How many structures `text` has, and what is missing of them."""
    lines = text.split('\n')
    asserts = ' '.join(re.findall(r'static_assert\((.*?)\);', ' '.join(strip_comment(line) for line in lines)))
    found, structures = [], 0
    for number, line in enumerate(lines):
        match = STRUCTURE.match(line)
        # A template has one layout for each argument; a static_assert can only be of those in use.
        if not match or (number and lines[number - 1].lstrip().startswith('template')):
            continue
        structure = match.group(2)
        structures += 1
        comment, above = match.group(3), number - 1
        while above >= 0 and lines[above].lstrip().startswith('//'):
            comment = lines[above].lstrip()[2:] + comment
            above -= 1
        if not CITATION.search(comment):
            found.append(f'{name}:{number + 1}: {structure} does not say where it is specified')
        if not re.search(rf'sizeof\({structure}\) == ', asserts):
            found.append(f'{name}:{number + 1}: no static_assert of sizeof({structure})')
        fields = fields_of(lines, number)
        if not fields:
            found.append(f'{name}:{number + 1}: {structure} has no fields that this test can see')
        for field in fields:
            if not re.search(rf'offsetof\({structure}, {field}\) == ', asserts):
                found.append(f'{name}:{number + 1}: no static_assert of offsetof({structure}, {field})')
    return structures, found


GOOD = '''
// HV_GOOD.
struct Good {
  uint32_t first;  // HV_FIRST
  uint16_t second[3], third;
  union {
    uint32_t fourth;
    Good2 fifth[sizeof(uint32_t)];
  };
  static constexpr int kNone = 1;
  int second_half() const { return second[1]; }
  bool any() const {
    if (first == 0) {
      return false;
    }
    return true;
  }
};
static_assert(sizeof(Good) == 20);
static_assert(offsetof(Good, first) == 0 && offsetof(Good, second) == 4 && offsetof(Good, third) == 10);
static_assert(offsetof(Good, fourth) == 12 && offsetof(Good, fifth) == 12);
'''


def check_this_test():
    """A test that cannot fail proves nothing."""
    assert complaints('', GOOD) == (1, []), complaints('', GOOD)
    for removed in ('HV_GOOD', 'sizeof(Good) == 20', 'offsetof(Good, first) == 0', 'offsetof(Good, second) == 4',
                    'offsetof(Good, third) == 10', 'offsetof(Good, fourth) == 12', 'offsetof(Good, fifth) == 12'):
        assert removed in GOOD and len(complaints('', GOOD.replace(removed, 'true'))[1]) == 1, removed


def main():
    check_this_test()
    structures, found = 0, []
    for path in sorted(glob.glob(sys.argv[1] + '/include/hvsdk/hvdef/*.h')):
        with open(path, encoding='utf-8') as file:
            here, missing = complaints(path[len(sys.argv[1]) + 1:], file.read())
        structures += here
        found += missing
    assert structures > 70, structures
    print('\n'.join(found) or f'ok: {structures} structures')
    sys.exit(1 if found else 0)


main()

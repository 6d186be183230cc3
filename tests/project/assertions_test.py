#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every GoogleTest case can fail: it has an assertion, or calls a function that has.

Functions are looked for, by name, in the test's own file and in the files of tests/ and fuzz/ that this one includes. A
CHECK in them counts as an assertion. What a fixture's constructor or SetUp asserts does not: that is not the test.

Usage: assertions_test.py SOURCE_DIR
"""

import glob
import os
import re
import sys

ASSERTION = re.compile(r'\b(EXPECT|ASSERT)_\w+|\b(FAIL|ADD_FAILURE|HVSDK_CHECK)\b|\bstatic_assert\b|\babort\(')
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)
CASE = re.compile(r'^(?:TYPED_)?TEST(?:_F|_P)?\((\w+), (\w+)\) \{', re.MULTILINE)
# A function or a lambda with a name. Constructors have no type before their name.
FUNCTION = re.compile(r'^(?: *(?!return|else|new)[\w:]\S*(?: \S+)*? [&*]?(?:\w+::)*(\w+)\([^;{}]*\)[^;{}()]*'
                      r'|.*? (\w+) = \[[^]]*\](?:\([^;{}]*\))?[^;{}()]*) \{', re.MULTILINE)
SET_UP = {'SetUp', 'TearDown', 'SetUpTestSuite'}


def body_at(text, start):
    """What stands between the brace before `start` and the one that closes it."""
    depth = 1
    for at in range(start, len(text)):
        depth += {'{': 1, '}': -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return text[start:]


def code_of(text):
    """`text` without comments, strings, characters and empty default arguments, in which braces would be miscounted."""
    code = re.sub(r'//[^\n]*|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', '""', text, flags=re.DOTALL)
    return code.replace(' = {}', '')


def calls(body, names):
    return any(name in names for name in re.findall(r'\b(\w+)(?:<[^;()]*>)?\(', body))


def cases_without(code, included):
    """How many test cases `code` has, and those that assert nothing, where `included` is the code of its headers."""
    functions = [(match.group(1) or match.group(2), body_at(text, match.end()))
                 for text in [code, *included] for match in FUNCTION.finditer(text)]
    functions = [(name, body) for name, body in functions if name not in SET_UP]
    asserting = set()
    while True:
        more = {name for name, body in functions if ASSERTION.search(body) or calls(body, asserting)}
        if more == asserting:
            break
        asserting = more
    cases = [(f'{match.group(1)}.{match.group(2)}', body_at(code, match.end())) for match in CASE.finditer(code)]
    return len(cases), [name for name, body in cases if not ASSERTION.search(body) and not calls(body, asserting)]


def read(path):
    with open(path, encoding='utf-8') as file:
        return file.read()


def headers_of(root, path, text, seen):
    """The code of the project's own test headers that `text`, the file at `path`, includes."""
    for name in INCLUDE.findall(text):
        for candidate in (f'{root}/{name}', f'{os.path.dirname(path)}/{name}'):
            ours = candidate.startswith((root + '/tests', root + '/fuzz'))
            if ours and candidate not in seen and os.path.exists(candidate):
                seen[candidate] = ''
                included = read(candidate)
                seen[candidate] = code_of(included)
                headers_of(root, candidate, included, seen)
                source = candidate[:-2] + '.cc'
                if os.path.exists(source):
                    seen[source] = code_of(read(source))
    return list(seen.values())


SAMPLE = '''
class Fixture : public ::testing::Test {
 protected:
  Fixture() { EXPECT_TRUE(Make()); }
  void SetUp() override { EXPECT_TRUE(Make()); }
  bool Make() { return true; }
  void ExpectMade() { EXPECT_TRUE(Make()); }
};
TEST_F(Fixture, Asserts) { ASSERT_EQ(1, 1); }
TEST_F(Fixture, CallsWhatAsserts) { ExpectMade(); }
TEST_F(Fixture, NamesALambda) {
  const auto check = [&](int n) { EXPECT_EQ(n, 1); };
  check(1);
}
TEST_F(Fixture, OnlySpeaksOfIt) { Print("EXPECT_EQ("); }  // EXPECT_EQ(1, 1)
TEST_F(Fixture, OnlyCalls) { Make(); }
TEST(Alone, DoesNothing) {}
'''


def main():
    found = cases_without(code_of(SAMPLE), [])
    assert found == (6, ['Fixture.OnlySpeaksOfIt', 'Fixture.OnlyCalls', 'Alone.DoesNothing']), found
    root = os.path.abspath(sys.argv[1])
    count, without = 0, []
    for path in sorted(glob.glob(root + '/tests/**/*.cc', recursive=True)):
        text = read(path)
        cases, here = cases_without(code_of(text), headers_of(root, path, text, {}))
        count += cases
        without += [f'{path[len(root) + 1:]}: {name} asserts nothing' for name in here]
    assert count > 500, count
    print('\n'.join(without) or f'ok: {count} cases')
    sys.exit(1 if without else 0)


main()

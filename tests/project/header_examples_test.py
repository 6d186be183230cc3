#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles every example in the public headers' comments against the installed SDK alone, with each compiler there is.

An example is a block of lines indented by three spaces in a comment, of which one ends in a semicolon. header_examples.cc
says what each takes as given: there a line "//> header" stands for the next example of that header. "..." in an
example stands for code of the reader's own.

Usage: header_examples_test.py SOURCE_DIR BUILD_DIR
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

# What is unused in an example is for the reader to use. What is [[nodiscard]] is to be looked at there, too.
WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Wshadow', '-Werror', '-Wno-unused', '-Wno-unused-parameter', '-Wunused-result',
            '-Wno-missing-field-initializers']

COMMENT = re.compile(r'\s*//(   .*|\s*)$')


def examples_of(text):
    """(line number, lines) of each example."""
    lines = text.split('\n')
    at = 0
    while at < len(lines):
        end = at
        while end < len(lines) and (match := COMMENT.match(lines[end])):
            end += 1
        block = [re.sub(r'^\s*//(   )?', '', line) for line in lines[at:end]]
        first = at + 1
        while block and not block[0].strip():
            block.pop(0)
            first += 1
        if any(re.search(r';\s*(//.*)?$', line) for line in block):
            yield first, [re.sub(r'(^|[\s{])\.\.\.(?=[\s}]|$)', r'\1', line) for line in block]
        at = max(end, at + 1)


def main():
    source, build = sys.argv[1:3]
    folder = os.path.dirname(os.path.abspath(__file__))
    with tempfile.TemporaryDirectory() as work:
        prefix = work + '/prefix'
        subprocess.run(['cmake', '--install', build, '--prefix', prefix], check=True, stdout=subprocess.DEVNULL)
        include = prefix + '/include'
        headers = sorted(os.path.relpath(file, include + '/hvsdk')
                         for file in glob.glob(include + '/hvsdk/**/*.h', recursive=True))
        examples = {}
        for header in headers:
            with open(f'{include}/hvsdk/{header}', encoding='utf-8') as file:
                examples[header] = list(examples_of(file.read()))
        count = sum(map(len, examples.values()))
        assert count >= 50, f'only {count} examples found'

        out = [f'#include "hvsdk/{header}"' for header in headers if examples[header]]
        given = folder + '/header_examples.cc'
        out.append(f'#line 1 "{given}"')
        failures = []
        with open(given, encoding='utf-8') as file:
            for number, line in enumerate(file.read().split('\n'), 1):
                match = re.match(r'\s*//> (\S+)$', line)
                if not match:
                    out.append(line)
                    continue
                if not examples.get(match[1]):
                    failures.append(f'{given}:{number}: {match[1]} has no such example')
                    continue
                first, block = examples[match[1]].pop(0)
                out += [f'#line {first} "{source}/include/hvsdk/{match[1]}"', *block, f'#line {number + 1} "{given}"']
        failures += [f'include/hvsdk/{header}:{first}: an example that header_examples.cc does not know\n' + '\n'.join(block)
                     for header, rest in examples.items() for first, block in rest]
        path = work + '/header_examples.cc'
        with open(path, 'w', encoding='utf-8') as file:
            file.write('\n'.join(out))
        compilers = [compiler for compiler in ('g++', 'clang++') if shutil.which(compiler)]
        assert compilers
        for compiler in compilers:
            done = subprocess.run([compiler, '-std=c++20', '-fsyntax-only', *WARNINGS, '-I' + include, path],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode != 0:
                failures.append(f'{compiler}:\n{done.stdout}')
    print('\n'.join(failures) or f'ok: {count} examples with {" and ".join(compilers)}')
    sys.exit(1 if failures else 0)


main()

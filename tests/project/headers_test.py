#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles every public header alone, with each compiler there is, under the warnings that users are likely to have.

The first compiler, which is the faster one, shows that each header includes what it needs; for the others, which have warnings of their own, what comes from
other libraries is precompiled, or they would spend nine tenths of their time on it.

Usage: headers_test.py SOURCE_DIR GENERATED_INCLUDE_DIR
"""

import concurrent.futures
import glob
import re
import shutil
import subprocess
import sys
import tempfile

WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Wshadow', '-Werror']


def main():
    source, generated = sys.argv[1:3]
    headers = sorted(glob.glob(source + '/include/**/*.h', recursive=True))
    compilers = [compiler for compiler in ('clang++', 'g++') if shutil.which(compiler)]
    assert len(headers) > 50 and compilers

    work = tempfile.TemporaryDirectory()
    precompiled = {compilers[0]: []}
    others = sorted({name for header in headers for name in
                     re.findall(r'#include ([<"](?:absl/[^>"]*|[a-z_]+)[>"])', open(header, encoding='utf-8').read())})
    with open(work.name + '/others.h', 'w', encoding='utf-8') as file:
        file.writelines(f'#include {name}\n' for name in others)
    for compiler in compilers[1:]:
        # That beside a header that is included is what g++ and clang++ look for.
        subprocess.run([compiler, '-std=c++20', *WARNINGS, '-x', 'c++-header', work.name + '/others.h', '-o',
                        work.name + '/others.h.gch'], check=True)
        precompiled[compiler] = ['-include', work.name + '/others.h']

    def compile_alone(job):
        compiler, header = job
        # As an include, because a main file that is a header has warnings of its own.
        command = [compiler, '-std=c++20', '-fsyntax-only', *WARNINGS, f'-I{source}/include', '-isystem', generated,
                   *precompiled[compiler], '-include', header, '-x', 'c++', '/dev/null']
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return '' if done.returncode == 0 else f'{compiler}, {header}:\n{done.stdout}'

    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        failures = [text for text in pool.map(compile_alone, [(c, h) for h in headers for c in compilers]) if text]
    print('\n'.join(failures) or f'ok: {len(headers)} headers with {" and ".join(compilers)}')
    sys.exit(1 if failures else 0)


main()

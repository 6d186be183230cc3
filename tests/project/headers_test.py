#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compiles every public header alone, with each compiler there is, under the warnings that users are likely to have.

Usage: headers_test.py SOURCE_DIR GENERATED_INCLUDE_DIR
"""

import concurrent.futures
import glob
import shutil
import subprocess
import sys

WARNINGS = ['-Wall', '-Wextra', '-Wpedantic', '-Wshadow', '-Werror']


def main():
    source, generated = sys.argv[1:3]
    headers = sorted(glob.glob(source + '/include/**/*.h', recursive=True))
    compilers = [compiler for compiler in ('g++', 'clang++') if shutil.which(compiler)]
    assert len(headers) > 50 and compilers

    def compile_alone(job):
        compiler, header = job
        # As an include, because a main file that is a header has warnings of its own.
        command = [compiler, '-std=c++20', '-fsyntax-only', *WARNINGS, f'-I{source}/include', '-isystem', generated,
                   '-include', header, '-x', 'c++', '/dev/null']
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        return '' if done.returncode == 0 else f'{compiler}, {header}:\n{done.stdout}'

    with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
        failures = [text for text in pool.map(compile_alone, [(c, h) for h in headers for c in compilers]) if text]
    print('\n'.join(failures) or f'ok: {len(headers)} headers with {" and ".join(compilers)}')
    sys.exit(1 if failures else 0)


main()

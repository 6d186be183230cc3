#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Follows docs/tutorial.md: writes the files it shows into an empty folder, builds them against the installed SDK alone, and
compares what the programs print, the guest in its virtual machine among them, with what the tutorial says. The provider
of docs/vmbus.md is compiled along.

Usage: tutorial_test.py TUTORIAL BUILD_DIR COMPILER
"""

import os
import re
import subprocess
import sys
import tempfile

FILE = re.compile(r'^<!-- file: (\S+) -->\n```\w*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
INSERT = re.compile(r'^<!-- insert: main.cc before (.*?) -->\n```\w*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
APPEND = re.compile(r'^<!-- append: (\S+) -->\n```\w*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
# What a program of the build folder, with arguments from there, prints.
OUTPUT = re.compile(r'^<!-- output: (.+?) -->\n```\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def check_readme(root):
    """README.md shows its programs as they are, and they are short."""
    with open(root + '/examples/vmbus_echo/vmbus_echo.cc', encoding='utf-8') as file:
        example = file.read()
    with open(root + '/README.md', encoding='utf-8') as file:
        readme = file.read()
    assert example.count('\n') <= 80, 'examples/vmbus_echo has grown beyond 80 lines'
    code = example[example.index('#include'):]
    assert '```cpp\n' + code + '```' in readme, 'README.md shows another examples/vmbus_echo than there is'
    with open(root + '/tests/project/consumer/main.cc', encoding='utf-8') as file:
        monitor = file.read()
    code = monitor[monitor.index('#include'):]
    assert '```cpp\n' + code + '```' in readme, 'README.md shows another monitor than the one that is tested'


def main():
    tutorial, build, compiler = sys.argv[1:4]
    with open(tutorial, encoding='utf-8') as file:
        text = file.read()
    files = FILE.findall(text)
    with open(os.path.join(os.path.dirname(tutorial), 'vmbus.md'), encoding='utf-8') as file:
        provider = FILE.findall(file.read())
    assert [name for name, _ in provider] == ['disk_reader.h'], 'docs/vmbus.md has lost its provider'
    inserts = INSERT.findall(text)
    appends = APPEND.findall(text)
    outputs = OUTPUT.findall(text)
    assert len(files) >= 10 and len(inserts) == 1 and len(appends) == 3 and len(outputs) == 4, 'the tutorial has lost its files'
    check_readme(os.path.dirname(os.path.dirname(os.path.abspath(tutorial))))
    with tempfile.TemporaryDirectory() as work:
        prefix = os.path.join(work, 'prefix')
        source = os.path.join(work, 'checksum')
        os.mkdir(source)
        for name, contents in files + provider:
            with open(os.path.join(source, name), 'w', encoding='utf-8') as file:
                file.write(contents)
        for name, contents in appends:
            with open(os.path.join(source, name), 'a', encoding='utf-8') as file:
                file.write('\n' + contents)
        # The program once more, with the lines that a reader may add.
        variant = '#include "hvsdk/vmbus/transcript.h"\n#include "disk_reader.h"\n' + dict(files)['main.cc']
        for place, lines in inserts:
            assert variant.count(place) == 1, place
            variant = variant.replace(place, lines + place)
        with open(os.path.join(source, 'variant.cc'), 'w', encoding='utf-8') as file:
            file.write(variant)
        with open(os.path.join(source, 'CMakeLists.txt'), 'a', encoding='utf-8') as file:
            file.write('add_executable(variant variant.cc)\n'
                       'target_link_libraries(variant PRIVATE hvsdk::vmbus hvsdk::vsc)\n')
        subprocess.run(['cmake', '--install', build, '--prefix', prefix], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(['cmake', '-S', source, '-B', work + '/build', '-G', 'Ninja', '-DCMAKE_PREFIX_PATH=' + prefix,
                        '-DCMAKE_CXX_COMPILER=' + compiler, '-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror'],
                       check=True, stdout=subprocess.DEVNULL)
        subprocess.run(['cmake', '--build', work + '/build'], check=True)
        for words, expected in outputs:
            command = [work + '/build/' + word for word in words.split()]
            printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=120).stdout
            assert printed == expected, words + ' prints\n' + printed + 'and the tutorial says\n' + expected
        # What the reader's program has saved is not mini_vmm's.
        refused = subprocess.run([build + '/bin/mini_vmm', f'--restore={work}/build/state'], stderr=subprocess.PIPE, text=True, timeout=60)
        assert (refused.returncode, refused.stderr) == (
            2, f'mini_vmm: --restore={work}/build/state: the state is of another program\n'), refused
        subprocess.run([work + '/build/tally_test'], check=True, stdout=subprocess.DEVNULL)
        shown = subprocess.run([work + '/build/variant'], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert '< version-response supported=1' in shown, shown
    print('ok: %d files' % len(files))


main()

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The installed package as its users find it: each library by itself with find_package and with pkg-config, refusals that
say why, and the documents.

Usage: package_test.py SOURCE_DIR BUILD_DIR COMPILER
"""

import glob
import os
import re
import subprocess
import sys
import tempfile

# What each component brings, itself included, and nothing else.
BELOW = {
    'hvdef': {'hvdef'},
    'base': {'base', 'hvdef'},
    'vmbus': {'vmbus', 'vmbus_ring', 'hvdef', 'base', 'memory', 'state'},
    'vsc': {'vsc', 'vmbus', 'vmbus_ring', 'hvdef', 'base', 'memory', 'state'},
    'image': {'image', 'os', 'resource', 'memory', 'hvdef', 'base'},
    'vsc_freestanding': {'vsc_freestanding'},
}


def run(command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    return done.returncode, done.stdout


def check(command, **options):
    status, output = run(command, **options)
    assert status == 0, f'{" ".join(command)}\n{output}'
    return output


class Package:
    def __init__(self, source, build, compiler, work):
        self.source, self.compiler, self.work = source, compiler, work
        self.prefix = work + '/prefix'
        check(['cmake', '--install', build, '--prefix', self.prefix])
        files = glob.glob(self.prefix + '/**/cmake/hvsdk/hvsdk-*.cmake', recursive=True)
        names = {re.match(r'hvsdk-(\w+)\.cmake', os.path.basename(file)) for file in files}
        self.components = sorted({name[1] for name in names if name} - {'all'})
        self.headers = {}  # by library
        for file in sorted(glob.glob(self.prefix + '/include/hvsdk/**/*.h', recursive=True)):
            path = os.path.relpath(file, self.prefix + '/include')
            library = path.split('/')[1]
            self.headers.setdefault('vmbus_ring' if path.startswith('hvsdk/vmbus/ring/') else library, []).append(path)
        config = glob.glob(self.prefix + '/**/pkgconfig/hvsdk.pc', recursive=True)
        assert len(config) == 1, 'no hvsdk.pc'
        self.environment = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(config[0]), LC_ALL='C')

    def write(self, path, text):
        path = f'{self.work}/{path}'
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)
        return path

    def configure(self, name, lists, *options):
        """A project of these lines."""
        self.write(f'{name}/CMakeLists.txt',
                   'cmake_minimum_required(VERSION 3.25)\nproject(user LANGUAGES CXX)\n' + lists)
        return run(['cmake', '-S', f'{self.work}/{name}', '-B', f'{self.work}/{name}/build', '-G', 'Ninja',
                    '-DCMAKE_PREFIX_PATH=' + self.prefix, '-DCMAKE_CXX_COMPILER=' + self.compiler, *options])


def each_component_alone(package):
    """In a folder of its own, where nothing that another has found is known: its targets, and all of it links."""
    names = '|'.join(package.components)
    for name in package.components:
        includes = ''.join(f'#include "{header}"\n' for header in package.headers.get(name, []))
        package.write(f'alone/{name}/main.cc', includes + 'int main() {}\n')
        expected = ' '.join(sorted(BELOW[name])) if name in BELOW else ''
        whole = '' if name in ('hvdef', 'base', 'backend', 'resource', 'vmbus_ring', 'vsc_freestanding') else name
        package.write(f'alone/{name}/CMakeLists.txt', f'''
find_package(hvsdk REQUIRED COMPONENTS {name})
foreach(other IN ITEMS {names.replace('|', ' ')})
  if(TARGET hvsdk::${{other}})
    list(APPEND found ${{other}})
  endif()
endforeach()
list(SORT found)
set(expected {expected})
if(expected AND NOT "${{found}}" STREQUAL "${{expected}}")
  message(FATAL_ERROR "{name} brings ${{found}}, not ${{expected}}")
endif()
if(TARGET hvsdk::hvsdk)
  message(FATAL_ERROR "{name} brings everything")
endif()
add_executable(use_{name} main.cc)
target_link_libraries(use_{name} PRIVATE hvsdk::{name})
target_link_options(use_{name} PRIVATE LINKER:--strip-debug)  # half the time, and nobody debugs it
if("{whole}")
  target_link_libraries(use_{name} PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,hvsdk::{name}>)
endif()
''')
    status, output = package.configure('alone', ''.join(f'add_subdirectory({name})\n' for name in package.components))
    assert status == 0, output
    check(['cmake', '--build', f'{package.work}/alone/build', '-j', '2'])


def packages_are_needed_by_whom_they_serve(package):
    lists = 'find_package(hvsdk REQUIRED COMPONENTS {})\n'
    without = '-DCMAKE_DISABLE_FIND_PACKAGE_Protobuf=ON'
    others = [name for name in package.components if name != 'vmm']
    status, output = package.configure('frugal', lists.format(' '.join(others)), without)
    assert status == 0, output
    status, output = package.configure('greedy', lists.format('vmm'), without)
    assert status != 0 and 'Protobuf' in output, output
    status, output = package.configure('everything', 'find_package(hvsdk REQUIRED)\n', without)
    assert status != 0 and 'Protobuf' in output, output
    status, output = package.configure(
        'modest', 'find_package(hvsdk REQUIRED COMPONENTS vsc OPTIONAL_COMPONENTS vmm nothing)\n'
        'message(STATUS "${hvsdk_vsc_FOUND} ${hvsdk_vmm_FOUND} ${hvsdk_nothing_FOUND}")\n', without)
    assert status == 0 and '-- TRUE FALSE FALSE\n' in output, output
    status, output = package.configure('plain', lists.format('hvdef vsc_freestanding'), without,
                                       '-DCMAKE_DISABLE_FIND_PACKAGE_absl=ON', '-DCMAKE_DISABLE_FIND_PACKAGE_Threads=ON')
    assert status == 0, output
    status, output = package.configure('whole', 'find_package(hvsdk REQUIRED COMPONENTS vmbus hvsdk)\n'
                                       'if(NOT TARGET hvsdk::hvsdk)\nmessage(FATAL_ERROR "no hvsdk::hvsdk")\nendif()\n')
    assert status == 0, output


def refusals_say_why(package):
    status, output = package.configure('unknown', 'find_package(hvsdk REQUIRED COMPONENTS vmbus vmbuss)\n')
    assert status != 0 and 'hvsdk has no library "vmbuss"' in output and 'vmbus_ring' in output, output
    status, output = package.configure('newer', 'find_package(hvsdk 99 REQUIRED)\n')
    assert status != 0 and '99' in output, output
    status, output = package.configure('quiet', 'find_package(hvsdk COMPONENTS vmbuss)\n'
                                       'message(STATUS "found: ${hvsdk_FOUND}")\n')
    assert status == 0 and re.search(r'found: (FALSE|0)\n', output), output


def pkg_config(package):
    def flags(*names):
        return check(['pkg-config', '--cflags', '--libs', *names], env=package.environment).split()

    for name in ['hvsdk'] + ['hvsdk-' + name for name in package.components]:
        check(['pkg-config', '--validate', name], env=package.environment)
        flags(name)
    assert not [flag for flag in flags('hvsdk-vmbus') if 'protobuf' in flag], 'hvsdk-vmbus asks for protobuf'
    compiler = [package.compiler, '-std=c++20', '-O1']
    echo = package.work + '/vmbus_echo'
    check(compiler + ['-o', echo, package.source + '/examples/vmbus_echo/vmbus_echo.cc'] + flags('hvsdk-vmbus', 'hvsdk-vsc'))
    said = check([echo])
    assert 'hello, root' in said, said
    monitor = package.work + '/monitor'
    check(compiler + ['-o', monitor, package.source + '/tests/project/consumer/main.cc'] + flags('hvsdk'))
    status, said = run([monitor, '/nowhere'])
    assert status == 2 and '/nowhere: ' in said and 'No such file' in said, said


def documents(package):
    folders = glob.glob(package.prefix + '/share/doc/hvsdk')
    assert folders, 'no documents'
    found = glob.glob(folders[0] + '/**/*.md', recursive=True)
    assert len(found) >= len(glob.glob(package.source + '/docs/*.md')) + 2, found
    for document in found:
        with open(document, encoding='utf-8') as file:
            links = re.findall(r'\]\(([\w./-]+)(?:#[\w-]*)?\)', file.read())
        for link in links:
            # Tests and scripts are of use in the sources alone.
            if link.startswith(('tests/', 'scripts/', '../tests/', '../scripts/')):
                continue
            target = os.path.normpath(os.path.join(os.path.dirname(document), link))
            assert os.path.exists(target), f'{os.path.relpath(document, folders[0])} links {link}, which is not installed'


def main():
    source, build, compiler = sys.argv[1:4]
    with tempfile.TemporaryDirectory() as work:
        package = Package(source, build, compiler, work)
        assert set(BELOW) <= set(package.components), package.components
        for test in (each_component_alone, packages_are_needed_by_whom_they_serve, refusals_say_why, pkg_config, documents):
            test(package)
            print('ok:', test.__name__)


main()

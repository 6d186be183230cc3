# SPDX-License-Identifier: Apache-2.0
"""A viewer of the tests' own."""

import socket
import struct

from e2e import expect


class Viewer:
    """Somebody who speaks RFB (RFC 6143): raw pixels, sizes that change, and the pointer's image."""

    def __init__(self, address):
        """PATH of a Unix socket, or HOST:PORT."""
        if ':' in address:
            self.socket = socket.create_connection(address.rsplit(':', 1))
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        self.socket.settimeout(30)
        expect(self.read(12) == b'RFB 003.008\n', 'another version')
        self.socket.sendall(b'RFB 003.008\n')
        expect(self.read(2) == b'\1\1', 'other security')
        self.socket.sendall(b'\1')
        expect(self.read(4) == bytes(4), 'refused')
        self.socket.sendall(b'\1')
        width, height, _, name = struct.unpack('>HH16sI', self.read(24))
        self.name = self.read(name)
        self.resize(width, height)
        self.pointer = None  # width, height, pixels, and a bit for each that is there
        self.socket.sendall(struct.pack('>BxHiii', 2, 3, 0, -223, -239))

    def read(self, size):
        data = b''
        while len(data) < size:
            piece = self.socket.recv(min(size - len(data), 1 << 20))
            expect(piece, 'the server has hung up')
            data += piece
        return data

    def resize(self, width, height):
        self.width, self.height = width, height
        self.rows = [bytearray(width * 4) for _ in range(height)]

    def ask(self, is_incremental):
        self.socket.sendall(struct.pack('>BBHHHH', 3, is_incremental, 0, 0, self.width, self.height))

    def update(self):
        """How many bytes of pixels came."""
        kind, count = struct.unpack('>BxH', self.read(4))
        expect(kind == 0, 'another message', kind)
        size = 0
        for _ in range(count):
            x, y, width, height, encoding = struct.unpack('>HHHHi', self.read(12))
            if encoding == -223:
                self.resize(width, height)
                continue
            if encoding == -239:
                self.pointer = width, height, self.read(width * height * 4), self.read((width + 7) // 8 * height)
                continue
            expect(encoding == 0, 'another encoding', encoding)
            data = self.read(width * height * 4)
            for row in range(height):
                self.rows[y + row][x * 4:(x + width) * 4] = data[row * width * 4:(row + 1) * width * 4]
            size += len(data)
        return size

    def key(self, keysym, is_pressed):
        self.socket.sendall(struct.pack('>BBxxI', 4, is_pressed, keysym))

    def key_code(self, code, is_pressed):
        """Which key it is (QEMU's extended key event)."""
        self.socket.sendall(struct.pack('>BBHII', 255, 0, is_pressed, 0, code))

    def type(self, text):
        for letter in text:
            for is_pressed in (1, 0):
                self.key(0xFF0D if letter == '\n' else ord(letter), is_pressed)

    def point(self, buttons, x, y):
        self.socket.sendall(struct.pack('>BBHH', 5, buttons, x, y))

    def pixels(self):
        """As pixels_of has them."""
        rows = []
        for row in self.rows:
            rgb = bytearray(self.width * 3)
            rgb[0::3], rgb[1::3], rgb[2::3] = row[2::4], row[1::4], row[0::4]
            rows.append(bytes(rgb))
        return self.width, self.height, rows

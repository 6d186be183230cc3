// SPDX-License-Identifier: Apache-2.0
// Writes the few instruction forms that scenarios need, in 16, 32 or 64 bits.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_EMITTER_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_EMITTER_H_

#include <cstdint>
#include <initializer_list>

#include "tests/backend_software/system_oracle/machine_map.h"

namespace hvsdk::oracle {

// General registers as instructions encode them.
enum Reg : uint8_t { kAx, kCx, kDx, kBx, kSp, kBp, kSi, kDi };

class Emitter {
 public:
  Emitter(uint8_t* begin, uint8_t* end, uint64_t address, int bits)
      : begin_(begin), at_(begin), end_(end), address_(address), bits_(bits) {}

  int bits() const { return bits_; }
  uint64_t address() const { return address_ + static_cast<uint64_t>(at_ - begin_); }
  bool full() const { return end_ - at_ < 64; }

  // What 16-bit code calls the linear address.
  uint64_t Offset(uint64_t linear) const { return bits_ == 16 ? linear - kSegmentBase16 : linear; }

  void Bytes(std::initializer_list<uint8_t> bytes) {
    for (const uint8_t byte : bytes) Byte(byte);
  }
  void Byte(uint64_t byte) {
    if (at_ < end_) *at_++ = static_cast<uint8_t>(byte);
  }
  void Word(uint64_t value, int size) {
    for (int i = 0; i < size; ++i) Byte(value >> (8 * i));
  }
  // Makes the next instruction's operands 32 bits wide (or in 64-bit code, with `quad`, 64).
  void Wide(bool quad = false) {
    if (bits_ == 16) Byte(0x66);
    if (bits_ == 64 && quad) Byte(0x48);
  }

  void MovImm(Reg reg, uint64_t value) {  // mov reg, value
    if (bits_ == 64 && value >> 32 != 0) {
      Byte(0x48);
      Byte(0xB8 + reg);
      Word(value, 8);
      return;
    }
    Wide();
    Byte(0xB8 + reg);
    Word(value, 4);
  }
  void Push(uint64_t value) {  // of 4 bytes, or 8 in 64-bit code
    if (bits_ == 64) {
      MovImm(kAx, value);
      Byte(0x50);
      return;
    }
    Wide();
    Byte(0x68);
    Word(value, 4);
  }
  // ModRM and displacement of the memory at a linear address, by DS.
  void Memory(int reg, uint64_t linear) {
    if (bits_ == 16) {
      Byte(0x06 | reg << 3);
      Word(Offset(linear), 2);
    } else if (bits_ == 32) {
      Byte(0x05 | reg << 3);
      Word(linear, 4);
    } else {
      Byte(0x04 | reg << 3);
      Byte(0x25);
      Word(linear, 4);
    }
  }
  void Register(int reg, Reg rm) { Byte(0xC0 | reg << 3 | rm); }
  void End() { Bytes({0xE6, kEndPort}); }  // out kEndPort, al

 private:
  uint8_t* const begin_;
  uint8_t* at_;
  uint8_t* const end_;
  const uint64_t address_;
  const int bits_;
};

}  // namespace hvsdk::oracle

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_SYSTEM_ORACLE_EMITTER_H_

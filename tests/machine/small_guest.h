// SPDX-License-Identifier: Apache-2.0
// Pieces of 32-bit code, of which tests put guests together.

#ifndef HVSDK_TESTS_MACHINE_SMALL_GUEST_H_
#define HVSDK_TESTS_MACHINE_SMALL_GUEST_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "boot/little_endian.h"
#include "hvsdk/boot/acpi_tables.h"

namespace hvsdk::machine {

// mov dx, port; mov al, value; out dx, al
inline std::string Out(uint16_t port, uint8_t value) {
  std::string code = "\x66\xBA";
  boot::Append<uint16_t>(code, port);
  code += '\xB0';
  boot::Append<uint8_t>(code, value);
  return code + '\xEE';
}

// mov ecx, msr; mov eax, low; mov edx, high; wrmsr
inline std::string WriteMsr(uint32_t msr, uint64_t value) {
  std::string code = "\xB9";
  boot::Append<uint32_t>(code, msr);
  code += '\xB8';
  boot::Append<uint32_t>(code, static_cast<uint32_t>(value));
  code += '\xBA';
  boot::Append<uint32_t>(code, static_cast<uint32_t>(value >> 32));
  return code + "\x0F\x30";
}

// mov ecx, msr; rdmsr
inline std::string ReadMsr(uint32_t msr) {
  std::string code = "\xB9";
  boot::Append<uint32_t>(code, msr);
  return code + "\x0F\x32";
}

// mov eax, leaf; xor ecx, ecx; cpuid
inline std::string Cpuid(uint32_t leaf) {
  std::string code = "\xB8";
  boot::Append<uint32_t>(code, leaf);
  return code + "\x31\xC9\x0F\xA2";
}

// mov al, [address]; and mov [address], al
inline std::string Load(uint32_t address) {
  std::string code = "\xA0";
  boot::Append<uint32_t>(code, address);
  return code;
}
inline std::string Store(uint32_t address) {
  std::string code = "\xA2";
  boot::Append<uint32_t>(code, address);
  return code;
}

// mov dx, port; in al, dx
inline std::string In(uint16_t port) {
  std::string code = "\x66\xBA";
  boot::Append<uint16_t>(code, port);
  return code + '\xEC';
}

// AL goes to the serial port.
inline std::string PrintAl() {
  std::string code = "\x66\xBA";
  boot::Append<uint16_t>(code, boot::kSerialPort);
  return code + '\xEE';
}
inline std::string Print(absl::string_view text) {
  std::string code;
  for (const char c : text) code += Out(boot::kSerialPort, static_cast<uint8_t>(c));
  return code;
}

inline const std::string kPowerOff = Out(boot::kPowerPort, 5 << 2 | 0x20);
inline const std::string kLoop = "\xEB\xFE";
inline const std::string kHalt = "\xFA\xF4\xEB\xFC";  // cli; 1: hlt; jmp 1b

}  // namespace hvsdk::machine

#endif  // HVSDK_TESTS_MACHINE_SMALL_GUEST_H_

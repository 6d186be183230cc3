// SPDX-License-Identifier: Apache-2.0
#include "console.h"

#include "cpu.h"

namespace {

// A 16550 at the first serial port's address: data at 0, line status at 5, whose bit 5 says that there is room.
constexpr uint16_t kSerialPort = 0x3F8;
constexpr uint16_t kLineStatus = kSerialPort + 5;
constexpr uint8_t kRoom = 1 << 5;

uint32_t checks, failures;

void PrintByte(char byte) {
  while ((InByte(kLineStatus) & kRoom) == 0) Pause();
  OutByte(kSerialPort, static_cast<uint8_t>(byte));
}

void Result(bool ok) {
  ++checks;
  if (!ok) ++failures;
  Print(ok ? "ok " : "not ok ");
  PrintNumber(checks);
  Print(" - ");
}

}  // namespace

void Print(const char* text) {
  for (; *text != '\0'; ++text) {
    if (*text == '\n') PrintByte('\r');
    PrintByte(*text);
  }
}

void PrintNumber(uint64_t value) {
  if (value >= 10) PrintNumber(value / 10);
  PrintByte(static_cast<char>('0' + value % 10));
}

void PrintHex(uint64_t value) {
  Print("0x");
  int shift = 60;
  while (shift > 0 && value >> shift == 0) shift -= 4;
  for (; shift >= 0; shift -= 4) PrintByte("0123456789abcdef"[value >> shift & 15]);
}

bool Check(bool ok, const char* what) {
  Result(ok);
  Print(what);
  Print("\n");
  return ok;
}

bool Check(bool ok, const char* what, uint64_t number) {
  Result(ok);
  Print(what);
  Print(" ");
  PrintNumber(number);
  Print("\n");
  return ok;
}

bool internal::CheckValue(uint64_t actual, uint64_t expected, const char* what) {
  if (!Check(actual == expected, what)) {
    Print("# got ");
    PrintHex(actual);
    Print(", expected ");
    PrintHex(expected);
    Print("\n");
  }
  return actual == expected;
}

bool Finish() {
  Print("1..");
  PrintNumber(checks);
  Print("\n");
  if (failures != 0) {
    Print("# failed: ");
    PrintNumber(failures);
    Print("\n");
  }
  return failures == 0;
}

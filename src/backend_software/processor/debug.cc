// SPDX-License-Identifier: Apache-2.0
// Breakpoints and debug exceptions (Intel SDM volume 3, chapter 17). While DR7 enables a breakpoint, RFLAGS.TF is set
// or an interrupt shadow lasts, instructions run one at a time (Step in run.cc), so nothing here costs anything
// otherwise.
#include "backend_software/processor/cpu.h"

namespace hvsdk::software {
namespace {

enum BreakpointKind { kExecute = 0, kWrite = 1, kPort = 2, kReadWrite = 3 };

struct Breakpoint {
  bool enabled;
  BreakpointKind kind;
  uint64_t first;
  int length;

  bool Meets(uint64_t address, int size) const { return address < first + length && first < address + size; }
};

Breakpoint BreakpointOf(const Cpu& c, int i) {
  static constexpr int kLengths[4] = {1, 2, 8, 4};
  const int length = kLengths[c.dr7 >> (18 + 4 * i) & 3];
  // The length masks the address (17.2.5).
  return {(c.dr7 >> (2 * i) & 3) != 0, static_cast<BreakpointKind>(c.dr7 >> (16 + 4 * i) & 3),
          c.dr[i] & ~static_cast<uint64_t>(length - 1), length};
}

}  // namespace

uint64_t Cpu::InstructionBreakpoints() const {
  uint64_t hits = 0;
  for (int i = 0; i < 4; ++i) {
    const Breakpoint breakpoint = BreakpointOf(*this, i);
    if (breakpoint.enabled && breakpoint.kind == kExecute && dr[i] == CodeLinear()) hits |= uint64_t{1} << i;
  }
  return hits;
}

void Cpu::CheckWatchpoints(uint64_t linear, int size, bool write) {
  for (int i = 0; i < 4; ++i) {
    const Breakpoint breakpoint = BreakpointOf(*this, i);
    if (!breakpoint.enabled || !(breakpoint.kind == kReadWrite || (breakpoint.kind == kWrite && write))) continue;
    if (breakpoint.Meets(linear, size)) pending_debug |= uint64_t{1} << i;
  }
}

void Cpu::CheckPortWatchpoints(uint16_t port, int size) {
  if (!(cr4 & kCr4De)) return;  // the kind is undefined, and means nothing
  for (int i = 0; i < 4; ++i) {
    const Breakpoint breakpoint = BreakpointOf(*this, i);
    if (breakpoint.enabled && breakpoint.kind == kPort && breakpoint.Meets(port, size)) {
      pending_debug |= uint64_t{1} << i;
    }
  }
}

void Cpu::RaiseDebug(uint64_t dr6_bits) {
  // The breakpoints' bits tell of this exception alone; the others stay until software clears them (17.2.3).
  dr6 = (dr6 & ~uint64_t{15}) | dr6_bits;
  Raise(kDebug);
}

}  // namespace hvsdk::software

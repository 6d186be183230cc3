// SPDX-License-Identifier: Apache-2.0
// Registers: how a caller passes a hypercall in its registers, for 64-bit and 32-bit callers
// (TLFS, "Hypercall Register Conventions (x86/x64)").
//
//   64-bit   control RCX, input RDX, output R8, result RAX
//   32-bit   control EDX:EAX, input EBX:ECX, output EDI:ESI, result EDX:EAX
//   a fast call's block is input, output and XMM0 to XMM5, 112 bytes in a row

#ifndef HVSDK_SRC_HYPERCALL_REGISTERS_H_
#define HVSDK_SRC_HYPERCALL_REGISTERS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/register.h"

namespace hvsdk::hypercall {

class Registers {
 public:
  explicit Registers(backend::Vp& vp) : vp_(vp) {}

  // Finds out in which mode the caller runs. False: one that may not make hypercalls.
  bool LoadMode() {
    constexpr std::array kNames{hvdef::RegisterName::kCr0, hvdef::RegisterName::kEfer, hvdef::RegisterName::kCs,
                                hvdef::RegisterName::kSs};
    std::array<hvdef::RegisterValue, kNames.size()> values;
    if (!vp_.GetRegisters(kNames, absl::MakeSpan(values)).ok()) return false;
    constexpr uint64_t kProtectionEnable = 1, kLongModeActive = 1 << 10;
    constexpr uint16_t kDplShift = 5, kLong = 1 << 13;
    const uint16_t cs = Attributes(values[2]), ss = Attributes(values[3]);
    is_64_bit_ = (values[1].low & kLongModeActive) != 0 && (cs & kLong) != 0;
    // The stack segment's DPL is the CPL, and is 3 in virtual-8086 mode.
    return (values[0].low & kProtectionEnable) != 0 && ((ss >> kDplShift) & 3) == 0;
  }

  bool is_64_bit() const { return is_64_bit_; }

  hvdef::Control control() const { return {is_64_bit_ ? Get(Gpr::kRcx) : Pair(Gpr::kRdx, Gpr::kRax)}; }
  uint64_t input() const { return is_64_bit_ ? Get(Gpr::kRdx) : Pair(Gpr::kRbx, Gpr::kRcx); }
  uint64_t output() const { return is_64_bit_ ? Get(Gpr::kR8) : Pair(Gpr::kRdi, Gpr::kRsi); }

  void SetResult(uint64_t result) {
    if (is_64_bit_) {
      vp_.SetGpr(Gpr::kRax, result);
    } else {
      SetPair(Gpr::kRdx, Gpr::kRax, result);
    }
  }
  // For the same call again.
  void SetControl(hvdef::Control control) {
    if (is_64_bit_) {
      vp_.SetGpr(Gpr::kRcx, control.value);
    } else {
      SetPair(Gpr::kRdx, Gpr::kRax, control.value);
    }
  }

  // Reads the first `size` bytes of the block, rounded up to whole registers. False: the engine failed.
  bool ReadBlock(uint8_t* block, uint32_t size) const {
    const uint64_t general[2] = {input(), output()};
    std::memcpy(block, general, sizeof(general));
    if (size <= sizeof(general)) return true;
    const uint32_t count = XmmEnd(size);
    std::array<hvdef::RegisterValue, 6> values;
    if (!vp_.GetRegisters(XmmNames(0, count), absl::MakeSpan(values).first(count)).ok()) return false;
    std::memcpy(block + sizeof(general), values.data(), count * sizeof(values[0]));
    return true;
  }

  // Writes bytes [begin, end) of the block, both multiples of 8, into the registers they live in. `begin` is a multiple
  // of 16, and a last half of an XMM register is written as a whole; 64-bit callers only.
  bool WriteBlock(const uint8_t* block, uint32_t begin, uint32_t end) {
    if (begin == 0 && end != 0) {
      vp_.SetGpr(Gpr::kRdx, Word(block));
      if (end > 8) vp_.SetGpr(Gpr::kR8, Word(block + 8));
    }
    begin = std::max(begin, 16u);
    if (end <= begin) return true;
    const uint32_t first = (begin - 16) / 16, last = XmmEnd(end);
    std::array<hvdef::RegisterValue, 6> values;
    std::memcpy(values.data(), block + begin, (last - first) * sizeof(values[0]));
    return vp_.SetRegisters(XmmNames(first, last), absl::MakeConstSpan(values).first(last - first)).ok();
  }

 private:
  using Gpr = backend::Gpr;

  static uint16_t Attributes(const hvdef::RegisterValue& value) {
    hvdef::SegmentRegister segment;
    std::memcpy(&segment, &value, sizeof(segment));
    return segment.attributes;
  }
  static uint64_t Word(const uint8_t* bytes) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    return word;
  }
  static uint32_t XmmEnd(uint32_t size) { return (size - 16 + 15) / 16; }
  static absl::Span<const hvdef::RegisterName> XmmNames(uint32_t first, uint32_t last) {
    static constexpr std::array kNames{hvdef::RegisterName::kXmm0, hvdef::RegisterName::kXmm1,
                                       hvdef::RegisterName::kXmm2, hvdef::RegisterName::kXmm3,
                                       hvdef::RegisterName::kXmm4, hvdef::RegisterName::kXmm5};
    return absl::MakeConstSpan(kNames).subspan(first, last - first);
  }

  uint64_t Get(Gpr gpr) const { return vp_.GetGpr(gpr); }
  uint64_t Pair(Gpr high, Gpr low) const { return Get(high) << 32 | (Get(low) & 0xFFFFFFFF); }
  void SetPair(Gpr high, Gpr low, uint64_t value) {
    vp_.SetGpr(high, value >> 32);
    vp_.SetGpr(low, value & 0xFFFFFFFF);
  }

  backend::Vp& vp_;
  bool is_64_bit_ = true;
};

}  // namespace hvsdk::hypercall

#endif  // HVSDK_SRC_HYPERCALL_REGISTERS_H_

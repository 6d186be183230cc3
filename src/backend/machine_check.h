// SPDX-License-Identifier: Apache-2.0
// The machine check by which a guest learns of a page that its host has lost, the same on every engine: one bank of the machine-check
// architecture for memory, with an address and recovery by software. A VP whose processor is Intel's tells all others, as Intel's do
// without LMCE, which not every engine has.
//
// Sources: Intel SDM volume 3, 15.3 (registers), 15.6 (recoverable errors), 15.9.3.2 (SRAR: data load 0x134; SRAO: memory scrubbing 0xC0);
// AMD APM volume 2, 9.3 (banks), 9.3.2.2 (deferred, poison).

#ifndef HVSDK_SRC_BACKEND_MACHINE_CHECK_H_
#define HVSDK_SRC_BACKEND_MACHINE_CHECK_H_

#include <array>
#include <atomic>
#include <cstdint>

#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::backend {

inline constexpr uint32_t kMsrMcgCap = 0x179, kMsrMcgStatus = 0x17A, kMsrMc0Ctl = 0x400;
// A bank's registers: CTL, STATUS, ADDR, MISC.
inline constexpr uint32_t kBankRegisters = 4, kBankCtl = 0, kBankStatus = 1, kBankAddress = 2, kBankMisc = 3;
inline constexpr uint32_t kMachineCheckBanks = 2;  // the first has what other VPs tell, the second is memory's
// As Intel's processors have it; KVM leaves out of it what AMD's have not.
inline constexpr uint64_t kMcgCap = kMachineCheckBanks | 1 << 24 /*MCG_SER_P*/;
inline constexpr uint64_t kMcgCapOfAmd = 0x1FF;
inline constexpr uint64_t kMcgStatusRipv = 1, kMcgStatusEipv = 2, kMcgStatusMcip = 4;
inline constexpr uint64_t kCr4MachineCheck = 1 << 6;
inline constexpr uint8_t kMachineCheckVector = 18;

inline constexpr uint64_t kMciVal = uint64_t{1} << 63, kMciOver = uint64_t{1} << 62, kMciUc = uint64_t{1} << 61,
                          kMciEn = uint64_t{1} << 60, kMciMiscv = uint64_t{1} << 59, kMciAddrv = uint64_t{1} << 58,
                          kMciS = uint64_t{1} << 56, kMciAr = uint64_t{1} << 55;
inline constexpr uint64_t kMciAmdDeferred = uint64_t{1} << 44, kMciAmdPoison = uint64_t{1} << 43;
inline constexpr uint64_t kMciDataLoad = 0x134, kMciScrubbing = 0xC0;

// Who met the loss.
enum class LossBy : uint8_t {
  kProcessor = 1,  // this VP
  kHost,           // something that the host does for the guest
  kOther,          // another VP, which has the address
};

// What a VP is to be told.
struct Loss {
  uint64_t gpa = 0;
  LossBy by = LossBy::kProcessor;
  bool several = false;  // and more, of which nothing else will be said
};

struct MachineCheck {
  uint32_t bank = 0;
  uint64_t status = 0, address = 0, misc = 0, mcg_status = 0;
  bool raises_exception() const { return (status & kMciUc) != 0; }
};

inline bool IsAmd(absl::Span<const CpuidEntry> cpuid) {
  constexpr uint32_t kAuth = 0x68747541, kHygo = 0x6F677948;  // EBX of leaf 0: "Auth", "Hygo"
  for (const CpuidEntry& entry : cpuid) {
    if (entry.leaf == 0) return entry.ebx == kAuth || entry.ebx == kHygo;
  }
  return false;
}

inline MachineCheck MakeMachineCheck(const Loss& loss, bool amd) {
  constexpr uint64_t kMiscPage = 2 << 6 | 12;  // a physical address, of which bits from 12 on are valid
  MachineCheck check;
  check.mcg_status = kMcgStatusMcip | kMcgStatusRipv;
  if (loss.by == LossBy::kOther) {
    check.status = kMciVal | kMciUc;
    return check;
  }
  const bool at_access = loss.by == LossBy::kProcessor;
  check.bank = 1;
  check.status = kMciVal | kMciEn | kMciMiscv | kMciAddrv | kMciS | (loss.several ? kMciOver : 0);
  check.address = loss.gpa;
  check.misc = kMiscPage;
  if (at_access) check.mcg_status |= kMcgStatusEipv;
  if (amd) {
    check.status |= kMciAmdPoison | (at_access ? kMciUc : kMciAmdDeferred);
  } else {
    check.status |= kMciUc | (at_access ? kMciAr | kMciDataLoad : kMciScrubbing);
  }
  return check;
}

// The losses that a VP has yet to be told of. Post: any thread, async-signal-safe. Take: the VP's.
class LossQueue {
 public:
  void Post(uint64_t gpa, LossBy by) {
    const uint64_t value = gpa | static_cast<uint64_t>(by);
    for (std::atomic<uint64_t>& slot : slots_) {
      uint64_t free = 0;
      if (slot.compare_exchange_strong(free, value, std::memory_order_release, std::memory_order_relaxed)) return;
    }
    overflow_.store(true, std::memory_order_release);
  }

  bool waiting() const {
    for (const std::atomic<uint64_t>& slot : slots_) {
      if (slot.load(std::memory_order_relaxed) != 0) return true;
    }
    return false;
  }

  // The one that counts most, with a word on whether there were others: a second machine check before the end of the first would
  // shut the processor down.
  absl::optional<Loss> Take() {
    absl::optional<Loss> worst;
    bool several = overflow_.exchange(false, std::memory_order_acquire);
    for (std::atomic<uint64_t>& slot : slots_) {
      const uint64_t value = slot.exchange(0, std::memory_order_acquire);
      if (value == 0) continue;
      const Loss loss{.gpa = value & ~uint64_t{0xFFF}, .by = static_cast<LossBy>(value & 0xFFF)};
      several |=
          worst.has_value() && worst->by != LossBy::kOther && loss.by != LossBy::kOther && worst->gpa != loss.gpa;
      if (!worst.has_value() || loss.by < worst->by) worst = loss;
    }
    if (worst.has_value()) worst->several = several;
    return worst;
  }

 private:
  std::array<std::atomic<uint64_t>, 8> slots_{};  // a page's address and LossBy; 0: free
  std::atomic<bool> overflow_{false};
};

}  // namespace hvsdk::backend

#endif  // HVSDK_SRC_BACKEND_MACHINE_CHECK_H_

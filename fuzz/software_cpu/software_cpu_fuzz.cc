// SPDX-License-Identifier: Apache-2.0
// Random bytes as code on the software processor, in every mode: it must come back within its budget and touch nothing
// outside guest memory, and with the dirty log on, name each page that it wrote.
//
// Input: a byte that picks the mode, one that picks registers and the dirty log, then the code, loaded at 0x8000. One
// machine serves all inputs: what one leaves behind is put back by Vp::Reset and by writing the pages that it changed,
// so that state which survives either would show as well.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;

constexpr uint64_t kMemorySize = 0x20000;
constexpr uint64_t kPml4 = 0x1000, kPdpt = 0x2000, kPd = 0x3000, kPt = 0x4000, kGdt = 0x5000, kIdt = 0x6000;
constexpr uint64_t kCode = 0x8000;
constexpr uint64_t kCodeSize = 0x4000;
constexpr uint64_t kBudget = 1'000;  // instructions
// Small, so that it overflows, and is emptied quickly.
constexpr size_t kCodeCacheBytes = 64 << 10;
constexpr uint16_t kLinePort = 0xE0;  // a device that drives the interrupt line in bits 0 to 4 to the level in bit 5

class QuietHandler final : public backend::ExitHandler {
 public:
  explicit QuietHandler(backend::Partition& partition) : partition_(partition) {}
  void OnPortRead(backend::Vp&, uint16_t, absl::Span<uint8_t> data) override {
    std::fill(data.begin(), data.end(), 0x5A);
  }
  void OnPortWrite(backend::Vp&, uint16_t port, absl::Span<const uint8_t> data) override {
    if (port == kLinePort) partition_.SetIrqLine(data[0] & 31, (data[0] & 32) != 0);
  }
  void OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t> data) override {
    std::fill(data.begin(), data.end(), 0xA5);
  }
  void OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) override {}
  backend::MsrOutcome OnMsrRead(backend::Vp&, uint32_t, uint64_t&) override { return backend::MsrOutcome::kFault; }
  backend::MsrOutcome OnMsrWrite(backend::Vp&, uint32_t, uint64_t) override { return backend::MsrOutcome::kFault; }
  backend::HypercallOutcome OnHypercall(backend::Vp&) override { return backend::HypercallOutcome::kDone; }

 private:
  backend::Partition& partition_;
};

hvdef::RegisterValue SegmentValue(uint16_t selector, int attributes, uint32_t limit) {
  const hvdef::SegmentRegister segment{0, limit, selector, static_cast<uint16_t>(attributes)};
  RegisterValue value;
  std::memcpy(&value, &segment, sizeof(value));
  return value;
}

class Guest {
 public:
  Guest() {
    HVSDK_CHECK(engine_.ok() && partition_.ok() && (*partition_)->AddMemory(0, memory_bytes_).ok());
    vp_ = *(*partition_)->CreateVp(VpIndex{0}, 0, *(*partition_)->SupportedCpuid());
  }

  void Run(const uint8_t* data, size_t size) {
    const uint8_t mode = data[0] % 5;  // real, protected 16 and 32, 64 supervisor and user
    const uint8_t choice = data[1];
    const bool logs = (choice & 16) != 0;
    SetImage(mode, data + 2, std::min<size_t>(size - 2, kCodeSize));
    for (uint64_t at = 0; at < kMemorySize; at += kPageSize) {
      if (Differs(at)) HVSDK_CHECK(memory_.Write(at, &image_[at], kPageSize));
    }
    HVSDK_CHECK(vp_->Reset().ok() && (*partition_)->ResetInterruptControllers().ok());
    if (logs != logs_) HVSDK_CHECK((*partition_)->EnableDirtyLog(logs).ok());
    logs_ = logs;
    SetRegisters(mode, choice);
    QuietHandler handler(**partition_);
    const backend::DeterministicMachine::Processor processor{vp_.get(), &handler};
    const auto machine = time_.CreateMachine({&processor, 1}, 500);
    (void)machine->Run(kBudget);
    if (logs) CheckLog();
  }

 private:
  bool Differs(uint64_t page) const { return std::memcmp(&memory_bytes_[page], &image_[page], kPageSize) != 0; }

  // What memory holds before the first instruction.
  void SetImage(uint8_t mode, const uint8_t* code, size_t size) {
    std::memset(&image_[kCode], 0, kCodeSize);
    std::memcpy(&image_[kCode], code, size);
    const auto put = [&](uint64_t at, uint64_t value) { std::memcpy(&image_[at], &value, 8); };
    const uint64_t user = mode == 4 ? 7 : 3;
    put(kPml4, kPdpt | user);
    put(kPdpt, kPd | user);
    put(kPd, kPt | user);
    put(kPd + 8, 0x80 | user);  // a large page, for the most part beyond memory
    for (uint64_t page = 0; page < kMemorySize / kPageSize; ++page) put(kPt + 8 * page, page * kPageSize | user);
    put(kGdt + 8, 0x00AF9B000000FFFF);
    put(kGdt + 16, 0x00CF93000000FFFF);
    put(kGdt + 24, 0x00CF9B000000FFFF);
    put(kGdt + 32, 0x00AFFB000000FFFF);
    put(kGdt + 40, 0x00CFF3000000FFFF);
    for (uint64_t vector = 0; vector < 32; ++vector) {
      put(kIdt + 16 * vector, kCode | uint64_t{8} << 16 | uint64_t{0x8E00} << 32);
    }
  }

  void SetRegisters(uint8_t mode, uint8_t choice) {
    std::vector<RegisterName> names;
    std::vector<RegisterValue> values;
    const auto set = [&](RegisterName name, RegisterValue value) {
      names.push_back(name);
      values.push_back(value);
    };
    if (mode != 0) {
      set(RegisterName::kGdtr, {uint64_t{47} << 48, kGdt});
      set(RegisterName::kIdtr, {uint64_t{511} << 48, kIdt});
      const bool wide = mode >= 3;
      if (wide) {
        set(RegisterName::kCr3, {kPml4});
        set(RegisterName::kCr4, {0x6A0 | ((choice & 1) ? 0x340000u : 0)});
        set(RegisterName::kEfer, {0xD01});
        set(RegisterName::kCr0, {0x80000031 | ((choice & 2) ? 0x10000u : 0)});
      } else {
        set(RegisterName::kCr4, {0x600});
        set(RegisterName::kCr0, {0x31});
      }
      const int ring = mode == 4 ? 3 : 0;
      const int dpl = ring << 5;
      set(RegisterName::kCs, SegmentValue(static_cast<uint16_t>((wide ? (ring ? 32 : 8) : 24) | ring),
                                          (wide        ? 0xA09B
                                           : mode == 2 ? 0xC09B
                                                       : 0x809B) |
                                              dpl,
                                          0xFFFFFFFF));
      set(RegisterName::kSs, SegmentValue(static_cast<uint16_t>((ring ? 40 : 16) | ring), 0xC093 | dpl, 0xFFFFFFFF));
      for (const RegisterName name : {RegisterName::kDs, RegisterName::kEs, RegisterName::kFs, RegisterName::kGs}) {
        set(name, SegmentValue(16, 0xC093, 0xFFFFFFFF));
      }
    } else {
      set(RegisterName::kCs, SegmentValue(0, 0x9B, 0xFFFF));
    }
    set(RegisterName::kRip, {kCode});
    set(RegisterName::kTsc, {0});
    HVSDK_CHECK(vp_->SetRegisters(names, values).ok());
    for (int i = 0; i < 16; ++i) {
      vp_->SetGpr(static_cast<backend::Gpr>(i), (choice & 4) ? 0x9000 + 0x321 * i : 0x1F000 + 0xFF0 * i);
    }
    vp_->SetGpr(backend::Gpr::kRsp, (choice & 8) ? 0x10 : 0xFF00);
  }

  void CheckLog() {
    uint64_t log[1] = {};
    static_assert(kMemorySize / kPageSize <= 64);
    HVSDK_CHECK((*partition_)->TakeDirtyLog(0, kMemorySize, absl::MakeSpan(log)).ok());
    for (uint64_t page = 0; page < kMemorySize / kPageSize; ++page) {
      HVSDK_CHECK((log[0] >> page & 1) != 0 || !Differs(page * kPageSize));
    }
  }

  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  // Of its own, so that AddressSanitizer sees what lies beside it.
  const std::unique_ptr<uint8_t, Free> host_{static_cast<uint8_t*>(std::aligned_alloc(kPageSize, kMemorySize))};
  const absl::Span<uint8_t> memory_bytes_{host_.get(), kMemorySize};
  std::vector<uint8_t> image_ = std::vector<uint8_t>(kMemorySize);
  GuestMemory memory_;
  backend::SoftwareTime time_;
  const absl::StatusOr<std::unique_ptr<backend::Backend>> engine_ =
      backend::CreateSoftwareBackend({.instruction_time = &time_, .code_cache_bytes = kCodeCacheBytes});
  const absl::StatusOr<std::unique_ptr<backend::Partition>> partition_ = (*engine_)->CreatePartition(memory_);
  std::unique_ptr<backend::Vp> vp_;
  bool logs_ = false;
};

}  // namespace
}  // namespace hvsdk

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static hvsdk::Guest guest;
  if (size >= 3) guest.Run(data, size);
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "vmm/deterministic_run.h"

#include <cstring>

#include "base/check.h"

namespace hvsdk::vmm {
namespace {

using hvdef::RegisterName;

// One slice for each VP: between rounds the machine's own work is done, so this bounds how long the guest waits for it.
constexpr uint64_t kRoundNs = 20'000;

struct Row {
  RegisterName first;
  uint32_t count;
};
constexpr Row kRegisters[] = {{RegisterName::kRax, 18}, {RegisterName::kXmm0, 16}, {RegisterName::kFpMmx0, 10},
                              {RegisterName::kCr0, 6},  {RegisterName::kDr0, 6},   {RegisterName::kEs, 8},
                              {RegisterName::kIdtr, 2}, {RegisterName::kTsc, 12},  {RegisterName::kTscAux, 1}};

class Fnv1a {
 public:
  void Add(uint64_t word) { hash_ = (hash_ ^ word) * 0x100000001B3; }
  uint64_t value() const { return hash_; }

 private:
  uint64_t hash_ = 0xCBF29CE484222325;
};

}  // namespace

void DeterministicRun::SetProcessors(absl::Span<const backend::DeterministicMachine::Processor> processors) {
  for (const auto& processor : processors) vps_.push_back(processor.vp);
  machine_.emplace(time_, processors, kRoundNs);
}

backend::DeterministicMachine::Result DeterministicRun::RunRound() { return machine_->Run(kRoundNs); }

uint64_t DeterministicRun::HashState(const GuestMemory& memory) const {
  Fnv1a hash;
  for (const GuestMemory::Range& range : memory.ranges()) {
    for (uint64_t at = 0; at < range.size_bytes; at += sizeof(uint64_t)) {
      uint64_t word;
      std::memcpy(&word, range.host + at, sizeof(word));
      hash.Add(word);
    }
  }
  for (backend::Vp* const vp : vps_) {
    for (const Row& row : kRegisters) {
      for (uint32_t i = 0; i < row.count; ++i) {
        const auto name = static_cast<RegisterName>(static_cast<uint32_t>(row.first) + i);
        hvdef::RegisterValue value;
        HVSDK_CHECK(vp->GetRegisters({&name, 1}, {&value, 1}).ok());
        hash.Add(value.low);
        hash.Add(value.high);
      }
    }
  }
  return hash.value();
}

}  // namespace hvsdk::vmm

// SPDX-License-Identifier: Apache-2.0
// A guest made of random bytes: hypercalls with any registers and input, MSR accesses, time, and the root beside it.
//
// The bytes are instructions of sorts, so that short inputs reach deep: half of the choices are drawn from what is
// valid. Ends the program where a promise is broken: a status that does not exist, or a call that is retried
// without end.

#ifndef HVSDK_FUZZ_HYPERCALL_DRIVE_GUEST_H_
#define HVSDK_FUZZ_HYPERCALL_DRIVE_GUEST_H_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"
#include "base/check.h"
#include "fuzz/bytes.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/hvdef/status.h"
#include "tests/partition/fake_machine.h"

namespace hvsdk::fuzz {

inline bool IsStatus(hvdef::HvStatus status) {
  using S = hvdef::HvStatus;
  switch (status) {
    case S::kSuccess:
    case S::kInvalidHypercallCode:
    case S::kInvalidHypercallInput:
    case S::kInvalidAlignment:
    case S::kInvalidParameter:
    case S::kAccessDenied:
    case S::kInvalidPartitionId:
    case S::kInvalidVpIndex:
    case S::kInvalidPortId:
    case S::kInvalidConnectionId:
    case S::kInsufficientBuffers:
    case S::kInvalidVpState:
    case S::kInvalidRegisterValue:
    case S::kInvalidVtlState:
      return true;
    default:
      return false;
  }
}

class GuestDriver {
 public:
  explicit GuestDriver(fake::FakeMachine& machine) : machine_(machine) {}

  void Drive(absl::Span<const uint8_t> input) {
    Bytes bytes(input);
    for (int steps = 0; !bytes.empty() && steps < 1000; ++steps) {
      const uint32_t vp = bytes.Take<uint8_t>() % machine_.vps.size();
      switch (bytes.Take<uint8_t>() % 8) {
        case 0:
          MsrWrite(bytes, vp);
          break;
        case 1:
          machine_.Read(MsrIndex(bytes), vp);
          break;
        case 2:
          machine_.timers.AdvanceBy(bytes.Take<uint16_t>() * 16);
          break;
        case 3:
          Root(bytes, vp);
          break;
        default:
          Hypercall(bytes, vp);
          break;
      }
    }
  }

  // How the hypercalls ended.
  uint64_t succeeded() const { return succeeded_; }
  uint64_t failed() const { return failed_; }

 private:
  static uint32_t MsrIndex(Bytes& bytes) { return hvdef::msr::kFirst + bytes.Take<uint16_t>() % 0x202; }

  // An address: in one of the first pages of memory, or anything.
  static uint64_t Address(Bytes& bytes) {
    const uint8_t choice = bytes.Take<uint8_t>();
    if (choice % 4 == 0) return bytes.Take<uint64_t>();
    return (2 + choice / 4 % 4) * kPageSize + bytes.Take<uint8_t>() % 32 * (choice % 4 == 1 ? 1 : 8);
  }

  void MsrWrite(Bytes& bytes, uint32_t vp) {
    const uint32_t index = MsrIndex(bytes);
    const bool raw = bytes.Take<uint8_t>() % 2 == 0;
    machine_.Write(index, raw ? bytes.Take<uint64_t>() : Address(bytes) | 1, vp);
    // A guest that took its identity or its hypercall page back could make no more calls; one that locked it so
    // is reset.
    machine_.Write(hvdef::msr::kGuestOsId, 1);
    if ((machine_.Read(hvdef::msr::kHypercall) & 1) != 0) return;
    if (machine_.Allows(hvdef::msr::kHypercall, 0x1001)) return;
    machine_.partition->Reset();
    machine_.Write(hvdef::msr::kGuestOsId, 1);
    machine_.Write(hvdef::msr::kHypercall, 0x1001);
  }

  void Root(Bytes& bytes, uint32_t vp) {
    const Sint sint{static_cast<uint8_t>(bytes.Take<uint8_t>() % 16)};
    if (bytes.Take<uint8_t>() % 2 == 0) {
      machine_.partition->SignalEvent(VpIndex{vp}, sint, bytes.Take<uint16_t>());
    } else {
      machine_.partition->PostMessage(VpIndex{vp}, sint, bytes.Take<uint32_t>(), bytes.TakeSpan(bytes.Take<uint8_t>()));
    }
  }

  void Hypercall(Bytes& bytes, uint32_t vp) {
    static constexpr uint16_t kCodes[] = {0x02, 0x03, 0x08, 0x0B, 0x13, 0x14, 0x15, 0x50,  0x51,
                                          0x52, 0x5C, 0x5D, 0x7E, 0x94, 0x99, 0x9A, 0x8001};
    // How the call is made, and which rule it breaks, if any.
    const uint8_t shape = bytes.Take<uint8_t>();
    const uint8_t wrong = bytes.Take<uint8_t>();
    const uint8_t select = bytes.Take<uint8_t>();
    const uint16_t code = wrong == 1 ? bytes.Take<uint16_t>() : kCodes[select % std::size(kCodes)];
    const auto* call = machine_.partition->hypercalls().Find(code);
    const bool fast = (shape & 1) != 0;
    const bool rep = (call != nullptr && call->rep) != (wrong == 2);
    const bool variable = (call != nullptr && call->variable_header) != (wrong == 3);
    const uint16_t reps = rep ? 1 + bytes.Take<uint8_t>() % (fast ? 6 : 100) : 0;
    hvdef::Control control = hvdef::Control::Make(code, fast, variable ? bytes.Take<uint8_t>() % 4 : 0, reps,
                                                  wrong == 4 ? bytes.Take<uint8_t>() : 0);
    if (wrong == 5) control.value = bytes.Take<uint64_t>();

    fake::FakeVp& fake = *machine_.fake_vps[vp];
    // Most blocks begin with the partition's id, or with something small.
    const uint64_t first = (shape & 2) != 0 ? hvdef::kPartitionIdSelf : bytes.Take<uint8_t>();
    const uint64_t input = fast ? first : Address(bytes);
    const uint64_t output = fast ? bytes.Take<uint64_t>() : Address(bytes);
    const auto contents = bytes.TakeSpan(bytes.Take<uint8_t>());
    (void)machine_.memory.Write(input, contents.data(), contents.size());
    if ((shape & 4) != 0) (void)machine_.memory.WriteObject(input, first);
    for (uint32_t i = 0; fast && i < 6 && !bytes.empty(); ++i) {
      fake.registers[static_cast<hvdef::RegisterName>(static_cast<uint32_t>(hvdef::RegisterName::kXmm0) + i)] =
          bytes.Take<hvdef::RegisterValue>();
    }
    // Nearly always a 64-bit kernel.
    const bool narrow = shape >> 4 == 0;
    fake.SetMode(true, !narrow, 0);
    using backend::Gpr;
    const auto set = [&](Gpr wide, Gpr high, Gpr low, uint64_t value) {
      fake.SetGpr(narrow ? low : wide, value);
      if (narrow) fake.SetGpr(high, value >> 32);
    };
    set(Gpr::kRcx, Gpr::kRdx, Gpr::kRax, control.value);
    set(Gpr::kRdx, Gpr::kRbx, Gpr::kRcx, input);
    set(Gpr::kR8, Gpr::kRdi, Gpr::kRsi, output);
    for (int tries = 0;; ++tries) {
      HVSDK_CHECK(tries < 5000);
      hypercall::CallRecord record;
      const backend::HypercallOutcome outcome = machine_.vps[vp]->OnHypercall(&record);
      if (outcome == backend::HypercallOutcome::kRetry) continue;
      HVSDK_CHECK(outcome == backend::HypercallOutcome::kUndefinedOpcode ||
                  IsStatus(hvdef::ResultStatus(record.result)));
      const bool success = outcome == backend::HypercallOutcome::kDone &&
                           hvdef::ResultStatus(record.result) == hvdef::HvStatus::kSuccess;
      ++(success ? succeeded_ : failed_);
      break;
    }
  }

  fake::FakeMachine& machine_;
  uint64_t succeeded_ = 0, failed_ = 0;
};

}  // namespace hvsdk::fuzz

#endif  // HVSDK_FUZZ_HYPERCALL_DRIVE_GUEST_H_

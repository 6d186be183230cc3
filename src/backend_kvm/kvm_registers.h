// SPDX-License-Identifier: Apache-2.0
// HV_REGISTER_NAME to and from the structures of KVM.
//
// KVM hands registers out in groups. An image holds those groups of one VP that were asked for; named registers are
// read from and written into the image, and changed groups go back as a whole.

#ifndef HVSDK_SRC_BACKEND_KVM_KVM_REGISTERS_H_
#define HVSDK_SRC_BACKEND_KVM_KVM_REGISTERS_H_

#include <linux/kvm.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "backend_kvm/host_features.h"
#include "backend_kvm/kvm_api.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/hvdef/register.h"

namespace hvsdk::backend::kvm {

// In the order in which changes are applied: what may be refused comes first.
enum class RegisterGroup : uint8_t {
  kSpecial,
  kMsrs,
  kExtendedControl,
  kDebug,
  kFpu,
  kEvents,
  kGeneral,
  kFixed,
  kUnknown
};

RegisterGroup GroupOf(hvdef::RegisterName name);

// The general register of a name, if it is one of the sixteen.
constexpr bool IsGpr(hvdef::RegisterName name) {
  return name >= hvdef::RegisterName::kRax && name <= hvdef::RegisterName::kR15;
}
uint64_t ReadGpr(const kvm_regs& regs, Gpr gpr);
void WriteGpr(kvm_regs& regs, Gpr gpr, uint64_t value);

// Segment `index`, in the order of ES to TR.
kvm_segment& SegmentOf(kvm_sregs& sregs, size_t index);
const kvm_segment& SegmentOf(const kvm_sregs& sregs, size_t index);
hvdef::SegmentRegister FromSegment(const kvm_segment& segment);
kvm_segment ToSegment(const hvdef::SegmentRegister& in);

// Whether IA32_PAT can have that value.
bool IsPat(uint64_t value);

// HV_X64_PENDING_INTERRUPTION_REGISTER: an event whose delivery had begun. False: there is no such event.
hvdef::RegisterValue PendingInterruption(const kvm_vcpu_events& events);
bool SetPendingInterruption(kvm_vcpu_events& events, uint64_t value);

class RegisterImage {
 public:
  RegisterImage(const Fd& vcpu, uint32_t apic_id, const HostFeatures& host)
      : vcpu_(vcpu),
        apic_id_(apic_id),
        exception_payload_(host.exception_payload),
        xsave_size_(host.xsave_size_bytes) {}

  // General and special registers may come from a cache instead of the kernel.
  void Provide(const kvm_regs& regs);
  void Provide(const kvm_sregs& sregs);
  const kvm_regs& regs() const { return regs_; }
  const kvm_sregs& sregs() const { return sregs_; }
  kvm_vcpu_events& events() { return events_; }

  // Reads `name`, from the kernel if its group is not in the image.
  absl::Status Get(hvdef::RegisterName name, hvdef::RegisterValue& value);

  // Changes `name` in the image.
  absl::Status Set(hvdef::RegisterName name, const hvdef::RegisterValue& value);

  absl::Status Load(RegisterGroup group);
  // Gives a changed group to the kernel (not the general registers, which the VP owns).
  absl::Status Store(RegisterGroup group);
  bool changed(RegisterGroup group) const { return (changed_ & Bit(group)) != 0; }

 private:
  static uint32_t Bit(RegisterGroup group) { return 1u << static_cast<uint32_t>(group); }
  hvdef::RegisterValue Extract(hvdef::RegisterName name) const;
  template <typename T>
  T FpuField(size_t offset) const {
    T value;
    std::memcpy(&value, xsave_.data() + offset, sizeof(value));
    return value;
  }
  template <typename T>
  void SetFpuField(size_t offset, T value) {
    std::memcpy(xsave_.data() + offset, &value, sizeof(value));
  }
  absl::Status Insert(hvdef::RegisterName name, const hvdef::RegisterValue& value);
  kvm_msr_entry* FindMsr(uint32_t index);
  absl::Status LoadMsr(uint32_t index);

  const Fd& vcpu_;
  const uint32_t apic_id_;
  const bool exception_payload_;
  const uint32_t xsave_size_;
  uint32_t loaded_ = 0;
  uint32_t changed_ = 0;
  kvm_regs regs_;
  kvm_sregs sregs_;
  // The XSAVE area; the general KVM_GET_FPU leaves MXCSR out.
  std::vector<uint8_t> xsave_;
  kvm_debugregs debug_;
  kvm_xcrs xcrs_;
  kvm_vcpu_events events_;
  std::vector<kvm_msr_entry> msrs_;
};

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_KVM_REGISTERS_H_

// SPDX-License-Identifier: Apache-2.0
// The engine over Linux' /dev/kvm.
//
// Needs Linux 5.10 or newer and read-write access to the device; it uses neither the kernel's own Hyper-V emulation
// (but for the synthetic EOI, ICR and TPR MSRs, where present) nor vmcall. Synthetic MSRs come to user space by an
// MSR filter. The hypercall page writes to a port that no PC has, which also reaches user space on a KVM without vmx
// or svm.
//
// The interrupt controllers (local APICs, IOAPIC, 8259s) are the kernel's. There is no PIT.
//
// Signals: to stop a VP the engine sends `kick_signal` to the thread inside Vp::Run. It only has to interrupt a system
// call. If the signal still has its default action when the first backend is created, a handler that does nothing is
// installed for it; a handler of the program's own is left alone and may do anything that returns. Vp::Run unblocks
// the signal for the thread while it runs. Because of SA_RESTART and because only threads inside KVM_RUN are
// signalled, no other code of the program sees EINTR but in the rare race of a stop with an exit.
//
// Thread class: as backend.h says.
//
//   const absl::StatusOr<std::unique_ptr<backend::Backend>> kvm = backend::CreateKvmBackend({});
//   if (!kvm.ok()) return kvm.status();
//   const absl::StatusOr<std::unique_ptr<backend::Partition>> partition = (*kvm)->CreatePartition(memory);

#ifndef HVSDK_BACKEND_KVM_KVM_BACKEND_H_
#define HVSDK_BACKEND_KVM_KVM_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::backend {

struct KvmOptions {
  std::string device = "/dev/kvm";
  // The signal that stops a VP; 0 takes SIGRTMIN + 7.
  int kick_signal = 0;
};

// Opens the device and asks what it can do.
// Unavailable: no such device, or not allowed to open it. Unimplemented: the kernel lacks a capability, which is named.
// FailedPrecondition: the program ignores the kick signal.
absl::StatusOr<std::unique_ptr<Backend>> CreateKvmBackend(const KvmOptions& options);

// Whether this processor reports vmx or svm. Where it does not, a /dev/kvm may exist nevertheless and emulate
// kernel-mode code instruction by instruction: right for a test with a tiny guest, far too slow for an
// operating system.
bool ProcessorHasVirtualization();

}  // namespace hvsdk::backend

#endif  // HVSDK_BACKEND_KVM_KVM_BACKEND_H_

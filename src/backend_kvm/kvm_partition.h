// SPDX-License-Identifier: Apache-2.0
// A partition over one KVM virtual machine: memory slots, interrupt delivery, the TSC's offset, TLB flushes.

#ifndef HVSDK_SRC_BACKEND_KVM_KVM_PARTITION_H_
#define HVSDK_SRC_BACKEND_KVM_KVM_PARTITION_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/types/optional.h"
#include "backend_kvm/host_features.h"
#include "backend_kvm/interrupt_controllers.h"
#include "backend_kvm/kvm_api.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/base/lost_memory.h"

namespace hvsdk::backend::kvm {

class KvmVp;

// A new virtual machine with interrupt controllers, exits for MSRs, and an MSR filter.
absl::StatusOr<Fd> CreateConfiguredVm(const HostFeatures& host);

class KvmPartition : public Partition, public LostMemoryObserver {
 public:
  KvmPartition(const HostFeatures& host, Fd vm, GuestMemory& memory, const InterruptControllers& power_on);
  ~KvmPartition() override;

  absl::Status AddMemory(uint64_t gpa, absl::Span<uint8_t> host) override;
  absl::Status RemoveLastMemory() override;
  absl::Status MapMemory(uint64_t gpa, absl::Span<uint8_t> host, MapAccess access) override;
  absl::Status UnmapMemory(uint64_t gpa, uint64_t size_bytes) override;
  absl::StatusOr<std::unique_ptr<Vp>> CreateVp(VpIndex index, uint32_t apic_id,
                                               absl::Span<const CpuidEntry> cpuid) override;
  absl::StatusOr<std::vector<CpuidEntry>> SupportedCpuid() const override;
  void SignalMsi(uint64_t address, uint32_t data) override;
  void RequestInterrupt(VpIndex vp, uint8_t vector, bool auto_eoi) override;
  void SetIrqLine(uint32_t irq, bool level) override;
  absl::Status ResetInterruptControllers() override;
  uint64_t GuestTsc() const override;
  absl::Status SaveState(PartitionState& state) override;
  absl::Status RestoreState(const PartitionState& state) override;
  void FlushTlb(absl::Span<const VpIndex> vps) override;
  absl::Status AssignSignalEvent(ConnectionId connection, int event_fd) override;
  absl::Status UnassignSignalEvent(ConnectionId connection, int event_fd) override;
  absl::Status EnableDirtyLog(bool enable) override;
  absl::Status TakeDirtyLog(uint64_t gpa, uint64_t size_bytes, absl::Span<uint64_t> bitmap) override;

  void OnLostPage(const uint8_t* page) override;
  // What one VP met is told to the others.
  void TellOthers(const KvmVp& self);

  const HostFeatures& host() const { return host_; }
  const Fd& vm() const { return vm_; }
  const GuestMemory& memory() const { return memory_; }
  void RemoveVp(VpIndex index);
  // Delivers a message-signalled interrupt to one VP.
  void SignalTo(const Vp& vp, uint32_t data);
  // Gives a vCPU the partition's TSC and so much more.
  absl::Status SetTsc(const Fd& vcpu, uint64_t vp_offset);
  // It was restored, and could not go on at its frequency.
  bool tsc_changed() const { return tsc_changed_; }
  // What a vCPU's TSC is more than the partition's.
  absl::StatusOr<uint64_t> TscOffsetOf(const Fd& vcpu) const;

 private:
  struct Slot {
    uint32_t id;
    uint64_t size_bytes;
    uint8_t* host;
    bool read_only;
  };

  absl::Status SetSlot(uint64_t gpa, const Slot& slot, uint64_t size_bytes);  // with mutex_ held
  absl::Status SetSignalEvent(ConnectionId connection, int event_fd, uint32_t flags);
  absl::Status AdoptTsc(const Fd& vcpu);
  absl::StatusOr<uint64_t> KernelTscOffset(const Fd& vcpu);
  KvmVp* FindVp(VpIndex index) const;

  const HostFeatures& host_;
  const Fd vm_;
  GuestMemory& memory_;
  const InterruptControllers power_on_;

  // The guest's TSC was guest_tsc_ when the host's was host_tsc_. Written while VPs are created or restored, that is before
  // any runs.
  uint64_t guest_tsc_ = 0, host_tsc_ = 0;
  // Set: the guest's TSC has this frequency in place of the host's, and the kernel scales it.
  absl::optional<uint32_t> scaled_tsc_khz_;
  // What the kernel adds to the host's TSC, once it is scaled: known with the first vCPU.
  absl::optional<uint64_t> kernel_tsc_offset_;
  uint64_t tsc_frequency_hz_;
  bool tsc_changed_ = false;
  std::atomic<uint32_t> lines_{0};  // the levels that SetIrqLine gave
  // By index; nullptr where there is none. Sized once, so that readers need no lock.
  std::vector<std::atomic<KvmVp*>> vps_;

  std::mutex mutex_;                // guards what follows
  std::map<uint64_t, Slot> slots_;  // by guest physical address
  std::vector<uint32_t> free_slots_;
  uint32_t next_slot_ = 0;
  bool dirty_log_ = false;
};

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_KVM_PARTITION_H_

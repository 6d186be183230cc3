// SPDX-License-Identifier: Apache-2.0
// The running machine's disks, as its user has attached them: by flags, and by mini_vmm ctl.

#ifndef HVSDK_EXAMPLES_MINI_VMM_DISKS_H_
#define HVSDK_EXAMPLES_MINI_VMM_DISKS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "files.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/vmm/machine_control.h"

namespace mini_vmm {

class Disks final : public hvsdk::vmm::DiskOwner {
 public:
  // `config` and `files.disks` are the machine's, and follow what is attached. All outlive this.
  Disks(const std::string& config_path, hvsdk::vmm::MachineConfig& config, Files& files,
        hvsdk::machine::Machine& machine)
      : config_path_(config_path), config_(config), files_(files), machine_(machine) {}

  std::vector<hvsdk::vmm::DiskStatus> disks() const override;
  absl::StatusOr<uint8_t> Attach(const hvsdk::vmm::DiskConfig& disk) override;
  absl::Status Detach(uint8_t lun, absl::AnyInvocable<void()> gone) override;
  absl::Status Insert(uint8_t lun, const std::string& path) override;
  absl::Status Eject(uint8_t lun, bool force) override;
  absl::StatusOr<std::vector<hvsdk::vmm::DiskSnapshot>> Snapshot(const std::string& directory) override;
  absl::Status CheckSnapshot() const override;
  // The guest has opened a drive: "storage/1" is empty.
  void OnEjected(absl::string_view device);

 private:
  // Its number, or -1.
  int Find(uint8_t lun) const;
  // Numbers of those that are written.
  std::vector<int> Written() const;

  const std::string& config_path_;
  hvsdk::vmm::MachineConfig& config_;
  Files& files_;
  hvsdk::machine::Machine& machine_;
};

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_DISKS_H_

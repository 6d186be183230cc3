// SPDX-License-Identifier: Apache-2.0
// A Cpu as a backend::Vp.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_SOFTWARE_VP_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_SOFTWARE_VP_H_

#include <memory>

#include "backend_software/machine.h"
#include "backend_software/processor/cpu.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::software {

class SoftwareVp final : public backend::Vp {
 public:
  // `machine` is kept alive, and keeps the others.
  SoftwareVp(std::shared_ptr<Machine> machine, std::unique_ptr<Cpu> cpu, std::unique_ptr<CodeCache> code);
  ~SoftwareVp() override;

  absl::StatusOr<backend::StopReason> Run(backend::ExitHandler& handler) override;
  void Kick() override;
  uint64_t GetGpr(backend::Gpr gpr) const override { return cpu_->r[static_cast<int>(gpr)]; }
  void SetGpr(backend::Gpr gpr, uint64_t value) override { cpu_->r[static_cast<int>(gpr)] = value; }
  absl::Status GetRegisters(absl::Span<const hvdef::RegisterName> names,
                            absl::Span<hvdef::RegisterValue> values) override;
  absl::Status SetRegisters(absl::Span<const hvdef::RegisterName> names,
                            absl::Span<const hvdef::RegisterValue> values) override;
  absl::Status Reset() override;
  absl::Status SaveState(backend::VpState& state) override;
  absl::Status RestoreState(const backend::VpState& state) override;
  void InjectException(const backend::Exception& exception) override;
  absl::StatusOr<backend::Activity> GetActivity() override { return static_cast<backend::Activity>(cpu_->halted); }
  absl::Status SetActivity(backend::Activity activity) override;
  backend::Translation TranslateGva(uint64_t gva, backend::TranslateAccess access, bool user) override;

  Cpu& cpu() { return *cpu_; }
  Machine& machine() { return *machine_; }

 private:
  std::shared_ptr<Machine> machine_;
  Cpu* const cpu_;
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_SOFTWARE_VP_H_

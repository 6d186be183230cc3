// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/system_oracle/system_runner.h"

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/status_macros.h"

namespace hvsdk::oracle {
namespace {

constexpr auto kTick = std::chrono::milliseconds(20);
constexpr int kPatience = 250;  // ticks: a busy host must not look like code that goes in a circle
constexpr size_t kMaxAccesses = 64;

bool EndsScenario(uint16_t port) {
  return port == kEndPort || port == kOtherPort || (port >= kExceptionPort && port < kExceptionPort + 32) ||
         (port >= kInterruptPort && port < kInterruptPort + 16);
}

}  // namespace

absl::StatusOr<std::unique_ptr<SystemRunner>> SystemRunner::Create(backend::Backend& engine) {
  std::unique_ptr<SystemRunner> runner(new SystemRunner);
  void* host = mmap(nullptr, kSystemMemory, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (host == MAP_FAILED) return absl::ResourceExhaustedError("no memory for a guest");
  runner->host_ = static_cast<uint8_t*>(host);
  const absl::Span<uint8_t> bytes(runner->host_, kSystemMemory);
  RETURN_IF_ERROR(runner->memory_.AddRange(0, bytes));
  ASSIGN_OR_RETURN(runner->partition_, engine.CreatePartition(runner->memory_));
  RETURN_IF_ERROR(runner->partition_->MapMemory(0, bytes, backend::MapAccess::kReadWriteExecute));
  ASSIGN_OR_RETURN(runner->cpuid_, runner->partition_->SupportedCpuid());
  ASSIGN_OR_RETURN(runner->vp_, runner->partition_->CreateVp(VpIndex{0}, 0, runner->cpuid_));
  runner->watchdog_ = std::thread([raw = runner.get()] { raw->Watch(); });
  RETURN_IF_ERROR(runner->TouchMemory());
  return runner;
}

// Touches every page once. Below a nested KVM the first access of each page is a fault of the host's, and one amidst
// the delivery of an exception leaves QEMU's processor with the wrong idea of what comes next.
absl::Status SystemRunner::TouchMemory() {
  Scenario scenario;
  scenario.memory.assign(kSystemMemory, 0);
  uint8_t* at = scenario.memory.data() + kFragments;
  for (uint64_t page = 0; page < kSystemMemory >> 12; ++page) {
    // mov ax, segment; mov ds, ax; add byte [0], 0
    const uint8_t code[] = {0xB8, 0, static_cast<uint8_t>(page), 0x8E, 0xD8, 0x80, 0x06, 0, 0, 0};
    at = std::copy(std::begin(code), std::end(code), at);
  }
  const uint8_t end[] = {0xE6, kEndPort};
  std::copy(std::begin(end), std::end(end), at);
  MakeRealModeState(scenario.start);
  SystemOutcome outcome;
  RETURN_IF_ERROR(Run(scenario, outcome));
  return outcome.how == SystemOutcome::kPort ? absl::OkStatus()
                                             : absl::InternalError("the guest does not run in real mode");
}

SystemRunner::~SystemRunner() {
  finished_.store(true);
  if (watchdog_.joinable()) watchdog_.join();
  vp_.reset();
  partition_.reset();
  if (host_ != nullptr) munmap(host_, kSystemMemory);
}

void SystemRunner::Watch() {
  uint64_t seen = 0;
  int ticks = 0;
  while (!finished_.load()) {
    std::this_thread::sleep_for(kTick);
    const uint64_t now = running_.load();
    if (now != seen || (now & 1) == 0) {
      seen = now;
      ticks = 0;
    } else if (++ticks == kPatience) {
      expired_.store(true);
      vp_->Kick();
    }
  }
}

absl::Status SystemRunner::Load(const Scenario& scenario) {
  // The engine hears of what was written, so only what changed is.
  for (uint64_t page = 0; page < kSystemMemory; page += 4096) {
    if (std::memcmp(host_ + page, scenario.memory.data() + page, 4096) == 0) continue;
    if (!memory_.Write(page, scenario.memory.data() + page, 4096))
      return absl::InternalError("guest memory refuses a write");
  }
  RETURN_IF_ERROR(vp_->SetActivity(backend::Activity::kRunning));
  // What an earlier scenario's code may have left pending, in the floating-point unit too.
  using hvdef::RegisterName;
  const RegisterName pending[] = {RegisterName::kPendingInterruption, RegisterName::kInterruptState,
                                  RegisterName::kFpControlStatus, RegisterName::kXmmControlStatus};
  const hvdef::RegisterValue none[] = {{}, {}, {0x037F, 0}, {0, 0x1F80 | uint64_t{0xFFFF} << 32}};
  RETURN_IF_ERROR(vp_->SetRegisters(pending, none));
  // An exception that waits for its delivery, which not every engine can tell from one under delivery.
  const hvdef::RegisterName event = hvdef::RegisterName::kPendingEvent0;
  (void)vp_->SetRegisters({&event, 1}, absl::MakeConstSpan(none).first(1));
  return vp_->SetRegisters(kStateNames, scenario.start.values);
}

absl::Status SystemRunner::Run(const Scenario& scenario, SystemOutcome& outcome) {
  outcome.how = SystemOutcome::kNoEnd;
  outcome.port = 0;
  outcome.reached_devices = false;
  outcome.accesses.clear();
  outcome_ = &outcome;
  failure_ = absl::OkStatus();
  RETURN_IF_ERROR(Load(scenario));
  expired_.store(false);
  running_.fetch_add(1);
  while (true) {
    const absl::StatusOr<backend::StopReason> stop = vp_->Run(*this);
    if (!stop.ok()) {  // code in what is not memory, which KVM does not run
      outcome.reached_devices = true;
      break;
    }
    if (outcome.how == SystemOutcome::kPort) break;
    if (*stop == backend::StopReason::kTripleFault) {
      outcome.how = SystemOutcome::kTripleFault;
      outcome.memory.assign(host_, host_ + kSystemMemory);
      break;
    }
    if (expired_.load()) break;
  }
  running_.fetch_add(1);
  return failure_;
}

void SystemRunner::OnPortRead(backend::Vp&, uint16_t port, absl::Span<uint8_t> data) {
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(port * 29 + i * 7 + 1);
  if (outcome_->accesses.size() < kMaxAccesses) outcome_->accesses.push_back(port | data.size() << 16);
}

void SystemRunner::OnPortWrite(backend::Vp& vp, uint16_t port, absl::Span<const uint8_t> data) {
  if (outcome_->how == SystemOutcome::kPort) return;
  if (EndsScenario(port)) {
    outcome_->how = SystemOutcome::kPort;
    outcome_->port = port;
    // Now, for a trap may follow the instruction.
    failure_ = vp.GetRegisters(kStateNames, absl::MakeSpan(outcome_->state.values));
    outcome_->memory.assign(host_, host_ + kSystemMemory);
    vp.Kick();
    return;
  }
  uint32_t value = 0;
  std::memcpy(&value, data.data(), data.size());
  if (outcome_->accesses.size() < kMaxAccesses) {
    outcome_->accesses.push_back(port | data.size() << 16 | uint64_t{1} << 24 | static_cast<uint64_t>(value) << 32);
  }
}

void SystemRunner::OnMmioRead(backend::Vp&, uint64_t, absl::Span<uint8_t> data) {
  outcome_->reached_devices = true;
  std::memset(data.data(), 0xFF, data.size());
}
void SystemRunner::OnMmioWrite(backend::Vp&, uint64_t, absl::Span<const uint8_t>) { outcome_->reached_devices = true; }

}  // namespace hvsdk::oracle

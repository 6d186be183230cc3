// SPDX-License-Identifier: Apache-2.0
// The fixture of the conformance suite: every case runs on every engine (engines.h).

#ifndef HVSDK_TESTS_BACKEND_CONFORMANCE_H_
#define HVSDK_TESTS_BACKEND_CONFORMANCE_H_

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/backend/engines.h"
#include "tests/backend/guest_code.h"
#include "tests/backend/test_machine.h"

namespace hvsdk::backend {

class ConformanceTest : public testing::TestWithParam<Engine> {
 protected:
  void SetUp() override {
    // One for all cases: to open it takes long where the host itself is emulated.
    static std::map<std::string, absl::StatusOr<std::unique_ptr<Backend>>> backends;
    auto found = backends.find(GetParam().name);
    if (found == backends.end()) found = backends.emplace(GetParam().name, GetParam().create()).first;
    if (!found->second.ok()) GTEST_SKIP() << GetParam().name << " cannot run here: " << found->second.status();
    backend_ = found->second->get();
    const std::string test = testing::UnitTest::GetInstance()->current_test_info()->name();
    const std::string defect = GetParam().known_host_defect(*backend_, test.substr(0, test.find('/')));
    if (!defect.empty()) GTEST_SKIP() << defect;
    MakeMachine(1);
  }

  // Replaces the machine by one with so many VPs, which have all the features the engine offers or those given.
  void MakeMachine(uint32_t vps, absl::Span<const CpuidEntry> cpuid = {}, uint32_t first_apic_id = 0) {
    machine_.reset();
    absl::StatusOr<std::unique_ptr<TestMachine>> machine = TestMachine::Create(*backend_, vps, cpuid, first_apic_id);
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
  }

  // Waits until the guest has written `value` to a 32-bit word.
  bool WaitForWord(uint64_t gpa, uint32_t value) {
    uint32_t* word = machine().memory().Word<uint32_t>(gpa);
    for (int i = 0; i < 20000; ++i) {
      if (std::atomic_ref<uint32_t>(*word).load() == value) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  TestMachine& machine() { return *machine_; }
  Backend& backend() { return *backend_; }

  Recorder recorder_;

 private:
  Backend* backend_ = nullptr;
  std::unique_ptr<TestMachine> machine_;
};

// Runs a suite derived from ConformanceTest on every engine.
#define HVSDK_CONFORMANCE_SUITE(SUITE)                                              \
  INSTANTIATE_TEST_SUITE_P(Engines, SUITE, testing::ValuesIn(EnginesAndVariants()), \
                           [](const testing::TestParamInfo<Engine>& info) { return info.param.name; })

}  // namespace hvsdk::backend

#endif  // HVSDK_TESTS_BACKEND_CONFORMANCE_H_

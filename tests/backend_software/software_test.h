// SPDX-License-Identifier: Apache-2.0
// The fixture of tests for what the software processor alone promises, or alone can be held to: the KVM of an emulated
// machine takes liberties with segment limits, breakpoints and interrupt shadows.

#ifndef HVSDK_TESTS_BACKEND_SOFTWARE_SOFTWARE_TEST_H_
#define HVSDK_TESTS_BACKEND_SOFTWARE_SOFTWARE_TEST_H_

#include <cstring>
#include <memory>

#include "gtest/gtest.h"
#include "hvsdk/backend_software/software_backend.h"
#include "tests/backend/guest_code.h"
#include "tests/backend/test_machine.h"

namespace hvsdk::backend {

class SoftwareTest : public testing::Test {
 protected:
  explicit SoftwareTest(const SoftwareOptions& options = {}) : options_(options) {}
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Backend>> backend = CreateSoftwareBackend(options_);
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
    absl::StatusOr<std::unique_ptr<TestMachine>> machine = TestMachine::Create(*backend_);
    ASSERT_TRUE(machine.ok()) << machine.status();
    machine_ = *std::move(machine);
  }

  TestMachine& machine() { return *machine_; }

  void SetSegment(hvdef::RegisterName name, uint64_t base, uint32_t limit, uint16_t selector, uint16_t attributes) {
    const hvdef::SegmentRegister segment{base, limit, selector, attributes};
    hvdef::RegisterValue value;
    std::memcpy(&value, &segment, sizeof(value));
    const absl::Status status = machine().vp().SetRegisters({&name, 1}, {&value, 1});
    ASSERT_TRUE(status.ok()) << status;
  }

  Recorder recorder_;

 private:
  const SoftwareOptions options_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<TestMachine> machine_;
};

}  // namespace hvsdk::backend

#endif  // HVSDK_TESTS_BACKEND_SOFTWARE_SOFTWARE_TEST_H_

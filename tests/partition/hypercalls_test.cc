// SPDX-License-Identifier: Apache-2.0
// Each hypercall with good and with bad input, and without its privilege.
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/privilege.h"
#include "tests/partition/fake_machine.h"

namespace hvsdk::partition {
namespace {

namespace msr = hvdef::msr;
namespace privilege = hvdef::privilege;
using hvdef::CallCode;
using hvdef::Control;
using hvdef::HvStatus;
using hvdef::kPartitionIdSelf;
using hvdef::RegisterName;
using hvdef::RegisterValue;
using hvdef::VpSetHeader;
using hvsdk::fake::FakeMachine;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;

constexpr VpSetHeader Sparse(uint64_t banks) { return {0, banks}; }
constexpr VpSetHeader kAllVps{1, 0};

Control MakeControl(CallCode code, uint16_t variable_words = 0, uint16_t reps = 0) {
  return Control::Make(static_cast<uint16_t>(code), false, variable_words, reps);
}

struct RecordingPort : PortHandler {
  HvStatus OnMessage(uint32_t type, absl::Span<const uint8_t> payload) override {
    types.push_back(type);
    last.assign(payload.begin(), payload.end());
    return answer;
  }
  HvStatus OnEvent(uint16_t flag) override {
    flags.push_back(flag);
    return answer;
  }
  std::vector<uint32_t> types;
  std::vector<uint8_t> last;
  std::vector<uint16_t> flags;
  HvStatus answer = HvStatus::kSuccess;
};

class HypercallsTest : public ::testing::Test {
 protected:
  HypercallsTest() : machine_(Options()) {}
  static FakeMachine::Options Options() {
    FakeMachine::Options options;
    options.vps = 3;
    return options;
  }
  FakeMachine machine_;
};

// Every call that the specification gives a privilege; the others need none.
struct PrivilegeCase {
  CallCode code;
  uint64_t needs;
  uint16_t reps;
};
constexpr PrivilegeCase kPrivilegeCases[] = {
    {CallCode::kFlushVirtualAddressSpace, 0, 0},
    {CallCode::kFlushVirtualAddressList, 0, 1},
    {CallCode::kNotifyLongSpinWait, 0, 0},
    {CallCode::kSendSyntheticClusterIpi, 0, 0},
    {CallCode::kFlushVirtualAddressSpaceEx, 0, 0},
    {CallCode::kFlushVirtualAddressListEx, 0, 1},
    {CallCode::kSendSyntheticClusterIpiEx, 0, 0},
    {CallCode::kGetVpRegisters, privilege::kAccessVpRegisters, 1},
    {CallCode::kSetVpRegisters, privilege::kAccessVpRegisters, 1},
    {CallCode::kTranslateVirtualAddress, privilege::kAccessVpRegisters, 0},
    {CallCode::kPostMessage, privilege::kPostMessages, 0},
    {CallCode::kSignalEvent, privilege::kSignalEvents, 0},
    {CallCode::kRetargetDeviceInterrupt, 0, 0},
    {CallCode::kAssertVirtualInterrupt, 0, 0},
    {CallCode::kStartVirtualProcessor, privilege::kStartVirtualProcessor, 0},
    {CallCode::kGetVpIndexFromApicId, privilege::kStartVirtualProcessor, 1},
    {CallCode::kQueryCapabilities, privilege::kEnableExtendedHypercalls, 0},
    {CallCode::kMemoryHeatHint, privilege::kEnableExtendedHypercalls, 1},
};

TEST(HypercallPrivileges, EveryCallWithAndWithoutItsPrivilege) {
  for (const PrivilegeCase& each : kPrivilegeCases) {
    SCOPED_TRACE(static_cast<int>(each.code));
    for (const bool fast : {false, true}) {
      FakeMachine::Options options;
      options.privileges = ~each.needs;
      FakeMachine without(options);
      const Control control = Control::Make(static_cast<uint16_t>(each.code), fast, 0, each.reps);
      const HvStatus status = hvdef::ResultStatus(without.Call(control));
      if (each.needs != 0) {
        EXPECT_EQ(status, HvStatus::kAccessDenied);
      } else {
        EXPECT_NE(status, HvStatus::kAccessDenied);
      }
      FakeMachine with;
      EXPECT_NE(hvdef::ResultStatus(with.Call(control)), HvStatus::kAccessDenied);
      EXPECT_EQ(with.partition->hypercalls().Find(static_cast<uint16_t>(each.code))->privilege, each.needs);
    }
  }
}

TEST(HypercallPrivileges, NoOtherCallExists) {
  FakeMachine machine;
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const bool known = std::any_of(std::begin(kPrivilegeCases), std::end(kPrivilegeCases),
                                   [&](const auto& each) { return static_cast<uint32_t>(each.code) == code; });
    ASSERT_EQ(machine.partition->hypercalls().Find(code) != nullptr, known) << code;
    if (known) continue;
    ASSERT_EQ(machine.Call(Control::Make(code)), 2u) << code;
  }
}

TEST(HypercallPage, CallsNeedIt) {
  FakeMachine::Options options;
  options.enable_hypercalls = false;
  FakeMachine machine(options);
  machine.Call(MakeControl(CallCode::kNotifyLongSpinWait), uint64_t{1});
  EXPECT_EQ(machine.hypercall_outcome, backend::HypercallOutcome::kUndefinedOpcode);
}

TEST_F(HypercallsTest, FlushVirtualAddressSpace) {
  const auto flush = [&](uint64_t flags, uint64_t mask) {
    return machine_.StatusOf(CallCode::kFlushVirtualAddressSpace, uint64_t{0x1000}, flags, mask);
  };
  EXPECT_EQ(flush(0, 0b101), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeFlushes(), ElementsAre(ElementsAre(0, 2)));
  EXPECT_EQ(flush(1, 0), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeFlushes(), ElementsAre(ElementsAre(0, 1, 2)));
  EXPECT_EQ(flush(7, 0), HvStatus::kSuccess);
  machine_.backend.TakeFlushes();
  EXPECT_EQ(flush(0, 0), HvStatus::kSuccess) << "nobody to flush";
  EXPECT_EQ(flush(0, ~uint64_t{7}), HvStatus::kSuccess) << "VPs that do not exist";
  EXPECT_EQ(flush(8, 1), HvStatus::kInvalidParameter);
  EXPECT_THAT(machine_.backend.TakeFlushes(), IsEmpty());
}

TEST_F(HypercallsTest, FlushVirtualAddressList) {
  const std::vector<uint64_t> ranges(400, 0x7000);
  EXPECT_EQ(machine_.Call(MakeControl(CallCode::kFlushVirtualAddressList, 0, 400), uint64_t{0}, uint64_t{2},
                          uint64_t{2}, ranges),
            hvdef::MakeResult(HvStatus::kSuccess, 400));
  EXPECT_THAT(machine_.backend.TakeFlushes(), ElementsAre(ElementsAre(1)));
  EXPECT_EQ(machine_.Call(MakeControl(CallCode::kFlushVirtualAddressList, 0, 1), uint64_t{0}, uint64_t{4}, uint64_t{2},
                          uint64_t{0}),
            hvdef::MakeResult(HvStatus::kInvalidParameter, 0))
      << "non-global mappings only makes no sense for a list";
}

TEST_F(HypercallsTest, FlushExForms) {
  EXPECT_EQ(hvdef::ResultStatus(machine_.Call(MakeControl(CallCode::kFlushVirtualAddressSpaceEx, 1), uint64_t{0},
                                              uint64_t{4}, Sparse(1), uint64_t{0b110})),
            HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeFlushes(), ElementsAre(ElementsAre(1, 2)));
  EXPECT_EQ(machine_.Call(MakeControl(CallCode::kFlushVirtualAddressListEx, 0, 2), uint64_t{0}, uint64_t{0}, kAllVps,
                          uint64_t{0x1000}, uint64_t{0x2000}),
            hvdef::MakeResult(HvStatus::kSuccess, 2));
  EXPECT_THAT(machine_.backend.TakeFlushes(), ElementsAre(ElementsAre(0, 1, 2)));
  // Two banks are named and one is there; an unknown format.
  EXPECT_EQ(hvdef::ResultStatus(machine_.Call(MakeControl(CallCode::kFlushVirtualAddressSpaceEx, 1), uint64_t{0},
                                              uint64_t{0}, Sparse(3), uint64_t{1})),
            HvStatus::kInvalidHypercallInput);
  EXPECT_EQ(hvdef::ResultStatus(machine_.Call(MakeControl(CallCode::kFlushVirtualAddressSpaceEx), uint64_t{0},
                                              uint64_t{0}, VpSetHeader{2, 0})),
            HvStatus::kInvalidParameter);
  EXPECT_THAT(machine_.backend.TakeFlushes(), IsEmpty());
}

TEST_F(HypercallsTest, SendSyntheticClusterIpi) {
  const auto send = [&](uint32_t vector, uint32_t vtl, uint64_t mask) {
    // Linux makes this one fast.
    return hvdef::ResultStatus(machine_.CallAt(Control::Make(0x000B, true), vector | uint64_t{vtl} << 32, mask));
  };
  EXPECT_EQ(send(0xF3, 0, 0b110), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(hvsdk::fake::FakePartition::Interrupt{1, 0xF3, false},
                                                             hvsdk::fake::FakePartition::Interrupt{2, 0xF3, false}));
  EXPECT_EQ(send(0x10, 0x10, 0b1000), HvStatus::kSuccess) << "VTL 0 by name; no such VP";
  EXPECT_EQ(send(0x0F, 0, 1), HvStatus::kInvalidParameter);
  EXPECT_EQ(send(0x100, 0, 1), HvStatus::kInvalidParameter);
  EXPECT_EQ(send(0x40, 0x11, 1), HvStatus::kInvalidParameter) << "VTL 1";
  EXPECT_EQ(send(0x40, 0x100, 1), HvStatus::kInvalidParameter) << "padding";
  EXPECT_THAT(machine_.backend.TakeInterrupts(), IsEmpty());
}

TEST_F(HypercallsTest, SendSyntheticClusterIpiEx) {
  const auto send = [&](uint16_t words, const auto&... parts) {
    return hvdef::ResultStatus(machine_.Call(MakeControl(CallCode::kSendSyntheticClusterIpiEx, words), parts...));
  };
  EXPECT_EQ(send(0, uint64_t{0x41}, kAllVps), HvStatus::kSuccess);
  EXPECT_EQ(machine_.backend.TakeInterrupts().size(), 3u);
  EXPECT_EQ(send(2, uint64_t{0x41}, Sparse(0b101), uint64_t{0b10}, ~uint64_t{0}), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(hvsdk::fake::FakePartition::Interrupt{1, 0x41, false}));
  EXPECT_EQ(send(0, uint64_t{0x05}, kAllVps), HvStatus::kInvalidParameter);
}

TEST_F(HypercallsTest, NotifyLongSpinWait) { EXPECT_EQ(machine_.CallAt(Control::Make(0x0008, true), 100, 0), 0u); }

TEST_F(HypercallsTest, GetVpRegisters) {
  machine_.fake_vps[1]->registers[RegisterName::kRip] = {0x1234, 0};
  machine_.Write(msr::kSint0 + 3, 0x33, 1);
  const uint64_t result = machine_.Call(MakeControl(CallCode::kGetVpRegisters, 0, 3), kPartitionIdSelf, uint32_t{1},
                                        uint32_t{0}, RegisterName::kRip, RegisterName::kSint3, RegisterName::kVpIndex);
  EXPECT_EQ(result, hvdef::MakeResult(HvStatus::kSuccess, 3));
  EXPECT_EQ(machine_.Output<RegisterValue>().low, 0x1234u);
  EXPECT_EQ(machine_.Output<RegisterValue>(16).low, 0x33u);
  EXPECT_EQ(machine_.Output<RegisterValue>(32).low, 1u);
}

TEST_F(HypercallsTest, GetVpRegistersOfMoreThanOneGo) {
  std::vector<RegisterName> names(100, RegisterName::kVpIndex);
  names[70] = static_cast<RegisterName>(0x12345678);
  EXPECT_EQ(machine_.Call(MakeControl(CallCode::kGetVpRegisters, 0, 100), kPartitionIdSelf, hvdef::kVpIndexSelf,
                          uint32_t{0}, names),
            hvdef::MakeResult(HvStatus::kInvalidParameter, 70));
  EXPECT_EQ(machine_.retries, 2);
}

TEST_F(HypercallsTest, SetVpRegisters) {
  const auto set = [&](uint64_t partition, uint32_t vp, uint32_t vtl, const auto&... elements) {
    return machine_.Call(MakeControl(CallCode::kSetVpRegisters, 0, sizeof...(elements)), partition, vp, vtl,
                         elements...);
  };
  using Element = hvdef::RegisterAssociation;
  const auto element = [](RegisterName name, uint64_t low) {
    return Element{static_cast<uint32_t>(name), 0, 0, {low, 0}};
  };
  EXPECT_EQ(set(kPartitionIdSelf, 2, 0, element(RegisterName::kRip, 0x99), element(RegisterName::kStimer0Count, 7)),
            hvdef::MakeResult(HvStatus::kSuccess, 2));
  EXPECT_EQ(machine_.fake_vps[2]->registers[RegisterName::kRip].low, 0x99u);
  EXPECT_EQ(machine_.Read(msr::kStimer0Count, 2), 7u);
  EXPECT_EQ(set(kPartitionIdSelf, 2, 0, element(RegisterName::kRip, 1), element(RegisterName::kVpIndex, 1)),
            hvdef::MakeResult(HvStatus::kInvalidParameter, 1))
      << "read-only";
  EXPECT_EQ(set(kPartitionIdSelf, 2, 0, element(RegisterName::kRflags, 0)),
            hvdef::MakeResult(HvStatus::kInvalidParameter, 0));
  EXPECT_EQ(set(kPartitionIdSelf, 2, 0, Element{static_cast<uint32_t>(RegisterName::kRip), 1, 0, {}}),
            hvdef::MakeResult(HvStatus::kInvalidParameter, 0))
      << "reserved";
  EXPECT_EQ(hvdef::ResultStatus(set(1, 2, 0, element(RegisterName::kRip, 1))), HvStatus::kInvalidPartitionId);
  EXPECT_EQ(hvdef::ResultStatus(set(kPartitionIdSelf, 3, 0, element(RegisterName::kRip, 1))),
            HvStatus::kInvalidVpIndex);
  EXPECT_EQ(hvdef::ResultStatus(set(kPartitionIdSelf, 2, 0x11, element(RegisterName::kRip, 1))),
            HvStatus::kInvalidParameter);
}

TEST_F(HypercallsTest, StartVirtualProcessor) {
  hvdef::StartVirtualProcessorInput input{.partition_id = kPartitionIdSelf, .vp_index = 1};
  input.context.rip = 0xFFFF8000;
  input.context.rflags = 2;
  input.context.cr3 = 0x5000;
  input.context.gdtr = {.limit = 0x7F, .base = 0x6000};
  const auto start = [&] { return machine_.StatusOf(CallCode::kStartVirtualProcessor, input); };
  input.context.rflags = 0;
  EXPECT_EQ(start(), HvStatus::kInvalidRegisterValue);
  EXPECT_EQ(machine_.fake_vps[1]->activity, backend::Activity::kWaitForSipi);
  input.context.rflags = 2;
  EXPECT_EQ(start(), HvStatus::kSuccess);
  auto& registers = machine_.fake_vps[1]->registers;
  EXPECT_EQ(machine_.fake_vps[1]->activity, backend::Activity::kRunning);
  EXPECT_EQ(registers[RegisterName::kRip].low, 0xFFFF8000u);
  EXPECT_EQ(registers[RegisterName::kCr3].low, 0x5000u);
  EXPECT_EQ(registers[RegisterName::kGdtr].high, 0x6000u);
  EXPECT_EQ(registers[RegisterName::kGdtr].low >> 48, 0x7Fu);
  EXPECT_EQ(start(), HvStatus::kInvalidVpState) << "it runs";
  input.vp_index = 9;
  EXPECT_EQ(start(), HvStatus::kInvalidVpIndex);
  input.vp_index = 2;
  input.target_vtl = 1;
  EXPECT_EQ(start(), HvStatus::kInvalidVtlState);
  input.partition_id = 0;
  EXPECT_EQ(start(), HvStatus::kInvalidPartitionId);
}

TEST_F(HypercallsTest, GetVpIndexFromApicId) {
  EXPECT_EQ(machine_.Call(MakeControl(CallCode::kGetVpIndexFromApicId, 0, 3), kPartitionIdSelf, uint64_t{0},
                          std::vector<uint32_t>{4, 0, 2}),
            hvdef::MakeResult(HvStatus::kSuccess, 3));
  EXPECT_EQ(machine_.Output<uint32_t>(0), 2u);
  EXPECT_EQ(machine_.Output<uint32_t>(4), 0u);
  EXPECT_EQ(machine_.Output<uint32_t>(8), 1u);
  EXPECT_EQ(machine_.Call(MakeControl(CallCode::kGetVpIndexFromApicId, 0, 2), kPartitionIdSelf, uint64_t{0},
                          std::vector<uint32_t>{4, 3}),
            hvdef::MakeResult(HvStatus::kInvalidParameter, 1));
  EXPECT_EQ(machine_.Call(MakeControl(CallCode::kGetVpIndexFromApicId, 0, 500), kPartitionIdSelf, uint64_t{0},
                          std::vector<uint32_t>(500, 2)),
            hvdef::MakeResult(HvStatus::kSuccess, 500));
  EXPECT_EQ(machine_.retries, 7);
}

TEST_F(HypercallsTest, TranslateVirtualAddress) {
  auto& pages = machine_.fake_vps[1]->pages;
  pages[0xABC] = {.present = true, .gpa = 5 * kPageSize, .writable = false, .user = false, .executable = true};
  pages[0xABD] = {.present = true, .gpa = 500 * kPageSize, .user = true};
  pages[0xABE] = {.present = true, .gpa = FakeMachine::kHypercallPage, .user = true};
  const auto translate = [&](uint64_t flags, uint64_t page) {
    const HvStatus status =
        machine_.StatusOf(CallCode::kTranslateVirtualAddress, kPartitionIdSelf, uint64_t{1}, flags, page);
    EXPECT_EQ(status, HvStatus::kSuccess);
    return machine_.Output<hvdef::TranslateVirtualAddressOutput>();
  };
  using Result = hvdef::TranslateResult;
  const auto code = [&](uint64_t flags, uint64_t page) {
    return static_cast<Result>(translate(flags, page).result_code);
  };
  const auto found = translate(hvdef::kTranslateValidateRead | hvdef::kTranslateValidateExecute, 0xABC);
  EXPECT_EQ(found.result_code, 0u);
  EXPECT_EQ(found.gpa_page, 5u);
  EXPECT_EQ(found.cache_type, hvdef::kCacheTypeWriteBack);
  EXPECT_EQ(found.overlay_page, 0);
  EXPECT_EQ(translate(0, 0xABE).overlay_page, 1);
  EXPECT_EQ(code(0, 0x111), Result::kPageNotPresent);
  EXPECT_EQ(code(hvdef::kTranslateValidateWrite, 0xABC), Result::kPrivilegeViolation);
  EXPECT_EQ(code(hvdef::kTranslateValidateWrite | hvdef::kTranslatePrivilegeExempt, 0xABC), Result::kSuccess);
  EXPECT_EQ(code(hvdef::kTranslateValidateRead | hvdef::kTranslateUserAccess, 0xABC), Result::kPrivilegeViolation);
  EXPECT_EQ(code(hvdef::kTranslateValidateRead | hvdef::kTranslateSupervisorAccess, 0xABC), Result::kSuccess);
  EXPECT_EQ(code(0, 0xABD), Result::kGpaUnmapped);
  machine_.fake_vps[1]->SetMode(true, true, 3);
  EXPECT_EQ(code(hvdef::kTranslateValidateRead, 0xABC), Result::kPrivilegeViolation) << "by the VP's own level";
  const auto status = [&](uint64_t flags, uint64_t page) {
    return machine_.StatusOf(CallCode::kTranslateVirtualAddress, kPartitionIdSelf, uint64_t{1}, flags, page);
  };
  EXPECT_EQ(status(0x10, 0xABC), HvStatus::kInvalidParameter);
  EXPECT_EQ(status(0xC0, 0xABC), HvStatus::kInvalidParameter) << "user and supervisor";
  EXPECT_EQ(status(uint64_t{0x11} << 56, 0xABC), HvStatus::kInvalidParameter) << "VTL 1";
  EXPECT_EQ(status(0, uint64_t{1} << 52), HvStatus::kInvalidParameter);
}

TEST_F(HypercallsTest, PostMessage) {
  RecordingPort port;
  ASSERT_TRUE(machine_.partition->RegisterPort(ConnectionId{4}, &port).ok());
  hvdef::PostMessageInput input{.connection_id = 4, .message_type = 1, .payload_size = 3, .payload = {7, 8, 9, 10}};
  const auto post = [&] { return machine_.StatusOf(CallCode::kPostMessage, input); };
  EXPECT_EQ(post(), HvStatus::kSuccess);
  EXPECT_THAT(port.last, ElementsAre(7, 8, 9));
  port.answer = HvStatus::kInsufficientBuffers;
  EXPECT_EQ(post(), HvStatus::kInsufficientBuffers);
  port.answer = HvStatus::kSuccess;
  input.payload_size = 240;
  EXPECT_EQ(post(), HvStatus::kSuccess);
  input.payload_size = 241;
  EXPECT_EQ(post(), HvStatus::kInvalidParameter);
  input.payload_size = 0;
  EXPECT_EQ(post(), HvStatus::kSuccess);
  for (const uint32_t type : {0u, 0x80000000u, 0x80000010u}) {
    input.message_type = type;
    EXPECT_EQ(post(), HvStatus::kInvalidParameter) << type;
  }
  input.message_type = 0x7FFFFFFF;
  input.reserved = 1;
  EXPECT_EQ(post(), HvStatus::kInvalidParameter);
  input.reserved = 0;
  for (const uint32_t connection : {5u, 0x01000004u, 0xFFFFFFFFu}) {
    input.connection_id = connection;
    EXPECT_EQ(post(), HvStatus::kInvalidConnectionId) << connection;
  }
  EXPECT_THAT(port.types, ElementsAre(1, 1, 1, 1));
  machine_.partition->UnregisterPort(ConnectionId{4});
  input.connection_id = 4;
  EXPECT_EQ(post(), HvStatus::kInvalidConnectionId);
}

TEST_F(HypercallsTest, SignalEvent) {
  RecordingPort port;
  PortHandler neither;
  ASSERT_TRUE(machine_.partition->RegisterPort(ConnectionId{0xABCDEF}, &port).ok());
  ASSERT_TRUE(machine_.partition->RegisterPort(ConnectionId{1}, &neither).ok());
  EXPECT_EQ(machine_.partition->RegisterPort(ConnectionId{1}, &port).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(machine_.partition->RegisterPort(ConnectionId{1 << 24}, &port).code(), absl::StatusCode::kInvalidArgument);
  const auto signal = [&](uint64_t word) {
    return hvdef::ResultStatus(machine_.CallAt(Control::Make(0x005D, true), word, 0));
  };
  EXPECT_EQ(signal(0x0000'0005'00ABCDEF), HvStatus::kSuccess);
  EXPECT_THAT(port.flags, ElementsAre(5));
  EXPECT_EQ(signal(0x0001'0005'00ABCDEF), HvStatus::kInvalidParameter);
  EXPECT_EQ(signal(2), HvStatus::kInvalidConnectionId);
  EXPECT_EQ(signal(1), HvStatus::kInvalidPortId);
  EXPECT_EQ(machine_.StatusOf(CallCode::kSignalEvent, uint64_t{0xABCDEF}), HvStatus::kSuccess) << "slow form";
}

TEST_F(HypercallsTest, AssertVirtualInterrupt) {
  hvdef::AssertVirtualInterruptInput input{.partition_id = kPartitionIdSelf, .destination = 3, .vector = 0x55};
  const auto assert_interrupt = [&] { return machine_.StatusOf(CallCode::kAssertVirtualInterrupt, input); };
  EXPECT_EQ(assert_interrupt(), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeMsis(), ElementsAre(Pair(0xFEE03000u, 0x55u)));
  input.interrupt_type = 1;
  input.interrupt_flags = 3;
  EXPECT_EQ(assert_interrupt(), HvStatus::kSuccess);
  EXPECT_THAT(machine_.backend.TakeMsis(), ElementsAre(Pair(0xFEE03004u, 0xC155u)));
  input.interrupt_type = 4;
  input.interrupt_flags = 0;
  input.vector = 0;
  EXPECT_EQ(assert_interrupt(), HvStatus::kSuccess) << "NMI";
  EXPECT_THAT(machine_.backend.TakeMsis(), ElementsAre(Pair(0xFEE03000u, 0x400u)));
  input.interrupt_type = 0;
  EXPECT_EQ(assert_interrupt(), HvStatus::kInvalidParameter) << "vector 0";
  input.vector = 0x55;
  for (const uint32_t type : {2u, 3u, 5u, 6u, 7u, 8u, 9u, 10u}) {
    input.interrupt_type = type;
    EXPECT_EQ(assert_interrupt(), HvStatus::kInvalidParameter) << type;
  }
  input.interrupt_type = 0;
  input.target_vtl = 1;
  EXPECT_EQ(assert_interrupt(), HvStatus::kInvalidParameter);
  input.target_vtl = 0;
  input.reserved1 = 1;
  EXPECT_EQ(assert_interrupt(), HvStatus::kInvalidParameter);
  input.reserved1 = 0;
  input.destination = 0x100;
  EXPECT_EQ(assert_interrupt(), HvStatus::kInvalidParameter);
  input.partition_id = 7;
  EXPECT_EQ(assert_interrupt(), HvStatus::kInvalidPartitionId);
  EXPECT_THAT(machine_.backend.TakeMsis(), IsEmpty());
}

TEST_F(HypercallsTest, RetargetDeviceInterrupt) {
  ASSERT_TRUE(machine_.partition->RegisterDevice(77, /*max_interrupts=*/2).ok());
  EXPECT_EQ(machine_.partition->RegisterDevice(77, 2).code(), absl::StatusCode::kAlreadyExists);
  hvdef::RetargetDeviceInterruptInput input{.partition_id = kPartitionIdSelf,
                                            .device_id = 77,
                                            .entry = {hvdef::kInterruptSourceMsi, 0, 0xFEE00000, 0x4031},
                                            .vector = 0x61,
                                            .mask_or_format = 0b110};
  const auto retarget = [&] { return machine_.StatusOf(CallCode::kRetargetDeviceInterrupt, input); };
  using Interrupt = hvsdk::fake::FakePartition::Interrupt;
  machine_.partition->SignalDeviceInterrupt(77, 0xFEE00000, 0x4031);
  EXPECT_THAT(machine_.backend.TakeMsis(), ElementsAre(Pair(0xFEE00000u, 0x4031u))) << "not retargeted yet";
  EXPECT_EQ(retarget(), HvStatus::kSuccess);
  machine_.partition->SignalDeviceInterrupt(77, 0xFEE00000, 0x4031);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{1, 0x61, false}));
  input.flags = hvdef::kInterruptTargetMulticast;
  EXPECT_EQ(retarget(), HvStatus::kSuccess);
  machine_.partition->SignalDeviceInterrupt(77, 0xFEE00000, 0x4031);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{1, 0x61, false}, Interrupt{2, 0x61, false}));
  // A processor set behind the fixed part: valid banks, then the banks.
  input.flags = hvdef::kInterruptTargetProcessorSet;
  input.mask_or_format = 0;
  EXPECT_EQ(retarget(), HvStatus::kInvalidHypercallInput);
  EXPECT_EQ(hvdef::ResultStatus(
                machine_.Call(MakeControl(CallCode::kRetargetDeviceInterrupt, 2), input, uint64_t{1}, uint64_t{0b001})),
            HvStatus::kSuccess);
  machine_.partition->SignalDeviceInterrupt(77, 0xFEE00000, 0x4031);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), ElementsAre(Interrupt{0, 0x61, false}));
  // No more of them than were agreed upon.
  input.flags = 0;
  input.mask_or_format = 1;
  input.entry.msi_data = 0x4032;
  EXPECT_EQ(retarget(), HvStatus::kSuccess);
  input.entry.msi_data = 0x4033;
  EXPECT_EQ(retarget(), HvStatus::kInsufficientBuffers);
  input.entry.msi_data = 0x4031;
  EXPECT_EQ(retarget(), HvStatus::kSuccess);
  input.mask_or_format = 0;
  EXPECT_EQ(retarget(), HvStatus::kInvalidParameter) << "nobody";
  input.mask_or_format = 1;
  input.vector = 15;
  EXPECT_EQ(retarget(), HvStatus::kInvalidParameter);
  input.vector = 0x61;
  input.entry.source = 2;
  EXPECT_EQ(retarget(), HvStatus::kInvalidParameter);
  input.entry.source = 1;
  input.device_id = 78;
  EXPECT_EQ(retarget(), HvStatus::kInvalidParameter);
  machine_.partition->UnregisterDevice(77);
  machine_.partition->SignalDeviceInterrupt(77, 0xFEE00000, 0x4031);
  EXPECT_THAT(machine_.backend.TakeInterrupts(), IsEmpty());
}

TEST_F(HypercallsTest, QueryCapabilities) {
  machine_.host[FakeMachine::kOutput] = 0xFF;
  EXPECT_EQ(machine_.StatusOf(CallCode::kQueryCapabilities), HvStatus::kSuccess);
  EXPECT_EQ(machine_.Output<uint64_t>(), 0u);
  machine_.memory.SetDiscarder([](uint8_t*, uint64_t size_bytes) { return size_bytes; });
  EXPECT_EQ(machine_.StatusOf(CallCode::kQueryCapabilities), HvStatus::kSuccess);
  EXPECT_EQ(machine_.Output<uint64_t>(), 0x100u);
}

TEST_F(HypercallsTest, MemoryHeatHint) {
  const auto hint = [&](uint64_t type, uint16_t reps, const auto&... ranges) {
    return machine_.Call(MakeControl(CallCode::kMemoryHeatHint, 0, reps), type, ranges...);
  };
  constexpr uint64_t kCold = hvdef::kHeatHintColdDiscard;
  constexpr auto kPages = [](uint64_t first, uint64_t additional) { return first << 12 | additional; };
  const uint64_t invalid = static_cast<uint64_t>(HvStatus::kInvalidParameter);
  EXPECT_EQ(hint(kCold, 1, kPages(40, 0)), invalid) << "nobody takes pages here";
  std::vector<std::pair<uint64_t, uint64_t>> discarded;
  machine_.memory.SetDiscarder([&](uint8_t* host, uint64_t size_bytes) {
    discarded.emplace_back((host - machine_.host.data()) / kPageSize, size_bytes / kPageSize);
    return size_bytes;
  });
  for (const uint64_t type : {uint64_t{0}, uint64_t{1}, uint64_t{3}, kCold | 4, kCold | uint64_t{1} << 63}) {
    EXPECT_EQ(hint(type, 1, kPages(40, 0)), invalid) << type;
  }
  EXPECT_THAT(discarded, IsEmpty());
  // More than are done at once; not memory, and beyond all addresses.
  EXPECT_EQ(
      hint(kCold, 6, kPages(40, 0), kPages(41, 3), kPages(60, 0x7FF), kPages(1000, 0), ~uint64_t{0xFFF}, kPages(50, 1)),
      uint64_t{6} << 32);
  EXPECT_EQ(machine_.retries, 1);
  EXPECT_THAT(discarded, ElementsAre(Pair(40, 1), Pair(41, 4), Pair(60, 4), Pair(50, 2)));
  discarded.clear();
  // Two large pages at 0, but for what the hypervisor has there: the hypercall page, and the SynIC's.
  machine_.EnableSynic();
  EXPECT_EQ(hint(kCold, 1, uint64_t{1 << 11 | 1}), uint64_t{1} << 32);
  EXPECT_THAT(discarded, ElementsAre(Pair(0, 1), Pair(2, 6), Pair(10, 54)));
  EXPECT_EQ(hvdef::GpaPageRange{uint64_t{3} << 21 | 1 << 11}.first(), 3u * 512);
  EXPECT_EQ(hvdef::GpaPageRange{uint64_t{3} << 21 | 1 << 11}.count(), 512u);
  EXPECT_EQ((hvdef::GpaPageRange{uint64_t{512} << 21 | 1 << 12 | 1 << 11 | 1}.first()), uint64_t{1} << 18);
  EXPECT_EQ((hvdef::GpaPageRange{uint64_t{512} << 21 | 1 << 12 | 1 << 11 | 1}.count()), uint64_t{1} << 19);
}

}  // namespace
}  // namespace hvsdk::partition

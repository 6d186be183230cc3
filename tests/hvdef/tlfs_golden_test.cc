// SPDX-License-Identifier: Apache-2.0
// The bytes that go over the wire, written out by hand from the specification.
#include <bit>
#include <cstring>
#include <type_traits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/cpuid.h"
#include "hvsdk/hvdef/hypercall.h"
#include "hvsdk/hvdef/message.h"
#include "hvsdk/hvdef/msr.h"
#include "hvsdk/hvdef/privilege.h"
#include "hvsdk/hvdef/register.h"
#include "hvsdk/hvdef/status.h"

namespace hvsdk::hvdef {
namespace {

template <typename T>
std::vector<int> Bytes(const T& object) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T>);
  static_assert(std::has_unique_object_representations_v<T>, "no padding");
  std::vector<int> bytes(sizeof(T));
  for (size_t i = 0; i < sizeof(T); ++i) bytes[i] = reinterpret_cast<const uint8_t*>(&object)[i];
  return bytes;
}

TEST(Control, HasTheFieldsOfTheSpecification) {
  // Bits 15:0 code, 16 fast, 26:17 variable header, 43:32 rep count, 59:48 rep start.
  EXPECT_EQ(Control::Make(0x005C).value, 0x000000000000005Cu);
  EXPECT_EQ(Control::Make(0x005D, /*fast=*/true).value, 0x000000000001005Du);
  EXPECT_EQ(Control::Make(0x0014, false, /*variable_words=*/3, /*rep_count=*/25, /*rep_start=*/20).value,
            0x0014001900060014u);
  constexpr Control control{0x0FFF0FFF07FFFFFF};
  static_assert(control.code() == 0xFFFF && control.fast() && control.variable_words() == 0x3FF);
  static_assert(control.rep_count() == 0xFFF && control.rep_start() == 0xFFF);
  static_assert((control.value & Control::kReserved) == 0 && (control.value | Control::kReserved) == ~uint64_t{0});
  EXPECT_EQ(control.WithRepStart(1).value, 0x00010FFF07FFFFFFu);
}

TEST(Result, HasStatusAndRepsCompleted) {
  EXPECT_EQ(MakeResult(HvStatus::kInvalidParameter, 0xABC), 0x00000ABC00000005u);
  EXPECT_EQ(ResultStatus(0xFFFF0ABCFFFF0012), HvStatus::kInvalidConnectionId);
  EXPECT_EQ(ResultReps(0xFFFF0ABCFFFF0012), 0xABC);
}

TEST(Wire, PostMessageAndSignalEvent) {
  PostMessageInput post{.connection_id = 0x010203, .message_type = 1, .payload_size = 240};
  post.payload[0] = 0xAA;
  post.payload[239] = 0xBB;
  auto bytes = Bytes(post);
  EXPECT_EQ(std::vector(bytes.begin(), bytes.begin() + 17),
            (std::vector{3, 2, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 240, 0, 0, 0, 0xAA}));
  EXPECT_EQ(bytes[255], 0xBB);
  EXPECT_EQ(Bytes(SignalEventInput{.connection_id = 0x010203, .flag_number = 0x0405}),
            (std::vector{3, 2, 1, 0, 5, 4, 0, 0}));
}

TEST(Wire, SynicMessage) {
  Message message{
      .header = {.message_type = 0x80000010, .payload_size = 24, .flags = kMessagePending, .origin = 0x0708}};
  message.payload[0] = 2;
  auto bytes = Bytes(message);
  EXPECT_EQ(std::vector(bytes.begin(), bytes.begin() + 17),
            (std::vector{0x10, 0, 0, 0x80, 24, 1, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 2}));
  EXPECT_EQ(Bytes(TimerMessagePayload{3, 0, 0x0102, 0x0304}),
            (std::vector{3, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(
      Bytes(ReferenceTscPage{1, 0, 2, -1}),
      (std::vector{1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}));
}

TEST(Wire, InterruptCalls) {
  EXPECT_EQ(Bytes(SendSyntheticClusterIpiInput{.vector = 0xF3, .target_vtl = 0x10, .processor_mask = 5}),
            (std::vector{0xF3, 0, 0, 0, 0x10, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(Bytes(SendSyntheticClusterIpiExInput{.vector = 0xF3, .processor_set = {1, 2}}),
            (std::vector{0xF3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0}));
  auto bytes = Bytes(AssertVirtualInterruptInput{.partition_id = kPartitionIdSelf,
                                                 .interrupt_type = 4,
                                                 .interrupt_flags = kInterruptLogicalDestination,
                                                 .destination = 6,
                                                 .vector = 0x30,
                                                 .target_vtl = 7});
  EXPECT_EQ(std::vector(bytes.begin() + 8, bytes.end()),
            (std::vector{4, 0, 0, 0, 2, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0x30, 0, 0, 0, 7, 0, 0, 0}));
  bytes = Bytes(RetargetDeviceInterruptInput{.partition_id = kPartitionIdSelf,
                                             .device_id = 1,
                                             .entry = {kInterruptSourceMsi, 0, 0xFEE00000, 0x4031},
                                             .vector = 0x31,
                                             .flags = kInterruptTargetProcessorSet,
                                             .mask_or_format = 3});
  EXPECT_EQ(std::vector(bytes.begin() + 16, bytes.begin() + 32),
            (std::vector{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xE0, 0xFE, 0x31, 0x40, 0, 0}));
  EXPECT_EQ(std::vector(bytes.begin() + 40, bytes.end()),
            (std::vector{0x31, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(Wire, Registers) {
  EXPECT_EQ(Bytes(SegmentRegister{.base = 1, .limit = 0xFFFFFFFF, .selector = 0x10, .attributes = 0xA09B}),
            (std::vector{1, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x10, 0, 0x9B, 0xA0}));
  EXPECT_EQ(Bytes(TableRegister{.limit = 0xFFF, .base = 0x1000}),
            (std::vector{0, 0, 0, 0, 0, 0, 0xFF, 0xF, 0, 0x10, 0, 0, 0, 0, 0, 0}));
  StartVirtualProcessorInput start{.partition_id = 1, .vp_index = 2, .target_vtl = 3};
  start.context.rip = 4;
  start.context.ldtr.selector = 5;
  start.context.gdtr.base = 6;
  start.context.pat = 7;
  const auto bytes = Bytes(start);
  EXPECT_EQ(bytes[0], 1);
  EXPECT_EQ(bytes[8], 2);
  EXPECT_EQ(bytes[12], 3);
  EXPECT_EQ(bytes[16], 4);
  EXPECT_EQ(bytes[16 + 24 + 7 * 16 + 12], 5);
  EXPECT_EQ(bytes[16 + 152 + 16 + 8], 6);
  EXPECT_EQ(bytes[16 + 216], 7);
  EXPECT_EQ(static_cast<uint32_t>(RegisterName::kRflags), 0x00020011u);
  EXPECT_EQ(static_cast<uint32_t>(RegisterName::kXfem), 0x00040005u);
  EXPECT_EQ(static_cast<uint32_t>(RegisterName::kTr), 0x00060007u);
  EXPECT_EQ(static_cast<uint32_t>(RegisterName::kInitialApicId), 0x0008000Cu);
  EXPECT_EQ(static_cast<uint32_t>(RegisterName::kTimeRefCount), 0x00090004u);
  EXPECT_EQ(static_cast<uint32_t>(RegisterName::kEom), 0x000A0014u);
  EXPECT_EQ(static_cast<uint32_t>(RegisterName::kStimer3Count), 0x000B0007u);
  EXPECT_EQ(static_cast<uint32_t>(RegisterName::kGuestCrashCtl), 0x00000215u);
}

TEST(Cpuid, SignaturesReadAsText) {
  const uint32_t words[] = {cpuid::kVendorEbx, cpuid::kVendorEcx, cpuid::kVendorEdx, cpuid::kInterfaceSignature};
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(words), 16), "Microsoft HvHv#1");
}

TEST(Msr, GroupsAreWhereTheSpecificationHasThem) {
  EXPECT_EQ(msr::kSint15 - msr::kSint0, 15u);
  EXPECT_EQ(msr::kStimer3Count - msr::kStimer0Config, 7u);
  EXPECT_EQ(msr::kCrashP4 - msr::kCrashP0, 4u);
  // Enable, periodic, lazy, auto-enable, vector 11:4, direct 12 and SINT 19:16 are all there is.
  EXPECT_EQ(~msr::kStimerReservedMask, 0xF1FFFu);
  EXPECT_EQ(privilege::kStartVirtualProcessor >> 32, 1u << 21);
  EXPECT_EQ(privilege::kAccessVpRegisters >> 32, 1u << 17);
  EXPECT_EQ(privilege::kEnableExtendedHypercalls >> 32, 1u << 20);
}

}  // namespace
}  // namespace hvsdk::hvdef

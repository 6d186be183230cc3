// SPDX-License-Identifier: Apache-2.0
// What of the kernel's IOAPIC and 8259s is which part of an engine-neutral state. Needs no KVM.
#include "backend_kvm/interrupt_controllers.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace hvsdk::backend::kvm {
namespace {

using testing::HasSubstr;

InterruptControllers Made() {
  InterruptControllers made;
  for (uint32_t id = 0; id < made.chips.size(); ++id) made.chips[id].chip_id = id;
  made.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic.elcr_mask = 0xF8;
  made.chips[KVM_IRQCHIP_PIC_SLAVE].chip.pic.elcr_mask = 0xDE;
  made.chips[KVM_IRQCHIP_IOAPIC].chip.ioapic.base_address = 0xFEC00000;
  return made;
}

TEST(InterruptControllersTest, AnInitialisationUnderWayIsTheNeutralOne) {
  InterruptControllers kernel = Made();
  kvm_pic_state& pic = kernel.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic;
  pic.init_state = 1;    // ICW1 was written
  pic.priority_add = 0;  // input 0 is the most urgent
  pic.init4 = 1;
  pic.last_irr = 0x12;
  pic.irr = 0x10;
  PartitionState state;
  kernel.ToState(0, state);
  EXPECT_EQ(state.pics[0].init_step, 2) << "ICW2 is next";
  EXPECT_EQ(state.pics[0].lowest_priority, 7);
  EXPECT_TRUE(state.pics[0].icw4_expected);
  EXPECT_EQ(state.pics[0].lines, 0x12);
  EXPECT_EQ(state.pics[0].request, 0x10);
  EXPECT_EQ(state.pics[1].init_step, 0);

  InterruptControllers again = Made();
  uint32_t lines = 0;
  ASSERT_TRUE(again.FromState(state, lines).ok());
  const kvm_pic_state& got = again.chips[KVM_IRQCHIP_PIC_MASTER].chip.pic;
  EXPECT_EQ(got.init_state, 1);
  EXPECT_EQ(got.priority_add, 0);
  EXPECT_EQ(got.init4, 1);
  EXPECT_EQ(got.last_irr, 0x12);
  EXPECT_EQ(got.irr, 0x10);
  EXPECT_EQ(got.elcr_mask, 0xF8) << "no part of the state";
}

TEST(InterruptControllersTest, LineZeroIsInputTwoAndLineTwoIsNone) {
  PartitionState state;
  Made().ToState(1u << 0 | 1u << 2 | 1u << 9, state);
  EXPECT_EQ(state.io_apic_lines, 1u << 2 | 1u << 9);
  InterruptControllers made = Made();
  uint32_t lines = 0;
  ASSERT_TRUE(made.FromState(state, lines).ok());
  EXPECT_EQ(lines, 1u << 0 | 1u << 9);
}

TEST(InterruptControllersTest, OnlyALevelStillAsks) {
  PartitionState state;
  state.io_apic_lines = 1u << 9 | 1u << 10;
  state.redirection[9] = 0x8045;   // level
  state.redirection[10] = 0x0046;  // edge
  InterruptControllers made = Made();
  uint32_t lines = 0;
  ASSERT_TRUE(made.FromState(state, lines).ok());
  EXPECT_EQ(made.chips[KVM_IRQCHIP_IOAPIC].chip.ioapic.irr, 1u << 9);
  EXPECT_EQ(made.chips[KVM_IRQCHIP_IOAPIC].chip.ioapic.base_address, 0xFEC00000u);
}

TEST(InterruptControllersTest, WhatNoControllerIsIsRefusedByName) {
  const auto refusal = [](auto damage) {
    PartitionState state;
    damage(state);
    InterruptControllers made = Made();
    const kvm_pic_state before = made.chips[1].chip.pic;
    uint32_t lines = 77;
    const absl::Status status = made.FromState(state, lines);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(lines, 77u);
    EXPECT_EQ(made.chips[1].chip.pic.imr, before.imr);
    return std::string(status.message());
  };
  EXPECT_THAT(refusal([](PartitionState& state) { state.pics[1].init_step = 1; }), HasSubstr("pics[1].init_step"));
  EXPECT_THAT(refusal([](PartitionState& state) { state.pics[0].init_step = 5; }), HasSubstr("pics[0].init_step"));
  EXPECT_THAT(refusal([](PartitionState& state) { state.pics[0].lowest_priority = 8; }), HasSubstr("lowest_priority"));
  EXPECT_THAT(refusal([](PartitionState& state) { state.pics[1].vector_base = 0x21; }), HasSubstr("vector_base"));
  EXPECT_THAT(refusal([](PartitionState& state) { state.pics[0].edge_level = 4; }), HasSubstr("edge_level"));
  EXPECT_THAT(refusal([](PartitionState& state) { state.io_apic_id = 16; }), HasSubstr("io_apic_id"));
  EXPECT_THAT(refusal([](PartitionState& state) { state.io_apic_lines = 1 << 24; }), HasSubstr("io_apic_lines"));
  EXPECT_THAT(refusal([](PartitionState& state) { state.redirection[3] = 1 << 20; }), HasSubstr("redirection[3]"));
}

}  // namespace
}  // namespace hvsdk::backend::kvm

// SPDX-License-Identifier: Apache-2.0
// Hypercalls come to the exit handler, and its answers come to the guest: by the engine's own code, and by that which every engine takes.

#include "absl/functional/function_ref.h"
#include "hvsdk/backend/port_hypercall.h"
#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using testing::ElementsAre;

class HypercallTest : public ConformanceTest {
 protected:
  void ForEachCode(absl::FunctionRef<void()> body) {
    for (const bool by_port : {false, true}) {
      SCOPED_TRACE(by_port ? "by port" : "the engine's own");
      MakeMachine(1);
      if (by_port) machine().Load(kHypercallGpa, kPortHypercallCode);
      recorder_ = Recorder();
      body();
    }
  }
};
HVSDK_CONFORMANCE_SUITE(HypercallTest);

HVSDK_GUEST(HypercallLong, 64, R"(
    mov rax, 0xAAAA
    mov rbx, 0xBBBB
    mov rcx, 0x0003000200000044
    mov rdx, 0xDDDD0000DDDD
    mov rsi, 0x5151
    mov rdi, 0xD1D1
    mov rbp, 0xB9B9
    mov r8, 0x8888
    mov r9, 0x9999
    mov r15, 0xF5F5
    call guest_HypercallLong_begin - 0x1000
    mov [0x80000], rax
    mov [0x80008], rcx
    mov [0x80010], rdx
    out 0xF4, al
)")
TEST_P(HypercallTest, HypercallKeepsRegisters) {
  ForEachCode([&] {
    machine().Start(Mode::kLong, HypercallLong());
    recorder_.on_hypercall = [&](Vp& vp) {
      const std::pair<Gpr, uint64_t> expected[] = {{Gpr::kRbx, 0xBBBB},         {Gpr::kRcx, 0x0003000200000044},
                                                   {Gpr::kRdx, 0xDDDD0000DDDD}, {Gpr::kRsi, 0x5151},
                                                   {Gpr::kRdi, 0xD1D1},         {Gpr::kRbp, 0xB9B9},
                                                   {Gpr::kR8, 0x8888},          {Gpr::kR9, 0x9999},
                                                   {Gpr::kR15, 0xF5F5}};
      for (const auto& [gpr, value] : expected) EXPECT_EQ(vp.GetGpr(gpr), value) << static_cast<int>(gpr);
      EXPECT_EQ(machine().Get(RegisterName::kRip) & ~uint64_t{0xFFF}, kHypercallGpa);
      vp.SetGpr(Gpr::kRax, 0x0000000300000005);
      vp.SetGpr(Gpr::kRdx, 0x77);
      return HypercallOutcome::kDone;
    };
    machine().Run(recorder_);
    EXPECT_EQ(recorder_.events.size(), 1u);
    EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0x0000000300000005u);
    EXPECT_EQ(machine().Read<uint64_t>(0x80008), 0x0003000200000044u);
    EXPECT_EQ(machine().Read<uint64_t>(0x80010), 0x77u) << "an output register";
    EXPECT_EQ(machine().Get(RegisterName::kRsp), kStackGpa);
  });
}

HVSDK_GUEST(HypercallSignal, 64, R"(
    mov rcx, 0x1005D
    mov rdx, 0x10001
    call guest_HypercallSignal_begin - 0x1000
    mov [0x80000], rax
    mov rdx, 0x300010001
    call guest_HypercallSignal_begin - 0x1000
    mov [0x80008], rax
    mov r9, rcx
    mov rdx, 0x10001
    call guest_HypercallSignal_begin - 0x1000
    mov [0x80010], rax
    out 0xF4, al
)")
TEST_P(HypercallTest, FastSignalEventIsAHypercallLikeAnyOther) {
  ForEachCode([&] {
    machine().Start(Mode::kLong, HypercallSignal());
    uint64_t result = 0x12;
    recorder_.on_hypercall = [&](Vp& vp) {
      vp.SetGpr(Gpr::kRax, result++);
      return HypercallOutcome::kDone;
    };
    machine().Run(recorder_);
    EXPECT_THAT(recorder_.events, ElementsAre(Event{Event::kHypercall, 0x1005D, 0, 0x10001},
                                              Event{Event::kHypercall, 0x1005D, 0, 0x300010001},
                                              Event{Event::kHypercall, 0x1005D, 0, 0x10001}));
    EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0x12u);
    EXPECT_EQ(machine().Read<uint64_t>(0x80008), 0x13u);
    EXPECT_EQ(machine().Read<uint64_t>(0x80010), 0x14u);
  });
}

HVSDK_GUEST(Hypercall32, 32, R"(
    mov eax, 0x1005D
    mov edx, 0x00020001
    mov ecx, 0x1005D
    mov ebx, 0xB
    mov esi, 0x51
    mov edi, 0xD1
    call guest_Hypercall32_begin - 0x1000
    mov ds:[0x80000], eax
    mov ds:[0x80004], edx
    mov ds:[0x80008], ecx
    out 0xF4, al
)")
TEST_P(HypercallTest, HypercallFrom32BitCode) {
  ForEachCode([&] {
    machine().Start(Mode::kProtected, Hypercall32());
    recorder_.on_hypercall = [](Vp& vp) {
      const std::pair<Gpr, uint64_t> expected[] = {{Gpr::kRax, 0x1005D}, {Gpr::kRdx, 0x00020001}, {Gpr::kRcx, 0x1005D},
                                                   {Gpr::kRbx, 0xB},     {Gpr::kRsi, 0x51},       {Gpr::kRdi, 0xD1}};
      for (const auto& [gpr, value] : expected) EXPECT_EQ(vp.GetGpr(gpr), value) << static_cast<int>(gpr);
      vp.SetGpr(Gpr::kRax, 0x1234);
      vp.SetGpr(Gpr::kRdx, 0x5678);
      return HypercallOutcome::kDone;
    };
    machine().Run(recorder_);
    EXPECT_EQ(recorder_.events.size(), 1u);
    EXPECT_EQ(machine().Read<uint32_t>(0x80000), 0x1234u);
    EXPECT_EQ(machine().Read<uint32_t>(0x80004), 0x5678u);
    EXPECT_EQ(machine().Read<uint32_t>(0x80008), 0x1005Du);
  });
}

HVSDK_GUEST(HypercallRetry, 64, R"(
    mov rcx, 0x3
    mov rdx, 0x1000
    call guest_HypercallRetry_begin - 0x1000
    mov [0x80000], rax
    out 0xF4, al
)")
TEST_P(HypercallTest, HypercallRetriesWithChangedRegisters) {
  ForEachCode([&] {
    machine().Start(Mode::kLong, HypercallRetry());
    int calls = 0;
    recorder_.on_hypercall = [&](Vp& vp) {
      if (++calls == 4) {
        vp.SetGpr(Gpr::kRax, 0x99);
        return HypercallOutcome::kDone;
      }
      vp.SetGpr(Gpr::kRcx, vp.GetGpr(Gpr::kRcx) + (uint64_t{1} << 48));
      return HypercallOutcome::kRetry;
    };
    machine().Run(recorder_);
    EXPECT_THAT(recorder_.events, ElementsAre(Event{Event::kHypercall, 0x3, 0, 0x1000},
                                              Event{Event::kHypercall, 0x0001000000000003, 0, 0x1000},
                                              Event{Event::kHypercall, 0x0002000000000003, 0, 0x1000},
                                              Event{Event::kHypercall, 0x0003000000000003, 0, 0x1000}));
    EXPECT_EQ(machine().Read<uint64_t>(0x80000), 0x99u);
  });
}

TEST_P(HypercallTest, RefusedHypercallIsUndefinedOpcode) {
  ForEachCode([&] {
    machine().Start(Mode::kLong, HypercallRetry());
    recorder_.on_hypercall = [](Vp&) { return HypercallOutcome::kUndefinedOpcode; };
    machine().Run(recorder_);
    ASSERT_EQ(recorder_.fault, 6);
    const Frame frame = machine().ReadFrame(6);
    EXPECT_GE(frame.rip, kHypercallGpa);
    EXPECT_LT(frame.rip, kHypercallGpa + 64);
    EXPECT_EQ(frame.cs, kCode64);
    EXPECT_EQ(frame.rsp, kStackGpa - 8) << "the return address is still there";
  });
}

TEST_P(HypercallTest, UserModeHypercallIsUndefinedOpcode) {
  ForEachCode([&] {
    machine().Start(Mode::kLong, HypercallRetry());
    machine().SetUserMode(kCodeGpa);
    recorder_.on_hypercall = [](Vp&) { return HypercallOutcome::kUndefinedOpcode; };
    machine().Run(recorder_);
    ASSERT_EQ(recorder_.fault, 6);
    const Frame frame = machine().ReadFrame(6);
    EXPECT_EQ(frame.cs, kUserCode64);
    EXPECT_EQ(frame.rip & ~uint64_t{0xFFF}, kHypercallGpa);
  });
}

HVSDK_GUEST(HypercallReal, 16, R"(
    mov cx, 0x5D
    mov bx, 0x7777
    .byte 0x9A, 0x00, 0x00, 0x00, 0x0F
    out 0xF4, al
)")
TEST_P(HypercallTest, RealModeHypercallIsUndefinedOpcode) {
  ForEachCode([&] {
    machine().Start(Mode::kReal, HypercallReal());
    recorder_.on_hypercall = [](Vp&) { return HypercallOutcome::kUndefinedOpcode; };
    machine().Run(recorder_);
    EXPECT_EQ(recorder_.fault, 6);
    EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbx) & 0xFFFF, 0x7777u);
  });
}

}  // namespace
}  // namespace hvsdk::backend

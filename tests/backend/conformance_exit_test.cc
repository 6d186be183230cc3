// SPDX-License-Identifier: Apache-2.0
// Ports, memory-mapped devices, MSRs and hypercalls come to the exit handler, and its answers come to the guest.

#include "tests/backend/conformance.h"

namespace hvsdk::backend {
namespace {

using hvdef::RegisterName;
using testing::ElementsAre;
using testing::IsEmpty;

class ExitTest : public ConformanceTest {};
HVSDK_CONFORMANCE_SUITE(ExitTest);

HVSDK_GUEST(PortSizes, 64, R"(
    mov dx, 0x1234
    mov eax, 0x11223344
    out dx, al
    out dx, ax
    out dx, eax
    out 0x42, al
    xor ebx, ebx
    mov rax, -1
    in al, dx
    mov bl, al
    mov [0x80000], rax
    mov rax, -1
    in ax, dx
    mov [0x80008], rax
    mov rax, -1
    in eax, dx
    mov [0x80010], rax
    out 0xF4, al
)")
TEST_P(ExitTest, PortsOfEverySize) {
  machine().Start(Mode::kLong, PortSizes());
  recorder_.port_values[0x1234] = 0xA1B2C3D4;
  machine().Run(recorder_);
  EXPECT_THAT(recorder_.events,
              ElementsAre(Event{Event::kPortWrite, 0x1234, 1, 0x44}, Event{Event::kPortWrite, 0x1234, 2, 0x3344},
                          Event{Event::kPortWrite, 0x1234, 4, 0x11223344}, Event{Event::kPortWrite, 0x42, 1, 0x44},
                          Event{Event::kPortRead, 0x1234, 1, 0xD4}, Event{Event::kPortRead, 0x1234, 2, 0xC3D4},
                          Event{Event::kPortRead, 0x1234, 4, 0xA1B2C3D4}));
  EXPECT_EQ(machine().Read<uint64_t>(kDataGpa), 0xFFFFFFFFFFFFFFD4);
  EXPECT_EQ(machine().Read<uint64_t>(kDataGpa + 8), 0xFFFFFFFFFFFFC3D4);
  EXPECT_EQ(machine().Read<uint64_t>(kDataGpa + 16), 0xA1B2C3D4) << "a 32-bit read clears the upper half of RAX";
}

HVSDK_GUEST(PortInRealMode, 16, R"(
    mov dx, 0x3F8
    mov al, 'A'
    out dx, al
    in ax, dx
    mov bx, ax
    out 0xF4, al
)")
TEST_P(ExitTest, PortsInRealMode) {
  machine().Start(Mode::kReal, PortInRealMode());
  recorder_.port_values[0x3F8] = 0xBEEF;
  machine().Run(recorder_);
  EXPECT_EQ(machine().vp().GetGpr(Gpr::kRbx) & 0xFFFF, 0xBEEF);
}

}  // namespace
}  // namespace hvsdk::backend

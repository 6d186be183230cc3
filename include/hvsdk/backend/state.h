// SPDX-License-Identifier: Apache-2.0
// What an engine's partition and its VPs are between two instructions, in no engine's terms: what one engine saved,
// another goes on with, as far as its processor has the same features.
//
// Source: Intel SDM volume 3, table 9-1 (what a processor has), 11.4.1 (the local APIC's page), 11.5.4 (its timer);
// volume 1, chapter 13 (XSAVE); Intel 82093AA and 8259A datasheets.

#ifndef HVSDK_BACKEND_STATE_H_
#define HVSDK_BACKEND_STATE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "hvsdk/state/fields.h"

namespace hvsdk::backend {

// As hvdef::SegmentRegister has it.
struct SegmentState {
  uint64_t base = 0;
  uint32_t limit = 0;
  uint16_t selector = 0;
  uint16_t attributes = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "base", base);
    visit(2, "limit", limit);
    visit(3, "selector", selector);
    visit(4, "attributes", attributes);
  }
};

struct TableState {
  uint64_t base = 0;
  uint16_t limit = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "base", base);
    visit(2, "limit", limit);
  }
};

struct MsrState {
  uint32_t index = 0;
  uint64_t value = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "index", index);
    visit(2, "value", value);
  }
};

// A state component of XSAVE from 2 on (AVX and what came later), in the layout that CPUID leaf 0xD gives it.
struct XsaveComponent {
  uint8_t number = 0;
  std::vector<uint8_t> bytes;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "number", number);
    visit(2, "bytes", bytes);
  }
};

struct VpState {
  static constexpr uint32_t kSchema = 1;

  std::array<uint64_t, 16> gpr{};  // in the order of Gpr
  uint64_t rip = 0, rflags = 2;
  std::array<SegmentState, 8> segments{};  // ES CS SS DS FS GS LDTR TR
  TableState gdtr, idtr;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, xcr0 = 1;
  std::array<uint64_t, 4> dr{};
  uint64_t dr6 = 0xFFFF0FF0, dr7 = 0x400;
  std::array<uint8_t, 512> fxsave{};  // the legacy area in its 64-bit form; bytes 416 to 511 are zero
  std::vector<XsaveComponent> xsave;  // those that are not in their initial state

  // By ascending index: IA32_APIC_BASE, EFER, PAT and those of SYSENTER, SYSCALL and SWAPGS always, others where they are not what this
  // engine's processors begin with. Not the TSC, nor its deadline.
  std::vector<MsrState> msrs;
  // This VP's TSC less the partition's.
  uint64_t tsc_offset = 0;

  // The local APIC's page, registers as at their offsets in xAPIC mode; in x2APIC mode, too, but for the id (0x20: all 32 bits)
  // and the ICR (0x300: low; 0x310: its destination, all 32 bits). The current count (0x390) is what the timer still has to count.
  std::array<uint8_t, 1024> apic{};
  uint64_t tsc_deadline = 0;           // IA32_TSC_DEADLINE: 0 where it is not armed
  std::array<uint64_t, 4> auto_eoi{};  // pending vectors that will not become in-service

  uint8_t activity = 0;     // Activity
  bool guest_idle = false;  // halted such that an interrupt wakes it even with RFLAGS.IF clear
  bool interrupt_shadow = false;
  bool nmi_blocked = false, nmi_pending = false;
  bool init_pending = false, sipi_pending = false;
  uint8_t sipi_vector = 0;
  uint64_t pending_interruption = 0;  // as HV_X64_PENDING_INTERRUPTION_REGISTER: an event under delivery
  uint64_t pending_dr6 = 0,
           pending_cr2 = 0;  // what delivery of a pending #DB or #PF will put there, if it has not been put there yet
  bool pending_has_payload = false;

  // What not every engine can tell; zero where it cannot.
  bool stack_shadow = false;  // the interrupt shadow is that of a load of SS: debug events wait, too
  uint8_t waiting_debug = 0;  // bits 3:0 of DR6 that they will set
  uint16_t fpu_cs = 0, fpu_ds = 0;
  uint32_t apic_errors = 0;  // those that ESR shows when it is next written
  // The APIC timer's count within a tick: it began at `apic_start_count` so long ago, and fires so long from now. Means nothing unless it
  // agrees with the page's current count.
  uint32_t apic_start_count = 0;
  uint64_t apic_elapsed_100ns = 0, apic_wait_100ns = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "gpr", gpr);
    visit(2, "rip", rip);
    visit(3, "rflags", rflags);
    visit(4, "segments", segments);
    visit(5, "gdtr", gdtr);
    visit(6, "idtr", idtr);
    visit(7, "cr0", cr0);
    visit(8, "cr2", cr2);
    visit(9, "cr3", cr3);
    visit(10, "cr4", cr4);
    visit(11, "xcr0", xcr0);
    visit(12, "dr", dr);
    visit(13, "dr6", dr6);
    visit(14, "dr7", dr7);
    visit(15, "fxsave", fxsave);
    visit(16, "xsave", xsave);
    visit(17, "msrs", msrs);
    visit(18, "tsc_offset", tsc_offset);
    visit(19, "apic", apic);
    visit(20, "tsc_deadline", tsc_deadline);
    visit(21, "auto_eoi", auto_eoi);
    visit(22, "activity", activity);
    visit(23, "guest_idle", guest_idle);
    visit(24, "interrupt_shadow", interrupt_shadow);
    visit(25, "nmi_blocked", nmi_blocked);
    visit(26, "nmi_pending", nmi_pending);
    visit(27, "init_pending", init_pending);
    visit(28, "sipi_pending", sipi_pending);
    visit(29, "sipi_vector", sipi_vector);
    visit(30, "pending_interruption", pending_interruption);
    visit(31, "pending_dr6", pending_dr6);
    visit(32, "pending_cr2", pending_cr2);
    visit(33, "pending_has_payload", pending_has_payload);
    visit(34, "stack_shadow", stack_shadow);
    visit(35, "waiting_debug", waiting_debug);
    visit(36, "fpu_cs", fpu_cs);
    visit(37, "fpu_ds", fpu_ds);
    visit(38, "apic_errors", apic_errors);
    visit(39, "apic_start_count", apic_start_count);
    visit(40, "apic_elapsed_100ns", apic_elapsed_100ns);
    visit(41, "apic_wait_100ns", apic_wait_100ns);
  }
};

// One of the two 8259As.
struct PicState {
  uint8_t request = 0, service = 0, mask = 0xFF;  // IRR, ISR, IMR
  uint8_t lines = 0;                              // the inputs' levels
  uint8_t vector_base = 0;
  uint8_t lowest_priority = 7;  // the input that has it
  uint8_t edge_level = 0;       // ELCR
  uint8_t init_step = 0;        // of ICW1 to ICW4: the next one expected, 0 for none
  bool icw4_expected = false, auto_eoi = false, rotate_on_auto_eoi = false, special_mask = false;
  bool special_fully_nested = false, poll = false, read_service = false;
  bool single = false;  // ICW1.SNGL, where the engine knows it

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "request", request);
    visit(2, "service", service);
    visit(3, "mask", mask);
    visit(4, "lines", lines);
    visit(5, "vector_base", vector_base);
    visit(6, "lowest_priority", lowest_priority);
    visit(7, "edge_level", edge_level);
    visit(8, "init_step", init_step);
    visit(9, "icw4_expected", icw4_expected);
    visit(10, "auto_eoi", auto_eoi);
    visit(11, "rotate_on_auto_eoi", rotate_on_auto_eoi);
    visit(12, "special_mask", special_mask);
    visit(13, "special_fully_nested", special_fully_nested);
    visit(14, "poll", poll);
    visit(15, "read_service", read_service);
    visit(16, "single", single);
  }
};

// What the VPs of a partition share, but for memory.
struct PartitionState {
  static constexpr uint32_t kSchema = 1;

  uint64_t tsc_frequency_hz = 0;
  uint64_t guest_tsc = 0;  // when it was saved; it goes on from there

  uint8_t io_apic_id = 0;
  uint8_t io_apic_select = 0;
  std::array<uint64_t, 24> redirection{};  // with delivery status and remote IRR
  uint32_t io_apic_lines = 0;              // the inputs' levels
  std::array<PicState, 2> pics{};          // master, slave

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "tsc_frequency_hz", tsc_frequency_hz);
    visit(2, "guest_tsc", guest_tsc);
    visit(3, "io_apic_id", io_apic_id);
    visit(4, "io_apic_select", io_apic_select);
    visit(5, "redirection", redirection);
    visit(6, "io_apic_lines", io_apic_lines);
    visit(7, "pics", pics);
  }
};

}  // namespace hvsdk::backend

#endif  // HVSDK_BACKEND_STATE_H_

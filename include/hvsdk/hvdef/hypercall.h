// SPDX-License-Identifier: Apache-2.0
// Hypercalls: codes, the control word, the result word, and the input and output blocks (TLFS, chapter "Hypercall
// Interface" and appendix "Hypercall Reference").

#ifndef HVSDK_HVDEF_HYPERCALL_H_
#define HVSDK_HVDEF_HYPERCALL_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/register.h"
#include "hvsdk/hvdef/status.h"

namespace hvsdk::hvdef {

enum class CallCode : uint16_t {
  kFlushVirtualAddressSpace = 0x0002,    // HvCallFlushVirtualAddressSpace
  kFlushVirtualAddressList = 0x0003,     // HvCallFlushVirtualAddressList
  kNotifyLongSpinWait = 0x0008,          // HvCallNotifyLongSpinWait
  kSendSyntheticClusterIpi = 0x000B,     // HvCallSendSyntheticClusterIpi
  kFlushVirtualAddressSpaceEx = 0x0013,  // HvCallFlushVirtualAddressSpaceEx
  kFlushVirtualAddressListEx = 0x0014,   // HvCallFlushVirtualAddressListEx
  kSendSyntheticClusterIpiEx = 0x0015,   // HvCallSendSyntheticClusterIpiEx
  kGetVpRegisters = 0x0050,              // HvCallGetVpRegisters
  kSetVpRegisters = 0x0051,              // HvCallSetVpRegisters
  kTranslateVirtualAddress = 0x0052,     // HvCallTranslateVirtualAddress
  kPostMessage = 0x005C,                 // HvCallPostMessage
  kSignalEvent = 0x005D,                 // HvCallSignalEvent
  kRetargetDeviceInterrupt = 0x007E,     // HvCallRetargetDeviceInterrupt
  kAssertVirtualInterrupt = 0x0094,      // HvCallAssertVirtualInterrupt
  kStartVirtualProcessor = 0x0099,       // HvCallStartVirtualProcessor
  kGetVpIndexFromApicId = 0x009A,        // HvCallGetVpIndexFromApicId
  kQueryCapabilities = 0x8001,           // HvExtCallQueryCapabilities
  kMemoryHeatHint = 0x8003,              // HvExtCallMemoryHeatHint
};
// Codes from here on are extended hypercalls.
inline constexpr uint16_t kFirstExtendedCall = 0x8001;

// The hypercall input value (TLFS, "Hypercall Inputs"): code 15:0, fast 16, variable header 26:17 in 8-byte words,
// nested 31, rep count 43:32, rep start index 59:48.
struct Control {
  uint64_t value;

  static constexpr uint64_t kFast = uint64_t{1} << 16;
  // 30:27, 47:44, 63:60; and bit 31, which asks a hypervisor further out and has no meaning where there is none.
  static constexpr uint64_t kReserved = 0xF000'F000'F800'0000;

  static constexpr Control Make(uint16_t code, bool fast = false, uint16_t variable_words = 0, uint16_t rep_count = 0,
                                uint16_t rep_start = 0) {
    return {code | (fast ? kFast : 0) | uint64_t{variable_words} << 17 | uint64_t{rep_count} << 32 |
            uint64_t{rep_start} << 48};
  }
  constexpr uint16_t code() const { return static_cast<uint16_t>(value); }
  constexpr bool fast() const { return (value & kFast) != 0; }
  constexpr uint16_t variable_words() const { return (value >> 17) & 0x3FF; }
  constexpr uint16_t rep_count() const { return (value >> 32) & 0xFFF; }
  constexpr uint16_t rep_start() const { return (value >> 48) & 0xFFF; }
  constexpr Control WithRepStart(uint16_t rep_start) const {
    return {(value & ~(uint64_t{0xFFF} << 48)) | uint64_t{rep_start} << 48};
  }
};
static_assert(sizeof(Control) == 8);
static_assert(offsetof(Control, value) == 0);
inline constexpr uint16_t kMaxRepCount = 0xFFF;

// The hypercall result value: status 15:0, reps completed 43:32.
constexpr uint64_t MakeResult(HvStatus status, uint16_t reps_completed = 0) {
  return static_cast<uint16_t>(status) | uint64_t{reps_completed} << 32;
}
constexpr HvStatus ResultStatus(uint64_t result) { return static_cast<HvStatus>(result & 0xFFFF); }
constexpr uint16_t ResultReps(uint64_t result) { return (result >> 32) & 0xFFF; }

// The block that a fast call passes in registers: RDX, R8 and XMM0 to XMM5.
inline constexpr uint32_t kFastBlockBytes = 112;

inline constexpr uint64_t kPartitionIdSelf = ~uint64_t{0};  // HV_PARTITION_ID_SELF
inline constexpr uint32_t kVpIndexSelf = 0xFFFFFFFE;        // HV_VP_INDEX_SELF
inline constexpr uint32_t kAnyVp = 0xFFFFFFFF;              // HV_ANY_VP

// HV_INPUT_VTL: target VTL 3:0, use it 4, reserved 7:5.
inline constexpr uint8_t kInputVtlUse = 0x10;

// HV_VP_SET: a format, a mask of banks of 64 VPs, and one mask for each bank present.
enum class VpSetFormat : uint64_t { kSparse4K = 0, kAll = 1 };
// The head of HV_VP_SET.
struct VpSetHeader {
  uint64_t format;
  uint64_t valid_banks;
};
static_assert(sizeof(VpSetHeader) == 16);
static_assert(offsetof(VpSetHeader, format) == 0 && offsetof(VpSetHeader, valid_banks) == 8);

// HV_FLUSH_FLAGS.
inline constexpr uint64_t kFlushAllProcessors = 1;
inline constexpr uint64_t kFlushAllVirtualAddressSpaces = 2;
inline constexpr uint64_t kFlushNonGlobalMappingsOnly = 4;

// Input of HvCallFlushVirtualAddressSpace, and the header of HvCallFlushVirtualAddressList.
struct FlushVirtualAddressInput {
  uint64_t address_space;
  uint64_t flags;
  uint64_t processor_mask;
};
static_assert(sizeof(FlushVirtualAddressInput) == 24);
static_assert(offsetof(FlushVirtualAddressInput, address_space) == 0 &&
              offsetof(FlushVirtualAddressInput, flags) == 8 &&
              offsetof(FlushVirtualAddressInput, processor_mask) == 16);

// The same of HvCallFlushVirtualAddressSpaceEx and HvCallFlushVirtualAddressListEx; followed by the set's banks.
struct FlushVirtualAddressExInput {
  uint64_t address_space;
  uint64_t flags;
  VpSetHeader processor_set;
};
static_assert(sizeof(FlushVirtualAddressExInput) == 32);
static_assert(offsetof(FlushVirtualAddressExInput, address_space) == 0 &&
              offsetof(FlushVirtualAddressExInput, flags) == 8 &&
              offsetof(FlushVirtualAddressExInput, processor_set) == 16);

// Input of HvCallNotifyLongSpinWait.
struct NotifyLongSpinWaitInput {
  uint32_t spin_count;
  uint32_t reserved;
};
static_assert(sizeof(NotifyLongSpinWaitInput) == 8);
static_assert(offsetof(NotifyLongSpinWaitInput, spin_count) == 0 && offsetof(NotifyLongSpinWaitInput, reserved) == 4);

// Input of HvCallSendSyntheticClusterIpi.
struct SendSyntheticClusterIpiInput {
  uint32_t vector;
  uint8_t target_vtl;
  uint8_t reserved[3];
  uint64_t processor_mask;
};
static_assert(sizeof(SendSyntheticClusterIpiInput) == 16);
static_assert(offsetof(SendSyntheticClusterIpiInput, vector) == 0 &&
              offsetof(SendSyntheticClusterIpiInput, target_vtl) == 4 &&
              offsetof(SendSyntheticClusterIpiInput, reserved) == 5 &&
              offsetof(SendSyntheticClusterIpiInput, processor_mask) == 8);

// Input of HvCallSendSyntheticClusterIpiEx, followed by the set's banks.
struct SendSyntheticClusterIpiExInput {
  uint32_t vector;
  uint8_t target_vtl;
  uint8_t reserved[3];
  VpSetHeader processor_set;
};
static_assert(sizeof(SendSyntheticClusterIpiExInput) == 24);
static_assert(offsetof(SendSyntheticClusterIpiExInput, vector) == 0 &&
              offsetof(SendSyntheticClusterIpiExInput, target_vtl) == 4 &&
              offsetof(SendSyntheticClusterIpiExInput, reserved) == 5 &&
              offsetof(SendSyntheticClusterIpiExInput, processor_set) == 8);

// The header of HvCallGetVpRegisters and HvCallSetVpRegisters. Elements of the former are a RegisterName in and a
// RegisterValue out.
struct VpRegistersInput {
  uint64_t partition_id;
  uint32_t vp_index;
  uint8_t target_vtl;
  uint8_t reserved[3];
};
static_assert(sizeof(VpRegistersInput) == 16);
static_assert(offsetof(VpRegistersInput, partition_id) == 0 && offsetof(VpRegistersInput, vp_index) == 8 &&
              offsetof(VpRegistersInput, target_vtl) == 12 && offsetof(VpRegistersInput, reserved) == 13);

// An element of HvCallSetVpRegisters.
struct RegisterAssociation {
  uint32_t name;
  uint32_t reserved1;
  uint64_t reserved2;
  RegisterValue value;
};
static_assert(sizeof(RegisterAssociation) == 32);
static_assert(offsetof(RegisterAssociation, name) == 0 && offsetof(RegisterAssociation, reserved1) == 4 &&
              offsetof(RegisterAssociation, reserved2) == 8 && offsetof(RegisterAssociation, value) == 16);

// HV_TRANSLATE_GVA_CONTROL_FLAGS; the input VTL is in 63:56.
inline constexpr uint64_t kTranslateValidateRead = 0x01;
inline constexpr uint64_t kTranslateValidateWrite = 0x02;
inline constexpr uint64_t kTranslateValidateExecute = 0x04;
inline constexpr uint64_t kTranslatePrivilegeExempt = 0x08;
inline constexpr uint64_t kTranslateSupervisorAccess = 0x40;
inline constexpr uint64_t kTranslateUserAccess = 0x80;

// Input of HvCallTranslateVirtualAddress.
struct TranslateVirtualAddressInput {
  uint64_t partition_id;
  uint32_t vp_index;
  uint32_t reserved;
  uint64_t control_flags;
  uint64_t gva_page;
};
static_assert(sizeof(TranslateVirtualAddressInput) == 32);
static_assert(offsetof(TranslateVirtualAddressInput, partition_id) == 0 &&
              offsetof(TranslateVirtualAddressInput, vp_index) == 8 &&
              offsetof(TranslateVirtualAddressInput, reserved) == 12 &&
              offsetof(TranslateVirtualAddressInput, control_flags) == 16 &&
              offsetof(TranslateVirtualAddressInput, gva_page) == 24);

enum class TranslateResult : uint32_t {  // HV_TRANSLATE_GVA_RESULT_CODE
  kSuccess = 0,
  kPageNotPresent = 1,
  kPrivilegeViolation = 2,
  kInvalidPageTableFlags = 3,
  kGpaUnmapped = 4,
};
inline constexpr uint8_t kCacheTypeWriteBack = 6;  // HvCacheTypeWriteBack

// Output of HvCallTranslateVirtualAddress: HV_TRANSLATE_GVA_RESULT and a page number.
struct TranslateVirtualAddressOutput {
  uint32_t result_code;
  uint8_t cache_type;
  uint8_t overlay_page;  // bit 0
  uint16_t reserved;
  uint64_t gpa_page;
};
static_assert(sizeof(TranslateVirtualAddressOutput) == 16);
static_assert(offsetof(TranslateVirtualAddressOutput, result_code) == 0 &&
              offsetof(TranslateVirtualAddressOutput, cache_type) == 4 &&
              offsetof(TranslateVirtualAddressOutput, overlay_page) == 5 &&
              offsetof(TranslateVirtualAddressOutput, reserved) == 6 &&
              offsetof(TranslateVirtualAddressOutput, gpa_page) == 8);

// Input of HvCallPostMessage.
struct PostMessageInput {
  uint32_t connection_id;
  uint32_t reserved;
  uint32_t message_type;
  uint32_t payload_size;
  uint8_t payload[240];
};
static_assert(sizeof(PostMessageInput) == 256);
static_assert(offsetof(PostMessageInput, connection_id) == 0 && offsetof(PostMessageInput, reserved) == 4 &&
              offsetof(PostMessageInput, message_type) == 8 && offsetof(PostMessageInput, payload_size) == 12 &&
              offsetof(PostMessageInput, payload) == 16);

// Input of HvCallSignalEvent.
struct SignalEventInput {
  uint32_t connection_id;
  uint16_t flag_number;
  uint16_t reserved;
};
static_assert(sizeof(SignalEventInput) == 8);
static_assert(offsetof(SignalEventInput, connection_id) == 0 && offsetof(SignalEventInput, flag_number) == 4 &&
              offsetof(SignalEventInput, reserved) == 6);

inline constexpr uint32_t kInterruptSourceMsi = 1;  // HvInterruptSourceMsi
// HV_INTERRUPT_ENTRY with the HV_MSI_ENTRY that identifies the interrupt.
struct InterruptEntry {
  uint32_t source;
  uint32_t reserved;
  uint32_t msi_address;
  uint32_t msi_data;
};
static_assert(sizeof(InterruptEntry) == 16);
static_assert(offsetof(InterruptEntry, source) == 0 && offsetof(InterruptEntry, reserved) == 4 &&
              offsetof(InterruptEntry, msi_address) == 8 && offsetof(InterruptEntry, msi_data) == 12);

// HV_DEVICE_INTERRUPT_TARGET flags.
inline constexpr uint32_t kInterruptTargetMulticast = 1;
inline constexpr uint32_t kInterruptTargetProcessorSet = 2;

// Input of HvCallRetargetDeviceInterrupt, whose last three fields are HV_DEVICE_INTERRUPT_TARGET. With a processor set:
// followed by its valid-bank mask and banks.
struct RetargetDeviceInterruptInput {
  uint64_t partition_id;
  uint64_t device_id;
  InterruptEntry entry;
  uint64_t reserved;
  uint32_t vector;
  uint32_t flags;
  uint64_t mask_or_format;  // a mask of VPs, or the set's format
};
static_assert(sizeof(RetargetDeviceInterruptInput) == 56);
static_assert(offsetof(RetargetDeviceInterruptInput, partition_id) == 0 &&
              offsetof(RetargetDeviceInterruptInput, device_id) == 8 &&
              offsetof(RetargetDeviceInterruptInput, entry) == 16 &&
              offsetof(RetargetDeviceInterruptInput, reserved) == 32 &&
              offsetof(RetargetDeviceInterruptInput, vector) == 40 &&
              offsetof(RetargetDeviceInterruptInput, flags) == 44 &&
              offsetof(RetargetDeviceInterruptInput, mask_or_format) == 48);

// HV_INTERRUPT_TYPE.
enum class InterruptType : uint32_t {
  kFixed = 0,
  kLowestPriority = 1,
  kSmi = 2,
  kRemoteRead = 3,
  kNmi = 4,
  kInit = 5,
  kSipi = 6,
  kExtInt = 7,
  kLocalInt0 = 8,
  kLocalInt1 = 9,
};

// Input of HvCallAssertVirtualInterrupt.
struct AssertVirtualInterruptInput {
  uint64_t partition_id;
  uint32_t interrupt_type;
  uint32_t interrupt_flags;  // HV_INTERRUPT_CONTROL: level-triggered 0, logical destination mode 1
  uint64_t destination;
  uint32_t vector;
  uint8_t target_vtl;
  uint8_t reserved0;
  uint16_t reserved1;
};
static_assert(sizeof(AssertVirtualInterruptInput) == 32);
static_assert(offsetof(AssertVirtualInterruptInput, partition_id) == 0 &&
              offsetof(AssertVirtualInterruptInput, interrupt_type) == 8 &&
              offsetof(AssertVirtualInterruptInput, interrupt_flags) == 12 &&
              offsetof(AssertVirtualInterruptInput, destination) == 16 &&
              offsetof(AssertVirtualInterruptInput, vector) == 24 &&
              offsetof(AssertVirtualInterruptInput, target_vtl) == 28 &&
              offsetof(AssertVirtualInterruptInput, reserved0) == 29 &&
              offsetof(AssertVirtualInterruptInput, reserved1) == 30);
inline constexpr uint32_t kInterruptLevelTriggered = 1;
inline constexpr uint32_t kInterruptLogicalDestination = 2;

// HV_INITIAL_VP_CONTEXT.
struct InitialVpContext {
  uint64_t rip, rsp, rflags;
  SegmentRegister cs, ds, es, fs, gs, ss, tr, ldtr;
  TableRegister idtr, gdtr;
  uint64_t efer, cr0, cr3, cr4, pat;
};
static_assert(sizeof(InitialVpContext) == 224);
static_assert(offsetof(InitialVpContext, rip) == 0 && offsetof(InitialVpContext, rsp) == 8 &&
              offsetof(InitialVpContext, rflags) == 16 && offsetof(InitialVpContext, cs) == 24 &&
              offsetof(InitialVpContext, ds) == 40 && offsetof(InitialVpContext, es) == 56 &&
              offsetof(InitialVpContext, fs) == 72 && offsetof(InitialVpContext, gs) == 88 &&
              offsetof(InitialVpContext, ss) == 104 && offsetof(InitialVpContext, tr) == 120 &&
              offsetof(InitialVpContext, ldtr) == 136 && offsetof(InitialVpContext, idtr) == 152 &&
              offsetof(InitialVpContext, gdtr) == 168 && offsetof(InitialVpContext, efer) == 184 &&
              offsetof(InitialVpContext, cr0) == 192 && offsetof(InitialVpContext, cr3) == 200 &&
              offsetof(InitialVpContext, cr4) == 208 && offsetof(InitialVpContext, pat) == 216);

// Input of HvCallStartVirtualProcessor.
struct StartVirtualProcessorInput {
  uint64_t partition_id;
  uint32_t vp_index;
  uint8_t target_vtl;
  uint8_t reserved[3];
  InitialVpContext context;
};
static_assert(sizeof(StartVirtualProcessorInput) == 240);
static_assert(offsetof(StartVirtualProcessorInput, partition_id) == 0 &&
              offsetof(StartVirtualProcessorInput, vp_index) == 8 &&
              offsetof(StartVirtualProcessorInput, target_vtl) == 12 &&
              offsetof(StartVirtualProcessorInput, reserved) == 13 &&
              offsetof(StartVirtualProcessorInput, context) == 16);

// The header of HvCallGetVpIndexFromApicId. Elements are an APIC id in and a VP index out, 4 bytes each, as Linux and
// OpenVMM have them; the TLFS pads both to 8. With one element, all that Linux asks for, it is the same.
struct GetVpIndexFromApicIdInput {
  uint64_t partition_id;
  uint8_t target_vtl;
  uint8_t reserved[7];
};
static_assert(sizeof(GetVpIndexFromApicIdInput) == 16);
static_assert(offsetof(GetVpIndexFromApicIdInput, partition_id) == 0 &&
              offsetof(GetVpIndexFromApicIdInput, target_vtl) == 8 &&
              offsetof(GetVpIndexFromApicIdInput, reserved) == 9);

// Bits of HvExtCallQueryCapabilities' output.
inline constexpr uint64_t kCapabilityColdDiscardHint = uint64_t{1} << 8;  // by HvExtCallMemoryHeatHint

// The header of HvExtCallMemoryHeatHint. Source: Linux, hv_memory_hint.
struct MemoryHeatHintInput {
  uint64_t type;  // 1:0, reserved 63:2
};
static_assert(sizeof(MemoryHeatHintInput) == 8);
static_assert(offsetof(MemoryHeatHintInput, type) == 0);
inline constexpr uint64_t kHeatHintColdDiscard = 2;  // the pages are not used, and may lose their bytes

// HV_GPA_PAGE_RANGE: pages in a row. Additional pages 10:0; large 11; then, of small pages, the first one's number 63:12; of large ones their
// size 12 (0: 2 MiB, 1: 1 GiB) and the first one's number, in units of 2 MiB, 63:21. Source: Linux, hv_gpa_page_range.
struct GpaPageRange {
  uint64_t value;

  constexpr bool is_large() const { return (value >> 11 & 1) != 0; }
  // Both in pages of 4 KiB.
  constexpr uint64_t first() const { return is_large() ? value >> 21 << 9 : value >> 12; }
  constexpr uint64_t count() const {
    const uint64_t unit = !is_large() ? 1 : (value >> 12 & 1) != 0 ? uint64_t{1} << 18 : uint64_t{1} << 9;
    return ((value & 0x7FF) + 1) * unit;
  }
};
static_assert(sizeof(GpaPageRange) == 8);
static_assert(offsetof(GpaPageRange, value) == 0);

}  // namespace hvsdk::hvdef

#endif  // HVSDK_HVDEF_HYPERCALL_H_

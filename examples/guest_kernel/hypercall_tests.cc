// SPDX-License-Identifier: Apache-2.0
// The calling convention, and every hypercall with good and with bad input.

#include "console.h"
#include "hypervisor.h"
#include "tests.h"

namespace hvdef = hvsdk::hvdef;

extern "C" {
extern uint64_t boot_pml4[], boot_gdt[];
extern volatile uint32_t ap_started, ap_vp_index;
void ApEntry();
}

namespace {

constexpr uint8_t kIpiVector = 0x90;

Page input, output;

HvStatus Raw(uint64_t control, uint64_t input_gpa, uint64_t output_gpa = 0) {
  return hvdef::ResultStatus(CallHypervisor(control, input_gpa, output_gpa));
}
constexpr uint64_t Word(CallCode code, bool fast = false, uint16_t variable = 0, uint16_t reps = 0,
                        uint16_t start = 0) {
  return Control::Make(static_cast<uint16_t>(code), fast, variable, reps, start).value;
}
bool Arrives(uint8_t vector, uint32_t before) {
  return WaitUntil([=] { return InterruptCount(vector) != before; });
}

void TestConvention() {
  CheckEqual(Raw(0x7FFF, 0), HvStatus::kInvalidHypercallCode, "hypercall: unknown code");
  CheckEqual(Raw(0, 0), HvStatus::kInvalidHypercallCode, "hypercall: code 0");
  constexpr uint64_t kSpin = Word(CallCode::kNotifyLongSpinWait, true);
  CheckEqual(Raw(kSpin | uint64_t{1} << 27, 0), HvStatus::kInvalidHypercallInput, "hypercall: reserved bits");
  CheckEqual(Raw(Word(CallCode::kNotifyLongSpinWait, true, 0, 1), 0), HvStatus::kInvalidHypercallInput,
             "hypercall: a count of repetitions in a simple call");
  CheckEqual(Raw(Word(CallCode::kFlushVirtualAddressList, false, 0, 2, 2), input.gpa()),
             HvStatus::kInvalidHypercallInput, "hypercall: repetitions that begin behind the end");
  CheckEqual(Raw(Word(CallCode::kFlushVirtualAddressList, false, 0, 0), input.gpa()), HvStatus::kInvalidHypercallInput,
             "hypercall: no repetitions in a rep call");
  CheckEqual(Raw(Word(CallCode::kPostMessage), input.gpa() + 4), HvStatus::kInvalidAlignment,
             "hypercall: input that is not aligned");
  CheckEqual(Raw(Word(CallCode::kPostMessage), input.gpa() + kPageSize - 8), HvStatus::kInvalidAlignment,
             "hypercall: input across a page's end");
  CheckEqual(Raw(Word(CallCode::kPostMessage), uint64_t{1} << 40), HvStatus::kInvalidAlignment,
             "hypercall: input outside memory");
  CheckEqual(Raw(Word(CallCode::kPostMessage, true), 0), HvStatus::kInvalidHypercallInput,
             "hypercall: a fast call whose input does not fit registers");
}

void TestFlush() {
  const hvdef::FlushVirtualAddressInput all = {0, hvdef::kFlushAllProcessors | hvdef::kFlushAllVirtualAddressSpaces, 0};
  CheckEqual(Call(CallCode::kFlushVirtualAddressSpace, all), HvStatus::kSuccess, "HvCallFlushVirtualAddressSpace: all");
  const hvdef::FlushVirtualAddressInput one = {reinterpret_cast<uint64_t>(boot_pml4), 0, 1};
  CheckEqual(Call(CallCode::kFlushVirtualAddressSpace, one), HvStatus::kSuccess,
             "HvCallFlushVirtualAddressSpace: one space, one processor");
  const hvdef::FlushVirtualAddressInput bad = {0, 0x80, 0};
  CheckEqual(Call(CallCode::kFlushVirtualAddressSpace, bad), HvStatus::kInvalidParameter,
             "HvCallFlushVirtualAddressSpace: unknown flags");

  struct {
    hvdef::FlushVirtualAddressInput header;
    uint64_t ranges[3];
  } const list = {all, {0x1000, 0x2000, 0x3FFF}};
  const CallResult reps = Call(Control{Word(CallCode::kFlushVirtualAddressList, false, 0, 3)}, &list, sizeof(list));
  Check(reps.status == HvStatus::kSuccess && reps.reps == 3, "HvCallFlushVirtualAddressList: all three ranges");
  struct {
    hvdef::FlushVirtualAddressInput header;
    uint64_t ranges[1];
  } const bad_list = {bad, {0x1000}};
  CheckEqual(Call(Control{Word(CallCode::kFlushVirtualAddressList, false, 0, 1)}, &bad_list, sizeof(bad_list)).status,
             HvStatus::kInvalidParameter, "HvCallFlushVirtualAddressList: unknown flags");

  struct {
    hvdef::FlushVirtualAddressExInput header;
    uint64_t bank;
    uint64_t range;
  } ex = {{0, hvdef::kFlushAllVirtualAddressSpaces, {0, 1}}, 1, 0x1000};
  CheckEqual(Call(Control{Word(CallCode::kFlushVirtualAddressSpaceEx, false, 1)}, &ex, 40).status, HvStatus::kSuccess,
             "HvCallFlushVirtualAddressSpaceEx: a set of one bank");
  CheckEqual(Call(Control{Word(CallCode::kFlushVirtualAddressListEx, false, 1, 1)}, &ex, 48).status, HvStatus::kSuccess,
             "HvCallFlushVirtualAddressListEx: a set of one bank, one range");
  uint64_t registers[14] = {0, hvdef::kFlushAllVirtualAddressSpaces, 0, 1, 1};
  CheckEqual(hvdef::ResultStatus(CallHypervisorXmm(Word(CallCode::kFlushVirtualAddressSpaceEx, true, 1), registers)),
             HvStatus::kSuccess, "HvCallFlushVirtualAddressSpaceEx: in XMM registers");
  ex.header.processor_set.valid_banks = 3;
  CheckEqual(Call(Control{Word(CallCode::kFlushVirtualAddressSpaceEx, false, 1)}, &ex, 40).status,
             HvStatus::kInvalidHypercallInput, "HvCallFlushVirtualAddressSpaceEx: fewer banks than said");
  ex.header.processor_set = {7, 1};
  CheckEqual(Call(Control{Word(CallCode::kFlushVirtualAddressListEx, false, 1, 1)}, &ex, 48).status,
             HvStatus::kInvalidParameter, "HvCallFlushVirtualAddressListEx: unknown set format");
}

void TestInterruptCalls() {
  CheckEqual(FastCall(CallCode::kNotifyLongSpinWait, 1000, 0), HvStatus::kSuccess, "HvCallNotifyLongSpinWait");
  uint32_t before = InterruptCount(kIpiVector);
  CheckEqual(FastCall(CallCode::kSendSyntheticClusterIpi, kIpiVector, 1), HvStatus::kSuccess,
             "HvCallSendSyntheticClusterIpi: to oneself");
  Check(Arrives(kIpiVector, before), "HvCallSendSyntheticClusterIpi: arrives");
  CheckEqual(FastCall(CallCode::kSendSyntheticClusterIpi, 15, 1), HvStatus::kInvalidParameter,
             "HvCallSendSyntheticClusterIpi: a vector below 16");
  struct {
    hvdef::SendSyntheticClusterIpiExInput header;
    uint64_t bank;
  } ex = {{kIpiVector, 0, {}, {0, 1}}, 1};
  before = InterruptCount(kIpiVector);
  CheckEqual(Call(Control{Word(CallCode::kSendSyntheticClusterIpiEx, false, 1)}, &ex, sizeof(ex)).status,
             HvStatus::kSuccess, "HvCallSendSyntheticClusterIpiEx: to oneself");
  Check(Arrives(kIpiVector, before), "HvCallSendSyntheticClusterIpiEx: arrives");
  ex.header.vector = 256;
  CheckEqual(Call(Control{Word(CallCode::kSendSyntheticClusterIpiEx, false, 1)}, &ex, sizeof(ex)).status,
             HvStatus::kInvalidParameter, "HvCallSendSyntheticClusterIpiEx: a vector beyond 255");

  hvdef::AssertVirtualInterruptInput assert_input = {hvdef::kPartitionIdSelf, 0, 0, 0, kIpiVector, 0, 0, 0};
  before = InterruptCount(kIpiVector);
  CheckEqual(Call(CallCode::kAssertVirtualInterrupt, assert_input), HvStatus::kSuccess,
             "HvCallAssertVirtualInterrupt: fixed, to the first APIC");
  Check(Arrives(kIpiVector, before), "HvCallAssertVirtualInterrupt: arrives");
  assert_input.vector = 3;
  CheckEqual(Call(CallCode::kAssertVirtualInterrupt, assert_input), HvStatus::kInvalidParameter,
             "HvCallAssertVirtualInterrupt: a vector below 16");
  assert_input.partition_id = 77;
  CheckEqual(Call(CallCode::kAssertVirtualInterrupt, assert_input), HvStatus::kInvalidPartitionId,
             "HvCallAssertVirtualInterrupt: another partition");
}

// The machine's loopback device (hvsdk/machine/loopback_ports.h) interrupts when its connection is signalled; the flag is
// the MSI's data.
void TestRetarget() {
  constexpr uint32_t kConnection = 0x10010;
  constexpr uint64_t kDevice = 0x10000;
  constexpr uint8_t kMsiVector = 0x42;
  const auto signal = [] { return FastCall(CallCode::kSignalEvent, kConnection | uint64_t{kMsiVector} << 32, 0); };
  const auto arrives_at = [&](uint8_t vector) {
    const uint32_t before = InterruptCount(vector), other = InterruptCount(kMsiVector);
    return signal() == HvStatus::kSuccess && Arrives(vector, before) &&
           InterruptCount(kMsiVector) == other + (vector == kMsiVector ? 1 : 0);
  };
  Check(arrives_at(kMsiVector), "HvCallRetargetDeviceInterrupt: before it, the interrupt goes where its message says");

  const hvdef::RetargetDeviceInterruptInput good = {
      hvdef::kPartitionIdSelf, kDevice, {hvdef::kInterruptSourceMsi, 0, 0xFEE00000, kMsiVector}, 0, kIpiVector, 0, 1};
  CheckEqual(Call(CallCode::kRetargetDeviceInterrupt, good), HvStatus::kSuccess,
             "HvCallRetargetDeviceInterrupt: another vector");
  Check(arrives_at(kIpiVector), "HvCallRetargetDeviceInterrupt: arrives there, and there alone");
  struct {
    hvdef::RetargetDeviceInterruptInput header;
    uint64_t valid_banks;
    uint64_t bank;
  } set = {good, 1, 1};
  set.header.vector = kIpiVector + 1;
  set.header.flags = hvdef::kInterruptTargetProcessorSet;
  set.header.mask_or_format = 0;
  const Control two_words{Word(CallCode::kRetargetDeviceInterrupt, false, 2)};
  CheckEqual(Call(two_words, &set, sizeof(set)).status, HvStatus::kSuccess,
             "HvCallRetargetDeviceInterrupt: to a set of one bank");
  Check(arrives_at(kIpiVector + 1), "HvCallRetargetDeviceInterrupt: arrives");

  auto bad = good;
  bad.device_id = 0xDEAD;
  CheckEqual(Call(CallCode::kRetargetDeviceInterrupt, bad), HvStatus::kInvalidParameter,
             "HvCallRetargetDeviceInterrupt: a device there is not");
  bad = good;
  bad.partition_id = 77;
  CheckEqual(Call(CallCode::kRetargetDeviceInterrupt, bad), HvStatus::kInvalidPartitionId,
             "HvCallRetargetDeviceInterrupt: another partition");
  bad = good;
  bad.vector = 15;
  CheckEqual(Call(CallCode::kRetargetDeviceInterrupt, bad), HvStatus::kInvalidParameter,
             "HvCallRetargetDeviceInterrupt: a vector below 16");
  bad = good;
  bad.flags = 4;
  CheckEqual(Call(CallCode::kRetargetDeviceInterrupt, bad), HvStatus::kInvalidParameter,
             "HvCallRetargetDeviceInterrupt: unknown flags");
  bad = good;
  bad.mask_or_format = 0;
  CheckEqual(Call(CallCode::kRetargetDeviceInterrupt, bad), HvStatus::kInvalidParameter,
             "HvCallRetargetDeviceInterrupt: to nobody");
  bad = good;
  bad.entry.source = 7;
  CheckEqual(Call(CallCode::kRetargetDeviceInterrupt, bad), HvStatus::kInvalidParameter,
             "HvCallRetargetDeviceInterrupt: an unknown kind of interrupt");
  Check(arrives_at(kIpiVector + 1), "HvCallRetargetDeviceInterrupt: what failed changed nothing");
}

void TestRegisterCalls() {
  struct {
    hvdef::VpRegistersInput header;
    hvdef::RegisterName names[2];
  } get = {{hvdef::kPartitionIdSelf, hvdef::kVpIndexSelf, 0, {}},
           {hvdef::RegisterName::kCr3, hvdef::RegisterName::kVpIndex}};
  hvdef::RegisterValue values[2] = {};
  const Control two{Word(CallCode::kGetVpRegisters, false, 0, 2)};
  const CallResult got = Call(two, &get, sizeof(get), values, sizeof(values));
  Check(got.status == HvStatus::kSuccess && got.reps == 2, "HvCallGetVpRegisters: two registers");
  Check(values[0].low == reinterpret_cast<uint64_t>(boot_pml4) && values[1].low == 0,
        "HvCallGetVpRegisters: CR3 and the VP index");
  get.header.vp_index = 4000;
  CheckEqual(Call(two, &get, sizeof(get)).status, HvStatus::kInvalidVpIndex, "HvCallGetVpRegisters: no such processor");
  get.header = {77, hvdef::kVpIndexSelf, 0, {}};
  CheckEqual(Call(two, &get, sizeof(get)).status, HvStatus::kInvalidPartitionId,
             "HvCallGetVpRegisters: another partition");
  get.header = {hvdef::kPartitionIdSelf, hvdef::kVpIndexSelf, 0, {}};
  get.names[1] = static_cast<hvdef::RegisterName>(0x7FFFFFFF);
  const CallResult unknown = Call(two, &get, sizeof(get));
  Check(unknown.status == HvStatus::kInvalidParameter && unknown.reps == 1,
        "HvCallGetVpRegisters: an unknown register, after one that is known");

  struct {
    hvdef::VpRegistersInput header;
    hvdef::RegisterAssociation element;
  } set = {{hvdef::kPartitionIdSelf, hvdef::kVpIndexSelf, 0, {}},
           {static_cast<uint32_t>(hvdef::RegisterName::kGuestCrashP0), 0, 0, {0xC0FFEE, 0}}};
  const Control one{Word(CallCode::kSetVpRegisters, false, 0, 1)};
  Check(Call(one, &set, sizeof(set)).status == HvStatus::kSuccess && ReadMsr(msr::kCrashP0) == 0xC0FFEE,
        "HvCallSetVpRegisters: a synthetic register is the MSR");
  set.element.name = static_cast<uint32_t>(hvdef::RegisterName::kVpIndex);
  CheckEqual(Call(one, &set, sizeof(set)).status, HvStatus::kInvalidParameter,
             "HvCallSetVpRegisters: one that only reads");

  hvdef::TranslateVirtualAddressInput translate = {hvdef::kPartitionIdSelf, hvdef::kVpIndexSelf, 0,
                                                   hvdef::kTranslateValidateRead | hvdef::kTranslateValidateWrite,
                                                   input.pfn()};
  hvdef::TranslateVirtualAddressOutput translated = {};
  const Control plain{Word(CallCode::kTranslateVirtualAddress)};
  const CallResult found = Call(plain, &translate, sizeof(translate), &translated, sizeof(translated));
  Check(found.status == HvStatus::kSuccess && translated.result_code == 0 && translated.gpa_page == input.pfn(),
        "HvCallTranslateVirtualAddress: a page of the kernel's");
  translate.gva_page = (uint64_t{64} << 30) / kPageSize;
  Check(Call(plain, &translate, sizeof(translate), &translated, sizeof(translated)).status == HvStatus::kSuccess &&
            translated.result_code == static_cast<uint32_t>(hvdef::TranslateResult::kPageNotPresent),
        "HvCallTranslateVirtualAddress: an address that is not mapped");
  translate.gva_page = uint64_t{1} << 60;
  CheckEqual(Call(plain, &translate, sizeof(translate)).status, HvStatus::kInvalidParameter,
             "HvCallTranslateVirtualAddress: no address at all");
}

void TestMessageCalls() {
  hvdef::PostMessageInput post = {0xABCDEF, 0, 1, 8, {}};
  CheckEqual(Call(CallCode::kPostMessage, post), HvStatus::kInvalidConnectionId,
             "HvCallPostMessage: no such connection");
  post.payload_size = 241;
  CheckEqual(Call(CallCode::kPostMessage, post), HvStatus::kInvalidParameter, "HvCallPostMessage: more than 240 bytes");
  post.payload_size = 8;
  post.message_type = hvdef::kHypervisorMessageBit | 1;
  CheckEqual(Call(CallCode::kPostMessage, post), HvStatus::kInvalidParameter,
             "HvCallPostMessage: a type of the hypervisor's");
  post.message_type = 0;
  CheckEqual(Call(CallCode::kPostMessage, post), HvStatus::kInvalidParameter, "HvCallPostMessage: type 0");
  CheckEqual(FastCall(CallCode::kSignalEvent, 0xABCDEF, 0), HvStatus::kInvalidConnectionId,
             "HvCallSignalEvent: no such connection");
  CheckEqual(FastCall(CallCode::kSignalEvent, uint64_t{1} << 48, 0), HvStatus::kInvalidParameter,
             "HvCallSignalEvent: reserved bits");
}

void TestProcessorCalls() {
  struct {
    hvdef::GetVpIndexFromApicIdInput header;
    uint32_t ids[2];
  } const ids = {{hvdef::kPartitionIdSelf, 0, {}}, {0, 0xFFFF}};
  uint32_t index[2] = {0xFF, 0xFF};
  const CallResult known = Call(Control{Word(CallCode::kGetVpIndexFromApicId, false, 0, 1)}, &ids, 20, index, 4);
  Check(known.status == HvStatus::kSuccess && known.reps == 1 && index[0] == 0,
        "HvCallGetVpIndexFromApicId: the first");
  const CallResult unknown = Call(Control{Word(CallCode::kGetVpIndexFromApicId, false, 0, 2)}, &ids, sizeof(ids));
  Check(unknown.status == HvStatus::kInvalidParameter && unknown.reps == 1,
        "HvCallGetVpIndexFromApicId: one there is not");

  static Page stack;
  hvdef::StartVirtualProcessorInput start = {};
  start.partition_id = hvdef::kPartitionIdSelf;
  start.vp_index = 4000;
  CheckEqual(Call(CallCode::kStartVirtualProcessor, start), HvStatus::kInvalidVpIndex,
             "HvCallStartVirtualProcessor: no such processor");
  start.vp_index = 0;
  CheckEqual(Call(CallCode::kStartVirtualProcessor, start), HvStatus::kInvalidVpState,
             "HvCallStartVirtualProcessor: one that runs");
  constexpr uint16_t kCode = 0xA09B, kData = 0xC093, kTask = 0x008B, kNoTable = 0x0082;
  hvdef::InitialVpContext& context = start.context;
  context.rip = reinterpret_cast<uint64_t>(&ApEntry);
  context.rsp = stack.gpa() + kPageSize;
  context.rflags = 2;
  context.cs = {0, 0xFFFFFFFF, 0x08, kCode};
  context.ds = context.es = context.fs = context.gs = context.ss = {0, 0xFFFFFFFF, 0x10, kData};
  context.tr = {0, 0xFFFF, 0, kTask};
  context.ldtr = {0, 0xFFFF, 0, kNoTable};
  context.gdtr = {{}, 23, reinterpret_cast<uint64_t>(boot_gdt)};
  context.efer = 0x500;
  context.cr0 = 0x80010033;
  context.cr3 = reinterpret_cast<uint64_t>(boot_pml4);
  context.cr4 = 0x620;
  context.pat = 0x0007040600070406;
  start.vp_index = 1;
  CheckEqual(Call(CallCode::kStartVirtualProcessor, start), HvStatus::kSuccess,
             "HvCallStartVirtualProcessor: the second");
  Check(WaitUntil([] { return ap_started != 0; }), "HvCallStartVirtualProcessor: it runs");
  CheckEqual<uint64_t>(ap_vp_index, 1, "MSR VP_INDEX: 1 on the second processor");
  CheckEqual(Call(CallCode::kStartVirtualProcessor, start), HvStatus::kInvalidVpState,
             "HvCallStartVirtualProcessor: not twice");

  uint64_t capabilities = 1;
  const CallResult query =
      Call(Control{Word(CallCode::kQueryCapabilities)}, &input, 8, &capabilities, sizeof(capabilities));
  Check(query.status == HvStatus::kSuccess && (capabilities & ~hvdef::kCapabilityColdDiscardHint) == 0,
        "HvExtCallQueryCapabilities: nothing but hints of cold memory");
  CheckEqual(Raw(Word(CallCode::kQueryCapabilities), 0, output.gpa() + 4), HvStatus::kInvalidAlignment,
             "HvExtCallQueryCapabilities: output that is not aligned");
}

}  // namespace

void TestHypercalls() {
  TestConvention();
  TestFlush();
  TestInterruptCalls();
  TestRetarget();
  TestRegisterCalls();
  TestMessageCalls();
  TestProcessorCalls();
}

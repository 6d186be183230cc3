// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/system_oracle/scenario_machine.h"

#include <cstring>

#include "tests/backend/register_values.h"

namespace hvsdk::oracle {
namespace {

using backend::SegmentValue;
using backend::TableValue;
using hvdef::RegisterName;
using hvdef::RegisterValue;

constexpr uint64_t kPresent = 1, kWritable = 2, kUser = 4, kAccessed = 32, kLargePage = 128, kGlobal = 256,
                   kNoExecute = uint64_t{1} << 63;

// A segment descriptor: `access` is its sixth byte, `size` the upper half of its seventh.
constexpr uint64_t SegmentDescriptor(uint64_t base, uint64_t limit, uint8_t access, uint8_t size) {
  return (limit & 0xFFFF) | (base & 0xFFFFFF) << 16 | uint64_t{access} << 40 | (limit >> 16 & 15) << 48 |
         uint64_t{size} << 52 | (base >> 24 & 0xFF) << 56;
}
constexpr uint64_t Flat(uint8_t access, uint8_t size) { return SegmentDescriptor(0, 0xFFFFF, access, size); }
constexpr uint64_t Gate(uint16_t selector, uint64_t offset, uint8_t access, uint8_t low = 0) {
  return (offset & 0xFFFF) | uint64_t{selector} << 16 | uint64_t{low} << 32 | uint64_t{access} << 40 |
         (offset >> 16 & 0xFFFF) << 48;
}

void Descriptor(Scenario& s, int index, uint64_t value) { Put(s, kGdtBase + index * 8u, value); }

// Anything but a task state segment or a task gate, which the processor does not have outside long mode.
uint64_t RandomDescriptor(Random& random) {
  uint8_t access = static_cast<uint8_t>(random());
  if (!random.OneIn(3)) access |= 0x80;
  const int type = access & 0x1F;
  if (type == 1 || type == 3 || type == 5 || type == 9 || type == 11) access |= 0x10;
  return SegmentDescriptor(random.Of<uint64_t>({0, 0, kSegmentBase16, 0x14000}),
                           random.Of<uint64_t>({0xFFFFF, 0xFFFFF, 0xFFFF, 0x17FFF, 0x0F}), access,
                           static_cast<uint8_t>(random() & 15));
}

void BuildGdt(Random& random, Scenario& s) {
  const bool accessed = random.OneIn(2);
  const uint8_t a = accessed ? 1 : 0;
  Descriptor(s, kCode32, Flat(0x9A | a, 0xC));
  Descriptor(s, kData32, Flat(0x92 | a, 0xC));
  Descriptor(s, kCode64, Flat(0x9A | a, 0xA));
  Descriptor(s, kCode16, SegmentDescriptor(kSegmentBase16, 0xFFFF, 0x9A | a, 0));
  Descriptor(s, kData16, SegmentDescriptor(kSegmentBase16, 0xFFFF, 0x92 | a, 0));
  for (const int index : {kUserCode32, kFastUserCode32}) Descriptor(s, index, Flat(0xFA | a, 0xC));
  for (const int index : {kUserData32, kFastUserData, kFastUserData64}) Descriptor(s, index, Flat(0xF2 | a, 0xC));
  for (const int index : {kUserCode64, kFastUserCode64}) Descriptor(s, index, Flat(0xFA | a, 0xA));
  Descriptor(s, kFastCode, Flat(0x9B, 0xA));
  Descriptor(s, kFastData, Flat(0x93, 0xC));
  Descriptor(s, kConforming32, Flat(0x9E, 0xC));
  Descriptor(s, kConforming64, Flat(0x9E, 0xA));
  Descriptor(s, kUserConforming, Flat(0xFE, 0xC));
  Descriptor(s, kExecuteOnly, Flat(0x98, 0xC));
  Descriptor(s, kReadOnly, Flat(0x90, 0xC));
  Descriptor(s, kExpandDown, SegmentDescriptor(0, 0x14, 0x96, 0xC));
  Descriptor(s, kAbsentCode, Flat(0x1A, 0xC));
  Descriptor(s, kAbsentData, Flat(0x12, 0xC));
  Descriptor(s, kAbsentCode64, Flat(0x1A, 0xA));
  Descriptor(s, kSmallData, SegmentDescriptor(0x14000, 0x1F, 0x92, 0x4));
  Descriptor(s, kCodeRing1, Flat(0xBA, 0xC));
  Descriptor(s, kDataRing1, Flat(0xB2, 0xC));
  Descriptor(s, kCodeRing2, Flat(0xDA, 0xC));
  Descriptor(s, kDataRing2, Flat(0xD2, 0xC));
  Descriptor(s, kBothSizes, Flat(0x9A, 0xE));
  Descriptor(s, kSystemZero, SegmentDescriptor(0, 0xFFFF, 0x80, 0));
  Descriptor(s, kInterruptGateInGdt, Gate(kCode32 * 8, kFragments, 0x8E));
  // Task state segments; the 64-bit kinds and gates take two entries.
  Descriptor(s, kFreeTss32, SegmentDescriptor(kTss32, kTssLimit, 0x89, 0));
  Descriptor(s, kBusyTss32, SegmentDescriptor(kTss32, kTssLimit, 0x8B, 0));
  Descriptor(s, kFreeTss64, SegmentDescriptor(kTss64, kTssLimit, 0xE9, 0));
  Descriptor(s, kBusyTss64, SegmentDescriptor(kTss64, kTssLimit, 0x8B, 0));
  Descriptor(s, kLdt, SegmentDescriptor(kLdtBase, 0x7F, 0x82, 0));
  for (int index = kRandomFirst; index <= kRandomLast; ++index) Descriptor(s, index, RandomDescriptor(random));
  for (int index = 0; index < 16; ++index) {
    Put(s, kLdtBase + index * 8u,
        index < 8 ? Flat(random.Of<uint8_t>({0x9B, 0x93, 0xFB, 0xF3, 0xF2, 0x92}), random.Of<uint8_t>({0xC, 0xC, 0xA}))
                  : RandomDescriptor(random));
  }
}

// A selector that no stack segment of ring 0 may have.
uint16_t UnfitStack(Random& random) {
  return static_cast<uint16_t>(
      random.Of<uint16_t>({kAbsentData, kReadOnly, kCode32, kUserData32, kLdt, kDescriptors + 1, kZero, 0}) * 8 |
      random.Of<uint16_t>({0, 0, 3}));
}

void BuildTaskSegments(Random& random, const SystemFeatures& features, Scenario& s) {
  Put<uint32_t>(s, kTss32 + 4, kStack0);
  Put<uint16_t>(s, kTss32 + 8, kData32 * 8);
  Put<uint32_t>(s, kTss32 + 12, kStack1);
  Put<uint16_t>(s, kTss32 + 16, kDataRing1 * 8 | 1);
  Put<uint32_t>(s, kTss32 + 20, kStack1 - 0x400);
  Put<uint16_t>(s, kTss32 + 24, kDataRing2 * 8 | 2);
  for (int ring = 0; ring < 3; ++ring) Put<uint64_t>(s, kTss64 + 4 + 8u * ring, ring == 0 ? kStack0 : kStack1);
  for (int ist = 0; ist < 7; ++ist) Put<uint64_t>(s, kTss64 + 0x24 + 8u * ist, kIstStack - 0x100u * ist);
  // Here and there a stack that does not do.
  if (random.OneIn(8)) Put<uint16_t>(s, kTss32 + 8, UnfitStack(random));
  if (random.OneIn(8))
    Put<uint64_t>(
        s, kTss64 + 4,
        random.Of<uint64_t>({features.qemu ? kStack1 : 0x800000000000, kOddPages + 0x800, kStack0 - 3, 0x400000}));
  if (random.OneIn(16))
    Put<uint64_t>(s, kTss64 + 0x24,
                  random.Of<uint64_t>({features.qemu ? kStack1 : 0x8000000000000000, kOddPages + 0x1800}));
  for (const uint64_t tss : {kTss32, kTss64}) {
    Put<uint16_t>(s, tss + 0x66, random.OneIn(4) ? static_cast<uint16_t>(kTssLimit + 1) : 0x68);
    for (uint64_t at = 0; at < 129; at += 1)
      Put<uint8_t>(s, tss + 0x68 + at, random.OneIn(2) ? 0 : static_cast<uint8_t>(random()));
  }
}

void BuildPageTables(Random& random, Scenario& s) {
  constexpr uint64_t kTable = kPresent | kWritable | kUser;
  Put(s, kPml4Table, kPdptTable | kTable);
  Put(s, kPdptTable, kPdTable | kTable);
  Put(s, kPaePdpt, kPdTable | kPresent);
  Put(s, kPdTable, kPtTable | kTable);
  Put(s, kPdTable + 8, 0 | kTable | kLargePage | (random.OneIn(4) ? kGlobal : 0));
  Put(s, kPd32, static_cast<uint32_t>(kPt32 | kTable));
  Put(s, kPd32 + 4, static_cast<uint32_t>(0 | kTable | kLargePage));
  const bool user_code = IsUserMode(s.mode) || s.mode == StartMode::kVirtual86 || random.OneIn(4);
  const bool user_data = user_code || random.OneIn(3);
  for (uint64_t page = 0; page < kSystemMemory >> 12; ++page) {
    const uint64_t address = page << 12;
    uint64_t bits = kPresent | kWritable;
    if (random.OneIn(2)) bits |= kAccessed;
    if (random.OneIn(8)) bits |= kGlobal;
    if (address >= kFragments && address < kOperands && user_code) bits |= kUser;
    if (address >= kOperands && address < kStack0 - 0x800 && user_data) bits |= kUser;
    if (address == (kStack3 & ~uint64_t{0xFFF})) bits |= kUser;
    uint64_t extra = 0;
    if (address >= kOddPages && address < kOddPages + 0x4000) {
      bits = random() & (kPresent | kWritable | kUser | kAccessed | kGlobal);
      if (!random.OneIn(4)) bits |= kPresent;
      if (random.OneIn(2)) extra = kNoExecute;
      if (random.OneIn(8)) extra |= uint64_t{1} << 45;  // beyond any physical address: reserved
    }
    Put(s, kPtTable + page * 8, address | bits | extra);
    Put(s, kPt32 + page * 4, static_cast<uint32_t>(address | bits));
  }
}

uint8_t PortOf(int vector) {
  if (vector < 32) return static_cast<uint8_t>(kExceptionPort + vector);
  if (vector >= 0x30 && vector < 0x40) return static_cast<uint8_t>(kInterruptPort + vector - 0x30);
  return kOtherPort;
}

void BuildInterruptTables(Random& random, const SystemFeatures& features, Scenario& s) {
  for (int vector = 0; vector < 256; ++vector) {
    const uint64_t stub = kSystemStubs + 4u * vector;
    const uint8_t code[] = {0xE6, PortOf(vector), 0xF4, 0x90};
    std::memcpy(s.memory.data() + stub, code, sizeof(code));
    Put<uint32_t>(s, vector * 4u, static_cast<uint32_t>(0x0C00 << 16 | (stub - 0xC000)));
    const uint8_t access = vector == 3 || vector == 4 || vector >= 32 ? 0xEE : 0x8E;
    Put(s, kIdt32 + 8u * vector, Gate(kCode32 * 8, stub, access));
    Put(s, kIdt64 + 16u * vector, Gate(kCode64 * 8, stub, access));
  }
  // Some gates are of another kind, or wrong.
  const int changes = static_cast<int>(random.Below(6));
  for (int i = 0; i < changes; ++i) {
    const auto vector =
        random.Of<uint32_t>({0, 1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 13, 14, 14, 0x30, 0x31, 0x32, 0x33, 0x34});
    const uint64_t stub = kSystemStubs + 4u * vector;
    uint8_t access = random.Of<uint8_t>({0x8E, 0x8F, 0xEE, 0xEF, 0x86, 0xE7, 0x0E, 0x8C, 0x80, 0x9E, 0xCE});
    const auto index =
        random.Of<uint16_t>({kCode32, kCode64, kCode16, kUserCode32, kUserCode64, kConforming32, kConforming64,
                             kAbsentCode, kData32, kCodeRing1, kZero, kBothSizes, 0, kDescriptors + 3, kFastCode});
    const auto selector = static_cast<uint16_t>(index * 8 | (random.OneIn(4) ? random.Below(4) : 0));
    auto ist = static_cast<uint8_t>(random.OneIn(2) ? random.Below(8) : 0);
    if (features.qemu && !IsUserMode(s.mode)) ist = 0;
    const bool outer = index == kUserCode32 || index == kUserCode64 || index == kConforming32 ||
                       index == kConforming64 || index == kCodeRing1;
    if (features.qemu && outer) continue;
    Put(s, kIdt32 + 8u * vector, Gate(random.OneIn(3) ? selector : kCode32 * 8, stub, access));
    Put(s, kIdt64 + 16u * vector, Gate(random.OneIn(3) ? selector : kCode64 * 8, stub, access, ist));
    if (!features.qemu && random.OneIn(8)) Put<uint64_t>(s, kIdt64 + 16u * vector + 8, 0x8000);  // not canonical
  }
}

// As if the selector had been loaded.
RegisterValue Loaded(const Scenario& s, int index, int rpl) {
  const auto raw = Peek<uint64_t>(s, kGdtBase + index * 8u);
  const auto attributes = static_cast<uint16_t>((raw >> 40 & 0xFF) | (raw >> 52 & 15) << 12 | 1);
  auto limit = static_cast<uint32_t>((raw & 0xFFFF) | (raw >> 48 & 15) << 16);
  if (attributes & 0x8000) limit = limit << 12 | 0xFFF;
  return SegmentValue((raw >> 16 & 0xFFFFFF) | (raw >> 56) << 24, limit, static_cast<uint16_t>(index * 8 | rpl),
                      attributes);
}

}  // namespace

int StartBits(StartMode mode) {
  switch (mode) {
    case StartMode::kReal:
    case StartMode::kProtected16:
    case StartMode::kVirtual86:
      return 16;
    case StartMode::kLong:
    case StartMode::kLongUser:
      return 64;
    default:
      return 32;
  }
}

void BuildTables(Random& random, const SystemFeatures& features, Scenario& s) {
  // Nothing falls through memory that nobody wrote: there is a breakpoint.
  s.memory.assign(kSystemMemory, 0xCC);
  std::memset(s.memory.data(), 0, kFragments);
  BuildGdt(random, s);
  BuildTaskSegments(random, features, s);
  BuildPageTables(random, s);
  BuildInterruptTables(random, features, s);
}

void BuildStartState(Random& random, const SystemFeatures& features, Scenario& s) {
  SystemState& state = s.start;
  const StartMode mode = s.mode;
  const bool user = IsUserMode(mode), vm86 = mode == StartMode::kVirtual86, real = mode == StartMode::kReal;
  const bool long_mode = IsLongMode(mode);
  const auto set = [&](RegisterName name, uint64_t value) { state[name] = {value, 0}; };
  const bool paged = long_mode || mode == StartMode::kPaged32 || mode == StartMode::kPaged32User ||
                     mode == StartMode::kPae || mode == StartMode::kPaeUser || (vm86 && random.OneIn(2));
  const bool pae = long_mode || mode == StartMode::kPae || mode == StartMode::kPaeUser;

  uint64_t cr0 = 0x30;  // NE, ET
  if (!real) cr0 |= 1;
  if (paged) cr0 |= 0x80000000;
  if (random.OneIn(2)) cr0 |= 0x10000;  // WP
  if (random.OneIn(2)) cr0 |= 2;        // MP
  if (random.OneIn(6)) cr0 |= 8;        // TS
  if (random.OneIn(12)) cr0 |= 4;       // EM
  if (features.qemu && (cr0 & 4)) cr0 &= ~uint64_t{8};
  if (!features.qemu && random.OneIn(4)) cr0 |= 0x40000;  // AM
  uint64_t cr4 = 0x10 | (pae ? 0x20 : 0);                 // PSE
  if (random.OneIn(2)) cr4 |= 0x80;
  if (random.OneIn(2)) cr4 |= 0x600;
  if (random.OneIn(2)) cr4 |= 8;
  if (paged && features.smep && random.OneIn(3)) cr4 |= 1 << 20;
  if (paged && features.smap && !(features.qemu && (user || vm86)) && random.OneIn(3)) cr4 |= 1 << 21;
  if (features.fsgsbase && random.OneIn(2)) cr4 |= 1 << 16;
  if (features.umip && random.OneIn(4)) cr4 |= 1 << 11;
  uint64_t efer = long_mode ? 0x500 : 0;
  if (random.OneIn(2)) efer |= 1;
  if (random.OneIn(2)) efer |= 0x800;
  set(RegisterName::kCr0, cr0);
  set(RegisterName::kCr2, 0);
  set(RegisterName::kCr3, long_mode ? kPml4Table : pae ? kPaePdpt : kPd32);
  set(RegisterName::kCr4, cr4);
  set(RegisterName::kEfer, efer);

  for (int i = 0; i < 16; ++i) {
    uint64_t value = random.OneIn(2) ? random.Below(256) : kOperands + random.Below(0x3000);
    if (random.OneIn(8)) value = random();
    if (!long_mode) value &= 0xFFFFFFFF;
    if (StartBits(mode) == 32 && i >= 8) value = 0;
    state.values[StateIndex(RegisterName::kRax) + i] = {value, 0};
  }
  const uint64_t stack = user ? kStack3 : kStack0;
  set(RegisterName::kRsp, StartBits(mode) == 16 ? stack - kSegmentBase16 : stack);
  if (vm86) set(RegisterName::kRsp, kStack3 - kSegmentBase16);
  set(RegisterName::kRip, StartBits(mode) == 16 ? kFragments - kSegmentBase16 : kFragments);
  uint64_t flags = 2 | (random() & 0x8C5) | (random.OneIn(4) ? 0x200 : 0) | random.Below(4) << 12;
  if (random.OneIn(12)) flags |= 0x4000;  // NT
  if (random.OneIn(6)) flags |= 0x40000;  // AC
  if (vm86) flags |= 0x20000;
  set(RegisterName::kRflags, flags);

  const int rpl = user ? 3 : 0;
  int code = 0, data = user ? kUserData32 : kData32;
  switch (mode) {
    case StartMode::kProtected16:
      code = kCode16;
      data = kData16;
      break;
    case StartMode::kLong:
      code = kCode64;
      break;
    case StartMode::kLongUser:
      code = kUserCode64;
      break;
    default:
      code = user ? kUserCode32 : kCode32;
  }
  for (const RegisterName name :
       {RegisterName::kEs, RegisterName::kSs, RegisterName::kDs, RegisterName::kFs, RegisterName::kGs}) {
    state[name] = real || vm86 ? SegmentValue(kSegmentBase16, 0xFFFF, kSegmentBase16 >> 4, vm86 ? 0xF3 : 0x93)
                               : Loaded(s, data, rpl);
  }
  state[RegisterName::kCs] = real || vm86
                                 ? SegmentValue(kSegmentBase16, 0xFFFF, kSegmentBase16 >> 4, vm86 ? 0xF3 : 0x9B)
                                 : Loaded(s, code, rpl);
  state[RegisterName::kTr] = long_mode ? SegmentValue(kTss64, kTssLimit, kBusyTss64 * 8, 0x8B)
                                       : SegmentValue(kTss32, kTssLimit, kBusyTss32 * 8, 0x8B);
  state[RegisterName::kLdtr] = SegmentValue(kLdtBase, 0x7F, kLdt * 8, 0x82);
  state[RegisterName::kGdtr] = TableValue(kGdtBase, kGdtLimit);
  state[RegisterName::kIdtr] = real        ? TableValue(0, 0x3FF)
                               : long_mode ? TableValue(kIdt64, 0xFFF)
                                           : TableValue(kIdt32, 0x7FF);

  for (const RegisterName name : {RegisterName::kDr0, RegisterName::kDr1, RegisterName::kDr2, RegisterName::kDr3}) {
    set(name, kOperands + random.Below(64));
  }
  set(RegisterName::kDr6, 0xFFFF0FF0);
  set(RegisterName::kDr7, 0x400);
  set(RegisterName::kKernelGsBase, random.OneIn(2) ? kOperands + 0x1000 : 0xFFFF800000001000);
  set(RegisterName::kSysenterCs, random.OneIn(8) ? 0 : kFastCode * 8);
  set(RegisterName::kSysenterEsp, kStack0);
  set(RegisterName::kSysenterEip, kFragments);
  set(RegisterName::kStar, uint64_t{kFastCode * 8} << 32 | uint64_t{kUserCode32 * 8 | 3} << 48 | kFragments);
  set(RegisterName::kLstar, kFragments);
  set(RegisterName::kCstar, kFragments);
  set(RegisterName::kSfmask, random.OneIn(2) ? 0x47700 : random() & 0x3F7FD5);
  set(RegisterName::kPat, 0x0007040600070406);
}

void MakeRealModeState(SystemState& state) {
  state[RegisterName::kCr0] = {0x30, 0};
  state[RegisterName::kRflags] = {2, 0};
  state[RegisterName::kDr6] = {0xFFFF0FF0, 0};
  state[RegisterName::kDr7] = {0x400, 0};
  state[RegisterName::kPat] = {0x0007040600070406, 0};
  for (const RegisterName name :
       {RegisterName::kEs, RegisterName::kSs, RegisterName::kDs, RegisterName::kFs, RegisterName::kGs}) {
    state[name] = SegmentValue(kSegmentBase16, 0xFFFF, kSegmentBase16 >> 4, 0x93);
  }
  state[RegisterName::kCs] = SegmentValue(kSegmentBase16, 0xFFFF, kSegmentBase16 >> 4, 0x9B);
  state[RegisterName::kTr] = SegmentValue(0, 0xFFFF, 0, 0x8B);
  state[RegisterName::kLdtr] = SegmentValue(0, 0xFFFF, 0, 0x82);
  state[RegisterName::kGdtr] = TableValue(0, 0xFFFF);
  state[RegisterName::kIdtr] = TableValue(0, 0x3FF);
}

void MakeScenario(uint64_t seed, const SystemFeatures& features, Scenario& scenario) {
  Random random(seed * 0x9E3779B97F4A7C15);
  for (int i = 0; i < 4; ++i) random();
  scenario.mode = static_cast<StartMode>(random.Below(static_cast<uint64_t>(StartMode::kModes)));
  scenario.listing.clear();
  scenario.uses_lar = false;
  BuildTables(random, features, scenario);
  BuildStartState(random, features, scenario);
  BuildCode(random, features, scenario);
}

}  // namespace hvsdk::oracle

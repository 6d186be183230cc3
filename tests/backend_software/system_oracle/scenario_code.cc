// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "tests/backend_software/system_oracle/emitter.h"
#include "tests/backend_software/system_oracle/scenario_machine.h"

namespace hvsdk::oracle {
namespace {

constexpr int kHandlers = 4;                               // interrupts 0x20 to 0x23
constexpr int kFirstHandler = kFragmentCount - kHandlers;  // fragments

// What the code of a fragment takes itself to run in.
struct Mode {
  int bits;
  bool is_long, is_protected, is_vm86;
  int ring;
};

class CodeBuilder {
 public:
  CodeBuilder(Random& random, const SystemFeatures& features, Scenario& scenario)
      : random_(random), features_(features), s_(scenario) {}

  void Build() {
    const StartMode start = s_.mode;
    mode_ = {StartBits(start), IsLongMode(start), start != StartMode::kReal, start == StartMode::kVirtual86,
             IsUserMode(start) ? 3 : 0};
    if (mode_.is_vm86) mode_.ring = 3;
    const Mode first = mode_;
    for (int i = 0; i < kHandlers; ++i) BuildHandler(i);
    mode_ = first;
    for (int fragment = 0; fragment < kFirstHandler && next_ == fragment; ++fragment) BuildFragment(fragment);
  }

 private:
  uint64_t FragmentAddress(int fragment) const { return kFragments + static_cast<uint64_t>(fragment) * kFragmentSize; }
  Emitter At(int fragment) {
    uint8_t* begin = s_.memory.data() + FragmentAddress(fragment);
    return Emitter(begin, begin + kFragmentSize, FragmentAddress(fragment), mode_.bits);
  }
  template <typename... T>
  void Note(const absl::FormatSpec<T...>& format, const T&... values) {
    s_.listing.push_back(absl::StrFormat(format, values...));
  }
  // Memory for an operand, written with `size` bytes of `value`.
  uint64_t Operand(uint64_t value, int size) {
    const uint64_t at = operands_;
    operands_ += 16;
    std::memcpy(s_.memory.data() + at, &value, size);
    return at;
  }

  void BuildHandler(int i) {
    const int fragment = kFirstHandler + i;
    mode_.bits = mode_.is_vm86 ? 32 : s_.mode == StartMode::kReal ? 16 : IsLongMode(s_.mode) ? 64 : 32;
    mode_.ring = 0;
    Emitter e = At(fragment);
    Note("%05x: handler of interrupt %#x, %d bits", e.address(), 0x20 + i, mode_.bits);
    const uint64_t target = FragmentAddress(fragment);
    const uint32_t vector = 0x20u + i;
    const auto gate = [&](uint64_t selector, uint64_t access) {
      return (target & 0xFFFF) | selector << 16 | access << 40 | (target >> 16) << 48;
    };
    Put<uint32_t>(s_, vector * 4, static_cast<uint32_t>((kSegmentBase16 >> 4) << 16 | (target - kSegmentBase16)));
    const bool conforming = random_.OneIn(4) && !(features_.qemu && (IsUserMode(s_.mode) || mode_.is_vm86));
    Put(s_, kIdt32 + vector * 8,
        gate(conforming ? kConforming32 * 8 : kCode32 * 8, random_.Of<uint64_t>({0xEE, 0xEF})));
    Put(s_, kIdt64 + vector * 16,
        gate(conforming ? kConforming64 * 8 : kCode64 * 8, random_.Of<uint64_t>({0xEE, 0xEF})));
    if (features_.qemu && mode_.bits == 32) {  // as in Settle
      e.MovImm(kAx, kData32 * 8);
      e.Bytes({0x8E, 0xD8});
    }
    if (random_.OneIn(2)) Simple(e);
    if (mode_.bits != 16) e.Wide(true);  // real mode pushes words
    e.Byte(0xCF);
    mode_.is_vm86 = s_.mode == StartMode::kVirtual86;
  }

  void BuildFragment(int fragment) {
    ++next_;
    Emitter e = At(fragment);
    Note("%05x: fragment %d, %d bits, ring %d", e.address(), fragment, mode_.bits, mode_.ring);
    if (features_.qemu) Settle(e, fragment);
    const int steps = 1 + static_cast<int>(random_.Below(4));
    for (int i = 0; i < steps && !e.full(); ++i) Simple(e);
    // Up to four transfers a scenario; the one to a fragment that does not exist finds a breakpoint.
    if (fragment < 4 && random_.OneIn(2) && !e.full()) {
      leads_on_ = true;
      Transfer(e);
    }
    e.End();
    if (!leads_on_) next_ = kFirstHandler;
    leads_on_ = false;
  }

  // Puts right what QEMU does not see or does otherwise: data segments that a return to an outer ring made null, and
  // arithmetic flags, which its SYSCALL clears.
  void Settle(Emitter& e, int fragment) {
    if (fragment > 0) ReloadData(e);
    e.Bytes({0x39, 0xC0});  // cmp eax, eax
  }
  void ReloadData(Emitter& e) {
    if (mode_.bits != 64 && mode_.is_protected && !mode_.is_vm86) {
      const uint16_t flat = mode_.bits == 16 && mode_.ring == 0 ? kData16
                            : mode_.ring == 3                   ? kUserData32
                            : mode_.ring == 2                   ? kDataRing2
                            : mode_.ring == 1                   ? kDataRing1
                                                                : kData32;
      e.MovImm(kAx, static_cast<uint64_t>(flat * 8 | mode_.ring));
      e.Bytes({0x8E, 0xD8});
    }
  }

  // ---- steps that go on behind themselves ----

  void Simple(Emitter& e) {
    switch (random_.Below(24)) {
      case 0:
      case 1:
        return LoadSegment(e);
      case 2:
        return LoadFarPointer(e);
      case 3:
        return LookAtSelector(e);
      case 4:
        return StoreTable(e);
      case 5:
        return LoadTable(e);
      case 6:
        return LoadSystemSegment(e);
      case 7:
        return ReadControl(e);
      case 8:
      case 9:
        return ToggleControl(e);
      case 10:
        return DebugRegister(e);
      case 11:
      case 12:
        return Msr(e);
      case 13:
      case 14:
        return Flags(e);
      case 15:
      case 16:
      case 17:
        return Memory(e);
      case 18:
        return ChangePage(e);
      case 19:
        return Port(e);
      case 20:
        return SegmentBase(e);
      case 21:
        return FloatingPoint(e);
      case 22:
        return Interrupt(e);
      default:
        return Odd(e);
    }
  }

  uint16_t AnySelector() {
    uint16_t index;
    if (random_.OneIn(2)) {
      const bool user = mode_.ring == 3;
      index = static_cast<uint16_t>(user ? kUserData32 : kData32);
    } else {
      index = static_cast<uint16_t>(random_.Below(kDescriptors + 2));
    }
    if (random_.OneIn(8)) return static_cast<uint16_t>(random_.Below(18) << 3 | 4 | random_.Below(4));
    if (random_.OneIn(12)) return static_cast<uint16_t>(random_.Below(4));
    return static_cast<uint16_t>(index * 8 | (random_.OneIn(2) ? static_cast<uint64_t>(mode_.ring) : random_.Below(4)));
  }

  // In real mode any selector is fine, but code goes on with its data where it was.
  uint16_t SegmentSelector() {
    if (!mode_.is_protected || mode_.is_vm86)
      return random_.OneIn(2) ? kSegmentBase16 >> 4 : static_cast<uint16_t>(random_.Below(0x1800));
    return AnySelector();
  }

  // For a segment that memory is reached by: a flat one, or one that cannot be loaded.
  uint16_t UsableSelector() {
    if (!features_.qemu) return SegmentSelector();
    if (!mode_.is_protected || mode_.is_vm86) return kSegmentBase16 >> 4;
    const uint16_t flat = mode_.ring == 3   ? kUserData32
                          : mode_.ring == 2 ? kDataRing2
                          : mode_.ring == 1 ? kDataRing1
                                            : kData32;
    const uint16_t index = random_.OneIn(2)
                               ? flat
                               : random_.Of<uint16_t>({kAbsentData, kExecuteOnly, kLdt, kZero, kDescriptors + 1,
                                                       kData32, kUserData32, kInterruptGateInGdt});
    return static_cast<uint16_t>(index * 8 | (random_.OneIn(3) ? random_.Below(4) : static_cast<uint64_t>(mode_.ring)));
  }

  void LoadSegment(Emitter& e) {
    const int segment = random_.Of<int>({0, 2, 3, 4, 5, 0, 3, 4, 5, 1});
    if (segment == 1 && !random_.OneIn(4)) return;
    const uint16_t selector = segment == 2 || segment == 3 ? UsableSelector() : SegmentSelector();
    if (segment != 1 && random_.OneIn(3)) {
      Note("%05x: pop segment %d of %04x", e.address(), segment, selector);
      e.Push(selector);
      const bool extended = segment >= 4;
      e.Wide();
      if (extended) e.Byte(0x0F);
      e.Byte(extended ? (segment == 4 ? 0xA1 : 0xA9) : 0x07 + 8 * segment);
      return;
    }
    Note("%05x: mov segment %d, %04x", e.address(), segment, selector);
    e.MovImm(kAx, selector);
    e.Byte(0x8E);
    e.Register(segment, kAx);
  }

  void LoadFarPointer(Emitter& e) {
    const uint8_t opcode = features_.qemu ? random_.Of<uint8_t>({0xB4, 0xB5}) : random_.Of<uint8_t>({0xB2, 0xB4, 0xB5});
    const uint16_t selector = opcode == 0xB2 ? UsableSelector() : SegmentSelector();
    const uint64_t at = Operand(random_() & 0xFFFFF, 4);
    Put(s_, at + 4, selector);
    Note("%05x: load far pointer %02x, %04x", e.address(), opcode, selector);
    e.Wide();
    e.Bytes({0x0F, opcode});
    e.Memory(kDi, at);
  }

  void LookAtSelector(Emitter& e) {
    const uint16_t selector = AnySelector();
    const int which = static_cast<int>(random_.Below(5));
    Note("%05x: lar/lsl/verr/verw/arpl %d of %04x", e.address(), which, selector);
    e.MovImm(kAx, selector);
    switch (which) {
      case 0:
      case 1:
        s_.uses_lar |= which == 0;
        e.Wide(random_.OneIn(2));
        e.Bytes({0x0F, static_cast<uint8_t>(0x02 + which)});
        e.Register(kCx, kAx);
        break;
      case 2:
      case 3:
        e.Bytes({0x0F, 0x00});
        e.Register(which + 2, kAx);
        break;
      default:
        if (mode_.bits == 64) return;
        e.Byte(0x63);
        e.Register(kCx, kAx);
    }
  }

  void StoreTable(Emitter& e) {
    const int which = static_cast<int>(random_.Below(5));
    Note("%05x: sgdt/sidt/smsw/sldt/str %d", e.address(), which);
    if (which < 2) {
      const uint64_t at = Operand(0, 8);
      e.Bytes({0x0F, 0x01});
      e.Memory(which, at);
      return;
    }
    e.Wide(random_.OneIn(2));
    e.Bytes({0x0F, static_cast<uint8_t>(which == 2 ? 0x01 : 0x00)});
    e.Register(which == 2 ? 4 : which - 3, kBx);
  }

  void LoadTable(Emitter& e) {
    const bool gdt = random_.OneIn(2);
    uint64_t base = gdt ? kGdtBase : mode_.is_long ? kIdt64 : mode_.is_protected ? kIdt32 : 0;
    uint64_t limit = gdt ? random_.Of<uint64_t>({kGdtLimit, kGdtLimit, 0xFFFF, 0x47, 0x2F})
                         : random_.Of<uint64_t>({0xFFF, 0x7FF, 0x3FF, 0x6B, 0xDF});
    if (mode_.bits == 64 && !features_.qemu && random_.OneIn(6)) base |= 0x8000000000000000;
    const uint64_t at = Operand(limit | base << 16, 8);
    Put<uint16_t>(s_, at + 8, static_cast<uint16_t>(base >> 48));
    Note("%05x: %s %x+%x", e.address(), gdt ? "lgdt" : "lidt", base, limit);
    if (mode_.bits == 16 && random_.OneIn(2)) e.Wide();
    e.Bytes({0x0F, 0x01});
    e.Memory(gdt ? 2 : 3, at);
  }

  void LoadSystemSegment(Emitter& e) {
    const bool task = random_.OneIn(2);
    uint16_t index = task ? (mode_.is_long ? kFreeTss64 : kFreeTss32) : kLdt;
    if (random_.OneIn(3)) index = static_cast<uint16_t>(random_.Below(kDescriptors));
    const auto selector =
        static_cast<uint16_t>(random_.OneIn(12) ? random_.Below(8) : index * 8 | (random_.OneIn(4) ? 3 : 0));
    if (features_.qemu && task && (selector & ~3) == 0) return;
    Note("%05x: %s %04x", e.address(), task ? "ltr" : "lldt", selector);
    e.MovImm(kAx, selector);
    e.Bytes({0x0F, 0x00});
    e.Register(task ? 3 : 2, kAx);
  }

  void ReadControl(Emitter& e) {
    // Of a register that is none in user mode, makers differ over which fault comes first.
    const int number = mode_.ring == 0 ? random_.Of<int>({0, 2, 3, 4, 0, 4, 1, 5}) : random_.Of<int>({0, 2, 3, 4});
    Note("%05x: mov ebx, cr%d", e.address(), number);
    e.Bytes({0x0F, 0x20});
    e.Register(number, kBx);
  }

  // With both EM and TS set, #UD comes before #NM (SDM volume 3, table 13-1), in QEMU behind it: a scenario has one of
  // the two.
  uint64_t OtherUnitBit() const {
    if (!features_.qemu) return 0;
    return (s_.start[hvdef::RegisterName::kCr0].low & 4) != 0 ? 8 : 4;
  }

  bool PointersAccessed() const {
    return features_.qemu && (s_.mode == StartMode::kPae || s_.mode == StartMode::kPaeUser);
  }

  void ToggleControl(Emitter& e) {
    switch (random_.Below(8)) {
      case 0:
      case 1:
      case 2: {
        uint64_t mask = random_.Of<uint64_t>({1, 0x80000000, 0x10000, 8, 4, 2, 0x20, features_.qemu ? 2u : 0x40000u,
                                              0x40000000, 0x20000000, 0x60000000, 0x10, 0x1000, 0x100000, 0x80000001});
        // QEMU's accessed bits in page-directory-pointer entries are reserved bits to KVM, which looks at them when
        // these change.
        if (PointersAccessed() && (mask & 0xE0000000)) mask = 0x10000;
        if (features_.qemu && (mask & 1)) mask = 0x10000;
        mask &= ~OtherUnitBit();
        Note("%05x: cr0 ^= %x", e.address(), mask);
        e.Bytes({0x0F, 0x20, 0xC0});  // mov eax, cr0
        Xor(e, mask);
        e.Bytes({0x0F, 0x22, 0xC0});
        return;
      }
      case 3:
      case 4: {
        uint64_t mask = random_.Of<uint64_t>({4, 8, 0x10, 0x20, 0x80, 0x200, 0x400, 0x8000, 0x2000000, 0x40000000});
        // Without hardware's help KVM skips the instruction by reading it again, which SMEP may forbid from then on.
        if (features_.smep && !features_.qemu && random_.OneIn(4)) mask = 1 << 20;
        if (features_.smap && !features_.qemu && random_.OneIn(4)) mask = 1 << 21;
        if (features_.fsgsbase && random_.OneIn(6)) mask = 1 << 16;
        if (PointersAccessed() && (mask & 0xB0)) mask = 8;
        Note("%05x: cr4 ^= %x", e.address(), mask);
        e.Bytes({0x0F, 0x20, 0xE0});
        Xor(e, mask);
        e.Bytes({0x0F, 0x22, 0xE0});
        return;
      }
      case 5: {
        const uint64_t mask = mode_.bits == 64 && random_.OneIn(3) ? uint64_t{1} << random_.Of<int>({45, 51, 52, 62})
                                                                   : random_.Of<uint64_t>({8, 0x10, 0x18, 0});
        Note("%05x: cr3 ^= %x", e.address(), mask);
        e.Bytes({0x0F, 0x20, 0xD8});
        Xor(e, mask);
        e.Bytes({0x0F, 0x22, 0xD8});
        return;
      }
      case 6:
        Note("%05x: clts", e.address());
        e.Bytes({0x0F, 0x06});
        return;
      default: {
        const uint64_t value = (random_.Below(16) & ~OtherUnitBit()) | (mode_.is_protected ? 1 : 0);
        Note("%05x: lmsw %x", e.address(), value);
        e.MovImm(kAx, value);
        e.Bytes({0x0F, 0x01});
        e.Register(6, kAx);
      }
    }
  }
  void Xor(Emitter& e, uint64_t mask) {  // of AX, whole; the flags of both engines are the same
    if (mask >> 32 != 0) {
      e.MovImm(kCx, mask);
      e.Bytes({0x48, 0x31, 0xC8});
      return;
    }
    e.Wide();
    e.Byte(0x35);
    e.Word(mask, 4);
  }

  void DebugRegister(Emitter& e) {
    int number = static_cast<int>(random_.Below(8));
    // Of two reasons to fault, an alias that CR4.DE takes away and the ring, makers differ over the first.
    if (mode_.ring != 0 && (number == 4 || number == 5)) number += 2;
    if (random_.OneIn(2)) {
      Note("%05x: mov ebx, dr%d", e.address(), number);
      e.Bytes({0x0F, 0x21});
      e.Register(number, kBx);
      return;
    }
    uint64_t value = number < 4                   ? kOperands + random_.Below(64)
                     : number == 6 || number == 4 ? (random_() & 0xE00F) | 0xFFFF0FF0
                                                  : 0x400;
    if ((number == 7 || number == 5) && random_.OneIn(3)) value |= 0x2000;  // general detect
    if (number >= 4 && mode_.bits == 64 && random_.OneIn(6)) value |= uint64_t{1} << 40;
    Note("%05x: mov dr%d, %x", e.address(), number, value);
    e.MovImm(kAx, value);
    e.Bytes({0x0F, 0x23});
    e.Register(number, kAx);
  }

  void Msr(Emitter& e) {
    constexpr uint32_t kEfer = 0xC0000080;
    const uint32_t number = random_.Of<uint32_t>({kEfer, kEfer, 0xC0000081, 0xC0000082, 0xC0000084, 0xC0000100,
                                                  0xC0000101, 0xC0000102, 0x174, 0x175, 0x176, 0x277});
    e.MovImm(kCx, number);
    if (random_.OneIn(3)) {
      Note("%05x: rdmsr %x", e.address(), number);
      e.Bytes({0x0F, 0x32});
      return;
    }
    if (number == kEfer) {
      uint64_t mask = random_.Of<uint64_t>({1, 0x100, 0x800, 0x400, 0x200, 0x800});
      // The machine around a nested KVM has been seen to stand still after this, too.
      if (features_.qemu && !mode_.is_long && mask == 0x100) mask = 0x800;
      Note("%05x: efer ^= %x", e.address(), mask);
      e.Bytes({0x0F, 0x32});
      Xor(e, mask);
      e.Bytes({0x0F, 0x30});
      return;
    }
    uint64_t value = kOperands + random_.Below(0x1000);
    if (number == 0xC0000081) value = uint64_t{kFastCode * 8} << 32 | uint64_t{kUserCode32 * 8 | 3} << 48;
    if (number == 0xC0000082) value = FragmentAddress(next_);
    if (number == 0xC0000084) value = random_() & 0x3F7FD5;
    if (number == 0x174) value = random_.Of<uint64_t>({kFastCode * 8, 0, 3});
    if (number == 0x277)
      value = random_.Of<uint64_t>({0x0007040600070406, 0x0606060606060606, 0x0207040600070406, 0x0807040600070406});
    if (!features_.qemu && random_.OneIn(6) && number >= 0xC0000082 && number != 0xC0000084)
      value = 0x8000000000000000 | value;  // not canonical
    Note("%05x: wrmsr %x, %x", e.address(), number, value);
    e.MovImm(kAx, value & 0xFFFFFFFF);
    e.MovImm(kDx, value >> 32);
    e.Bytes({0x0F, 0x30});
  }

  uint64_t AnyFlags() {
    uint64_t flags = (random_() & 0x8D5) | 2 | random_.Below(4) << 12;
    if (random_.OneIn(2)) flags |= 0x200;
    if (random_.OneIn(4)) flags |= 0x400;
    if (random_.OneIn(8)) flags |= 0x4000;
    if (random_.OneIn(4)) flags |= 0x40000;
    if (random_.OneIn(4)) flags |= 0x200000;
    if (random_.OneIn(8)) flags |= 0x20000 | 0x10000;
    if (random_.OneIn(6) && !(features_.qemu && !mode_.is_protected)) flags |= 0x100;
    return flags;
  }

  void Flags(Emitter& e) {
    switch (random_.Below(7)) {
      case 0:
        Note("%05x: cli", e.address());
        return e.Byte(0xFA);
      case 1:
        if (features_.qemu) return;
        Note("%05x: sti", e.address());
        return e.Byte(0xFB);
      case 2:
      case 3: {
        const bool word = mode_.bits != 16 && random_.OneIn(4);
        const uint64_t flags = AnyFlags() & ~uint64_t{0x20000};
        Note("%05x: popf%s %x", e.address(), word ? " word" : "", flags);
        e.Push(flags);
        if (word) {
          e.Byte(0x66);
        } else if (mode_.bits == 16) {
          e.Wide();
        }
        return e.Byte(0x9D);
      }
      case 4:
        Note("%05x: pushf", e.address());
        return e.Byte(0x9C);
      case 5:
        Note("%05x: clac/stac", e.address());
        return e.Bytes({0x0F, 0x01, random_.Of<uint8_t>({0xCA, 0xCB})});
      default:
        Note("%05x: std/cld", e.address());
        return e.Byte(random_.Of<uint8_t>({0xFC, 0xFD}));
    }
  }

  uint64_t OddAddress() {
    uint64_t address =
        kOddPages + random_.Below(4) * 0x1000 + random_.Of<uint64_t>({0, 0x10, 0x7FC, 0xFFC, 0xFFD, 0xFFE, 0xFFF});
    if (random_.OneIn(6))
      address = random_.Of<uint64_t>({kStack3 - 0x100, kStack0 - 0x400, kOperands + 0x1003, kSystemMemory - 0x400});
    if (mode_.bits == 16) return address;
    if (random_.OneIn(5)) address = random_.Of<uint64_t>({kSystemStubs + 0x800, kTss32 + 0x700, kPtTable + 0xF00});
    const bool paged = s_.start[hvdef::RegisterName::kCr0].low >> 31 & 1;
    if (paged && random_.OneIn(5)) address += mode_.is_long ? kLarge : random_.OneIn(2) ? kLarge32 : kLarge;
    return address;
  }

  void Memory(Emitter& e) {
    uint64_t address = OddAddress();
    const uint64_t which = random_.Below(7);
    // Code runs where breakpoints are.
    if (which == 6 && address % kLarge < kFragments) address = kOddPages + random_.Below(0x4000);
    switch (which) {
      case 0:
      case 1:
        Note("%05x: mov ebx, [%x]", e.address(), address);
        e.Wide(random_.OneIn(2));
        e.Byte(0x8B);
        return e.Memory(kBx, address);
      case 2:
      case 3:
        Note("%05x: mov [%x], ebx", e.address(), address);
        e.Wide(random_.OneIn(2));
        e.Byte(0x89);
        return e.Memory(kBx, address);
      case 4:
        if (features_.qemu) return;
        Note("%05x: add [%x], ebx", e.address(), address);
        e.Wide();
        e.Byte(0x01);
        return e.Memory(kBx, address);
      case 5:
        if (mode_.bits == 64 && random_.OneIn(3)) {
          const uint64_t bad = random_.Of<uint64_t>({0x800000000000, 0xFFFF7FFFFFFFFFFC, 0xFFFFFFFFFFFFFFFD,
                                                     features_.qemu ? 0x800000000001u : 0x7FFFFFFFFFFFu});
          Note("%05x: not canonical: %x", e.address(), bad);
          if (!features_.qemu && random_.OneIn(3)) {
            e.MovImm(kSp, bad);
            return e.Byte(0x50);
          }
          e.MovImm(kBx, bad);
          if (random_.OneIn(2)) return e.Bytes({0x0F, 0x10, 0x03});  // movups xmm0, [rbx]
          return e.Bytes({0x8B, 0x03});                              // mov eax, [rbx]
        }
        Note("%05x: push with the stack at %x", e.address(), address);
        e.MovImm(kSp, e.Offset(address));
        return e.Byte(0x50);
      default:
        Note("%05x: jump to %x", e.address(), address);
        e.MovImm(kAx, e.Offset(address));
        if (mode_.bits == 16) e.Wide();
        return e.Bytes({0xFF, 0xE0});
    }
  }

  // Changes a page's bits and says so to the processor.
  void ChangePage(Emitter& e) {
    if (mode_.bits == 16 || mode_.ring != 0) return Memory(e);
    const uint64_t page = (kOddPages >> 12) + random_.Below(4);
    const bool wide = mode_.is_long || (s_.mode == StartMode::kPae);
    const uint64_t entry = wide ? kPtTable + page * 8 : kPt32 + page * 4;
    const uint64_t bits = random_() & 0x167;
    Note("%05x: page %x becomes %x", e.address(), page << 12, bits);
    e.Byte(0xC7);
    e.Memory(0, entry);
    e.Word(page << 12 | bits, 4);
    if (random_.OneIn(2)) {
      e.Bytes({0x0F, 0x01});
      e.Memory(7, page << 12 | random_.Below(0x1000));  // invlpg
    } else {
      e.Bytes({0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8});
      // What is global stays: that too must be the same.
      e.Bytes({0x0F, 0x01});
      e.Memory(7, page << 12);
    }
    Note("%05x: mov ebx, [%x]", e.address(), page << 12);
    e.Byte(random_.Of<uint8_t>({0x8B, 0x89}));
    e.Memory(kBx, page << 12);
  }

  void Port(Emitter& e) {
    const uint64_t port = kFirstPort + random_.Below(kPorts);
    const uint8_t opcode = random_.Of<uint8_t>({0xEC, 0xED, 0xEE, 0xEF, 0xED, 0xEF});
    Note("%05x: port %x, opcode %02x", e.address(), port, opcode);
    e.MovImm(kDx, port);
    if (random_.OneIn(3)) e.Byte(0x66);
    e.Byte(opcode);
  }

  void SegmentBase(Emitter& e) {
    if (mode_.bits != 64) return LookAtSelector(e);
    const int which = static_cast<int>(random_.Below(4));
    uint64_t value = kOperands + random_.Below(0x1000);
    if (random_.OneIn(4)) value |= features_.qemu || random_.OneIn(2) ? 0xFFFF800000000000 : 0x800000000000;
    Note("%05x: rd/wr fs/gs base %d, %x", e.address(), which, value);
    e.MovImm(kAx, value);
    e.Byte(0xF3);
    if (random_.OneIn(2)) e.Byte(0x48);
    e.Bytes({0x0F, 0xAE});
    e.Register(which, kAx);
  }

  void FloatingPoint(Emitter& e) {
    const int which = static_cast<int>(random_.Below(5));
    Note("%05x: unit %d", e.address(), which);
    switch (which) {
      case 0:
        return e.Bytes({0xD9, 0xD0});  // fnop
      case 1:
        return e.Byte(0x9B);  // wait
      case 2:
        return e.Bytes({0x0F, 0x28, 0xC1});  // movaps xmm0, xmm1
      case 3:
        return e.Bytes({0x0F, 0xFC, 0xC0});  // paddb mm0, mm0
      default:
        return e.Bytes({0x0F, 0xAE, 0xF0});  // mfence
    }
  }

  void Interrupt(Emitter& e) {
    switch (random_.Below(6)) {
      case 0:
        Note("%05x: int3", e.address());
        return e.Byte(0xCC);
      case 1:
        if (mode_.bits == 64) return;
        Note("%05x: into", e.address());
        return e.Byte(0xCE);
      default: {
        const auto vector =
            random_.Of<uint8_t>({0x20, 0x21, 0x22, 0x23, 0x20, 0x21, 0x30, 0x31, 0x32, 0x33, 0x34, 3, 4, 13, 14, 0xFF});
        Note("%05x: int %x", e.address(), vector);
        e.Bytes({0xCD, vector});
        if (features_.qemu) ReloadData(e);
        return;
      }
    }
  }

  void Odd(Emitter& e) {
    switch (random_.Below(6)) {
      case 0:
        Note("%05x: ud2", e.address());
        return e.Bytes({0x0F, 0x0B});
      case 1:
        Note("%05x: ud0", e.address());
        return e.Bytes({0x0F, 0xFF, 0xC0});
      case 2:
        if (mode_.ring == 0) return;
        Note("%05x: hlt", e.address());
        return e.Byte(0xF4);
      case 3: {
        if (mode_.bits == 64) return;
        const uint64_t at = Operand(random_.Below(0x20000), 4);
        Note("%05x: bound", e.address());
        e.Byte(0x62);
        return e.Memory(kBx, at);
      }
      case 4: {
        Note("%05x: invlpg", e.address());
        e.Bytes({0x0F, 0x01});
        return e.Memory(7, kOperands);
      }
      default:
        Note("%05x: wbinvd", e.address());
        return e.Bytes({0x0F, 0x09});
    }
  }

  // ---- transfers to the next fragment ----

  // A selector for code, and what the next fragment will then be.
  uint16_t CodeSelector(bool may_change_ring) {
    uint16_t index;
    if (!random_.OneIn(4)) {
      const uint16_t same = mode_.ring == 3 ? (mode_.is_long && random_.OneIn(2) ? kUserCode64 : kUserCode32)
                                            : (mode_.is_long && random_.OneIn(2) ? kCode64
                                               : random_.OneIn(4)                ? kCode16
                                                                                 : kCode32);
      index = same;
      if (may_change_ring && mode_.ring < 3 && random_.OneIn(2)) {
        index = random_.Of<uint16_t>({kUserCode32, kUserCode64, kUserCode32, kCodeRing1, kCodeRing2});
      }
      if (random_.OneIn(6)) index = random_.Of<uint16_t>({kConforming32, kConforming64, kUserConforming});
    } else {
      index = random_.Of<uint16_t>({kCode32,
                                    kCode64,
                                    kCode16,
                                    kUserCode32,
                                    kUserCode64,
                                    kConforming32,
                                    kConforming64,
                                    kExecuteOnly,
                                    kAbsentCode,
                                    kAbsentCode64,
                                    features_.qemu ? kZero : kBothSizes,
                                    kCodeRing1,
                                    kData32,
                                    kLdt,
                                    kZero,
                                    kInterruptGateInGdt,
                                    kCallGate32,
                                    kCallGate16,
                                    kCallGate64,
                                    kCallGate64,
                                    kCallGate32,
                                    kAbsentGate,
                                    0,
                                    kDescriptors,
                                    kSystemZero});
      if (!features_.qemu && random_.OneIn(6)) index = static_cast<uint16_t>(kRandomFirst + random_.Below(6));
      // The 64-bit gates stand for tables that legacy mode reads differently; a task switch is what this processor
      // has not.
      if (mode_.is_long && random_.OneIn(8)) index = random_.Of<uint16_t>({kFreeTss64, kBusyTss64});
    }
    const auto raw = Peek<uint64_t>(s_, kGdtBase + index * 8u);
    const int dpl = static_cast<int>(raw >> 45 & 3);
    const bool conforming = (raw >> 42 & 3) == 3;
    int rpl = may_change_ring && !conforming ? dpl : mode_.ring;
    if (random_.OneIn(8)) rpl = static_cast<int>(random_.Below(4));
    return static_cast<uint16_t>(index * 8 | rpl);
  }

  // Sets mode_ to what the descriptor gives, and returns the target's offset in it.
  uint64_t GoThrough(uint16_t selector, bool takes_rpl) {
    const uint64_t target = FragmentAddress(next_);
    if (!mode_.is_protected || mode_.is_vm86) return target - kSegmentBase16;
    const auto raw = Peek<uint64_t>(s_, kGdtBase + (selector & ~7u));
    const bool wide = mode_.is_long && (raw >> 53 & 1);
    mode_.bits = wide ? 64 : (raw >> 54 & 1) ? 32 : 16;
    if (takes_rpl && (selector & 3) > mode_.ring) mode_.ring = selector & 3;
    const uint64_t base = (raw >> 16 & 0xFFFFFF) | (raw >> 56) << 24;
    return wide ? target : (target - base) & 0xFFFFFFFF;
  }

  // A call gate to the next fragment.
  uint16_t MakeGate() {
    const bool conforming_here = mode_.ring == 0 || !features_.qemu;
    uint16_t code =
        random_.OneIn(3)
            ? CodeSelector(false)
            : static_cast<uint16_t>(
                  8 * (mode_.is_long ? random_.Of<uint16_t>({kCode64, kConforming64})
                                     : random_.Of<uint16_t>({kCode32, kCode32, kConforming32, kCodeRing1, kCode16})));
    if (!conforming_here && (Peek<uint64_t>(s_, kGdtBase + (code & ~7u)) >> 42 & 3) == 3) code = kCode32 * 8;
    if (features_.qemu && (Peek<uint64_t>(s_, kGdtBase + (code & ~7u)) >> 47 & 1) == 0) code = kCode64 * 8;
    const uint16_t at = mode_.is_long ? kCallGate64 : random_.OneIn(4) ? kCallGate16 : kCallGate32;
    if (at == kCallGate16) code = kCode16 * 8;  // whose fragments lie in 16 bits
    const int dpl = random_.OneIn(4) ? static_cast<int>(random_.Below(4)) : 3;
    const uint64_t present = random_.OneIn(10) ? 0 : 0x80;
    const uint64_t type = at == kCallGate16 ? 4 : 12;
    const auto raw = Peek<uint64_t>(s_, kGdtBase + (code & ~7u));
    const bool conforming = (raw >> 42 & 3) == 3;
    const int old_ring = mode_.ring;
    const uint64_t offset = GoThrough(code, false);
    if (!conforming) mode_.ring = std::min(old_ring, static_cast<int>(raw >> 45 & 3));
    Put(s_, kGdtBase + at * 8u,
        (offset & 0xFFFF) | uint64_t{code} << 16 |
            (mode_.is_long || features_.smap ? 0 : random_.Below(random_.OneIn(2) ? 1 : 4)) << 32 |
            (present | static_cast<uint64_t>(dpl) << 5 | type) << 40 | (offset >> 16 & 0xFFFF) << 48);
    if (mode_.is_long)
      Put<uint64_t>(s_, kGdtBase + at * 8u + 8,
                    !features_.qemu && random_.OneIn(12) ? 0x8000
                    : random_.OneIn(12)                  ? uint64_t{0x8C} << 40
                                                         : 0);
    return static_cast<uint16_t>(at * 8 | (random_.OneIn(4) ? random_.Below(4) : old_ring));
  }

  // SMAP stays on for all of a scenario, which else could never come to user mode and back.
  bool UserStackUnderSmap() const {
    return features_.qemu && mode_.ring == 3 && (s_.start[hvdef::RegisterName::kCr4].low >> 21 & 1) != 0;
  }

  void Transfer(Emitter& e) {
    switch (random_.Below(10)) {
      case 0:
      case 1:
      case 2:
        return FarJumpOrCall(e);
      case 3:
      case 4:
        return FarReturn(e);
      case 5:
      case 6:
        return InterruptReturn(e);
      case 7:
      case 8:
        return FastCall(e);
      default:
        return mode_.is_long ? Descend(e) : Climb(e);
    }
  }

  void FarJumpOrCall(Emitter& e) {
    const bool call = !UserStackUnderSmap() && random_.OneIn(2);
    const int bits = mode_.bits;
    uint16_t selector;
    uint64_t offset = 0x1234;
    if (mode_.is_protected && !mode_.is_vm86 && random_.OneIn(2)) {
      selector = MakeGate();
      Note("%05x: far %s through gate %04x", e.address(), call ? "call" : "jump", selector);
    } else {
      selector = mode_.is_protected && !mode_.is_vm86 ? CodeSelector(false) : kSegmentBase16 >> 4;
      offset = GoThrough(selector, false);
      Note("%05x: far %s to %04x:%x", e.address(), call ? "call" : "jump", selector, offset);
    }
    if (bits != 64 && random_.OneIn(2)) {
      e.Wide();
      e.Byte(call ? 0x9A : 0xEA);
      e.Word(offset, 4);
      e.Word(selector, 2);
      return;
    }
    const uint64_t at = Operand(offset, 4);
    Put(s_, at + 4, selector);
    e.Wide();
    e.Byte(0xFF);
    e.Memory(call ? 3 : 5, at);
  }

  void PushFrame(Emitter& e, uint16_t selector, uint64_t offset, int old_ring, bool flags, bool always_stack) {
    const int rpl = selector & 3;
    if (rpl != old_ring || always_stack || random_.OneIn(16)) {
      uint16_t stack = static_cast<uint16_t>((rpl == 3   ? kUserData32
                                              : rpl == 2 ? kDataRing2
                                              : rpl == 1 ? kDataRing1
                                                         : kData32) *
                                                 8 |
                                             rpl);
      if (random_.OneIn(8)) stack = UsableSelector();
      if (always_stack && random_.OneIn(8) && !(features_.qemu && selector >> 3 != kCode64))
        stack = static_cast<uint16_t>(features_.qemu ? 0 : random_.Below(4));
      e.Push(stack);
      e.Push(rpl == 3 ? kStack3 : rpl == 0 ? kStack0 - 0x100 : kStack1);
    }
    if (flags) e.Push(AnyFlags() & (features_.qemu || random_.OneIn(2) ? ~uint64_t{0x24000} : ~uint64_t{0}));
    e.Push(selector);
    e.Push(offset);
  }

  void FarReturn(Emitter& e) {
    if (UserStackUnderSmap() && !mode_.is_vm86) return FarJumpOrCall(e);
    const int bits = mode_.bits, ring = mode_.ring;
    const bool real = !mode_.is_protected || mode_.is_vm86;
    const uint16_t selector = real ? kSegmentBase16 >> 4 : CodeSelector(true);
    const uint64_t offset = GoThrough(selector, true);
    Note("%05x: far return to %04x:%x", e.address(), selector, offset);
    if (real) {
      e.Push(selector);
      e.Push(offset);
    } else {
      PushFrame(e, selector, offset, ring, false, false);
    }
    if (bits == 16) e.Byte(0x66);
    if (bits == 64) e.Byte(0x48);
    if (random_.OneIn(4)) {
      e.Byte(0xCA);
      e.Word(8 * random_.Below(3), 2);
    } else {
      e.Byte(0xCB);
    }
  }

  void InterruptReturn(Emitter& e) {
    if (UserStackUnderSmap() && !mode_.is_vm86) return FarJumpOrCall(e);
    const int bits = mode_.bits, ring = mode_.ring;
    const bool real = !mode_.is_protected || mode_.is_vm86;
    if (!real && !mode_.is_long && ring == 0 && random_.OneIn(3)) {
      // To virtual-8086 mode.
      Note("%05x: iret to virtual-8086 mode", e.address());
      for (int i = 0; i < 4; ++i) e.Push(kSegmentBase16 >> 4);
      e.Push(kSegmentBase16 >> 4);
      e.Push(kStack3 - kSegmentBase16);
      e.Push((AnyFlags() & ~uint64_t{0x4100}) | 0x20000);
      e.Push(kSegmentBase16 >> 4);
      e.Push(FragmentAddress(next_) - kSegmentBase16);
      e.Wide();
      e.Byte(0xCF);
      mode_.bits = 16;
      mode_.is_vm86 = true;
      mode_.ring = 3;
      return;
    }
    const uint16_t selector = real ? kSegmentBase16 >> 4 : CodeSelector(true);
    const uint64_t offset = GoThrough(selector, true);
    Note("%05x: iret to %04x:%x", e.address(), selector, offset);
    if (real) {
      e.Push(AnyFlags() & ~uint64_t{0x20000});
      e.Push(selector);
      e.Push(offset);
    } else {
      PushFrame(e, selector, offset, ring, true, bits == 64);
    }
    if (bits == 16) e.Byte(0x66);
    if (bits == 64) e.Byte(0x48);
    e.Byte(0xCF);
  }

  void FastCall(Emitter& e) {
    const uint64_t target = FragmentAddress(next_);
    int which = static_cast<int>(random_.Below(5));
    if (!features_.intel && (mode_.bits != 64 && which < 2)) which = 4;
    if (!features_.intel && mode_.is_long && (which == 2 || which == 3)) which = 4;
    static constexpr const char* kNames[] = {"syscall", "sysret", "sysenter", "sysexit", "swapgs"};
    Note("%05x: %s", e.address(), kNames[which]);
    switch (which) {
      case 0:
        s_.start[hvdef::RegisterName::kLstar] = {target, 0};
        e.Bytes({0x0F, 0x05});
        if (mode_.bits == 64) mode_.ring = 0;
        return;
      case 1: {
        const bool quad = mode_.bits == 64 && random_.OneIn(2);
        e.MovImm(kCx, mode_.bits == 64 && random_.OneIn(12) ? target | 0x800000000000 : target);
        if (mode_.bits == 64) {
          e.Bytes({0x49, 0xBB});                                              // mov r11, flags
          e.Word(AnyFlags() & ~uint64_t{features_.qemu ? 0x20000u : 0u}, 8);  // which QEMU would take VM from
        }
        if (quad) e.Byte(0x48);
        e.Bytes({0x0F, 0x07});
        if (mode_.bits == 64) mode_.bits = quad ? 64 : 32;
        mode_.ring = 3;
        return;
      }
      case 2:
        s_.start[hvdef::RegisterName::kSysenterEip] = {target, 0};
        e.Bytes({0x0F, 0x34});
        mode_.bits = mode_.is_long ? 64 : 32;
        mode_.ring = 0;
        return;
      case 3: {
        const bool quad = mode_.bits == 64 && random_.OneIn(2);
        e.MovImm(kDx, target);
        e.MovImm(kCx, kStack3);
        if (quad) e.Byte(0x48);
        e.Bytes({0x0F, 0x35});
        mode_.bits = quad ? 64 : 32;
        mode_.ring = 3;
        return;
      }
      default:
        leads_on_ = false;
        e.Bytes({0x0F, 0x01, 0xF8});
    }
  }

  // Not below a nested KVM, whose machine has been seen to stand still after such a climb.
  bool Skips() { return random_.OneIn(14) && !features_.qemu; }

  // From real or protected mode to long mode, as firmware does; now and then a step is left out.
  void Climb(Emitter& e) {
    if (mode_.is_vm86 || mode_.ring != 0) return FarReturn(e);
    Note("%05x: climb", e.address());
    if (!mode_.is_protected) {
      const uint64_t at = Operand(0x7FF | kIdt32 << 16, 8);
      if (!Skips()) {
        e.Bytes({0x66, 0x0F, 0x01});
        e.Memory(3, at);
      }
      e.Bytes({0x0F, 0x20, 0xC0});
      e.Bytes({0x66, 0x83, 0xC8, 0x01});  // or eax, 1
      e.Bytes({0x0F, 0x22, 0xC0});
      mode_.is_protected = true;
      const uint16_t selector = Skips() ? CodeSelector(false) : random_.OneIn(3) ? kCode16 * 8 : kCode32 * 8;
      const uint64_t offset = GoThrough(selector, false);
      e.Bytes({0x66, 0xEA});
      e.Word(offset, 4);
      e.Word(selector, 2);
      return;
    }
    if (mode_.bits == 32 && !Skips()) {  // flat data, if it was not
      e.MovImm(kAx, kData32 * 8);
      e.Bytes({0x8E, 0xD8, 0x8E, 0xD0});
    }
    if (features_.qemu && mode_.bits == 16) {  // whose far calls in 64-bit mode would add the base of SS
      e.MovImm(kAx, kData32 * 8);
      e.Bytes({0x8E, 0xD0});
    }
    const bool was_paged = s_.mode == StartMode::kPaged32 || s_.mode == StartMode::kPae;
    if (was_paged && !Skips()) {
      e.Bytes({0x0F, 0x20, 0xC0, 0x0F, 0xBA, 0xF0, 0x1F, 0x0F, 0x22, 0xC0});  // btr eax, 31
      if (mode_.bits == 16) return;
    }
    if (!Skips()) {
      e.Bytes({0x0F, 0x20, 0xE0});
      e.Wide();
      e.Bytes({0x83, 0xC8, 0x20, 0x0F, 0x22, 0xE0});  // or eax, 20; mov cr4, eax
    }
    if (!Skips()) {
      e.MovImm(kAx, kPml4Table);
      e.Bytes({0x0F, 0x22, 0xD8});
    }
    const bool lme = !Skips();
    if (lme) {
      e.MovImm(kCx, 0xC0000080);
      e.Bytes({0x0F, 0x32});
      e.Wide();
      e.Byte(0x0D);
      e.Word(0x100, 4);
      e.Bytes({0x0F, 0x30});
    }
    e.Bytes({0x0F, 0x20, 0xC0});
    e.Wide();
    e.Byte(0x0D);
    e.Word(0x80000000, 4);
    e.Bytes({0x0F, 0x22, 0xC0});
    mode_.is_long = lme;
    if (!Skips()) {
      const uint64_t at = Operand(0xFFF | kIdt64 << 16, 8);
      e.Wide();
      e.Bytes({0x0F, 0x01});
      e.Memory(3, at);
    }
    if (!Skips()) {
      e.MovImm(kAx, kFreeTss64 * 8);
      e.Bytes({0x0F, 0x00, 0xD8});
    }
    const uint16_t selector = Skips() ? CodeSelector(false) : random_.OneIn(4) ? kCode32 * 8 : kCode64 * 8;
    const uint64_t offset = GoThrough(selector, false);
    e.Wide();
    e.Byte(0xEA);
    e.Word(offset, 4);
    e.Word(selector, 2);
  }

  // From long mode towards real mode.
  void Descend(Emitter& e) {
    if (mode_.ring != 0 || mode_.bits != 32) return FarReturn(e);
    Note("%05x: descend", e.address());
    e.Bytes({0x0F, 0x20, 0xC0, 0x0F, 0xBA, 0xF0, 0x1F, 0x0F, 0x22, 0xC0});  // clear CR0.PG
    if (!Skips()) {
      const uint64_t at = Operand(0x7FF | kIdt32 << 16, 8);
      e.Bytes({0x0F, 0x01});
      e.Memory(3, at);
    }
    if (!Skips()) {
      e.MovImm(kCx, 0xC0000080);
      e.Bytes({0x0F, 0x32});
      e.Byte(0x25);
      e.Word(~uint64_t{0x100}, 4);
      e.Bytes({0x0F, 0x30});
    }
    mode_.is_long = false;
    const uint16_t selector = random_.OneIn(2) ? kCode16 * 8 : kCode32 * 8;
    const uint64_t offset = GoThrough(selector, false);
    e.Byte(0xEA);
    e.Word(offset, 4);
    e.Word(selector, 2);
  }

  Random& random_;
  const SystemFeatures& features_;
  Scenario& s_;
  Mode mode_{};
  int next_ = 0;  // the fragment that a transfer leads to
  bool leads_on_ = false;
  uint64_t operands_ = kOperands;
};

}  // namespace

void BuildCode(Random& random, const SystemFeatures& features, Scenario& scenario) {
  CodeBuilder(random, features, scenario).Build();
}

}  // namespace hvsdk::oracle

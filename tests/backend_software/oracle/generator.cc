// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/oracle/generator.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"

namespace hvsdk::oracle {
namespace {

constexpr uint64_t kCf = 1, kPf = 4, kAf = 0x10, kZf = 0x40, kSf = 0x80, kOf = 0x800;
constexpr uint64_t kArithmetic = kCf | kPf | kAf | kZf | kSf | kOf;

// The bytes around the boundary of the two data pages and before their end: where accesses go and random
// contents stand.
constexpr uint64_t kWindowBegin = 0x1000 - 256, kWindowSize = 512;
constexpr uint64_t kTailBegin = kDataSize - 128;

void InitDecoder(ZydisDecoder& decoder, bool is_64bit) {
  ZydisDecoderInit(&decoder, is_64bit ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LONG_COMPAT_32,
                   is_64bit ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
}

// Flags whose value after the instruction the manuals leave open (Intel SDM volume 1, appendix A, and the
// instructions' pages).
uint64_t UndefinedFlags(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands) {
  switch (instruction.mnemonic) {
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST:
      return kAf;
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
      return kSf | kZf | kAf | kPf;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
      return kArithmetic;
    case ZYDIS_MNEMONIC_AAA:
    case ZYDIS_MNEMONIC_AAS:
      return kOf | kSf | kZf | kPf;
    case ZYDIS_MNEMONIC_AAM:
    case ZYDIS_MNEMONIC_AAD:
      return kOf | kAf | kCf;
    case ZYDIS_MNEMONIC_DAA:
    case ZYDIS_MNEMONIC_DAS:
      return kOf;
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
      return kArithmetic & ~kZf;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTC:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTS:
      return kOf | kSf | kAf | kPf;
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_TZCNT:
      return kOf | kSf | kAf | kPf;
    case ZYDIS_MNEMONIC_BZHI:
    case ZYDIS_MNEMONIC_BLSI:
    case ZYDIS_MNEMONIC_BLSR:
    case ZYDIS_MNEMONIC_BLSMSK:
    case ZYDIS_MNEMONIC_ANDN:
      return kAf | kPf;
    case ZYDIS_MNEMONIC_BEXTR:
      return kAf | kSf | kPf;
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR: {
      const bool rotates =
          In(instruction.mnemonic, {ZYDIS_MNEMONIC_ROL, ZYDIS_MNEMONIC_ROR, ZYDIS_MNEMONIC_RCL, ZYDIS_MNEMONIC_RCR});
      const ZydisDecodedOperand& count = operands[instruction.operand_count_visible - 1];
      const uint64_t mask = operands[0].size == 64 ? 63 : 31;
      uint64_t undefined = kOf;
      if (!rotates) undefined |= kAf | (operands[0].size <= 16 ? kCf : 0);
      if (count.type != ZYDIS_OPERAND_TYPE_IMMEDIATE) return undefined;
      const uint64_t value = count.imm.value.u & mask;
      if (value == 0) return 0;
      if (value == 1) return rotates ? 0 : kAf;
      return undefined;
    }
    default:
      return 0;
  }
}

}  // namespace

Generator::Generator(uint64_t seed, absl::Span<const backend::CpuidEntry> cpuid, bool is_64bit)
    : is_64bit_(is_64bit), random_(seed) {
  InitDecoder(decoder_, is_64bit);
  uint32_t leaf1_ecx = 0, leaf7_ebx = 0, ext1_ecx = 0;
  for (const backend::CpuidEntry& entry : cpuid) {
    if (entry.leaf == 1) leaf1_ecx = entry.ecx;
    if (entry.leaf == 7 && entry.subleaf == 0) leaf7_ebx = entry.ebx;
    if (entry.leaf == 0x80000001) ext1_ecx = entry.ecx;
  }
  for (ZydisISAExt always : {ZYDIS_ISA_EXT_BASE, ZYDIS_ISA_EXT_LONGMODE, ZYDIS_ISA_EXT_MMX, ZYDIS_ISA_EXT_SSE,
                             ZYDIS_ISA_EXT_SSE2, ZYDIS_ISA_EXT_X87, ZYDIS_ISA_EXT_CLFSH, ZYDIS_ISA_EXT_PAUSE}) {
    offered_[always] = true;
  }
  offered_[ZYDIS_ISA_EXT_SSE3] = leaf1_ecx & 1;
  offered_[ZYDIS_ISA_EXT_PCLMULQDQ] = leaf1_ecx & 1 << 1;
  offered_[ZYDIS_ISA_EXT_SSSE3] = leaf1_ecx & 1 << 9;
  offered_[ZYDIS_ISA_EXT_SSE4] = (leaf1_ecx & 3 << 19) == 3 << 19 && (leaf1_ecx & 1 << 23);
  offered_[ZYDIS_ISA_EXT_MOVBE] = leaf1_ecx & 1 << 22;
  offered_[ZYDIS_ISA_EXT_AES] = leaf1_ecx & 1 << 25;
  offered_[ZYDIS_ISA_EXT_BMI1] = leaf7_ebx & 1 << 3;
  offered_[ZYDIS_ISA_EXT_BMI2] = leaf7_ebx & 1 << 8;
  offered_[ZYDIS_ISA_EXT_ADOX_ADCX] = leaf7_ebx & 1 << 19;
  offered_[ZYDIS_ISA_EXT_SHA] = leaf7_ebx & 1 << 29;
  offered_[ZYDIS_ISA_EXT_LZCNT] = ext1_ecx & 1 << 5;
}

// What must not run in this process, or cannot be the same in both places.
bool Generator::IsOffered(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands) const {
  const auto offered = offered_.find(instruction.meta.isa_ext);
  if (offered == offered_.end() || !offered->second) return false;
  if (instruction.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT_FS | ZYDIS_ATTRIB_HAS_SEGMENT_GS)) return false;
  switch (instruction.meta.category) {
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_SEGOP:
    case ZYDIS_CATEGORY_RDWRFSGS:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
    case ZYDIS_CATEGORY_VTX:
      return In(instruction.mnemonic, {ZYDIS_MNEMONIC_HLT, ZYDIS_MNEMONIC_CLTS});
    case ZYDIS_CATEGORY_INTERRUPT:
      return instruction.mnemonic == ZYDIS_MNEMONIC_INT3;
    default:
      break;
  }
  if (In(instruction.mnemonic,
         {ZYDIS_MNEMONIC_CPUID,    ZYDIS_MNEMONIC_RDTSC,   ZYDIS_MNEMONIC_RDPMC,     ZYDIS_MNEMONIC_FXSAVE,
          ZYDIS_MNEMONIC_FXSAVE64, ZYDIS_MNEMONIC_FXRSTOR, ZYDIS_MNEMONIC_FXRSTOR64, ZYDIS_MNEMONIC_FNSTENV,
          ZYDIS_MNEMONIC_FNSAVE,   ZYDIS_MNEMONIC_LAR,     ZYDIS_MNEMONIC_LSL,       ZYDIS_MNEMONIC_VERR,
          ZYDIS_MNEMONIC_VERW,     ZYDIS_MNEMONIC_IRET,    ZYDIS_MNEMONIC_IRETD,     ZYDIS_MNEMONIC_IRETQ,
          ZYDIS_MNEMONIC_SMSW,     ZYDIS_MNEMONIC_SGDT,    ZYDIS_MNEMONIC_SIDT,      ZYDIS_MNEMONIC_SLDT,
          ZYDIS_MNEMONIC_STR,      ZYDIS_MNEMONIC_SYSCALL, ZYDIS_MNEMONIC_SYSENTER,  ZYDIS_MNEMONIC_SYSEXIT,
          ZYDIS_MNEMONIC_SYSRET,   ZYDIS_MNEMONIC_MOV}) &&
      instruction.mnemonic != ZYDIS_MNEMONIC_MOV) {
    return false;
  }
  // Loads of segment registers need the host's descriptor table, system registers its kernel.
  for (int i = 0; i < instruction.operand_count; ++i) {
    const ZydisDecodedOperand& operand = operands[i];
    if (operand.type == ZYDIS_OPERAND_TYPE_POINTER) return false;
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) continue;
    const ZydisRegisterClass kind = ZydisRegisterGetClass(operand.reg.value);
    if (kind == ZYDIS_REGCLASS_CONTROL || kind == ZYDIS_REGCLASS_DEBUG || kind == ZYDIS_REGCLASS_TEST ||
        kind == ZYDIS_REGCLASS_TABLE) {
      return false;
    }
    if (kind == ZYDIS_REGCLASS_SEGMENT && operand.visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN) return false;
  }
  if (instruction.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR) return false;
  // Branches with a 16-bit operand size differ between makers of processors.
  if (instruction.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE &&
      (instruction.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE)) {
    return false;
  }
  // The register form of 0F 0D is a no-operation to one maker and undefined to the other.
  if (instruction.mnemonic == ZYDIS_MNEMONIC_NOP && instruction.opcode_map == ZYDIS_OPCODE_MAP_0F &&
      instruction.opcode == 0x0D) {
    return false;
  }
  // To one maker a REP prefix turns these loops' condition around or makes an exchange with R8 a PAUSE, to the other it is nothing.
  const bool repeats = std::any_of(instruction.raw.prefixes, instruction.raw.prefixes + instruction.raw.prefix_count,
                                   [](const auto& prefix) { return prefix.value == 0xF2 || prefix.value == 0xF3; });
  if (repeats && In(instruction.mnemonic, {ZYDIS_MNEMONIC_LOOPE, ZYDIS_MNEMONIC_LOOPNE})) return false;
  if (instruction.mnemonic == ZYDIS_MNEMONIC_PAUSE && instruction.raw.rex.B) return false;
  // One maker's reads 16 bits, the other's 32.
  if (instruction.mnemonic == ZYDIS_MNEMONIC_MOVSXD && instruction.operand_width == 16) return false;
  // Results the manuals leave open.
  if (instruction.mnemonic == ZYDIS_MNEMONIC_BSWAP && operands[0].size == 16) return false;
  if (In(instruction.mnemonic, {ZYDIS_MNEMONIC_SHLD, ZYDIS_MNEMONIC_SHRD}) && operands[0].size == 16) return false;
  return true;
}

bool Generator::NextInstruction(uint8_t* bytes, ZydisDecodedInstruction& instruction, ZydisDecodedOperand* operands) {
  int at = 0;
  if (random_.OneIn(4)) bytes[at++] = 0x66;
  if (random_.OneIn(16)) bytes[at++] = 0x67;
  if (random_.OneIn(5)) bytes[at++] = random_.OneIn(2) ? 0xF2 : 0xF3;
  if (random_.OneIn(24)) bytes[at++] = 0xF0;
  const uint64_t map = random_.Below(16);
  if (map >= 15 && at == 0) {  // VEX, for BMI
    bytes[at++] = 0xC4;
    // Outside 64-bit mode the two bits that would extend registers tell it from LES.
    bytes[at++] = static_cast<uint8_t>((random_() & 0xE0) | (is_64bit_ ? 0 : 0xC0) | (1 + random_.Below(3)));
    bytes[at++] = static_cast<uint8_t>(random_() & 0xFB);
    bytes[at++] = static_cast<uint8_t>(0xF0 + random_.Below(8));
  } else {
    if (is_64bit_ && random_.OneIn(2)) bytes[at++] = static_cast<uint8_t>(0x40 | random_.Below(16));
    if (map >= 6) bytes[at++] = 0x0F;
    if (map == 12) bytes[at++] = 0x38;
    if (map == 13) bytes[at++] = 0x3A;
    bytes[at++] = static_cast<uint8_t>(random_());
  }
  for (int i = at; i < 24; ++i) bytes[i] = static_cast<uint8_t>(random_());
  if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, bytes, 15, &instruction, operands))) return false;
  if (!IsOffered(instruction, operands)) return false;
  // Relative branches go forward and stay on the code page: what goes back may never end.
  for (const auto& imm : instruction.raw.imm) {
    if (!imm.is_relative) continue;
    if (imm.size == 8) bytes[imm.offset] &= 0x7F;
    if (imm.size == 32) {
      const uint32_t distance = static_cast<uint32_t>(random_.Below(512));
      std::memcpy(bytes + imm.offset, &distance, 4);
    }
  }
  return true;
}

uint64_t Generator::DataPointer() {
  if (random_.OneIn(16)) return kDataAddress + kTailBegin + random_.Below(160);
  return kDataAddress + kWindowBegin + random_.Below(kWindowSize - 16);
}

uint64_t Generator::Value() {
  switch (random_.Below(8)) {
    case 0:
      return random_.Below(64);
    case 1: {
      constexpr uint64_t kEdges[] = {0,
                                     1,
                                     ~uint64_t{0},
                                     0x7F,
                                     0x80,
                                     0xFF,
                                     0x7FFF,
                                     0x8000,
                                     0xFFFF,
                                     0x7FFFFFFF,
                                     0x80000000,
                                     0xFFFFFFFF,
                                     0x7FFFFFFFFFFFFFFF,
                                     0x8000000000000000};
      return kEdges[random_.Below(std::size(kEdges))];
    }
    case 2: {
      // Floating-point numbers of both widths: zero, one, infinity, not-a-number, denormal.
      constexpr uint64_t kFloats[] = {0x3FF0000000000000, 0x7FF0000000000000, 0xFFF8000000000001, 0x7FF0000000000001,
                                      0x0000000000000001, 0x8000000000000000, 0x3F8000003F800000, 0x7F800000FF800000,
                                      0x7FC000017F800001, 0x0000000180000001, 0x43E0000000000000, 0x4F0000004EFFFFFF};
      return kFloats[random_.Below(std::size(kFloats))];
    }
    case 3:
    case 4:
      return DataPointer();
    case 5: {
      // A double of ordinary size.
      const double value =
          static_cast<double>(static_cast<int64_t>(random_())) / static_cast<double>(1 + random_.Below(1u << 30));
      uint64_t bits;
      std::memcpy(&bits, &value, 8);
      return bits;
    }
    default:
      return random_();
  }
}

void Generator::LeadIntoData(uint8_t* bytes, uint64_t at, const ZydisDecodedInstruction& instruction,
                             const ZydisDecodedOperand* operands, UserState& state) {
  for (int i = 0; i < instruction.operand_count_visible; ++i) {
    const ZydisDecodedOperand& operand = operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.mem.segment == ZYDIS_REGISTER_FS) continue;
    const ZydisRegister base = operand.mem.base, index = operand.mem.index;
    const bool has_base = base != ZYDIS_REGISTER_NONE && base != ZYDIS_REGISTER_RIP && base != ZYDIS_REGISTER_EIP;
    const bool has_index = index != ZYDIS_REGISTER_NONE;
    const uint64_t target = DataPointer();
    uint64_t displacement = static_cast<uint64_t>(operand.mem.disp.value);
    if (!has_base && instruction.raw.disp.size == 32) {
      const uint64_t origin = base == ZYDIS_REGISTER_NONE ? 0 : kCodeAddress + at + instruction.length;
      const auto wanted = static_cast<uint32_t>(target - origin);
      std::memcpy(bytes + instruction.raw.disp.offset, &wanted, 4);
      displacement = wanted;
    }
    // An index is small, unless it is the register that also holds the address; BT's bit offset is another operand and
    // stays wild.
    if (has_index) {
      const int id = ZydisRegisterGetId(index);
      state.gpr[id] = random_.Below(16);
      if (has_base && ZydisRegisterGetId(base) == id) {
        state.gpr[id] = Cut(target - displacement) / (1 + operand.mem.scale);
        continue;
      }
    }
    if (has_base) {
      const uint64_t offset = has_index ? state.gpr[ZydisRegisterGetId(index)] * operand.mem.scale : 0;
      state.gpr[ZydisRegisterGetId(base)] = Cut(target - displacement - offset);
    }
  }
}

void Generator::DrawState(Sequence& sequence, std::array<uint8_t, kDataSize>& data) {
  sequence.code.clear();
  sequence.starts.clear();
  sequence.mnemonics.clear();
  sequence.undefined_flags = 0;
  UserState& state = sequence.state;
  state.is_64bit = is_64bit_;
  for (uint64_t& gpr : state.gpr) gpr = Cut(Value());
  state.gpr[kRsp] = DataPointer() & (random_.OneIn(4) ? ~uint64_t{0} : ~uint64_t{7});
  if (!random_.OneIn(8)) {
    state.gpr[kRsi] = DataPointer();
    state.gpr[kRdi] = DataPointer();
    if (random_.OneIn(2)) state.gpr[kRcx] = random_.Below(40);
  }
  state.rip = kCodeAddress;
  state.rflags = 0x202 | (random_() & kArithmetic) | (random_.OneIn(4) ? 0x400 : 0);
  for (auto& xmm : state.xmm) {
    const uint64_t halves[2] = {Value(), Value()};
    std::memcpy(xmm.data(), halves, 16);
  }
  // Mostly all exceptions masked; rounding, flush-to-zero and denormals-are-zero at random.
  state.mxcsr = 0x1F80 | (random_() & 0xE040 & (random_.OneIn(2) ? 0xFFFF : 0x6000));
  if (random_.OneIn(8)) state.mxcsr = static_cast<uint32_t>(random_() & 0xFFC0);
  state.x87_control = static_cast<uint16_t>(0x037F);
  if (random_.OneIn(4)) state.x87_control = static_cast<uint16_t>((random_() & 0x0F3F) | 0x40);
  state.x87_status = static_cast<uint16_t>(random_() & 0x7F00);
  state.x87_valid = random_.OneIn(2) ? 0xFF : static_cast<uint8_t>(random_());
  if (random_.OneIn(2)) state.x87_status &= 0x4700;  // MMX code finds the top at zero
  for (auto& st : state.st) {
    const long double value = static_cast<long double>(static_cast<int64_t>(random_())) /
                              static_cast<long double>(1 + random_.Below(1u << 20));
    std::memcpy(st.data(), &value, 10);
    if (random_.OneIn(4)) {
      const uint64_t significand = Value();
      const uint16_t exponent =
          static_cast<uint16_t>(random_.OneIn(2) ? random_() : (random_() & 0x8000) | 0x7FFF * random_.Below(2));
      std::memcpy(st.data(), &significand, 8);
      std::memcpy(st.data() + 8, &exponent, 2);
    }
  }
  for (uint64_t at = 0; at < kWindowSize; at += 8) {
    const uint64_t value = Value();
    std::memcpy(data.data() + kWindowBegin + at, &value, 8);
  }
  for (uint64_t at = kTailBegin; at < kDataSize; at += 8) {
    const uint64_t value = Value();
    std::memcpy(data.data() + at, &value, 8);
  }
}

void Generator::NextX87(Sequence& sequence, std::array<uint8_t, kDataSize>& data) {
  DrawState(sequence, data);
  // ModRM and displacement reach from here over the window.
  sequence.state.gpr[kRdi] = kDataAddress + kWindowBegin + kWindowSize / 2;
  constexpr uint8_t kAtRdi = 0x47;
  const size_t wanted = 8 + random_.Below(32);
  ZydisDecodedInstruction instruction;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  while (sequence.starts.size() < wanted) {
    uint8_t bytes[15] = {static_cast<uint8_t>(0xD8 + random_.Below(8)), static_cast<uint8_t>(random_())};
    if (random_.OneIn(2)) bytes[1] |= 0xC0;
    if (bytes[1] < 0xC0) {
      bytes[1] = static_cast<uint8_t>((bytes[1] & 0x38) | kAtRdi);
      bytes[2] = static_cast<uint8_t>(random_() & 0xF8);
    }
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder_, bytes, sizeof(bytes), &instruction, operands))) continue;
    if (!IsOffered(instruction, operands)) continue;
    // What loads a whole environment makes most of what follows a pending exception.
    if (In(instruction.mnemonic, {ZYDIS_MNEMONIC_FLDENV, ZYDIS_MNEMONIC_FRSTOR}) && !random_.OneIn(16)) continue;
    sequence.starts.push_back(static_cast<uint16_t>(sequence.code.size()));
    sequence.mnemonics.push_back(instruction.mnemonic);
    sequence.code.insert(sequence.code.end(), bytes, bytes + instruction.length);
  }
  sequence.code.insert(sequence.code.end(), {0x0F, 0x0B});
}

void Generator::Next(Sequence& sequence, std::array<uint8_t, kDataSize>& data) {
  DrawState(sequence, data);
  UserState& state = sequence.state;
  const int wanted = random_.OneIn(3) ? 2 + static_cast<int>(random_.Below(7)) : 1;
  ZydisDecodedInstruction instruction;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  while (static_cast<int>(sequence.starts.size()) < wanted) {
    uint8_t bytes[32];
    if (!NextInstruction(bytes, instruction, operands)) continue;
    const bool first = sequence.starts.empty();
    const auto category = instruction.meta.category;
    const bool branches = instruction.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE || category == ZYDIS_CATEGORY_RET;
    // Where an indirect branch goes must be canonical, for processors differ over when the other kind faults.
    const bool indirect = category == ZYDIS_CATEGORY_RET || (branches && instruction.operand_count_visible > 0 &&
                                                             operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE);
    const bool pops_flags = In(instruction.mnemonic, {ZYDIS_MNEMONIC_POPF, ZYDIS_MNEMONIC_POPFD, ZYDIS_MNEMONIC_POPFQ});
    if ((indirect || pops_flags || category == ZYDIS_CATEGORY_STRINGOP) && !first) continue;
    if (indirect) {
      for (uint64_t& gpr : state.gpr) gpr = DataPointer() & ~uint64_t{7};
      for (uint64_t at = 0; at < kDataSize; at += 8) {
        // Beyond the sequence, hence no loop; an operand in memory may be read at any alignment, and zero is canonical
        // at all.
        const uint64_t target = category == ZYDIS_CATEGORY_RET ? kCodeAddress + 256 + random_.Below(1024) : 0;
        std::memcpy(data.data() + at, &target, 8);
      }
      state.gpr[kRsp] &= ~uint64_t{7};
    }
    if (category == ZYDIS_CATEGORY_STRINGOP && first) {
      // Which of two bad operands faults first is the maker's choice; both may be unmapped, which looks the same.
      state.gpr[kRsi] = state.gpr[kRdi] = Cut(random_() & 0x7FFFFFFFFFFF);
      if (!random_.OneIn(8)) {
        state.gpr[kRsi] = kDataAddress + kWindowBegin + random_.Below(kWindowSize - 64);
        state.gpr[kRdi] = DataPointer();
      }
    }
    // Whether a repetition that does nothing cuts the registers to the width of the address is it as well.
    if (category == ZYDIS_CATEGORY_STRINGOP && instruction.address_width == 32) {
      for (const int reg : {kRcx, kRsi, kRdi}) state.gpr[reg] &= 0xFFFFFFFF;
    }
    // So it is with a string of 16-bit addresses, where nothing is mapped.
    if (category == ZYDIS_CATEGORY_STRINGOP && instruction.address_width == 16) state.gpr[kRsi] = state.gpr[kRdi];
    if (pops_flags) {
      state.gpr[kRsp] = (kDataAddress + kWindowBegin + random_.Below(400)) & ~uint64_t{7};
      const uint64_t flags = random_() & (kArithmetic | 0x400);  // neither single step nor alignment checks
      std::memcpy(data.data() + (state.gpr[kRsp] - kDataAddress), &flags, 8);
    }
    // A flag that the last instruction left open must not be looked at: a comparison defines them all again.
    const uint64_t tested = instruction.cpu_flags != nullptr ? instruction.cpu_flags->tested : 0;
    const bool reads_all = In(instruction.mnemonic, {ZYDIS_MNEMONIC_PUSHF, ZYDIS_MNEMONIC_PUSHFD, ZYDIS_MNEMONIC_PUSHFQ,
                                                     ZYDIS_MNEMONIC_LAHF});
    if ((sequence.undefined_flags & (reads_all ? kArithmetic : tested)) != 0) {
      sequence.starts.push_back(static_cast<uint16_t>(sequence.code.size()));
      sequence.mnemonics.push_back(ZYDIS_MNEMONIC_CMP);
      sequence.code.insert(sequence.code.end(), {0x39, 0xD8});  // cmp eax, ebx
      sequence.undefined_flags = 0;
    }
    const uint64_t at = sequence.code.size();
    if (first && (indirect || !random_.OneIn(12))) LeadIntoData(bytes, at, instruction, operands, state);
    const uint64_t open = UndefinedFlags(instruction, operands);
    const uint64_t written =
        instruction.cpu_flags != nullptr
            ? instruction.cpu_flags->modified | instruction.cpu_flags->set_0 | instruction.cpu_flags->set_1
            : 0;
    // Shifts by CL may write nothing, so what was open stays open.
    const bool conditional =
        In(category == ZYDIS_CATEGORY_SHIFT || category == ZYDIS_CATEGORY_ROTATE ? ZYDIS_MNEMONIC_SHL
                                                                                 : instruction.mnemonic,
           {ZYDIS_MNEMONIC_SHL, ZYDIS_MNEMONIC_SCASB, ZYDIS_MNEMONIC_SCASW, ZYDIS_MNEMONIC_SCASD, ZYDIS_MNEMONIC_SCASQ,
            ZYDIS_MNEMONIC_CMPSB, ZYDIS_MNEMONIC_CMPSW, ZYDIS_MNEMONIC_CMPSD, ZYDIS_MNEMONIC_CMPSQ});
    sequence.undefined_flags =
        (conditional || branches ? sequence.undefined_flags : sequence.undefined_flags & ~written) | open;
    sequence.starts.push_back(static_cast<uint16_t>(at));
    sequence.mnemonics.push_back(instruction.mnemonic);
    sequence.code.insert(sequence.code.end(), bytes, bytes + instruction.length);
    if (branches) break;  // nothing is known of what runs next
    // The host may take an MXCSR that the engine refuses (MxcsrOfTheHostAlone), and would go on.
    if (instruction.mnemonic == ZYDIS_MNEMONIC_LDMXCSR) break;
  }
  sequence.code.insert(sequence.code.end(), {0x0F, 0x0B});
}

std::string Disassemble(const Sequence& sequence) {
  ZydisDecoder decoder;
  InitDecoder(decoder, sequence.state.is_64bit);
  ZydisFormatter formatter;
  ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
  std::string text;
  for (size_t i = 0; i < sequence.starts.size(); ++i) {
    ZydisDecodedInstruction instruction;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    const uint8_t* bytes = sequence.code.data() + sequence.starts[i];
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeFull(&decoder, bytes, sequence.code.size() - sequence.starts[i], &instruction, operands)))
      continue;
    char line[160];
    ZydisFormatterFormatInstruction(&formatter, &instruction, operands, instruction.operand_count_visible, line,
                                    sizeof(line), kCodeAddress + sequence.starts[i], nullptr);
    text += absl::StrFormat("  +%02x ", sequence.starts[i]);
    for (int byte = 0; byte < instruction.length; ++byte) text += absl::StrFormat("%02x", bytes[byte]);
    text += absl::StrFormat("  %s\n", line);
  }
  return text;
}

}  // namespace hvsdk::oracle

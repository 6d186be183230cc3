// SPDX-License-Identifier: Apache-2.0
#include "backend_software/code/decoder.h"

#include <bit>
#include <cstring>

#include "base/check.h"

namespace hvsdk::software {
namespace {

const TranslatorTable& Table() {
  static const TranslatorTable* const table = [] {
    auto* made = new TranslatorTable;
    RegisterAlu(*made);
    RegisterMove(*made);
    RegisterShift(*made);
    RegisterBit(*made);
    RegisterMultiply(*made);
    RegisterBranch(*made);
    RegisterString(*made);
    RegisterFlag(*made);
    RegisterSegment(*made);
    RegisterSystem(*made);
    RegisterX87(*made);
    RegisterSseMove(*made);
    RegisterSseCompute(*made);
    RegisterFpuState(*made);
    return made;
  }();
  return *table;
}

// A SIB byte with base 101 and mode 00 stands for a displacement alone, whatever REX.B is. Zydis 4.0 takes it for R13
// when the address size is overridden.
bool NamesNoBase(const Insn& in) {
  return in.z.address_width != 16 && (in.z.attributes & ZYDIS_ATTRIB_HAS_SIB) && in.z.raw.modrm.mod == 0 &&
         in.z.raw.sib.base == 5;
}

// Whether the processor has the extension that brought the instruction.
bool IsOffered(const Features& features, const ZydisDecodedInstruction& z) {
  switch (z.meta.isa_set) {
    case ZYDIS_ISA_SET_SSE3:
    case ZYDIS_ISA_SET_SSE3X87:
      return features.Has(Feature::kSse3);
    case ZYDIS_ISA_SET_SSSE3:
    case ZYDIS_ISA_SET_SSSE3MMX:
      return features.Has(Feature::kSsse3);
    case ZYDIS_ISA_SET_SSE4:
      return features.Has(Feature::kSse41);
    case ZYDIS_ISA_SET_SSE42:
      return features.Has(Feature::kSse42);
    case ZYDIS_ISA_SET_POPCNT:
      return features.Has(Feature::kPopcnt);
    case ZYDIS_ISA_SET_AES:
      return features.Has(Feature::kAes);
    case ZYDIS_ISA_SET_PCLMULQDQ:
      return features.Has(Feature::kPclmulqdq);
    case ZYDIS_ISA_SET_SHA:
      return features.Has(Feature::kSha);
    case ZYDIS_ISA_SET_CMPXCHG16B:
      return features.Has(Feature::kCmpxchg16b);
    case ZYDIS_ISA_SET_MOVBE:
      return features.Has(Feature::kMovbe);
    case ZYDIS_ISA_SET_BMI1:
      return features.Has(Feature::kBmi1);
    case ZYDIS_ISA_SET_BMI2:
      return features.Has(Feature::kBmi2);
    case ZYDIS_ISA_SET_ADOX_ADCX:
      return features.Has(Feature::kAdx);
    case ZYDIS_ISA_SET_LZCNT:
      return features.Has(Feature::kLzcnt);
    case ZYDIS_ISA_SET_RDRAND:
      return features.Has(Feature::kRdrand);
    case ZYDIS_ISA_SET_RDSEED:
      return features.Has(Feature::kRdseed);
    case ZYDIS_ISA_SET_RDTSCP:
      return features.Has(Feature::kRdtscp);
    case ZYDIS_ISA_SET_RDPID:
      return features.Has(Feature::kRdpid);
    case ZYDIS_ISA_SET_RDWRFSGS:
      return features.Has(Feature::kFsgsbase);
    case ZYDIS_ISA_SET_INVPCID:
      return features.Has(Feature::kInvpcid);
    case ZYDIS_ISA_SET_SMAP:
      return features.Has(Feature::kSmap);
    case ZYDIS_ISA_SET_XSAVE:
      return features.Has(Feature::kXsave);
    case ZYDIS_ISA_SET_XSAVEOPT:
      return features.Has(Feature::kXsaveopt);
    case ZYDIS_ISA_SET_CLFLUSHOPT:
      return features.Has(Feature::kClflushopt);
    case ZYDIS_ISA_SET_CLWB:
      return features.Has(Feature::kClwb);
    default:
      return true;
  }
}

}  // namespace

uint8_t RegisterOffset(ZydisRegister reg) {
  if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15) return SlotOffset(reg - ZYDIS_REGISTER_RAX);
  if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D) return SlotOffset(reg - ZYDIS_REGISTER_EAX);
  if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W) return SlotOffset(reg - ZYDIS_REGISTER_AX);
  if (reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_BL) return SlotOffset(reg - ZYDIS_REGISTER_AL);
  if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) return SlotOffset(reg - ZYDIS_REGISTER_AH) + 1;
  if (reg >= ZYDIS_REGISTER_SPL && reg <= ZYDIS_REGISTER_R15B) return SlotOffset(reg - ZYDIS_REGISTER_SPL + 4);
  return SlotOffset(kZero);
}

int SegmentOf(ZydisRegister reg) {
  switch (reg) {
    case ZYDIS_REGISTER_ES:
      return kEs;
    case ZYDIS_REGISTER_CS:
      return kCs;
    case ZYDIS_REGISTER_SS:
      return kSs;
    case ZYDIS_REGISTER_FS:
      return kFs;
    case ZYDIS_REGISTER_GS:
      return kGs;
    default:
      return kDs;
  }
}

bool SetMemory(const Insn& in, const ZydisDecodedOperand& operand, Op& op) {
  const auto& mem = operand.mem;
  op.base = op.index = op.segment = SlotOffset(kZero);
  op.scale = 0;
  int64_t disp = mem.disp.has_displacement ? mem.disp.value : 0;
  const int segment = SegmentOf(mem.segment);
  if (mem.base == ZYDIS_REGISTER_RIP || mem.base == ZYDIS_REGISTER_EIP) {
    op.base = SlotOffset(kIp);
    disp += op.ip + op.length;
  } else if (mem.base != ZYDIS_REGISTER_NONE && !NamesNoBase(in)) {
    op.base = RegisterOffset(mem.base);
  }
  if (NamesNoBase(in)) disp = in.z.raw.disp.value;
  if (mem.index != ZYDIS_REGISTER_NONE) {
    op.index = RegisterOffset(mem.index);
    op.scale = static_cast<uint8_t>(std::countr_zero(static_cast<unsigned>(mem.scale ? mem.scale : 1)));
  }
  if (in.Is64()) {
    if (segment >= kFs) op.segment = SlotOffset(kSegmentBase + segment);
    if (segment == kSs) op.flags |= kOpStackSegment;
    if (in.z.address_width == 32) op.flags |= kOpLegacyAddress | kOpAddress32;
  } else {
    op.segment = SlotOffset(kSegmentBase + segment);
    if (segment == kSs) op.flags |= kOpStackSegment;
    op.flags |= kOpLegacyAddress | (in.z.address_width == 32 ? kOpAddress32 : kOpAddress16);
    disp = static_cast<int32_t>(disp);
  }
  // Of an absolute address of 64 bits the displacement is none, and MOV keeps it elsewhere.
  if (op.base == SlotOffset(kIp) && disp != static_cast<int32_t>(disp)) {
    op.flags |= kOpRipBias;
    disp -= kRipBias;
  }
  op.disp = static_cast<int32_t>(disp);
  return in.Is64() && op.index == SlotOffset(kZero) && op.segment == SlotOffset(kZero) &&
         !(op.flags & (kOpLegacyAddress | kOpRipBias));
}

Decoder::Decoder(const Features& features) : features_(features) {
  static constexpr ZydisMachineMode kModes[3] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_MACHINE_MODE_LEGACY_32,
                                                 ZYDIS_MACHINE_MODE_LONG_64};
  static constexpr ZydisStackWidth kStacks[3] = {ZYDIS_STACK_WIDTH_16, ZYDIS_STACK_WIDTH_32, ZYDIS_STACK_WIDTH_64};
  for (int i = 0; i < 3; ++i) {
    HVSDK_CHECK(ZYAN_SUCCESS(ZydisDecoderInit(&decoders_[i], kModes[i], kStacks[i])));
    // What is not there decodes as the reserved no-operations that it was carved out of.
    for (const ZydisDecoderMode mode : {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE,
                                        ZYDIS_DECODER_MODE_WBNOINVD, ZYDIS_DECODER_MODE_KNC}) {
      ZydisDecoderEnableMode(&decoders_[i], mode, ZYAN_FALSE);
    }
    // These were BSR and BSF with a prefix that means nothing.
    ZydisDecoderEnableMode(&decoders_[i], ZYDIS_DECODER_MODE_LZCNT, features.Has(Feature::kLzcnt));
    ZydisDecoderEnableMode(&decoders_[i], ZYDIS_DECODER_MODE_TZCNT, features.Has(Feature::kBmi1));
  }
}

Decoder::Result Decoder::DecodeBlock(const uint8_t* bytes, int available, uint32_t mode, int max_instructions,
                                     Op* ops) const {
  Result result;
  const ZydisDecoder& decoder = decoders_[mode & kModeBitsMask];
  FlagEffect effects[kMaxOps];
  Handler without_flags[kMaxOps];
  bool ends = false;
  bool links = false;
  Op* previous = nullptr;
  Op* shadowing = nullptr;
  while (!ends && result.instructions < max_instructions) {
    ZydisDecoderContext context;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    const int left = available - result.size_bytes;
    ZyanStatus status = ZydisDecoderDecodeInstruction(&decoder, &context, bytes + result.size_bytes, left, &z);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && left < ZYDIS_MAX_INSTRUCTION_LENGTH) break;
    Op& op = ops[result.ops];
    op = Op{};
    op.ip = static_cast<uint16_t>(result.size_bytes);
    op.count = static_cast<uint8_t>(result.instructions);
    op.base = op.index = op.segment = SlotOffset(kZero);
    if (ZYAN_SUCCESS(status)) {
      op.length = z.length;
      ZydisDecoderDecodeOperands(&decoder, &context, &z, operands, z.operand_count_visible);
      Insn in{z, operands, mode};
      if (in.locked()) op.flags |= kOpLock;
      if (z.attributes & ZYDIS_ATTRIB_HAS_REP) op.flags |= kOpRep;
      if (z.attributes & ZYDIS_ATTRIB_HAS_REPE) op.flags |= kOpRep;
      if (z.attributes & ZYDIS_ATTRIB_HAS_REPNE) op.flags |= kOpRepne;
      const Translator translator = Table().by_mnemonic[z.mnemonic];
      const bool known = translator != nullptr && IsOffered(features_, z) &&
                         z.encoding != ZYDIS_INSTRUCTION_ENCODING_EVEX &&
                         z.encoding != ZYDIS_INSTRUCTION_ENCODING_XOP && translator(in, op);
      if (!known) {
        op.handler = &RaiseUndefined;
        in.ends = true;
      }
      ends = in.ends || shadowing != nullptr;
      links = in.links;
      if (shadowing != nullptr) shadowing->extra = kHasSuccessor;
      shadowing = in.shadows ? &op : nullptr;
      effects[result.ops] = known ? in.flag_effect : FlagEffect::kSees;
      without_flags[result.ops] = known ? in.without_flags : nullptr;
    } else {
      effects[result.ops] = FlagEffect::kSees;
      without_flags[result.ops] = nullptr;
      op.handler = status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? &RaiseTooLong : &RaiseUndefined;
      op.length = 1;
      ends = true;
    }
    result.size_bytes += op.length;
    ++result.instructions;
    if (ends && previous != nullptr && max_instructions > 1 && FuseCompareAndBranch(*previous, op)) {
      effects[result.ops - 1] = FlagEffect::kSees;
      continue;
    }
    previous = &op;
    ++result.ops;
  }
  if (result.instructions == 0) return result;
  // Flags that the block itself overwrites before anybody may look are left out; what is behind the block may look.
  bool seen = true;
  for (int i = result.ops - 1; i >= 0; --i) {
    if (!seen && without_flags[i] != nullptr) ops[i].handler = without_flags[i];
    if (effects[i] == FlagEffect::kSees) seen = true;
    if (effects[i] == FlagEffect::kOverwrites) seen = false;
  }
  for (int i = 0; i + 1 < result.ops; ++i) {
    if (JoinMove(ops[i], ops[i + 1])) ++i;
  }
  // A direct branch keeps its links in the slot behind it; any other last instruction is followed by an end that has
  // them and is where a handler arrives that does not leave the block itself.
  if (!links) {
    Op& end = ops[result.ops++];
    end = Op{};
    end.handler = &EndBlock;
    end.ip = static_cast<uint16_t>(result.size_bytes);
    end.count = static_cast<uint8_t>(result.instructions);
  }
  ops[result.ops++] = Op{};
  LinksOf(&ops[result.ops - 2]) = Links{};
  return result;
}

}  // namespace hvsdk::software

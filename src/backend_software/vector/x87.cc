// SPDX-License-Identifier: Apache-2.0
#include "backend_software/vector/x87.h"

#include <xmmintrin.h>

#include <cstddef>
#include <cstring>

// One stub for each instruction: register forms at 4 * (opcode * 64 + modrm - 0xC0), memory forms, whose operand is at
// RDI, at 4 * (opcode * 8 + reg). Each is two bytes of instruction and a return.
asm(R"(
.text
.p2align 4
.type hvsdk_x87_register_forms, @object
hvsdk_x87_register_forms:
.set hvsdk_i, 0
.rept 512
  .byte 0xD8 + (hvsdk_i >> 6), 0xC0 + (hvsdk_i & 63), 0xC3, 0x90
  .set hvsdk_i, hvsdk_i + 1
.endr
.type hvsdk_x87_memory_forms, @object
hvsdk_x87_memory_forms:
.set hvsdk_i, 0
.rept 64
  .byte 0xD8 + (hvsdk_i >> 3), 0x07 + ((hvsdk_i & 7) << 3), 0xC3, 0x90
  .set hvsdk_i, hvsdk_i + 1
.endr
.p2align 4
.type hvsdk_x87_run, @function
# (image in RDI, stub in RSI, memory operand in RDX, RFLAGS in RCX) -> AX in RAX, RFLAGS in RDX
hvsdk_x87_run:
  pushq %rbx
  movq %rdi, %rbx
  fxrstor64 (%rbx)
  pushq %rcx
  popfq
  movq %rdx, %rdi
  call *%rsi
  pushfq
  popq %rdx
  cld
  fxsave64 (%rbx)
  fninit
  popq %rbx
  ret
.size hvsdk_x87_run, . - hvsdk_x87_run
)");

extern "C" {
extern const uint8_t hvsdk_x87_register_forms[];
extern const uint8_t hvsdk_x87_memory_forms[];
struct HvsdkX87Result {
  uint64_t ax;
  uint64_t rflags;
};
HvsdkX87Result hvsdk_x87_run(void* image, const uint8_t* stub, void* memory, uint64_t rflags);
}

namespace hvsdk::software {
namespace {

constexpr uint16_t kExceptionFlags = 0x3F;
constexpr uint16_t kConditionCodes = 0x4700;
constexpr uint16_t kStackFault = 0x40;

constexpr uint16_t kSummary = 0x80, kBusy = 0x8000;
constexpr uint16_t kInexact = 0x20;
constexpr uint64_t kArithmeticFlags = 0x8D5;

// The 512 bytes of FXSAVE64 (SDM volume 1, table 10-2).
struct alignas(16) FxImage {
  uint16_t control, status;
  uint8_t valid, reserved;
  uint16_t last_opcode;
  uint64_t last_ip, last_dp;
  uint32_t mxcsr, mxcsr_mask;
  uint8_t st[8][16];
  uint8_t rest[352];
};
static_assert(sizeof(FxImage) == 512);
static_assert(offsetof(FxImage, control) == 0 && offsetof(FxImage, status) == 2 && offsetof(FxImage, valid) == 4 &&
              offsetof(FxImage, reserved) == 5 && offsetof(FxImage, last_opcode) == 6 &&
              offsetof(FxImage, last_ip) == 8 && offsetof(FxImage, last_dp) == 16 && offsetof(FxImage, mxcsr) == 24 &&
              offsetof(FxImage, mxcsr_mask) == 28 && offsetof(FxImage, st) == 32 && offsetof(FxImage, rest) == 160);

// Which memory forms exist, by opcode and reg: the operand's size in bytes, negative for a store, 0 for none.
// Environments (28 bytes) and whole states (108) are of the 32-bit format.
constexpr int8_t kEnvironment = 28, kWholeState = 108;
constexpr int8_t kMemoryForms[8][8] = {
    {4, 4, 4, 4, 4, 4, 4, 4},                            // D8: arithmetic, m32fp
    {4, 0, -4, -4, kEnvironment, 2, -kEnvironment, -2},  // D9
    {4, 4, 4, 4, 4, 4, 4, 4},                            // DA: arithmetic, m32int
    {4, -4, -4, -4, 0, 10, 0, -10},                      // DB
    {8, 8, 8, 8, 8, 8, 8, 8},                            // DC: arithmetic, m64fp
    {8, -8, -8, -8, kWholeState, 0, -kWholeState, -2},   // DD
    {2, 2, 2, 2, 2, 2, 2, 2},                            // DE: arithmetic, m16int
    {2, -2, -2, -2, 10, 8, -10, -8},                     // DF
};

// Which register forms exist: bit (modrm - 0xC0) of each opcode. Aliases that every processor has executed since the
// 8087 are in.
constexpr uint64_t kAll = ~uint64_t{0};
constexpr uint64_t Rows(uint64_t first, uint64_t count) {
  return (count == 64 ? kAll : (uint64_t{1} << count) - 1) << (first - 0xC0);
}
constexpr uint64_t kRegisterForms[8] = {
    kAll,
    Rows(0xC0, 17) | Rows(0xD8, 8) | Rows(0xE0, 2) | Rows(0xE4, 2) | Rows(0xE8, 7) | Rows(0xF0, 16),
    Rows(0xC0, 32) | Rows(0xE9, 1),
    Rows(0xC0, 32) | Rows(0xE0, 5) | Rows(0xE8, 16),
    kAll,
    Rows(0xC0, 48),
    Rows(0xC0, 24) | Rows(0xD9, 1) | Rows(0xE0, 32),
    Rows(0xC0, 32) | Rows(0xE0, 1) | Rows(0xE8, 16),
};

bool IsRegisterForm(uint8_t modrm) { return modrm >= 0xC0; }
uint8_t Reg(uint8_t modrm) { return modrm >> 3 & 7; }

void Initialise(X87State& state) {
  state.control = 0x037F;
  state.status = 0;
  state.valid = 0;
  state.last_opcode = 0;
  state.last_ip = state.last_dp = 0;
  state.last_cs = state.last_ds = 0;
}

template <typename T>
void Put(uint8_t*& at, T value) {
  std::memcpy(at, &value, sizeof(value));
  at += sizeof(value);
}
template <typename T>
T Take(const uint8_t*& at) {
  T value;
  std::memcpy(&value, at, sizeof(value));
  at += sizeof(value);
  return value;
}

// An environment is seven fields of two or four bytes: control, status, tags, and two pointers of two fields each. In
// protected mode the second field of a pointer is the selector; in real mode the pointer is a linear address whose upper
// part stands in the second field's upper bits. The opcode has what is left of the instruction pointer's.
uint8_t* StoreEnvironment(const X87State& state, X87Image image, uint8_t* at) {
  const bool narrow = IsNarrow(image), real = image == X87Image::kReal16 || image == X87Image::kReal32;
  const uint32_t opcode = state.last_opcode & 0x7FF;
  uint32_t fields[7] = {state.control, state.status, X87FullTag(state)};
  // What a 32-bit field has no use for reads as ones.
  constexpr uint32_t kReserved = 0xFFFF0000;
  for (int i = 0; i < 3; ++i) fields[i] |= kReserved;
  if (real) {
    const uint32_t ip = (uint32_t{state.last_cs} << 4) + static_cast<uint32_t>(state.last_ip);
    const uint32_t dp = (uint32_t{state.last_ds} << 4) + static_cast<uint32_t>(state.last_dp);
    fields[3] = ip | kReserved;
    fields[4] = (ip >> 16) << 12 | opcode;
    fields[5] = dp | kReserved;
    fields[6] = (dp >> 16) << 12;
  } else {
    fields[3] = static_cast<uint32_t>(state.last_ip);
    fields[4] = state.last_cs | opcode << 16;
    fields[5] = static_cast<uint32_t>(state.last_dp);
    fields[6] = state.last_ds | kReserved;
  }
  for (const uint32_t field : fields) {
    if (narrow) {
      Put<uint16_t>(at, static_cast<uint16_t>(field));
    } else {
      Put<uint32_t>(at, field);
    }
  }
  return at;
}

const uint8_t* LoadEnvironment(X87State& state, X87Image image, const uint8_t* at) {
  const bool narrow = IsNarrow(image), real = image == X87Image::kReal16 || image == X87Image::kReal32;
  uint32_t fields[7];
  for (uint32_t& field : fields) field = narrow ? Take<uint16_t>(at) : Take<uint32_t>(at);
  state.SetControl(fields[0]);
  state.status = static_cast<uint16_t>(fields[1]);
  X87SetFullTag(state, static_cast<uint16_t>(fields[2]));
  if (real) {
    state.last_ip = (fields[3] & 0xFFFF) | (fields[4] >> 12 & 0xFFFF) << 16;
    state.last_dp = (fields[5] & 0xFFFF) | (fields[6] >> 12 & 0xFFFF) << 16;
    state.last_cs = state.last_ds = 0;
    state.last_opcode = fields[4] & 0x7FF;
  } else {
    state.last_ip = fields[3];
    state.last_cs = static_cast<uint16_t>(fields[4]);
    state.last_opcode = fields[4] >> 16 & 0x7FF;  // 0 in 16 bits
    state.last_dp = fields[5];
    state.last_ds = static_cast<uint16_t>(fields[6]);
  }
  X87UpdateSummary(state);
  return at;
}

// The instructions that neither compute nor wait, and those that load what they store. False: not one of them.
bool ExecuteControl(X87State& state, uint8_t opcode, uint8_t modrm, X87Image image, uint8_t* memory, uint16_t& ax,
                    bool& stored) {
  if (IsRegisterForm(modrm)) {
    if (opcode == 0xDB && modrm == 0xE2) {  // FNCLEX
      state.status &= 0x7F00;
      return true;
    }
    if (opcode == 0xDB && modrm == 0xE3) {  // FNINIT
      Initialise(state);
      return true;
    }
    if (opcode == 0xDB && (modrm == 0xE0 || modrm == 0xE1 || modrm == 0xE4)) return true;  // FNENI, FNDISI, FNSETPM
    if (opcode == 0xDF && modrm == 0xE0) {                                                 // FNSTSW AX
      ax = state.status;
      return true;
    }
    return false;
  }
  const uint8_t reg = Reg(modrm);
  if (opcode == 0xD9 && reg == 4) {  // FLDENV
    LoadEnvironment(state, image, memory);
    return true;
  }
  if (opcode == 0xD9 && reg == 5) {  // FLDCW
    uint16_t control;
    std::memcpy(&control, memory, 2);
    state.SetControl(control);
    X87UpdateSummary(state);
    return true;
  }
  if (opcode == 0xD9 && reg == 6) {  // FNSTENV
    StoreEnvironment(state, image, memory);
    state.control |= kExceptionFlags;
    X87UpdateSummary(state);
    return stored = true;
  }
  if (opcode == 0xD9 && reg == 7) {  // FNSTCW
    std::memcpy(memory, &state.control, 2);
    return stored = true;
  }
  if (opcode == 0xDD && reg == 4) {  // FRSTOR
    const uint8_t* at = LoadEnvironment(state, image, memory);
    for (uint32_t i = 0; i < 8; ++i, at += 10) std::memcpy(state.st(i), at, 10);
    return true;
  }
  if (opcode == 0xDD && reg == 6) {  // FNSAVE
    uint8_t* at = StoreEnvironment(state, image, memory);
    for (uint32_t i = 0; i < 8; ++i, at += 10) std::memcpy(at, state.st(i), 10);
    Initialise(state);
    return stored = true;
  }
  if (opcode == 0xDD && reg == 7) {  // FNSTSW m16
    std::memcpy(memory, &state.status, 2);
    return stored = true;
  }
  return false;
}

}  // namespace

void X87UpdateSummary(X87State& state) {
  const bool pending = (state.status & ~state.control & kExceptionFlags) != 0;
  state.status &= static_cast<uint16_t>(~(kSummary | kBusy));
  if (pending) state.status |= kSummary | kBusy;
}

void X87State::EnterMmx() {
  SetTop(0);
  valid = 0xFF;
}
void X87State::CopyStackTo(uint8_t (&to)[8][16]) const {
  for (uint32_t i = 0; i < 8; ++i) std::memcpy(to[i], st(i), 16);
}
void X87State::CopyStackFrom(const uint8_t (&from)[8][16]) {
  for (uint32_t i = 0; i < 8; ++i) {
    std::memcpy(st(i), from[i], 10);
    std::memset(st(i) + 10, 0, 6);
  }
}

X87Memory X87MemoryOperand(uint8_t opcode, uint8_t modrm, X87Image image) {
  if (IsRegisterForm(modrm)) return {0, false};
  const int8_t form = kMemoryForms[opcode & 7][Reg(modrm)];
  int size = form < 0 ? -form : form;
  if (IsNarrow(image) && (size == kEnvironment || size == kWholeState)) size -= 14;
  return {static_cast<uint8_t>(size), form < 0};
}

bool X87IsNoWait(uint8_t opcode, uint8_t modrm) {
  if (IsRegisterForm(modrm)) {
    return (opcode == 0xDB && modrm >= 0xE0 && modrm <= 0xE4) || (opcode == 0xDF && modrm == 0xE0);
  }
  const uint8_t reg = Reg(modrm);
  return (opcode == 0xD9 && reg >= 6) || (opcode == 0xDD && reg >= 6);
}

uint16_t X87FullTag(const X87State& state) {
  uint16_t tag = 0;
  for (uint32_t i = 0; i < 8; ++i) {
    const uint8_t* bytes = state.physical[i];
    uint64_t significand;
    uint16_t exponent;
    std::memcpy(&significand, bytes, 8);
    std::memcpy(&exponent, bytes + 8, 2);
    exponent &= 0x7FFF;
    uint16_t kind = 0;  // valid
    if ((state.valid >> i & 1) == 0) {
      kind = 3;  // empty
    } else if (exponent == 0 && significand == 0) {
      kind = 1;  // zero
    } else if (exponent == 0 || exponent == 0x7FFF || (significand >> 63) == 0) {
      kind = 2;  // special
    }
    tag |= static_cast<uint16_t>(kind << (2 * i));
  }
  return tag;
}

uint16_t X87KeptConditionCodes(uint8_t opcode, uint8_t modrm) {
  constexpr uint8_t kOne[10] = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xFF, 0x3F};
  const auto run = [&](uint16_t before, uint8_t valid) {
    X87State state;
    state.status = before;
    state.valid = valid;
    for (auto& number : state.physical) std::memcpy(number, kOne, 10);
    uint8_t memory[108] = {};
    uint64_t rflags = 2;
    uint16_t ax = 0;
    bool stored;
    (void)ExecuteX87(state, opcode, modrm, X87Image::kProtected32, memory, rflags, ax, stored);
    return state.status;
  };
  // Eight numbers, or seven for what pushes one.
  const uint8_t valid = run(0, 0xFF) & kStackFault ? 0x7F : 0xFF;
  return run(kConditionCodes, valid) & ~run(0, valid) & kConditionCodes;
}

void X87SetFullTag(X87State& state, uint16_t tag) {
  state.valid = 0;
  for (uint32_t i = 0; i < 8; ++i) {
    if ((tag >> (2 * i) & 3) != 3) state.valid |= static_cast<uint8_t>(1 << i);
  }
}

X87Outcome ExecuteX87(X87State& state, uint8_t opcode, uint8_t modrm, X87Image image, uint8_t* memory, uint64_t& rflags,
                      uint16_t& ax, bool& stored) {
  stored = false;
  const bool register_form = IsRegisterForm(modrm);
  const X87Memory operand = X87MemoryOperand(opcode, modrm, image);
  const bool exists = register_form ? (kRegisterForms[opcode & 7] >> (modrm - 0xC0) & 1) != 0 : operand.size_bytes != 0;
  if (!exists) return X87Outcome::kUndefinedOpcode;
  if (X87ExceptionPending(state) && !X87IsNoWait(opcode, modrm)) return X87Outcome::kPendingException;
  if (ExecuteControl(state, opcode, modrm, image, memory, ax, stored)) return X87Outcome::kDone;

  FxImage fx;
  std::memset(&fx, 0, sizeof(fx));
  fx.control = state.control;
  // The exceptions of this instruction alone are wanted; the earlier ones are put back below.
  fx.status = static_cast<uint16_t>(state.status & ~(kExceptionFlags | kStackFault | kSummary | kBusy));
  fx.valid = state.valid;
  fx.mxcsr = _mm_getcsr();
  state.CopyStackTo(fx.st);
  uint8_t out[16];
  const uint8_t* stub = register_form ? hvsdk_x87_register_forms + 4 * ((opcode & 7) * 64 + (modrm - 0xC0))
                                      : hvsdk_x87_memory_forms + 4 * ((opcode & 7) * 8 + Reg(modrm));
  const HvsdkX87Result result = hvsdk_x87_run(&fx, stub, operand.store ? out : memory, (rflags & kArithmeticFlags) | 2);

  const uint16_t unmasked = fx.status & static_cast<uint16_t>(~state.control) & kExceptionFlags;
  const uint16_t earlier = state.status & (kExceptionFlags | kStackFault);
  state.status = static_cast<uint16_t>((fx.status & ~(kSummary | kBusy)) | earlier);
  state.valid = fx.valid;
  state.CopyStackFrom(fx.st);
  // An unmasked exception leaves a memory operand alone, but for the one that only tells of an inexact result.
  if (operand.store && (unmasked & ~kInexact) == 0) {
    std::memcpy(memory, out, operand.size_bytes);
    stored = true;
  }
  rflags = (rflags & ~kArithmeticFlags) | (result.rflags & kArithmeticFlags);
  X87UpdateSummary(state);
  return X87Outcome::kDone;
}

}  // namespace hvsdk::software

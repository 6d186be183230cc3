// SPDX-License-Identifier: Apache-2.0
// What the handlers of x87, MMX and SSE instructions share: whether the unit may be used, wide loads and stores, MMX
// registers, and whose MXCSR the host's processor holds.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_FPU_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_FPU_H_

#include <emmintrin.h>

#include <cstring>

#include "backend_software/code/decoder.h"
#include "backend_software/processor/memory_access.h"
#include "backend_software/vector/sse_ops.h"
#include "backend_software/vector/x87_compute.h"

namespace hvsdk::software {

inline constexpr uint32_t kMxcsrFlags = 0x3F;
inline constexpr uint32_t kMxcsrMasks = 0x1F80;
inline constexpr uint32_t kMxcsrMask = 0xFFFF;  // the bits that exist
inline constexpr uint32_t kMxcsrUnderflow = 0x10, kMxcsrUnderflowMask = 0x800, kMxcsrFlushToZero = 0x8000;

// While guest code runs, the host's MXCSR has the guest's rounding and its sticky flags, with every exception masked;
// Cpu::mxcsr has the guest's masks, and flags that may be old. The x87 unit has kX87HostControl, as it mostly has anyway.
// Cpu::Enter and Cpu::Leave change sides by these.
inline void LoadGuestFpuControl(Cpu& c) {
  c.host_mxcsr = _mm_getcsr();
  _mm_setcsr(c.mxcsr | kMxcsrMasks);
  c.host_x87_control = x87::ControlWord();
  if (c.host_x87_control != kX87HostControl) [[unlikely]]
    x87::SetControlWord(kX87HostControl);
}
inline void SaveGuestFpuControl(Cpu& c) {
  c.mxcsr |= _mm_getcsr() & kMxcsrFlags;
  _mm_setcsr(c.host_mxcsr);
  if (c.host_x87_control != kX87HostControl) [[unlikely]] {
    x87::ClearExceptions();  // of the guest, which must not come out where the host has them unmasked
    x87::SetControlWord(c.host_x87_control);
  }
}
// The guest's own value, from within guest code; and a new one.
inline uint32_t GuestMxcsr(const Cpu& c) { return c.mxcsr | (_mm_getcsr() & kMxcsrFlags); }
inline void SetGuestMxcsr(Cpu& c, uint32_t value) {
  c.mxcsr = value;
  _mm_setcsr(value | kMxcsrMasks);
}

// The state of both units as FXSAVE64 has it, from outside guest code; the selectors, which it lacks, are left alone.
void SaveFxImage(const Cpu& c, uint8_t (&image)[512]);
void RestoreFxImage(Cpu& c, const uint8_t (&image)[512]);
uint32_t FxImageMxcsr(const uint8_t (&image)[512]);

// Whether the instruction may use its unit in the mode it is decoded for; if not, `op` raises what the architecture
// says (Intel SDM volume 3, tables 2-3 and 13-2) and the translator returns true.
enum class Unit { kX87, kMmx, kSse };
inline bool UnitMissing(Insn& in, Op& op, Unit unit) {
  const bool emulated = in.mode & kModeEmulate;
  const bool switched = in.mode & kModeTaskSwitched;
  const bool undefined = (unit != Unit::kX87 && emulated) || (unit == Unit::kSse && (in.mode & kModeNoSse));
  if (!undefined && !switched && !emulated) return false;
  op.handler = undefined ? &RaiseUndefined : &RaiseNoDevice;
  in.ends = true;
  return true;
}

inline __m128i GetVector(Cpu& c, uint8_t offset) {
  return _mm_load_si128(reinterpret_cast<const __m128i*>(&c.XmmAt(offset)));
}
inline void SetVector(Cpu& c, uint8_t offset, __m128i value) {
  _mm_store_si128(reinterpret_cast<__m128i*>(&c.XmmAt(offset)), value);
}

HVSDK_GUEST_ACCESS __m128i RawLoadVector(uint64_t host) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(host));
}
HVSDK_GUEST_ACCESS void RawStoreVector(uint64_t host, __m128i value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(host), value);
}

template <bool kAligned>
inline __m128i LoadVector(Cpu& c, const Op* op, uint64_t linear) {
  if (kAligned && (linear & 15) != 0) [[unlikely]] {
    c.op = op;
    c.Raise(kGeneralProtection, 0);
  }
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.read == ((linear + 15) & ~(kPageSize - 1))) [[likely]]
    return RawLoadVector(entry.addend + linear);
  alignas(16) uint8_t bytes[16];
  c.LoadBytes(op, linear, bytes, 16);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}
template <bool kAligned>
inline void StoreVector(Cpu& c, const Op* op, uint64_t linear, __m128i value) {
  if (kAligned && (linear & 15) != 0) [[unlikely]] {
    c.op = op;
    c.Raise(kGeneralProtection, 0);
  }
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.write == ((linear + 15) & ~(kPageSize - 1))) [[likely]]
    return RawStoreVector(entry.addend + linear, value);
  alignas(16) uint8_t bytes[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes), value);
  c.StoreBytes(op, linear, bytes, 16);
}

// A memory operand of 16 (aligned), 8, 4 or 2 bytes, zero-extended.
template <int kBytes>
inline __m128i LoadOperand(Cpu& c, const Op* op) {
  const uint64_t linear = Address<false>(c, op, kBytes, false);
  if constexpr (kBytes == 16) return LoadVector<true>(c, op, linear);
  if constexpr (kBytes == 8) return _mm_cvtsi64_si128(static_cast<int64_t>(Load<uint64_t>(c, op, linear)));
  if constexpr (kBytes == 4) return _mm_cvtsi32_si128(static_cast<int32_t>(Load<uint32_t>(c, op, linear)));
  return _mm_cvtsi32_si128(Load<uint16_t>(c, op, linear));
}
// Picks a handler by the operand's size: ByBytes(4, []<int kBytes>() -> Handler { ... }).
template <typename Pick>
Handler ByBytes(int bytes, Pick pick) {
  switch (bytes) {
    case 2:
      return pick.template operator()<2>();
    case 4:
      return pick.template operator()<4>();
    case 8:
      return pick.template operator()<8>();
    default:
      return pick.template operator()<16>();
  }
}

// Every MMX instruction looks for a pending x87 exception, and then makes the register stack MMX's.
inline void CheckX87Pending(Cpu& c, const Op* op) {
  if (X87ExceptionPending(c.x87)) [[unlikely]] {
    c.op = op;
    c.Raise(kX87Error);
  }
}
inline uint64_t GetMmx(Cpu& c, uint8_t index) {
  uint64_t value;
  std::memcpy(&value, c.x87.physical[index], 8);
  return value;
}
inline void SetMmx(Cpu& c, uint8_t index, uint64_t value) {
  std::memcpy(c.x87.physical[index], &value, 8);
  std::memset(c.x87.physical[index] + 8, 0xFF, 2);
}
inline uint8_t MmxIndex(const ZydisDecodedOperand& operand) {
  return static_cast<uint8_t>(operand.reg.value - ZYDIS_REGISTER_MM0);
}
inline bool IsMmx(const ZydisDecodedOperand& operand) {
  return operand.type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(operand.reg.value) == ZYDIS_REGCLASS_MMX;
}
inline bool IsXmm(const ZydisDecodedOperand& operand) {
  return operand.type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(operand.reg.value) == ZYDIS_REGCLASS_XMM;
}

// Keeps a computation between two changes of MXCSR: to the compiler it has nothing to do with them.
template <typename Compute>
[[gnu::noinline]] auto ComputeHere(Compute& compute) {
  asm volatile("" ::: "memory");
  return compute();
}

// Whether an element that `underflow` names is a denormal number.
bool HasDenormal(__m128i value, Underflow underflow);

// Runs `compute` and raises #XM if it met an exception that the guest has not masked; then nothing was written yet.
//
// The host computes with all masked. Then an underflow is told only where the result is inexact too, and is flushed to
// zero if so asked; unmasked, an exact one counts as well, which shows in the result, and there is no flushing (Intel
// SDM volume 1, 11.5.2.5 and 10.2.3.3).
template <typename Compute>
inline auto Floating(Cpu& c, const Op* op, Compute compute, Underflow underflow = Underflow::kNever) {
  if ((c.mxcsr & kMxcsrMasks) == kMxcsrMasks) [[likely]]
    return compute();
  const uint32_t before = GuestMxcsr(c);
  const bool underflows = underflow != Underflow::kNever && !(before & kMxcsrUnderflowMask);
  _mm_setcsr((before | kMxcsrMasks) & ~(kMxcsrFlags | (underflows ? kMxcsrFlushToZero : 0)));
  const auto result = ComputeHere(compute);
  uint32_t raised = _mm_getcsr() & kMxcsrFlags;
  if constexpr (requires { HasDenormal(result, underflow); }) {
    if (underflows && HasDenormal(result, underflow)) raised |= kMxcsrUnderflow;
  }
  const uint32_t unmasked = raised & ~(before >> 7);
  // Invalid, denormal and zero divide are found before anything is computed, so nothing else is then.
  if (unmasked & 7) raised &= 7;
  SetGuestMxcsr(c, before | raised);
  if (unmasked != 0) {
    c.op = op;
    c.Raise(c.cr4 & kCr4Osxmmexcpt ? kSimdError : kInvalidOpcode);
  }
  return result;
}

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_FPU_H_

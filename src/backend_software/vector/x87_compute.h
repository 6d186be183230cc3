// SPDX-License-Identifier: Apache-2.0
// What the x87 instructions compute, each by the very same instruction on the host's unit, with operands and results as
// C++ values; and what such a result does to the guest's status word.
//
// An operation here runs with its exceptions masked and its operands present. Run tells when that is not what the guest
// would have seen; then nothing has changed, and ExecuteX87 does the instruction with the guest's whole state.
// Source: Intel SDM volume 1, chapter 8.
//
// Needs an empty host stack, as the calling convention has it, and kX87HostControl as the host's control word, which
// Cpu::Enter sees to.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_COMPUTE_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_COMPUTE_H_

#include <cstdint>
#include <type_traits>

#include "backend_software/vector/x87.h"

namespace hvsdk::software::x87 {

inline constexpr uint16_t kExceptions = 0x3F, kUnderflowMask = 0x10, kConditionCodes = 0x4700;

inline uint16_t ControlWord() {
  uint16_t control;
  asm volatile("fnstcw %0" : "=m"(control));
  return control;
}
inline void SetControlWord(uint16_t control) { asm volatile("fldcw %0" ::"m"(control)); }
inline void ClearExceptions() { asm volatile("fnclex"); }

// A register as a number. Loads and stores of 80 bits change nothing and raise nothing, whatever the bits are.
typedef long double __attribute__((may_alias)) RegisterBits;
inline long double Get(const uint8_t* from) { return *reinterpret_cast<const RegisterBits*>(from); }
inline void Put(uint8_t* to, long double value) { *reinterpret_cast<RegisterBits*>(to) = value; }

struct Result {
  long double value;
  uint16_t status;
};

enum class Format { kSingle, kDouble, kInt16, kInt32, kInt64 };
template <Format kFormat>
using BitsOf =
    std::conditional_t<kFormat == Format::kInt16, uint16_t,
                       std::conditional_t<kFormat == Format::kSingle || kFormat == Format::kInt32, uint32_t, uint64_t>>;

// ST(0) = ST(0) op ST(1), or op a memory operand.
#define HVSDK_X87_ARITHMETIC(NAME, FLOAT, INTEGER)                                                        \
  struct NAME {                                                                                           \
    static Result Register(long double a, long double b) {                                                \
      Result r;                                                                                           \
      asm volatile(FLOAT " %%st(1), %%st\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "0"(a), "u"(b)); \
      return r;                                                                                           \
    }                                                                                                     \
    template <Format kFormat>                                                                             \
    static Result Memory(long double a, BitsOf<kFormat> b) {                                              \
      Result r;                                                                                           \
      if constexpr (kFormat == Format::kSingle) {                                                         \
        asm volatile(FLOAT "s %3\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "0"(a), "m"(b));         \
      } else if constexpr (kFormat == Format::kDouble) {                                                  \
        asm volatile(FLOAT "l %3\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "0"(a), "m"(b));         \
      } else if constexpr (kFormat == Format::kInt16) {                                                   \
        asm volatile(INTEGER "s %3\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "0"(a), "m"(b));       \
      } else {                                                                                            \
        asm volatile(INTEGER "l %3\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "0"(a), "m"(b));       \
      }                                                                                                   \
      return r;                                                                                           \
    }                                                                                                     \
  };
HVSDK_X87_ARITHMETIC(Add, "fadd", "fiadd")
HVSDK_X87_ARITHMETIC(Multiply, "fmul", "fimul")
HVSDK_X87_ARITHMETIC(Subtract, "fsub", "fisub")
HVSDK_X87_ARITHMETIC(SubtractReversed, "fsubr", "fisubr")
HVSDK_X87_ARITHMETIC(Divide, "fdiv", "fidiv")
HVSDK_X87_ARITHMETIC(DivideReversed, "fdivr", "fidivr")
#undef HVSDK_X87_ARITHMETIC

// Comparisons whose result is in the condition codes.
struct Compare {
  static uint16_t Register(long double a, long double b) {
    uint16_t status;
    asm volatile("fcom %%st(1)\n\tfnstsw %0" : "=a"(status) : "t"(a), "u"(b));
    return status;
  }
  template <Format kFormat>
  static uint16_t Memory(long double a, BitsOf<kFormat> b) {
    uint16_t status;
    if constexpr (kFormat == Format::kSingle) {
      asm volatile("fcoms %2\n\tfnstsw %0" : "=a"(status) : "t"(a), "m"(b));
    } else if constexpr (kFormat == Format::kDouble) {
      asm volatile("fcoml %2\n\tfnstsw %0" : "=a"(status) : "t"(a), "m"(b));
    } else if constexpr (kFormat == Format::kInt16) {
      asm volatile("ficoms %2\n\tfnstsw %0" : "=a"(status) : "t"(a), "m"(b));
    } else {
      asm volatile("ficoml %2\n\tfnstsw %0" : "=a"(status) : "t"(a), "m"(b));
    }
    return status;
  }
};
struct CompareUnordered {
  static uint16_t Register(long double a, long double b) {
    uint16_t status;
    asm volatile("fucom %%st(1)\n\tfnstsw %0" : "=a"(status) : "t"(a), "u"(b));
    return status;
  }
};
#define HVSDK_X87_EXAMINE(NAME, TEXT)                             \
  struct NAME {                                                   \
    static uint16_t Of(long double a) {                           \
      uint16_t status;                                            \
      asm volatile(TEXT "\n\tfnstsw %0" : "=a"(status) : "t"(a)); \
      return status;                                              \
    }                                                             \
  };
HVSDK_X87_EXAMINE(Test, "ftst")
HVSDK_X87_EXAMINE(Examine, "fxam")
#undef HVSDK_X87_EXAMINE

// Comparisons whose result is in ZF, PF and CF; the other arithmetic flags become 0.
#define HVSDK_X87_COMPARE_FLAGS(NAME, TEXT)                                                   \
  struct NAME {                                                                               \
    static uint16_t Of(long double a, long double b, bool& zero, bool& parity, bool& carry) { \
      uint16_t status;                                                                        \
      asm volatile(TEXT " %%st(1), %%st\n\tfnstsw %0"                                         \
                   : "=a"(status), "=@ccz"(zero), "=@ccp"(parity), "=@ccc"(carry)             \
                   : "t"(a), "u"(b));                                                         \
      return status;                                                                          \
    }                                                                                         \
  };
HVSDK_X87_COMPARE_FLAGS(CompareFlags, "fcomi")
HVSDK_X87_COMPARE_FLAGS(CompareFlagsUnordered, "fucomi")
#undef HVSDK_X87_COMPARE_FLAGS

// ST(0) = op ST(0).
#define HVSDK_X87_UNARY(NAME, TEXT)                                                \
  struct NAME {                                                                    \
    static Result Of(long double a) {                                              \
      Result r;                                                                    \
      asm volatile(TEXT "\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "0"(a)); \
      return r;                                                                    \
    }                                                                              \
  };
HVSDK_X87_UNARY(SquareRoot, "fsqrt")
HVSDK_X87_UNARY(Round, "frndint")
HVSDK_X87_UNARY(PowerOfTwo, "f2xm1")
HVSDK_X87_UNARY(Sine, "fsin")
HVSDK_X87_UNARY(Cosine, "fcos")
#undef HVSDK_X87_UNARY

// ST(0) = ST(0) op ST(1).
struct Scale {
  static Result Of(long double a, long double b) {
    Result r;
    asm volatile("fscale\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "0"(a), "u"(b));
    return r;
  }
};

// ST(1) = ST(1) op ST(0), and a pop.
#define HVSDK_X87_BINARY_POP(NAME, TEXT)                                                             \
  struct NAME {                                                                                      \
    static Result Of(long double a, long double b) {                                                 \
      Result r;                                                                                      \
      asm volatile(TEXT "\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "0"(a), "u"(b) : "st(1)"); \
      return r;                                                                                      \
    }                                                                                                \
  };
HVSDK_X87_BINARY_POP(ArcTangent, "fpatan")
HVSDK_X87_BINARY_POP(Logarithm, "fyl2x")
HVSDK_X87_BINARY_POP(LogarithmPlusOne, "fyl2xp1")
#undef HVSDK_X87_BINARY_POP

// What is pushed.
#define HVSDK_X87_CONSTANT(NAME, TEXT)                                    \
  struct NAME {                                                           \
    static Result Of() {                                                  \
      Result r;                                                           \
      asm volatile(TEXT "\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status)); \
      return r;                                                           \
    }                                                                     \
  };
HVSDK_X87_CONSTANT(One, "fld1")
HVSDK_X87_CONSTANT(Log2Of10, "fldl2t")
HVSDK_X87_CONSTANT(Log2OfE, "fldl2e")
HVSDK_X87_CONSTANT(Pi, "fldpi")
HVSDK_X87_CONSTANT(Log10Of2, "fldlg2")
HVSDK_X87_CONSTANT(LogEOf2, "fldln2")
HVSDK_X87_CONSTANT(Zero, "fldz")
#undef HVSDK_X87_CONSTANT

template <Format kFormat>
Result LoadAs(BitsOf<kFormat> bits) {
  Result r;
  if constexpr (kFormat == Format::kSingle) {
    asm volatile("flds %2\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "m"(bits));
  } else if constexpr (kFormat == Format::kDouble) {
    asm volatile("fldl %2\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "m"(bits));
  } else if constexpr (kFormat == Format::kInt16) {
    asm volatile("filds %2\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "m"(bits));
  } else if constexpr (kFormat == Format::kInt32) {
    asm volatile("fildl %2\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "m"(bits));
  } else {
    asm volatile("fildll %2\n\tfnstsw %1" : "=t"(r.value), "=a"(r.status) : "m"(bits));
  }
  return r;
}

template <Format kFormat>
uint16_t StoreAs(long double value, BitsOf<kFormat>& bits) {
  uint16_t status;
  if constexpr (kFormat == Format::kSingle) {
    asm volatile("fsts %1\n\tfnstsw %0" : "=a"(status), "=m"(bits) : "t"(value));
  } else if constexpr (kFormat == Format::kDouble) {
    asm volatile("fstl %1\n\tfnstsw %0" : "=a"(status), "=m"(bits) : "t"(value));
  } else if constexpr (kFormat == Format::kInt16) {
    asm volatile("fists %1\n\tfnstsw %0" : "=a"(status), "=m"(bits) : "t"(value));
  } else if constexpr (kFormat == Format::kInt32) {
    asm volatile("fistl %1\n\tfnstsw %0" : "=a"(status), "=m"(bits) : "t"(value));
  } else {
    asm volatile("fistpll %1\n\tfnstsw %0" : "=a"(status), "=m"(bits) : "t"(value) : "st");
  }
  return status;
}
// FISTTP.
template <Format kFormat>
uint16_t StoreTruncated(long double value, BitsOf<kFormat>& bits) {
  uint16_t status;
  if constexpr (kFormat == Format::kInt16) {
    asm volatile("fisttps %1\n\tfnstsw %0" : "=a"(status), "=m"(bits) : "t"(value) : "st");
  } else if constexpr (kFormat == Format::kInt32) {
    asm volatile("fisttpl %1\n\tfnstsw %0" : "=a"(status), "=m"(bits) : "t"(value) : "st");
  } else {
    asm volatile("fisttpll %1\n\tfnstsw %0" : "=a"(status), "=m"(bits) : "t"(value) : "st");
  }
  return status;
}

// Whether an instruction may go the short way: the tags of ST(0) to ST(7) under `mask` are `tags`, and what it does with
// exceptions masked tells whether it would meet one that is not. An unmasked underflow is the exception: it also counts
// where the result is exact, which shows nowhere else.
inline bool IsReady(const X87State& state, uint8_t mask, uint8_t tags) {
  const uint32_t doubled = state.valid | static_cast<uint32_t>(state.valid) << 8;
  return (doubled >> state.top() & mask) == tags && (state.control & kUnderflowMask) != 0 &&
         !X87ExceptionPending(state);
}

// Runs `compute`, which returns the host's status word and may run twice. False: it met an unmasked exception.
// `taken`: the bits of that status word that become the guest's.
//
// The host's exception flags are sticky and never cleared on the way in, which would cost more than the operation. That
// does not matter while the guest's own have all of them. If they have not, the host's are cleared and the operation runs
// again; then they are its own.
template <typename Compute>
inline bool Run(X87State& state, uint16_t taken, Compute compute) {
  const uint16_t control = state.control;
  if (control != kX87HostControl) [[unlikely]]
    SetControlWord(control | kExceptions);
  uint16_t status = compute();
  bool masked = true;
  if (status & ~state.status & kExceptions) [[unlikely]] {
    ClearExceptions();
    status = compute();
    masked = (status & ~control & kExceptions) == 0;
  }
  if (control != kX87HostControl) [[unlikely]]
    SetControlWord(kX87HostControl);
  if (!masked) return false;
  state.status = static_cast<uint16_t>((state.status & ~(taken & kConditionCodes)) | (status & taken));
  return true;
}

inline void Pop(X87State& state) {
  state.valid &= static_cast<uint8_t>(~(1 << state.top()));
  state.SetTop(state.top() + 1);
}
// The new ST(0), which is the caller's to fill.
inline uint8_t* Push(X87State& state) {
  state.SetTop(state.top() - 1);
  state.valid |= static_cast<uint8_t>(1 << state.top());
  return state.st(0);
}

}  // namespace hvsdk::software::x87

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_VECTOR_X87_COMPUTE_H_

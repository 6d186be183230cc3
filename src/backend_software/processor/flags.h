// SPDX-License-Identifier: Apache-2.0
// Lazy arithmetic flags: an operation leaves its result and its vector of carries; a flag is computed when somebody
// asks.
//
//   result  sign-extended to 64 bits: ZF, SF and PF follow from it
//   aux     bit 63 carry out of the top bit (CF)     bit 62 carry into the top bit (OF = 63 xor 62)
//           bit 3 carry out of bit 3 (AF)            bits 15:8 and bit 0 flip PF and SF, so that any
//                                                    combination of flags can be represented
// All other bits of aux are meaningless.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_FLAGS_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_FLAGS_H_

#include <cstdint>
#include <type_traits>

namespace hvsdk::software {

inline constexpr uint64_t kFlagCf = 1 << 0;
inline constexpr uint64_t kFlagOne = 1 << 1;
inline constexpr uint64_t kFlagPf = 1 << 2;
inline constexpr uint64_t kFlagAf = 1 << 4;
inline constexpr uint64_t kFlagZf = 1 << 6;
inline constexpr uint64_t kFlagSf = 1 << 7;
inline constexpr uint64_t kFlagTf = 1 << 8;
inline constexpr uint64_t kFlagIf = 1 << 9;
inline constexpr uint64_t kFlagDf = 1 << 10;
inline constexpr uint64_t kFlagOf = 1 << 11;
inline constexpr uint64_t kFlagIopl = 3 << 12;
inline constexpr uint64_t kFlagNt = 1 << 14;
inline constexpr uint64_t kFlagRf = 1 << 16;
inline constexpr uint64_t kFlagVm = 1 << 17;
inline constexpr uint64_t kFlagAc = 1 << 18;
inline constexpr uint64_t kFlagVif = 1 << 19;
inline constexpr uint64_t kFlagVip = 1 << 20;
inline constexpr uint64_t kFlagId = 1 << 21;
// All that RFLAGS can hold.
inline constexpr uint64_t kRflagsBits = 0x3F7FD7;
inline constexpr uint64_t kArithmeticFlags = kFlagCf | kFlagPf | kFlagAf | kFlagZf | kFlagSf | kFlagOf;

struct LazyFlags {
  uint64_t result = 1;
  uint64_t aux = 0;

  template <typename T>
  void SetResult(T value) {
    result = static_cast<uint64_t>(static_cast<int64_t>(static_cast<std::make_signed_t<T>>(value)));
  }
  template <typename T>
  static uint64_t Carries(T carries) {
    if constexpr (sizeof(T) == 8) {
      return carries & 0xC000'0000'0000'0008;
    } else {
      return static_cast<uint64_t>(carries) << (64 - 8 * sizeof(T)) | (carries & 8);
    }
  }
  // The carries of a sum: out of a bit goes one if both were set, or either and the sum's bit is clear.
  template <typename T>
  void SetAdd(T a, T b, T sum) {
    SetResult(sum);
    aux = Carries(static_cast<T>((a & b) | ((a | b) & ~sum)));
  }
  template <typename T>
  void SetSub(T a, T b, T difference) {
    SetResult(difference);
    aux = Carries(static_cast<T>((~a & b) | (~(a ^ b) & difference)));
  }
  template <typename T>
  void SetLogic(T value) {
    SetResult(value);
    aux = 0;
  }

  bool cf() const { return aux >> 63; }
  bool of() const { return ((aux >> 63) ^ (aux >> 62)) & 1; }
  bool zf() const { return result == 0; }
  bool sf() const { return ((result >> 63) ^ aux) & 1; }
  bool af() const { return (aux >> 3) & 1; }
  bool pf() const { return !__builtin_parity((result ^ (aux >> 8)) & 0xFF); }

  void SetCf(bool cf) { SetCfOf(cf, of()); }
  void SetCfOf(bool cf, bool of) {
    aux = (aux & 0x3FFF'FFFF'FFFF'FFFF) | static_cast<uint64_t>(cf) << 63 | static_cast<uint64_t>(cf ^ of) << 62;
  }

  uint64_t Get() const {
    return (cf() ? kFlagCf : 0) | (pf() ? kFlagPf : 0) | (af() ? kFlagAf : 0) | (zf() ? kFlagZf : 0) |
           (sf() ? kFlagSf : 0) | (of() ? kFlagOf : 0);
  }
  void Set(uint64_t flags) {
    const bool cf = flags & kFlagCf;
    const bool of = flags & kFlagOf;
    result = (flags & kFlagZf) ? 0 : 1 << 16;  // non-zero, positive, low byte even
    aux = static_cast<uint64_t>(cf) << 63 | static_cast<uint64_t>(cf ^ of) << 62 | ((flags & kFlagAf) ? 8 : 0) |
          ((flags & kFlagPf) ? 0 : 1 << 8) | ((flags & kFlagSf) ? 1 : 0);
  }

  // Condition codes as in the low four bits of Jcc.
  template <int kCondition>
  bool Test() const {
    bool value;
    switch (kCondition >> 1) {
      case 0:
        value = of();
        break;
      case 1:
        value = cf();
        break;
      case 2:
        value = zf();
        break;
      case 3:
        value = cf() || zf();
        break;
      case 4:
        value = sf();
        break;
      case 5:
        value = pf();
        break;
      case 6:
        value = sf() != of();
        break;
      default:
        value = zf() || sf() != of();
        break;
    }
    return value != static_cast<bool>(kCondition & 1);
  }
};

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_FLAGS_H_

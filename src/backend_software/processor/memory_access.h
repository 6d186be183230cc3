// SPDX-License-Identifier: Apache-2.0
// The short way of a guest's loads and stores: one TLB compare, then a plain host access.
//
// Memory order. The host is x86 like the guest, so a plain host access has the order that the guest's has, as long as
// the compiler neither splits, merges nor reorders it: guest memory is touched through volatile accesses of the
// guest's own width alone. Locked instructions are compiler atomics, which are host locked instructions.

#ifndef HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_MEMORY_ACCESS_H_
#define HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_MEMORY_ACCESS_H_

#include <cstdint>

#include "absl/base/config.h"
#include "backend_software/processor/cpu.h"

#if !defined(__x86_64__)
#error "the software processor relies on an x86-64 host's memory order"
#endif

namespace hvsdk::software {

// Data races between VPs are the guest's own business; ThreadSanitizer looks at the emulator's.
#if defined(ABSL_HAVE_THREAD_SANITIZER)
#define HVSDK_GUEST_ACCESS inline __attribute__((no_sanitize("thread"), noinline))
#else
#define HVSDK_GUEST_ACCESS inline __attribute__((always_inline))
#endif

template <typename T>
struct UnalignedOf {
  typedef T __attribute__((aligned(1), may_alias)) type;
};

template <typename T>
HVSDK_GUEST_ACCESS T RawLoad(uint64_t host) {
  return *reinterpret_cast<const volatile typename UnalignedOf<T>::type*>(host);
}
template <typename T>
HVSDK_GUEST_ACCESS void RawStore(uint64_t host, T value) {
  *reinterpret_cast<volatile typename UnalignedOf<T>::type*>(host) = value;
}
HVSDK_GUEST_ACCESS void RawCopy(void* to, const void* from, size_t size) {
#if defined(ABSL_HAVE_THREAD_SANITIZER)
  for (size_t i = 0; i < size; ++i)
    static_cast<volatile uint8_t*>(to)[i] = static_cast<const volatile uint8_t*>(from)[i];
#else
  std::memcpy(to, from, size);
#endif
}
// Guest words may be anywhere within a page; the host's locked instructions take any alignment.
template <typename T>
HVSDK_GUEST_ACCESS bool RawCompareExchange(uint64_t host, T& expected, T desired) {
  return __atomic_compare_exchange_n(reinterpret_cast<T*>(host), &expected, desired, false, __ATOMIC_SEQ_CST,
                                     __ATOMIC_SEQ_CST);
}
template <typename T>
HVSDK_GUEST_ACCESS T RawExchange(uint64_t host, T value) {
  return __atomic_exchange_n(reinterpret_cast<T*>(host), value, __ATOMIC_SEQ_CST);
}

inline TlbEntry& TlbAt(Cpu& c, uint64_t linear) { return c.tlb[(linear >> kPageShift) & (kTlbEntries - 1)]; }
template <typename T>
uint64_t TagOf(uint64_t linear) {
  return (linear + sizeof(T) - 1) & ~(kPageSize - 1);
}

template <typename T>
inline T Load(Cpu& c, const Op* op, uint64_t linear) {
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.read == TagOf<T>(linear)) [[likely]]
    return RawLoad<T>(entry.addend + linear);
  return static_cast<T>(c.LoadSlow(op, linear, sizeof(T)));
}

template <typename T>
inline void Store(Cpu& c, const Op* op, uint64_t linear, T value) {
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.write == TagOf<T>(linear)) [[likely]] {
    RawStore<T>(entry.addend + linear, value);
    return;
  }
  c.StoreSlow(op, linear, value, sizeof(T));
}

// Read, `change`, write. `change` may set flags: it runs when the write can no longer fault.
template <typename T, typename Change>
inline void Rmw(Cpu& c, const Op* op, uint64_t linear, Change change) {
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.write == TagOf<T>(linear)) [[likely]] {
    const uint64_t host = entry.addend + linear;
    RawStore<T>(host, change(RawLoad<T>(host)));
    return;
  }
  const T value = static_cast<T>(c.LoadForWriteSlow(op, linear, sizeof(T)));
  c.StoreSlow(op, linear, change(value), sizeof(T));
}

template <typename T, typename Change>
inline void LockedRmw(Cpu& c, const Op* op, uint64_t linear, Change change) {
  const TlbEntry& entry = TlbAt(c, linear);
  uint64_t host;
  const bool fast = entry.write == TagOf<T>(linear);
  if (fast) [[likely]] {
    host = entry.addend + linear;
  } else {
    host = reinterpret_cast<uint64_t>(c.BeginLocked(op, linear, sizeof(T)));
    if (host == 0) {
      const T value = static_cast<T>(c.LoadForWriteSlow(op, linear, sizeof(T)));
      c.StoreSlow(op, linear, change(value), sizeof(T));
      c.EndLocked(linear, sizeof(T), true);
      return;
    }
  }
  T old = RawLoad<T>(host);
  while (!RawCompareExchange<T>(host, old, change(old))) {
  }
  if (!fast) c.EndLocked(linear, sizeof(T), false);
}

// The linear address of a memory operand. kSimple: base and displacement, 64-bit, no segment base.
template <bool kSimple>
inline uint64_t Address(Cpu& c, const Op* op, int size, bool write) {
  const uint64_t address = c.Get<uint64_t>(op->base) + static_cast<int64_t>(op->disp);
  if constexpr (kSimple) return address;
  if (op->flags & (kOpLegacyAddress | kOpRipBias)) [[unlikely]]
    return c.LegacyAddress(op, size, write);
  return address + (c.Get<uint64_t>(op->index) << op->scale) + c.Get<uint64_t>(op->segment);
}

// ---- handlers in two ---------------------------------------------------------------------------------------------
//
// A function that may call needs a stack frame and saves registers even when it does not. So the handlers that run most
// come in two, from one template: the quick one does everything the short way, without a call; where that cannot be, it
// has changed nothing yet and goes on as its twin, which does the whole instruction the long way. Usage:
//
//   template <typename T, bool kQuick = true>
//   HVSDK_TWIN const Op* Example(Cpu& c, const Op* op) {
//     T value;
//     if (!LoadTo<kQuick>(c, op, c.r[kRsp], value)) [[unlikely]] return Example<T, false>(c, op);
//     ...
#define HVSDK_TWIN __attribute__((noinline))

// False: not the short way, and only if kQuick.
template <bool kQuick, typename T>
inline bool LoadTo(Cpu& c, const Op* op, uint64_t linear, T& value) {
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.read == TagOf<T>(linear)) [[likely]] {
    value = RawLoad<T>(entry.addend + linear);
    return true;
  }
  if constexpr (!kQuick) value = static_cast<T>(c.LoadSlow(op, linear, sizeof(T)));
  return !kQuick;
}
template <bool kQuick, typename T>
inline bool StoreTo(Cpu& c, const Op* op, uint64_t linear, T value) {
  const TlbEntry& entry = TlbAt(c, linear);
  if (entry.write == TagOf<T>(linear)) [[likely]] {
    RawStore<T>(entry.addend + linear, value);
    return true;
  }
  if constexpr (!kQuick) c.StoreSlow(op, linear, value, sizeof(T));
  return !kQuick;
}
template <bool kQuick, typename T, typename Change>
inline bool RmwTo(Cpu& c, const Op* op, uint64_t linear, Change change) {
  if constexpr (kQuick) {
    const TlbEntry& entry = TlbAt(c, linear);
    if (entry.write != TagOf<T>(linear)) [[unlikely]]
      return false;
    const uint64_t host = entry.addend + linear;
    RawStore<T>(host, change(RawLoad<T>(host)));
  } else {
    Rmw<T>(c, op, linear, change);
  }
  return true;
}
template <bool kSimple, bool kQuick>
inline bool AddressTo(Cpu& c, const Op* op, int size, bool write, uint64_t& address) {
  if constexpr (kQuick && !kSimple) {
    if (op->flags & (kOpLegacyAddress | kOpRipBias)) [[unlikely]]
      return false;
    address = c.Get<uint64_t>(op->base) + static_cast<int64_t>(op->disp) + (c.Get<uint64_t>(op->index) << op->scale) +
              c.Get<uint64_t>(op->segment);
  } else {
    address = Address<kSimple>(c, op, size, write);
  }
  return true;
}
// The source operand: memory, or register Op::b.
template <typename T, bool kMemory, bool kQuick>
inline bool SourceTo(Cpu& c, const Op* op, T& value) {
  if constexpr (kMemory) {
    uint64_t address;
    return AddressTo<false, kQuick>(c, op, sizeof(T), false, address) && LoadTo<kQuick>(c, op, address, value);
  }
  value = c.Get<T>(op->b);
  return true;
}

}  // namespace hvsdk::software

#endif  // HVSDK_SRC_BACKEND_SOFTWARE_PROCESSOR_MEMORY_ACCESS_H_

// SPDX-License-Identifier: Apache-2.0
// Where a machine's memory stands in its guest physical address space, and how the guest is told (an E820 map).
//
//   0          ┌ memory; its last KiB below 640 KiB and the ROM area up to 1 MiB are not for the guest's use
//   3 GiB      ├ hole: 0xF8000000 MMIO for VMBus devices or a frame buffer, 0xFEC00000 IOAPIC, 0xFEE00000 local APIC
//   4 GiB      ├ memory beyond the first 3 GiB
//              ├ room for memory that is added while the machine runs
//   ~64 GiB    └ MMIO for VMBus devices, above all memory
//
// Source: ACPI 6.4, 15 "System Address Map Interfaces"; the MMIO ranges are those of a generation 1 VM.

#ifndef HVSDK_BOOT_MEMORY_LAYOUT_H_
#define HVSDK_BOOT_MEMORY_LAYOUT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"

namespace hvsdk::boot {

struct GpaRange {
  uint64_t gpa;
  uint64_t size_bytes;
  uint64_t end() const { return gpa + size_bytes; }
  friend bool operator==(const GpaRange&, const GpaRange&) = default;
};

inline constexpr uint64_t kMinMemoryBytes = uint64_t{2} << 20;
inline constexpr uint64_t kMaxMemoryBytes = uint64_t{1} << 42;

inline constexpr uint64_t kLowMemoryEnd = uint64_t{3} << 30;
inline constexpr uint64_t kHighMemoryStart = uint64_t{4} << 30;
inline constexpr uint64_t kConventionalEnd = 0x9FC00;
inline constexpr uint64_t kExtendedStart = 0x100000;
inline constexpr GpaRange kLowMmio{0xF8000000, 0x06C00000};  // up to the IOAPIC
inline constexpr uint64_t kIoApicGpa = 0xFEC00000;
inline constexpr uint64_t kLocalApicGpa = 0xFEE00000;

// As the boot protocols encode it.
struct E820Entry {
  enum Type : uint32_t { kUsable = 1, kReserved = 2 };
  uint64_t gpa;
  uint64_t size_bytes;
  uint32_t type;
  friend bool operator==(const E820Entry&, const E820Entry&) = default;
};

struct MemoryLayout {
  std::vector<GpaRange> memory;  // one range, or two around the hole
  GpaRange high_mmio;
  GpaRange video{};   // a frame buffer; empty: there is none
  GpaRange growth{};  // what may become memory while the machine runs, of which no E820 map tells; empty: there is none

  // `max_memory_bytes` is what the machine may grow to; 0: it does not.
  // InvalidArgument: less than 2 MiB, more than 4 TiB, or not whole MiB; to grow to less than it begins with; a frame buffer that is no
  // power of two of MiB or larger than kLowMmio.
  static absl::StatusOr<MemoryLayout> ForSize(uint64_t memory_bytes, uint64_t video_bytes = 0,
                                              uint64_t max_memory_bytes = 0);

  // What VMBus hands out below 4 GiB: the frame buffer alone where there is one, so that a guest which asks for as much gets just that.
  GpaRange low_mmio() const { return video.size_bytes != 0 ? video : kLowMmio; }

  // Sorted, without overlaps.
  std::vector<E820Entry> E820() const;
  // The first address beyond everything.
  uint64_t end() const { return high_mmio.end(); }
};

}  // namespace hvsdk::boot

#endif  // HVSDK_BOOT_MEMORY_LAYOUT_H_

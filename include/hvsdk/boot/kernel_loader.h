// SPDX-License-Identifier: Apache-2.0
// Puts a kernel, its initial RAM disk, its command line and the firmware's tables into guest memory, and says with what
// registers the first processor begins.
//
// Two kinds of kernel are known by their contents: a Linux bzImage, entered by the 64-bit boot protocol, and an ELF
// file (32- or 64-bit) with a PVH entry point.
//
// The image may be anybody's: whatever its headers say, nothing outside guest memory is touched and every failure
// is an error that says what is wrong with the image.
//
// Source: Linux Documentation/arch/x86/boot.rst, protocol 2.12 and later; Xen docs/misc/pvh.pandoc and
// public/arch-x86/hvm/start_info.h; System V ABI, "ELF-64 Object File Format".
//
//   LoadInput blame;
//   const absl::StatusOr<InitialState> state =
//       LoadKernel({.kernel = *kernel, .command_line = "console=ttyS0"}, layout, memory, blame);
//   if (!state.ok()) return state.status();
//   if (const absl::Status status = SetInitialState(*state, *bootstrap_vp); !status.ok()) return status;

#ifndef HVSDK_BOOT_KERNEL_LOADER_H_
#define HVSDK_BOOT_KERNEL_LOADER_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "hvsdk/backend/backend.h"
#include "hvsdk/boot/byte_source.h"
#include "hvsdk/boot/memory_layout.h"
#include "hvsdk/memory/guest_memory.h"

namespace hvsdk::boot {

// Where the loader puts what it makes; all below 640 KiB and unused by a kernel until it has taken over.
inline constexpr uint64_t kGdtGpa = 0x500;
inline constexpr uint64_t kPageTablesGpa = 0x2000;  // six pages: the first 4 GiB, identity
inline constexpr uint64_t kBootParamsGpa = 0x8000;  // bzImage: the zero page
inline constexpr uint64_t kRngSeedGpa = 0x9000;     // bzImage: setup data
inline constexpr uint64_t kStartInfoGpa = 0xA000;   // PVH: start info, module list, memory map
inline constexpr uint64_t kStackTopGpa = 0x10000;  // what is below, as far as the start info's page, is the first stack
inline constexpr uint64_t kCommandLineGpa = 0x20000;
inline constexpr uint64_t kMaxCommandLine = 0x10000;
inline constexpr uint64_t kAcpiTablesGpa = 0xE0000;  // where guests also look for an RSDP by themselves

struct LoadRequest {
  const ByteSource& kernel;
  const ByteSource* initrd = nullptr;
  absl::string_view command_line;
  uint64_t rsdp_gpa = kAcpiTablesGpa;
  // Random bytes for the guest's generator; a PVH kernel gets none.
  std::array<uint8_t, 32> rng_seed{};
};

struct InitialState {
  enum class Mode : uint8_t {
    kLong,       // paging on, the first 4 GiB mapped as they are
    kProtected,  // 32-bit, flat, paging off
  };
  Mode mode = Mode::kLong;
  uint64_t rip = 0;
  uint64_t rsi = 0;  // bzImage: the zero page
  uint64_t rbx = 0;  // PVH: the start info
};

// Which of the inputs is to blame for a failure, so that a caller can name the flag or file. kNone: the host failed.
enum class LoadInput : uint8_t { kNone, kKernel, kInitrd, kCommandLine, kMemory, kCpus, kSmbios, kProcessor, kState };

// Memory holds zeroes before the call. On an error its contents are unspecified, and `blame` says whose fault it is.
// InvalidArgument: the kernel is of neither kind, damaged or truncated, or too old; command line or initial RAM disk
// are larger than the kernel or the memory takes. DataLoss: a file cannot be read.
absl::StatusOr<InitialState> LoadKernel(const LoadRequest& request, const MemoryLayout& layout, GuestMemory& memory,
                                        LoadInput& blame);

// Writes the tables that SetInitialState points the processor at: a flat GDT at kGdtGpa and, for kLong, page tables at
// kPageTablesGpa that map the first 4 GiB as they are. For a loader of one's own (GuestLoader in part.h): without page
// tables a guest in long mode ends at its first instruction. Internal: there is no memory at these addresses.
absl::Status WriteBootTables(InitialState::Mode mode, GuestMemory& memory);

// Sets the registers of the first VP. Neither protocol promises a stack; both kinds of kernel get a small one, and a GDT, so that one
// that calls before it has set its own is none the worse. What WriteBootTables writes is in memory: LoadKernel has seen to that.
absl::Status SetInitialState(const InitialState& state, backend::Vp& vp);

}  // namespace hvsdk::boot

#endif  // HVSDK_BOOT_KERNEL_LOADER_H_

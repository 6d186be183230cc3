// SPDX-License-Identifier: Apache-2.0
// The 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst). The image is a setup part, of which only the header
// matters, and the kernel proper, which is entered 0x200 bytes after its beginning in long mode with RSI at the
// "zero page": a copy of the header between what the firmware knows.

#include <algorithm>
#include <array>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "boot/kernel_loader_internal.h"
#include "boot/little_endian.h"

namespace hvsdk::boot::internal {
namespace {

// The setup header begins at 0x1F1 of both the image and the zero page.
constexpr size_t kHeaderStart = 0x1F1;
constexpr size_t kSetupSects = 0x1F1;
constexpr size_t kSysSize = 0x1F4;  // of the kernel proper, in paragraphs
constexpr size_t kBootFlag = 0x1FE;
constexpr size_t kJump = 0x201;  // its operand: the header ends at 0x202 plus this
constexpr size_t kMagic = 0x202;
constexpr size_t kVersion = 0x206;
constexpr size_t kTypeOfLoader = 0x210;
constexpr size_t kLoadFlags = 0x211;
constexpr size_t kCode32Start = 0x214;
constexpr size_t kRamdiskImage = 0x218;
constexpr size_t kRamdiskSize = 0x21C;
constexpr size_t kCmdLinePtr = 0x228;
constexpr size_t kInitrdAddrMax = 0x22C;
constexpr size_t kKernelAlignment = 0x230;
constexpr size_t kRelocatable = 0x234;
constexpr size_t kXloadFlags = 0x236;
constexpr size_t kCmdLineSize = 0x238;
constexpr size_t kSetupData = 0x250;
constexpr size_t kPrefAddress = 0x258;
constexpr size_t kInitSize = 0x260;
constexpr size_t kHeaderMaxEnd = 0x290;

// The zero page's own fields.
constexpr size_t kAcpiRsdpAddr = 0x070;
constexpr size_t kE820Entries = 0x1E8;
constexpr size_t kE820Table = 0x2D0;
constexpr size_t kE820EntrySize = 20;

constexpr uint32_t kHdrS = 0x53726448;
constexpr uint16_t kMinVersion = 0x20C;
constexpr uint16_t kXlfKernel64 = 1;
constexpr uint8_t kLoaderUndefined = 0xFF;
constexpr uint8_t kLoadedHigh = 0x01;
constexpr uint64_t kEntry64 = 0x200;
constexpr uint64_t kParagraph = 16;
constexpr uint32_t kSetupRngSeed = 9;

// Where the kernel proper is put, and where the memory ends that it needs before it has read its memory map.
struct Placement {
  uint64_t load, end;
};

Placement Place(const uint8_t* header, uint64_t size) {
  const uint64_t preferred = Load<uint64_t>(header + kPrefAddress);  // 0: it does not care
  uint64_t load = kExtendedStart, run = preferred;
  if (header[kRelocatable] != 0) {
    const uint64_t alignment = std::max<uint64_t>(Load<uint32_t>(header + kKernelAlignment), 1);
    load = preferred != 0 ? preferred : (kExtendedStart + alignment - 1) / alignment * alignment;
    run = load;
  } else if (preferred == 0) {
    run = load;
  }  // else it goes where all bzImages once went, and moves itself
  return {load, std::max(load + size, run + Load<uint32_t>(header + kInitSize))};
}

}  // namespace

absl::StatusOr<InitialState> LoadBzImage(LoadContext& context) {
  const ByteSource& kernel = context.request.kernel;
  std::array<uint8_t, kHeaderMaxEnd> image{};
  if (kernel.size() < kHeaderMaxEnd) {
    return absl::InvalidArgumentError("neither a Linux bzImage nor an ELF file (too short)");
  }
  RETURN_IF_ERROR(kernel.Read(0, absl::MakeSpan(image)));
  if (Load<uint16_t>(&image[kBootFlag]) != 0xAA55 || Load<uint32_t>(&image[kMagic]) != kHdrS) {
    return absl::InvalidArgumentError("neither a Linux bzImage nor an ELF file");
  }
  const uint16_t version = Load<uint16_t>(&image[kVersion]);
  if (version < kMinVersion || !(Load<uint16_t>(&image[kXloadFlags]) & kXlfKernel64)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("boot protocol %d.%02d has no 64-bit entry point", version >> 8, version & 0xFF));
  }

  const uint64_t setup_sects = image[kSetupSects] == 0 ? 4 : image[kSetupSects];
  const uint64_t offset = (setup_sects + 1) * 512;
  const uint64_t size = uint64_t{Load<uint32_t>(&image[kSysSize])} * kParagraph;
  if (size <= kEntry64) return absl::InvalidArgumentError("damaged: an empty kernel");
  // The last paragraph need not be whole: what the file lacks of it is zero.
  if (kernel.size() <= offset + size - kParagraph) {
    return absl::InvalidArgumentError(absl::StrFormat("truncated: %d bytes of %d", kernel.size(), offset + size));
  }
  const uint64_t preferred = Load<uint64_t>(&image[kPrefAddress]);
  if (preferred != 0 && (preferred < kExtendedStart || preferred >= kLowMemoryEnd)) {
    return absl::InvalidArgumentError(absl::StrFormat("damaged: wants to be loaded at %#x", preferred));
  }
  const Placement place = Place(image.data(), size);
  if (place.end > context.low_memory_end()) {
    context.blame = LoadInput::kMemory;
    return absl::InvalidArgumentError(
        absl::StrFormat("too small: the kernel needs %d MiB", (place.end + 0xFFFFF) >> 20));
  }
  RETURN_IF_ERROR(LoadPiece(context, kernel, offset, std::min(size, kernel.size() - offset), place.load));
  ASSIGN_OR_RETURN(const GpaRange initrd,
                   LoadInitrd(context, place.end, uint64_t{Load<uint32_t>(&image[kInitrdAddrMax])} + 1));
  RETURN_IF_ERROR(WriteCommandLine(context, Load<uint32_t>(&image[kCmdLineSize])));

  // struct setup_data: next, type, length, bytes.
  std::string seed;
  Append<uint64_t>(seed, 0);
  Append<uint32_t>(seed, kSetupRngSeed);
  Append<uint32_t>(seed, context.request.rng_seed.size());
  seed.append(reinterpret_cast<const char*>(context.request.rng_seed.data()), context.request.rng_seed.size());

  std::array<uint8_t, kPageSize> page{};
  const size_t header_end = std::min<size_t>(kMagic + image[kJump], kHeaderMaxEnd);
  std::copy(image.begin() + kHeaderStart, image.begin() + std::max(header_end, kInitSize + 4),
            page.begin() + kHeaderStart);
  page[kTypeOfLoader] = kLoaderUndefined;
  page[kLoadFlags] |= kLoadedHigh;
  Store<uint32_t>(&page[kCode32Start], place.load);
  Store<uint32_t>(&page[kRamdiskImage], initrd.gpa);
  Store<uint32_t>(&page[kRamdiskSize], initrd.size_bytes);
  Store<uint32_t>(&page[kCmdLinePtr], kCommandLineGpa);
  Store<uint64_t>(&page[kSetupData], kRngSeedGpa);
  Store<uint64_t>(&page[kAcpiRsdpAddr], context.request.rsdp_gpa);
  uint8_t* entry = &page[kE820Table];
  for (const E820Entry& e820 : context.layout.E820()) {
    Store<uint64_t>(entry, e820.gpa);
    Store<uint64_t>(entry + 8, e820.size_bytes);
    Store<uint32_t>(entry + 16, e820.type);
    entry += kE820EntrySize;
    ++page[kE820Entries];
  }
  if (!context.memory.Write(kRngSeedGpa, seed.data(), seed.size()) ||
      !context.memory.WriteObject(kBootParamsGpa, page)) {
    return absl::InternalError("no memory for the zero page");
  }
  return InitialState{.mode = InitialState::Mode::kLong, .rip = place.load + kEntry64, .rsi = kBootParamsGpa};
}

}  // namespace hvsdk::boot::internal

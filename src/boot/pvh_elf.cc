// SPDX-License-Identifier: Apache-2.0
// The PVH boot protocol: an ELF file names its entry point in a note; it is entered in 32-bit protected mode with EBX
// at a start info structure (Xen, docs/misc/pvh.pandoc; public/arch-x86/hvm/start_info.h).

#include <algorithm>
#include <array>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "base/status_macros.h"
#include "boot/kernel_loader_internal.h"
#include "boot/little_endian.h"

namespace hvsdk::boot::internal {
namespace {

constexpr uint8_t kClass32 = 1, kClass64 = 2;
constexpr uint16_t kMachine386 = 3, kMachineX86_64 = 62;
constexpr uint32_t kPtLoad = 1, kPtNote = 4;
constexpr uint32_t kNotePhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr size_t kMaxProgramHeaders = 128;
constexpr uint64_t kMaxNotes = 1 << 20;

constexpr uint32_t kStartMagic = 0x336EC578;
constexpr size_t kStartInfoSize = 56;
constexpr size_t kModuleSize = 32;
constexpr size_t kMemoryMapEntrySize = 24;

struct ProgramHeader {
  uint32_t type;
  uint64_t offset, paddr, file_size, memory_size;
};

absl::StatusOr<std::vector<ProgramHeader>> ReadProgramHeaders(const ByteSource& file) {
  std::array<uint8_t, 64> header{};
  if (file.size() < header.size()) return absl::InvalidArgumentError("truncated: no whole ELF header");
  RETURN_IF_ERROR(file.Read(0, absl::MakeSpan(header)));
  const bool is64 = header[4] == kClass64;
  const uint16_t machine = Load<uint16_t>(&header[18]);
  if ((!is64 && header[4] != kClass32) || header[5] != 1 || machine != (is64 ? kMachineX86_64 : kMachine386)) {
    return absl::InvalidArgumentError("an ELF file, but not for this processor");
  }
  const uint64_t table = is64 ? Load<uint64_t>(&header[32]) : Load<uint32_t>(&header[28]);
  const size_t entry_size = Load<uint16_t>(&header[is64 ? 54 : 42]);
  const size_t count = Load<uint16_t>(&header[is64 ? 56 : 44]);
  if (entry_size != (is64 ? 56 : 32) || count == 0 || count > kMaxProgramHeaders) {
    return absl::InvalidArgumentError("damaged: impossible ELF program headers");
  }
  std::vector<uint8_t> bytes(count * entry_size);
  if (!file.Read(table, absl::MakeSpan(bytes)).ok()) {
    return absl::InvalidArgumentError("truncated: ELF program headers are beyond the end");
  }
  std::vector<ProgramHeader> headers;
  for (const uint8_t* at = bytes.data(); at < bytes.data() + bytes.size(); at += entry_size) {
    if (is64) {
      headers.push_back({Load<uint32_t>(at), Load<uint64_t>(at + 8), Load<uint64_t>(at + 24), Load<uint64_t>(at + 32),
                         Load<uint64_t>(at + 40)});
    } else {
      headers.push_back({Load<uint32_t>(at), Load<uint32_t>(at + 4), Load<uint32_t>(at + 12), Load<uint32_t>(at + 16),
                         Load<uint32_t>(at + 20)});
    }
  }
  return headers;
}

// Looks for the entry point in one segment of notes: name size, value size, type, name, value, padded to 4 bytes.
absl::optional<uint64_t> FindEntry(absl::Span<const uint8_t> notes) {
  const auto padded = [](uint64_t size) { return (size + 3) & ~uint64_t{3}; };
  while (notes.size() >= 12) {
    const uint64_t name_size = Load<uint32_t>(notes.data());
    const uint64_t value_size = Load<uint32_t>(notes.data() + 4);
    const uint32_t type = Load<uint32_t>(notes.data() + 8);
    const uint64_t value_at = 12 + padded(name_size);
    if (value_at + value_size > notes.size()) break;
    const absl::string_view name(reinterpret_cast<const char*>(notes.data() + 12), name_size);
    if (type == kNotePhys32Entry && name == absl::string_view("Xen\0", 4)) {
      if (value_size == 8) return Load<uint64_t>(notes.data() + value_at);
      if (value_size == 4) return Load<uint32_t>(notes.data() + value_at);
    }
    notes.remove_prefix(std::min<uint64_t>(value_at + padded(value_size), notes.size()));
  }
  return absl::nullopt;
}

absl::Status WriteStartInfo(LoadContext& context, const GpaRange& initrd) {
  const std::vector<E820Entry> map = context.layout.E820();
  const uint64_t module_gpa = kStartInfoGpa + kStartInfoSize;
  const uint64_t map_gpa = module_gpa + kModuleSize;
  const bool has_initrd = initrd.size_bytes != 0;
  std::string info;
  Append<uint32_t>(info, kStartMagic);
  Append<uint32_t>(info, 1);  // version
  Append<uint32_t>(info, 0);  // flags
  Append<uint32_t>(info, has_initrd ? 1 : 0);
  Append<uint64_t>(info, has_initrd ? module_gpa : 0);
  Append<uint64_t>(info, kCommandLineGpa);
  Append<uint64_t>(info, context.request.rsdp_gpa);
  Append<uint64_t>(info, map_gpa);
  Append<uint32_t>(info, map.size());
  Append<uint32_t>(info, 0);
  // hvm_modlist_entry: address, size, its command line.
  Append<uint64_t>(info, initrd.gpa);
  Append<uint64_t>(info, initrd.size_bytes);
  Append<uint64_t>(info, 0);
  Append<uint64_t>(info, 0);
  for (const E820Entry& entry : map) {
    Append<uint64_t>(info, entry.gpa);
    Append<uint64_t>(info, entry.size_bytes);
    Append<uint32_t>(info, entry.type);
    Append<uint32_t>(info, 0);
  }
  static_assert(kStartInfoSize + kModuleSize + 16 * kMemoryMapEntrySize <= kPageSize);
  if (!context.memory.Write(kStartInfoGpa, info.data(), info.size())) {
    return absl::InternalError("no memory for the start info");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InitialState> LoadPvhElf(LoadContext& context) {
  const ByteSource& kernel = context.request.kernel;
  ASSIGN_OR_RETURN(const std::vector<ProgramHeader> headers, ReadProgramHeaders(kernel));
  absl::optional<uint64_t> entry;
  for (const ProgramHeader& header : headers) {
    if (header.type != kPtNote || entry.has_value()) continue;
    if (header.file_size > kMaxNotes) return absl::InvalidArgumentError("damaged: notes of more than 1 MiB");
    std::vector<uint8_t> notes(header.file_size);
    if (!kernel.Read(header.offset, absl::MakeSpan(notes)).ok()) {
      return absl::InvalidArgumentError("truncated: ELF notes are beyond the end");
    }
    entry = FindEntry(notes);
  }
  if (!entry.has_value()) return absl::InvalidArgumentError("an ELF file without a PVH entry point");

  uint64_t end = 0;
  bool entry_loaded = false;
  for (const ProgramHeader& header : headers) {
    if (header.type != kPtLoad || header.memory_size == 0) continue;
    // Below 1 MiB the loader keeps its own structures.
    if (header.paddr < kExtendedStart || header.paddr >= kLowMemoryEnd || header.memory_size > kLowMemoryEnd ||
        header.file_size > header.memory_size) {
      return absl::InvalidArgumentError(absl::StrFormat("damaged: a segment of %#x bytes wants to be loaded at %#x",
                                                        header.memory_size, header.paddr));
    }
    if (header.paddr + header.memory_size > context.low_memory_end()) {
      context.blame = LoadInput::kMemory;
      return absl::InvalidArgumentError(
          absl::StrFormat("too small: the kernel needs %d MiB", (header.paddr + header.memory_size + 0xFFFFF) >> 20));
    }
    RETURN_IF_ERROR(LoadPiece(context, kernel, header.offset, header.file_size, header.paddr));
    end = std::max(end, header.paddr + header.memory_size);
    entry_loaded |= *entry >= header.paddr && *entry - header.paddr < header.memory_size;
  }
  if (!entry_loaded) return absl::InvalidArgumentError("damaged: the PVH entry point is in no segment");
  ASSIGN_OR_RETURN(const GpaRange initrd, LoadInitrd(context, (end + kPageSize - 1) & ~(kPageSize - 1), kLowMemoryEnd));
  RETURN_IF_ERROR(WriteCommandLine(context, kMaxCommandLine - 1));
  RETURN_IF_ERROR(WriteStartInfo(context, initrd));
  return InitialState{.mode = InitialState::Mode::kProtected, .rip = *entry, .rbx = kStartInfoGpa};
}

}  // namespace hvsdk::boot::internal

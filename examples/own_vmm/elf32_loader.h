// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <elf.h>

#include <cstring>

#include "hvsdk/boot/byte_source.h"
#include "hvsdk/boot/kernel_loader.h"
#include "hvsdk/machine/part.h"

namespace own {

using namespace hvsdk;

// A 32-bit ELF file, entered in flat protected mode with the address of the ACPI tables in EBX.
class Elf32Loader final : public machine::GuestLoader {
 public:
  explicit Elf32Loader(const boot::ByteSource& file) : file_(file) {}
  absl::Status Load(machine::Board& board) override {
    Elf32_Ehdr header;
    absl::Status status = ReadAt(0, header);
    if (!status.ok()) return status;
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS32) {
      return absl::InvalidArgumentError("not a 32-bit ELF file");
    }
    entry_ = header.e_entry;
    for (uint32_t i = 0; i < header.e_phnum; ++i) {
      Elf32_Phdr segment;
      if (status = ReadAt(header.e_phoff + uint64_t{i} * sizeof(segment), segment); !status.ok()) return status;
      if (segment.p_type != PT_LOAD || segment.p_filesz == 0) continue;
      uint8_t* const to = board.memory().Pointer(segment.p_paddr, segment.p_filesz);
      if (to == nullptr) return absl::InvalidArgumentError("a segment is not in memory");
      if (status = file_.Read(segment.p_offset, absl::MakeSpan(to, segment.p_filesz)); !status.ok()) return status;
      board.memory().MarkWritten(segment.p_paddr, segment.p_filesz);
    }
    return boot::WriteBootTables(boot::InitialState::Mode::kProtected, board.memory());
  }
  absl::Status SetInitialState(backend::Vp& vp) override {
    return boot::SetInitialState(
        {.mode = boot::InitialState::Mode::kProtected, .rip = entry_, .rbx = boot::kAcpiTablesGpa}, vp);
  }

 private:
  template <typename T>
  absl::Status ReadAt(uint64_t offset, T& to) {
    return file_.Read(offset, absl::MakeSpan(reinterpret_cast<uint8_t*>(&to), sizeof(to)));
  }
  const boot::ByteSource& file_;
  uint32_t entry_ = 0;
};

}  // namespace own

// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/core_dump.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/procfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/hvdef/register.h"
#include "vmm/guest_mappings.h"
#include "vmm/state_files.h"

namespace hvsdk::vmm {
namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;
using Range = GuestMemory::Range;

constexpr size_t kMostSegments = 60000;  // e_phnum has 16 bits
constexpr absl::string_view kKernelInfoName = "VMCOREINFO";

// In the order of a struct user_regs_struct.
constexpr RegisterName kRegisters[] = {
    RegisterName::kR15, RegisterName::kR14, RegisterName::kR13,    RegisterName::kR12, RegisterName::kRbp,
    RegisterName::kRbx, RegisterName::kR11, RegisterName::kR10,    RegisterName::kR9,  RegisterName::kR8,
    RegisterName::kRax, RegisterName::kRcx, RegisterName::kRdx,    RegisterName::kRsi, RegisterName::kRdi,
    RegisterName::kRax,  // of a system call that is restarted
    RegisterName::kRip, RegisterName::kCs,  RegisterName::kRflags, RegisterName::kRsp, RegisterName::kSs,
    RegisterName::kFs,  // its base
    RegisterName::kGs,  // likewise
    RegisterName::kDs,  RegisterName::kEs,  RegisterName::kFs,     RegisterName::kGs};
constexpr size_t kFsBase = 21, kGsBase = 22;

bool IsSegment(RegisterName name) { return name >= RegisterName::kEs && name <= RegisterName::kGs; }

void AddNote(std::string& notes, absl::string_view name, uint32_t type, absl::string_view contents) {
  const auto add = [&](absl::string_view bytes) {
    absl::StrAppend(&notes, bytes);
    notes.append((4 - bytes.size() % 4) % 4, '\0');
  };
  const std::string terminated = absl::StrCat(name, absl::string_view("\0", 1));
  const Elf64_Nhdr header = {static_cast<uint32_t>(terminated.size()), static_cast<uint32_t>(contents.size()), type};
  add({reinterpret_cast<const char*>(&header), sizeof(header)});
  add(terminated);
  add(contents);
}

absl::StatusOr<prstatus_t> StatusOf(backend::Vp& vp) {
  std::array<RegisterValue, std::size(kRegisters)> values;
  RETURN_IF_ERROR(vp.GetRegisters(kRegisters, absl::MakeSpan(values)));
  prstatus_t status = {};
  status.pr_pid = static_cast<pid_t>(ToInt(vp.index()) + 1);
  static_assert(std::size(kRegisters) == ELF_NGREG);
  for (size_t i = 0; i < values.size(); ++i) {
    uint64_t value = values[i].low;
    if (IsSegment(kRegisters[i]) && i != kFsBase && i != kGsBase) {
      hvdef::SegmentRegister segment;
      std::memcpy(&segment, &values[i], sizeof(segment));
      value = segment.selector;
    }
    std::memcpy(&status.pr_reg[i], &value, sizeof(value));
  }
  return status;
}

// A Linux kernel's description of itself, which is a note at the beginning of a page (kernel/crash_core.c).
absl::optional<std::string> FindKernelInfo(const GuestMemory& memory) {
  struct Head {
    Elf64_Nhdr note;
    char name[12];
  };
  for (const Range& range : memory.ranges()) {
    for (uint64_t at = 0; at < range.size_bytes; at += kPageSize) {
      Head head;
      std::memcpy(&head, range.host + at, sizeof(head));
      if (head.note.n_namesz != kKernelInfoName.size() + 1 || head.note.n_descsz > kPageSize ||
          head.note.n_descsz > range.size_bytes - at - sizeof(head) ||
          std::memcmp(head.name, kKernelInfoName.data(), kKernelInfoName.size() + 1) != 0) {  // with its zero
        continue;
      }
      std::string text(reinterpret_cast<const char*>(range.host + at + sizeof(head)), head.note.n_descsz);
      if (absl::StartsWith(text, "OSRELEASE=")) return text;
    }
  }
  return absl::nullopt;
}

// The value of a line "KEY=VALUE".
absl::string_view ValueOf(absl::string_view info, absl::string_view key) {
  const std::string begin = absl::StrCat("\n", key, "=");
  const size_t at = info.find(begin);
  if (at == info.npos) return "";
  info.remove_prefix(at + begin.size());
  return info.substr(0, info.find('\n'));
}

std::vector<GuestMapping> MappingsOf(machine::Board& board, const absl::optional<std::string>& info) {
  constexpr uint64_t kKernelMap = 0xFFFF'FFFF'8000'0000;  // __START_KERNEL_map
  uint64_t table = 0;
  int64_t physical_base = 0, five_levels = 0;
  if (info.has_value() && absl::SimpleHexAtoi(ValueOf(*info, "SYMBOL(swapper_pg_dir)"), &table) &&
      absl::SimpleAtoi(ValueOf(*info, "NUMBER(phys_base)"), &physical_base)) {
    (void)absl::SimpleAtoi(ValueOf(*info, "NUMBER(pgtable_l5_enabled)"), &five_levels);
    const uint64_t root = table - kKernelMap + static_cast<uint64_t>(physical_base);
    std::vector<GuestMapping> found = ReadGuestMappings(board.memory(), root, five_levels != 0 ? 5 : 4, kMostSegments);
    if (!found.empty()) return found;
  }
  constexpr RegisterName kNames[] = {RegisterName::kCr0, RegisterName::kCr3, RegisterName::kCr4, RegisterName::kEfer};
  constexpr uint64_t kPaging = uint64_t{1} << 31, kLongMode = 1 << 10, kFiveLevels = 1 << 12;
  RegisterValue values[std::size(kNames)];
  if (!board.engine_vp(VpIndex{0}).GetRegisters(kNames, absl::MakeSpan(values)).ok()) return {};
  if ((values[0].low & kPaging) == 0 || (values[3].low & kLongMode) == 0) return {};
  const int levels = (values[2].low & kFiveLevels) != 0 ? 5 : 4;
  return ReadGuestMappings(board.memory(), values[1].low, levels, kMostSegments);
}

absl::Status WriteMemory(int fd, const std::string& path, const Range& range, uint64_t offset, ProgressMeter& progress,
                         const bool& is_wanted, uint64_t done_bytes) {
  for (uint64_t at = 0; at < range.size_bytes; at += kPiece) {
    progress.Tell(done_bytes + at);
    if (!is_wanted) return absl::CancelledError(absl::StrCat(path, ": nobody wants it any more"));
    const absl::Span<const uint8_t> piece(range.host + at, std::min<uint64_t>(kPiece, range.size_bytes - at));
    if (IsZero(piece)) continue;
    RETURN_IF_ERROR(WriteAt(fd, path, {reinterpret_cast<const char*>(piece.data()), piece.size()}, offset + at));
  }
  return absl::OkStatus();
}

absl::Status Write(int fd, const std::string& path, machine::Board& board, const OnDumpProgress& on_progress) {
  GuestMemory& memory = board.memory();
  std::string notes;
  for (size_t i = 0; i < board.vp_count(); ++i) {
    ASSIGN_OR_RETURN(const prstatus_t status, StatusOf(board.engine_vp(VpIndex{static_cast<uint32_t>(i)})));
    AddNote(notes, "CORE", NT_PRSTATUS, {reinterpret_cast<const char*>(&status), sizeof(status)});
  }
  const absl::optional<std::string> info = FindKernelInfo(memory);
  if (info.has_value()) AddNote(notes, kKernelInfoName, 0, *info);

  const std::vector<GuestMapping> mappings = MappingsOf(board, info);
  const size_t headers = 1 + memory.ranges().size() + mappings.size();
  const uint64_t notes_at = sizeof(Elf64_Ehdr) + headers * sizeof(Elf64_Phdr);
  const uint64_t memory_at = (notes_at + notes.size() + kPageSize - 1) & ~(kPageSize - 1);

  Elf64_Ehdr file = {};
  std::memcpy(file.e_ident, ELFMAG, SELFMAG);
  file.e_ident[EI_CLASS] = ELFCLASS64;
  file.e_ident[EI_DATA] = ELFDATA2LSB;
  file.e_ident[EI_VERSION] = EV_CURRENT;
  file.e_type = ET_CORE;
  file.e_machine = EM_X86_64;
  file.e_version = EV_CURRENT;
  file.e_phoff = sizeof(file);
  file.e_ehsize = sizeof(file);
  file.e_phentsize = sizeof(Elf64_Phdr);
  file.e_phnum = static_cast<Elf64_Half>(headers);

  std::vector<Elf64_Phdr> segments;
  segments.push_back({.p_type = PT_NOTE, .p_offset = notes_at, .p_filesz = notes.size()});
  const auto add = [&](uint64_t address, uint64_t gpa, uint64_t offset, uint64_t size_bytes) {
    segments.push_back({.p_type = PT_LOAD,
                        .p_flags = PF_R | PF_W | PF_X,
                        .p_offset = offset,
                        .p_vaddr = address,
                        .p_paddr = gpa,
                        .p_filesz = size_bytes,
                        .p_memsz = size_bytes});
  };
  std::vector<uint64_t> offsets;  // of the ranges
  uint64_t end = memory_at;
  for (const Range& range : memory.ranges()) {
    add(range.gpa, range.gpa, end, range.size_bytes);
    offsets.push_back(end);
    end += range.size_bytes;
  }
  for (const GuestMapping& mapping : mappings) {
    for (size_t i = 0; i < offsets.size(); ++i) {
      const Range& range = memory.ranges()[i];
      if (mapping.gpa - range.gpa >= range.size_bytes) continue;
      add(mapping.gva, mapping.gpa, offsets[i] + (mapping.gpa - range.gpa), mapping.size_bytes);
    }
  }

  if (ftruncate(fd, static_cast<off_t>(end)) != 0) return FileError(path, errno);
  RETURN_IF_ERROR(WriteAt(fd, path, {reinterpret_cast<const char*>(&file), sizeof(file)}, 0));
  RETURN_IF_ERROR(WriteAt(
      fd, path, {reinterpret_cast<const char*>(segments.data()), segments.size() * sizeof(segments[0])}, sizeof(file)));
  RETURN_IF_ERROR(WriteAt(fd, path, notes, notes_at));
  bool is_wanted = true;
  ProgressMeter::OnProgress tell;
  if (on_progress) tell = [&](uint64_t done, uint64_t total) { is_wanted = on_progress(done, total); };
  ProgressMeter progress(tell, memory.size_bytes());
  uint64_t done_bytes = 0;
  for (size_t i = 0; i < offsets.size(); ++i) {
    const Range& range = memory.ranges()[i];
    RETURN_IF_ERROR(WriteMemory(fd, path, range, offsets[i], progress, is_wanted, done_bytes));
    done_bytes += range.size_bytes;
  }
  progress.Tell(done_bytes);
  return fsync(fd) == 0 ? absl::OkStatus() : FileError(path, errno);
}

}  // namespace

absl::Status WriteCoreDump(machine::Board& board, const std::string& path, const OnDumpProgress& on_progress) {
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.fd() < 0) return FileError(path, errno);
  absl::Status status = Write(file.fd(), path, board, on_progress);
  if (!status.ok()) unlink(path.c_str());
  return status;
}

}  // namespace hvsdk::vmm

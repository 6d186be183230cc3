// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/boot/kernel_loader.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "boot/kernel_loader_internal.h"
#include "boot/little_endian.h"
#include "hvsdk/hvdef/register.h"

namespace hvsdk::boot {
namespace internal {

absl::Status LoadPiece(LoadContext& context, const ByteSource& source, uint64_t offset, uint64_t size_bytes,
                       uint64_t gpa) {
  if (size_bytes == 0) return absl::OkStatus();
  if (offset > source.size() || size_bytes > source.size() - offset) {
    return absl::InvalidArgumentError(
        absl::StrFormat("truncated: %d bytes of at least %d", source.size(), offset + size_bytes));
  }
  uint8_t* host = context.memory.Pointer(gpa, size_bytes);
  if (host == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("wants %d bytes at %#x, where the machine has no memory", size_bytes, gpa));
  }
  RETURN_IF_ERROR(source.Read(offset, absl::MakeSpan(host, size_bytes)));
  context.memory.MarkWritten(gpa, size_bytes);
  return absl::OkStatus();
}

absl::StatusOr<GpaRange> LoadInitrd(LoadContext& context, uint64_t floor, uint64_t limit) {
  if (context.request.initrd == nullptr) return GpaRange{0, 0};
  const ByteSource& initrd = *context.request.initrd;
  context.blame = LoadInput::kInitrd;
  const uint64_t end = std::min(limit, context.low_memory_end());
  if (floor >= end || initrd.size() > end - floor) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d bytes do not fit beside the kernel into the machine's memory", initrd.size()));
  }
  const uint64_t gpa = (end - initrd.size()) & ~(kPageSize - 1);
  if (gpa < floor) return absl::InvalidArgumentError("does not fit beside the kernel into the machine's memory");
  RETURN_IF_ERROR(LoadPiece(context, initrd, 0, initrd.size(), gpa));
  context.blame = LoadInput::kKernel;
  return GpaRange{gpa, initrd.size()};
}

absl::Status WriteCommandLine(LoadContext& context, uint64_t limit) {
  const absl::string_view text = context.request.command_line;
  limit = std::min(limit, kMaxCommandLine - 1);
  if (text.size() > limit) {
    context.blame = LoadInput::kCommandLine;
    return absl::InvalidArgumentError(absl::StrFormat("%d bytes, but the kernel takes at most %d", text.size(), limit));
  }
  if (!context.memory.Write(kCommandLineGpa, text.data(), text.size()) ||
      !context.memory.Fill(kCommandLineGpa + text.size(), 0, 1)) {
    return absl::InternalError("no memory for the command line");
  }
  return absl::OkStatus();
}

}  // namespace internal

namespace {

using hvdef::RegisterName;
using hvdef::RegisterValue;
using hvdef::SegmentRegister;
using hvdef::TableRegister;

// Selectors that the boot protocol asks for, and the descriptors behind them.
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTaskSelector = 0x20;

// SegmentRegister::attributes: type and S, P, L or D, G.
constexpr uint16_t kCode64 = 0xA09B;
constexpr uint16_t kCode32 = 0xC09B;
constexpr uint16_t kData32 = 0xC093;
constexpr uint16_t kBusyTss = 0x008B;

uint64_t Descriptor(uint16_t attributes) {
  // Flat: base 0, limit 0xFFFFF in pages.
  return 0x000F'0000'0000'FFFF | uint64_t{attributes} << 40;
}

// Maps the first 4 GiB as they are, by 2 MiB pages (SDM volume 3, 4.5).
absl::Status WritePageTables(GuestMemory& memory) {
  constexpr uint64_t kPresentWritable = 0x3, kLarge = 0x80;
  constexpr uint64_t kPml4 = kPageTablesGpa, kPdpt = kPml4 + kPageSize, kDirectories = kPdpt + kPageSize;
  std::array<uint64_t, 512> table{};
  table[0] = kPdpt | kPresentWritable;
  bool ok = memory.WriteObject(kPml4, table);
  for (uint64_t i = 0; i < 4; ++i) table[i] = (kDirectories + i * kPageSize) | kPresentWritable;
  ok = ok && memory.WriteObject(kPdpt, table);
  for (uint64_t gib = 0; gib < 4; ++gib) {
    for (uint64_t i = 0; i < 512; ++i) table[i] = (gib << 30 | i << 21) | kPresentWritable | kLarge;
    ok = ok && memory.WriteObject(kDirectories + gib * kPageSize, table);
  }
  return ok ? absl::OkStatus() : absl::InternalError("no memory for page tables");
}

absl::Status WriteGdt(GuestMemory& memory, InitialState::Mode mode) {
  const std::array<uint64_t, 6> gdt = {0,
                                       0,
                                       Descriptor(mode == InitialState::Mode::kLong ? kCode64 : kCode32),
                                       Descriptor(kData32),
                                       0x67 | uint64_t{kBusyTss} << 40,
                                       0};
  return memory.WriteObject(kGdtGpa, gdt) ? absl::OkStatus() : absl::InternalError("no memory for the GDT");
}

}  // namespace

absl::Status WriteBootTables(InitialState::Mode mode, GuestMemory& memory) {
  RETURN_IF_ERROR(WriteGdt(memory, mode));
  return mode == InitialState::Mode::kLong ? WritePageTables(memory) : absl::OkStatus();
}

absl::StatusOr<InitialState> LoadKernel(const LoadRequest& request, const MemoryLayout& layout, GuestMemory& memory,
                                        LoadInput& blame) {
  blame = LoadInput::kKernel;
  internal::LoadContext context{request, layout, memory, blame};
  uint8_t magic[4];
  if (request.kernel.size() < sizeof(magic)) return absl::InvalidArgumentError("too short to be a kernel");
  RETURN_IF_ERROR(request.kernel.Read(0, absl::MakeSpan(magic)));
  const bool elf = Load<uint32_t>(magic) == 0x464C457F;  // 7F 'E' 'L' 'F'
  ASSIGN_OR_RETURN(const InitialState state, elf ? internal::LoadPvhElf(context) : internal::LoadBzImage(context));
  blame = LoadInput::kMemory;
  RETURN_IF_ERROR(WriteBootTables(state.mode, memory));
  return state;
}

absl::Status SetInitialState(const InitialState& state, backend::Vp& vp) {
  const bool long_mode = state.mode == InitialState::Mode::kLong;
  const auto value = [](uint64_t low) { return RegisterValue{low, 0}; };
  const auto segment = [](uint32_t limit, uint16_t selector, uint16_t attributes) {
    return std::bit_cast<RegisterValue>(SegmentRegister{0, limit, selector, attributes});
  };
  const RegisterValue data = segment(0xFFFFFFFF, kDataSelector, kData32);
  constexpr uint64_t kCr0Protected = 0x11;     // ET, PE
  constexpr uint64_t kCr0Paging = 0x80000031;  // PG, NE, ET, PE
  constexpr uint64_t kCr4Pae = 0x20;
  constexpr uint64_t kEferLongMode = 0x500;  // LMA, LME
  const RegisterName names[] = {RegisterName::kCs,   RegisterName::kDs,   RegisterName::kEs,     RegisterName::kFs,
                                RegisterName::kGs,   RegisterName::kSs,   RegisterName::kTr,     RegisterName::kLdtr,
                                RegisterName::kGdtr, RegisterName::kIdtr, RegisterName::kCr0,    RegisterName::kCr3,
                                RegisterName::kCr4,  RegisterName::kEfer, RegisterName::kRflags, RegisterName::kRip,
                                RegisterName::kRsi,  RegisterName::kRbx,  RegisterName::kRsp,    RegisterName::kRbp,
                                RegisterName::kRdi};
  RegisterValue values[] = {segment(0xFFFFFFFF, kCodeSelector, long_mode ? kCode64 : kCode32),
                            data,
                            data,
                            data,
                            data,
                            data,
                            segment(0x67, kTaskSelector, kBusyTss),
                            segment(0xFFFF, 0, 0x0082),
                            std::bit_cast<RegisterValue>(TableRegister{{}, 6 * 8 - 1, kGdtGpa}),
                            std::bit_cast<RegisterValue>(TableRegister{{}, 0, 0}),
                            value(long_mode ? kCr0Paging : kCr0Protected),
                            value(long_mode ? kPageTablesGpa : 0),
                            value(long_mode ? kCr4Pae : 0),
                            value(long_mode ? kEferLongMode : 0),
                            value(0x2),
                            value(state.rip),
                            value(state.rsi),
                            value(state.rbx),
                            value(kStackTopGpa),
                            value(0),
                            value(0)};
  static_assert(std::size(names) == std::size(values));
  return vp.SetRegisters(names, absl::MakeSpan(values));
}

}  // namespace hvsdk::boot

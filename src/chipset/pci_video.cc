// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/chipset/pci_video.h"

#include <type_traits>

namespace hvsdk::chipset {
namespace {

constexpr uint8_t kCommand = 0x04, kBase0 = 0x10;
constexpr uint16_t kMemorySpace = 1 << 1, kBusMaster = 1 << 2;
constexpr uint32_t kPrefetchable = 1 << 3;  // of a base address register: memory, below 4 GiB

// 6.1: the header, but for what can be written. What is not here reads as zero.
constexpr uint8_t kHeader[16] = {
    0x14, 0x14,        // vendor: Microsoft
    0x53, 0x53,        // device: Hyper-V's video
    0x00, 0x00,        // command
    0x00, 0x00,        // status
    0x00,              // revision
    0x00, 0x80, 0x03,  // class: a display controller, and not a VGA
};

struct PciVideoState {
  static constexpr uint32_t kSchema = 1;
  uint16_t command = 0;
  uint32_t base = 0;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "command", command);
    visit(2, "base", base);
  }
};

}  // namespace

PciVideo::PciVideo(uint32_t gpa, uint32_t size_bytes) : gpa_(gpa), address_mask_(~(size_bytes - 1)) { Reset(); }

void PciVideo::Reset() {
  std::lock_guard lock(mutex_);
  command_ = kMemorySpace;
  base_ = gpa_;
}

uint8_t PciVideo::ReadConfig(uint8_t at) {
  std::lock_guard lock(mutex_);
  if (at >= kCommand && at < kCommand + sizeof(command_)) return static_cast<uint8_t>(command_ >> 8 * (at - kCommand));
  if (at >= kBase0 && at < kBase0 + sizeof(base_)) {
    return static_cast<uint8_t>((base_ | kPrefetchable) >> 8 * (at - kBase0));
  }
  return at < sizeof(kHeader) ? kHeader[at] : 0;
}

void PciVideo::WriteConfig(uint8_t at, uint8_t value) {
  std::lock_guard lock(mutex_);
  const auto put = [value](auto& into, uint8_t byte, uint32_t writable) {
    const uint32_t shift = 8u * byte;
    into = static_cast<std::remove_reference_t<decltype(into)>>(
        ((into & ~(0xFFu << shift)) | uint32_t{value} << shift) & writable);
  };
  if (at >= kCommand && at < kCommand + sizeof(command_)) {
    put(command_, static_cast<uint8_t>(at - kCommand), kMemorySpace | kBusMaster);
  } else if (at >= kBase0 && at < kBase0 + sizeof(base_)) {
    put(base_, static_cast<uint8_t>(at - kBase0), address_mask_);
  }
}

absl::Status PciVideo::Save(state::StateWriter& writer) const {
  std::lock_guard lock(mutex_);
  PciVideoState state{.command = command_, .base = base_};
  writer.Write(state);
  return absl::OkStatus();
}

absl::Status PciVideo::Restore(state::StateReader& reader) {
  PciVideoState state;
  if (absl::Status status = reader.Read(state); !status.ok()) return status;
  if ((state.command & ~(kMemorySpace | kBusMaster)) != 0) return reader.Invalid("command", "bits that there are not");
  if ((state.base & ~address_mask_) != 0) return reader.Invalid("base", "bits that there are not");
  std::lock_guard lock(mutex_);
  command_ = state.command;
  base_ = state.base;
  return absl::OkStatus();
}

}  // namespace hvsdk::chipset

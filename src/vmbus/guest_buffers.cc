// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmbus/guest_buffers.h"

#include <algorithm>

#include "hvsdk/vmbus/gpa_buffer.h"

namespace hvsdk::vmbus {

void GuestBuffers::Begin(GuestMemory& memory) {
  memory_ = &memory;
  Clear();
}

void GuestBuffers::Clear() {
  pieces_.clear();
  gpas_.clear();
  size_bytes_ = 0;
}

bool GuestBuffers::Fail() {
  Clear();
  return false;
}

void GuestBuffers::Add(uint64_t gpa, uint8_t* host, uint64_t size_bytes) {
  pieces_.push_back({host, static_cast<size_t>(size_bytes)});
  gpas_.push_back(gpa);
  size_bytes_ += size_bytes;
}

bool GuestBuffers::Gather(GuestMemory& memory, const Packet& packet) {
  Begin(memory);
  if (packet.type != hvdef::PacketType::kDataUsingGpaDirect) return false;
  const auto add = [this](uint64_t gpa, uint8_t* host, uint64_t piece_bytes) { Add(gpa, host, piece_bytes); };
  GpaBufferWalk walk(packet.extension, packet.extension_size);
  for (GpaBuffer buffer; walk.Next(buffer);) {
    if (!ForEachPiece(memory, buffer, 0, buffer.byte_count, add)) return Fail();
  }
  return walk.valid() || Fail();
}

bool GuestBuffers::Gather(GuestMemory& memory, const Packet& packet, uint64_t size_bytes) {
  Begin(memory);
  if (packet.type != hvdef::PacketType::kDataUsingGpaDirect) return size_bytes == 0;
  const auto add = [this](uint64_t gpa, uint8_t* host, uint64_t piece_bytes) { Add(gpa, host, piece_bytes); };
  GpaBufferWalk walk(packet.extension, packet.extension_size);
  for (GpaBuffer buffer; size_bytes != 0 && walk.Next(buffer);) {
    const uint64_t size = std::min<uint64_t>(size_bytes, buffer.byte_count);
    if (!ForEachPiece(memory, buffer, 0, size, add)) return Fail();
    size_bytes -= size;
  }
  return size_bytes == 0 || Fail();
}

bool GuestBuffers::Gather(const Gpadl& gpadl, uint64_t offset, uint64_t size_bytes) {
  Begin(gpadl.memory());
  const bool is_inside = gpadl.ForEachPiece(
      offset, size_bytes, [this](uint64_t gpa, uint8_t* host, uint64_t piece_bytes) { Add(gpa, host, piece_bytes); });
  return is_inside || Fail();
}

void GuestBuffers::Release(uint64_t written_bytes) {
  for (size_t i = 0; i < pieces_.size() && written_bytes != 0; ++i) {
    const uint64_t size = std::min<uint64_t>(written_bytes, pieces_[i].size_bytes);
    memory_->MarkWritten(gpas_[i], size);
    written_bytes -= size;
  }
  Clear();
}

}  // namespace hvsdk::vmbus

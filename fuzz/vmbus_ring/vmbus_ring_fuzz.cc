// SPDX-License-Identifier: Apache-2.0
// Any bytes as a ring: the peer's control words, then steps, then the data. Both ends use it on memory in pieces and on
// memory in one; every packet and every list of guest pages that comes out must lie inside what went in.
//
//   0x00 write_index, 0x04 read_index, 0x08 interrupt_mask, 0x0C pending_send_size (32 bits each, little-endian)
//   0x10 eight steps, a byte each: the low 3 bits say what, the rest how much
//   0x18 data, repeated to fill two pages

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"

namespace {

using namespace hvsdk::vmbus;  // NOLINT

constexpr uint32_t kPage = hvsdk::hvdef::kRingPageSize;
constexpr uint32_t kSize = 2 * kPage;
constexpr size_t kSteps = 8;

alignas(kPage) uint8_t bytes[3 * kPage];
alignas(8) uint8_t buffer[kSize];

void Require(bool condition) {
  if (!condition) std::abort();
}

void Walk(const void* extension, uint32_t size) {
  const auto* begin = static_cast<const uint64_t*>(extension);
  const uint64_t* end = begin + size / 8;
  GpaBufferWalk walk(extension, size);
  for (GpaBuffer gpa; walk.Next(gpa);) {
    Require(gpa.byte_count != 0 && gpa.byte_offset < kPage);
    Require(gpa.pfns >= begin && gpa.pfns + gpa.pfn_count() <= end);
  }
}

void Fill(const uint8_t* data, size_t size) {
  auto* control = reinterpret_cast<hvsdk::hvdef::RingControl*>(bytes);
  std::memset(bytes, 0, kPage);
  std::memcpy(control, data, 16);
  data += 16 + kSteps;
  size -= 16 + kSteps;
  for (size_t at = 0; at < kSize; ++at) bytes[kPage + at] = size == 0 ? 0 : data[at % size];
}

template <typename Memory>
void Use(Memory memory, const uint8_t* steps) {
  RingReader<Memory> reader(memory);
  RingWriter<Memory> writer(memory);
  const bool reads = reader.Attach() == RingStatus::kOk;
  Require(reads == (reader.fault() == RingFault::kNone));
  // A ring has at most kSize / 24 packets; a reader that finds more does not advance.
  for (uint32_t packets = 0; packets < kSize / 24 + 1; ++packets) {
    Packet packet;
    PacketView<Memory> view;
    const uint8_t step = steps[packets % kSteps];
    RingStatus status;
    if (step & 1) {
      status = reader.Read(buffer, step & 2 ? kSize : 64, packet);
      if (status == RingStatus::kOk) {
        Require(packet.extension == buffer && packet.payload == buffer + packet.extension_size);
        Require(packet.extension_size + packet.payload_size <= kSize - 24);
        Walk(packet.extension, packet.extension_size);
      }
      if (status == RingStatus::kTooBig) status = reader.Read(buffer, kSize, packet);
    } else {
      status = reader.Peek(view);
      if (status == RingStatus::kOk) {
        Require(view.extension_size() + view.payload_size() <= kSize - 24);
        view.CopyExtension(0, buffer, view.extension_size());
        Walk(buffer, view.extension_size());
        view.CopyPayload(0, buffer, view.payload_size());
        reader.Release(view);
      }
    }
    if (status != RingStatus::kOk) break;
    Require(packets < kSize / 24);
    if (step & 4) (void)reader.Commit();
  }
  (void)reader.Arm();

  if (writer.Attach() != RingStatus::kOk) return;
  for (size_t i = 0; i < kSteps; ++i) {
    const uint64_t pfns[] = {1, 2, 3};
    const GpaBuffer gpa = {2 * kPage, 8, pfns};
    const uint32_t size = uint32_t{steps[i]} >> 3 << 7;
    switch (steps[i] & 7) {
      case 0:
      case 1:
        (void)writer.StageInBand({}, buffer, size);
        break;
      case 2:
        (void)writer.StageGpaDirect(i, true, &gpa, 1, buffer, size);
        break;
      case 3:
        (void)writer.WaitForRoom(PacketSize(size));
        break;
      case 4:
        (void)writer.PublishLazily();
        break;
      case 5:
        writer.Discard();
        break;
      case 6:
        (void)reader.Commit();
        break;
      case 7:
        (void)writer.Publish();
        break;
    }
    Require(writer.free_bytes() <= kSize - 8);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 16 + kSteps) return 0;
  uint8_t* const pages[] = {bytes, bytes + 2 * kPage, bytes + kPage};
  RingPage described[std::size(pages)];
  DescribeRingPages(pages, std::size(pages), described);
  Fill(data, size);
  Use(FlatMemory(bytes, bytes + kPage, kSize), data + 16);
  Fill(data, size);
  Use(PagedMemory(described, 2), data + 16);
  return 0;
}

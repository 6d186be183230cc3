// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/capture.h"

#include <time.h>

#include <chrono>
#include <cstring>
#include <utility>

#include "base/status_macros.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/os/output_writer.h"
#include "network/wire.h"
#include "resource/host_buffers.h"

namespace hvsdk::network {
namespace {

struct FileHeader {
  uint32_t magic = 0xA1B23C4D;  // of files with nanoseconds; its bytes' order is the file's
  uint16_t major = 2, minor = 4;
  int32_t zone = 0;
  uint32_t accuracy = 0;
  uint32_t max_bytes = 262144;
  uint32_t link_type = 1;  // LINKTYPE_ETHERNET
};
static_assert(sizeof(FileHeader) == 24);

struct RecordHeader {
  uint32_t seconds;
  uint32_t nanoseconds;
  uint32_t kept_bytes;
  uint32_t size_bytes;
};
static_assert(sizeof(RecordHeader) == 16);

constexpr size_t kCapacity = size_t{4} << 20;
// What a file that is written at leisure still gets at the end.
constexpr std::chrono::milliseconds kLastPatience(1000);

}  // namespace

CapturedPort::CapturedPort(std::unique_ptr<NetworkPort> port) : port_(std::move(port)) {}

CapturedPort::~CapturedPort() {
  port_.reset();
  (void)Stop();
}

absl::Status CapturedPort::Start(int fd) {
  ASSIGN_OR_RETURN(auto writer, os::OutputWriter::Create(
                                    fd, {.thread_name = "pcap", .capacity = kCapacity, .largest_piece = kCapacity}));
  std::lock_guard lock(mutex_);
  if (writer_ != nullptr) return absl::FailedPreconditionError("the network port is recorded already");
  writer_ = std::move(writer);
  const FileHeader header;
  writer_->Put({reinterpret_cast<const char*>(&header), sizeof(header)});
  is_recorded_.store(true, std::memory_order_relaxed);
  return absl::OkStatus();
}

absl::Status CapturedPort::Stop() {
  std::unique_ptr<os::OutputWriter> writer;
  {
    std::lock_guard lock(mutex_);
    is_recorded_.store(false, std::memory_order_relaxed);
    writer = std::move(writer_);
  }
  if (writer == nullptr) return absl::FailedPreconditionError("the network port is not recorded");
  if (!writer->Flush(kLastPatience)) return absl::DeadlineExceededError("nobody takes the rest of the record");
  return writer->status();
}

size_t CapturedPort::Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) {
  const size_t taken = port_->Send(queue, frames);
  if (is_recorded_.load(std::memory_order_relaxed)) Record<OutgoingFrame>(frames.first(taken));
  return taken;
}

size_t CapturedPort::Receive(uint16_t queue, absl::Span<IncomingFrame> frames) {
  const size_t count = port_->Receive(queue, frames);
  if (is_recorded_.load(std::memory_order_relaxed)) Record<IncomingFrame>(frames.first(count));
  return count;
}

template <typename AnyFrame>
void CapturedPort::Record(absl::Span<const AnyFrame> frames) {
  if (frames.empty()) return;
  std::lock_guard lock(mutex_);
  if (writer_ == nullptr) return;
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  for (const AnyFrame& frame : frames) {
    size_t size = frame.size_bytes;
    if (size < ethernet::kHeaderBytes || size > ethernet::kMaxFrameBytes) continue;
    record_.resize(sizeof(RecordHeader) + size + ethernet::kVlanTagBytes);
    uint8_t* const bytes = record_.data() + sizeof(RecordHeader);
    CopyFromBuffers(frame.buffers, 0, bytes, size);
    if (frame.offload.has_vlan) size = PutTag(bytes, size, frame.offload.vlan_tci);
    const RecordHeader header{static_cast<uint32_t>(now.tv_sec), static_cast<uint32_t>(now.tv_nsec),
                              static_cast<uint32_t>(size), static_cast<uint32_t>(size)};
    std::memcpy(record_.data(), &header, sizeof(header));
    writer_->PutWhole({reinterpret_cast<const char*>(record_.data()), sizeof(header) + size},
                      std::chrono::milliseconds(0));
  }
}

}  // namespace hvsdk::network

// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/network/capture.h"

#include <errno.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
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
// What a file that is written at leisure still gets when its port goes.
constexpr std::chrono::milliseconds kLastPatience(1000);

class CapturedPort final : public NetworkPort {
 public:
  CapturedPort(std::unique_ptr<NetworkPort> port, std::unique_ptr<os::OutputWriter> writer)
      : port_(std::move(port)), writer_(std::move(writer)) {
    const FileHeader header;
    writer_->Put({reinterpret_cast<const char*>(&header), sizeof(header)});
  }
  ~CapturedPort() override {
    port_.reset();
    writer_->Flush(kLastPatience);
  }

  NetworkPortInfo info() const override { return port_->info(); }
  bool link_is_up() const override { return port_->link_is_up(); }
  absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) override {
    return port_->Attach(client, accepts);
  }
  void Detach() override { port_->Detach(); }

  size_t Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) override {
    const size_t taken = port_->Send(queue, frames);
    Record<OutgoingFrame>(frames.first(taken));
    return taken;
  }

  size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) override {
    const size_t count = port_->Receive(queue, frames);
    Record<IncomingFrame>(frames.first(count));
    return count;
  }

 private:
  template <typename AnyFrame>
  void Record(absl::Span<const AnyFrame> frames) {
    if (frames.empty()) return;
    std::lock_guard lock(mutex_);
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

  std::unique_ptr<NetworkPort> port_;
  const std::unique_ptr<os::OutputWriter> writer_;
  std::mutex mutex_;  // guards what follows
  std::vector<uint8_t> record_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<NetworkPort>> Capture(std::unique_ptr<NetworkPort> port, const std::string& path) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("pcap: ", path));
  auto writer =
      os::OutputWriter::Create(fd, {.thread_name = "pcap", .capacity = kCapacity, .largest_piece = kCapacity});
  close(fd);
  RETURN_IF_ERROR(writer.status());
  return std::make_unique<CapturedPort>(std::move(port), *std::move(writer));
}

}  // namespace hvsdk::network

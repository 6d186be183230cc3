// SPDX-License-Identifier: Apache-2.0
// CapturedPort: a port, and on demand a record of what goes through it, in a file that Wireshark and tcpdump read (pcap, with
// nanoseconds).
//
// A frame is recorded when the port has taken it, or has given it: as it is then, with a VLAN tag inside, and whole where it is
// still to be cut or checksummed. The file is written on a thread of its own. What it cannot keep up with is left out of it, and
// nobody waits for it. While nothing is recorded there is neither thread nor copy.
//
// Threads: as resource/network_port.h has it; Start and Stop on any.
//
// Source: draft-ietf-opsawg-pcap, PCAP Capture File Format.
//
//   auto watched = std::make_shared<CapturedPort>(std::move(port));
//   absl::Status status = watched->Start(fd);

#ifndef HVSDK_NETWORK_CAPTURE_H_
#define HVSDK_NETWORK_CAPTURE_H_

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "hvsdk/os/output_writer.h"
#include "hvsdk/resource/network_port.h"

namespace hvsdk::network {

class CapturedPort final : public NetworkPort {
 public:
  explicit CapturedPort(std::unique_ptr<NetworkPort> port);
  // Ends the record.
  ~CapturedPort() override;

  // Records from now on into `fd`, of which a duplicate is taken, from where it stands. FailedPrecondition: it is recorded already.
  // ResourceExhausted: the host has no more threads or descriptors.
  absl::Status Start(int fd);
  // Waits up to a second until the file has all. FailedPrecondition: it is not recorded. Others: the record is not whole.
  absl::Status Stop();
  bool is_recorded() const { return is_recorded_.load(std::memory_order_relaxed); }

  // NetworkPort
  NetworkPortInfo info() const override { return port_->info(); }
  bool link_is_up() const override { return port_->link_is_up(); }
  absl::Status Attach(NetworkPortClient& client, const NetworkPortInfo& accepts) override {
    return port_->Attach(client, accepts);
  }
  void ChangeAccepted(const NetworkPortInfo& accepts) override { port_->ChangeAccepted(accepts); }
  void Detach() override { port_->Detach(); }
  size_t Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) override;
  size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) override;

 private:
  template <typename AnyFrame>
  void Record(absl::Span<const AnyFrame> frames);

  std::unique_ptr<NetworkPort> port_;
  std::atomic<bool> is_recorded_{false};
  std::mutex mutex_;  // guards what follows
  std::unique_ptr<os::OutputWriter> writer_;
  std::vector<uint8_t> record_;
};

}  // namespace hvsdk::network

#endif  // HVSDK_NETWORK_CAPTURE_H_

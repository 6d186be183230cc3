// SPDX-License-Identifier: Apache-2.0
// A network adapter, its client and a port in one process: both ends of the wire over real rings, without a CPU.

#ifndef HVSDK_TESTS_VSP_NETWORK_FIXTURE_H_
#define HVSDK_TESTS_VSP_NETWORK_FIXTURE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/ethernet/flow_hash.h"
#include "hvsdk/hvdef/rndis.h"
#include "hvsdk/resource/network_port.h"
#include "hvsdk/vsc/network_client.h"
#include "hvsdk/vsp/network.h"
#include "tests/vsp/provider_fixture.h"

namespace hvsdk::vsp {

using Bytes = std::vector<uint8_t>;

struct PortFrame {
  Bytes bytes;
  FrameOffload offload;
};

// On a thread of its own: a port has room for a few frames again and again, and its link goes and comes.
template <typename Port>
void MakeRoomUntil(const std::atomic<bool>& done, Port& port) {
  for (uint32_t i = 0; !done; ++i) {
    port.MakeRoom(1 + i % 7);
    if (i % 64 == 0) port.SetLink(i / 64 % 2 == 0);
    std::this_thread::yield();
  }
}

// A port whose other end is the test. Thread-compatible.
class ScriptedPort : public NetworkPort {
 public:
  NetworkPortInfo port_info;
  bool is_up = true;
  size_t room = SIZE_MAX;                             // frames that it takes before it is full
  std::vector<PortFrame> sent;                        // what the guest sent
  std::vector<uint16_t> queues;                       // beside it
  std::map<uint16_t, std::deque<PortFrame>> waiting;  // for the guest, by queue
  size_t too_long = 0;                                // frames that did not fit
  NetworkPortInfo accepted;
  NetworkPortClient* client = nullptr;

  void Give(PortFrame frame, uint16_t queue = 0) {
    waiting[queue].push_back(std::move(frame));
    client->OnFrames(queue);
  }
  void MakeRoom(size_t frames) {
    room = frames;
    client->OnRoom(0);
  }
  void SetLink(bool up) {
    is_up = up;
    client->OnLink();
  }

  NetworkPortInfo info() const override { return port_info; }
  bool link_is_up() const override { return is_up; }
  absl::Status Attach(NetworkPortClient& with, const NetworkPortInfo& accepts) override {
    if (client != nullptr) return absl::FailedPreconditionError("attached already");
    client = &with;
    accepted = accepts;
    return absl::OkStatus();
  }
  void ChangeAccepted(const NetworkPortInfo& accepts) override { accepted = accepts; }
  void Detach() override {
    client = nullptr;
    waiting.clear();
  }
  size_t Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) override {
    size_t taken = 0;
    for (const OutgoingFrame& frame : frames) {
      if (room == 0) break;
      if (room != SIZE_MAX) --room;
      ++taken;
      PortFrame copy;
      copy.offload = frame.offload;
      for (const HostBuffer& buffer : frame.buffers) {
        const size_t size = std::min(buffer.size_bytes, frame.size_bytes - copy.bytes.size());
        copy.bytes.insert(copy.bytes.end(), buffer.data, buffer.data + size);
      }
      EXPECT_EQ(copy.bytes.size(), frame.size_bytes);
      sent.push_back(std::move(copy));
      queues.push_back(queue);
    }
    return taken;
  }
  size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) override {
    std::deque<PortFrame>& from = waiting[queue];
    size_t count = 0;
    while (count < frames.size() && !from.empty()) {
      const PortFrame frame = std::move(from.front());
      from.pop_front();
      IncomingFrame& to = frames[count];
      size_t at = 0;
      for (const HostBuffer& buffer : to.buffers) {
        const size_t size = std::min(buffer.size_bytes, frame.bytes.size() - at);
        std::memcpy(buffer.data, frame.bytes.data() + at, size);
        at += size;
      }
      if (at < frame.bytes.size()) {
        ++too_long;
        continue;
      }
      to.size_bytes = at;
      to.offload = frame.offload;
      ++count;
    }
    return count;
  }
};

// What asks a guest's adapter to spread all flows over so many channels, by their addresses and, of TCP, ports.
struct RssRequest {
  explicit RssRequest(uint32_t channels) {
    namespace rndis = hvdef::rndis;
    parameters.header = {rndis::kObjectRssParameters, 2, sizeof(parameters)};
    parameters.hash_info =
        rndis::kHashToeplitz | rndis::kHashIpv4 | rndis::kHashTcpIpv4 | rndis::kHashIpv6 | rndis::kHashTcpIpv6;
    parameters.table_bytes = sizeof(table);
    parameters.table_offset = offsetof(RssRequest, table);
    parameters.key_bytes = sizeof(key);
    parameters.key_offset = offsetof(RssRequest, key);
    for (uint32_t i = 0; i < rndis::kRssTableEntries; ++i) table[i] = i % channels;
  }
  hvdef::rndis::RssParameters parameters = {};
  uint32_t table[hvdef::rndis::kRssTableEntries];
  std::array<uint8_t, ethernet::kFlowKeyBytes> key = ethernet::kDefaultFlowKey;
};

class NetworkFixture : public ProviderFixture<vsc::NetworkClient> {
 protected:
  static constexpr size_t kMemoryBytes = 12 << 20;
  static constexpr MacAddress kMac = {0x00, 0x15, 0x5D, 0x01, 0x02, 0x03};
  static constexpr uint32_t kBufferPages = 128;

  void Make(NetworkOptions options = {}) {
    options.instance_id = kInstance;
    if (options.mac_address == MacAddress{}) options.mac_address = kMac;
    for (QueueExecutor& executor : more_executors_) options.executors.push_back(&executor);
    MakeServer(kMemoryBytes + receive_buffer_pages_ * kPageSize);
    auto network = NetworkAdapter::Create(
        *server_, executor_, other_port_ == nullptr ? std::shared_ptr<NetworkPort>(port_) : other_port_, options);
    ASSERT_TRUE(network.ok()) << network.status();
    network_ = *std::move(network);
    MakeChild();
    buffers_ = {.receive = nullptr,
                .receive_pages = {.pfns = nullptr,
                                  .first_pfn = child_->AllocatePages(receive_buffer_pages_) / kPageSize,
                                  .page_count = receive_buffer_pages_},
                .send = nullptr,
                .send_pages = {.pfns = nullptr,
                               .first_pfn = child_->AllocatePages(kBufferPages) / kPageSize,
                               .page_count = kBufferPages},
                .mtu_bytes = 1500};
    buffers_.receive = child_->host(buffers_.receive_pages.first_pfn * kPageSize);
    buffers_.send = child_->host(buffers_.send_pages.first_pfn * kPageSize);
  }

  void RunExecutors() override {
    size_t ran = 0;
    do {
      ran = executor_.RunUntilIdle();
      for (QueueExecutor& executor : more_executors_) ran += executor.RunUntilIdle();
    } while (ran != 0 && !more_executors_.empty());
  }

  void TearDown() override {
    network_.reset();
    ProviderFixture::TearDown();
  }

  std::unique_ptr<Opened> Open(uint16_t subchannel = 0, uint32_t ring_pages = 17) {
    return ProviderFixture::Open(subchannel, ring_pages);
  }
  void Start(vsc::NetworkClient& client, hvdef::netvsp::Version newest = hvdef::netvsp::Version::k61) {
    client.Start(buffers_, newest);
    for (int i = 0; i < 4; ++i) {
      Pump();
      client.OnSignal();
    }
    ASSERT_EQ(client.state(), vsc::NetworkClient::State::kReady);
  }
  std::unique_ptr<Opened> OpenReady(hvdef::netvsp::Version newest = hvdef::netvsp::Version::k61) {
    auto opened = Open();
    Start(*opened->client, newest);
    return opened;
  }

  // Sends, and lets everybody run.
  void Send(vsc::NetworkClient& client, const Bytes& frame, const vsc::FrameInfo& info = {}) {
    ASSERT_TRUE(client.Send({.data = frame.data(), .size_bytes = static_cast<uint32_t>(frame.size()), .info = info}));
    client.Publish();
    Pump();
  }
  // The same with the frame in guest pages, as long as it is.
  void SendPages(vsc::NetworkClient& client, const Bytes& frame, const vsc::FrameInfo& info = {},
                 uint32_t offset = 100) {
    const auto pages = static_cast<uint32_t>((offset + frame.size() + kPageSize - 1) / kPageSize);
    const uint64_t gpa = child_->AllocatePages(pages);
    std::memcpy(child_->host(gpa) + offset, frame.data(), frame.size());
    std::vector<uint64_t> pfns;
    for (uint32_t i = 0; i < pages; ++i) pfns.push_back(gpa / kPageSize + i);
    const vmbus::GpaBuffer buffer = {static_cast<uint32_t>(frame.size()), offset, pfns.data()};
    ASSERT_TRUE(client.Send({.pages = &buffer, .page_buffers = 1, .info = info}));
    client.Publish();
    Pump();
  }

  struct Received {
    Bytes bytes;
    vsc::FrameInfo info;
  };
  // Keeps what comes to it in received_.
  void PrepareClient(vsc::NetworkClient& client) {
    client.context = this;
    client.on_frame = [](void* context, const vsc::ReceivedFrame& frame) {
      static_cast<NetworkFixture*>(context)->received_.push_back(
          {Bytes(frame.data, frame.data + frame.size_bytes), frame.info});
    };
  }

  std::shared_ptr<ScriptedPort> port_ = std::make_shared<ScriptedPort>();
  std::shared_ptr<NetworkPort> other_port_;       // in place of it
  std::deque<QueueExecutor> more_executors_;      // for subchannels; before Make
  uint32_t receive_buffer_pages_ = kBufferPages;  // likewise
  std::unique_ptr<NetworkAdapter> network_;
  vsc::NetworkBuffers buffers_;
  std::vector<Received> received_;

 private:
  void Prepare(vsc::NetworkClient& client) override { PrepareClient(client); }
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_TESTS_VSP_NETWORK_FIXTURE_H_

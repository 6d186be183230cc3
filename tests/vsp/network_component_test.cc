// SPDX-License-Identifier: Apache-2.0
// The network adapter by the suite that every component passes. Its guest is nothing but memory: it opens and closes channels, lends
// buffers, sends what comes to its mind, and does not always read or complete what comes.

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/ethernet/flow_hash.h"
#include "hvsdk/hvdef/netvsp.h"
#include "hvsdk/hvdef/rndis.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/ring/memory.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vmbus/transcript.h"
#include "hvsdk/vsp/network.h"
#include "tests/ethernet/frame_builder.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/child_messages.h"
#include "tests/vsp/network_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace netvsp = hvdef::netvsp;
namespace rndis = hvdef::rndis;
using netvsp::MessageType;

class NetworkSubject {
 public:
  // Which sections are taken first is no matter of state.
  static constexpr bool kEndsMayDiffer = true;

  NetworkSubject() : bytes_(kPages * kPageSize) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_)).ok());
    EXPECT_TRUE(server_.Start().ok());
    network_ = *NetworkAdapter::Create(server_, executor_, port_,
                                       {.instance_id = hvdef::MakeGuid("01234567-89ab-cdef-0123-456789abcdef"),
                                        .mac_address = kMac,
                                        .max_subchannels = 1});
    executor_.RunUntilIdle();
  }

  state::Component& component() { return *network_; }

  // Of all subjects: the histories are not empty.
  static inline int opens = 0, completions = 0, transfers = 0, frames = 0;

  void CopyWorld(NetworkSubject& from) {
    bytes_ = from.bytes_;  // as many, so they stay where they are
    channels_ = from.channels_;
    is_connected_ = from.is_connected_;
    port_->waiting = from.port_->waiting;
    port_->is_up = from.port_->is_up;
    server_state_ = state::SaveOf(from.server_);
    has_server_state_ = true;
  }

  std::string Step(std::mt19937_64& random) {
    if (std::exchange(has_server_state_, false)) {
      const absl::Status status = state::RestoreOf(server_, server_state_);
      EXPECT_TRUE(status.ok()) << status;
      port_->client->OnFrames(0);
      executor_.RunUntilIdle();
    }
    const uint32_t channel = random() % 4 == 0;
    std::string seen;
    switch (random() % 8) {
      case 0:
        if (!channels_[channel].is_open) {
          seen = Open(channel);
        } else if (random() % 16 == 0) {
          seen = Post(absl::StrCat("close-channel channel=", channel + 1));
          if (channel == 0) seen += Post("relid-released channel=2");
          for (size_t i = channel; i < channels_.size(); ++i) channels_[i] = {};  // a subchannel goes with its primary
        }
        break;
      case 1:
        port_->is_up = random() % 4 != 0;
        port_->client->OnLink();
        executor_.RunUntilIdle();
        break;
      case 2:
        for (uint64_t count = random() % 6; count-- != 0;) {
          ethernet::FrameSpec spec;
          spec.to = kMac;
          spec.payload.assign(random() % 300, static_cast<uint8_t>(random()));
          spec.from_port = static_cast<uint16_t>(random());
          if (port_->waiting[0].size() < 50) port_->Give({ethernet::MakeFrame(spec), {}});
        }
        executor_.RunUntilIdle();
        break;
      case 3:
      case 4:
        for (uint64_t count = random() % 30; count-- != 0;) seen += Read(channel, random);
        break;
      default:
        for (uint64_t count = 1 + random() % 6; count-- != 0;) Send(channel, random);
        Signal(channel);
        executor_.RunUntilIdle();
    }
    for (const PortFrame& frame : port_->sent) {
      ++frames;
      absl::StrAppend(&seen, "frame ", frame.bytes.size(), "\n");
    }
    port_->sent.clear();
    return seen + TakeMessages();
  }

 private:
  static constexpr MacAddress kMac = {0x00, 0x15, 0x5D, 0x01, 0x02, 0x03};
  static constexpr uint64_t kPages = 64;
  static constexpr uint64_t kReceivePage = 16, kReceivePages = 16;  // behind the rings
  static constexpr uint64_t kSendPage = 32, kSendPages = 4;
  static constexpr uint64_t kDataPage = 40;
  // Of each channel: two rings of a control page and two of data.
  struct Guest {
    bool is_open = false;
    uint32_t next_setup = 0;
    uint64_t next_id = 1;
  };

  // The rings are all in memory: each use attaches anew.
  uint8_t* RingPage(uint32_t channel, bool to_root) {
    return &bytes_[(channel * 6 + 1 + (to_root ? 0 : 3)) * kPageSize];
  }
  vmbus::FlatMemory Ring(uint32_t channel, bool to_root) {
    uint8_t* const page = RingPage(channel, to_root);
    return {page, page + kPageSize, 2 * kPageSize};
  }

  std::string Post(absl::string_view text) { return PostMessage(hypervisor_, executor_, is_connected_, text); }
  std::string TakeMessages() { return vsp::TakeMessages(hypervisor_, executor_); }
  std::string Lend(uint32_t channel, uint32_t gpadl, uint64_t first, uint64_t count) {
    std::string words = absl::StrCat(count * kPageSize);
    for (uint64_t i = 0; i < count; ++i) absl::StrAppend(&words, ",", first + i);
    std::string seen = Post(absl::StrCat("gpadl-teardown channel=", channel + 1, " gpadl=", gpadl));
    return seen += Post(absl::StrCat("gpadl-header channel=", channel + 1, " gpadl=", gpadl, " bytes=", 8 + count * 8,
                                     " ranges=1 words=", words));
  }
  std::string Open(uint32_t channel) {
    std::string seen;
    if (!is_connected_) {
      seen = Post("initiate-contact version=5.3 target_vp=0 target=0x2");
      is_connected_ = true;
      seen += Post("request-offers");
    }
    if (channel != 0 && !channels_[0].is_open) return seen;
    std::memset(RingPage(channel, true), 0, 6 * kPageSize);
    const uint32_t id = channel + 1;
    seen += Lend(channel, id, channel * 6 + 1, 6);
    const std::string answer =
        Post(absl::StrCat("open-channel channel=", id, " open_id=1 gpadl=", id, " downstream=3 target_vp=0"));
    channels_[channel] = {.is_open = absl::StrContains(answer, "message 0600000000000000")};
    opens += channels_[channel].is_open;
    if (channel == 0 && channels_[0].is_open) {
      seen += Lend(0, kReceiveGpadl, kReceivePage, kReceivePages);
      seen += Lend(0, kSendGpadl, kSendPage, kSendPages);
    }
    return seen + answer;
  }
  static constexpr uint32_t kReceiveGpadl = 10, kSendGpadl = 11;
  void Signal(uint32_t channel) { (void)hypervisor_.ChildSignalEvent(ConnectionId{0x2001 + channel}); }

  std::string Read(uint32_t channel, std::mt19937_64& random) {
    if (!channels_[channel].is_open) return "";
    vmbus::RingReader<vmbus::FlatMemory> ring(Ring(channel, false));
    alignas(8) uint8_t buffer[1024];
    vmbus::Packet packet;
    if (ring.Attach() != vmbus::RingStatus::kOk ||
        ring.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) {
      return "";
    }
    std::string seen = absl::StrCat(
        "packet ", static_cast<int>(packet.type), " ",
        absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(packet.payload), packet.payload_size)));
    const bool is_transfer = packet.type == hvdef::PacketType::kDataUsingTransferPages;
    const bool completes = random() % 4 != 0;
    if (is_transfer) {
      ++transfers;
      for (uint32_t at = 8; at + 8 <= packet.extension_size; at += 8) {
        hvdef::TransferPageRange range;
        std::memcpy(&range, packet.extension + at, sizeof(range));
        // Where it lies differs between two that took other sections first.
        const auto* const bytes = reinterpret_cast<const char*>(&bytes_[kReceivePage * kPageSize + range.byte_offset]);
        absl::StrAppend(&seen, " ", absl::BytesToHexString(absl::string_view(bytes, range.byte_count)));
      }
    } else {
      ++completions;
      absl::StrAppend(&seen, " ", packet.transaction_id);
    }
    if (ring.Commit() == vmbus::Signal::kNeeded) Signal(channel);
    if (is_transfer && completes) {
      vmbus::RingWriter<vmbus::FlatMemory> out(Ring(channel, true));
      netvsp::Message message = {};
      message.type = MessageType::kSendRndisPacketComplete;
      message.rndis_packet_complete.status = netvsp::Status::kSuccess;
      if (out.Attach() == vmbus::RingStatus::kOk) {
        (void)out.StageInBand(vmbus::PacketHeader::Completion(packet.transaction_id), &message, sizeof(message));
        (void)out.Publish();
      }
      Signal(channel);
    }
    executor_.RunUntilIdle();
    return seen + "\n";
  }

  void Send(uint32_t channel, std::mt19937_64& random) {
    Guest& guest = channels_[channel];
    if (!guest.is_open) return;
    netvsp::Message message = {};
    std::vector<uint8_t> bytes;
    const auto put = [&bytes](const auto& object) {
      const auto* const from = reinterpret_cast<const uint8_t*>(&object);
      bytes.insert(bytes.end(), from, from + sizeof(object));
    };
    const auto control = [&](rndis::MessageType type, const auto& body, auto... info) {
      message.type = MessageType::kSendRndisPacket;
      message.rndis_packet = {netvsp::RndisChannel::kControl, netvsp::kNoSection, 0};
      put(rndis::MessageHeader{type, static_cast<uint32_t>(8 + sizeof(body) + (0 + ... + sizeof(info)))});
      put(body);
      (put(info), ...);
    };
    const auto request = [&](rndis::Oid oid, uint32_t size) {
      return rndis::Request{static_cast<uint32_t>(guest.next_id), oid, size, sizeof(rndis::Request), 0};
    };
    if (channel == 0 && guest.next_setup < 8) {
      constexpr netvsp::Version kVersions[] = {netvsp::Version::k61, netvsp::Version::k5, netvsp::Version::k2};
      switch (guest.next_setup++) {
        case 0: {
          const netvsp::Version version = kVersions[random() % 8 < 6 ? 0 : random() % 3];
          message.type = MessageType::kInit;
          message.init = {version, version};
          break;
        }
        case 1:
          message.type = MessageType::kSendNdisConfig;
          message.ndis_config = {1514, 0, static_cast<uint32_t>(random() % 256), 0};
          break;
        case 2:
          message.type = MessageType::kSendReceiveBuffer;
          message.send_buffer = {kReceiveGpadl, netvsp::kReceiveBufferId, 0};
          break;
        case 3:
          message.type = MessageType::kSendSendBuffer;
          message.send_buffer = {kSendGpadl, 0, 0};
          break;
        case 4:
          control(rndis::MessageType::kInitialize, rndis::Initialize{1, 1, 0, 0x4000});
          break;
        case 5:
          control(rndis::MessageType::kSet, request(rndis::Oid::kGenCurrentPacketFilter, 4), uint32_t{0x2F});
          break;
        case 6:
          message.type = MessageType::kSubchannel;
          message.subchannel_request = {netvsp::kSubchannelAllocate, 1};
          break;
        default: {
          rndis::RssParameters rss = {};
          rss.header = {rndis::kObjectRssParameters, 2, sizeof(rss)};
          rss.hash_info = 0x701;
          rss.table_bytes = 8;
          rss.table_offset = sizeof(rss);
          rss.key_bytes = 40;
          rss.key_offset = sizeof(rss) + 8;
          control(rndis::MessageType::kSet, request(rndis::Oid::kGenReceiveScaleParameters, sizeof(rss) + 48), rss,
                  std::array<uint32_t, 2>{0, 1}, ethernet::kDefaultFlowKey);
        }
      }
    } else if (channel == 0 && random() % 4 == 0) {
      constexpr rndis::Oid kOids[] = {rndis::Oid::k8023CurrentAddress, rndis::Oid::kGenCurrentPacketFilter,
                                      rndis::Oid::kTcpOffloadCurrentConfig, rndis::Oid::k8023MulticastList};
      if (random() % 2 == 0) {
        control(rndis::MessageType::kQuery, request(kOids[random() % 4], 0));
      } else {
        const std::array<uint8_t, 6> group = {1, 0, 0x5E, 0, 0, static_cast<uint8_t>(random())};
        control(rndis::MessageType::kSet, request(rndis::Oid::k8023MulticastList, 6), group);
      }
    } else {
      message.type = MessageType::kSendRndisPacket;
      message.rndis_packet = {netvsp::RndisChannel::kData, netvsp::kNoSection, 0};
      ethernet::FrameSpec spec;
      spec.payload.assign(random() % 300, 7);
      const std::vector<uint8_t> frame = ethernet::MakeFrame(spec);
      rndis::Packet packet = {};
      packet.data_offset = sizeof(packet);
      packet.data_length = static_cast<uint32_t>(frame.size());
      put(rndis::MessageHeader{rndis::MessageType::kPacket, static_cast<uint32_t>(8 + sizeof(packet) + frame.size())});
      put(packet);
      bytes.insert(bytes.end(), frame.begin(), frame.end());
    }
    vmbus::RingWriter<vmbus::FlatMemory> ring(Ring(channel, true));
    if (ring.Attach() != vmbus::RingStatus::kOk) return;
    const uint64_t id = guest.next_id++;
    if (bytes.empty()) {
      (void)ring.StageInBand(vmbus::PacketHeader::InBand(id, true), &message, sizeof(message));
    } else {
      // A page for each, so that one does not overwrite what waits in the ring.
      const uint64_t page = kDataPage + id % (kPages - kDataPage);
      std::memcpy(&bytes_[page * kPageSize], bytes.data(), bytes.size());
      const vmbus::GpaBuffer buffer = {static_cast<uint32_t>(bytes.size()), 0, &page};
      (void)ring.StageGpaDirect(id, true, &buffer, 1, &message, sizeof(message));
    }
    (void)ring.Publish();
  }

  std::vector<uint8_t> bytes_;
  GuestMemory memory_;
  QueueExecutor executor_;
  vmbus::LoopbackHypervisor hypervisor_{1, 64};
  vmbus::Server server_{memory_, hypervisor_, {}, {.executor = &executor_}};
  std::shared_ptr<ScriptedPort> port_ = std::make_shared<ScriptedPort>();
  std::unique_ptr<NetworkAdapter> network_;

  state::SavedState server_state_;
  bool has_server_state_ = false;

  bool is_connected_ = false;
  std::array<Guest, 2> channels_;
};

TEST(NetworkComponentTest, KeepsItsState) {
  state::CheckComponent([] { return std::make_unique<NetworkSubject>(); }, 40, 100);
  std::printf("%d opens, %d completions, %d transfers, %d frames\n", NetworkSubject::opens, NetworkSubject::completions,
              NetworkSubject::transfers, NetworkSubject::frames);
  EXPECT_GT(NetworkSubject::opens, 50);
  EXPECT_GT(NetworkSubject::completions, 1000);
  EXPECT_GT(NetworkSubject::transfers, 500);
  EXPECT_GT(NetworkSubject::frames, 500);
}

}  // namespace
}  // namespace hvsdk::vsp

// SPDX-License-Identifier: Apache-2.0
// A hostile guest at the network provider, and a port that is full, empty and unplugged as it is told: plays a string of bytes as NVSP
// and RNDIS messages with lies in every field, buffers that are lent and taken back at any moment, frames, transfers that are never
// completed or twice, subchannels, pauses, and adapters that are taken away meanwhile. Ends the program if the provider answers what
// was not asked, lends what is not in the receive buffer or is the guest's already, gives the port what lies outside its limits,
// or does not come to rest.

#ifndef HVSDK_FUZZ_NETVSP_NETVSP_HARNESS_H_
#define HVSDK_FUZZ_NETVSP_NETVSP_HARNESS_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/check.h"
#include "fuzz/provider_world.h"
#include "hvsdk/hvdef/netvsp.h"
#include "hvsdk/hvdef/rndis.h"
#include "hvsdk/vsp/network.h"

namespace hvsdk::vsp {

// Takes so many frames, has so many, and looks at every byte of what it gets.
class FicklePort : public NetworkPort {
 public:
  NetworkPortInfo port_info;
  size_t room = 1000;
  bool is_up = true;
  bool takes_segments = false;
  static inline uint64_t frames_sent = 0;  // of all
  uint32_t sum = 0;                        // so that reads are not left out
  NetworkPortClient* client = nullptr;
  std::deque<std::pair<std::vector<uint8_t>, FrameOffload>> waiting;

  NetworkPortInfo info() const override { return port_info; }
  bool link_is_up() const override { return is_up; }
  absl::Status Attach(NetworkPortClient& with, const NetworkPortInfo&) override {
    client = &with;
    return absl::OkStatus();
  }
  void ChangeAccepted(const NetworkPortInfo& accepts) override { takes_segments = accepts.takes_segmentation; }
  void Detach() override {
    client = nullptr;
    waiting.clear();
  }
  size_t Send(uint16_t queue, absl::Span<const OutgoingFrame> frames) override {
    HVSDK_CHECK(queue < port_info.queues);
    const size_t taken = std::min(room, frames.size());
    room -= taken;
    frames_sent += taken;
    for (const OutgoingFrame& frame : frames.first(taken)) {
      size_t bytes = 0;
      for (const HostBuffer& buffer : frame.buffers) {
        bytes += buffer.size_bytes;
        for (size_t i = 0; i < buffer.size_bytes; ++i) sum += buffer.data[i];
      }
      const FrameOffload& offload = frame.offload;
      HVSDK_CHECK(bytes >= frame.size_bytes && frame.size_bytes >= 14);
      HVSDK_CHECK(frame.size_bytes <= (offload.segmentation == FrameOffload::Segmentation::kNone
                                           ? port_info.mtu_bytes + 14
                                           : port_info.max_frame_bytes));
      HVSDK_CHECK(!offload.needs_checksum || port_info.takes_checksum);
      HVSDK_CHECK(!offload.needs_checksum || offload.checksum_start + offload.checksum_offset + 2u <= frame.size_bytes);
      HVSDK_CHECK(offload.segmentation == FrameOffload::Segmentation::kNone ||
                  (port_info.takes_segmentation && offload.needs_checksum && offload.segment_bytes != 0 &&
                   offload.header_bytes < frame.size_bytes));
    }
    return taken;
  }
  size_t Receive(uint16_t queue, absl::Span<IncomingFrame> frames) override {
    if (queue != 0) return 0;
    size_t count = 0;
    while (count < frames.size() && !waiting.empty()) {
      const auto [bytes, offload] = std::move(waiting.front());
      waiting.pop_front();
      size_t at = 0;
      for (const HostBuffer& buffer : frames[count].buffers) {
        const size_t size = std::min(buffer.size_bytes, bytes.size() - at);
        if (size != 0) std::memcpy(buffer.data, bytes.data() + at, size);
        at += size;
      }
      if (at != bytes.size()) continue;
      frames[count].size_bytes = at;
      frames[count++].offload = offload;
    }
    return count;
  }
};

class NetvspHarness : private ProviderWorld {
 public:
  NetvspHarness() {
    MakeNetwork();
    Connect(absl::MakeSpan(ends_));
    receive_pages_ = child_->AllocatePages(kReceivePages) / kPageSize;
    send_pages_ = child_->AllocatePages(kSendPages) / kPageSize;
    data_pages_ = child_->AllocatePages(kDataPages) / kPageSize;
  }

  // How many packets were answered, and transfers came: tests see that it gets somewhere.
  uint64_t completions = 0, transfers = 0;

  void Play(const uint8_t* data, size_t size) {
    in_ = fuzz::Bytes({data, size});
    const uint8_t options = Byte();
    if (options % 8 == 0) Replace();
    Open();
    lies_ = options % 16 == 2;
    if (options % 16 != 1) Negotiate();
    while (!in_.empty()) Step();
    if (is_paused_) Resume();
    Close();
  }

 private:
  static constexpr uint32_t kReceivePages = 12, kSendPages = 8, kDataPages = 64;

  uint16_t Word() { return static_cast<uint16_t>(Byte() | Byte() << 8); }
  // Mostly what it is; else something near, or anything.
  uint32_t Lie(uint32_t truth) {
    if (!lies_) return truth;
    switch (Byte() % 32) {
      case 0:
        return truth + 1;
      case 1:
        return truth - 1;
      case 2:
        return 0xFFFFFFFF - Byte();
      case 3:
        return Word();
      case 4:
        return Byte();
      default:
        return truth;
    }
  }

  void MakeNetwork(bool has_lanes = false) {
    NetworkOptions options;
    if (has_lanes) options.executors.push_back(&other_executor_);
    options.instance_id = kInstance;
    options.mac_address = {0, 0x15, 0x5D, 1, 2, 3};
    options.max_subchannels = kEnds - 1;
    network_ = *NetworkAdapter::Create(*server_, executor_, port_, options);
  }

  struct End : ChannelEnd {
    std::map<uint64_t, std::vector<uint32_t>> held;  // transfers that the guest has not completed, and where they lie
  };

  void OpenEnd(uint16_t index) {
    End& end = ends_[index];
    OpenChannel(end, index, [&] { Forget(end); });
  }
  void Open() {
    end_ = &ends_[0];
    OpenEnd(0);
  }
  void Forget(End& end) {
    for (const auto& [id, offsets] : end.held) {
      for (const uint32_t offset : offsets) held_.erase(offset);
    }
    end.held.clear();
  }
  void ForgetAll() {
    for (End& end : ends_) Forget(end);
    HVSDK_CHECK(held_.empty() || may_lend_again_);
    held_.clear();
  }

  // The primary channel, and the others with it.
  void Close() {
    end_ = &ends_[0];
    child_->client().Close(end_->channel);
    Pump();
    AfterEnd();
  }
  void AfterEnd() {
    for (End& end : ends_) {
      HVSDK_CHECK(!end.is_open());
      end.channel = vsc::Channel();
    }
    ForgetAll();
    may_lend_again_ = false;
    // They went with the channel.
    receive_gpadl_ = vsc::Gpadl();
    send_gpadl_ = vsc::Gpadl();
  }

  void Resume() {
    is_paused_ = false;
    network_->Resume();
    Pump();
  }

  // The adapter goes away and comes again with another port, whatever is under way.
  void Replace() {
    if (Byte() % 2 != 0) {
      bool is_idle = false;
      network_->Stop([&] { is_idle = true; });
      if (Byte() % 2 != 0) {
        Pump();
        HVSDK_CHECK(is_idle);
      }
    }
    network_.reset();
    is_paused_ = false;
    Pump();
    AfterEnd();
    const uint8_t kind = Byte();
    port_ = std::make_shared<FicklePort>();
    port_->port_info.takes_checksum = kind % 2 != 0;
    port_->port_info.takes_segmentation = kind % 4 == 3;
    port_->port_info.max_frame_bytes = kind % 4 == 3 ? 65549 : 1514;
    port_->port_info.queues = static_cast<uint16_t>(1 + kind / 4 % 2);
    MakeNetwork(/*has_lanes=*/kind / 8 % 2 != 0);
    Pump();
  }

  void MakeGpadl(vsc::Gpadl& gpadl, uint64_t pages, uint32_t count) {
    if (gpadl.state() != vsc::Gpadl::State::kNone || !ends_[0].is_open()) return;
    HVSDK_CHECK(child_->client().CreateGpadl(gpadl, ends_[0].channel,
                                             {.pfns = nullptr, .first_pfn = pages, .page_count = count}));
    Pump();
  }

  void Negotiate() {
    using hvdef::netvsp::Message;
    using hvdef::netvsp::MessageType;
    using hvdef::netvsp::Version;
    static constexpr Version kVersions[] = {Version::k61, Version::k6, Version::k5,
                                            Version::k4,  Version::k2, Version::k1};
    const Version version = kVersions[Byte() % 6];
    const auto send = [&](MessageType type, auto fill) {
      Message message = {};
      message.type = type;
      fill(message);
      SendMessage(message, sizeof(message), true);
    };
    send(MessageType::kInit, [&](Message& message) { message.init = {version, version}; });
    if (Byte() % 2 != 0) {
      send(MessageType::kSendNdisConfig, [&](Message& message) { message.ndis_config = {Lie(1514), 0, Byte(), 0}; });
    }
    LendBuffers();
    using hvdef::rndis::Oid;
    const hvdef::rndis::Initialize initialize = {1, 1, 0, 0x4000};
    Control(hvdef::rndis::MessageType::kInitialize, &initialize, sizeof(initialize));
    const struct {
      hvdef::rndis::Request request;
      uint32_t filter;
    } filter = {{2, Oid::kGenCurrentPacketFilter, 4, 20, 0}, 0x2F};
    Control(hvdef::rndis::MessageType::kSet, &filter, sizeof(filter));
    Exchange();
  }
  void LendBuffers() {
    using hvdef::netvsp::Message;
    using hvdef::netvsp::MessageType;
    MakeGpadl(receive_gpadl_, receive_pages_, kReceivePages);
    MakeGpadl(send_gpadl_, send_pages_, kSendPages);
    Message message = {};
    message.type = MessageType::kSendReceiveBuffer;
    message.send_buffer = {Lie(receive_gpadl_.id()), hvdef::netvsp::kReceiveBufferId, 0};
    SendMessage(message, sizeof(message), true);
    message.type = MessageType::kSendSendBuffer;
    message.send_buffer = {Lie(send_gpadl_.id()), 0, 0};
    SendMessage(message, sizeof(message), true);
  }

  void Step() {
    lies_ = Byte() % 8 == 0;
    switch (Byte() % 24) {
      default:
        SendFrames();
        break;
      case 0:
      case 1:
        SendControl();
        break;
      case 2: {
        hvdef::netvsp::Message message = {};
        message.type = static_cast<hvdef::netvsp::MessageType>(Byte() % 40 + (Byte() % 8 != 0 ? 100 : 0));
        Bytes(message.bytes, Byte() % 37);
        SendMessage(message, Byte() % 48, Byte() % 8 != 0);
        break;
      }
      case 3:
      case 4:
      case 5:
        GiveFrame();
        break;
      case 6: {
        const uint8_t what = Byte();
        port_->room = what % 4 == 0 ? 0 : what;
        port_->client->OnRoom(what % 4);
        break;
      }
      case 7:
        port_->is_up = Byte() % 2 != 0;
        port_->client->OnLink();
        break;
      case 8:
        Pump();
        break;
      case 9:
        // Also when it is not read any more.
        if (Byte() % 4 != 0 && end_->asked.size() < 4) break;
        Close();
        Open();
        if (Byte() % 4 != 0) Negotiate();
        break;
      case 10:
        if (Byte() % 8 == 0) BreakRing();
        break;
      case 11:
      case 12: {
        const uint8_t what = Byte();
        End& end = ends_[1 + what / 8 % (kEnds - 1)];
        if (what % 8 < 2) {
          end_ = &ends_[0];
          hvdef::netvsp::Message message = {};
          message.type = hvdef::netvsp::MessageType::kSubchannel;
          message.subchannel_request = {Lie(1), Lie(2)};
          SendMessage(message, sizeof(message), true);
        } else if (what % 8 < 4) {
          OpenEnd(static_cast<uint16_t>(&end - ends_));
        } else if (what % 8 == 4 && end.is_open()) {
          child_->client().Close(end.channel);
          Pump();
          Forget(end);
          if (end_ == &end) end_ = &ends_[0];
        } else {
          end_ = end.is_open() ? &end : &ends_[0];
        }
        break;
      }
      case 13:
        if (Byte() % 4 != 0) break;
        Replace();
        Open();
        if (Byte() % 4 != 0) Negotiate();
        break;
      case 14: {
        vsc::Gpadl& gpadl = Byte() % 2 != 0 ? receive_gpadl_ : send_gpadl_;
        if (Byte() % 4 != 0 || gpadl.state() != vsc::Gpadl::State::kCreated) break;
        child_->client().TeardownGpadl(gpadl);
        Pump();
        // Nobody holds it up: an adapter that uses it lets go.
        HVSDK_CHECK(gpadl.state() == vsc::Gpadl::State::kNone || is_paused_);
        may_lend_again_ |= &gpadl == &receive_gpadl_;  // what lay there, and is in a ring, was lent, too
        break;
      }
      case 15:
        if (Byte() % 2 != 0) LendBuffers();
        break;
      case 16: {
        hvdef::netvsp::Message message = {};
        message.type = Byte() % 2 != 0 ? hvdef::netvsp::MessageType::kRevokeReceiveBuffer
                                       : hvdef::netvsp::MessageType::kRevokeSendBuffer;
        if (Byte() % 4 != 0) break;
        end_ = &ends_[0];
        SendMessage(message, sizeof(message), true);
        break;
      }
      case 17:
        if (Byte() % 4 != 0) break;
        if (is_paused_) {
          Resume();
        } else {
          bool is_paused = false;
          network_->Pause([&] { is_paused = true; });
          Pump();
          HVSDK_CHECK(is_paused);
          is_paused_ = true;
          state::StateWriter writer;
          HVSDK_CHECK(network_->Save(writer).ok());
        }
        break;
      case 18:
        CompleteHeld();
        break;
    }
    if (!end_->is_open()) end_ = &ends_[0];
  }

  void BreakRing() {
    // Any word of either control page; what the ring makes of it is the ring's affair.
    end_ = &ends_[0];
    auto* control = reinterpret_cast<uint32_t*>(child_->host(end_->ring.pages.first_pfn * kPageSize));
    if (Byte() % 2 != 0) control += kRingPages * kPageSize / 4;
    uint32_t value;
    Bytes(&value, sizeof(value));
    std::atomic_ref<uint32_t>(control[Byte() % 4]).store(value);
    Signal();
    Pump();
    Close();
    Open();
  }

  // A frame with all that there may be in front of it.
  std::vector<uint8_t> MakeFrame() {
    std::vector<uint8_t> frame(14 + Byte() % 2 * 4);
    const uint8_t kind = Byte();
    if (kind % 4 != 0) {
      const uint8_t to[6] = {0, 0x15, 0x5D, 1, 2, 3};
      std::memcpy(frame.data(), to, 6);
    } else {
      Bytes(frame.data(), 6);
    }
    if (frame.size() == 18) frame[12] = 0x81;
    const bool is_ipv6 = kind / 4 % 2 != 0;
    frame[frame.size() - 2] = is_ipv6 ? 0x86 : 0x08;
    frame[frame.size() - 1] = is_ipv6 ? 0xDD : 0;
    std::vector<uint8_t> ip(is_ipv6 ? 40 : 20);
    ip[0] = static_cast<uint8_t>(is_ipv6 ? 0x60 : Lie(0x45));
    static constexpr uint8_t kProtocols[] = {6, 17, 6, 0, 43, 44, 60, 1};
    ip[is_ipv6 ? 6 : 9] = kProtocols[kind / 8 % 8];
    if (!is_ipv6 && Byte() % 8 == 0) ip[6] = Byte();
    frame.insert(frame.end(), ip.begin(), ip.end());
    std::vector<uint8_t> transport(20 + Byte() % 8 * 4);
    transport[12] = static_cast<uint8_t>(Lie(transport.size() / 4) << 4);
    transport[0] = Byte();
    transport[3] = Byte();
    frame.insert(frame.end(), transport.begin(), transport.end());
    frame.resize(frame.size() + Byte() % 8 * 200 + Byte(), Byte());
    if (Byte() % 8 == 0) frame.resize(Byte());
    return frame;
  }

  void GiveFrame() {
    const uint8_t count = Byte() % 8 == 0 ? 64 : 1;
    std::vector<uint8_t> frame = MakeFrame();
    FrameOffload offload;
    const uint8_t what = Byte();
    offload.checksum_is_valid = what % 2 != 0;
    offload.has_vlan = what % 4 > 1;
    offload.vlan_tci = Word();
    // The port is not the guest's: its offsets are within the frame.
    if (what % 8 > 3 && frame.size() > 60) {
      offload.needs_checksum = true;
      offload.checksum_start = 34;
      offload.checksum_offset = 16;
    }
    if (what / 8 % 4 == 3 && port_->takes_segments) {
      offload.segmentation = FrameOffload::Segmentation::kTcp4;
      offload.segment_bytes = 1448;
      frame.resize(std::min<size_t>(frame.size() + size_t{what} * 300, 65549), what);
    }
    for (uint8_t i = 0; i < count && port_->waiting.size() < 200; ++i) port_->waiting.emplace_back(frame, offload);
    port_->client->OnFrames(0);
    if (Byte() % 2 != 0) Exchange();
  }

  // One to three RNDIS packets in one of ours, near sensible ones.
  void SendFrames() {
    std::vector<uint8_t> all;
    const uint8_t shape = Byte();
    const int messages = shape % 8 == 0 ? 1 + Byte() % 3 : shape == 255 ? 70 : 1;
    for (int i = 0; i < messages; ++i) {
      const std::vector<uint8_t> frame = MakeFrame();
      struct {
        hvdef::rndis::PerPacketInfo info;
        uint32_t value;
      } infos[4] = {};
      uint32_t count = 0;
      const uint8_t which = Byte();
      const auto add = [&](hvdef::rndis::InfoType type, uint32_t value) {
        infos[count++] = {{Lie(16), static_cast<hvdef::rndis::InfoType>(Lie(static_cast<uint32_t>(type))), Lie(12)},
                          value};
      };
      if (which % 2 != 0) add(hvdef::rndis::InfoType::kChecksum, Byte());
      if (which % 4 > 1) add(hvdef::rndis::InfoType::kLargeSend, Lie(Byte() * 6u) | 1u << 30);
      if (which % 8 > 3) add(hvdef::rndis::InfoType::kVlan, Word());
      if (which % 16 > 7) add(static_cast<hvdef::rndis::InfoType>(Byte()), Word());
      const uint32_t info_bytes = count * sizeof(infos[0]);
      hvdef::rndis::MessageHeader header = {static_cast<hvdef::rndis::MessageType>(Lie(1)), 0};
      hvdef::rndis::Packet packet = {};
      packet.data_offset = Lie(static_cast<uint32_t>(sizeof(packet)) + info_bytes);
      packet.data_length = Lie(static_cast<uint32_t>(frame.size()));
      packet.per_packet_info_offset = Lie(sizeof(packet));
      packet.per_packet_info_length = Lie(info_bytes);
      header.length = Lie(static_cast<uint32_t>(sizeof(header) + sizeof(packet) + info_bytes + frame.size()));
      Put(all, &header, sizeof(header));
      Put(all, &packet, sizeof(packet));
      Put(all, infos, info_bytes);
      Put(all, frame.data(), frame.size());
    }
    SendRndis(hvdef::netvsp::RndisChannel::kData, all);
    Exchange();
  }

  // Near a sensible request.
  void SendControl() {
    using hvdef::rndis::Oid;
    static constexpr Oid kOids[] = {Oid::kGenSupportedList,
                                    Oid::kGenCurrentPacketFilter,
                                    Oid::kGenCurrentLookahead,
                                    Oid::k8023MulticastList,
                                    Oid::kGenReceiveScaleCapabilities,
                                    Oid::kGenReceiveScaleParameters,
                                    Oid::kGenRndisConfigParameter,
                                    Oid::kTcpOffloadParameters,
                                    Oid::kTcpOffloadHardwareCapabilities,
                                    Oid::kTcpOffloadCurrentConfig,
                                    Oid::kGenFriendlyName,
                                    Oid::kGenLinkState,
                                    Oid::kGenReceiveScaleParameters,
                                    Oid::kGenCurrentPacketFilter,
                                    Oid::kTcpOffloadParameters,
                                    static_cast<Oid>(0x01020304)};
    end_ = &ends_[0];
    const Oid oid = kOids[Byte() % 16];
    const auto type = static_cast<hvdef::rndis::MessageType>(Byte() % 4 == 0 ? Byte() % 12 : 4 + Byte() % 2);
    std::vector<uint8_t> info(Byte());
    if (oid == Oid::kGenReceiveScaleParameters) {
      info.resize(40 + 512 + 40);
      hvdef::rndis::RssParameters rss = {};
      rss.header = {static_cast<uint8_t>(Lie(hvdef::rndis::kObjectRssParameters)), 2, sizeof(rss)};
      rss.flags = static_cast<uint16_t>(Byte() % 4 == 0 ? Byte() : 0);
      rss.hash_info = Lie(0xF701);
      rss.table_bytes = static_cast<uint16_t>(Lie(512));
      rss.table_offset = Lie(40);
      rss.key_bytes = static_cast<uint16_t>(Lie(40));
      rss.key_offset = Lie(552);
      const uint8_t channels = 1 + Byte() % 4;
      for (size_t i = 0; i < 128; ++i) info[40 + i * 4] = static_cast<uint8_t>(i % channels);
      std::memcpy(info.data(), &rss, sizeof(rss));
    } else if (oid == Oid::kTcpOffloadParameters) {
      info = {0x80, 1, 20, 0, 4, 4, 4, 4, 4, 0, 0, 2, 2, 0, 0, 0, 0, 0, 0, 0};
      const uint8_t change = Byte();
      if (change % 4 == 0) info[4 + Byte() % 9] = Byte();
      // With segments coalesced, or with what is neither.
      if (change % 4 > 1) {
        info[1] = 3;
        info.resize(28);
        info[22] = info[23] = change % 4 == 3 ? 2 : change / 4;
      }
    } else if (oid == Oid::kGenCurrentPacketFilter && Byte() % 2 != 0) {
      info = {static_cast<uint8_t>(Byte() % 0x30), 0, 0, 0};
    } else {
      Bytes(info.data(), std::min<size_t>(info.size(), 16));
    }
    const hvdef::rndis::Request request = {Byte(), oid, Lie(static_cast<uint32_t>(info.size())), Lie(sizeof(request)),
                                           0};
    std::vector<uint8_t> body;
    Put(body, &request, sizeof(request));
    Put(body, info.data(), info.size());
    Control(type, body.data(), body.size());
    Exchange();
  }
  void Control(hvdef::rndis::MessageType type, const void* body, size_t size) {
    std::vector<uint8_t> message;
    const hvdef::rndis::MessageHeader header = {type, Lie(static_cast<uint32_t>(sizeof(header) + size))};
    Put(message, &header, sizeof(header));
    Put(message, body, size);
    SendRndis(hvdef::netvsp::RndisChannel::kControl, message);
  }

  static void Put(std::vector<uint8_t>& to, const void* from, size_t size) {
    const auto* const bytes = static_cast<const uint8_t*>(from);
    to.insert(to.end(), bytes, bytes + size);
  }

  // In a section, in pages, or in both.
  void SendRndis(hvdef::netvsp::RndisChannel channel, const std::vector<uint8_t>& bytes) {
    if (!end_->is_open()) return;
    const uint8_t where = Byte();
    const size_t most = std::min<size_t>(bytes.size(), 6144);
    const size_t in_section = where % 4 == 0 ? most : where % 4 == 1 ? most / 2 : 0;
    const uint32_t section = Byte() % 4;
    std::memcpy(child_->host(send_pages_ * kPageSize) + section * 6144, bytes.data(), in_section);
    const size_t in_pages = std::min<size_t>(bytes.size() - in_section, 32 * kPageSize);
    const uint32_t offset = Byte() * 8u;
    std::memcpy(child_->host(data_pages_ * kPageSize) + offset, bytes.data() + in_section, in_pages);
    hvdef::netvsp::Message message = {};
    message.type = hvdef::netvsp::MessageType::kSendRndisPacket;
    message.rndis_packet = {static_cast<hvdef::netvsp::RndisChannel>(Lie(static_cast<uint32_t>(channel))),
                            in_section != 0 ? Lie(section) : Lie(hvdef::netvsp::kNoSection),
                            Lie(static_cast<uint32_t>(in_section))};
    if (in_pages == 0) return SendMessage(message, sizeof(message), Byte() % 16 != 0);
    uint64_t pfns[kDataPages];
    for (uint32_t i = 0; i < kDataPages; ++i) pfns[i] = data_pages_ + i;
    if (Byte() % 16 == 0) Bytes(&pfns[Byte() % 4], 8);
    const vmbus::GpaBuffer buffer = {std::min<uint32_t>(Lie(static_cast<uint32_t>(in_pages)), 40 * kPageSize) + 0,
                                     offset, pfns};
    if (buffer.byte_count == 0) return;
    if (end_->rings.outgoing.StageGpaDirect(++next_id_, true, &buffer, 1, &message, sizeof(message)) ==
        vmbus::RingStatus::kOk) {
      end_->asked.insert(next_id_);
    }
  }

  void SendMessage(const hvdef::netvsp::Message& message, size_t size, bool wants_completion) {
    if (!end_->is_open()) return;
    // What the provider sent before it reads that is the guest's no more; it may be lent again from now on.
    may_lend_again_ |= message.type == hvdef::netvsp::MessageType::kRevokeReceiveBuffer;
    // It may name other memory, where nobody looks.
    may_lend_again_ |= message.type == hvdef::netvsp::MessageType::kSendReceiveBuffer &&
                       message.send_buffer.gpadl_id != receive_gpadl_.id();
    uint8_t bytes[64] = {};
    std::memcpy(bytes, &message, sizeof(message));
    ++next_id_;
    const auto status = end_->rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(next_id_, wants_completion), bytes,
                                                         static_cast<uint32_t>(size));
    if (status == vmbus::RingStatus::kOk && wants_completion) end_->asked.insert(next_id_);
    Exchange();
  }

  void Complete(End& end, uint64_t id) {
    hvdef::netvsp::Message message = {};
    message.type = hvdef::netvsp::MessageType::kSendRndisPacketComplete;
    message.rndis_packet_complete.status = hvdef::netvsp::Status::kSuccess;
    if (end.rings.outgoing.StageInBand(vmbus::PacketHeader::Completion(id), &message, sizeof(message)) ==
        vmbus::RingStatus::kOk) {
      const auto at = end.held.find(id);
      if (at == end.held.end()) return;  // a lie
      for (const uint32_t offset : at->second) held_.erase(offset);
      end.held.erase(at);
    }
  }
  void CompleteHeld() {
    const uint8_t what = Byte();
    // One that there is not, or another channel's.
    if (what % 8 == 0) return Complete(*end_, 0x10000u + Word());
    const End& other = ends_[what / 8 % kEnds];
    if (what % 8 == 2 && &other != end_ && !other.held.empty()) {
      const uint64_t id = other.held.begin()->first;
      if (end_->held.count(id) == 0) return Complete(*end_, id);
    }
    while (!end_->held.empty() && end_->rings.outgoing.free_bytes() > 256) {
      Complete(*end_, end_->held.begin()->first);
      if (what % 8 == 1) break;
    }
    Exchange();
  }

  void Signal() { child_->client().Signal(end_->channel); }

  // Shows the packets to the provider now or later, and takes what it said.
  void Exchange() {
    if (!end_->is_open()) return;
    const uint8_t how = Byte();
    if (how % 4 == 0) return;
    if (end_->rings.outgoing.Publish() == vmbus::Signal::kNeeded) Signal();
    Pump();
    for (End& end : ends_) {
      if (end.is_open() && (how % 8 != 1 || &end == end_)) TakeAll(end, how % 4 != 2);
    }
    if (end_->rings.outgoing.Publish() == vmbus::Signal::kNeeded) Signal();
  }

  void TakeAll(End& end, bool completes) {
    alignas(8) uint8_t bytes[2048];
    vmbus::Packet packet;
    for (;;) {
      while (end.rings.incoming.Read(bytes, sizeof(bytes), packet) == vmbus::RingStatus::kOk) {
        if (packet.type == hvdef::PacketType::kCompletion) {
          HVSDK_CHECK(end.asked.erase(packet.transaction_id) == 1);
          ++completions;
        } else if (packet.type == hvdef::PacketType::kDataUsingTransferPages) {
          TakeTransfer(end, packet, completes);
        } else {
          HVSDK_CHECK(packet.type == hvdef::PacketType::kDataInBand && packet.transaction_id == 0 && &end == &ends_[0]);
        }
      }
      const vmbus::Armed armed = end.rings.incoming.Arm();
      if (armed.signal == vmbus::Signal::kNeeded) child_->client().Signal(end.channel);
      if (armed.may_sleep) return;
    }
  }

  void TakeTransfer(End& end, const vmbus::Packet& packet, bool completes) {
    ++transfers;
    hvdef::TransferPageHeader header;
    HVSDK_CHECK(packet.completion_requested() && packet.extension_size >= sizeof(header));
    std::memcpy(&header, packet.extension, sizeof(header));
    HVSDK_CHECK(header.range_count != 0 &&
                header.range_count * sizeof(hvdef::TransferPageRange) + sizeof(header) <= packet.extension_size);
    std::vector<uint32_t> offsets;
    for (uint32_t i = 0; i < header.range_count; ++i) {
      hvdef::TransferPageRange range;
      std::memcpy(&range, packet.extension + sizeof(header) + i * sizeof(range), sizeof(range));
      HVSDK_CHECK(range.byte_count != 0 && range.byte_offset < kReceivePages * kPageSize &&
                  range.byte_count <= kReceivePages * kPageSize - range.byte_offset);
      // Not the guest's already, unless it has taken the whole buffer back meanwhile.
      HVSDK_CHECK(held_.insert(range.byte_offset).second || may_lend_again_);
      offsets.push_back(range.byte_offset);
      hvdef::rndis::MessageHeader message;
      std::memcpy(&message, child_->host(receive_pages_ * kPageSize) + range.byte_offset, sizeof(message));
      HVSDK_CHECK(message.length == range.byte_count || may_lend_again_);
    }
    end.held[packet.transaction_id] = offsets;
    if (completes && end.rings.outgoing.free_bytes() > 256) {
      Complete(end, packet.transaction_id);
      if (end.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(end.channel);
    }
  }

  std::shared_ptr<FicklePort> port_ = std::make_shared<FicklePort>();
  std::unique_ptr<NetworkAdapter> network_;
  End ends_[kEnds];
  End* end_ = &ends_[0];  // where the guest sends
  vsc::Gpadl receive_gpadl_, send_gpadl_;
  uint64_t receive_pages_ = 0, send_pages_ = 0, data_pages_ = 0;
  std::set<uint32_t> held_;  // offsets in the receive buffer that are the guest's
  bool may_lend_again_ = false;
  bool lies_ = false;  // in this step
  bool is_paused_ = false;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_NETVSP_NETVSP_HARNESS_H_

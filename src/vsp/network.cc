// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/network.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/hvdef/rndis.h"
#include "resource/host_buffers.h"
#include "vsp/frame_pieces.h"
#include "vsp/network_channel.h"
#include "vsp/receive_buffer.h"
#include "vsp/rndis_device.h"

namespace hvsdk::vsp {

namespace netvsp = hvdef::netvsp;
namespace rndis = hvdef::rndis;
using netvsp::MessageType;
using netvsp::Version;
using vmbus::Take;

namespace {

constexpr Version kVersions[] = {Version::k1, Version::k2, Version::k4, Version::k5, Version::k6, Version::k61};
constexpr auto kNoVersion = Version{0};
constexpr size_t kEthernetBytes = ethernet::kHeaderBytes;

constexpr uint32_t kDefaultMtuBytes = 1500;
constexpr uint32_t kMinMtuBytes = 68;                 // of IPv4 (RFC 791)
constexpr uint32_t kSendSectionBytes = 6144;          // what Hyper-V answers; holds a frame and its headers
constexpr uint32_t kMaxMdlChain = 34;                 // of a guest's page list
constexpr uint32_t kStatusNotSupported = 0xC00000BB;  // NTSTATUS
constexpr uint16_t kMaxQueues = 64;

// Frames asked of a port at a time, and of one run, before others have their turn.
constexpr size_t kFramesAtOnce = 32;
constexpr size_t kLongFramesAtOnce = 8;  // where they may be coalesced
static_assert(kFramesAtOnce + kLongFramesAtOnce * NetworkChannel::kMaxParts <= NetworkChannel::kMaxFrames);
constexpr size_t kFramesPerRun = 256;
// Sections that frames leave for control messages.
constexpr uint32_t kControlSections = 16;

// A frame's headers of ours end where its room begins.
constexpr uint32_t kHeadroom = ReceiveBuffer::kHeadroomBytes;
constexpr uint32_t kInfoBytes = sizeof(rndis::PerPacketInfo) + sizeof(uint32_t);
static_assert(sizeof(rndis::MessageHeader) + sizeof(rndis::Packet) + 5 * kInfoBytes <= kHeadroom);

// What stands before a frame, or a part of one, in its section.
class FrameHead {
 public:
  void AddInfo(rndis::InfoType type, uint32_t value) {
    const rndis::PerPacketInfo info = {kInfoBytes, type, sizeof(rndis::PerPacketInfo)};
    std::memcpy(&bytes_[info_end_], &info, sizeof(info));
    std::memcpy(&bytes_[info_end_ + sizeof(info)], &value, sizeof(value));
    info_end_ += kInfoBytes;
  }
  void AddPacketId(uint16_t id, uint8_t flags) {
    const rndis::PacketId packet_id = {rndis::kPacketIdVersion, flags, id};
    uint32_t value;
    static_assert(sizeof(packet_id) == sizeof(value));
    std::memcpy(&value, &packet_id, sizeof(value));
    AddInfo(rndis::InfoType::kPacketId, value);
  }
  // The frame begins with these, and goes on where its room begins.
  void SetStart(const uint8_t* start, uint32_t size_bytes) {
    start_bytes_ = size_bytes;
    std::memcpy(&bytes_[kHeadroom - size_bytes], start, size_bytes);
  }
  // With so many bytes of the frame in the section; returns the message's length.
  uint32_t Write(uint32_t data_bytes, uint8_t* room) {
    constexpr auto kPacketEnd = static_cast<uint32_t>(sizeof(rndis::MessageHeader) + sizeof(rndis::Packet));
    const rndis::MessageHeader header = {rndis::MessageType::kPacket, kHeadroom + data_bytes};
    rndis::Packet packet = {};
    packet.data_offset = kHeadroom - start_bytes_ - static_cast<uint32_t>(sizeof(header));
    packet.data_length = start_bytes_ + data_bytes;
    packet.per_packet_info_length = static_cast<uint32_t>(info_end_) - kPacketEnd;
    if (packet.per_packet_info_length != 0) packet.per_packet_info_offset = sizeof(packet);
    std::memcpy(bytes_.data(), &header, sizeof(header));
    std::memcpy(bytes_.data() + sizeof(header), &packet, sizeof(packet));
    internal::GuestCopy(room, bytes_.data(), bytes_.size());
    return header.length;
  }

 private:
  std::array<uint8_t, kHeadroom> bytes_{};
  size_t info_end_ = sizeof(rndis::MessageHeader) + sizeof(rndis::Packet);
  uint32_t start_bytes_ = 0;
};

// One writer.
void Add(std::atomic<uint64_t>& to, uint64_t value) {
  to.store(to.load(std::memory_order_relaxed) + value, std::memory_order_relaxed);
}

struct DirectionCounters {
  void Count(const uint8_t* destination, size_t size_bytes) {
    const bool is_group = (destination[0] & 1) != 0;
    const bool is_broadcast =
        is_group && std::all_of(destination, destination + 6, [](uint8_t b) { return b == 0xFF; });
    const size_t kind = is_broadcast ? 2 : is_group ? 1 : 0;
    Add(frames[kind], 1);
    Add(bytes[kind], size_bytes);
  }
  NetworkCounts::Direction Get() const { return {frames[0], bytes[0], frames[1], bytes[1], frames[2], bytes[2]}; }
  std::array<std::atomic<uint64_t>, 3> frames{}, bytes{};
};

struct NetworkState {
  static constexpr uint32_t kSchema = 1;
  std::array<uint8_t, 6> mac_address{};
  Version version = kNoVersion;
  uint32_t mtu_bytes = kDefaultMtuBytes;
  uint32_t capabilities = 0;
  RndisDevice::State rndis;
  bool link_told = false;
  bool wants_table = false;
  std::vector<uint8_t> answer;
  // 0: none.
  uint32_t receive_gpadl = 0;
  uint16_t receive_id = 0;
  uint32_t receive_frame_bytes = 0;
  uint32_t receive_sections = 0;
  std::vector<ReceiveBuffer::Transfer> lent;
  uint32_t send_gpadl = 0;
  NetworkChannelState primary;
  std::vector<NetworkChannelState> subchannels;  // those that are offered, from index 1 on

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "mac_address", mac_address);
    visit(2, "version", version);
    visit(3, "mtu_bytes", mtu_bytes);
    visit(4, "capabilities", capabilities);
    visit(5, "rndis", rndis);
    visit(6, "link_told", link_told);
    visit(7, "wants_table", wants_table);
    visit(8, "answer", answer);
    visit(9, "receive_gpadl", receive_gpadl);
    visit(10, "receive_id", receive_id);
    visit(11, "receive_frame_bytes", receive_frame_bytes);
    visit(12, "receive_sections", receive_sections);
    visit(13, "lent", lent);
    visit(14, "send_gpadl", send_gpadl);
    visit(15, "primary", primary);
    visit(16, "subchannels", subchannels);
  }
};

}  // namespace

// Everything but the public face. Runs on the executor, but for what a port tells.
class NetworkAdapter::Core : private NetworkChannelHost, private NetworkPortClient, private Task {
 public:
  Core(Executor& executor, std::shared_ptr<NetworkPort> port, const NetworkOptions& options)
      : options_(options),
        executor_(executor),
        port_(std::move(port)),
        port_info_(port_->info()),
        max_mtu_bytes_(std::clamp(port_info_.mtu_bytes, kMinMtuBytes, kMaxMtuBytes)),
        rndis_({.mac_address = options.mac_address,
                .max_mtu_bytes = max_mtu_bytes_,
                .link_bits = options.link_bits,
                .max_channels = static_cast<uint16_t>(1 + options.max_subchannels),
                .name = options.name}),
        primary_(NewChannel(0)) {
    port_info_.queues = std::clamp<uint16_t>(port_info_.queues, 1, kMaxQueues);
    Renew();
  }

  ~Core() override {
    if (std::exchange(is_attached_, false)) port_->Detach();
    subchannels_.clear();
    DropBuffers();
    primary_channel_.reset();
    primary_.reset();
    executor_.Drain(*this);
  }

  absl::Status Offer(vmbus::Server& server) {
    RETURN_IF_ERROR(port_->Attach(*this, Accepts()));
    is_attached_ = true;
    vmbus::Offer offer;
    offer.class_id = hvdef::class_id::kNetwork;
    offer.instance_id = options_.instance_id;
    offer.flags = hvdef::vmbus::kOfferEnumerateDeviceInterface;
    server_ = &server;
    ASSIGN_OR_RETURN(primary_channel_, server.OfferChannel(offer, *primary_, executor_));
    return absl::OkStatus();
  }

  void Stop(absl::AnyInvocable<void()> on_idle) {
    is_stopped_ = is_paused_ = true;
    on_idle_ = std::move(on_idle);
    ForEachChannel([](NetworkChannel& channel) { channel.DropBatch(); });
    executor_.Schedule(*this);
  }
  void Pause(absl::AnyInvocable<void()> on_paused) {
    is_paused_ = true;
    on_idle_ = std::move(on_paused);
    ForEachChannel([](NetworkChannel& channel) { channel.DropBatch(); });
    executor_.Schedule(*this);
  }
  void Resume() {
    is_paused_ = is_stopped_;
    has_room_.store(true, std::memory_order_relaxed);
    executor_.Schedule(*this);
  }

  void Unplug() {
    is_unplugged_ = true;
    OnLink();
  }

  bool is_quiet() const {
    if (!answer_.empty() || (rndis_.is_initialized() && link_told_ != is_link_up())) return false;
    if (!primary_->is_quiet() || !std::all_of(subchannels_.begin(), subchannels_.end(),
                                              [](const Subchannel& sub) { return sub.handler->is_quiet(); })) {
      return false;
    }
    // No frame waits here, so those that are not free are the guest's.
    return receive_buffer_ == nullptr || receive_buffer_->free_sections() == receive_buffer_->sections();
  }

  NetworkAgreement agreement() const {
    const auto is_open = [](const Subchannel& sub) { return sub.handler->is_open(); };
    const auto open = std::count_if(subchannels_.begin(), subchannels_.end(), is_open) + (primary_->is_open() ? 1 : 0);
    return {.version = version_,
            .mtu_bytes = mtu_bytes_,
            .channels = static_cast<uint16_t>(open),
            .takes_frames = rndis_.wants_frames(),
            .is_unplugged = is_unplugged_,
            .is_link_up = is_link_up()};
  }

  std::string StateName() const { return absl::StrCat("network/", options_.number); }

  absl::Status Save(state::StateWriter& writer) const {
    NetworkState state;
    state.mac_address = options_.mac_address;
    state.version = version_;
    state.mtu_bytes = mtu_bytes_;
    state.capabilities = capabilities_;
    state.rndis = rndis_.state();
    state.link_told = link_told_;
    state.wants_table = wants_table_;
    state.answer = answer_;
    if (receive_buffer_ != nullptr) {
      state.receive_gpadl = receive_buffer_->gpadl_id();
      state.receive_id = receive_buffer_->id();
      state.receive_frame_bytes = receive_frame_bytes_;
      state.receive_sections = receive_buffer_->sections();
      state.lent = receive_buffer_->lent();
    } else if (restored_ != nullptr) {
      state.receive_gpadl = restored_->receive_gpadl;
      state.receive_id = restored_->receive_id;
      state.receive_frame_bytes = restored_->receive_frame_bytes;
      state.receive_sections = restored_->receive_sections;
      state.lent = restored_->lent;
    }
    state.send_gpadl = send_buffer_ ? send_buffer_.id() : restored_ != nullptr ? restored_->send_gpadl : 0;
    state.primary = primary_->Save();
    for (const Subchannel& sub : subchannels_) state.subchannels.push_back(sub.handler->Save());
    writer.Write(state);
    return absl::OkStatus();
  }

  absl::Status Restore(state::StateReader& reader) {
    auto state = std::make_unique<NetworkState>();
    RETURN_IF_ERROR(reader.Read(*state));
    if (primary_->is_open() || !subchannels_.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(StateName(), " has a guest already"));
    }
    RETURN_IF_ERROR(Check(*state, reader));
    for (size_t i = 1; i <= state->subchannels.size(); ++i) {
      Subchannel sub;
      sub.handler = NewChannel(static_cast<uint16_t>(i));
      vmbus::Offer offer = primary_channel_->offer();
      offer.subchannel_index = static_cast<uint16_t>(i);
      auto channel = server_->OfferChannel(offer, *sub.handler, executor_);
      if (!channel.ok()) {
        subchannels_.clear();
        return channel.status();
      }
      sub.channel = *std::move(channel);
      sub.handler->Restore(state->subchannels[i - 1]);
      subchannels_.push_back(std::move(sub));
    }
    version_ = state->version;
    mtu_bytes_ = state->mtu_bytes;
    capabilities_ = state->capabilities;
    OfferCoalescing();
    rndis_.SetState(state->rndis);
    link_told_ = state->link_told;
    wants_table_ = state->wants_table;
    answer_ = state->answer;
    primary_->Restore(state->primary);
    restored_ = std::move(state);
    return absl::OkStatus();
  }

  void Reset() {
    subchannels_.clear();
    DropBuffers();
    primary_->Reset();
    restored_.reset();
    Renew();
  }

  NetworkCounts counts() const {
    return {transmitted_.Get(), received_.Get(), transmit_errors_.load(std::memory_order_relaxed),
            receive_errors_.load(std::memory_order_relaxed)};
  }

 private:
  struct Subchannel {
    std::unique_ptr<NetworkChannel> handler;
    std::unique_ptr<vmbus::Channel> channel;  // declared last: gone first
  };

  std::unique_ptr<NetworkChannel> NewChannel(uint16_t index) {
    NetworkChannelHost& host = *this;
    return std::make_unique<NetworkChannel>(host, index);
  }

  // Coalesced segments come in parts that Linux and Windows put together since this version.
  void OfferCoalescing() {
    rndis_.OfferCoalescing(version_ >= Version::k61 && (capabilities_ & netvsp::kCapabilityRscOverVmbus) != 0);
  }
  // What the port may give us.
  NetworkPortInfo Accepts() const {
    NetworkPortInfo accepts;
    accepts.mtu_bytes = max_mtu_bytes_;
    accepts.max_frame_bytes =
        takes_coalesced_ ? ethernet::kMaxFrameBytes : max_mtu_bytes_ + static_cast<uint32_t>(kEthernetBytes);
    accepts.queues = port_info_.queues;
    accepts.takes_checksum = true;
    accepts.takes_segmentation = takes_coalesced_;
    return accepts;
  }
  // Sections that the longest frame needs.
  uint32_t sections_per_frame() const {
    return takes_coalesced_ ? (ethernet::kMaxFrameBytes + receive_frame_bytes_ - 1) / receive_frame_bytes_ : 1;
  }
  // Tells the port, should the guest's wish or its buffer have changed what comes of it.
  void AcceptAsAsked() {
    const bool took_coalesced = takes_coalesced_;
    takes_coalesced_ = receive_buffer_ != nullptr && rndis_.wants_coalesced();
    if (takes_coalesced_) {
      const uint32_t parts = sections_per_frame();
      takes_coalesced_ = parts <= NetworkChannel::kMaxParts && receive_buffer_->sections() >= 4 * parts;
    }
    if (takes_coalesced_ == took_coalesced || !is_attached_) return;
    constexpr size_t kRestBytes = ethernet::kMaxFrameBytes;
    rests_ = takes_coalesced_ ? std::make_unique_for_overwrite<uint8_t[]>(kLongFramesAtOnce * kRestBytes) : nullptr;
    port_->ChangeAccepted(Accepts());
  }

  bool is_link_up() const { return !is_unplugged_ && port_->link_is_up(); }
  uint16_t channels() const { return static_cast<uint16_t>(1 + subchannels_.size()); }
  template <typename Visit>
  void ForEachChannel(Visit visit) {
    visit(*primary_);
    for (Subchannel& sub : subchannels_) visit(*sub.handler);
  }

  // As before the first guest.
  void Renew() {
    version_ = kNoVersion;
    mtu_bytes_ = std::min(kDefaultMtuBytes, max_mtu_bytes_);
    capabilities_ = 0;
    OfferCoalescing();
    rndis_.Reset();
    AcceptAsAsked();
    answer_.clear();
    link_told_ = false;
    wants_table_ = false;
  }

  void DropReceiveBuffer() {
    ForEachChannel([](NetworkChannel& channel) { channel.DropFrames(); });
    receive_buffer_.reset();
    AcceptAsAsked();
  }
  void DropSendBuffer() {
    if (!send_buffer_) return;
    // Frames in it may wait for the port.
    ForEachChannel([](NetworkChannel& channel) { channel.DropBatch(); });
    send_buffer_.Release();
  }
  void DropBuffers() {
    DropReceiveBuffer();
    DropSendBuffer();
  }

  absl::Status Check(const NetworkState& state, const state::StateReader& reader) const {
    if (state.mac_address != options_.mac_address) return reader.Invalid("mac_address", "not this adapter's");
    const bool is_known = std::find(std::begin(kVersions), std::end(kVersions), state.version) != std::end(kVersions);
    if (state.version != kNoVersion && (!is_known || state.version > options_.newest_version)) {
      return reader.Invalid("version", "not to be agreed on here");
    }
    if (state.mtu_bytes < kMinMtuBytes || state.mtu_bytes > max_mtu_bytes_) {
      return reader.Invalid("mtu_bytes", absl::StrCat("not ", kMinMtuBytes, " to ", max_mtu_bytes_));
    }
    if (state.subchannels.size() > options_.max_subchannels) return reader.Invalid("subchannels", "more than allowed");
    if (!state.subchannels.empty() && state.version < Version::k5) {
      return reader.Invalid("subchannels", "not in this version");
    }
    const auto count = static_cast<uint16_t>(1 + state.subchannels.size());
    if (!rndis_.IsPossible(state.rndis, count)) return reader.Invalid("rndis", "not to be asked for here");
    if (state.answer.size() > RndisDevice::kMaxAnswerBytes) return reader.Invalid("answer", "too long");
    if (state.receive_gpadl == 0 && state.receive_sections != 0)
      return reader.Invalid("receive_sections", "of no buffer");
    if (state.receive_gpadl != 0 &&
        (state.receive_sections == 0 || state.receive_sections > ReceiveBuffer::kMaxSections ||
         state.receive_frame_bytes < kMinMtuBytes + kEthernetBytes ||
         state.receive_frame_bytes > max_mtu_bytes_ + kEthernetBytes)) {
      return reader.Invalid("receive_sections", "not of a buffer");
    }
    // Each section is in one place, if in any.
    std::vector<bool> taken(state.receive_sections);
    const auto take = [&](uint32_t section) {
      if (section >= taken.size() || taken[section]) return false;
      taken[section] = true;
      return true;
    };
    for (const auto& transfer : state.lent) {
      if (transfer.sections.empty() || transfer.channel >= count ||
          !std::all_of(transfer.sections.begin(), transfer.sections.end(), take)) {
        return reader.Invalid("lent", "not sections of the buffer");
      }
    }
    const auto check = [&](const NetworkChannelState& channel) {
      return NetworkChannel::IsPossible(channel) &&
             std::all_of(channel.frames.begin(), channel.frames.end(), [&](const auto& frame) {
               return frame.size_bytes <= kHeadroom + state.receive_frame_bytes && take(frame.section);
             });
    };
    if (!check(state.primary)) return reader.Invalid("primary", "completions or frames that cannot be");
    for (const auto& sub : state.subchannels) {
      if (!check(sub)) return reader.Invalid("subchannels", "completions or frames that cannot be");
    }
    return absl::OkStatus();
  }

  // NetworkChannelHost
  NetworkPort& port() override { return *port_; }
  NetworkPortInfo port_info() const override { return port_info_; }
  uint32_t max_mtu_bytes() const override { return max_mtu_bytes_; }
  bool is_paused() const override { return is_paused_; }
  bool is_initialized() const override { return rndis_.is_initialized(); }
  ReceiveBuffer* receive_buffer() override { return receive_buffer_.get(); }
  uint32_t message_bytes() const override {
    return version_ >= Version::k61 ? netvsp::kMessageBytesV61 : netvsp::kMessageBytesV1;
  }
  bool has_control_room() const override { return answer_.empty(); }
  void CountTransmit(const uint8_t* destination, size_t size_bytes) override {
    transmitted_.Count(destination, size_bytes);
  }
  void CountTransmitErrors(size_t frames) override { Add(transmit_errors_, frames); }
  void OnRoomForFrames() override {
    if (std::exchange(is_waiting_, false)) executor_.Schedule(*this);
  }

  bool AddSendSection(uint32_t section, uint32_t size_bytes, std::vector<HostBuffer>& pieces) override {
    if (!send_buffer_ || size_bytes > kSendSectionBytes) return false;
    if (section >= send_buffer_->size_bytes() / kSendSectionBytes) return false;
    return send_buffer_->ForEachPiece(uint64_t{section} * kSendSectionBytes, size_bytes,
                                      [&](uint64_t, uint8_t* host, uint64_t size) {
                                        pieces.push_back({host, size});
                                      });
  }

  bool OnOpen(NetworkChannel& channel) override {
    if (is_stopped_) return false;
    if (&channel != primary_.get()) {
      // Perhaps the last that the table waits for.
      has_room_.store(true, std::memory_order_relaxed);
      executor_.Schedule(*this);
      return true;
    }
    restored_.reset();
    Renew();
    return true;
  }

  void OnRestored(NetworkChannel& channel) override {
    if (&channel != primary_.get() || restored_ == nullptr) return;
    const std::unique_ptr<NetworkState> state = std::exchange(restored_, nullptr);
    if (state->send_gpadl != 0) send_buffer_ = primary_channel_->AcquireGpadl(state->send_gpadl);
    if (state->receive_gpadl == 0) return;
    receive_frame_bytes_ = state->receive_frame_bytes;
    vmbus::GpadlLease lease = primary_channel_->AcquireGpadl(state->receive_gpadl);
    if (lease) receive_buffer_ = ReceiveBuffer::Create(std::move(lease), state->receive_id, receive_frame_bytes_);
    if (receive_buffer_ == nullptr || receive_buffer_->sections() != state->receive_sections) {
      // A state that does not fit its own guest: no more frames for that.
      receive_buffer_.reset();
      ForEachChannel([](NetworkChannel& each) { each.DropFrames(); });
      return;
    }
    std::vector<uint32_t> ours;
    for (const auto& frame : state->primary.frames) ours.push_back(frame.section);
    for (const auto& sub : state->subchannels) {
      for (const auto& frame : sub.frames) ours.push_back(frame.section);
    }
    receive_buffer_->Restore(state->lent, ours);
    AcceptAsAsked();
  }

  void OnClosed(NetworkChannel& channel) override {
    if (&channel == primary_.get()) {
      subchannels_.clear();
      DropBuffers();
      Renew();
    } else if (receive_buffer_ != nullptr) {
      receive_buffer_->TakeBackAll(channel.index());
    }
  }

  void OnGpadlTeardown(uint32_t gpadl_id) override {
    if (receive_buffer_ != nullptr && receive_buffer_->gpadl_id() == gpadl_id) DropReceiveBuffer();
    if (send_buffer_ && send_buffer_.id() == gpadl_id) DropSendBuffer();
  }

  Take HandleMessage(const netvsp::Message& message, netvsp::Message& reply) override {
    if (message.type == MessageType::kInit) {
      reply.type = MessageType::kInitComplete;
      reply.init_complete = {message.init.max_version, kMaxMdlChain, Negotiate(message.init.max_version)};
      return Take::kMore;
    }
    const Version since = FirstVersion(message.type);
    if (version_ == kNoVersion || since == kNoVersion || version_ < since) return Take::kMalformed;
    switch (message.type) {
      case MessageType::kSendNdisConfig:
        // What the buffer is cut for stays.
        if (receive_buffer_ == nullptr) {
          const uint32_t frame_bytes = std::max<uint32_t>(message.ndis_config.max_frame_bytes, kEthernetBytes);
          mtu_bytes_ = std::clamp<uint32_t>(frame_bytes - kEthernetBytes, kMinMtuBytes, max_mtu_bytes_);
        }
        capabilities_ = message.ndis_config.capabilities;
        OfferCoalescing();
        AcceptAsAsked();
        break;
      case MessageType::kSendReceiveBuffer:
        reply.type = MessageType::kSendReceiveBufferComplete;
        LendReceiveBuffer(message.send_buffer, reply.send_receive_buffer_complete);
        break;
      case MessageType::kRevokeReceiveBuffer:
        DropReceiveBuffer();
        break;
      case MessageType::kSendSendBuffer:
        reply.type = MessageType::kSendSendBufferComplete;
        LendSendBuffer(message.send_buffer, reply.send_send_buffer_complete);
        break;
      case MessageType::kRevokeSendBuffer:
        DropSendBuffer();
        break;
      case MessageType::kOidQueryEx:
        reply.type = MessageType::kOidQueryExComplete;
        reply.oid_query_ex_complete = {kStatusNotSupported, 0};
        break;
      case MessageType::kSubchannel:
        reply.type = MessageType::kSubchannel;
        reply.subchannel_complete = OfferSubchannels(message.subchannel_request);
        break;
      case MessageType::kPdApi:
        reply.type = MessageType::kPdApi;
        reply.pd_api = {message.pd_api.operation, kStatusNotSupported};
        break;
      default:  // kSendNdisVersion, kSwitchDataPath: there is one path, whatever it wants
        break;
    }
    return Take::kMore;
  }

  // The version that has a message of the guest's, or kNoVersion.
  static Version FirstVersion(MessageType type) {
    switch (type) {
      case MessageType::kSendNdisVersion:
      case MessageType::kSendReceiveBuffer:
      case MessageType::kRevokeReceiveBuffer:
      case MessageType::kSendSendBuffer:
      case MessageType::kRevokeSendBuffer:
        return Version::k1;
      case MessageType::kSendNdisConfig:
        return Version::k2;
      case MessageType::kSwitchDataPath:
        return Version::k4;
      case MessageType::kOidQueryEx:
      case MessageType::kSubchannel:
        return Version::k5;
      case MessageType::kPdApi:
        return Version::k61;
      default:
        return kNoVersion;
    }
  }

  netvsp::Status Negotiate(Version wanted) {
    const bool is_known = std::find(std::begin(kVersions), std::end(kVersions), wanted) != std::end(kVersions);
    if (!is_known || wanted > options_.newest_version || version_ != kNoVersion) return netvsp::Status::kFailure;
    version_ = wanted;
    return netvsp::Status::kSuccess;
  }

  void LendReceiveBuffer(const netvsp::SendBuffer& wanted, netvsp::SendReceiveBufferComplete& complete) {
    complete.status = netvsp::Status::kFailure;
    if (receive_buffer_ != nullptr) return;
    vmbus::GpadlLease lease = primary_channel_->AcquireGpadl(wanted.gpadl_id);
    if (!lease) return;
    receive_frame_bytes_ = mtu_bytes_ + static_cast<uint32_t>(kEthernetBytes);
    receive_buffer_ = ReceiveBuffer::Create(std::move(lease), wanted.id, receive_frame_bytes_);
    if (receive_buffer_ == nullptr) return;
    AcceptAsAsked();
    complete.status = netvsp::Status::kSuccess;
    complete.sections = 1;
    const uint32_t section_bytes = receive_buffer_->section_bytes();
    const uint32_t count = receive_buffer_->sections();
    complete.section = {0, section_bytes, count, section_bytes * count};
  }

  void LendSendBuffer(const netvsp::SendBuffer& wanted, netvsp::SendSendBufferComplete& complete) {
    complete.status = netvsp::Status::kFailure;
    if (send_buffer_) return;
    send_buffer_ = primary_channel_->AcquireGpadl(wanted.gpadl_id);
    if (!send_buffer_) return;
    complete = {netvsp::Status::kSuccess, kSendSectionBytes};
  }

  netvsp::SubchannelComplete OfferSubchannels(const netvsp::SubchannelRequest& wanted) {
    constexpr netvsp::SubchannelComplete kRefused = {netvsp::Status::kFailure, 0};
    if (wanted.operation != netvsp::kSubchannelAllocate || !subchannels_.empty()) return kRefused;
    const uint32_t count = std::min<uint32_t>(wanted.subchannels, options_.max_subchannels);
    for (uint32_t i = 1; i <= count; ++i) {
      Subchannel sub;
      sub.handler = NewChannel(static_cast<uint16_t>(i));
      auto channel = primary_channel_->OfferSubchannel(static_cast<uint16_t>(i), *sub.handler, executor_);
      if (!channel.ok()) {
        subchannels_.clear();
        return kRefused;
      }
      sub.channel = *std::move(channel);
      subchannels_.push_back(std::move(sub));
    }
    wants_table_ = count != 0;
    return {netvsp::Status::kSuccess, count};
  }

  bool HandleControl(absl::Span<const HostBuffer> pieces, size_t size_bytes) override {
    if (size_bytes > RndisDevice::kMaxMessageBytes) return false;
    std::vector<uint8_t> message(size_bytes);
    if (CopyFromBuffers(pieces, 0, message.data(), size_bytes) != size_bytes) return false;
    const bool was_initialized = rndis_.is_initialized();
    if (!rndis_.Handle(message, counts(), is_link_up(), channels(), answer_)) return false;
    HVSDK_CHECK(answer_.size() <= RndisDevice::kMaxAnswerBytes);
    if (!was_initialized) link_told_ = is_link_up();  // it asks for that itself
    AcceptAsAsked();
    if (rndis_.wants_frames()) executor_.Schedule(*this);
    return true;
  }

  bool SendOwn(NetworkChannel& primary) override {
    if (!answer_.empty()) {
      if (!SendControl(primary, answer_)) return false;
      answer_.clear();
    }
    if (rndis_.is_initialized() && link_told_ != is_link_up()) {
      if (!SendControl(primary, RndisDevice::LinkIndication(!link_told_))) return false;
      link_told_ = !link_told_;
    }
    const bool are_open = std::all_of(subchannels_.begin(), subchannels_.end(),
                                      [](const Subchannel& sub) { return sub.handler->is_open(); });
    if (wants_table_ && are_open) {
      netvsp::IndirectionTableMessage message = {};
      message.message.type = MessageType::kSendIndirectionTable;
      message.message.indirection_table = {netvsp::kSendTableEntries, sizeof(netvsp::Message)};
      for (uint32_t i = 0; i < netvsp::kSendTableEntries; ++i) message.table[i] = i % channels();
      if (!primary.SendMessage(&message, sizeof(message))) return false;
      wants_table_ = false;
    }
    return true;
  }

  // False: it is to be sent later.
  bool SendControl(NetworkChannel& primary, const std::vector<uint8_t>& message) {
    if (receive_buffer_ == nullptr) return true;  // nowhere to put it
    const uint32_t section = receive_buffer_->Take();
    if (section == ReceiveBuffer::kNone) return false;
    const auto size = static_cast<uint32_t>(message.size());
    const uint32_t first = std::min(size, kHeadroom);
    internal::GuestCopy(receive_buffer_->header(section), message.data(), first);
    const size_t rest = CopyToBuffers(receive_buffer_->data(section), 0, message.data() + first, size - first);
    if (first + rest == size) {
      receive_buffer_->MarkWritten(section);
      if (primary.SendControl(section, size)) return true;
    }
    receive_buffer_->Return(section);
    return first + rest != size;  // one that is too long for the buffer's sections is lost
  }

  // NetworkPortClient; on any thread.
  void OnFrames(uint16_t queue) override {
    frames_waiting_.fetch_or(uint64_t{1} << queue % kMaxQueues, std::memory_order_acq_rel);
    executor_.Schedule(*this);
  }
  void OnRoom(uint16_t) override {
    has_room_.store(true, std::memory_order_release);
    executor_.Schedule(*this);
  }
  void OnLink() override { OnRoom(0); }

  // Task: the port has frames or room, its link has changed, or the adapter has paused or goes on.
  void Run() override {
    if (is_paused_) {
      if (on_idle_ != nullptr) std::exchange(on_idle_, nullptr)();
      return;
    }
    if (has_room_.exchange(false, std::memory_order_acquire)) {
      ForEachChannel([](NetworkChannel& channel) { channel.Look(); });
    }
    ReceiveFrames();
  }

  void ReceiveFrames() {
    size_t received = 0;
    while (received < kFramesPerRun) {
      if (!rndis_.wants_frames() || receive_buffer_ == nullptr || !primary_->is_open() || is_unplugged_) return;
      const uint64_t waiting = frames_waiting_.load(std::memory_order_acquire);
      if (waiting == 0) return;
      if (!HasFrameRoom()) {
        is_waiting_ = true;
        return;
      }
      const auto queue = static_cast<uint16_t>(__builtin_ctzll(waiting));
      received += std::max<size_t>(ReceiveFrom(queue), 1);
    }
    executor_.Schedule(*this);
  }

  uint32_t reserved_sections() const { return std::min(kControlSections, receive_buffer_->sections() / 2); }

  // Else sections or room come back by completions of the guest's, or because it reads its ring.
  bool HasFrameRoom() {
    bool has_room = true;
    ForEachChannel([&](NetworkChannel& channel) {
      has_room &= channel.queued_frames() + kFramesAtOnce + kLongFramesAtOnce * NetworkChannel::kMaxParts <=
                  NetworkChannel::kMaxFrames;
    });
    if (receive_buffer_->free_sections() < reserved_sections() + sections_per_frame()) {
      has_room = false;
      // Completions may stand behind frames that the port does not take, and it may wait for us.
      ForEachChannel([&](NetworkChannel& channel) {
        if (!channel.is_blocked()) return;
        channel.DropBatch();
        has_room_.store(true, std::memory_order_relaxed);
        executor_.Schedule(*this);
      });
    }
    return has_room;
  }

  // The rest of a long frame, behind what its section holds.
  uint8_t* rest(size_t i) const { return rests_.get() + i * ethernet::kMaxFrameBytes; }

  size_t ReceiveFrom(uint16_t queue) {
    std::array<IncomingFrame, kFramesAtOnce> frames;
    std::array<uint32_t, kFramesAtOnce> sections;
    const size_t count =
        std::min<size_t>(takes_coalesced_ ? kLongFramesAtOnce : kFramesAtOnce,
                         (receive_buffer_->free_sections() - reserved_sections()) / sections_per_frame());
    pieces_.clear();
    std::array<size_t, kLongFramesAtOnce + 1> first_piece = {};
    for (size_t i = 0; i < count; ++i) {
      sections[i] = receive_buffer_->Take();
      frames[i] = {};
      frames[i].buffers = receive_buffer_->data(sections[i]);
      if (!takes_coalesced_) continue;
      ForEachPiece(frames[i].buffers, 0, receive_frame_bytes_, [&](uint8_t* data, size_t size) {
        pieces_.push_back({data, size});
      });
      pieces_.push_back({rest(i), ethernet::kMaxFrameBytes});
      first_piece[i + 1] = pieces_.size();
    }
    for (size_t i = 0; takes_coalesced_ && i < count; ++i) {
      frames[i].buffers = absl::MakeConstSpan(pieces_).subspan(first_piece[i], first_piece[i + 1] - first_piece[i]);
    }
    const uint64_t bit = uint64_t{1} << queue;
    frames_waiting_.fetch_and(~bit, std::memory_order_acq_rel);
    const size_t got = port_->Receive(queue, absl::MakeSpan(frames).first(count));
    if (got == count) frames_waiting_.fetch_or(bit, std::memory_order_relaxed);
    for (size_t i = count; i-- != got;) receive_buffer_->Return(sections[i]);
    uint64_t touched = 0;
    for (size_t i = 0; i < got; ++i) {
      if (!Deliver(i, sections[i], frames[i], touched)) receive_buffer_->Return(sections[i]);
    }
    // Frames that were dropped have been written, too: here, or by the port, to which one was too long for the memory of the next.
    for (size_t i = 0; i < std::min(got + 1, count); ++i) receive_buffer_->MarkWritten(sections[i]);
    static_assert(kMaxSubchannels < 64);
    ForEachChannel([&](NetworkChannel& channel) {
      if ((touched >> channel.index() & 1) != 0) channel.Look();
    });
    return got;
  }

  // Writes what stands before the frame that came as number `i`, and gives it to its channel. False: the guest does not want it.
  bool Deliver(size_t i, uint32_t section, const IncomingFrame& frame, uint64_t& touched) {
    ReceiveBuffer& buffer = *receive_buffer_;
    const auto data = buffer.data(section);
    const bool is_long = takes_coalesced_ && frame.size_bytes > receive_frame_bytes_;
    std::array<uint8_t, ethernet::kMaxHeadersBytes> start;
    const size_t start_bytes = CopyFromBuffers(data, 0, start.data(), std::min(frame.size_bytes, start.size()));
    if (frame.size_bytes < kEthernetBytes || start_bytes < kEthernetBytes ||
        (is_long && frame.offload.segmentation == FrameOffload::Segmentation::kNone)) {
      Add(receive_errors_, 1);
      return false;
    }
    if (!rndis_.Wants(start.data())) return false;
    bool is_valid = frame.offload.checksum_is_valid;
    const auto start_span = absl::MakeConstSpan(start).first(start_bytes);
    const ethernet::FrameHeaders headers = ethernet::ReadHeaders(start_span);
    if (is_long) {
      is_valid = true;  // its guest looks at no checksum, and its sender is this host, or has checked it
    } else if (frame.offload.needs_checksum) {
      const size_t at = size_t{frame.offload.checksum_start} + frame.offload.checksum_offset;
      if (at + sizeof(uint16_t) > frame.size_bytes) {
        Add(receive_errors_, 1);
        return false;
      }
      uint8_t bytes[2];
      ethernet::WriteBe16(bytes, ChecksumOf(data, frame.offload.checksum_start, frame.size_bytes));
      CopyToBuffers(data, at, bytes, sizeof(bytes));
      is_valid = true;
    }

    FrameHead head;
    const bool is_tcp = headers.protocol == ethernet::kTcp;
    if (is_valid && headers.transport_offset != 0 && !headers.is_fragment &&
        rndis_.wants_checksum(headers.ip_version == 4, is_tcp)) {
      head.AddInfo(rndis::InfoType::kChecksum, is_tcp ? rndis::kChecksumTcpSucceeded : rndis::kChecksumUdpSucceeded);
    }
    if (frame.offload.has_vlan) {
      const uint16_t tci = frame.offload.vlan_tci;
      if ((capabilities_ & netvsp::kCapabilityVlan) != 0) {
        head.AddInfo(rndis::InfoType::kVlan, uint32_t{tci} >> 13 | (uint32_t{tci} >> 9 & 8) | (tci & 0xFFFu) << 4);
      } else {
        // The addresses move forward, and the tag stands behind them.
        head.SetStart(start.data(), 4);
        uint8_t moved[12];
        std::memcpy(moved, start.data() + 4, 8);
        ethernet::WriteBe16(moved + 8, ethernet::kVlan);
        ethernet::WriteBe16(moved + 10, tci);
        CopyToBuffers(data, 0, moved, sizeof(moved));
      }
    }
    const RndisDevice::FlowHash hash = rndis_.Hash(start_span, headers);
    if (hash.type != 0) {
      head.AddInfo(rndis::InfoType::kHashValue, hash.value);
      head.AddInfo(rndis::InfoType::kHashInfo, hash.type | rndis::kHashToeplitz);
    }
    NetworkChannel* channel = primary_.get();
    const uint16_t index = rndis_.ChannelOf(hash);
    if (index != 0 && index <= subchannels_.size() && subchannels_[index - 1].handler->is_open()) {
      channel = subchannels_[index - 1].handler.get();
    }
    touched |= uint64_t{1} << channel->index();
    received_.Count(start.data(), frame.size_bytes);
    if (is_long) {
      DeliverParts(head, section, absl::MakeConstSpan(rest(i), frame.size_bytes - receive_frame_bytes_), *channel);
    } else {
      channel->QueueFrame(section, head.Write(static_cast<uint32_t>(frame.size_bytes), buffer.header(section)));
    }
    return true;
  }

  // A coalesced frame: its first part lies in a section already. There are free sections enough.
  void DeliverParts(FrameHead& first, uint32_t section, absl::Span<const uint8_t> rest, NetworkChannel& channel) {
    ReceiveBuffer& buffer = *receive_buffer_;
    const uint16_t id = next_packet_id_++;
    first.AddPacketId(id, rndis::kPacketIsPart | rndis::kPacketIsFirstPart);
    channel.QueueFrame(section, first.Write(receive_frame_bytes_, buffer.header(section)), /*goes_on=*/true);
    while (!rest.empty()) {
      const uint32_t next = buffer.Take();
      const size_t size = std::min<size_t>(rest.size(), receive_frame_bytes_);
      CopyToBuffers(buffer.data(next), 0, rest.data(), size);
      rest.remove_prefix(size);
      FrameHead head;
      head.AddPacketId(id, rest.empty() ? rndis::kPacketIsPart | rndis::kPacketIsLastPart : rndis::kPacketIsPart);
      channel.QueueFrame(next, head.Write(static_cast<uint32_t>(size), buffer.header(next)), !rest.empty());
      buffer.MarkWritten(next);
    }
  }

  const NetworkOptions options_;
  Executor& executor_;
  const std::shared_ptr<NetworkPort> port_;
  NetworkPortInfo port_info_;
  const uint32_t max_mtu_bytes_;
  bool is_attached_ = false;
  vmbus::Server* server_ = nullptr;

  // What the port has told.
  std::atomic<uint64_t> frames_waiting_{0};  // a bit for each queue
  std::atomic<bool> has_room_{false};        // or anything else that channels shall look at

  // What has been agreed on.
  Version version_ = kNoVersion;
  uint32_t mtu_bytes_ = kDefaultMtuBytes;
  uint32_t capabilities_ = 0;
  RndisDevice rndis_;
  std::vector<uint8_t> answer_;  // that has not been sent
  bool link_told_ = false;
  bool wants_table_ = false;
  std::unique_ptr<ReceiveBuffer> receive_buffer_;
  uint32_t receive_frame_bytes_ = 0;  // that it was cut for
  // Long TCP segments come to the guest whole, in parts.
  bool takes_coalesced_ = false;
  std::unique_ptr<uint8_t[]> rests_;  // of kLongFramesAtOnce of them
  std::vector<HostBuffer> pieces_;
  uint16_t next_packet_id_ = 0;
  vmbus::GpadlLease send_buffer_;
  std::unique_ptr<NetworkState> restored_;  // until the primary channel is there

  std::unique_ptr<NetworkChannel> primary_;
  std::unique_ptr<vmbus::Channel> primary_channel_;
  std::vector<Subchannel> subchannels_;
  bool is_waiting_ = false;  // for sections, or for room in a ring
  bool is_paused_ = false;
  bool is_stopped_ = false;
  bool is_unplugged_ = false;
  absl::AnyInvocable<void()> on_idle_;  // Pause's or Stop's

  DirectionCounters transmitted_, received_;
  std::atomic<uint64_t> transmit_errors_{0}, receive_errors_{0};
};

absl::StatusOr<std::unique_ptr<NetworkAdapter>> NetworkAdapter::Create(vmbus::Server& server, Executor& executor,
                                                                       std::shared_ptr<NetworkPort> port,
                                                                       const NetworkOptions& options) {
  if ((options.mac_address[0] & 1) != 0 || options.mac_address == MacAddress{}) {
    return absl::InvalidArgumentError("network: mac_address is none, or a group's");
  }
  if (options.max_subchannels > kMaxSubchannels) {
    return absl::InvalidArgumentError(
        absl::StrCat("network: max_subchannels is ", options.max_subchannels, ", not 0 to ", kMaxSubchannels));
  }
  auto core = std::make_unique<Core>(executor, std::move(port), options);
  RETURN_IF_ERROR(core->Offer(server));
  return std::unique_ptr<NetworkAdapter>(new NetworkAdapter(std::move(core)));
}

NetworkAdapter::NetworkAdapter(std::unique_ptr<Core> core) : core_(std::move(core)) {}
NetworkAdapter::~NetworkAdapter() = default;

void NetworkAdapter::Stop(absl::AnyInvocable<void()> on_idle) { core_->Stop(std::move(on_idle)); }
void NetworkAdapter::Pause(absl::AnyInvocable<void()> on_paused) { core_->Pause(std::move(on_paused)); }
void NetworkAdapter::Resume() { core_->Resume(); }

void NetworkAdapter::Unplug() { core_->Unplug(); }
bool NetworkAdapter::is_quiet() const { return core_->is_quiet(); }
NetworkAgreement NetworkAdapter::agreement() const { return core_->agreement(); }

std::string NetworkAdapter::StateName() const { return core_->StateName(); }
absl::Status NetworkAdapter::Save(state::StateWriter& writer) const { return core_->Save(writer); }
absl::Status NetworkAdapter::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void NetworkAdapter::Reset() { core_->Reset(); }

NetworkCounts NetworkAdapter::counts() const { return core_->counts(); }

}  // namespace hvsdk::vsp

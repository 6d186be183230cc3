// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/network.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "hvsdk/ethernet/headers.h"
#include "hvsdk/hvdef/rndis.h"
#include "resource/host_buffers.h"
#include "vsp/network_channel.h"
#include "vsp/network_counters.h"
#include "vsp/network_lane.h"
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

// A frame's headers of ours end where its room begins.
constexpr uint32_t kHeadroom = ReceiveBuffer::kHeadroomBytes;
// Of a coalesced segment, with its headroom in two pages; where the buffer has so many of them. Linux 6.1's has 1280.
constexpr uint32_t kLongPartBytes = 2 * 4096 - kHeadroom;
constexpr uint32_t kLeastForLongParts = 1024;

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
  uint32_t receive_part_bytes = 0;
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
    visit(17, "receive_part_bytes", receive_part_bytes);
  }
};

}  // namespace

// Everything but the public face. Runs on the executor, but for what a port tells and what lanes and channels of theirs ask for.
class NetworkAdapter::Core : private NetworkChannelHost,
                             private NetworkLaneHost,
                             private NetworkPortClient,
                             private Task {
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
                .name = options.name}) {
    port_info_.queues = std::clamp<uint16_t>(port_info_.queues, 1, kMaxQueues);
    MakeLanes();
    primary_ = NewChannel(0);
    Renew();
  }

  ~Core() override {
    Rest();  // from here on
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
    is_stopped_ = true;
    Pause(std::move(on_idle));
  }
  void Pause(absl::AnyInvocable<void()> on_paused) {
    const NetworkRest rest(*this);
    is_paused_ = true;
    on_idle_ = std::move(on_paused);
    ForEachChannel([](NetworkChannel& channel) { channel.DropBatch(); });
    executor_.Schedule(*this);
  }
  void Resume() {
    const NetworkRest rest(*this);
    is_paused_ = is_stopped_;
    for (const auto& lane : lanes_) lane->LookAtAll();
    executor_.Schedule(*this);
  }

  void Unplug() {
    const NetworkRest rest(*this);
    is_unplugged_ = true;
    OnLink();
  }

  bool is_quiet() {
    const NetworkRest rest(*this);
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
      state.receive_part_bytes = receive_part_bytes_;
      state.receive_sections = receive_buffer_->sections();
      state.lent = receive_buffer_->lent();
    } else if (restored_ != nullptr) {
      state.receive_gpadl = restored_->receive_gpadl;
      state.receive_id = restored_->receive_id;
      state.receive_frame_bytes = restored_->receive_frame_bytes;
      state.receive_part_bytes = restored_->receive_part_bytes;
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
    if (state->receive_part_bytes == 0)
      state->receive_part_bytes = state->receive_frame_bytes;  // a state of before there were others
    if (primary_->is_open() || !subchannels_.empty()) {
      return absl::FailedPreconditionError(absl::StrCat(StateName(), " has a guest already"));
    }
    RETURN_IF_ERROR(Check(*state, reader));
    const NetworkRest rest(*this);
    for (size_t i = 1; i <= state->subchannels.size(); ++i) {
      Subchannel sub;
      sub.handler = NewChannel(static_cast<uint16_t>(i));
      vmbus::Offer offer = primary_channel_->offer();
      offer.subchannel_index = static_cast<uint16_t>(i);
      auto channel = server_->OfferChannel(offer, *sub.handler, executor_, &TurnsOf(*sub.handler));
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
    const NetworkRest rest(*this);
    subchannels_.clear();
    DropBuffers();
    primary_->Reset();
    restored_.reset();
    Renew();
  }

  NetworkCounts counts() const {
    NetworkCounts sum;
    for (const auto& lane : lanes_) lane->counters().AddTo(sum);
    return sum;
  }

 private:
  struct Subchannel {
    std::unique_ptr<NetworkChannel> handler;
    std::unique_ptr<vmbus::Channel> channel;  // declared last: gone first
    bool is_held = false;                     // by Rest
  };

  void MakeLanes() {
    const auto count = static_cast<uint16_t>(std::min<size_t>(options_.executors.size(), options_.max_subchannels) + 1);
    NetworkLaneHost& host = *this;
    for (uint16_t i = 0; i < count; ++i) {
      Executor& executor = i == 0 ? executor_ : *options_.executors[i - 1u];
      lanes_.push_back(std::make_unique<NetworkLane>(host, executor, i, count));
    }
    queue_mutexes_ = std::make_unique<std::mutex[]>(port_info_.queues);
    lanes_of_queue_.resize(port_info_.queues);
    for (uint16_t i = 0; i <= options_.max_subchannels; ++i) {
      lanes_of_queue_[i % port_info_.queues] |= uint64_t{1} << i % count;
    }
  }
  NetworkLane& LaneOf(const NetworkChannel& channel) const { return *lanes_[channel.index() % lanes_.size()]; }
  Executor& TurnsOf(const NetworkChannel& channel) const { return LaneOf(channel).executor(); }

  std::unique_ptr<NetworkChannel> NewChannel(uint16_t index) {
    NetworkChannelHost& host = *this;
    // Each lane looks whether there is room before it takes more frames, and others may do so at once.
    const size_t most_frames = NetworkChannel::kMaxFrames + (lanes_.size() - 1) * NetworkLane::kMostMessages;
    return std::make_unique<NetworkChannel>(host, index, most_frames);
  }

  // NetworkChannelHost. One lane is the executor's, and needs no rest.
  void Rest() override {
    if (lanes_.size() == 1 || rests_++ != 0) return;
    for (size_t i = 1; i < lanes_.size(); ++i) lanes_[i]->Hold();
    for (Subchannel& sub : subchannels_) {
      sub.channel->HoldTurns();
      sub.is_held = true;
    }
  }
  void WorkOn() override {
    if (lanes_.size() == 1 || --rests_ != 0) return;
    for (Subchannel& sub : subchannels_) {
      if (std::exchange(sub.is_held, false)) sub.channel->ReleaseTurns();  // others have come meanwhile
    }
    for (size_t i = 1; i < lanes_.size(); ++i) lanes_[i]->Release();
  }
  std::unique_lock<std::mutex> LockQueue(uint16_t queue) override {
    if (lanes_.size() == 1) return {};
    return std::unique_lock(queue_mutexes_[queue % port_info_.queues]);
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
  uint32_t sections_per_frame() const override {
    return takes_coalesced_ ? (ethernet::kMaxFrameBytes + receive_part_bytes_ - 1) / receive_part_bytes_ : 1;
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
    for (const auto& lane : lanes_) lane->MakeRoomForLong(takes_coalesced_);
    port_->ChangeAccepted(Accepts());
  }

  bool is_link_up() const { return !is_unplugged_ && port_->link_is_up(); }
  uint16_t channels() const override { return static_cast<uint16_t>(1 + subchannels_.size()); }
  NetworkChannel& channel(uint16_t index) override {
    return index == 0 ? *primary_ : *subchannels_[index - 1u].handler;
  }
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
         state.receive_frame_bytes > max_mtu_bytes_ + kEthernetBytes ||
         (state.receive_part_bytes != state.receive_frame_bytes &&
          state.receive_part_bytes != std::max(state.receive_frame_bytes, kLongPartBytes)))) {
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
               return frame.size_bytes <= kHeadroom + state.receive_part_bytes && take(frame.section);
             });
    };
    if (!check(state.primary)) return reader.Invalid("primary", "completions or frames that cannot be");
    for (const auto& sub : state.subchannels) {
      if (!check(sub)) return reader.Invalid("subchannels", "completions or frames that cannot be");
    }
    return absl::OkStatus();
  }

  // NetworkLaneHost, and NetworkChannelHost
  bool takes_frames() const override {
    return rndis_.wants_frames() && receive_buffer_ != nullptr && primary_->is_open() && !is_unplugged_;
  }
  uint32_t receive_frame_bytes() const override { return receive_frame_bytes_; }
  uint32_t receive_part_bytes() const override { return receive_part_bytes_; }
  bool takes_coalesced() const override { return takes_coalesced_; }
  bool takes_tags_beside() const override { return (capabilities_ & netvsp::kCapabilityVlan) != 0; }
  const RndisDevice& rndis() const override { return rndis_; }
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
  void CountTransmit(const NetworkChannel& channel, const uint8_t* destination, size_t size_bytes) override {
    LaneOf(channel).counters().transmitted.Count(destination, size_bytes);
  }
  void CountTransmitErrors(const NetworkChannel& channel, size_t frames) override {
    LaneOf(channel).counters().transmit_errors.Add(frames);
  }
  void OnRoomForFrames() override {
    for (const auto& lane : lanes_) lane->OnRoomForFrames();
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
      executor_.Schedule(*this);  // perhaps the last that the table waits for
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
    receive_part_bytes_ = state->receive_part_bytes;
    vmbus::GpadlLease lease = primary_channel_->AcquireGpadl(state->receive_gpadl);
    if (lease) receive_buffer_ = ReceiveBuffer::Create(std::move(lease), state->receive_id, receive_part_bytes_);
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
    const NetworkRest rest(*this);
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
    receive_part_bytes_ = receive_frame_bytes_;
    // Where the port may give coalesced segments: a guest that asks for them handles fewer and larger parts faster, if there are enough for
    // small frames, too.
    if (version_ >= Version::k61 && port_info_.max_frame_bytes > max_mtu_bytes_ + kEthernetBytes &&
        receive_part_bytes_ < kLongPartBytes &&
        lease->size_bytes() >= kLeastForLongParts * (kHeadroom + kLongPartBytes)) {
      receive_part_bytes_ = kLongPartBytes;
    }
    receive_buffer_ = ReceiveBuffer::Create(std::move(lease), wanted.id, receive_part_bytes_);
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
      auto channel =
          primary_channel_->OfferSubchannel(static_cast<uint16_t>(i), *sub.handler, executor_, &TurnsOf(*sub.handler));
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
    const NetworkRest rest(*this);
    const bool was_initialized = rndis_.is_initialized();
    if (!rndis_.Handle(message, counts(), is_link_up(), channels(), answer_)) return false;
    HVSDK_CHECK(answer_.size() <= RndisDevice::kMaxAnswerBytes);
    if (!was_initialized) link_told_ = is_link_up();  // it asks for that itself
    AcceptAsAsked();
    for (const auto& lane : lanes_) lane->Schedule();
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
      receive_buffer_->MarkWritten(section, rest);
      if (primary.SendControl(section, size)) return true;
    }
    receive_buffer_->Return(section);
    return first + rest != size;  // one that is too long for the buffer's sections is lost
  }

  // NetworkPortClient; on any thread.
  void OnFrames(uint16_t queue) override {
    if (queue < port_info_.queues) lanes_[queue % lanes_.size()]->OnFrames(queue);
  }
  void OnRoom(uint16_t queue) override {
    for (uint64_t lanes = lanes_of_queue_[queue % port_info_.queues]; lanes != 0; lanes &= lanes - 1) {
      lanes_[static_cast<size_t>(__builtin_ctzll(lanes))]->OnRoom();
    }
  }
  void OnLink() override { executor_.Schedule(*this); }

  // Task: the port's link has changed, or something else that the primary channel may have to tell; or the adapter has paused or goes on.
  void Run() override {
    if (!is_paused_) return primary_->Look();
    if (on_idle_ != nullptr) std::exchange(on_idle_, nullptr)();
  }

  const NetworkOptions options_;
  Executor& executor_;
  const std::shared_ptr<NetworkPort> port_;
  NetworkPortInfo port_info_;
  const uint32_t max_mtu_bytes_;
  bool is_attached_ = false;
  vmbus::Server* server_ = nullptr;

  // The same for as long as the adapter is there.
  std::vector<std::unique_ptr<NetworkLane>> lanes_;  // the executor's is the first
  std::unique_ptr<std::mutex[]> queue_mutexes_;      // of the port's queues, if there are several lanes
  std::vector<uint64_t> lanes_of_queue_;             // that send to each of them: a bit for each lane

  // What follows is changed on the executor, and what lanes and channels look at of it while they rest.
  uint32_t rests_ = 0;

  // What has been agreed on.
  Version version_ = kNoVersion;
  uint32_t mtu_bytes_ = kDefaultMtuBytes;
  uint32_t capabilities_ = 0;
  RndisDevice rndis_;
  std::vector<uint8_t> answer_;  // that has not been sent
  bool link_told_ = false;
  bool wants_table_ = false;
  std::unique_ptr<ReceiveBuffer> receive_buffer_;
  uint32_t receive_frame_bytes_ = 0;  // of the longest that is not in parts
  uint32_t receive_part_bytes_ = 0;   // that its sections have room for
  // Long TCP segments come to the guest whole, in parts.
  bool takes_coalesced_ = false;
  vmbus::GpadlLease send_buffer_;
  std::unique_ptr<NetworkState> restored_;  // until the primary channel is there

  std::unique_ptr<NetworkChannel> primary_;
  std::unique_ptr<vmbus::Channel> primary_channel_;
  std::vector<Subchannel> subchannels_;
  bool is_paused_ = false;
  bool is_stopped_ = false;
  bool is_unplugged_ = false;
  absl::AnyInvocable<void()> on_idle_;  // Pause's or Stop's
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

// SPDX-License-Identifier: Apache-2.0
// A hostile host at the storage client: turns bytes into packets and control words in the rings, rescinds and a host
// that never answers, and into a guest that sends commands meanwhile. What must hold: the client touches nothing but
// its own objects and its rings (the sanitizer sees to that); each command that it took ends exactly once, at the
// latest when its channel does; the channel ends exactly once; and once it is over, the client takes nothing more.

#ifndef HVSDK_FUZZ_STORVSC_STORVSC_HARNESS_H_
#define HVSDK_FUZZ_STORVSC_STORVSC_HARNESS_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "base/check.h"
#include "hvsdk/hvdef/storvsc.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/storage_client.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

class StorvscHarness {
 public:
  explicit StorvscHarness(absl::Span<const uint8_t> input)
      : input_(input),
        memory_(static_cast<uint8_t*>(std::aligned_alloc(4096, 2 * kRingBytes)), std::free),
        bus_(MakeConfig()) {
    std::memset(memory_.get(), 0, 2 * kRingBytes);
  }

  void Run() {
    OpenChannel();
    const uint8_t how = Take();
    client_->Start(how % 8 == 1 ? hvdef::storvsc::Version::kWin6 : hvdef::storvsc::Version::kWin10);
    if (how % 4 != 0) FinishOpening();
    while (!input_.empty()) Step();

    // Whatever happened, the channel's end is everybody's.
    bus_.Close(channel_);
    Say(hvdef::vmbus::MessageType::kGpadlTorndown, {gpadl_});
    HVSDK_CHECK(ended_ || bus_.state() == VmbusClient::State::kUnloading);
    bus_.Connect();
    HVSDK_CHECK(ended_);
    HVSDK_CHECK(client_->state() == StorageClient::State::kEnded && client_->in_flight() == 0);
    for (const Command& command : commands_) HVSDK_CHECK(!command.taken);
    StorageRequest late;
    HVSDK_CHECK(!client_->Send(late) && !client_->ResetBus() && !client_->RequestSubchannels(1));
  }

 private:
  static constexpr uint32_t kRingPages = 3;
  static constexpr uint32_t kRingBytes = kRingPages * 4096;
  static constexpr uint32_t kDataBytes = kRingBytes - 4096;

  struct Command {
    StorvscHarness* harness = nullptr;
    StorageRequest request;
    bool taken = false;  // the client has it
  };

  VmbusClient::Config MakeConfig() {
    VmbusClient::Config config;
    config.hypercalls.context = this;
    config.hypercalls.post_message = [](void* self, uint32_t, const void* bytes, uint32_t) {
      uint32_t words[4];
      std::memcpy(words, bytes, 8);
      if (words[0] == static_cast<uint32_t>(hvdef::vmbus::MessageType::kGpadlHeader)) {
        std::memcpy(words, bytes, sizeof(words));
        static_cast<StorvscHarness*>(self)->gpadl_ = words[3];
      }
      return hvdef::HvStatus::kSuccess;
    };
    config.hypercalls.signal_event = [](void*, uint32_t) { return hvdef::HvStatus::kSuccess; };
    return config;
  }

  uint8_t Take() {
    if (input_.empty()) return 0;
    const uint8_t byte = input_.front();
    input_.remove_prefix(1);
    return byte;
  }
  uint32_t Take32() { return Take() | Take() << 8 | Take() << 16 | static_cast<uint32_t>(Take()) << 24; }

  void Say(hvdef::vmbus::MessageType type, std::vector<uint32_t> words) {
    uint32_t message[16] = {static_cast<uint32_t>(type)};
    std::copy(words.begin(), words.end(), message + 2);
    bus_.OnMessage(message, 8 + words.size() * 4);
  }

  void OpenChannel() {
    using hvdef::vmbus::MessageType;
    bus_.Connect();
    Say(MessageType::kVersionResponse, {1, 4});
    const RingPages pages = {{nullptr, 16, 2 * kRingPages}, kRingPages};
    client_ = std::make_unique<StorageClient>(bus_, channel_, ClientRings::Create(memory_.get(), pages));
    // Listens in on what the client is told.
    on_end_ = channel_.on_end;
    on_signal_ = channel_.on_signal;
    channel_.context = this;
    channel_.on_signal = [](void* self, Channel& channel) {
      auto& harness = *static_cast<StorvscHarness*>(self);
      harness.on_signal_(harness.client_.get(), channel);
    };
    channel_.on_end = [](void* self, Channel& channel) {
      auto& harness = *static_cast<StorvscHarness*>(self);
      HVSDK_CHECK(!harness.ended_);
      harness.ended_ = true;
      harness.on_end_(harness.client_.get(), channel);
    };
    hvdef::vmbus::OfferChannel offer = {};
    offer.channel_id = 1;
    offer.is_dedicated_interrupt = 1;
    HVSDK_CHECK(bus_.Open(channel_, offer, pages));
    Say(MessageType::kGpadlCreated, {1, gpadl_, 0});
    Say(MessageType::kOpenResult, {1, 1, 0});
    HVSDK_CHECK(channel_.state() == Channel::State::kOpen);
  }

  // --- The host's side of the rings. ---

  uint8_t* incoming() const { return memory_.get() + kRingBytes; }
  static std::atomic_ref<uint32_t> Word(uint8_t* ring, uint32_t word) {
    return std::atomic_ref(reinterpret_cast<uint32_t*>(ring)[word]);
  }
  void Signal() {
    const uint32_t index = Word(incoming(), 0).load();
    const bool sees_bad_index = channel_.state() == Channel::State::kOpen && (index >= kDataBytes || index % 8 != 0);
    uint64_t flags[32] = {2};
    bus_.OnEvents(flags);
    HVSDK_CHECK(!sees_bad_index || is_over());
  }
  bool is_over() const {
    return client_->state() == StorageClient::State::kFailed || client_->state() == StorageClient::State::kEnded;
  }

  // A packet of any header, for which the ring need not have room.
  void Write(uint16_t type, uint64_t id, const uint8_t* payload, uint32_t size, uint32_t length, uint32_t data_offset) {
    std::vector<uint8_t> bytes(16 + (size + 7) / 8 * 8 + 8);
    const uint64_t head = type | uint64_t{data_offset / 8} << 16 | uint64_t{length / 8 & 0xFFFF} << 32;
    std::memcpy(bytes.data(), &head, 8);
    std::memcpy(bytes.data() + 8, &id, 8);
    if (size != 0) std::memcpy(bytes.data() + 16, payload, size);
    const uint32_t at = Word(incoming(), 0).load() % kDataBytes / 8 * 8;
    for (size_t i = 0; i < bytes.size(); ++i) incoming()[4096 + (at + i) % kDataBytes] = bytes[i];
    Word(incoming(), 0).store(static_cast<uint32_t>((at + bytes.size()) % kDataBytes));
  }
  void WriteWell(hvdef::PacketType type, uint64_t id, const void* payload, uint32_t size) {
    Write(static_cast<uint16_t>(type), id, static_cast<const uint8_t*>(payload), size, 16 + (size + 7) / 8 * 8, 16);
  }
  void Complete(uint64_t id, uint32_t status = 0) {
    hvdef::storvsc::Packet packet = {};
    packet.header.operation = hvdef::storvsc::Operation::kCompleteIo;
    packet.header.status = static_cast<hvdef::storvsc::Status>(status);
    packet.scsi.srb_status = status == 0 ? 1 : Take();
    packet.scsi.data_transfer_length = Take32();
    WriteWell(hvdef::PacketType::kCompletion, id, &packet, sizeof(packet));
  }
  void FinishOpening() {
    for (int i = 0; i < 8 && client_->state() == StorageClient::State::kStarting; ++i) {
      Complete(kControlId);
      Signal();
    }
  }
  uint64_t AnyId() {
    const uint8_t byte = Take();
    if (byte % 8 == 0) return kControlId;
    if (byte % 8 == 1) return Take32();
    return 1 + byte % StorageClient::kMaxRequests;
  }

  // --- The guest's side. ---

  void Send() {
    Command& command = commands_[Take() % commands_.size()];
    if (command.taken) return;
    StorageRequest& request = command.request;
    request = {};
    request.SetRead(Take(), 1);
    static constexpr uint64_t kPfns[2] = {64, 65};
    if (Take() % 2 == 0) request.data = {512u + Take() * 8u, 8, kPfns};
    command.harness = this;
    request.context = &command;
    request.on_done = [](void* context, StorageRequest& done) {
      auto& ended = *static_cast<Command*>(context);
      HVSDK_CHECK(ended.taken && &done == &ended.request && done.is_done);
      HVSDK_CHECK(done.transferred <= done.data.byte_count && !(done.lost && done.ok()));
      ended.taken = false;
      StorvscHarness& harness = *ended.harness;
      if (harness.Take() % 4 == 0) harness.Send();  // a callback may
      if (harness.Take() % 32 == 0) harness.bus_.Close(harness.channel_);
    };
    command.taken = true;  // a Send that fails may end others, but not this one
    const bool was_ready = client_->state() == StorageClient::State::kReady;
    command.taken = client_->Send(request);
    HVSDK_CHECK(was_ready || !command.taken);
    if (Take() % 4 != 0) client_->Publish();
  }

  void Step() {
    switch (Take() % 16) {
      default:
        Send();
        break;
      case 0:
      case 1:
      case 2:
        Complete(AnyId(), Take() % 4 == 0 ? 1 : 0);
        break;
      case 3: {
        uint8_t payload[256];
        const uint32_t size = Take();
        for (uint32_t i = 0; i < size; ++i) payload[i] = Take();
        const auto type = Take() % 2 == 0 ? hvdef::PacketType::kCompletion : hvdef::PacketType::kDataInBand;
        WriteWell(type, AnyId(), payload, size);
        break;
      }
      case 4: {
        uint8_t payload[64] = {};
        for (uint8_t& byte : payload) byte = Take();
        Write(Take(), AnyId(), payload, Take() % 65, Take() * 8, Take() * 8);
        break;
      }
      case 5:
        if (Take() % 4 != 0) break;
        Word(Take() % 2 == 0 ? incoming() : memory_.get(), Take() % 5).store(Take32());
        break;
      case 6:
        // The host has read all there is.
        Word(memory_.get(), 1).store(Word(memory_.get(), 0).load());
        break;
      case 7:
      case 8:
      case 9:
        Signal();
        break;
      case 10: {
        const uint8_t what = Take();
        if (what % 16 == 0) (void)client_->ResetBus();
        if (what % 16 == 1) (void)client_->RequestSubchannels(1);
        if (what == 2) bus_.Unload();
        if (what == 18) bus_.Connect();
        if (what == 34) bus_.Close(channel_);
        if (what == 50) Say(hvdef::vmbus::MessageType::kRescindOffer, {1});
        if (what == 66) Say(hvdef::vmbus::MessageType::kUnloadResponse, {});
        break;
      }
    }
    if (is_over()) {
      HVSDK_CHECK(client_->in_flight() == 0);
      for (const Command& command : commands_) HVSDK_CHECK(!command.taken);
    }
    HVSDK_CHECK(client_->in_flight() ==
                static_cast<uint32_t>(std::count_if(commands_.begin(), commands_.end(),
                                                    [](const Command& command) { return command.taken; })));
  }

  static constexpr uint64_t kControlId = uint64_t{1} << 32;  // what the client uses for all but commands

  absl::Span<const uint8_t> input_;
  std::unique_ptr<uint8_t, void (*)(void*)> memory_;
  VmbusClient bus_;
  Channel channel_;
  void (*on_signal_)(void*, Channel&) = nullptr;
  void (*on_end_)(void*, Channel&) = nullptr;
  std::unique_ptr<StorageClient> client_;
  std::array<Command, 140> commands_;
  uint32_t gpadl_ = 0;
  bool ended_ = false;
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_FUZZ_STORVSC_STORVSC_HARNESS_H_

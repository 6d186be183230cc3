// SPDX-License-Identifier: Apache-2.0
// BalloonClient: the child side of dynamic memory on one open channel. It agrees on a version, asks the caller for pages when the host
// wants some, tells it which it may use again or for the first time, and reports how much memory there is.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset. Nothing here waits: OnSignal, which the channel's
// signal calls, takes what has come and goes on with what had no room.
//
// Thread-compatible: the caller keeps interrupts and everything else apart.
//
// The host is not trusted to be right: what is no message of the protocol, or comes before its time, and a broken ring, make the client
// fail. Whether a page that the host gives back was given up is the caller's to know. A client serves one opening of its channel.
//
// Source: hvdef/dynamic_memory.h.
//
//   vsc::BalloonClient balloon(bus, channel, rings);
//   balloon.give_up = [](void*, uint32_t pages, PageRange* ranges, uint32_t) { return TakeFromFreeList(pages, ranges); };
//   balloon.take_back = [](void*, PageRange range) { PutOnFreeList(range); };
//   balloon.Start();  // when the channel is open

#ifndef HVSDK_VSC_BALLOON_CLIENT_H_
#define HVSDK_VSC_BALLOON_CLIENT_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/dynamic_memory.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

class BalloonClient {
 public:
  enum class State : uint8_t {
    kStarting,  // until version and capabilities are agreed on
    kReady,
    kRefused,  // the host speaks no version of ours
    kFailed,   // the host broke the protocol or a ring; close the channel
    kEnded,    // the channel is no more
  };
  using PageRange = hvdef::dynamic_memory::PageRange;
  using Version = hvdef::dynamic_memory::Version;

  // Takes the channel's signals and its end.
  BalloonClient(VmbusClient& bus, Channel& channel, const ClientRings& rings, Version newest = Version::k3);
  BalloonClient(const BalloonClient&) = delete;
  BalloonClient& operator=(const BalloonClient&) = delete;

  State state() const { return state_; }
  Version version() const { return version_; }  // kReady

  void* context = nullptr;
  // Pages in rows that the guest does not use from now on, at most `pages` of them, in at most `count` rows: answers how many rows. Called again
  // until there are as many as the host wants, or none.
  uint32_t (*give_up)(void* context, uint32_t pages, PageRange* ranges, uint32_t count) = nullptr;
  // They are the guest's again.
  void (*take_back)(void* context, PageRange range) = nullptr;

  // Memory that the guest has not had before: answers how many of its pages, from the first on, it uses from now on. Null: the host is told
  // that it takes none.
  uint32_t (*take_new)(void* context, PageRange range) = nullptr;

  // Asks for the newest version: once, when the channel is open.
  void Start();
  // How many pages there are to use, and how many are promised. False: there is no room for it now, or the client is not ready.
  bool Report(uint64_t available_pages, uint64_t committed_pages);

  void OnSignal();

 private:
  static constexpr uint32_t kMaxPacketBytes = hvdef::dynamic_memory::kMaxMessageBytes;

  bool is_over() const { return state_ >= State::kRefused; }
  bool HasRoom();
  bool Send(hvdef::dynamic_memory::MessageType type, void* message, uint32_t size_bytes);
  void AskVersion();
  void OnMessage(const uint8_t* message, uint32_t size_bytes);
  void OnResponse(hvdef::dynamic_memory::MessageType type, bool is_accepted);
  void TakeBack(const uint8_t* message, uint32_t size_bytes);
  void TakeNew(const hvdef::dynamic_memory::HotAddRequest& request);
  void GiveUp();
  void Fail() { state_ = State::kFailed; }

  VmbusClient& bus_;
  Channel& channel_;
  ClientRings rings_;
  State state_ = State::kStarting;
  Version version_;
  bool is_asking_ = false;   // for a version
  bool is_telling_ = false;  // capabilities
  bool is_giving_ = false;   // the host waits for `wanted_` more pages
  uint32_t wanted_ = 0;
  uint32_t transaction_id_ = 0;
  alignas(8) uint8_t buffer_[kMaxPacketBytes];
  alignas(8) uint8_t answer_[kMaxPacketBytes];
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_BALLOON_CLIENT_H_

// SPDX-License-Identifier: Apache-2.0
// VideoClient: the child side of synthetic video on one open channel. It agrees on a version, learns which size the host wants to be shown,
// says where the caller's frame is, and, while somebody looks, what of it was drawn.
//
// Freestanding: no heap, no exceptions, no RTTI, no library but memcpy and memset. Nothing here waits: OnSignal, which the channel's
// signal calls, takes what has come.
//
// Thread-compatible: the caller keeps interrupts and everything else apart.
//
// The host is not trusted to be right: what is no message of the protocol, or comes before its time, and a broken ring, make the client
// fail. A client serves one opening of its channel.
//
// Source: hvdef/video.h.
//
//   vsc::VideoClient video(bus, channel, rings);
//   video.Start();  // when the channel is open; until state() is kReady:
//   const bool sent = video.Show({.gpa = frame_gpa, .width = video.width(), .height = video.height(), .stride_bytes = 4u * video.width()});

#ifndef HVSDK_VSC_VIDEO_CLIENT_H_
#define HVSDK_VSC_VIDEO_CLIENT_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/video.h"
#include "hvsdk/vmbus/ring/packet.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/vmbus_client.h"

namespace hvsdk::vsc {

// Of a frame with 32 bits a pixel.
struct VideoScreen {
  uint64_t gpa = 0;
  uint32_t width = 0, height = 0, stride_bytes = 0;
};

class VideoClient {
 public:
  enum class State : uint8_t {
    kStarting,  // until version and sizes are known
    kReady,
    kRefused,  // the host speaks no version of ours
    kFailed,   // the host broke the protocol or a ring; close the channel
    kEnded,    // the channel is no more
  };
  using Version = hvdef::video::Version;

  // Takes the channel's signals and its end.
  VideoClient(VmbusClient& bus, Channel& channel, const ClientRings& rings, Version newest = Version::k3_5);
  VideoClient(const VideoClient&) = delete;
  VideoClient& operator=(const VideoClient&) = delete;

  State state() const { return state_; }
  Version version() const { return version_; }  // kReady
  // What the host wants to be shown at first; 1024 x 768 before 3.5, where it does not say.
  uint16_t width() const { return wanted_.width; }
  uint16_t height() const { return wanted_.height; }
  // The host takes what was shown last. False: not yet, or its place is none where the host finds memory.
  bool is_shown() const { return is_shown_; }
  // Somebody looks.
  bool wants_dirt() const { return wants_dirt_; }

  // Asks for the newest version: once, when the channel is open.
  void Start();
  // Says where a frame is and what. False: there is no room for it now, or the client is not ready.
  bool Show(const VideoScreen& screen);
  // That pixels were drawn. True also if nobody wants to know.
  bool TellDrawn(uint32_t x, uint32_t y, uint32_t width, uint32_t height);

  void OnSignal();

 private:
  static constexpr uint32_t kMaxPacketBytes = 1024;  // more than the host's longest message

  bool is_over() const { return state_ >= State::kRefused; }
  bool HasRoom();
  bool Send(hvdef::video::MessageType type, const void* body, uint32_t size_bytes);
  void AskVersion();
  void OnMessage(const uint8_t* message, uint32_t size_bytes);
  void OnVersion(bool is_accepted);
  void OnResolutions(const uint8_t* body, uint32_t size_bytes);
  void Fail() { state_ = State::kFailed; }

  VmbusClient& bus_;
  Channel& channel_;
  ClientRings rings_;
  State state_ = State::kStarting;
  Version version_;
  hvdef::video::Resolution wanted_{1024, 768};
  bool is_asking_ = false;    // for a version
  bool wants_sizes_ = false;  // asked for them
  bool is_placed_ = false;    // the host knows the memory
  bool is_shown_ = false;
  bool wants_dirt_ = false;
  uint64_t shown_gpa_ = 0;
  alignas(8) uint8_t buffer_[kMaxPacketBytes];
};

}  // namespace hvsdk::vsc

#endif  // HVSDK_VSC_VIDEO_CLIENT_H_

// SPDX-License-Identifier: Apache-2.0
// A hostile guest at the video provider: plays a string of bytes as messages of the protocol with lies in every field, in any order, while
// viewers come, look and go. Ends the program if a frame does not lie in memory as a whole, if what has changed does not lie in the frame
// or overlaps, if a pointer's image is not of its size, or if the provider does not come to rest.

#ifndef HVSDK_FUZZ_VIDEO_VIDEO_HARNESS_H_
#define HVSDK_FUZZ_VIDEO_VIDEO_HARNESS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "base/check.h"
#include "fuzz/provider_world.h"
#include "hvsdk/hvdef/video.h"
#include "hvsdk/vsp/video.h"

namespace hvsdk::vsp {

class VideoHarness : private ProviderWorld {
 public:
  VideoHarness() : vram_(kVramBytes) {
    HVSDK_CHECK(memory_.AddRange(kVramGpa, absl::MakeSpan(vram_.data(), vram_.size())).ok());
    video_ =
        *Video::Create(*server_, memory_, executor_, {.vram = {kVramGpa, kVramBytes}, .width = 640, .height = 480});
    Connect(absl::MakeSpan(&end_, 1));
  }
  ~VideoHarness() {
    video_.reset();
    child_.reset();
  }

  // Tests see that it gets somewhere.
  uint64_t frames = 0, rectangles = 0, images = 0;

  void Play(const uint8_t* data, size_t size) {
    in_ = fuzz::Bytes({data, size});
    OpenChannelOf(end_, hvdef::class_id::kVideo, [] {});
    if (Byte() % 8 != 0) Say(MessageType::kVersionRequest, /*lies=*/false);
    while (!in_.empty()) Step();
    for (Viewer& viewer : viewers_) SetLooking(viewer, false);
    if (is_paused_) SetPaused(false);
    Close();
    video_->Reset();
  }

 private:
  static constexpr uint64_t kVramGpa = 16 << 20, kVramBytes = 2 << 20;
  using MessageType = hvdef::video::MessageType;

  class Viewer final : public DisplayViewer {
   public:
    void OnChange() override {
      HVSDK_CHECK(is_looking && !is_told);  // once, until it has taken what there is
      is_told = true;
    }
    bool is_looking = false, is_told = false;
  };

  void Close() {
    child_->client().Close(end_.channel);
    Pump();
    HVSDK_CHECK(video_->status().version == hvdef::video::Version::kNone);
    end_.channel = vsc::Channel();
  }
  void SetPaused(bool paused) {
    is_paused_ = paused;
    paused ? video_->Pause() : video_->Resume();
    Pump();
  }
  void SetLooking(Viewer& viewer, bool looks) {
    if (viewer.is_looking == looks) return;
    viewer.is_looking = looks;
    viewer.is_told = false;
    looks ? video_->AddViewer(viewer) : video_->RemoveViewer(viewer);
    Pump();
  }

  void Step() {
    switch (Byte() % 16) {
      case 0:
        Close();
        OpenChannelOf(end_, hvdef::class_id::kVideo, [] {});
        break;
      case 1:
        SetPaused(!is_paused_);
        break;
      case 2:
        SetLooking(viewers_[Byte() % 2], Byte() % 3 != 0);
        break;
      case 3:
        Look(viewers_[Byte() % 2]);
        break;
      case 4:
      case 5:
      case 6:
        Read();
        break;
      default:
        Say(static_cast<MessageType>(Byte() % 18), Byte() % 4 == 0);
    }
    CheckFrame();
  }

  void CheckFrame() {
    const Frame frame = video_->frame();
    if (frame.empty()) return;
    ++frames;
    HVSDK_CHECK(frame.width <= DirtyRegion::kMaxWidth && frame.height != 0 && frame.height <= DirtyRegion::kMaxHeight);
    const uint64_t row_bytes = uint64_t{frame.width} * BytesOf(frame.format);
    const uint64_t bytes = uint64_t{frame.stride_bytes} * (frame.height - 1) + row_bytes;
    HVSDK_CHECK(row_bytes <= frame.stride_bytes);
    const bool is_vram = frame.pixels >= vram_.data() && frame.pixels + bytes <= vram_.data() + kVramBytes;
    const bool is_memory = frame.pixels >= bytes_.get() && frame.pixels + bytes <= bytes_.get() + kMemoryBytes;
    HVSDK_CHECK(is_vram || is_memory);
  }
  void Look(Viewer& viewer) {
    const DisplayChanges changes = video_->TakeChanges(viewer);
    viewer.is_told = false;
    HVSDK_CHECK(viewer.is_looking || changes == DisplayChanges());
    const Frame frame = video_->frame();
    uint64_t pixels = 0;
    for (const Rectangle& dirty : changes.dirty) {
      HVSDK_CHECK(dirty.width != 0 && dirty.height != 0 && dirty.x + dirty.width <= frame.width &&
                  dirty.y + dirty.height <= frame.height);
      pixels += uint64_t{dirty.width} * dirty.height;
      ++rectangles;
    }
    HVSDK_CHECK(pixels <= uint64_t{frame.width} * frame.height);
    if (changes.has_new_frame) HVSDK_CHECK(pixels == uint64_t{frame.width} * frame.height);
    const PointerImage& image = video_->pointer_image();
    HVSDK_CHECK(image.width <= 96 && image.height <= 96 &&
                image.pixels.size() == size_t{4} * image.width * image.height);
    images += !image.pixels.empty();
  }

  void Read() {
    alignas(8) uint8_t buffer[4096];
    vmbus::Packet packet;
    if (end_.rings.incoming.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) return;
    hvdef::video::PipeHeader pipe;
    hvdef::video::Header header;
    HVSDK_CHECK(packet.payload_size >= sizeof(pipe) + sizeof(header));
    std::memcpy(&pipe, packet.payload, sizeof(pipe));
    std::memcpy(&header, packet.payload + sizeof(pipe), sizeof(header));
    HVSDK_CHECK(pipe.size_bytes == header.size_bytes && sizeof(pipe) + pipe.size_bytes <= packet.payload_size);
    if (end_.rings.incoming.Commit() == vmbus::Signal::kNeeded) child_->client().Signal(end_.channel);
    Pump();
  }

  uint32_t Lie(bool lies, uint32_t truth) {
    if (!lies) return truth;
    switch (Byte() % 8) {
      case 0:
        return truth + 1;
      case 1:
        return truth - 1;
      case 2:
        return 0xFFFFFFFF - Byte();
      case 3:
        return Byte();
      case 4:
        return 1u << Byte() % 32;
      default:
        return truth;
    }
  }

  void Say(MessageType type, bool lies) {
    using namespace hvdef::video;
    using Word = Unaligned<uint32_t>;
    uint8_t body[600] = {};
    uint32_t size = 0;
    const auto put = [&](const auto& what) {
      std::memcpy(body + size, &what, sizeof(what));
      size += sizeof(what);
    };
    switch (type) {
      case MessageType::kVersionRequest:
        put(VersionRequest{static_cast<Version>(Lie(lies, static_cast<uint32_t>(Version::k3_5)))});
        break;
      case MessageType::kResolutionsRequest:
        put(ResolutionsRequest{Byte()});
        break;
      case MessageType::kVramLocation: {
        const uint64_t gpa = Byte() % 2 == 0 ? kVramGpa : uint64_t{Byte()} << kPageShift;
        put(VramLocation{.user_context = Unaligned<uint64_t>::Of(Byte()),
                         .has_gpa = Byte() % 4 != 0,
                         .gpa = Unaligned<uint64_t>::Of(gpa + (lies ? uint64_t{Lie(true, 0)} << Byte() % 33 : 0))});
        break;
      }
      case MessageType::kSituation: {
        const uint32_t width = 1 + Byte() * 4, height = 1 + Byte() * 2;
        put(Situation{.user_context = Unaligned<uint64_t>::Of(Byte()),
                      .output_count = static_cast<uint8_t>(Lie(lies, 1)),
                      .output = {.is_active = Byte() % 8 != 0,
                                 .offset_bytes = Word::Of(Lie(lies, 0)),
                                 .depth_bits = static_cast<uint8_t>(Lie(lies, Byte() % 2 == 0 ? 32 : 16)),
                                 .width = Word::Of(Lie(lies, width)),
                                 .height = Word::Of(Lie(lies, height)),
                                 .stride_bytes = Word::Of(Lie(lies, width * 4))}});
        break;
      }
      case MessageType::kPointerPosition:
        put(PointerPosition{.is_visible = Byte(), .x = Unaligned<int32_t>::Of(static_cast<int32_t>(Lie(lies, 5)))});
        break;
      case MessageType::kPointerShape: {
        put(PointerShape{.part = Byte() % 2 == 0 ? kLastPointerPart : static_cast<uint8_t>(Byte() % 4),
                         .has_colours = static_cast<uint8_t>(Byte() % 2),
                         .width = Word::Of(Lie(lies, Byte() % 12)),
                         .height = Word::Of(Lie(lies, Byte() % 12))});
        size += Byte() * 2;
        break;
      }
      case MessageType::kDirt: {
        const uint8_t count = Byte() % 6;
        put(Dirt{.count = static_cast<uint8_t>(Lie(lies, count))});
        for (uint8_t i = 0; i < count; ++i) {
          const auto corner = [&] { return Unaligned<int32_t>::Of(static_cast<int32_t>(Lie(lies, Byte() * 4))); };
          put(hvdef::video::Rectangle{corner(), corner(), corner(), corner()});
        }
        break;
      }
      default:
        size = Byte();
    }
    const uint32_t bytes = Lie(lies, static_cast<uint32_t>(sizeof(Header)) + size);
    const PipeHeader pipe{.type = Lie(lies && Byte() % 8 == 0, kPipeData), .size_bytes = bytes};
    const Header header{.type = type, .size_bytes = bytes};
    std::vector<uint8_t> message(sizeof(pipe) + sizeof(header) + size);
    std::memcpy(message.data(), &pipe, sizeof(pipe));
    std::memcpy(message.data() + sizeof(pipe), &header, sizeof(header));
    std::memcpy(message.data() + sizeof(pipe) + sizeof(header), body, size);
    if (end_.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(++next_id_, false), message.data(),
                                        static_cast<uint32_t>(message.size())) != vmbus::RingStatus::kOk) {
      return;
    }
    if (end_.rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(end_.channel);
    Pump();
  }

  std::vector<uint8_t> vram_;
  std::unique_ptr<Video> video_;
  ChannelEnd end_;
  Viewer viewers_[2];
  bool is_paused_ = false;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_VIDEO_VIDEO_HARNESS_H_

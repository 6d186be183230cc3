// SPDX-License-Identifier: Apache-2.0
// The video provider by the suite that every component passes. Its guest is nothing but memory: it says what a driver would, in any order,
// or something else, and reads the answers or does not.

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/video.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vsp/video.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/played_channel.h"
#include "tests/vsp/video_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::video;
using wire::MessageType;
using wire::Version;

// What it is told is no matter of state.
class Viewer final : public DisplayViewer {
 public:
  void OnChange() override {}
};

class VideoSubject : private PlayedChannel {
 public:
  VideoSubject() : PlayedChannel(kPages) {
    video_ = *Video::Create(server_, memory_, executor_,
                            {.vram = {kFirst * kPageSize, 2 << 20}, .width = 640, .height = 480});
    video_->AddViewer(viewer_);
    executor_.RunUntilIdle();
  }
  ~VideoSubject() { video_->RemoveViewer(viewer_); }

  state::Component& component() { return *video_; }

  // Of all subjects: the histories are not empty.
  static inline int opens = 0, ready = 0, frames = 0, images = 0, packets = 0;

  void CopyWorld(VideoSubject& from) { CopyWorldOf(from); }

  std::string Step(std::mt19937_64& random) {
    video_->Pause();  // before anything that waits in the ring is read
    RestoreServer();
    if (random() % 4 != 0) video_->Resume();  // else the next step finds what it has not read
    std::string seen;
    const uint64_t what = random() % 24;
    if (!is_open_ && what < 16) {
      video_->Resume();
      seen = Open();
      opens += is_open_;
    } else if (what == 0) {
      video_->Resume();
      seen = Close();
    } else if (what < 8) {
      seen = TakePacket();
    } else if (is_open_) {
      Say(random);
    }
    executor_.RunUntilIdle();
    const Frame frame = video_->frame();
    const PointerImage& image = video_->pointer_image();
    ready += video_->status().version != Version::kNone;
    frames += !frame.empty();
    images += image.width != 0;
    return absl::StrCat(
        seen, TakeMessages(hypervisor_, executor_), "version ", static_cast<uint32_t>(video_->status().version),
        " wants ", video_->status().wants_dirt, " frame ", frame.width, "x", frame.height, "/", frame.stride_bytes,
        " at ", frame.empty() ? 0 : frame.pixels - bytes_.data(), " pointer ", video_->pointer_place().is_visible, " ",
        video_->pointer_place().x, " ", video_->pointer_place().y, " image ", image.width, "x", image.height, " ",
        image.pixels.size(), "\n");
  }

 private:
  static constexpr uint64_t kFirst = 8, kPages = kFirst + 512 + 8;

  std::string TakePacket() {
    if (!is_open_) return "";
    vmbus::RingReader<vmbus::FlatMemory> ring(Ring(false));
    alignas(8) uint8_t buffer[4096];
    vmbus::Packet packet;
    if (ring.Attach() != vmbus::RingStatus::kOk ||
        ring.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) {
      return "";
    }
    ++packets;
    const std::string seen = absl::StrCat(
        "packet ", absl::BytesToHexString({reinterpret_cast<const char*>(packet.payload), packet.payload_size}), "\n");
    if (ring.Commit() == vmbus::Signal::kNeeded) Signal();
    return seen;
  }

  void Say(std::mt19937_64& random) {
    const bool agrees = video_->status().version == Version::kNone && random() % 8 != 0;
    std::vector<uint8_t> message;
    switch (agrees ? 0 : random() % 12) {
      case 0:
        message = VersionMessage(random() % 8 == 0 ? static_cast<Version>(9) : wire::kVersions[random() % 5]);
        break;
      case 1:
        message = VideoMessage(MessageType::kResolutionsRequest,
                               wire::ResolutionsRequest{static_cast<uint8_t>(random() % 3)});
        break;
      case 2:
        message = VramMessage(random() % 100, random() % 4 != 0,
                              random() % 4 == 0 ? random() : (random() % kPages) * kPageSize);
        break;
      case 3:
      case 4:
        message = SituationMessage(random() % 100, {.width = static_cast<uint32_t>(random() % 300),
                                                    .height = static_cast<uint32_t>(random() % 300),
                                                    .stride_bytes = 1200,
                                                    .offset_bytes = static_cast<uint32_t>(random() % 5000),
                                                    .depth_bits = static_cast<uint8_t>(random() % 2 == 0 ? 32 : 16)});
        break;
      case 5:
        message = PointerMessage(random() % 2 == 0, static_cast<int32_t>(random()), -5);
        break;
      case 6:
      case 7:
      case 8: {
        const uint64_t part = random() % 3;
        message = ShapeMessage(part == 2 ? wire::kLastPointerPart : static_cast<uint8_t>(part), random() % 2 == 0, 4, 4,
                               std::vector<uint8_t>(random() % 70, static_cast<uint8_t>(random())));
        break;
      }
      case 9:
        message = DirtMessage({{0, 0, 5, 5}, {1, 1, 300, 300}}, random() % 16 == 0 ? 1 : 0);
        break;
      case 10:
        message = VideoMessage(random() % 2 == 0 ? MessageType::kBiosInfoRequest : MessageType::kCapabilityRequest,
                               nullptr, 0);
        break;
      default:
        message = VideoMessage(static_cast<MessageType>(random() % 20), nullptr, 0);
    }
    if (random() % 64 == 0) message[random() % message.size()] ^= static_cast<uint8_t>(1 << random() % 8);
    Put(message.data(), message.size());
  }

  Viewer viewer_;
  std::unique_ptr<Video> video_;
};

TEST(VideoComponentTest, KeepsItsState) {
  state::CheckComponent([] { return std::make_unique<VideoSubject>(); });
  EXPECT_GT(VideoSubject::opens, 20);
  EXPECT_GT(VideoSubject::ready, 200);
  EXPECT_GT(VideoSubject::frames, 100);
  EXPECT_GT(VideoSubject::images, 20);
  EXPECT_GT(VideoSubject::packets, 100);
}

}  // namespace
}  // namespace hvsdk::vsp

// SPDX-License-Identifier: Apache-2.0
// The video provider against a guest that says message by message what a driver would, and what none would.

#include "hvsdk/vsp/video.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/vsc/video_client.h"
#include "tests/vsp/provider_fixture.h"
#include "tests/vsp/video_fixture.h"
#include "vsp/edid.h"

namespace hvsdk::vsp {
namespace {

namespace wire = hvdef::video;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using wire::MessageType;
using wire::Version;

class CountingViewer final : public DisplayViewer {
 public:
  void OnChange() override { ++calls; }
  int calls = 0;
};

// This guest has no client: it says everything by itself.
struct NoClient {};

class VideoTest : public ProviderFixture<NoClient> {
 protected:
  static constexpr uint64_t kRamBytes = 4 << 20, kVramGpa = 64 << 20, kVramBytes = 8 << 20;
  static constexpr uint32_t kRingPages = 9;  // for the longest message

  void SetUp() override {
    MakeServer(kRamBytes);
    vram_ = MakeZeroPages(kVramBytes);
    ASSERT_TRUE(memory_.AddRange(kVramGpa, absl::MakeSpan(vram_.get(), kVramBytes)).ok());
    video_ =
        *Video::Create(*server_, memory_, executor_, {.vram = {kVramGpa, kVramBytes}, .width = 1920, .height = 1080});
    MakeChild();
    const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
    ring_ = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
             .outgoing_pages = kRingPages};
    OpenChannel();
  }
  void TearDown() override {
    video_.reset();
    ProviderFixture::TearDown();
  }

  void OpenChannel() {
    rings_ = vsc::ClientRings::Create(child_->host(ring_.pages.first_pfn * kPageSize), ring_);
    for (const auto& offer : child_->offers()) {
      if (offer.class_id != hvdef::class_id::kVideo) continue;
      EXPECT_EQ(offer.mmio_megabytes, kVramBytes >> 20);
      EXPECT_TRUE(child_->client().Open(channel_, offer, ring_));
    }
    Pump();
    ASSERT_EQ(channel_.state(), vsc::Channel::State::kOpen);
  }
  void CloseChannel() {
    child_->client().Close(channel_);
    Pump();
    channel_ = vsc::Channel();
  }

  void Put(const std::vector<uint8_t>& message) {
    ASSERT_EQ(rings_.outgoing.StageInBand(vmbus::PacketHeader::InBand(7, false), message.data(),
                                          static_cast<uint32_t>(message.size())),
              vmbus::RingStatus::kOk);
    (void)rings_.outgoing.Publish();
    child_->client().Signal(channel_);
    Pump();
  }
  // The next message; its type is kError if there is none.
  struct Taken {
    MessageType type = MessageType::kError;
    std::vector<uint8_t> body;
  };
  Taken Take() {
    alignas(8) uint8_t buffer[4096];
    vmbus::Packet packet;
    Taken taken;
    if (rings_.incoming.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) return taken;
    wire::PipeHeader pipe;
    wire::Header header;
    EXPECT_GE(packet.payload_size, sizeof(pipe) + sizeof(header));
    std::memcpy(&pipe, packet.payload, sizeof(pipe));
    std::memcpy(&header, packet.payload + sizeof(pipe), sizeof(header));
    EXPECT_EQ(pipe.type, wire::kPipeData);
    EXPECT_EQ(pipe.size_bytes, header.size_bytes);
    EXPECT_LE(sizeof(pipe) + pipe.size_bytes, packet.payload_size);
    taken.type = header.type;
    taken.body.assign(packet.payload + sizeof(pipe) + sizeof(header),
                      packet.payload + sizeof(pipe) + header.size_bytes);
    if (rings_.incoming.Commit() == vmbus::Signal::kNeeded) child_->client().Signal(channel_);
    Pump();
    return taken;
  }
  template <typename Body>
  Body TakeBody(MessageType type) {
    const Taken taken = Take();
    EXPECT_EQ(taken.type, type);
    Body body{};
    EXPECT_GE(taken.body.size(), sizeof(body));
    if (taken.body.size() >= sizeof(body)) std::memcpy(&body, taken.body.data(), sizeof(body));
    return body;
  }
  bool IsQuiet() { return Take().type == MessageType::kError; }

  void Agree(Version version = Version::k3_5) {
    Put(VersionMessage(version));
    EXPECT_EQ(TakeBody<wire::VersionResponse>(MessageType::kVersionResponse).is_accepted, 1);
  }
  void Show(const ShownFrame& shown) {
    Put(SituationMessage(77, shown));
    EXPECT_EQ(TakeBody<wire::Ack>(MessageType::kSituationAck).user_context, 77u);
  }
  // Whether the provider still reads.
  bool Listens() {
    Put(VersionMessage(Version::k3_2));
    return Take().type == MessageType::kVersionResponse;
  }

  std::shared_ptr<uint8_t> vram_;
  std::unique_ptr<Video> video_;
  vsc::Channel channel_;
  vsc::RingPages ring_;
  vsc::ClientRings rings_;
};

TEST_F(VideoTest, Versions) {
  EXPECT_EQ(video_->status().version, Version::kNone);
  for (const uint32_t wrong : {0x00004u, 0x10003u, 0x60003u, 0u}) {
    Put(VersionMessage(static_cast<Version>(wrong)));
    const auto response = TakeBody<wire::VersionResponse>(MessageType::kVersionResponse);
    EXPECT_EQ(response.version.get(), wrong);
    EXPECT_EQ(response.is_accepted, 0);
    EXPECT_EQ(video_->status().version, Version::kNone);
  }
  for (const Version version : wire::kVersions) {
    Put(VersionMessage(version));
    const auto response = TakeBody<wire::VersionResponse>(MessageType::kVersionResponse);
    EXPECT_EQ(response.is_accepted, 1);
    EXPECT_EQ(response.max_outputs, 1);
    EXPECT_EQ(video_->status().version, version);
  }
  CloseChannel();
  EXPECT_EQ(video_->status().version, Version::kNone);
  OpenChannel();
  Agree();
}

TEST_F(VideoTest, Resolutions) {
  Agree();
  const auto ask = [&](uint8_t most) {
    Put(VideoMessage(MessageType::kResolutionsRequest, wire::ResolutionsRequest{most}));
    const Taken taken = Take();
    EXPECT_EQ(taken.type, MessageType::kResolutionsResponse);
    wire::ResolutionsResponse head;
    EXPECT_GE(taken.body.size(), sizeof(head));
    std::memcpy(&head, taken.body.data(), sizeof(head));
    EXPECT_EQ(taken.body.size(), sizeof(head) + head.count * sizeof(wire::Resolution));
    std::vector<std::pair<int, int>> all;
    for (size_t at = sizeof(head); at < taken.body.size(); at += sizeof(wire::Resolution)) {
      wire::Resolution each;
      std::memcpy(&each, &taken.body[at], sizeof(each));
      all.emplace_back(each.width, each.height);
    }
    EXPECT_EQ(head.default_index, 0);
    return all;
  };
  const auto all = ask(wire::kMaxResolutions);
  EXPECT_EQ(all.front(), std::pair(1920, 1080));
  EXPECT_EQ(std::count(all.begin(), all.end(), all.front()), 1);
  EXPECT_THAT(all, testing::Contains(std::pair(1024, 768)));
  for (const auto& [width, height] : all) EXPECT_LE(uint64_t{4} * width * height, kVramBytes);
  EXPECT_THAT(ask(1), ElementsAre(std::pair(1920, 1080)));
  EXPECT_THAT(ask(0), IsEmpty());
}

TEST(VideoMemoryTest, IsAPowerOfTwo) {
  EXPECT_EQ(VideoMemoryBytes(3840, 2160), 32u << 20);
  EXPECT_EQ(VideoMemoryBytes(1920, 1080), 8u << 20);
  EXPECT_EQ(VideoMemoryBytes(640, 480), 2u << 20);
  EXPECT_EQ(VideoMemoryBytes(~0u, ~0u), 32u << 20);
}

// EDID 1.4, 3.10.2: what a detailed timing says of the size.
TEST(EdidTest, SaysTheSize) {
  for (const auto& [width, height] : {std::pair(640u, 480u), std::pair(1920u, 1080u), std::pair(3840u, 2160u)}) {
    const auto edid = MakeEdid(width, height);
    uint8_t sum = 0;
    for (const uint8_t byte : edid) sum = static_cast<uint8_t>(sum + byte);
    EXPECT_EQ(sum, 0);
    EXPECT_EQ(edid[0x38] | (edid[0x3A] & 0xF0) << 4, width);
    EXPECT_EQ(edid[0x3B] | (edid[0x3D] & 0xF0) << 4, height);
    EXPECT_NE(edid[0x36] | edid[0x37], 0);
  }
}

TEST_F(VideoTest, OtherQuestions) {
  Agree();
  Put(VideoMessage(MessageType::kBiosInfoRequest, nullptr, 0));
  EXPECT_EQ(TakeBody<wire::BiosInfoResponse>(MessageType::kBiosInfoResponse).stop_device_supported, 0u);
  Put(VideoMessage(MessageType::kCapabilityRequest, nullptr, 0));
  EXPECT_EQ(TakeBody<wire::CapabilityResponse>(MessageType::kCapabilityResponse).lock_on_disconnect, 0u);
  Put(VideoMessage(static_cast<MessageType>(99), nullptr, 0));
  EXPECT_TRUE(IsQuiet());
  EXPECT_TRUE(Listens());
}

TEST_F(VideoTest, FramesLieWhereTheGuestSays) {
  Agree();
  EXPECT_TRUE(video_->frame().empty());
  Show({.width = 640, .height = 480, .stride_bytes = 2560});  // where it lies if nobody says anything
  EXPECT_EQ(video_->frame(), (Frame{640, 480, 2560, PixelFormat::kXrgb8888, vram_.get()}));
  Put(VramMessage(5, true, kVramGpa + 0x100000));
  EXPECT_EQ(TakeBody<wire::Ack>(MessageType::kVramLocationAck).user_context, 5u);
  EXPECT_EQ(video_->frame().pixels, vram_.get() + 0x100000);
  Show({.width = 640, .height = 480, .stride_bytes = 2560, .offset_bytes = 64});
  EXPECT_EQ(video_->frame().pixels, vram_.get() + 0x100040);
  // Memory of the guest's own.
  Put(VramMessage(6, true, 0x200000));
  EXPECT_EQ(TakeBody<wire::Ack>(MessageType::kVramLocationAck).user_context, 6u);
  Show({.width = 64, .height = 64, .stride_bytes = 128, .depth_bits = 16});
  EXPECT_EQ(video_->frame(), (Frame{64, 64, 128, PixelFormat::kRgb565, bytes_.get() + 0x200000}));
  Put(VramMessage(7, false, 0x12345));
  EXPECT_EQ(TakeBody<wire::Ack>(MessageType::kVramLocationAck).user_context, 7u);
  EXPECT_EQ(video_->frame().pixels, vram_.get());
  // No memory: the context does not come back, and the frame stays.
  for (const uint64_t gpa : {uint64_t{32} << 20, ~uint64_t{0}, kVramGpa + kVramBytes}) {
    Put(VramMessage(8, true, gpa));
    EXPECT_EQ(TakeBody<wire::Ack>(MessageType::kVramLocationAck).user_context, ~uint64_t{8});
    EXPECT_EQ(video_->frame().pixels, vram_.get());
  }
}

TEST_F(VideoTest, WhatIsNoFrameShowsNothing) {
  Agree();
  const ShownFrame good{.width = 1024, .height = 768, .stride_bytes = 4096};
  const auto with = [&](auto change) {
    ShownFrame shown = good;
    change(shown);
    return shown;
  };
  const ShownFrame kNone[] = {
      with([](ShownFrame& s) { s.is_active = 0; }),
      with([](ShownFrame& s) { s.outputs = 0; }),
      with([](ShownFrame& s) { s.width = 0; }),
      with([](ShownFrame& s) { s.height = 0; }),
      with([](ShownFrame& s) { s.depth_bits = 24; }),
      with([](ShownFrame& s) { s.depth_bits = 0; }),
      with([](ShownFrame& s) { s.stride_bytes = 4095; }),
      with([](ShownFrame& s) { s.stride_bytes = 0; }),
      with([](ShownFrame& s) { s.stride_bytes = ~0u; }),
      with([](ShownFrame& s) { s.width = s.height = s.stride_bytes = ~0u; }),
      with([](ShownFrame& s) { s.height = 2049; }),  // a row more than the range has
      with([](ShownFrame& s) { s.height = 2048, s.offset_bytes = 1; }),
      with([](ShownFrame& s) { s.offset_bytes = ~0u; }),
      with([](ShownFrame& s) { s.width = 8193, s.height = 1, s.stride_bytes = 65536; }),
  };
  for (const ShownFrame& shown : kNone) {
    Show(good);
    ASSERT_FALSE(video_->frame().empty());
    Show(shown);
    EXPECT_TRUE(video_->frame().empty()) << shown.width << " x " << shown.height << ", " << shown.stride_bytes;
  }
  Show(with([](ShownFrame& s) { s.height = 2048; }));
  EXPECT_FALSE(video_->frame().empty());
  Put(VramMessage(1, true, ~uint64_t{0} - 100));
  (void)Take();
  EXPECT_TRUE(Listens());
}

TEST_F(VideoTest, TheFrameStaysWhenTheDriverGoes) {
  Agree();
  Show({});
  const Frame shown = video_->frame();
  CloseChannel();
  EXPECT_EQ(video_->frame(), shown);
  OpenChannel();
  Agree();
  EXPECT_EQ(video_->frame(), shown);
  video_->Reset();
  EXPECT_TRUE(video_->frame().empty());
}

TEST_F(VideoTest, TheGuestIsToldOfViewersOnly) {
  Agree();
  Show({});
  EXPECT_TRUE(IsQuiet());
  CountingViewer viewer;
  video_->AddViewer(viewer);
  Pump();
  auto change = TakeBody<wire::FeatureChange>(MessageType::kFeatureChange);
  EXPECT_EQ(change.wants_dirt, 1);
  EXPECT_EQ(change.wants_situation, 1);
  EXPECT_TRUE(video_->status().wants_dirt);
  CountingViewer second;
  video_->AddViewer(second);
  Pump();
  video_->RemoveViewer(viewer);
  Pump();
  EXPECT_TRUE(IsQuiet());
  video_->RemoveViewer(second);
  Pump();
  change = TakeBody<wire::FeatureChange>(MessageType::kFeatureChange);
  EXPECT_EQ(change.wants_dirt, 0);
  EXPECT_EQ(change.wants_situation, 1);
  // A driver that comes anew is told anew, once it shows something.
  video_->AddViewer(viewer);
  Pump();
  CloseChannel();
  OpenChannel();
  Agree();
  EXPECT_TRUE(IsQuiet());
  Show({});
  EXPECT_EQ(TakeBody<wire::FeatureChange>(MessageType::kFeatureChange).wants_dirt, 1);
  video_->RemoveViewer(viewer);
}

TEST_F(VideoTest, EachViewerTakesWhatHasChanged) {
  Agree();
  Show({.width = 1024, .height = 768, .stride_bytes = 4096});
  CountingViewer a, b;
  video_->AddViewer(a);
  EXPECT_EQ(a.calls, 1);
  const Rectangle whole{0, 0, 1024, 768};
  EXPECT_EQ(video_->TakeChanges(a), (DisplayChanges{true, {whole}, true, true}));
  // Until it has said something of what it draws, anything may have changed.
  EXPECT_EQ(video_->TakeChanges(a), (DisplayChanges{false, {whole}, false, false}));
  Pump();
  (void)Take();
  Put(DirtMessage({{0, 0, 1, 1}}));
  EXPECT_EQ(a.calls, 2);
  EXPECT_EQ(video_->TakeChanges(a), (DisplayChanges{false, {whole}, false, false}));
  EXPECT_EQ(video_->TakeChanges(a), DisplayChanges());
  video_->AddViewer(b);
  EXPECT_EQ(video_->TakeChanges(b), (DisplayChanges{true, {whole}, true, true}));
  Put(DirtMessage({{0, 16, 64, 32}, {960, 752, 1024, 768}}));
  Put(DirtMessage({{-5, -7, 3, 4}}));
  EXPECT_EQ(a.calls, 3);
  EXPECT_EQ(b.calls, 2);
  EXPECT_THAT(video_->TakeChanges(a).dirty, ElementsAre(Rectangle{0, 0, 64, 32}, Rectangle{960, 752, 64, 16}));
  Put(DirtMessage({{100, 100, 101, 101}}));
  EXPECT_EQ(a.calls, 4);
  EXPECT_EQ(b.calls, 2);
  EXPECT_THAT(video_->TakeChanges(b).dirty,
              ElementsAre(Rectangle{0, 0, 64, 32}, Rectangle{64, 96, 64, 16}, Rectangle{960, 752, 64, 16}));
  EXPECT_THAT(video_->TakeChanges(a).dirty, ElementsAre(Rectangle{64, 96, 64, 16}));
  // Another size.
  Show({.width = 640, .height = 480, .stride_bytes = 2560});
  EXPECT_EQ(a.calls, 5);
  EXPECT_EQ(video_->TakeChanges(a), (DisplayChanges{true, {{0, 0, 640, 480}}, false, false}));
  // The same again is nothing new.
  Show({.width = 640, .height = 480, .stride_bytes = 2560});
  EXPECT_EQ(a.calls, 5);
  Put(PointerMessage(true, -3, 4));
  EXPECT_EQ(video_->pointer_place(), (PointerPlace{true, -3, 4}));
  EXPECT_EQ(video_->TakeChanges(a), (DisplayChanges{false, {}, true, false}));
  video_->RemoveViewer(a);
  EXPECT_EQ(video_->TakeChanges(a), DisplayChanges());
  video_->RemoveViewer(b);
}

TEST_F(VideoTest, HostileRectangles) {
  Agree();
  Show({.width = 1024, .height = 768, .stride_bytes = 4096});
  CountingViewer viewer;
  video_->AddViewer(viewer);
  Pump();
  (void)Take();
  Put(DirtMessage({{0, 0, 1, 1}}));
  (void)video_->TakeChanges(viewer);
  constexpr int32_t kMin = INT32_MIN, kMax = INT32_MAX;
  Put(DirtMessage({{5, 5, 5, 9},
                   {9, 9, 5, 20},
                   {kMax, kMax, kMin, kMin},
                   {kMin, kMin, -1, -1},
                   {kMax - 1, 0, kMax, kMax},
                   {0, 2000, 5, 3000}}));
  EXPECT_THAT(video_->TakeChanges(viewer).dirty, IsEmpty());
  Put(DirtMessage({{kMin, kMin, kMax, kMax}}));
  EXPECT_THAT(video_->TakeChanges(viewer).dirty, ElementsAre(Rectangle{0, 0, 1024, 768}));
  Put(DirtMessage({}));
  EXPECT_THAT(video_->TakeChanges(viewer).dirty, IsEmpty());
  Put(DirtMessage(std::vector<Corners>(255, {64, 64, 65, 65})));
  EXPECT_THAT(video_->TakeChanges(viewer).dirty, ElementsAre(Rectangle{64, 64, 64, 16}));
  EXPECT_TRUE(Listens());
  Put(DirtMessage({{0, 0, 1, 1}}, /*count_off=*/1));  // one that is not there
  EXPECT_FALSE(Listens());
  video_->RemoveViewer(viewer);
}

TEST_F(VideoTest, BrokenMessagesEndTheReading) {
  const auto cut = [](std::vector<uint8_t> message, size_t by) {
    message.resize(message.size() - by);
    message[4] = static_cast<uint8_t>(message.size() - sizeof(wire::PipeHeader));
    return message;
  };
  auto wrong_pipe = VersionMessage(Version::k3_5);
  wrong_pipe[0] = 2;
  auto too_long = VersionMessage(Version::k3_5);
  too_long[4] = 0xFF;
  const std::vector<std::vector<uint8_t>> kBefore = {wrong_pipe, too_long, cut(VersionMessage(Version::k3_5), 4),
                                                     std::vector<uint8_t>(3), VramMessage(0, true, kVramGpa)};
  for (const auto& message : kBefore) {
    Put(message);
    EXPECT_FALSE(Listens());
    CloseChannel();
    OpenChannel();
  }
  const std::vector<std::vector<uint8_t>> kAfter = {
      cut(VramMessage(0, true, kVramGpa), 8),
      cut(SituationMessage(0, {}), 8),
      cut(PointerMessage(true, 0, 0), 8),
      cut(ShapeMessage(0, true, 1, 1, {}), 8),
      cut(DirtMessage({}), 2),
      cut(VideoMessage(MessageType::kResolutionsRequest, wire::ResolutionsRequest{}), 1)};
  for (const auto& message : kAfter) {
    Agree();
    // A ring fills packets up with zeros.
    Put(message);
    EXPECT_FALSE(Listens());
    CloseChannel();
    OpenChannel();
  }
  Agree();
}

TEST_F(VideoTest, PointerImages) {
  Agree();
  Put(ShapeMessage(wire::kLastPointerPart, true, 1, 1, {0, 1, 1, 1}));
  EXPECT_EQ(video_->pointer_image(), (PointerImage{1, 1, 1, 2, {0, 1, 1, 1}}));
  // In parts.
  std::vector<uint8_t> pixels(96 * 96 * 4);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 7);
  const auto part = [&](size_t from, size_t to) {
    return std::vector<uint8_t>(pixels.begin() + from, pixels.begin() + to);
  };
  const auto put_all = [&](std::vector<uint8_t> numbers) {
    for (size_t i = 0, at = 0; i < numbers.size(); ++i) {
      const size_t end = std::min(at + wire::kMaxPointerPartBytes, pixels.size());
      Put(ShapeMessage(numbers[i], true, 96, 96, part(at, end)));
      at = end;
    }
  };
  put_all({0, 1, 2, 3, wire::kLastPointerPart});
  EXPECT_EQ(video_->pointer_image(), (PointerImage{96, 96, 1, 2, pixels}));
  // Masks: of 3 x 1 pixels one stays, one is white, one black.
  Put(ShapeMessage(wire::kLastPointerPart, false, 3, 1, {0x80, 0x40}));
  EXPECT_EQ(video_->pointer_image(), (PointerImage{3, 1, 1, 2, {0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 255}}));
  const PointerImage before = video_->pointer_image();
  put_all({0, 2, 3, wire::kLastPointerPart});
  put_all({1, 2, wire::kLastPointerPart});
  Put(ShapeMessage(wire::kLastPointerPart, true, 97, 1, part(0, 388)));
  Put(ShapeMessage(wire::kLastPointerPart, true, ~0u, ~0u, part(0, 388)));
  Put(ShapeMessage(wire::kLastPointerPart, true, 96, 96, part(0, 100)));
  EXPECT_EQ(video_->pointer_image(), before);
  // More than there is room for is cut.
  for (int i = 0; i < 10; ++i) Put(ShapeMessage(static_cast<uint8_t>(i), true, 2, 2, part(0, 8192)));
  Put(ShapeMessage(wire::kLastPointerPart, true, 2, 2, {}));
  EXPECT_EQ(video_->pointer_image().pixels, part(0, 16));
  EXPECT_TRUE(Listens());
}

TEST_F(VideoTest, PausedItSaysAndHearsNothing) {
  Agree();
  video_->Pause();
  CountingViewer viewer;
  video_->AddViewer(viewer);
  Put(SituationMessage(1, {}));
  EXPECT_TRUE(IsQuiet());
  EXPECT_TRUE(video_->frame().empty());
  video_->Resume();
  Pump();
  EXPECT_EQ(Take().type, MessageType::kSituationAck);
  EXPECT_EQ(Take().type, MessageType::kFeatureChange);
  video_->RemoveViewer(viewer);
}

// Both ends of ours.
TEST_F(VideoTest, TheClientShowsAndTells) {
  for (const Version newest : {Version::k3_5, Version::k3_2, static_cast<Version>(0x70003)}) {
    vsc::VideoClient client(child_->client(), channel_, rings_, newest);
    EXPECT_FALSE(client.Show({.gpa = kVramGpa, .width = 64, .height = 64, .stride_bytes = 256})) << "too early";
    client.Start();
    Pump();
    ASSERT_EQ(client.state(), vsc::VideoClient::State::kReady);
    const bool knows_sizes = newest == Version::k3_5;
    EXPECT_EQ(client.version(), knows_sizes ? Version::k3_5 : Version::k3_2);
    EXPECT_EQ(client.width(), knows_sizes ? 1920 : 1024);
    EXPECT_EQ(client.height(), knows_sizes ? 1080 : 768);
    ASSERT_TRUE(client.Show({.gpa = 32 << 20, .width = 64, .height = 64, .stride_bytes = 256}));
    Pump();
    EXPECT_FALSE(client.is_shown()) << "there is no memory";
    ASSERT_TRUE(client.Show({.gpa = kVramGpa, .width = 640, .height = 480, .stride_bytes = 2560}));
    Pump();
    EXPECT_TRUE(client.is_shown());
    EXPECT_EQ(video_->frame(), (Frame{640, 480, 2560, PixelFormat::kXrgb8888, vram_.get()}));
    CountingViewer viewer;
    EXPECT_FALSE(client.wants_dirt());
    EXPECT_TRUE(client.TellDrawn(0, 0, 1, 1));
    video_->AddViewer(viewer);
    Pump();
    EXPECT_TRUE(client.wants_dirt());
    ASSERT_TRUE(client.TellDrawn(0, 0, 1, 1));
    Pump();
    (void)video_->TakeChanges(viewer);
    ASSERT_TRUE(client.TellDrawn(64, 32, 64, 16));
    Pump();
    EXPECT_THAT(video_->TakeChanges(viewer).dirty, ElementsAre(Rectangle{64, 32, 64, 16}));
    video_->RemoveViewer(viewer);
    Pump();
    EXPECT_FALSE(client.wants_dirt());
    CloseChannel();
    video_->Reset();
    OpenChannel();
  }
}

TEST_F(VideoTest, RefusesWhatCannotBe) {
  const auto error = [&](VideoOptions options) {
    return std::string(Video::Create(*server_, memory_, executor_, options).status().message());
  };
  EXPECT_THAT(error({.vram = {kVramGpa, kVramBytes}, .width = 639, .height = 480}), HasSubstr("639 x 480"));
  EXPECT_THAT(error({.vram = {kVramGpa, kVramBytes}, .width = 640, .height = 2161}), HasSubstr("2161"));
  EXPECT_THAT(error({.vram = {kVramGpa, kVramBytes}, .width = 3840, .height = 2160}), HasSubstr("holds"));
  EXPECT_THAT(error({.vram = {kVramGpa, 2 * kVramBytes}}), HasSubstr("no memory"));
}

}  // namespace
}  // namespace hvsdk::vsp

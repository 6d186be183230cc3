// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/video.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "vsp/edid.h"

namespace hvsdk::vsp {

namespace wire = hvdef::video;
using vmbus::Take;
using wire::MessageType;
using wire::Version;

namespace {

constexpr hvdef::Guid kInstance = hvdef::MakeGuid("5620e0c7-8062-4dce-aeb7-520c7ef76171");  // as Hyper-V's
constexpr uint32_t kHeaderBytes = sizeof(wire::PipeHeader) + sizeof(wire::Header);

// What the guest is offered, as far as its memory holds it; the size that it is to begin with is put among them.
constexpr wire::Resolution kResolutions[] = {
    {640, 480},   {800, 600},   {1024, 768},  {1152, 864},  {1280, 720},  {1280, 800},
    {1280, 1024}, {1366, 768},  {1440, 900},  {1600, 900},  {1600, 1200}, {1680, 1050},
    {1920, 1080}, {1920, 1200}, {2048, 1152}, {2560, 1440}, {2560, 1600}, {3840, 2160},
};

enum class Phase : uint8_t { kIdle, kVersion, kReady };

// What the guest is owed before anything else of it is read.
enum class Answer : uint8_t { kNone, kVersion, kVramLocation, kSituation, kBiosInfo, kResolutions, kCapability };

// Since the driver has opened the channel.
struct Protocol {
  Phase phase = Phase::kIdle;
  Answer answer = Answer::kNone;
  Version version = Version::kNone;  // agreed on, or asked for and refused
  uint64_t context = 0;              // of the answer
  uint8_t resolutions = 0;           // that the guest takes
  bool is_situated = false;          // it has said what it shows
  bool wants_dirt = false;           // as it was told
  bool tells_dirt = false;           // and has done so since
  // An image of which some parts have come.
  bool has_parts = false;
  uint8_t next_part = 0;
  std::vector<uint8_t> shape;  // a wire::PointerShape and what came behind it

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "phase", phase);
    visit(2, "answer", answer);
    visit(3, "version", version);
    visit(4, "context", context);
    visit(5, "resolutions", resolutions);
    visit(6, "is_situated", is_situated);
    visit(7, "wants_dirt", wants_dirt);
    visit(8, "tells_dirt", tells_dirt);
    visit(9, "has_parts", has_parts);
    visit(10, "next_part", next_part);
    visit(11, "shape", shape);
  }
};

// What is shown, and stays when the driver goes.
struct Picture {
  bool has_vram = false;  // else the range made for it
  uint64_t vram_gpa = 0;
  bool is_active = false;
  uint8_t depth_bits = 0;
  uint32_t offset_bytes = 0, width = 0, height = 0, stride_bytes = 0;
  bool is_visible = false;  // the pointer
  int32_t x = 0, y = 0;
  uint32_t image_width = 0, image_height = 0, hot_x = 0, hot_y = 0;
  std::vector<uint8_t> image;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "has_vram", has_vram);
    visit(2, "vram_gpa", vram_gpa);
    visit(3, "is_active", is_active);
    visit(4, "depth_bits", depth_bits);
    visit(5, "offset_bytes", offset_bytes);
    visit(6, "width", width);
    visit(7, "height", height);
    visit(8, "stride_bytes", stride_bytes);
    visit(9, "is_visible", is_visible);
    visit(10, "x", x);
    visit(11, "y", y);
    visit(12, "image_width", image_width);
    visit(13, "image_height", image_height);
    visit(14, "hot_x", hot_x);
    visit(15, "hot_y", hot_y);
    visit(16, "image", image);
  }
};

struct VideoState {
  static constexpr uint32_t kSchema = 1;
  Protocol protocol;
  Picture picture;

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "protocol", protocol);
    visit(2, "picture", picture);
  }
};

bool IsKnown(Version version) {
  return std::find(std::begin(wire::kVersions), std::end(wire::kVersions), version) != std::end(wire::kVersions);
}

// Bytes of a whole pointer image in a message.
size_t ImageBytes(const wire::PointerShape& shape) {
  const size_t width = shape.width.get(), height = shape.height.get();
  return shape.has_colours != 0 ? width * height * 4 : (width + 7) / 8 * height * 2;
}

// As a viewer has it. What turns the screen's pixels over becomes black, for no viewer's pointer can do that.
std::vector<uint8_t> PixelsOf(const wire::PointerShape& shape, const uint8_t* from) {
  const size_t width = shape.width.get(), height = shape.height.get();
  std::vector<uint8_t> pixels(width * height * 4);
  if (shape.has_colours != 0) {
    std::copy_n(from, pixels.size(), pixels.begin());
    return pixels;
  }
  const size_t row_bytes = (width + 7) / 8;
  for (size_t y = 0; y < height; ++y) {
    for (size_t x = 0; x < width; ++x) {
      const uint8_t bit = 0x80 >> x % 8;
      const bool stays = (from[y * row_bytes + x / 8] & bit) != 0;
      const bool turns = (from[(height + y) * row_bytes + x / 8] & bit) != 0;
      uint8_t* const pixel = &pixels[(y * width + x) * 4];
      std::memset(pixel, turns && !stays ? 0xFF : 0, 3);
      pixel[3] = stays && !turns ? 0 : 0xFF;
    }
  }
  return pixels;
}

}  // namespace

class Video::Core final : private vmbus::PacketPump {
 public:
  Core(GuestMemory& memory, const VideoOptions& options)
      : PacketPump({.max_packet_bytes = wire::kMaxMessageBytes}), memory_(memory), options_(options) {}
  ~Core() override { channel_.reset(); }

  absl::Status Offer(vmbus::Server& server, Executor& executor) {
    if (options_.width < kMinVideoWidth || options_.width > kMaxVideoWidth || options_.height < kMinVideoHeight ||
        options_.height > kMaxVideoHeight) {
      return absl::InvalidArgumentError(absl::StrFormat("%d x %d pixels are not between %d x %d and %d x %d",
                                                        options_.width, options_.height, kMinVideoWidth,
                                                        kMinVideoHeight, kMaxVideoWidth, kMaxVideoHeight));
    }
    const auto& vram = options_.vram;
    if (!Holds({static_cast<uint16_t>(options_.width), static_cast<uint16_t>(options_.height)}) ||
        vram.size_bytes % (1 << 20) != 0 || vram.size_bytes >> 20 > 0xFFFF ||
        memory_.Pointer(vram.gpa, vram.size_bytes) == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrFormat("the range %#x+%#x is no memory of whole MiB that holds %d x %d pixels", vram.gpa,
                          vram.size_bytes, options_.width, options_.height));
    }
    vmbus::Offer offer;
    offer.class_id = hvdef::class_id::kVideo;
    offer.instance_id = kInstance;
    offer.flags = hvdef::vmbus::kOfferNamedPipeMode | hvdef::vmbus::kOfferEnumerateDeviceInterface;
    offer.mmio_megabytes = static_cast<uint16_t>(vram.size_bytes >> 20);
    std::memcpy(offer.user_defined.data(), &hvdef::vmbus::kPipeModeMessage, sizeof(hvdef::vmbus::kPipeModeMessage));
    ASSIGN_OR_RETURN(channel_, server.OfferChannel(offer, *this, executor));
    return absl::OkStatus();
  }

  VideoStatus status() const {
    return {.version = protocol_.phase == Phase::kReady ? protocol_.version : Version::kNone,
            .wants_dirt = protocol_.wants_dirt};
  }
  const Frame& frame() const { return frame_; }
  PointerPlace pointer_place() const { return {picture_.is_visible, picture_.x, picture_.y}; }
  const PointerImage& pointer_image() const { return image_; }

  void AddViewer(DisplayViewer& viewer) {
    views_.push_back({&viewer, DirtyRegion(), true, true, true});
    views_.back().dirty = DirtyRegion(frame_.width, frame_.height);
    views_.back().dirty.AddAll();
    Tell(views_.back());
    if (channel_ != nullptr) channel_->Wake();
  }
  void RemoveViewer(DisplayViewer& viewer) {
    std::erase_if(views_, [&](const View& view) { return view.viewer == &viewer; });
    if (channel_ != nullptr) channel_->Wake();
  }
  DisplayChanges TakeChanges(DisplayViewer& viewer) {
    DisplayChanges changes;
    for (View& view : views_) {
      if (view.viewer != &viewer) continue;
      if (!protocol_.tells_dirt) view.dirty.AddAll();
      changes = {view.has_new_frame, view.dirty.Rectangles(), view.has_new_place, view.has_new_image};
      view.has_new_frame = view.has_new_place = view.has_new_image = view.is_told = false;
      view.dirty.Clear();
    }
    return changes;
  }

  void SetPaused(bool paused) {
    is_paused_ = paused;
    if (!paused && channel_ != nullptr) channel_->Wake();
  }

  VideoState state() const { return {protocol_, picture_}; }
  absl::Status Restore(state::StateReader& reader) {
    VideoState state;
    RETURN_IF_ERROR(reader.Read(state));
    RETURN_IF_ERROR(CheckProtocol(state.protocol, reader));
    const Picture& picture = state.picture;
    if (picture.image_width > wire::kMaxPointerSide || picture.image_height > wire::kMaxPointerSide ||
        picture.image.size() != size_t{4} * picture.image_width * picture.image_height) {
      return reader.Invalid("picture.image", "not an image of its size");
    }
    protocol_ = std::move(state.protocol);
    picture_ = std::move(state.picture);
    ShowAll();
    return absl::OkStatus();
  }
  void Reset() {
    protocol_ = {};
    picture_ = {};
    ShowAll();
  }

 private:
  // What a viewer has not taken yet.
  struct View {
    DisplayViewer* viewer;
    DirtyRegion dirty;
    bool has_new_frame, has_new_place, has_new_image;
    bool is_told = false;
  };

  static void Tell(View& view) {
    if (!std::exchange(view.is_told, true)) view.viewer->OnChange();
  }

  static absl::Status CheckProtocol(const Protocol& protocol, const state::StateReader& reader) {
    if (protocol.phase > Phase::kReady) return reader.Invalid("protocol.phase", "unknown");
    if (protocol.answer > Answer::kCapability) return reader.Invalid("protocol.answer", "unknown");
    const bool is_ready = protocol.phase == Phase::kReady;
    if (is_ready && !IsKnown(protocol.version))
      return reader.Invalid("protocol.version", "not one that is spoken here");
    if (!is_ready && protocol.answer != Answer::kNone &&
        (protocol.answer != Answer::kVersion || protocol.phase == Phase::kIdle)) {
      return reader.Invalid("protocol.answer", "before there is a version");
    }
    if (!is_ready && (protocol.is_situated || protocol.wants_dirt || protocol.has_parts)) {
      return reader.Invalid("protocol.phase", "too early for what the guest has said");
    }
    wire::PointerShape shape;
    if (protocol.has_parts ? protocol.shape.size() < sizeof(shape) : !protocol.shape.empty()) {
      return reader.Invalid("protocol.shape", "not as long as it has to be");
    }
    if (protocol.has_parts) {
      std::memcpy(&shape, protocol.shape.data(), sizeof(shape));
      if (!IsPossible(shape) || protocol.shape.size() - sizeof(shape) > ImageBytes(shape)) {
        return reader.Invalid("protocol.shape", "no part of an image");
      }
    }
    return absl::OkStatus();
  }

  static bool IsPossible(const wire::PointerShape& shape) {
    return shape.width.get() <= wire::kMaxPointerSide && shape.height.get() <= wire::kMaxPointerSide;
  }
  bool Holds(const wire::Resolution& resolution) const {
    return uint64_t{4} * resolution.width * resolution.height <= options_.vram.size_bytes;
  }

  // Anew, from picture_: where the frame lies, if anywhere.
  Frame FindFrame() const {
    const Picture& picture = picture_;
    if (!picture.is_active || (picture.depth_bits != 32 && picture.depth_bits != 16)) return {};
    Frame frame{.width = picture.width, .height = picture.height, .stride_bytes = picture.stride_bytes};
    if (picture.depth_bits == 16) frame.format = PixelFormat::kRgb565;
    const uint64_t row_bytes = uint64_t{frame.width} * BytesOf(frame.format);
    if (frame.width == 0 || frame.height == 0 || frame.width > DirtyRegion::kMaxWidth ||
        frame.height > DirtyRegion::kMaxHeight || frame.stride_bytes < row_bytes) {
      return {};
    }
    const uint64_t vram_gpa = picture.has_vram ? picture.vram_gpa : options_.vram.gpa;
    if (vram_gpa > ~uint64_t{picture.offset_bytes}) return {};
    frame.pixels =
        memory_.Pointer(vram_gpa + picture.offset_bytes, uint64_t{frame.stride_bytes} * (frame.height - 1) + row_bytes);
    return frame.pixels == nullptr ? Frame{} : frame;
  }
  void ShowFrame(bool is_new) {
    const Frame found = FindFrame();
    if (!is_new && found == frame_) return;
    frame_ = found;
    for (View& view : views_) {
      view.has_new_frame = true;
      view.dirty = DirtyRegion(frame_.width, frame_.height);
      view.dirty.AddAll();
      Tell(view);
    }
  }
  void ShowPlace() {
    for (View& view : views_) {
      view.has_new_place = true;
      Tell(view);
    }
  }
  void ShowImage() {
    image_ = {picture_.image_width, picture_.image_height, picture_.hot_x, picture_.hot_y, picture_.image};
    for (View& view : views_) {
      view.has_new_image = true;
      Tell(view);
    }
  }
  void ShowAll() {
    ShowFrame(/*is_new=*/true);
    ShowPlace();
    ShowImage();
  }

  // PacketPump.
  bool OnOpen(vmbus::Channel& channel) override {
    if (!PacketPump::OnOpen(channel)) return false;
    protocol_ = {.phase = Phase::kVersion};
    return true;
  }
  void OnClosing(vmbus::Channel&) override {
    protocol_ = {};
    FinishClose();
  }

  Take OnTurn() override {
    if (is_paused_) return Take::kNoMore;
    if (protocol_.answer != Answer::kNone) {
      if (!SendAnswer()) return Take::kNoMore;
      protocol_.answer = Answer::kNone;
    }
    const bool wants_dirt = !views_.empty();
    if (protocol_.is_situated && protocol_.wants_dirt != wants_dirt) {
      const uint8_t wants = wants_dirt;
      const wire::FeatureChange change{wants, wants, wants, 1};
      if (!SendMessage(MessageType::kFeatureChange, &change, sizeof(change))) return Take::kNoMore;
      protocol_.wants_dirt = wants_dirt;
      protocol_.tells_dirt = false;
    }
    return Take::kMore;
  }

  bool SendMessage(MessageType type, const void* body, size_t size_bytes) {
    std::array<uint8_t,
               kHeaderBytes + sizeof(wire::ResolutionsResponse) + wire::kMaxResolutions * sizeof(wire::Resolution)>
        message;
    const auto bytes = static_cast<uint32_t>(sizeof(wire::Header) + size_bytes);
    const wire::PipeHeader pipe{.type = wire::kPipeData, .size_bytes = bytes};
    const wire::Header header{.type = type, .size_bytes = bytes};
    std::memcpy(message.data(), &pipe, sizeof(pipe));
    std::memcpy(message.data() + sizeof(pipe), &header, sizeof(header));
    std::memcpy(message.data() + kHeaderBytes, body, size_bytes);
    return Send(vmbus::PacketHeader::InBand(/*transaction_id=*/0, /*completion_requested=*/false), message.data(),
                static_cast<uint32_t>(sizeof(pipe)) + bytes);
  }

  bool SendAnswer() {
    const wire::Ack ack{.user_context = protocol_.context};
    switch (protocol_.answer) {
      case Answer::kVersion: {
        const wire::VersionResponse response{
            .version = wire::Unaligned<uint32_t>::Of(static_cast<uint32_t>(protocol_.version)),
            .is_accepted = protocol_.phase == Phase::kReady,
            .max_outputs = 1};
        return SendMessage(MessageType::kVersionResponse, &response, sizeof(response));
      }
      case Answer::kVramLocation:
        return SendMessage(MessageType::kVramLocationAck, &ack, sizeof(ack));
      case Answer::kSituation:
        return SendMessage(MessageType::kSituationAck, &ack, sizeof(ack));
      case Answer::kBiosInfo: {
        const wire::BiosInfoResponse response{};
        return SendMessage(MessageType::kBiosInfoResponse, &response, sizeof(response));
      }
      case Answer::kResolutions:
        return SendResolutions();
      case Answer::kCapability: {
        const wire::CapabilityResponse response{};
        return SendMessage(MessageType::kCapabilityResponse, &response, sizeof(response));
      }
      case Answer::kNone:
        break;
    }
    return true;
  }

  // The wanted one first, so that a guest which takes few has that one, and then the others that its memory holds.
  bool SendResolutions() {
    wire::ResolutionsResponse head{};
    const wire::Resolution wanted{static_cast<uint16_t>(options_.width), static_cast<uint16_t>(options_.height)};
    const std::array<uint8_t, wire::kEdidBytes> edid = MakeEdid(options_.width, options_.height);
    std::memcpy(head.edid, edid.data(), edid.size());
    std::vector<wire::Resolution> all;
    const auto add = [&](const wire::Resolution& resolution) {
      if (all.size() < std::min<size_t>(protocol_.resolutions, wire::kMaxResolutions)) all.push_back(resolution);
    };
    add(wanted);
    for (const wire::Resolution& resolution : kResolutions) {
      const bool is_wanted = resolution.width == wanted.width && resolution.height == wanted.height;
      if (!is_wanted && Holds(resolution)) add(resolution);
    }
    head.count = static_cast<uint8_t>(all.size());
    std::vector<uint8_t> body(sizeof(head) + all.size() * sizeof(wire::Resolution));
    std::memcpy(body.data(), &head, sizeof(head));
    if (!all.empty()) std::memcpy(body.data() + sizeof(head), all.data(), all.size() * sizeof(wire::Resolution));
    return SendMessage(MessageType::kResolutionsResponse, body.data(), body.size());
  }

  template <typename Message>
  static bool Read(absl::Span<const uint8_t>& from, Message& message) {
    if (from.size() < sizeof(message)) return false;
    std::memcpy(&message, from.data(), sizeof(message));
    from.remove_prefix(sizeof(message));
    return true;
  }

  Take OnPacket(const vmbus::Packet& packet) override {
    wire::PipeHeader pipe;
    wire::Header header;
    absl::Span<const uint8_t> body(packet.payload, packet.payload_size);
    if (packet.type != hvdef::PacketType::kDataInBand || !Read(body, pipe) || pipe.type != wire::kPipeData ||
        pipe.size_bytes > body.size() || pipe.size_bytes < sizeof(header)) {
      return Take::kMalformed;
    }
    body = body.first(pipe.size_bytes);
    (void)Read(body, header);
    if (header.type == MessageType::kVersionRequest) return OnVersionRequest(body);
    if (protocol_.phase != Phase::kReady) return Take::kMalformed;
    switch (header.type) {
      case MessageType::kVramLocation:
        return OnVramLocation(body);
      case MessageType::kSituation:
        return OnSituation(body);
      case MessageType::kPointerPosition:
        return OnPointerPosition(body);
      case MessageType::kPointerShape:
        return OnPointerShape(body);
      case MessageType::kDirt:
        return OnDirt(body);
      case MessageType::kBiosInfoRequest:
        return Owe(Answer::kBiosInfo);
      case MessageType::kResolutionsRequest: {
        wire::ResolutionsRequest request;
        if (!Read(body, request)) return Take::kMalformed;
        protocol_.resolutions = request.max_count;
        return Owe(Answer::kResolutions);
      }
      case MessageType::kCapabilityRequest:
        return Owe(Answer::kCapability);
      default:
        return Take::kMore;  // what later versions may say
    }
  }

  // Nothing more is read before the guest has its answer.
  Take Owe(Answer answer, uint64_t context = 0) {
    protocol_.answer = answer;
    protocol_.context = context;
    return Take::kNoMore;
  }

  Take OnVersionRequest(absl::Span<const uint8_t> body) {
    wire::VersionRequest request;
    if (!Read(body, request)) return Take::kMalformed;
    protocol_ = {.phase = IsKnown(request.version) ? Phase::kReady : Phase::kVersion, .version = request.version};
    return Owe(Answer::kVersion);
  }

  Take OnVramLocation(absl::Span<const uint8_t> body) {
    wire::VramLocation location;
    if (!Read(body, location)) return Take::kMalformed;
    const uint64_t context = location.user_context.get();
    if (location.has_gpa != 0 && memory_.Pointer(location.gpa.get() & ~(kPageSize - 1), kPageSize) == nullptr) {
      return Owe(Answer::kVramLocation, ~context);
    }
    picture_.has_vram = location.has_gpa != 0;
    picture_.vram_gpa = location.has_gpa != 0 ? location.gpa.get() : 0;
    ShowFrame(/*is_new=*/false);
    return Owe(Answer::kVramLocation, context);
  }

  Take OnSituation(absl::Span<const uint8_t> body) {
    wire::Situation situation;
    if (!Read(body, situation)) return Take::kMalformed;
    const wire::Output& output = situation.output;
    picture_.is_active = situation.output_count != 0 && output.is_active != 0;
    picture_.depth_bits = output.depth_bits;
    picture_.offset_bytes = output.offset_bytes.get();
    picture_.width = output.width.get();
    picture_.height = output.height.get();
    picture_.stride_bytes = output.stride_bytes.get();
    protocol_.is_situated = true;
    ShowFrame(/*is_new=*/false);
    return Owe(Answer::kSituation, situation.user_context.get());
  }

  Take OnPointerPosition(absl::Span<const uint8_t> body) {
    wire::PointerPosition position;
    if (!Read(body, position)) return Take::kMalformed;
    picture_.is_visible = position.is_visible != 0;
    picture_.x = position.x.get();
    picture_.y = position.y.get();
    ShowPlace();
    return Take::kMore;
  }

  // A part that does not follow the last is dropped, with those before it.
  Take OnPointerShape(absl::Span<const uint8_t> body) {
    wire::PointerShape shape;
    if (!Read(body, shape)) return Take::kMalformed;
    const bool is_last = shape.part == wire::kLastPointerPart,
               is_first = is_last ? !protocol_.has_parts : shape.part == 0;
    if (is_first) {
      protocol_.shape.assign(sizeof(shape), 0);
      std::memcpy(protocol_.shape.data(), &shape, sizeof(shape));
      protocol_.has_parts = true;
      protocol_.next_part = 0;
    }
    wire::PointerShape first{};
    if (protocol_.has_parts) std::memcpy(&first, protocol_.shape.data(), sizeof(first));
    if (!protocol_.has_parts || !IsPossible(first) || (!is_last && shape.part != protocol_.next_part)) {
      DropParts();
      return Take::kMore;
    }
    const size_t have = protocol_.shape.size() - sizeof(first);
    const size_t more = std::min(body.size(), ImageBytes(first) - have);
    protocol_.shape.insert(protocol_.shape.end(), body.begin(), body.begin() + more);
    ++protocol_.next_part;
    if (!is_last) return Take::kMore;
    if (have + more == ImageBytes(first)) {
      picture_.image_width = first.width.get();
      picture_.image_height = first.height.get();
      picture_.hot_x = std::min(first.hot_x.get(), wire::kMaxPointerSide);
      picture_.hot_y = std::min(first.hot_y.get(), wire::kMaxPointerSide);
      picture_.image = PixelsOf(first, protocol_.shape.data() + sizeof(first));
      ShowImage();
    }
    DropParts();
    return Take::kMore;
  }
  void DropParts() {
    protocol_.has_parts = false;
    protocol_.next_part = 0;
    protocol_.shape.clear();
  }

  Take OnDirt(absl::Span<const uint8_t> body) {
    wire::Dirt dirt;
    if (!Read(body, dirt) || body.size() < size_t{dirt.count} * sizeof(wire::Rectangle)) return Take::kMalformed;
    AddWork(dirt.count);
    // What it drew before it knew that somebody looks, it has not told.
    const bool is_first = protocol_.wants_dirt && !std::exchange(protocol_.tells_dirt, true);
    for (View& view : views_) {
      if (is_first) view.dirty.AddAll();
    }
    for (uint32_t i = 0; i < dirt.count; ++i) {
      wire::Rectangle rectangle;
      (void)Read(body, rectangle);
      const uint32_t left = std::max(rectangle.left.get(), 0), top = std::max(rectangle.top.get(), 0);
      const uint32_t right = std::max(rectangle.right.get(), 0), bottom = std::max(rectangle.bottom.get(), 0);
      if (left >= right || top >= bottom) continue;
      for (View& view : views_) view.dirty.Add({left, top, right - left, bottom - top});
    }
    for (View& view : views_) {
      if (!view.dirty.empty()) Tell(view);
    }
    return Take::kMore;
  }

  GuestMemory& memory_;
  const VideoOptions options_;
  Protocol protocol_;
  Picture picture_;
  Frame frame_;         // as picture_ says
  PointerImage image_;  // likewise
  std::vector<View> views_;
  bool is_paused_ = false;
  std::unique_ptr<vmbus::Channel> channel_;  // last: it is gone before the rest
};

absl::StatusOr<std::unique_ptr<Video>> Video::Create(vmbus::Server& server, GuestMemory& memory, Executor& executor,
                                                     const VideoOptions& options) {
  auto core = std::make_unique<Core>(memory, options);
  RETURN_IF_ERROR(core->Offer(server, executor));
  return std::unique_ptr<Video>(new Video(std::move(core)));
}

Video::Video(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Video::~Video() = default;

VideoStatus Video::status() const { return core_->status(); }
void Video::AddViewer(DisplayViewer& viewer) { core_->AddViewer(viewer); }
void Video::RemoveViewer(DisplayViewer& viewer) { core_->RemoveViewer(viewer); }
Frame Video::frame() const { return core_->frame(); }
PointerPlace Video::pointer_place() const { return core_->pointer_place(); }
const PointerImage& Video::pointer_image() const { return core_->pointer_image(); }
DisplayChanges Video::TakeChanges(DisplayViewer& viewer) { return core_->TakeChanges(viewer); }
void Video::Pause() { core_->SetPaused(true); }
void Video::Resume() { core_->SetPaused(false); }

absl::Status Video::Save(state::StateWriter& writer) const {
  VideoState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status Video::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void Video::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp

// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/balloon.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/executor_timer.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/memory/page_set.h"
#include "hvsdk/vmbus/packet_pump.h"
#include "vsp/why_closed.h"

namespace hvsdk::vsp {

namespace wire = hvdef::dynamic_memory;
using vmbus::Take;
using wire::MessageType;
using wire::Version;

namespace {

constexpr hvdef::Guid kInstance = hvdef::MakeGuid("1eccfd72-4b41-45ef-b73a-4a6e44c12924");

// In pages. What comes back at once is zapped in one go, on the executor; and what Linux gets at once it frees in its interrupt.
constexpr uint64_t kMostAsked = (256 << 20) >> kPageShift;
constexpr uint64_t kMostGivenBack = (128 << 20) >> kPageShift;
// A block of Linux', at the least; none of ours reaches over the end of one, so that an answer takes it once the 5 s that it gives its
// user programs to bring a block into use (drivers/hv/hv_balloon.c, hv_mem_hot_add).
constexpr uint64_t kMostAdded = (128 << 20) >> kPageShift;
// A guest that has given nothing is asked again so often, after so long: Linux does not try hard, and memory that it could have
// given may just have been in use.
constexpr uint32_t kMostInVain = 4;
constexpr std::chrono::milliseconds kRest{400};
// Linux before 5.0 rounds what it gives up to whole pieces of this.
constexpr uint64_t kPiece = (2 << 20) >> kPageShift;

enum class Phase : uint8_t {
  kIdle,
  kVersion,       // the guest asks for one
  kCapabilities,  // and tells them
  kReady,
  kRefused,  // no version in common
  kBroken,   // it has said what makes no sense, and is neither heard nor asked until it closes the channel
};

// What the guest is owed before anything else of it is read.
enum class Answer : uint8_t { kNone, kAcceptVersion, kRefuseVersion, kAcceptCapabilities };

// What the guest has been asked, and has not answered yet.
enum class Operation : uint8_t { kNone, kInflating, kDeflating, kAdding };

struct Protocol {
  Phase phase = Phase::kIdle;
  Answer answer = Answer::kNone;
  Operation operation = Operation::kNone;
  Version version = Version::kNone;
  uint64_t capabilities = 0;
  uint32_t transaction_id = 0;
  // Of kInflating and kAdding.
  uint64_t asked = 0, given = 0;
  uint32_t in_vain = 0;     // how many of these in a row brought nothing
  bool is_seeking = false;  // the target
  uint64_t target = 0;
  bool has_report = false;
  uint64_t available = 0, committed = 0;
  bool is_full = false;  // it takes no more memory, for good

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "phase", phase);
    visit(2, "answer", answer);
    visit(3, "operation", operation);
    visit(4, "version", version);
    visit(5, "capabilities", capabilities);
    visit(6, "transaction_id", transaction_id);
    visit(7, "asked", asked);
    visit(8, "given", given);
    visit(9, "is_seeking", is_seeking);
    visit(10, "target", target);
    visit(11, "has_report", has_report);
    visit(12, "available", available);
    visit(13, "committed", committed);
    visit(14, "in_vain", in_vain);
    visit(15, "is_full", is_full);
  }
};

struct BalloonState {
  static constexpr uint32_t kSchema = 1;
  Protocol protocol;
  // Pages that the guest has given up: bit n of byte m is page 8 m + n; without zeros at the end.
  std::vector<uint8_t> ballooned;
  uint64_t added = 0;  // pages, from the first that there is room for on

  template <typename Visitor>
  void Fields(Visitor& visit) {
    visit(1, "protocol", protocol);
    visit(2, "ballooned", ballooned);
    visit(3, "added", added);
  }
};

bool IsKnown(Version version) {
  return std::find(std::begin(wire::kVersions), std::end(wire::kVersions), version) != std::end(wire::kVersions);
}

uint64_t MiB(uint64_t pages) { return pages << kPageShift >> 20; }

}  // namespace

class Balloon::Core final : private vmbus::PacketPump {
 public:
  Core(GuestMemory& memory, const IntegrationResources& resources, BalloonOptions options)
      : PacketPump({.max_packet_bytes = wire::kMaxMessageBytes}),
        memory_(memory),
        options_(std::move(options)),
        first_pages_((memory.size_bytes() - options_.device_bytes) >> kPageShift),
        late_(resources.timers, resources.clock, resources.executor, [this] { OnLate(); }),
        too_slow_(resources.timers, resources.clock, resources.executor, [this] { OnTooSlow(); }),
        rest_(resources.timers, resources.clock, resources.executor, [this] { TakeTurn(); }) {
    for (const GuestMemory::Range& range : memory.ranges()) {
      if (!IsDevice(range)) first_end_ = std::max(first_end_, (range.gpa + range.size_bytes) >> kPageShift);
    }
    ballooned_ = PageSet(first_end_);
    state_.target = memory_pages();
  }
  ~Core() override {
    channel_.reset();
    Finish(absl::CancelledError("the machine has ended"));
  }

  absl::Status Offer(vmbus::Server& server, Executor& executor) {
    vmbus::Offer offer;
    offer.class_id = hvdef::class_id::kDynamicMemory;
    offer.instance_id = kInstance;
    ASSIGN_OR_RETURN(channel_, server.OfferChannel(offer, *this, executor));
    return absl::OkStatus();
  }

  void SetTarget(const BalloonTarget& target, Done done) {
    if (target.pages < options_.min_pages || target.pages > max_pages()) {
      return done(absl::InvalidArgumentError(absl::StrFormat("%d MiB is not between %d and %d MiB", MiB(target.pages),
                                                             MiB(options_.min_pages), MiB(max_pages()))));
    }
    if (state_.phase != Phase::kReady || (state_.capabilities & wire::kCanBalloon) == 0) {
      return done(absl::FailedPreconditionError("the guest has no driver that gives memory up"));
    }
    state_.target = target.pages;
    state_.is_seeking = true;
    state_.in_vain = 0;
    rest_.Cancel();
    answer_within_ = target.answer_within;
    Done earlier = std::exchange(done_, std::move(done));
    late_.ArmIn(answer_within_);
    too_slow_.Cancel();
    if (target.within.count() != 0) too_slow_.ArmIn(target.within);
    channel_->Wake();
    // Last: who is told may set another one.
    if (earlier) earlier(absl::AbortedError("another target was set"));
  }

  BalloonStatus status() const {
    BalloonStatus status{.version = state_.phase == Phase::kReady ? state_.version : Version::kNone,
                         .memory = memory_pages(),
                         .max = max_pages(),
                         .assigned = assigned(),
                         .promised = assigned() + (state_.operation == Operation::kAdding ? state_.asked : 0),
                         .target = state_.target,
                         .has_report = state_.has_report,
                         .available = state_.available};
    // More than the machine has is nothing that it could be given.
    const uint64_t demand = state_.committed > ballooned_count_ ? state_.committed - ballooned_count_ : 0;
    status.demand = std::min(demand, 100 * max_pages());
    return status;
  }

  void Pause() {
    is_paused_ = true;
    rest_.Cancel();
    late_.Pause();
    too_slow_.Pause();
  }
  void Resume() {
    is_paused_ = false;
    if (channel_ != nullptr) channel_->Wake();
    late_.Resume();
    too_slow_.Resume();
  }

  BalloonState state() const {
    BalloonState state{.protocol = state_, .added = added_};
    const absl::Span<const uint64_t> words = ballooned_.words();
    size_t used = words.size();
    while (used != 0 && words[used - 1] == 0) --used;
    for (size_t i = 0; i < used; ++i) {
      for (int shift = 0; shift < 64; shift += 8) state.ballooned.push_back(static_cast<uint8_t>(words[i] >> shift));
    }
    while (!state.ballooned.empty() && state.ballooned.back() == 0) state.ballooned.pop_back();
    return state;
  }

  absl::Status Restore(state::StateReader& reader) {
    BalloonState state;
    RETURN_IF_ERROR(reader.Read(state));
    const Protocol& protocol = state.protocol;
    if (protocol.phase > Phase::kBroken) return reader.Invalid("protocol.phase", "unknown");
    if (protocol.answer > Answer::kAcceptCapabilities) return reader.Invalid("protocol.answer", "unknown");
    if (protocol.operation > Operation::kAdding) return reader.Invalid("protocol.operation", "unknown");
    const bool is_ready = protocol.phase == Phase::kReady;
    const bool has_version = is_ready || protocol.phase == Phase::kCapabilities;
    if (has_version ? !IsKnown(protocol.version) : protocol.version != Version::kNone) {
      return reader.Invalid("protocol.version", "not one that this phase has");
    }
    const Phase answers[] = {protocol.phase, Phase::kCapabilities, protocol.phase, Phase::kReady};
    if (protocol.phase != answers[static_cast<size_t>(protocol.answer)] ||
        (protocol.answer == Answer::kRefuseVersion && protocol.phase != Phase::kVersion &&
         protocol.phase != Phase::kRefused)) {
      return reader.Invalid("protocol.answer", "not one that this phase has");
    }
    if (!is_ready && (protocol.operation != Operation::kNone || protocol.is_seeking)) {
      return reader.Invalid("protocol.operation", "before the guest is ready");
    }
    if (state.added > options_.growth.pages) return reader.Invalid("added", "more than there is room for");
    const uint64_t added_end = state.added + (protocol.operation == Operation::kAdding ? protocol.asked : 0);
    if (added_end > options_.growth.pages || (added_end != 0 && !HasGrown(added_end))) {
      return reader.Invalid("added", "more than the machine's memory has grown by");
    }
    if (protocol.target < options_.min_pages || protocol.target > max_pages()) {
      return reader.Invalid("protocol.target", "not what this machine may have");
    }
    if (protocol.asked > kMostAsked || protocol.given >= protocol.asked + kPiece) {
      return reader.Invalid("protocol.asked", "more than is ever asked for");
    }
    if (protocol.in_vain >= kMostInVain) return reader.Invalid("protocol.in_vain", "more often than it ever is");
    PageSet ballooned(EndOf(state.added));
    if (!state.ballooned.empty() && state.ballooned.back() == 0) return reader.Invalid("ballooned", "zeros at its end");
    for (uint64_t byte = 0; byte < state.ballooned.size(); ++byte) {
      for (uint64_t bit = 0; bit < 8; ++bit) {
        if ((state.ballooned[byte] >> bit & 1) == 0) continue;
        if (!IsMemory(byte * 8 + bit, 1, state.added)) return reader.Invalid("ballooned", "a page that is not memory");
        ballooned.Add(byte * 8 + bit);
      }
    }
    const uint64_t count = ballooned.Count();
    if (!is_ready && protocol.phase != Phase::kBroken && count != 0)
      return reader.Invalid("ballooned", "before the guest is ready");
    state_ = protocol;
    added_ = state.added;
    ballooned_ = std::move(ballooned);
    ballooned_count_ = count;
    TellBudget();
    return absl::OkStatus();
  }

  // What was added is no memory any more.
  void Reset() {
    added_ = 0;
    ballooned_ = PageSet(first_end_);
    Forget();
    Finish(absl::CancelledError("the machine was reset"));
  }

 private:
  bool IsDevice(const GuestMemory::Range& range) const {
    return options_.device_bytes != 0 && range.gpa == options_.device_gpa;
  }
  uint64_t memory_pages() const { return first_pages_ + added_; }
  uint64_t max_pages() const { return first_pages_ + options_.growth.pages; }
  uint64_t assigned() const { return memory_pages() - ballooned_count_; }
  // Whether so many pages of the room to grow are the machine's.
  bool HasGrown(uint64_t pages) const {
    return memory_.Pointer((options_.growth.first_page + pages - 1) << kPageShift, kPageSize) != nullptr;
  }
  // Behind the last page of the guest's.
  uint64_t EndOf(uint64_t added) const { return added == 0 ? first_end_ : options_.growth.first_page + added; }

  // Whatever the guest's driver was told, there is another one now, or none.
  void Forget() {
    state_ = {.target = memory_pages()};
    rest_.Cancel();
    ballooned_.Clear();
    ballooned_count_ = 0;
    TellBudget();
  }
  void Finish(const absl::Status& status) {
    late_.Cancel();
    too_slow_.Cancel();
    if (done_) std::exchange(done_, nullptr)(status);
  }
  // Nobody waits any more; the target stays.
  void OnLate() { Finish(absl::DeadlineExceededError("the guest does not answer")); }
  void OnTooSlow() {
    Finish(absl::DeadlineExceededError(absl::StrFormat("the guest is too slow: it has %d MiB", MiB(assigned()))));
  }

  // PacketPump.
  bool OnOpen(vmbus::Channel& channel) override {
    if (!PacketPump::OnOpen(channel)) return false;
    Forget();
    state_.phase = Phase::kVersion;
    return true;
  }
  void OnClosing(vmbus::Channel& channel) override {
    TakeAsAdded();
    Forget();
    FinishClose();
    Finish(WhyClosed(channel));
  }

  Take OnTurn() override {
    if (is_paused_) return Take::kNoMore;
    if (state_.answer != Answer::kNone) {
      if (!SendAnswer()) return Take::kNoMore;
      state_.answer = Answer::kNone;
    }
    const bool is_free = state_.phase == Phase::kReady && state_.operation == Operation::kNone;
    if (is_free && state_.is_seeking && !rest_.is_armed()) Seek();
    return Take::kMore;
  }

  // A message's header in front of what the caller has written behind it.
  bool SendMessage(MessageType type, void* message, size_t size_bytes) {
    const wire::Header header{
        .type = type, .size_bytes = static_cast<uint16_t>(size_bytes), .transaction_id = state_.transaction_id + 1};
    std::memcpy(message, &header, sizeof(header));
    if (!Send(vmbus::PacketHeader::InBand(/*transaction_id=*/0, /*completion_requested=*/false), message,
              static_cast<uint32_t>(size_bytes))) {
      return false;
    }
    ++state_.transaction_id;
    return true;
  }

  bool SendAnswer() {
    wire::Response response{.is_accepted = state_.answer != Answer::kRefuseVersion};
    return SendMessage(state_.answer == Answer::kAcceptCapabilities ? MessageType::kCapabilitiesResponse
                                                                    : MessageType::kVersionResponse,
                       &response, sizeof(response));
  }

  // Asks the guest for what brings it nearer to the target.
  void Seek() {
    if (assigned() > state_.target) {
      const uint64_t pages = std::min(assigned() - state_.target, kMostAsked);
      wire::BalloonRequest request{.pages = static_cast<uint32_t>(pages)};
      if (!SendMessage(MessageType::kBalloonRequest, &request, sizeof(request))) return;
      state_.operation = Operation::kInflating;
      state_.asked = pages;
      state_.given = 0;
    } else if (assigned() < state_.target && ballooned_count_ != 0) {
      GiveBack(std::min({state_.target - assigned(), kMostGivenBack, ballooned_count_}));
    } else if (assigned() < state_.target) {
      Add(state_.target - assigned());
    } else {
      state_.is_seeking = false;
      Finish(absl::OkStatus());
    }
  }

  // From the bottom up. The guest may use them as soon as it reads this.
  void GiveBack(uint64_t pages) {
    pages = Claim(pages);
    if (pages == 0) return;
    struct {
      wire::UnballoonRequest request;
      wire::PageRange ranges[wire::kMaxUnballoonRanges];
    } message{};
    uint32_t& count = message.request.range_count;
    ballooned_.ForEachRun([&](uint64_t first, uint64_t run) {
      for (uint64_t left = std::min(run, pages); left != 0 && count < wire::kMaxUnballoonRanges;) {
        const uint64_t piece = std::min(left, wire::PageRange::kMaxCount);
        message.ranges[count++] = wire::PageRange::Make(first, piece);
        first += piece;
        left -= piece;
        pages -= piece;
      }
      return pages != 0 && count < wire::kMaxUnballoonRanges;
    });
    if (!SendMessage(MessageType::kUnballoonRequest, &message,
                     sizeof(message.request) + count * sizeof(wire::PageRange))) {
      return TellBudget();
    }
    state_.operation = Operation::kDeflating;
    for (uint32_t i = 0; i < count; ++i) {
      ballooned_.RemoveRun(message.ranges[i].first(), message.ranges[i].count());
      ballooned_count_ -= message.ranges[i].count();
    }
    TellBudget();
  }

  // What follows on what it was told of before.
  void Add(uint64_t pages) {
    if ((state_.capabilities & wire::kCanHotAdd) == 0 || state_.is_full) {
      return GiveUp(absl::FailedPreconditionError(
          absl::StrFormat("the guest takes no more memory: it has %d MiB", MiB(assigned()))));
    }
    pages = Claim(std::min(pages, kMostAdded - added_ % kMostAdded));
    if (pages == 0) return;
    if (const absl::Status status = options_.growth.grow(added_ + pages); !status.ok()) {
      TellBudget();
      return GiveUp(status);
    }
    wire::HotAddRequest request{.range = wire::PageRange::Make(options_.growth.first_page + added_, pages)};
    if (!SendMessage(MessageType::kHotAddRequest, &request, sizeof(request))) return TellBudget();
    state_.operation = Operation::kAdding;
    state_.asked = pages;
    state_.given = 0;
  }

  void Added(uint64_t pages) {
    added_ += pages;
    ballooned_.Grow(EndOf(added_));
  }

  // What the guest has been told of and will not answer any more may be in use.
  void TakeAsAdded() {
    if (state_.operation == Operation::kAdding) Added(state_.asked);
  }

  // Of pages that the guest is to get, those that it may; none: it goes on with what it has.
  uint64_t Claim(uint64_t pages) {
    if (options_.budget == nullptr) return pages;
    pages = std::min(pages, options_.budget->Take(pages));
    if (pages == 0) {
      GiveUp(absl::ResourceExhaustedError(
          absl::StrFormat("the host has no more memory for the guest: it has %d MiB", MiB(assigned()))));
    }
    return pages;
  }
  void TellBudget() {
    if (options_.budget != nullptr) options_.budget->OnChange(status());
  }

  // It goes on with what it has.
  void GiveUp(const absl::Status& status) {
    state_.in_vain = 0;
    state_.is_seeking = false;
    state_.target = assigned();
    Finish(status);
  }

  // What makes no sense now might later, after another request; so it is remembered that it made none.
  Take Break() {
    TakeAsAdded();
    state_.phase = Phase::kBroken;
    state_.operation = Operation::kNone;
    state_.version = Version::kNone;
    state_.is_seeking = false;
    rest_.Cancel();
    Finish(absl::FailedPreconditionError("the guest's driver has broken the protocol"));
    return Take::kMalformed;
  }
  Take OnLongPacket(const vmbus::Packet&) override { return Break(); }
  Take OnPacket(const vmbus::Packet& packet) override {
    if (state_.phase == Phase::kBroken) return Take::kMalformed;
    const Take take = TakeMessage(packet);
    return take == Take::kMalformed ? Break() : take;
  }

  Take TakeMessage(const vmbus::Packet& packet) {
    wire::Header header;
    if (packet.type != hvdef::PacketType::kDataInBand || packet.payload_size < sizeof(header)) return Take::kMalformed;
    std::memcpy(&header, packet.payload, sizeof(header));
    if (header.size_bytes < sizeof(header) || header.size_bytes > packet.payload_size) return Take::kMalformed;
    const absl::Span<const uint8_t> message(packet.payload, header.size_bytes);
    switch (header.type) {
      case MessageType::kVersionRequest:
        return OnVersionRequest(message);
      case MessageType::kCapabilitiesReport:
        return OnCapabilities(message);
      case MessageType::kStatusReport:
        return OnStatus(message);
      case MessageType::kBalloonResponse:
        return OnBallooned(message);
      case MessageType::kUnballoonResponse:
        if (state_.operation != Operation::kDeflating) return Take::kMalformed;
        state_.operation = Operation::kNone;
        if (done_) late_.ArmIn(answer_within_);
        return Take::kMore;
      case MessageType::kHotAddResponse:
        return OnAdded(message);
      default:
        return Take::kMore;
    }
  }

  template <typename Message>
  static bool Read(absl::Span<const uint8_t> from, Message& message) {
    if (from.size() < sizeof(message)) return false;
    std::memcpy(&message, from.data(), sizeof(message));
    return true;
  }

  Take OnVersionRequest(absl::Span<const uint8_t> message) {
    wire::VersionRequest request;
    if (state_.phase != Phase::kVersion || !Read(message, request)) return Take::kMalformed;
    if (IsKnown(request.version)) {
      state_.phase = Phase::kCapabilities;
      state_.version = request.version;
      state_.answer = Answer::kAcceptVersion;
    } else {
      if ((request.is_last & 1) != 0) state_.phase = Phase::kRefused;
      state_.answer = Answer::kRefuseVersion;
    }
    return Take::kNoMore;
  }

  Take OnCapabilities(absl::Span<const uint8_t> message) {
    wire::CapabilitiesReport report;
    if (state_.phase != Phase::kCapabilities || !Read(message, report)) return Take::kMalformed;
    state_.phase = Phase::kReady;
    state_.capabilities = report.capabilities;
    state_.answer = Answer::kAcceptCapabilities;
    return Take::kNoMore;
  }

  Take OnStatus(absl::Span<const uint8_t> message) {
    wire::StatusReport report;
    if (!Read(message, report)) return Take::kMalformed;
    if (state_.phase != Phase::kReady) return Take::kMore;
    state_.has_report = true;
    state_.available = report.available;
    state_.committed = report.committed;
    if (options_.budget != nullptr) options_.budget->OnReport(status());
    return Take::kMore;
  }

  bool IsMemory(uint64_t first, uint64_t count, uint64_t added) const {
    const uint64_t end = (first + count) << kPageShift;
    for (uint64_t at = first << kPageShift; at < end;) {
      const GuestMemory::Range* found = nullptr;
      for (const GuestMemory::Range& range : memory_.ranges()) {
        if (!IsDevice(range) && at - range.gpa < range.size_bytes) found = &range;
      }
      if (found == nullptr) return false;
      at = found->gpa + found->size_bytes;
    }
    // The machine's memory has grown in larger pieces than the guest's.
    return count == 0 || first + count <= EndOf(added);
  }

  // All of the message, or nothing.
  Take OnBallooned(absl::Span<const uint8_t> message) {
    wire::BalloonResponse response;
    if (state_.operation != Operation::kInflating || !Read(message, response)) return Take::kMalformed;
    message.remove_prefix(sizeof(response));
    if (response.range_count() > message.size() / sizeof(wire::PageRange)) return Take::kMalformed;
    std::vector<GuestMemory::PageRange> ranges;
    uint64_t total = 0;
    for (uint32_t i = 0; i < response.range_count(); ++i) {
      wire::PageRange range;
      std::memcpy(&range, message.data() + i * sizeof(range), sizeof(range));
      total += range.count();
      if (!IsMemory(range.first(), range.count(), added_)) return Take::kMalformed;
      if (range.count() != 0) ranges.push_back({range.first(), range.count()});
    }
    if (state_.given + total >= state_.asked + kPiece) return Take::kMalformed;
    std::sort(ranges.begin(), ranges.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    uint64_t end = 0;
    for (const GuestMemory::PageRange& range : ranges) {
      if (range.first < end || ballooned_.CountRun(range.first, range.count) != 0) return Take::kMalformed;
      end = range.first + range.count;
    }
    for (const GuestMemory::PageRange& range : ranges) ballooned_.AddRun(range.first, range.count);
    ballooned_count_ += total;
    state_.given += total;
    memory_.Discard(ranges);
    TellBudget();
    AddWork(1 + ranges.size() + total / 64);
    // Who sends answers without a page is as late as who sends none.
    if (done_ && (total != 0 || !response.has_more())) late_.ArmIn(answer_within_);
    if (!response.has_more()) OnInflated();
    return Take::kMore;
  }

  void OnInflated() {
    state_.operation = Operation::kNone;
    state_.in_vain = state_.given == 0 ? state_.in_vain + 1 : 0;
    if (state_.in_vain == 0 || !state_.is_seeking || assigned() <= state_.target) return;
    if (state_.in_vain < kMostInVain) return rest_.ArmIn(kRest);
    GiveUp(absl::FailedPreconditionError(
        absl::StrFormat("the guest gives up no more: it has kept %d MiB", MiB(assigned()))));
  }

  Take OnAdded(absl::Span<const uint8_t> message) {
    wire::HotAddResponse response;
    if (state_.operation != Operation::kAdding || !Read(message, response)) return Take::kMalformed;
    if (response.page_count > state_.asked) return Take::kMalformed;
    Added(response.page_count);
    state_.operation = Operation::kNone;
    TellBudget();
    state_.is_full = response.page_count < state_.asked && (response.is_permanent & 1) != 0;
    state_.in_vain = response.page_count == 0 ? state_.in_vain + 1 : 0;
    if (done_) late_.ArmIn(answer_within_);
    if (state_.in_vain == 0 || state_.is_full || !state_.is_seeking) {
      state_.in_vain = 0;
      return Take::kMore;
    }
    if (state_.in_vain < kMostInVain) {
      rest_.ArmIn(kRest);
    } else {
      GiveUp(absl::FailedPreconditionError(
          absl::StrFormat("the guest takes no more memory now: it has %d MiB", MiB(assigned()))));
    }
    return Take::kMore;
  }

  GuestMemory& memory_;
  const BalloonOptions options_;
  const uint64_t first_pages_;  // that the machine began with
  uint64_t first_end_ = 0;      // behind the last of them
  uint64_t added_ = 0;          // and those that the guest has taken since
  Protocol state_;
  PageSet ballooned_;  // what the guest has given up, by its page numbers
  uint64_t ballooned_count_ = 0;
  bool is_paused_ = false;
  Done done_;
  std::chrono::milliseconds answer_within_{};
  ExecutorTimer late_, too_slow_, rest_;
  std::unique_ptr<vmbus::Channel> channel_;  // last: it is gone before the rest
};

absl::StatusOr<std::unique_ptr<Balloon>> Balloon::Create(vmbus::Server& server, GuestMemory& memory,
                                                         const IntegrationResources& resources,
                                                         BalloonOptions options) {
  auto core = std::make_unique<Core>(memory, resources, std::move(options));
  RETURN_IF_ERROR(core->Offer(server, resources.executor));
  return std::unique_ptr<Balloon>(new Balloon(std::move(core)));
}

Balloon::Balloon(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Balloon::~Balloon() = default;

void Balloon::SetTarget(const BalloonTarget& target, Done done) { core_->SetTarget(target, std::move(done)); }
BalloonStatus Balloon::status() const { return core_->status(); }
void Balloon::Pause() { core_->Pause(); }
void Balloon::Resume() { core_->Resume(); }

absl::Status Balloon::Save(state::StateWriter& writer) const {
  BalloonState state = core_->state();
  writer.Write(state);
  return absl::OkStatus();
}
absl::Status Balloon::Restore(state::StateReader& reader) { return core_->Restore(reader); }
void Balloon::Reset() { core_->Reset(); }

}  // namespace hvsdk::vsp

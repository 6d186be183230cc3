// SPDX-License-Identifier: Apache-2.0
// Sockets by the suite that every component passes. Their guest is nothing but memory: it asks for connections, opens what it is offered,
// or does not, sends and closes. What a restored machine has lost, the other one ends by itself at that moment.

#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/hvdef/socket.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/ring/memory.h"
#include "hvsdk/vmbus/ring/writer.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsp/socket.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/child_messages.h"

namespace hvsdk::vsp {
namespace {

// Takes all, and gives it back.
class EchoStream final : public SocketStream {
 public:
  void OnOpen(SocketWaker& waker) override { waker_ = &waker; }
  SocketTransfer Read(absl::Span<uint8_t> to) override {
    const size_t size = std::min(to.size(), bytes_.size());
    std::memcpy(to.data(), bytes_.data(), size);
    bytes_.erase(0, size);
    return {.bytes = size,
            .state = has_ended_ && bytes_.empty() ? SocketTransfer::State::kEnded : SocketTransfer::State::kOpen};
  }
  SocketTransfer Write(absl::Span<const uint8_t> from) override {
    bytes_.append(reinterpret_cast<const char*>(from.data()), from.size());
    return {.bytes = from.size()};
  }
  void OnGuestEnded() override { has_ended_ = true, waker_->Wake(); }
  void OnClosed(const absl::Status&) override {}

 private:
  std::string bytes_;
  bool has_ended_ = false;
  SocketWaker* waker_ = nullptr;
};

class EchoService final : public SocketService {
 public:
  absl::StatusOr<std::unique_ptr<SocketStream>> Accept(const hvdef::Guid&) override {
    return std::make_unique<EchoStream>();
  }
};

class SocketSubject {
 public:
  SocketSubject() : bytes_((1 + kPlaces * kPagesEach) * kPageSize) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_)).ok());
    EXPECT_TRUE(server_.Start().ok());
    sockets_ = *SocketProvider::Create(server_, {.executor = executor_, .timers = timers_, .clock = clock_},
                                       {.max_connections = 6});
    sockets_->ListenToOthers(&service_);
    executor_.RunUntilIdle();
  }

  state::Component& component() { return *sockets_; }

  // Of all subjects: the histories are not empty.
  static inline int opens = 0, packets = 0, restored_with = 0;

  void CopyWorld(SocketSubject& from) {
    bytes_ = from.bytes_;  // as many, so they stay where they are
    is_connected_ = from.is_connected_;
    places_ = from.places_;
    next_gpadl_ = from.next_gpadl_;
    clock_.Set(from.clock_.Now100ns());
    server_state_ = state::SaveOf(from.server_);
    has_server_state_ = true;
    restored_with += static_cast<int>(from.sockets_->counts().connections);
    from.ends_all_ = true;
  }

  std::string Step(std::mt19937_64& random) {
    std::string seen;
    if (std::exchange(has_server_state_, false)) {
      const absl::Status status = state::RestoreOf(server_, server_state_);
      EXPECT_TRUE(status.ok()) << status;
      executor_.RunUntilIdle();
    }
    if (std::exchange(ends_all_, false)) sockets_->Stop();
    executor_.RunUntilIdle();
    sockets_->Pause();
    sockets_->Resume();
    executor_.RunUntilIdle();
    seen += Take();
    if (!is_connected_) {
      seen += Post("initiate-contact version=5.3 target_vp=0 target=0x2");
      is_connected_ = true;
      seen += Post("request-offers");
    }
    const size_t place = random() % kPlaces;
    switch (random() % 8) {
      case 0:
        sockets_->Pause();  // so that it waits when the state is taken
        [[fallthrough]];
      case 1:
        seen += Post(absl::StrCat("tl-connect-request endpoint=0000000", random() % 5,
                                  "-facb-11e6-bd58-64006a7986d3 service=00000007-facb-11e6-bd58-64006a7986d3"));
        break;
      case 2: {
        const auto port = sockets_->Connect(hvdef::socket::ServiceOfPort(9), std::make_unique<EchoStream>());
        seen += port.ok() ? absl::StrCat("port ", *port, "\n") : absl::StrCat(port.status().message(), "\n");
        break;
      }
      case 3:
      case 4:
        if (places_[place].state == Place::kOffered) seen += Open(place);
        break;
      case 5:
        if (places_[place].state == Place::kOpen && random() % 4 == 0) {
          seen += Post(absl::StrCat("close-channel channel=", places_[place].channel_id));
          places_[place].state = Place::kClosed;
        }
        break;
      case 6:
        if (places_[place].state == Place::kOpen) Send(place, random() % 4 == 0 ? 0 : random() % 3000 + 1);
        break;
      default:
        timers_.AdvanceBy(random() % 30'000'000);
        break;
    }
    executor_.RunUntilIdle();
    return seen + Take();
  }

 private:
  static constexpr size_t kPlaces = 6, kPagesEach = 6;
  struct Place {
    enum State { kFree, kOffered, kOpen, kClosed } state = kFree;
    uint32_t channel_id = 0;
  };

  std::string Post(absl::string_view text) {
    (void)hypervisor_.ChildPostMessage(ConnectionId{is_connected_ ? 4u : 1u}, hvdef::vmbus::kSynicMessageType,
                                       *vmbus::ParseMessage(text));
    executor_.RunUntilIdle();
    return Take();
  }
  // What has come, of which offers and what became of them are remembered. A channel that is gone is given back at once.
  std::string Take() {
    std::string all;
    for (;;) {
      const std::string seen = TakeMessages(hypervisor_, executor_);
      if (seen.empty()) return all;
      all += seen;
      for (const absl::string_view line : absl::StrSplit(seen, '\n', absl::SkipEmpty())) {
        const std::string message = absl::HexStringToBytes(line.substr(sizeof("message ") - 1));
        uint32_t type = 0, channel_id = 0;
        std::memcpy(&type, message.data(), sizeof(type));
        if (type == 1) {
          std::memcpy(&channel_id, message.data() + offsetof(hvdef::vmbus::OfferChannel, channel_id), 4);
          for (Place& place : places_) {
            if (place.state != Place::kFree) continue;
            place = {Place::kOffered, channel_id};
            break;
          }
        } else if (type == 2) {
          std::memcpy(&channel_id, message.data() + 8, sizeof(channel_id));
          for (Place& place : places_) {
            if (place.channel_id == channel_id) place = {};
          }
          (void)hypervisor_.ChildPostMessage(ConnectionId{4}, hvdef::vmbus::kSynicMessageType,
                                             *vmbus::ParseMessage(absl::StrCat("relid-released channel=", channel_id)));
          executor_.RunUntilIdle();
        }
      }
    }
  }
  uint8_t* Pages(size_t place) { return &bytes_[(1 + place * kPagesEach) * kPageSize]; }
  std::string Open(size_t place) {
    std::memset(Pages(place), 0, kPagesEach * kPageSize);
    const uint32_t channel = places_[place].channel_id, gpadl = ++next_gpadl_;
    std::string words = "24576";
    for (size_t i = 0; i < kPagesEach; ++i) absl::StrAppend(&words, ",", 1 + place * kPagesEach + i);
    places_[place].state = Place::kOpen;
    ++opens;
    return Post(absl::StrCat("gpadl-header channel=", channel, " gpadl=", gpadl, " bytes=56 ranges=1 words=", words)) +
           Post(
               absl::StrCat("open-channel channel=", channel, " open_id=1 gpadl=", gpadl, " downstream=3 target_vp=0"));
  }
  void Send(size_t place, size_t size) {
    uint8_t* const page = Pages(place);
    vmbus::RingWriter<vmbus::FlatMemory> out(vmbus::FlatMemory(page, page + kPageSize, 2 * kPageSize));
    if (out.Attach() != vmbus::RingStatus::kOk) return;
    std::vector<uint8_t> packet(8 + size, 1);
    const uint32_t header[] = {1, static_cast<uint32_t>(size)};
    std::memcpy(packet.data(), header, sizeof(header));
    (void)out.StageInBand(vmbus::PacketHeader::InBand(0, false), packet.data(), static_cast<uint32_t>(packet.size()));
    (void)out.Publish();
    (void)hypervisor_.ChildSignalEvent(ConnectionId{0x2000 + places_[place].channel_id});
    executor_.RunUntilIdle();
    ++packets;
  }

  std::vector<uint8_t> bytes_;
  GuestMemory memory_;
  QueueExecutor executor_;
  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  vmbus::LoopbackHypervisor hypervisor_{1, 64};
  vmbus::Server server_{memory_, hypervisor_, {}, {.executor = &executor_, .timers = &timers_, .clock = &clock_}};
  EchoService service_;
  std::unique_ptr<SocketProvider> sockets_;

  std::array<Place, kPlaces> places_;
  uint32_t next_gpadl_ = 0;
  state::SavedState server_state_;
  bool has_server_state_ = false;
  bool is_connected_ = false;
  bool ends_all_ = false;
};

TEST(SocketComponentTest, KeepsItsState) {
  state::CheckComponent([] { return std::make_unique<SocketSubject>(); });
  EXPECT_GT(SocketSubject::opens, 50);
  EXPECT_GT(SocketSubject::packets, 50);
  EXPECT_GT(SocketSubject::restored_with, 20);
}

}  // namespace
}  // namespace hvsdk::vsp

// SPDX-License-Identifier: Apache-2.0
// A hostile guest at the integration components that are asked for something: it opens and closes their channels at any moment, answers rightly,
// wrongly, twice, late and not at all, and sends what nobody asked for, while the host asks, pauses, saves and restores. Ends the program if
// somebody who asked is not told, or twice, if more than one request is under way on a channel, if a state is not taken back, or if a component does
// not come to rest.

#ifndef HVSDK_FUZZ_INTEGRATION_INTEGRATION_HARNESS_H_
#define HVSDK_FUZZ_INTEGRATION_INTEGRATION_HARNESS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "fuzz/provider_world.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/hvdef/integration.h"
#include "hvsdk/state/reader.h"
#include "hvsdk/state/writer.h"
#include "hvsdk/vsp/backup.h"
#include "hvsdk/vsp/guest_file_copy.h"
#include "hvsdk/vsp/key_value_exchange.h"

namespace hvsdk::vsp {

class IntegrationHarness : private ProviderWorld {
 public:
  IntegrationHarness() {
    const IntegrationResources resources{.executor = executor_, .timers = timers_, .clock = clock_};
    pairs_ = *KeyValueExchange::Create(*server_, resources, {});
    files_ = *GuestFileCopy::Create(*server_, resources, {});
    backup_ = *Backup::Create(*server_, resources, {});
    Connect(absl::MakeSpan(ends_));
  }

  void Play(const uint8_t* data, size_t size) {
    in_ = fuzz::Bytes({data, size});
    for (size_t i = 0; i < std::size(ends_); ++i) OpenEnd(i);
    if (Byte() % 4 != 0) {
      for (End& end : ends_) Answer(end, /*rightly=*/true);
    }
    while (!in_.empty()) Step();
    // Whoever asked is told in the end.
    for (IntegrationComponent* const component : components()) component->Reset();
    Pump();
    HVSDK_CHECK(waiting_ == 0);
    pairs_.reset();
    files_.reset();
    backup_.reset();
  }

 private:
  struct End : ChannelEnd {
    std::vector<uint8_t> last;  // what the host asked
    int owed = 0;
  };

  std::vector<IntegrationComponent*> components() { return {pairs_.get(), files_.get(), backup_.get()}; }

  // A callback that counts: once, and no more.
  auto Told() {
    ++waiting_;
    return [this, told = std::make_shared<bool>(false)](const auto&) {
      HVSDK_CHECK(!std::exchange(*told, true));
      --waiting_;
    };
  }

  void OpenEnd(size_t index) {
    constexpr hvdef::Guid kClasses[] = {hvdef::class_id::kKeyValuePair, hvdef::class_id::kFileCopy,
                                        hvdef::class_id::kBackup};
    End& end = ends_[index];
    OpenChannelOf(end, kClasses[index], [&end] {
      end.last.clear();
      end.owed = 0;
    });
  }
  void CloseEnd(End& end) {
    if (!end.is_open()) return;
    child_->client().Close(end.channel);
    Pump();
    end.channel = vsc::Channel();
  }

  // Takes what has come. There is one that is not answered yet at most.
  void Take(End& end) {
    alignas(8) uint8_t buffer[8192];
    vmbus::Packet packet;
    while (end.is_open() && end.rings.incoming.Read(buffer, sizeof(buffer), packet) == vmbus::RingStatus::kOk) {
      end.last.assign(packet.payload, packet.payload + packet.payload_size);
      HVSDK_CHECK(++end.owed == 1);
      if (end.rings.incoming.Commit() == vmbus::Signal::kNeeded) child_->client().Signal(end.channel);
    }
  }
  void Send(End& end, const std::vector<uint8_t>& message) {
    if (!end.is_open()) return;
    (void)end.rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(1, false), message.data(),
                                         static_cast<uint32_t>(message.size()));
    (void)end.rings.outgoing.Publish();
    child_->client().Signal(end.channel);
    Pump();
  }
  void Answer(End& end, bool rightly) {
    Take(end);
    if (end.last.size() < 28) return;
    std::vector<uint8_t> message = end.last;
    message[25] = 5;
    if (message[12] == 0) {
      // The last of each list of versions.
      const size_t versions = message[30];
      message[28] = message[30] = 1;
      std::memmove(&message[36], &message[40], 4);
      std::memmove(&message[40], &message[44 + 4 * (versions - 1)], 4);
    }
    if (!rightly) {
      constexpr uint32_t kStatuses[] = {0, 0, 0x80070103, 0x80004005, 0x80070050};
      const uint32_t status = kStatuses[Byte() % std::size(kStatuses)];
      std::memcpy(&message[20], &status, sizeof(status));
      for (int lies = Byte() % 4; lies > 0; --lies) {
        const size_t at = static_cast<size_t>(Byte() | Byte() << 8) % message.size();
        message[at] = Byte();
      }
      if (Byte() % 16 == 0) message.resize(Byte());
    }
    // What it says decides whether that was an answer.
    end.owed = 0;
    Send(end, message);
  }

  void Ask() {
    const auto pool = static_cast<KeyValuePool>(Byte() % 5);
    const std::string text(Byte(), 'k');
    switch (Byte() % 10) {
      case 0:
        return pairs_->Get(pool, text, Told());
      case 1:
        return pairs_->Set(pool, text, text, Told());
      case 2:
        return pairs_->Delete(pool, text, Told());
      case 3:
        return pairs_->List(pool, Told());
      case 4:
        return pairs_->GetAddresses(text, Told());
      case 5:
        return pairs_->SetAddresses({.adapter_id = "a", .addresses = {text, text}}, Told());
      case 8:
        return backup_->Freeze(std::chrono::seconds(Byte() % 8), Told());
      case 9:
        return backup_->Thaw(Told());
      default: {
        const size_t left = Byte() % 4;
        FileCopyRequest request{.guest_path = "/tmp/" + text, .size_bytes = uint64_t{Byte()} * 100};
        request.read = [size = request.size_bytes, left](uint64_t offset, absl::Span<uint8_t> to) {
          HVSDK_CHECK(offset < size && to.size() <= size - offset);
          std::memset(to.data(), 'x', to.size());
          return left == 0 ? absl::DataLossError("lost") : absl::OkStatus();
        };
        request.on_progress = [left](uint64_t) { return left != 1; };
        return files_->Copy(std::move(request), Told());
      }
    }
  }

  // Taken back by the same one: whoever had asked is told.
  void SaveAndRestore(IntegrationComponent& component) {
    component.Pause();
    state::StateWriter writer;
    HVSDK_CHECK(component.Save(writer).ok());
    state::StateReader reader(component.StateName(), writer.schema(), writer.bytes());
    HVSDK_CHECK(component.Restore(reader).ok());
    state::StateWriter again;
    HVSDK_CHECK(component.Save(again).ok() && again.bytes() == writer.bytes());
    component.Resume();
  }

  void Step() {
    const uint8_t what = Byte();
    const size_t index = what / 16 % std::size(ends_);
    End& end = ends_[index];
    switch (what % 16) {
      case 0:
        CloseEnd(end);
        break;
      case 1:
        OpenEnd(index);
        break;
      case 2:
      case 3:
      case 4:
        Answer(end, /*rightly=*/false);
        break;
      case 5:
        components()[index]->Pause();
        break;
      case 6:
        components()[index]->Resume();
        break;
      case 7:
        timers_.AdvanceBy(uint64_t{Byte()} * 5'000'000);
        break;
      case 8:
        SaveAndRestore(*components()[index]);
        break;
      case 9: {
        std::vector<uint8_t> message(Byte() * 32);
        Bytes(message.data(), std::min<size_t>(message.size(), 64));
        Send(end, message);
        break;
      }
      case 10:
      case 11:
      case 12:
        Ask();
        break;
      default:
        Answer(end, /*rightly=*/true);
    }
    Pump();
  }

  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  std::unique_ptr<KeyValueExchange> pairs_;
  std::unique_ptr<GuestFileCopy> files_;
  std::unique_ptr<Backup> backup_;
  End ends_[3];
  int waiting_ = 0;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_FUZZ_INTEGRATION_INTEGRATION_HARNESS_H_

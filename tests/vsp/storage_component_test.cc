// SPDX-License-Identifier: Apache-2.0
// The storage controller by the suite that every component passes. Its guest is nothing but memory: it opens and closes
// channels, sends what comes to its mind, and does not always read the answers.

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "gtest/gtest.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/hvdef/scsi.h"
#include "hvsdk/image/memory_disk.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/ring/memory.h"
#include "hvsdk/vmbus/ring/reader.h"
#include "hvsdk/vmbus/ring/writer.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vmbus/transcript.h"
#include "hvsdk/vsp/storage.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/child_messages.h"

namespace hvsdk::vsp {
namespace {

namespace storvsc = hvdef::storvsc;

class StorageSubject {
 public:
  StorageSubject() : bytes_(kPages * kPageSize) {
    EXPECT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_)).ok());
    EXPECT_TRUE(server_.Start().ok());
    storage_ = *StorageController::Create(server_, executor_,
                                          {.instance_id = hvdef::MakeGuid("01234567-89ab-cdef-0123-456789abcdef"),
                                           .max_subchannels = 1,
                                           .queue_depth = 40});
    EXPECT_TRUE(storage_->Attach(0, disk_).ok());
    executor_.RunUntilIdle();
  }

  state::Component& component() { return *storage_; }

  // Of all subjects: the histories are not empty.
  static inline int opens = 0, answers = 0, good = 0;

  void CopyWorld(StorageSubject& from) {
    bytes_ = from.bytes_;  // as many, so they stay where they are
    channels_ = from.channels_;
    is_connected_ = from.is_connected_;
    SetSecondDisk(from.has_second_);
    std::vector<uint8_t> contents = from.disk_->Contents();
    const HostBuffer buffer = {contents.data(), contents.size()};
    BlockRequest write;
    write.op = BlockOp::kWrite;
    write.size_bytes = contents.size();
    write.buffers = absl::MakeConstSpan(&buffer, 1);
    write.on_complete = [](BlockRequest&, BlockStatus status) { EXPECT_EQ(status, BlockStatus::kOk); };
    BlockRequest* const request = &write;
    disk_->Submit({&request, 1});
    server_state_ = state::SaveOf(from.server_);
    has_server_state_ = true;
  }
  void Settle() { SetSecondDisk(false); }

  std::string Step(std::mt19937_64& random) {
    if (std::exchange(has_server_state_, false)) {
      const absl::Status status = state::RestoreOf(server_, server_state_);
      EXPECT_TRUE(status.ok()) << status;
      executor_.RunUntilIdle();
    }
    const uint32_t channel = static_cast<uint32_t>(random() % channels_.size());
    std::string seen;
    switch (random() % 8) {
      case 0:
        if (!channels_[channel].is_open) {
          seen = Open(channel);
        } else if (random() % 8 == 0) {
          seen = Post(absl::StrCat("close-channel channel=", channel + 1));
          if (channel == 0) seen += Post("relid-released channel=2");
          for (size_t i = channel; i < channels_.size(); ++i) channels_[i] = {};  // a subchannel goes with its primary
        }
        break;
      case 1:
        if (random() % 8 == 0) SetSecondDisk(!has_second_);
        executor_.RunUntilIdle();
        break;
      case 2:
      case 3:
        for (uint64_t count = random() % 30; count-- != 0;) seen += Read(channel);
        break;
      default:
        for (uint64_t count = 1 + random() % 12; count-- != 0;) Send(channel, random);
        Signal(channel);
        executor_.RunUntilIdle();
    }
    return seen + TakeMessages();
  }

 private:
  static constexpr uint64_t kPages = 32;
  static constexpr uint64_t kDataPage = 24;  // eight of them, behind the rings
  static constexpr size_t kDiskBytes = 64 << 10;
  // Of each channel: two rings of a control page and two of data.
  struct Guest {
    bool is_open = false;
    uint32_t next_setup = 0;
    uint64_t next_id = 1;
  };

  // The rings are all in memory: each use attaches anew.
  uint8_t* RingPage(uint32_t channel, bool to_root) {
    return &bytes_[(channel * 6 + 1 + (to_root ? 0 : 3)) * kPageSize];
  }
  vmbus::FlatMemory Ring(uint32_t channel, bool to_root) {
    uint8_t* const page = RingPage(channel, to_root);
    return {page, page + kPageSize, 2 * kPageSize};
  }

  std::string Post(absl::string_view text) { return PostMessage(hypervisor_, executor_, is_connected_, text); }
  std::string TakeMessages() { return vsp::TakeMessages(hypervisor_, executor_); }
  std::string Open(uint32_t channel) {
    std::string seen;
    if (!is_connected_) {
      seen = Post("initiate-contact version=5.3 target_vp=0 target=0x2");
      is_connected_ = true;
      seen += Post("request-offers");
    }
    if (channel != 0 && !channels_[0].is_open) return seen;
    std::memset(RingPage(channel, true), 0, 6 * kPageSize);
    std::string words = absl::StrCat(6 * kPageSize);
    for (uint64_t i = 0; i < 6; ++i) absl::StrAppend(&words, ",", channel * 6 + 1 + i);
    const uint32_t id = channel + 1;
    seen += Post(absl::StrCat("gpadl-teardown channel=", id, " gpadl=", id));
    seen += Post(absl::StrCat("gpadl-header channel=", id, " gpadl=", id, " bytes=56 ranges=1 words=", words));
    const std::string answer =
        Post(absl::StrCat("open-channel channel=", id, " open_id=1 gpadl=", id, " downstream=3 target_vp=0"));
    channels_[channel] = {.is_open = absl::StrContains(answer, "message 0600000000000000")};
    opens += channels_[channel].is_open;
    return seen + answer;
  }
  void Signal(uint32_t channel) { (void)hypervisor_.ChildSignalEvent(ConnectionId{0x2001 + channel}); }

  std::string Read(uint32_t channel) {
    if (!channels_[channel].is_open) return "";
    vmbus::RingReader<vmbus::FlatMemory> ring(Ring(channel, false));
    alignas(8) uint8_t buffer[256];
    vmbus::Packet packet;
    if (ring.Attach() != vmbus::RingStatus::kOk ||
        ring.Read(buffer, sizeof(buffer), packet) != vmbus::RingStatus::kOk) {
      return "";
    }
    ++answers;
    good += packet.payload_size >= 12 &&
            std::all_of(packet.payload + 8, packet.payload + 12, [](uint8_t b) { return b == 0; });
    if (ring.Commit() == vmbus::Signal::kNeeded) {
      Signal(channel);
      executor_.RunUntilIdle();
    }
    return absl::StrCat(
        "packet ", static_cast<int>(packet.type), " ", packet.transaction_id, " ",
        absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(packet.payload), packet.payload_size)),
        "\n");
  }

  void Send(uint32_t channel, std::mt19937_64& random) {
    Guest& guest = channels_[channel];
    if (!guest.is_open) return;
    storvsc::Packet packet = {};
    std::vector<uint64_t> pages;
    const bool is_setup = channel == 0 && guest.next_setup < 5 && random() % 4 != 0;
    if (is_setup) {
      constexpr storvsc::Operation kSetup[] = {
          storvsc::Operation::kBeginInitialization, storvsc::Operation::kQueryProtocolVersion,
          storvsc::Operation::kQueryProperties, storvsc::Operation::kEndInitialization,
          storvsc::Operation::kCreateSubChannels};
      packet.header.operation = kSetup[guest.next_setup++];
      if (packet.header.operation == storvsc::Operation::kQueryProtocolVersion) {
        packet.version.major_minor = random() % 4 == 0 ? storvsc::Version::kWin7 : storvsc::Version::kWin10;
      } else if (packet.header.operation == storvsc::Operation::kCreateSubChannels) {
        packet.sub_channel_count = 1;
      }
    } else if (random() % 8 == 0) {
      for (uint8_t& byte : packet.bytes) byte = static_cast<uint8_t>(random());
      packet.header.operation = static_cast<storvsc::Operation>(random() % 14);
    } else {
      packet.header.operation = storvsc::Operation::kExecuteSrb;
      storvsc::ScsiRequest& request = packet.scsi;
      request.length = sizeof(request);
      request.cdb_length = 10;
      request.lun = random() % 4 == 0 ? 3 : 0;
      request.srb_flags = random() % 2 == 0 ? storvsc::kSrbFlagDisableAutosense : 0;
      request.data_in = static_cast<uint8_t>(random() % 2);
      constexpr hvdef::scsi::OpCode kOpCodes[] = {
          hvdef::scsi::OpCode::kRead10,       hvdef::scsi::OpCode::kWrite10,      hvdef::scsi::OpCode::kVerify10,
          hvdef::scsi::OpCode::kRequestSense, hvdef::scsi::OpCode::kModeSelect6,  hvdef::scsi::OpCode::kModeSense6,
          hvdef::scsi::OpCode::kReportLuns,   hvdef::scsi::OpCode::kTestUnitReady};
      request.payload[0] = static_cast<uint8_t>(kOpCodes[random() % std::size(kOpCodes)]);
      if (request.payload[0] == static_cast<uint8_t>(hvdef::scsi::OpCode::kModeSelect6)) {
        // The caching page: the write cache goes on or off.
        const uint8_t list[24] = {0, 0, 0, 0, 0x08, 18, static_cast<uint8_t>(random() % 2 * 4)};
        std::memcpy(&bytes_[kDataPage * kPageSize], list, sizeof(list));
        request.payload[1] = 0x10;
        request.payload[4] = sizeof(list);
        request.data_in = storvsc::kDataOut;
        request.data_transfer_length = sizeof(list);
        pages = {kDataPage};
      } else {
        request.payload[4] = request.payload[8] = static_cast<uint8_t>(random() % 20);  // lengths, as it falls
        request.payload[5] = static_cast<uint8_t>(random() % 130);                      // 128 blocks are there
        for (uint64_t count = random() % 4; count-- != 0;) pages.push_back(kDataPage + random() % 8);
        request.data_transfer_length =
            static_cast<uint32_t>(pages.size() * kPageSize - (pages.empty() ? 0 : random() % 3 * 512));
      }
    }
    vmbus::RingWriter<vmbus::FlatMemory> ring(Ring(channel, true));
    if (ring.Attach() != vmbus::RingStatus::kOk) return;
    const uint64_t id = guest.next_id++;
    if (pages.empty()) {
      (void)ring.StageInBand(vmbus::PacketHeader::InBand(id, true), &packet, sizeof(packet));
    } else {
      const vmbus::GpaBuffer buffer = {static_cast<uint32_t>(pages.size() * kPageSize), 0, pages.data()};
      (void)ring.StageGpaDirect(id, true, &buffer, 1, &packet, sizeof(packet));
    }
    (void)ring.Publish();
  }

  void SetSecondDisk(bool wanted) {
    if (std::exchange(has_second_, wanted) == wanted) return;
    EXPECT_TRUE((wanted ? storage_->Attach(3, second_) : storage_->Detach(3)).ok());
    executor_.RunUntilIdle();
  }

  std::vector<uint8_t> bytes_;
  GuestMemory memory_;
  QueueExecutor executor_;
  vmbus::LoopbackHypervisor hypervisor_{1, 64};
  vmbus::Server server_{memory_, hypervisor_, {}, {.executor = &executor_}};
  std::shared_ptr<MemoryDisk> disk_ = std::make_shared<MemoryDisk>(std::vector<uint8_t>(kDiskBytes, 0x5A));
  std::shared_ptr<MemoryDisk> second_ = std::make_shared<MemoryDisk>(std::vector<uint8_t>(4096));
  std::unique_ptr<StorageController> storage_;

  state::SavedState server_state_;
  bool has_server_state_ = false;

  bool is_connected_ = false;
  std::array<Guest, 2> channels_;
  bool has_second_ = false;
};

TEST(StorageComponentTest, KeepsItsState) {
  state::CheckComponent([] { return std::make_unique<StorageSubject>(); }, 40, 100);
  EXPECT_GT(StorageSubject::opens, 100);
  EXPECT_GT(StorageSubject::answers, 5000);
  EXPECT_GT(StorageSubject::good, 1000);
}

}  // namespace
}  // namespace hvsdk::vsp

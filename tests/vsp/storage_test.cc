// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vsp/storage.h"

#include <map>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "tests/random_seed.h"
#include "tests/vsp/storage_fixture.h"

namespace hvsdk::vsp {
namespace {

namespace scsi = hvdef::scsi;
namespace storvsc = hvdef::storvsc;
using storvsc::Operation;
using storvsc::SrbStatus;
using storvsc::Version;
using testing::ElementsAre;

constexpr uint8_t kSuccess = static_cast<uint8_t>(SrbStatus::kSuccess);
constexpr uint8_t kInvalidLun = static_cast<uint8_t>(SrbStatus::kInvalidLun);
constexpr uint8_t kInvalidRequest = static_cast<uint8_t>(SrbStatus::kInvalidRequest);

class StorageTest : public StorageFixture {
 protected:
  // Sends a packet of any kind by hand and takes the answer, if there is one.
  struct RawAnswer {
    bool came = false;
    uint64_t transaction_id = 0;
    uint32_t size_bytes = 0;
    storvsc::Packet packet = {};
  };
  RawAnswer SendRaw(Opened& opened, const storvsc::Packet& packet, size_t size_bytes = sizeof(storvsc::Packet),
                    const GuestBuffer* buffer = nullptr, bool wants_completion = true) {
    auto& rings = opened.rings;
    opened.channel.on_signal = nullptr;
    const uint64_t id = ++last_id_ * 0x1000000000001;
    if (buffer != nullptr) {
      const vmbus::GpaBuffer pages = buffer->gpa_buffer();
      EXPECT_EQ(rings.outgoing.StageGpaDirect(id, wants_completion, &pages, 1, &packet, size_bytes),
                vmbus::RingStatus::kOk);
    } else {
      EXPECT_EQ(rings.outgoing.StageInBand(vmbus::PacketHeader::InBand(id, wants_completion), &packet, size_bytes),
                vmbus::RingStatus::kOk);
    }
    if (rings.outgoing.Publish() == vmbus::Signal::kNeeded) child_->client().Signal(opened.channel);
    Pump();
    return Receive(opened, id);
  }
  RawAnswer Receive(Opened& opened, uint64_t id) {
    RawAnswer answer;
    alignas(8) uint8_t bytes[256];
    vmbus::Packet received;
    if (opened.rings.incoming.Read(bytes, sizeof(bytes), received) != vmbus::RingStatus::kOk) return answer;
    (void)opened.rings.incoming.Arm();
    answer.came = true;
    EXPECT_EQ(received.type, hvdef::PacketType::kCompletion);
    EXPECT_EQ(received.transaction_id, id);
    answer.size_bytes = received.payload_size;
    std::memcpy(&answer.packet, received.payload, std::min<size_t>(received.payload_size, sizeof(answer.packet)));
    EXPECT_EQ(answer.packet.header.operation, Operation::kCompleteIo);
    return answer;
  }
  // A channel for SendRaw; its client must not be used.
  std::unique_ptr<Opened> OpenReadyRaw() {
    auto opened = Open();
    for (const auto& [operation, value] :
         {std::pair{Operation::kBeginInitialization, 0}, std::pair{Operation::kQueryProtocolVersion, 0x0602},
          std::pair{Operation::kQueryProperties, 0}, std::pair{Operation::kEndInitialization, 0}}) {
      EXPECT_EQ(SendRaw(*opened, Control(operation, value)).packet.header.status, storvsc::Status::kSuccess);
    }
    return opened;
  }
  static storvsc::Packet Control(Operation operation, uint16_t value = 0) {
    storvsc::Packet packet = {};
    packet.header.operation = operation;
    packet.header.flags = storvsc::kFlagRequestCompletion;
    packet.sub_channel_count = value;
    return packet;
  }
  uint64_t last_id_ = 0;
};

TEST_F(StorageTest, EveryVersionIsNegotiated) {
  StorageOptions options;
  options.max_subchannels = 3;
  Make(options);
  ASSERT_TRUE(storage_->Attach(0, std::make_shared<MemoryDisk>(Pattern(1 << 20))).ok());
  auto opened = Open();
  for (const Version version : {Version::kWin10, Version::kWin81, Version::kWin8, Version::kWin7, Version::kWin6}) {
    opened->client->Start(version);
    Pump();
    ASSERT_EQ(opened->client->state(), vsc::StorageClient::State::kReady);
    EXPECT_EQ(opened->client->version(), version);
    EXPECT_EQ(opened->client->max_transfer_bytes(), 1u << 20);
    EXPECT_EQ(opened->client->max_subchannels(), version >= Version::kWin8 ? 3 : 0);
    vsc::StorageRequest request;
    request.SetRead(7, 3);
    const GuestBuffer buffer = Allocate(3 * 512, 100);
    request.data = buffer.gpa_buffer();
    ASSERT_TRUE(Run(*opened->client, request).ok());
    const auto medium = Pattern(1 << 20);
    EXPECT_EQ(Get(buffer), std::vector<uint8_t>(medium.begin() + 7 * 512, medium.begin() + 10 * 512));
    child_->client().Close(opened->channel);
    Pump();
    ASSERT_EQ(opened->channel.state(), vsc::Channel::State::kNone);
    Reopen(*opened);
  }
}

TEST_F(StorageTest, AnOlderProviderIsFoundByTryingOlderVersions) {
  StorageOptions options;
  options.newest_version = Version::kWin7;
  Make(options);
  auto opened = OpenReady();
  EXPECT_EQ(opened->client->version(), Version::kWin7);
}

TEST_F(StorageTest, TheOpeningExchangeHasOneOrder) {
  Make();
  auto opened = Open();
  const std::vector<std::pair<Operation, uint16_t>> steps = {{Operation::kBeginInitialization, 0},
                                                             {Operation::kQueryProtocolVersion, 0x0602},
                                                             {Operation::kQueryProperties, 0},
                                                             {Operation::kEndInitialization, 0}};
  for (size_t done = 0; done <= steps.size(); ++done) {
    for (const auto& [operation, value] : steps) {  // all but the next one are out of order
      if (done < steps.size() && operation == steps[done].first) continue;
      const RawAnswer answer = SendRaw(*opened, Control(operation, value));
      ASSERT_TRUE(answer.came);
      EXPECT_EQ(answer.packet.header.status, storvsc::Status::kInvalidDeviceState);
    }
    const bool ready = done == steps.size();
    EXPECT_EQ(SendRaw(*opened, Control(Operation::kResetBus)).packet.header.status,
              ready ? storvsc::Status::kSuccess : storvsc::Status::kInvalidDeviceState);
    storvsc::Packet command = Control(Operation::kExecuteSrb);
    command.scsi = {};
    command.scsi.cdb_length = 6;
    EXPECT_EQ(SendRaw(*opened, command).packet.header.status,
              ready ? storvsc::Status::kDeviceDoesNotExist : storvsc::Status::kInvalidDeviceState);
    if (ready) break;
    if (steps[done].first == Operation::kQueryProtocolVersion) {
      for (const uint16_t unknown : {0x0603, 0x0601, 0x0000, 0xFFFF}) {
        EXPECT_EQ(SendRaw(*opened, Control(Operation::kQueryProtocolVersion, unknown)).packet.header.status,
                  storvsc::Status::kRevisionMismatch);
      }
    }
    const RawAnswer answer = SendRaw(*opened, Control(steps[done].first, steps[done].second));
    EXPECT_EQ(answer.packet.header.status, storvsc::Status::kSuccess);
    EXPECT_EQ(answer.size_bytes, 64u) << "a completion is as long as its request";
  }
}

TEST_F(StorageTest, PacketsWithoutSense) {
  Make();
  ASSERT_TRUE(storage_->Attach(0, std::make_shared<MemoryDisk>(Pattern(1 << 20))).ok());
  auto opened = OpenReadyRaw();
  EXPECT_EQ(SendRaw(*opened, Control(Operation::kFcHbaData)).packet.header.status,
            storvsc::Status::kInvalidDeviceRequest);
  EXPECT_EQ(SendRaw(*opened, Control(static_cast<Operation>(99))).packet.header.status,
            storvsc::Status::kInvalidDeviceRequest);
  EXPECT_FALSE(SendRaw(*opened, Control(Operation::kResetBus), 64, nullptr, /*wants_completion=*/false).came);
  EXPECT_FALSE(SendRaw(*opened, Control(Operation::kResetBus), 8).came) << "shorter than a header";
  const RawAnswer brief = SendRaw(*opened, Control(Operation::kExecuteSrb), 40);
  EXPECT_EQ(brief.packet.header.status, storvsc::Status::kInvalidParameter);
  EXPECT_EQ(brief.size_bytes, 40u);

  storvsc::Packet read = Control(Operation::kExecuteSrb);
  read.scsi = {};
  read.scsi.cdb_length = 10;
  read.scsi.data_in = storvsc::kDataIn;
  read.scsi.data_transfer_length = 4096;
  const uint8_t cdb[10] = {0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0};
  std::memcpy(read.scsi.payload, cdb, sizeof(cdb));
  GuestBuffer buffer = Allocate(4096);
  EXPECT_EQ(SendRaw(*opened, read, 64, &buffer).packet.scsi.srb_status, kSuccess);
  buffer.pfns[0] = kMemoryBytes / 4096;  // no memory there
  EXPECT_EQ(SendRaw(*opened, read, 64, &buffer).packet.scsi.srb_status, kInvalidRequest | 0x80);
  buffer.pfns[0] = ~uint64_t{0};
  EXPECT_EQ(SendRaw(*opened, read, 64, &buffer).packet.scsi.srb_status, kInvalidRequest | 0x80);
  buffer = Allocate(4095);  // fewer pages than the request says
  EXPECT_EQ(SendRaw(*opened, read, 64, &buffer).packet.scsi.srb_status, kInvalidRequest | 0x80);
  EXPECT_EQ(SendRaw(*opened, read).packet.scsi.srb_status, 0x12 | 0x80) << "no pages at all: data overrun";
  buffer = Allocate((1 << 20) + 4096);
  read.scsi.data_transfer_length = (1 << 20) + 512;
  EXPECT_EQ(SendRaw(*opened, read, 64, &buffer).packet.scsi.srb_status, kInvalidRequest | 0x80) << "too long";
  buffer = Allocate(2 << 20);  // more page numbers than a packet may have
  EXPECT_EQ(SendRaw(*opened, read, 64, &buffer).packet.scsi.srb_status, kInvalidRequest | 0x80);
  read.scsi.data_transfer_length = 4096;
  buffer = Allocate(4096);
  EXPECT_EQ(SendRaw(*opened, read, 48, &buffer).packet.scsi.srb_status, kSuccess) << "the form before Windows 8";
}

TEST_F(StorageTest, DataGoStraightBetweenScatteredPagesAndTheDisk) {
  Make();
  auto disk = std::make_shared<MemoryDisk>(std::vector<uint8_t>(4 << 20));
  ASSERT_TRUE(storage_->Attach(0, disk).ok());
  auto opened = OpenReady();
  const auto data = Pattern(1 << 20, 7);
  for (const uint32_t offset : {0u, 512u, 4088u}) {
    for (const bool scattered : {false, true}) {
      vsc::StorageRequest write;
      write.SetWrite(100, data.size() / 512);
      const GuestBuffer from = Allocate(1 << 20, offset, scattered);
      Put(from, data);
      write.data = from.gpa_buffer();
      ASSERT_TRUE(Run(*opened->client, write).ok());
      EXPECT_EQ(write.transferred, data.size());
      const auto medium = disk->Contents();
      ASSERT_EQ(std::memcmp(&medium[100 * 512], data.data(), data.size()), 0);
      vsc::StorageRequest read;
      read.SetRead(100, data.size() / 512);
      const GuestBuffer to = Allocate(1 << 20, 4096 - 512 - offset % 512, scattered);
      read.data = to.gpa_buffer();
      ASSERT_TRUE(Run(*opened->client, read).ok());
      ASSERT_EQ(Get(to), data);
    }
  }
}

TEST_F(StorageTest, PagesThatAReadFilledAreDirtyBeforeTheGuestHears) {
  Make();
  ASSERT_TRUE(storage_->Attach(0, std::make_shared<MemoryDisk>(Pattern(1 << 20))).ok());
  auto opened = OpenReady();
  const GuestBuffer buffer = Allocate(8192, 4000);
  const GuestBuffer other = Allocate(4096);
  memory_.EnableDirtyTracking(true);
  vsc::StorageRequest read;
  read.SetRead(0, 16);
  read.data = buffer.gpa_buffer();
  struct Seen {
    GuestMemory* memory;
    uint64_t first_page;
    uint64_t bits[1] = {};
  } seen{&memory_, buffer.pfns[0], {}};
  read.context = &seen;
  read.on_done = [](void* context, vsc::StorageRequest&) {
    auto& s = *static_cast<Seen*>(context);
    s.memory->TakeDirty(s.first_page * 4096, 4, absl::MakeSpan(s.bits));
  };
  ASSERT_TRUE(Run(*opened->client, read).ok());
  EXPECT_EQ(seen.bits[0], 0b0111u) << "three pages, and not the one behind them";
}

TEST_F(StorageTest, LunsAreToldApart) {
  Make();
  for (const uint8_t lun : {0, 5, 63}) {
    ASSERT_TRUE(storage_->Attach(lun, std::make_shared<MemoryDisk>(Pattern((lun + 1) * 4096, lun))).ok());
  }
  EXPECT_TRUE(absl::IsAlreadyExists(storage_->Attach(5, std::make_shared<MemoryDisk>(Pattern(512)))));
  EXPECT_TRUE(absl::IsOutOfRange(storage_->Attach(64, std::make_shared<MemoryDisk>(Pattern(512)))));
  EXPECT_TRUE(absl::IsInvalidArgument(storage_->Attach(6, std::make_shared<MemoryDisk>(std::vector<uint8_t>()))));
  EXPECT_TRUE(absl::IsNotFound(storage_->Detach(6)));
  auto opened = OpenReady();

  vsc::StorageRequest request;
  GuestBuffer buffer = Allocate(1024);
  request.SetReportLuns(1024);
  request.data = buffer.gpa_buffer();
  ASSERT_TRUE(Run(*opened->client, request).ok());
  EXPECT_EQ(request.transferred, 8u + 3 * 8);
  const auto list = Get(buffer);
  EXPECT_THAT(std::vector<uint8_t>(list.begin(), list.begin() + 4), ElementsAre(0, 0, 0, 24));
  EXPECT_EQ(list[9], 0);
  EXPECT_EQ(list[17], 5);
  EXPECT_EQ(list[25], 63);
  request.cdb[2] = 1;  // well known units only
  ASSERT_TRUE(Run(*opened->client, request).ok());
  EXPECT_EQ(request.transferred, 8u);
  request.cdb[2] = 3;
  EXPECT_EQ(Run(*opened->client, request).srb_status & 0x3F, kInvalidRequest);
  request.cdb[2] = 0;
  request.target_id = 1;  // nothing there, and it says so without an error
  ASSERT_TRUE(Run(*opened->client, request).ok());
  EXPECT_EQ(request.transferred, 8u);

  std::set<std::string> serials;
  for (uint8_t lun = 0; lun < 70; ++lun) {
    const bool present = lun == 0 || lun == 5 || lun == 63;
    vsc::StorageRequest ready;
    ready.lun = lun;
    ready.SetTestUnitReady();
    EXPECT_EQ(Run(*opened->client, ready).srb_status & 0x3F, present ? kSuccess : kInvalidLun) << int{lun};
    vsc::StorageRequest inquiry;
    inquiry.lun = lun;
    inquiry.SetInquiry(36);
    buffer.size_bytes = 36;
    inquiry.data = buffer.gpa_buffer();
    ASSERT_TRUE(Run(*opened->client, inquiry).ok());
    EXPECT_EQ(Get(buffer)[0], present ? 0x00 : 0x7F) << int{lun};
    if (!present) continue;
    buffer.size_bytes = 1024;
    vsc::StorageRequest serial;
    serial.lun = lun;
    serial.SetVitalProductData(0x80, 255);
    serial.data = buffer.gpa_buffer();
    ASSERT_TRUE(Run(*opened->client, serial).ok());
    const auto page = Get(buffer);
    serials.insert(std::string(page.begin() + 4, page.begin() + serial.transferred));
    vsc::StorageRequest capacity;
    capacity.lun = lun;
    capacity.SetReadCapacity16();
    capacity.data = buffer.gpa_buffer();
    ASSERT_TRUE(Run(*opened->client, capacity).ok());
    EXPECT_EQ(scsi::LoadBigEndian<uint64_t>(Get(buffer).data()), (lun + 1) * 8u - 1);
  }
  EXPECT_EQ(serials.size(), 3u) << "each disk has an identity of its own";
  vsc::StorageRequest elsewhere;
  elsewhere.path_id = 1;
  elsewhere.SetTestUnitReady();
  EXPECT_EQ(Run(*opened->client, elsewhere).srb_status & 0x3F, kInvalidLun);
}

TEST_F(StorageTest, SenseDataComesWithTheCompletion) {
  Make();
  ASSERT_TRUE(storage_->Attach(0, std::make_shared<MemoryDisk>(Pattern(4096))).ok());
  auto opened = OpenReady();
  vsc::StorageRequest request;
  const GuestBuffer buffer = Allocate(512);
  request.SetRead(8, 1);
  request.data = buffer.gpa_buffer();
  Run(*opened->client, request);
  EXPECT_EQ(request.srb_status, static_cast<uint8_t>(SrbStatus::kError) | 0x80);
  EXPECT_EQ(request.scsi_status, 2);
  ASSERT_TRUE(request.has_sense);
  EXPECT_EQ(request.sense.sense_key, 5);
  EXPECT_EQ(request.sense.additional_sense_code, 0x21);
  EXPECT_EQ(uint32_t{request.sense.information}, 8u);
  request.srb_flags = storvsc::kSrbFlagDisableAutosense;
  Run(*opened->client, request);
  EXPECT_EQ(request.srb_status, static_cast<uint8_t>(SrbStatus::kError));
  EXPECT_FALSE(request.has_sense);
}

TEST_F(StorageTest, DisksComeAndGo) {
  Make();
  auto first = std::make_shared<HoldingDisk>(Pattern(1 << 20));
  ASSERT_TRUE(storage_->Attach(0, first).ok());
  auto opened = OpenReady();
  EXPECT_EQ(opened->client->bus_changes(), 0u) << "what is there from the start is not news";
  ASSERT_TRUE(storage_->Attach(1, std::make_shared<MemoryDisk>(Pattern(1 << 20))).ok());
  Pump();
  EXPECT_EQ(opened->client->bus_changes(), 1u);
  vsc::StorageRequest ready;
  ready.lun = 1;
  ready.SetTestUnitReady();
  EXPECT_TRUE(Run(*opened->client, ready).ok());

  vsc::StorageRequest read;
  const GuestBuffer buffer = Allocate(512);
  read.SetRead(3, 1);
  read.data = buffer.gpa_buffer();
  ASSERT_TRUE(opened->client->Send(read));
  opened->client->Publish();
  Pump();
  EXPECT_EQ(first->held(), 1u);
  ASSERT_TRUE(storage_->Detach(0).ok());
  Pump();
  EXPECT_EQ(opened->client->bus_changes(), 2u);
  EXPECT_FALSE(read.is_done);
  EXPECT_GT(first.use_count(), 1) << "a command is in flight";
  vsc::StorageRequest gone;
  gone.SetTestUnitReady();
  EXPECT_EQ(Run(*opened->client, gone).srb_status & 0x3F, kInvalidLun);
  ASSERT_TRUE(storage_->Attach(0, std::make_shared<MemoryDisk>(Pattern(1 << 20, 9))).ok());
  Pump();
  EXPECT_TRUE(Run(*opened->client, gone).ok()) << "another disk is there now";
  first->ReleaseAll();
  Pump();
  EXPECT_TRUE(read.ok());
  EXPECT_EQ(first.use_count(), 1);
}

TEST_F(StorageTest, ClosingWaitsForTheDisk) {
  Make();
  auto disk = std::make_shared<HoldingDisk>(Pattern(1 << 20));
  ASSERT_TRUE(storage_->Attach(0, disk).ok());
  auto opened = OpenReady();
  std::vector<vsc::StorageRequest> reads(20);
  const GuestBuffer buffer = Allocate(512);
  for (auto& read : reads) {
    read.SetRead(1, 1);
    read.data = buffer.gpa_buffer();
    ASSERT_TRUE(opened->client->Send(read));
  }
  vsc::StorageRequest verify;  // a command of several steps is given up after the one under way
  verify.SetTestUnitReady();
  verify.cdb[0] = 0x2F, verify.cdb[7] = 2, verify.cdb_length = 10;
  ASSERT_TRUE(opened->client->Send(verify));
  opened->client->Publish();
  Pump();
  ASSERT_EQ(disk->held(), 21u);
  child_->client().Close(opened->channel);
  Pump();
  EXPECT_EQ(opened->channel.state(), vsc::Channel::State::kClosing) << "the disk still writes to the guest's pages";
  for (int i = 0; i < 20; ++i) disk->ReleaseOne();
  Pump();
  EXPECT_EQ(opened->channel.state(), vsc::Channel::State::kClosing);
  disk->ReleaseAll();
  Pump();
  EXPECT_EQ(opened->channel.state(), vsc::Channel::State::kNone);
  EXPECT_EQ(disk->held(), 0u);
  Reopen(*opened);
  opened->client->Start();
  Pump();
  ASSERT_EQ(opened->client->state(), vsc::StorageClient::State::kReady);
  ASSERT_TRUE(opened->client->Send(reads[0]));
  opened->client->Publish();
  Pump();
  disk->ReleaseAll();
  Pump();
  EXPECT_TRUE(reads[0].ok());
}

TEST_F(StorageTest, AnEndlessCommandLeavesOthersTheirTurn) {
  // A disk that is as quick as a page cache, and large.
  class Quick : public BlockDevice {
   public:
    Quick() { info_.size_bytes = uint64_t{1} << 50; }
    const BlockInfo& info() const override { return info_; }
    void Submit(absl::Span<BlockRequest* const> batch) override {
      for (BlockRequest* request : batch) {
        // The end, for a provider that does not stop by itself.
        const bool is_enough = ++requests > 100000;
        request->on_complete(*request, is_enough ? BlockStatus::kIoError : BlockStatus::kOk);
      }
    }
    uint32_t requests = 0;

   private:
    BlockInfo info_;
  };
  Make();
  auto disk = std::make_shared<Quick>();
  ASSERT_TRUE(storage_->Attach(0, disk).ok());
  auto opened = OpenReady();
  vsc::StorageRequest verify;
  verify.SetTestUnitReady();
  verify.cdb[0] = 0x8F, verify.cdb[10] = 0xFF, verify.cdb_length = 16;  // 2 TiB
  ASSERT_TRUE(opened->client->Send(verify));
  opened->client->Publish();
  for (int turn = 0; turn < 10; ++turn) {
    const uint32_t before = disk->requests;
    ASSERT_TRUE(executor_.RunOne());
    ASSERT_LE(disk->requests - before, 2000u);
  }
  EXPECT_GT(disk->requests, 0u);
  EXPECT_FALSE(verify.is_done);
  child_->client().Close(opened->channel);
  Pump();
  EXPECT_EQ(opened->channel.state(), vsc::Channel::State::kNone);
  EXPECT_LT(disk->requests, 50000u);
}

TEST_F(StorageTest, ADestroyedControllerWaitsForTheDisk) {
  Make();
  auto disk = std::make_shared<HoldingDisk>(Pattern(1 << 20));
  ASSERT_TRUE(storage_->Attach(0, disk).ok());
  auto opened = OpenReady();
  vsc::StorageRequest read;
  const GuestBuffer buffer = Allocate(512);
  read.SetRead(1, 1);
  read.data = buffer.gpa_buffer();
  ASSERT_TRUE(opened->client->Send(read));
  opened->client->Publish();
  Pump();
  ASSERT_EQ(disk->held(), 1u);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    disk->ReleaseAll();
  });
  storage_.reset();
  EXPECT_EQ(disk->held(), 0u);
  later.join();
}

TEST_F(StorageTest, Subchannels) {
  StorageOptions options;
  options.max_subchannels = 3;
  Make(options);
  auto disk = std::make_shared<MemoryDisk>(Pattern(1 << 20));
  ASSERT_TRUE(storage_->Attach(0, disk).ok());
  auto opened = OpenReady();
  ASSERT_TRUE(opened->client->RequestSubchannels(4));
  Pump();
  EXPECT_EQ(opened->client->subchannels(), vsc::StorageClient::Subchannels::kRefused);
  ASSERT_TRUE(opened->client->RequestSubchannels(3));
  Pump();
  EXPECT_EQ(opened->client->subchannels(), vsc::StorageClient::Subchannels::kGranted);
  std::vector<std::unique_ptr<Opened>> subs;
  for (uint16_t i = 1; i <= 3; ++i) {
    subs.push_back(Open(i));
    ASSERT_NE(subs.back(), nullptr);
    subs.back()->client->StartSubchannel(*opened->client);
  }
  EXPECT_EQ(child_->FindOffer(kInstance, 4), nullptr);
  std::vector<vsc::StorageRequest> reads(30);
  const GuestBuffer buffer = Allocate(512);
  for (size_t i = 0; i < reads.size(); ++i) {
    reads[i].SetRead(i, 1);
    reads[i].data = buffer.gpa_buffer();
    ASSERT_TRUE(subs[i % 2]->client->Send(reads[i]));
  }
  for (auto& sub : subs) sub->client->Publish();
  Pump();
  for (auto& read : reads) EXPECT_TRUE(read.ok());
  EXPECT_EQ(SendRaw(*subs[2], Control(Operation::kBeginInitialization)).packet.header.status,
            storvsc::Status::kInvalidDeviceState);
  EXPECT_EQ(SendRaw(*subs[2], Control(Operation::kResetLun)).packet.header.status, storvsc::Status::kSuccess);

  // One subchannel closed by the guest, two open: closing the primary takes them all away.
  child_->client().Close(subs[0]->channel);
  Pump();
  EXPECT_EQ(subs[0]->channel.state(), vsc::Channel::State::kNone);
  child_->client().Close(opened->channel);
  Pump();
  EXPECT_EQ(opened->channel.state(), vsc::Channel::State::kNone);
  for (uint16_t i = 1; i <= 3; ++i) EXPECT_EQ(child_->FindOffer(kInstance, i), nullptr);
  EXPECT_EQ(subs[1]->channel.state(), vsc::Channel::State::kRescinded);
  Reopen(*opened);
  opened->client->Start();
  Pump();
  ASSERT_TRUE(opened->client->RequestSubchannels(1));
  Pump();
  EXPECT_NE(child_->FindOffer(kInstance, 1), nullptr) << "and they can be had again";
}

TEST_F(StorageTest, AGuestThatDoesNotReadItsCompletionsLosesNone) {
  StorageOptions options;
  options.queue_depth = 16;
  Make(options);
  ASSERT_TRUE(storage_->Attach(0, std::make_shared<MemoryDisk>(Pattern(1 << 20))).ok());
  auto opened = Open(0, /*ring_pages=*/2);  // 4 KiB of data: 46 completions
  opened->client->Start();
  Pump();
  opened->channel.on_signal = nullptr;
  std::vector<vsc::StorageRequest> requests(128);
  size_t sent = 0;
  while (sent < requests.size()) {
    requests[sent].SetTestUnitReady();
    if (opened->client->Send(requests[sent])) {
      ++sent;
      continue;
    }
    opened->client->Publish();
    Pump();
    if (!opened->client->Send(requests[sent])) break;
    ++sent;
  }
  opened->client->Publish();
  Pump();
  EXPECT_LT(sent, requests.size()) << "both rings are full";
  size_t done = 0;
  for (int round = 0; round < 1000 && done < requests.size(); ++round) {
    opened->client->OnSignal();
    Pump();
    while (sent < requests.size() && (requests[sent].SetTestUnitReady(), opened->client->Send(requests[sent]))) ++sent;
    opened->client->Publish();
    Pump();
    done = 0;
    for (auto& request : requests) done += request.ok();
  }
  EXPECT_EQ(done, requests.size());
}

TEST_F(StorageTest, TheQueueDepthBoundsWhatIsInFlight) {
  StorageOptions options;
  options.queue_depth = 4;
  Make(options);
  auto disk = std::make_shared<HoldingDisk>(Pattern(1 << 20));
  ASSERT_TRUE(storage_->Attach(0, disk).ok());
  auto opened = OpenReady();
  const GuestBuffer buffer = Allocate(512);
  std::vector<vsc::StorageRequest> reads(20);
  for (auto& read : reads) {
    read.SetRead(1, 1);
    read.data = buffer.gpa_buffer();
    ASSERT_TRUE(opened->client->Send(read));
  }
  opened->client->Publish();
  Pump();
  for (size_t done = 0; done < reads.size(); ++done) {
    EXPECT_EQ(disk->held(), std::min<size_t>(4, reads.size() - done));
    disk->ReleaseOne();
    Pump();
  }
  for (auto& read : reads) EXPECT_TRUE(read.ok());
}

TEST_F(StorageTest, OptionsBeyondTheirLimitsAreNamed) {
  Make();
  const auto create = [&](StorageOptions options) {
    options.instance_id = hvdef::MakeGuid("00000000-0000-0000-0000-000000000001");
    return StorageController::Create(*server_, executor_, options).status();
  };
  StorageOptions options;
  EXPECT_TRUE(create(options).ok());
  options.max_transfer_bytes = 65537;
  EXPECT_THAT(create(options).message(), testing::HasSubstr("max_transfer_bytes is 65537"));
  options = {};
  options.queue_depth = 0;
  EXPECT_THAT(create(options).message(), testing::HasSubstr("queue_depth is 0"));
  options = {};
  options.max_subchannels = 1000;
  EXPECT_THAT(create(options).message(), testing::HasSubstr("max_subchannels is 1000"));
}

TEST_F(StorageTest, AgreesWithByteArraysOnRandomTraffic) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  Make();
  constexpr size_t kBytes = 256 << 10;
  std::vector<std::vector<uint8_t>> models;
  std::vector<std::shared_ptr<MemoryDisk>> disks;
  for (uint8_t lun = 0; lun < 3; ++lun) {
    models.push_back(Pattern(kBytes, lun));
    disks.push_back(std::make_shared<MemoryDisk>(models.back()));
    ASSERT_TRUE(storage_->Attach(lun, disks.back()).ok());
  }
  auto opened = OpenReady();
  struct Traffic {
    vsc::StorageRequest request;
    GuestBuffer buffer;
    std::vector<uint8_t> expected;
  };
  std::vector<Traffic> traffic(24);
  for (auto& item : traffic) item.buffer = Allocate(32 << 10, 0, true);
  for (int round = 0; round < 1000; ++round) {
    const size_t count = 1 + random() % traffic.size();
    for (size_t i = 0; i < count; ++i) {
      Traffic& item = traffic[i];
      const size_t lun = random() % 3;
      const uint32_t blocks = 1 + random() % 60;
      const uint64_t lba = random() % (kBytes / 512 - blocks + 1);
      item.buffer.size_bytes = blocks * 512;
      item.buffer.offset = random() % 512 * 4;
      item.request.lun = lun;
      item.request.data = item.buffer.gpa_buffer();
      uint8_t* model = models[lun].data() + lba * 512;
      if (random() % 2 == 0) {
        item.request.SetRead(lba, blocks);
        item.expected.assign(model, model + blocks * 512);
      } else {
        item.request.SetWrite(lba, blocks, random() % 2);
        const auto data = Pattern(blocks * 512, random());
        Put(item.buffer, data);
        std::copy(data.begin(), data.end(), model);
        item.expected.clear();
      }
      ASSERT_TRUE(opened->client->Send(item.request));
    }
    opened->client->Publish();
    Pump();
    for (size_t i = 0; i < count; ++i) {
      ASSERT_TRUE(traffic[i].request.ok());
      ASSERT_EQ(traffic[i].request.transferred, traffic[i].buffer.size_bytes);
      if (!traffic[i].expected.empty()) {
        ASSERT_EQ(Get(traffic[i].buffer), traffic[i].expected);
      }
    }
  }
  for (size_t lun = 0; lun < 3; ++lun) EXPECT_EQ(disks[lun]->Contents(), models[lun]);
}

}  // namespace
}  // namespace hvsdk::vsp

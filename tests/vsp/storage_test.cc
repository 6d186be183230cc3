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
    EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint64_t>(Get(buffer).data()), (lun + 1) * 8u - 1);
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

// Commands of many steps, at a disk that is as quick as a page cache.
class QuickDisk : public BlockDevice {
 public:
  QuickDisk() { info_.size_bytes = uint64_t{1} << 50; }
  const BlockInfo& info() const override { return info_; }
  void Submit(absl::Span<BlockRequest* const> batch) override {
    for (BlockRequest* request : batch) {
      ++requests;
      bytes += request->size_bytes;
      if (is_holding) {
        held.push_back(request);
        continue;
      }
      request->on_complete(*request, BlockStatus::kOk);
    }
  }
  void ReleaseAll() {
    while (!held.empty()) {
      BlockRequest* const request = held.front();
      held.pop_front();
      request->on_complete(*request, BlockStatus::kOk);
    }
  }
  uint64_t requests = 0;
  uint64_t bytes = 0;
  bool is_holding = false;
  std::deque<BlockRequest*> held;

 private:
  BlockInfo info_;
};

class LongCommandTest : public StorageTest {
 protected:
  void SetUp() override {
    Make();
    disk_ = std::make_shared<QuickDisk>();
    ASSERT_TRUE(storage_->Attach(0, disk_).ok());
    opened_ = OpenReady();
    pattern_ = Allocate(512);
    Put(pattern_, Pattern(512));
  }
  // WRITE SAME of 64 MiB with a pattern that is not zero: 64 requests.
  void SendLong(vsc::StorageRequest& request) {
    request.SetTestUnitReady();
    request.cdb[0] = 0x93, request.cdb[11] = 0x02, request.cdb_length = 16;  // 0x20000 blocks
    request.data_direction = storvsc::kDataOut;
    request.data = pattern_.gpa_buffer();
    ASSERT_TRUE(opened_->client->Send(request));
  }

  std::shared_ptr<QuickDisk> disk_;
  std::unique_ptr<Opened> opened_;
  GuestBuffer pattern_;
};

TEST_F(LongCommandTest, LeavesOthersTheirTurn) {
  std::vector<vsc::StorageRequest> writes(100);
  for (auto& write : writes) SendLong(write);
  opened_->client->Publish();
  for (int turn = 0; turn < 10; ++turn) {
    const uint64_t before = disk_->bytes;
    ASSERT_TRUE(executor_.RunOne());
    ASSERT_LE(disk_->bytes - before, 256u << 20) << "a turn moves a bounded amount of data";
  }
  EXPECT_GT(disk_->bytes, 0u);
  child_->client().Close(opened_->channel);
  Pump();
  EXPECT_EQ(opened_->channel.state(), vsc::Channel::State::kNone);
  EXPECT_LT(disk_->requests, 3000u) << "of 6400";
}

TEST_F(LongCommandTest, EndsWhenItsDiskIsGone) {
  disk_->is_holding = true;
  vsc::StorageRequest write;
  SendLong(write);
  opened_->client->Publish();
  Pump();
  ASSERT_EQ(disk_->requests, 1u);
  ASSERT_TRUE(storage_->Detach(0).ok());
  Pump();
  EXPECT_FALSE(write.is_done);
  disk_->ReleaseAll();
  Pump();
  ASSERT_TRUE(write.is_done);
  EXPECT_EQ(write.srb_status & storvsc::kSrbStatusCodeMask, kInvalidLun);
  EXPECT_EQ(disk_->requests, 1u);
  EXPECT_EQ(disk_.use_count(), 1);
}

// --- Resets. ---

class ResetTest : public StorageTest {
 protected:
  void SetUp() override {
    StorageOptions options;
    options.max_subchannels = 1;
    Make(options);
    for (uint8_t lun = 0; lun < 2; ++lun) {
      disks_.push_back(std::make_shared<HoldingDisk>(Pattern(1 << 20)));
      ASSERT_TRUE(storage_->Attach(lun, disks_.back()).ok());
    }
    opened_ = OpenReadyRaw();
    buffer_ = Allocate(512);
  }
  // A read whose answer has yet to come; returns its transaction id.
  uint64_t Read(Opened& opened, uint8_t lun) {
    storvsc::Packet packet = Control(Operation::kExecuteSrb);
    packet.scsi.lun = lun;
    packet.scsi.data_in = storvsc::kDataIn;
    packet.scsi.cdb_length = 10;
    packet.scsi.payload[0] = 0x28, packet.scsi.payload[8] = 1;
    packet.scsi.data_transfer_length = 512;
    EXPECT_FALSE(SendRaw(opened, packet, sizeof(packet), &buffer_).came);
    return last_id_ * 0x1000000000001;
  }
  uint64_t Reset(Opened& opened, Operation operation, uint8_t lun = 0) {
    storvsc::Packet packet = Control(operation);
    packet.scsi.lun = lun;
    EXPECT_FALSE(SendRaw(opened, packet).came);
    return last_id_ * 0x1000000000001;
  }
  bool Came(Opened& opened, uint64_t id) {
    const RawAnswer answer = Receive(opened, id);
    EXPECT_TRUE(!answer.came || answer.packet.header.status == storvsc::Status::kSuccess);
    return answer.came;
  }
  void Release(uint8_t lun) {
    disks_[lun]->ReleaseOne();
    Pump();
  }

  std::vector<std::shared_ptr<HoldingDisk>> disks_;
  std::unique_ptr<Opened> opened_;
  GuestBuffer buffer_;
};

TEST_F(ResetTest, WithNothingUnderWayIsAnsweredAtOnce) {
  for (const Operation operation : {Operation::kResetBus, Operation::kResetAdapter, Operation::kResetLun}) {
    EXPECT_EQ(SendRaw(*opened_, Control(operation)).packet.header.status, storvsc::Status::kSuccess);
  }
  storvsc::Packet nobody = Control(Operation::kResetLun);
  nobody.scsi.lun = 63;
  EXPECT_EQ(SendRaw(*opened_, nobody).packet.header.status, storvsc::Status::kSuccess);
}

TEST_F(ResetTest, OfTheBusWaitsForEveryDisk) {
  for (const Operation operation : {Operation::kResetBus, Operation::kResetAdapter}) {
    const uint64_t first = Read(*opened_, 0), second = Read(*opened_, 1);
    const uint64_t reset = Reset(*opened_, operation);
    const uint64_t later = Read(*opened_, 0);
    Release(0);
    EXPECT_TRUE(Came(*opened_, first));
    EXPECT_FALSE(Came(*opened_, 0)) << "the other disk has a request";
    Release(1);
    EXPECT_TRUE(Came(*opened_, second));
    EXPECT_TRUE(Came(*opened_, reset)) << "and what came after it does not hold it up";
    Release(0);
    EXPECT_TRUE(Came(*opened_, later));
  }
}

TEST_F(ResetTest, OfALunWaitsForThatDiskAlone) {
  const uint64_t other = Read(*opened_, 1), own = Read(*opened_, 0);
  EXPECT_EQ(SendRaw(*opened_,
                    [] {
                      storvsc::Packet packet = Control(Operation::kResetLun);
                      packet.scsi.lun = 2;
                      return packet;
                    }())
                .packet.header.status,
            storvsc::Status::kSuccess);
  const uint64_t reset = Reset(*opened_, Operation::kResetLun, 0);
  Release(0);
  EXPECT_TRUE(Came(*opened_, own));
  EXPECT_TRUE(Came(*opened_, reset));
  Release(1);
  EXPECT_TRUE(Came(*opened_, other));
}

TEST_F(ResetTest, EndsACommandOfManySteps) {
  auto quick = std::make_shared<QuickDisk>();
  quick->is_holding = true;
  ASSERT_TRUE(storage_->Attach(2, quick).ok());
  Pump();
  alignas(8) uint8_t bytes[256];
  vmbus::Packet received;
  ASSERT_EQ(opened_->rings.incoming.Read(bytes, sizeof(bytes), received), vmbus::RingStatus::kOk);  // disks changed
  Put(buffer_, Pattern(512));
  storvsc::Packet packet = Control(Operation::kExecuteSrb);
  packet.scsi.lun = 2;
  packet.scsi.cdb_length = 16;
  packet.scsi.payload[0] = 0x93, packet.scsi.payload[11] = 0x02;
  packet.scsi.data_transfer_length = 512;
  EXPECT_FALSE(SendRaw(*opened_, packet, sizeof(packet), &buffer_).came);
  const uint64_t write = last_id_ * 0x1000000000001;
  const uint64_t reset = Reset(*opened_, Operation::kResetBus);
  quick->ReleaseAll();
  Pump();
  // The command's end first, then the reset's.
  const RawAnswer answer = Receive(*opened_, write);
  EXPECT_EQ(answer.packet.scsi.srb_status & storvsc::kSrbStatusCodeMask, static_cast<uint8_t>(SrbStatus::kAborted));
  EXPECT_TRUE(Came(*opened_, reset));
  EXPECT_EQ(quick->requests, 1u);
}

TEST_F(ResetTest, SeveralAreAnsweredInTheirOrder) {
  std::vector<uint64_t> ids;
  for (int i = 0; i < 5; ++i) {
    ids.push_back(Read(*opened_, 0));
    ids.push_back(Reset(*opened_, Operation::kResetLun));
    ids.push_back(Reset(*opened_, Operation::kResetBus));
  }
  for (int i = 0; i < 5; ++i) {
    Release(0);
    for (int part = 0; part < 3; ++part) EXPECT_TRUE(Came(*opened_, ids[3 * i + part]));
    EXPECT_FALSE(Came(*opened_, 0));
  }
}

TEST_F(ResetTest, WaitsForADiskThatWasPulledOutAndForOtherChannels) {
  storvsc::Packet create = Control(Operation::kCreateSubChannels, 1);
  EXPECT_EQ(SendRaw(*opened_, create).packet.header.status, storvsc::Status::kSuccess);
  auto sub = Open(1);
  const uint64_t read = Read(*sub, 0);
  ASSERT_TRUE(storage_->Detach(0).ok());
  Pump();
  alignas(8) uint8_t notice[256];
  vmbus::Packet packet;
  ASSERT_EQ(opened_->rings.incoming.Read(notice, sizeof(notice), packet), vmbus::RingStatus::kOk);  // disks changed
  const uint64_t reset = Reset(*opened_, Operation::kResetBus);
  Release(0);
  EXPECT_TRUE(Came(*sub, read));
  EXPECT_TRUE(Came(*opened_, reset));
}

TEST_F(ResetTest, OfALunWaitsForTheDiskThatWasPulledOutOfIt) {
  const uint64_t read = Read(*opened_, 0), other = Read(*opened_, 1);
  ASSERT_TRUE(storage_->Detach(0).ok());
  Pump();
  alignas(8) uint8_t notice[256];
  vmbus::Packet packet;
  ASSERT_EQ(opened_->rings.incoming.Read(notice, sizeof(notice), packet), vmbus::RingStatus::kOk);  // disks changed
  const uint64_t reset = Reset(*opened_, Operation::kResetLun, 0);
  EXPECT_FALSE(Came(*opened_, 0)) << "a command for that LUN is under way";
  Release(0);
  EXPECT_TRUE(Came(*opened_, read));
  EXPECT_TRUE(Came(*opened_, reset));
  Release(1);
  EXPECT_TRUE(Came(*opened_, other));
}

// A channel that closes takes its resets along, whatever other channels' commands do.
TEST_F(ResetTest, DoesNotHoldUpTheEndOfItsChannel) {
  EXPECT_EQ(SendRaw(*opened_, Control(Operation::kCreateSubChannels, 1)).packet.header.status,
            storvsc::Status::kSuccess);
  auto sub = Open(1);
  const uint64_t read = Read(*opened_, 0);
  Reset(*sub, Operation::kResetBus);
  child_->client().Close(sub->channel);
  Pump();
  EXPECT_EQ(sub->channel.state(), vsc::Channel::State::kNone);
  Release(0);
  EXPECT_TRUE(Came(*opened_, read));
}

// --- The end. ---

class EndTest : public StorageTest {
 protected:
  // A command at the disk.
  void SetUp() override {
    Make();
    disk_ = std::make_shared<HoldingDisk>(Pattern(1 << 20));
    ASSERT_TRUE(storage_->Attach(3, disk_).ok());
    opened_ = OpenReady();
    buffer_ = Allocate(512);
    read_.lun = 3;
    read_.SetRead(1, 1);
    read_.data = buffer_.gpa_buffer();
    ASSERT_TRUE(opened_->client->Send(read_));
    opened_->client->Publish();
    Pump();
    ASSERT_EQ(disk_->held(), 1u);
  }

  std::shared_ptr<HoldingDisk> disk_;
  std::unique_ptr<Opened> opened_;
  GuestBuffer buffer_;
  vsc::StorageRequest read_;
};

TEST_F(EndTest, StopSaysWhenTheDisksHaveLetGo) {
  int idle = 0;
  storage_->Stop([&] { ++idle; });
  Pump();
  EXPECT_EQ(idle, 0);
  EXPECT_THAT(storage_->BusyDisks(), ElementsAre(3));
  disk_->ReleaseAll();
  Pump();
  EXPECT_EQ(idle, 1);
  EXPECT_THAT(storage_->BusyDisks(), ElementsAre());
  EXPECT_FALSE(read_.is_done) << "nothing is answered any more";
  // And nothing is taken any more.
  vsc::StorageRequest another;
  another.SetTestUnitReady();
  another.lun = 3;
  ASSERT_TRUE(opened_->client->Send(another));
  opened_->client->Publish();
  Pump();
  EXPECT_FALSE(another.is_done);
  EXPECT_EQ(idle, 1);
}

TEST_F(EndTest, StopOfAnIdleControllerIsOverAtOnce) {
  disk_->ReleaseAll();
  Pump();
  EXPECT_TRUE(read_.ok());
  int idle = 0;
  storage_->Stop([&] { ++idle; });
  Pump();
  EXPECT_EQ(idle, 1);
}

// A disk that does not answer holds up nobody. What it writes to lives until it has.
TEST_F(EndTest, WhatAGivenUpDiskWritesToOutlivesTheController) {
  memory_.SetOwner(bytes_);
  storage_->Stop([] { ADD_FAILURE() << "the disk has a request"; });
  Pump();
  std::weak_ptr<uint8_t> memory = bytes_;
  storage_.reset();
  server_.reset();
  EXPECT_EQ(disk_->held(), 1u);
  memory_.SetOwner(nullptr);
  bytes_.reset();
  EXPECT_FALSE(memory.expired());
  std::thread(&HoldingDisk::ReleaseAll, disk_.get()).join();  // writes the guest's page
  EXPECT_TRUE(memory.expired());
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

// A guest of before flow control makes room without a word, or never. It is looked at now and then, and nobody
// runs meanwhile.
TEST_F(StorageTest, AGuestThatDoesNotSignalRoomIsNotPolled) {
  StorageOptions options;
  options.queue_depth = 16;
  Make(options);
  ASSERT_TRUE(storage_->Attach(0, std::make_shared<MemoryDisk>(Pattern(1 << 20))).ok());
  auto opened = Open(0, /*ring_pages=*/2);
  opened->client->Start();
  Pump();
  opened->rings.outgoing.memory().control()->feature_bits = 0;
  opened->channel.on_signal = nullptr;  // it does not read
  std::vector<vsc::StorageRequest> requests(128);
  size_t sent = 0;
  for (int round = 0; round < 10; ++round) {
    while (sent < requests.size() && (requests[sent].SetTestUnitReady(), opened->client->Send(requests[sent]))) ++sent;
    opened->client->Publish();
    Pump();
  }
  ASSERT_LT(sent, requests.size()) << "both rings are full";
  size_t turns = 0;
  for (int i = 0; i < 10'000; ++i) {  // ten seconds
    timers_.AdvanceBy(10'000);
    turns += executor_.RunUntilIdle();
  }
  EXPECT_GE(turns, 90u);
  EXPECT_LE(turns, 240u);
  const auto count_done = [&] {
    size_t done = 0;
    for (auto& request : requests) done += request.ok();
    return done;
  };
  for (int round = 0; round < 100 && count_done() < sent; ++round) {
    opened->client->OnSignal();
    timers_.AdvanceBy(1'000'000);
    executor_.RunUntilIdle();
  }
  EXPECT_EQ(count_done(), sent);
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

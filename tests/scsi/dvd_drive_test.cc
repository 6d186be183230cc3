// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/scsi/dvd_drive.h"

#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/mmc.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "hvsdk/image/memory_disk.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"

namespace hvsdk::scsi {
namespace {

using hvdef::scsi::Asc;
using hvdef::scsi::LoadBigEndian;
using hvdef::scsi::MediaEventCode;
using hvdef::scsi::OpCode;
using hvdef::scsi::SenseKey;
using hvdef::scsi::Status;

using Bytes = std::vector<uint8_t>;

constexpr uint32_t kBlocks = 100;

Bytes Contents(uint32_t blocks = kBlocks) {
  Bytes bytes(size_t{blocks} * 2048);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 2048);
  return bytes;
}

// A disc that is too large for memory, and is all zeroes; or one that cannot be read.
class HollowDisk : public BlockDevice {
 public:
  HollowDisk(uint64_t size_bytes, BlockStatus status) : status_(status) { info_.size_bytes = size_bytes; }
  const BlockInfo& info() const override { return info_; }
  void Submit(absl::Span<BlockRequest* const> batch) override {
    for (BlockRequest* request : batch) request->on_complete(*request, status_);
  }

 private:
  BlockInfo info_;
  const BlockStatus status_;
};

struct Waiting : ScsiCommand {
  BlockStatus outcome = BlockStatus::kOk;
  bool is_back = false;
};

class DvdDriveTest : public testing::Test {
 protected:
  // Answers with what was returned; `sense` becomes the key and the code of a check condition, or 0.
  Bytes Run(std::initializer_list<uint8_t> cdb, size_t room = 4096, DataDirection direction = DataDirection::kIn) {
    Waiting command;
    Bytes data(room, 0xEE);
    HostBuffer pieces[] = {{data.data(), room / 3}, {data.data() + room / 3, room - room / 3}};
    std::copy(cdb.begin(), cdb.end(), command.cdb);
    command.cdb_length = 16;
    command.data_direction = room == 0 ? DataDirection::kNone : direction;
    command.data_bytes = static_cast<uint32_t>(room);
    command.data = absl::MakeSpan(pieces);
    command.on_complete = [](BlockRequest& request, BlockStatus status) {
      static_cast<Waiting&>(request).outcome = status;
      static_cast<Waiting&>(request).is_back = true;
    };
    ScsiStep step = drive_.Start(command);
    while (step == ScsiStep::kSubmit) {
      BlockRequest* const one = &command;
      drive_.target(command).Submit({&one, 1});
      EXPECT_TRUE(command.is_back);
      step = drive_.Continue(command, command.outcome);
    }
    EXPECT_EQ(command.medium, nullptr);
    sense = command.status == Status::kGood ? 0
                                            : static_cast<uint32_t>(command.sense.sense_key) << 16 |
                                                  static_cast<uint32_t>(command.sense.additional_sense_code) << 8 |
                                                  command.sense.additional_sense_qualifier;
    EXPECT_LE(command.transferred, room);
    data.resize(command.status == Status::kGood ? command.transferred : 0);
    return data;
  }
  static uint32_t Sense(SenseKey key, Asc asc) { return static_cast<uint32_t>(key) << 16 | static_cast<uint32_t>(asc); }
  void InsertDisc(uint32_t blocks = kBlocks) {
    ASSERT_TRUE(drive_.Insert(std::make_shared<MemoryDisk>(Contents(blocks))).ok());
    Run({0x00});
    EXPECT_EQ(sense, Sense(SenseKey::kUnitAttention, Asc::kNotReadyToReadyChange));
    Run({0x00});
    EXPECT_EQ(sense, 0);
  }
  MediaEventCode Event(uint8_t* status = nullptr) {
    const Bytes data = Run({0x4A, 1, 0, 0, 0x10, 0, 0, 0, 8});
    EXPECT_EQ(data.size(), 8);
    EXPECT_THAT(Bytes(data.begin(), data.begin() + 4), testing::ElementsAre(0, 6, 4, 0x10));
    if (status != nullptr) *status = data[5];
    return static_cast<MediaEventCode>(data[4]);
  }

  uint32_t sense = 0;
  int ejected_ = 0;
  DvdDrive drive_{{.id = {1, 2, 3}, .on_ejected = [this] { ++ejected_; }}};
};

TEST_F(DvdDriveTest, IsHyperVsDrive) {
  const Bytes inquiry = Run({0x12, 0, 0, 0, 96});
  ASSERT_EQ(inquiry.size(), 96);
  EXPECT_EQ(inquiry[0], 5);
  EXPECT_EQ(inquiry[1], 0x80);
  EXPECT_EQ(std::string(inquiry.begin() + 8, inquiry.begin() + 36), "Msft    Virtual DVD-ROM 1.0 ");
  EXPECT_THAT(Run({0x12, 1, 0, 0, 96}), testing::ElementsAre(5, 0, 0, 3, 0, 0x80, 0x83));
  EXPECT_EQ(Run({0x12, 1, 0x80, 0, 96}).size(), 4 + 32);
  EXPECT_EQ(Run({0x12, 1, 0x83, 0, 96}).size(), 4 + 4 + 24 + 4 + 16);
  Run({0x12, 1, 0xB0, 0, 96});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb));
  // Nothing is ever written.
  for (const uint8_t write : {0x0A, 0x2A, 0xAA, 0x8A, 0x41, 0x42, 0x15, 0x55}) {
    Run({write, 0, 0, 0, 0, 0, 0, 0, 1}, 2048, DataDirection::kOut);
    EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidOpCode)) << int{write};
  }
}

TEST_F(DvdDriveTest, ReadsWhatIsThere) {
  Run({0x28, 0, 0, 0, 0, 0, 0, 0, 1});
  EXPECT_EQ(sense, Sense(SenseKey::kNotReady, Asc::kMediumNotPresentTrayClosed));
  InsertDisc();
  const Bytes all = Contents();
  EXPECT_THAT(Run({0x25}), testing::ElementsAre(0, 0, 0, kBlocks - 1, 0, 0, 8, 0));
  EXPECT_EQ(Run({0x28, 0, 0, 0, 0, 7, 0, 0, 2}), Bytes(all.begin() + 7 * 2048, all.begin() + 9 * 2048));
  EXPECT_EQ(Run({0xA8, 0, 0, 0, 0, kBlocks - 1, 0, 0, 0, 1}), Bytes(all.end() - 2048, all.end()));
  EXPECT_EQ(Run({0x28, 0, 0, 0, 0, kBlocks, 0, 0, 0}).size(), 0);
  EXPECT_EQ(sense, 0);
  for (const auto& [lba, count] : {std::pair<uint8_t, uint8_t>{kBlocks, 1}, {kBlocks - 1, 2}, {255, 0}}) {
    Run({0x28, 0, 0, 0, 0, lba, 0, 0, count});
    EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kLbaOutOfRange));
  }
  Run({0xA8, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kLbaOutOfRange));
  // A buffer that is too short, or for the other way.
  Run({0x28, 0, 0, 0, 0, 0, 0, 0, 3});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb));
  Run({0x28, 0, 0, 0, 0, 0, 0, 0, 1}, 4096, DataDirection::kOut);
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb));
  // What is not a whole block of a disc is not there.
  ASSERT_TRUE(drive_.Eject(false).ok());
  Bytes odd = Contents();
  odd.resize(odd.size() - 512);
  ASSERT_TRUE(drive_.Insert(std::make_shared<MemoryDisk>(odd)).ok());
  Run({0x00});
  EXPECT_EQ(Run({0x25})[3], kBlocks - 2);
  EXPECT_TRUE(absl::IsInvalidArgument(drive_.Insert(std::make_shared<MemoryDisk>(Bytes(1024)))));
  // A bad medium.
  ASSERT_TRUE(drive_.Insert(std::make_shared<HollowDisk>(1 << 20, BlockStatus::kIoError)).ok());
  Run({0x00});
  Run({0x28, 0, 0, 0, 0, 0, 0, 0, 1});
  EXPECT_EQ(sense, Sense(SenseKey::kMediumError, Asc::kUnrecoveredReadError));
}

TEST_F(DvdDriveTest, MediaComeAndGo) {
  uint8_t status;
  EXPECT_EQ(Event(&status), MediaEventCode::kNone);
  EXPECT_EQ(status, 0);
  InsertDisc();
  EXPECT_EQ(Event(&status), MediaEventCode::kNewMedia);
  EXPECT_EQ(status, hvdef::scsi::kMediaPresent);
  EXPECT_EQ(Event(), MediaEventCode::kNone);
  // Locked, it is asked for.
  Run({0x1E, 0, 0, 0, 1}, 0);
  EXPECT_TRUE(drive_.is_locked());
  EXPECT_TRUE(absl::IsFailedPrecondition(drive_.Eject(false)));
  EXPECT_TRUE(absl::IsFailedPrecondition(drive_.Insert(std::make_shared<MemoryDisk>(Contents()))));
  EXPECT_EQ(Event(), MediaEventCode::kEjectRequest);
  Run({0x1B, 0, 0, 0, 2}, 0);
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kMediumRemovalPrevented));
  Run({0x1E, 0, 0, 0, 0}, 0);
  Run({0x1B, 0, 0, 0, 2}, 0);
  EXPECT_EQ(sense, 0);
  EXPECT_EQ(ejected_, 1);
  EXPECT_EQ(drive_.medium(), nullptr);
  EXPECT_EQ(Event(&status), MediaEventCode::kMediaRemoval);
  EXPECT_EQ(status, hvdef::scsi::kMediaTrayOpen);
  Run({0x00});
  EXPECT_EQ(sense, Sense(SenseKey::kNotReady, Asc::kMediumNotPresentTrayOpen));
  EXPECT_EQ(Run({0xBD, 0, 0, 0, 0, 0, 0, 0, 0, 8})[1], hvdef::scsi::kDoorOpen);
  Run({0x1B, 0, 0, 0, 3}, 0);  // the tray closes, and nothing is in it
  Run({0x00});
  EXPECT_EQ(sense, Sense(SenseKey::kNotReady, Asc::kMediumNotPresentTrayClosed));
  EXPECT_TRUE(absl::IsNotFound(drive_.Eject(true)));
  InsertDisc();
  Run({0x1E, 0, 0, 0, 1}, 0);
  EXPECT_TRUE(drive_.Eject(true).ok());
  EXPECT_EQ(ejected_, 1);  // of itself the host knows
  EXPECT_FALSE(drive_.is_locked());
  // Without autosense it is kept.
  Run({0x4A, 0, 0, 0, 0x10, 0, 0, 0, 8});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb));
  EXPECT_THAT(Run({0x4A, 1, 0, 0, 0x02, 0, 0, 0, 8}), testing::ElementsAre(0, 2, 0x80, 0x10));
}

TEST_F(DvdDriveTest, AMediumStaysUntilItsReadsHaveEnded) {
  auto disc = std::make_shared<MemoryDisk>(Contents());
  const std::weak_ptr<MemoryDisk> held = disc;
  ASSERT_TRUE(drive_.Insert(std::move(disc)).ok());
  Run({0x00});
  ScsiCommand command;
  Bytes data(2048);
  HostBuffer buffer{data.data(), data.size()};
  command.cdb[0] = 0x28;
  command.cdb[8] = 1;
  command.cdb_length = 10;
  command.data_direction = DataDirection::kIn;
  command.data_bytes = 2048;
  command.data = {&buffer, 1};
  ASSERT_EQ(drive_.Start(command), ScsiStep::kSubmit);
  ASSERT_TRUE(drive_.Eject(false).ok());
  EXPECT_FALSE(held.expired());
  EXPECT_EQ(drive_.devices().size(), 1);
  EXPECT_EQ(drive_.Continue(command, BlockStatus::kOk), ScsiStep::kDone);
  EXPECT_TRUE(held.expired());
  EXPECT_TRUE(drive_.devices().empty());
}

TEST_F(DvdDriveTest, SaysWhatItAndItsDiscAre) {
  // Empty, it has no profile.
  Bytes features = Run({0x46, 0, 0, 0, 0, 0, 0, 0, 255});
  EXPECT_EQ(LoadBigEndian<uint32_t>(features.data()), features.size() - 4);
  EXPECT_EQ(features[7], 0);
  InsertDisc();
  EXPECT_EQ(Run({0x46, 0, 0, 0, 0, 0, 0, 0, 255})[7], hvdef::scsi::kProfileCdRom);
  EXPECT_THAT(Run({0x43, 0, 0, 0, 0, 0, 1, 0, 255}),
              testing::ElementsAre(0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xAA, 0, 0, 0, 0, kBlocks));
  // Block 100 is minute 0, second 3, frame 25, behind the lead-in's two seconds.
  EXPECT_THAT(Run({0x43, 2, 0, 0, 0, 0, 0xAA, 0, 255}),
              testing::ElementsAre(0, 10, 1, 1, 0, 0x14, 0xAA, 0, 0, 0, 3, 25));
  EXPECT_THAT(Run({0x43, 0, 1, 0, 0, 0, 0, 0, 255}), testing::ElementsAre(0, 10, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0));
  EXPECT_EQ(Run({0x43, 2, 2, 0, 0, 0, 1, 0, 255}).size(), 4 + 4 * 11);
  Run({0x43, 0, 0, 0, 0, 0, 2, 0, 255});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb));
  const Bytes disc = Run({0x51, 0, 0, 0, 0, 0, 0, 0, 34});
  ASSERT_EQ(disc.size(), 34);
  EXPECT_THAT(Bytes(disc.begin(), disc.begin() + 8), testing::ElementsAre(0, 32, 0x0E, 1, 1, 1, 1, 0x20));
  const Bytes track = Run({0x52, 1, 0, 0, 0, 1, 0, 0, 32});
  ASSERT_EQ(track.size(), 32);
  EXPECT_EQ(LoadBigEndian<uint32_t>(&track[24]), kBlocks);
  const Bytes capabilities = Run({0x5A, 8, 0x2A, 0, 0, 0, 0, 0, 255});
  ASSERT_EQ(capabilities.size(), 8 + 20);
  EXPECT_EQ(capabilities[8], 0x2A);
  EXPECT_EQ(capabilities[10] & 8, 8);
  EXPECT_EQ(Run({0x1A, 0, 0x3F, 0, 255}).size(), 4 + 12 + 20);
  Run({0x1A, 0, 0x08, 0, 255});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb));
  Run({0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 4});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb)) << "a CD has none";
  // 4.7 GB.
  ASSERT_TRUE(drive_.Eject(false).ok());
  constexpr uint32_t kDvdBlocks = 2295104;
  ASSERT_TRUE(drive_.Insert(std::make_shared<HollowDisk>(uint64_t{kDvdBlocks} * 2048, BlockStatus::kOk)).ok());
  Run({0x00});
  EXPECT_EQ(Run({0x46, 0, 0, 0, 0, 0, 0, 0, 255})[7], hvdef::scsi::kProfileDvdRom);
  const Bytes one = Run({0x46, 2, 0, 0x1F, 0, 0, 0, 0, 255});
  EXPECT_THAT(Bytes(one.begin() + 8, one.end()), testing::ElementsAre(0, 0x1F, 0x05, 4, 0, 0, 0, 0));
  const Bytes layer = Run({0xAD, 0, 0, 0, 0, 0, 0, 0, 8, 4});
  ASSERT_EQ(layer.size(), 2052);
  EXPECT_EQ(LoadBigEndian<uint32_t>(&layer[4 + 8]), 0x30000 + kDvdBlocks - 1);
}

TEST_F(DvdDriveTest, ReadCdGivesUserDataOfCds) {
  const uint32_t illegal_field = Sense(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  Run({0xBE, 0, 0, 0, 0, 3, 0, 0, 2, 0x10, 0, 0});
  EXPECT_EQ(sense, Sense(SenseKey::kNotReady, Asc::kMediumNotPresentTrayClosed));
  InsertDisc();
  const Bytes all = Contents();
  for (const uint8_t type : {0, 2}) {
    const Bytes read = Run({0xBE, static_cast<uint8_t>(type << 2), 0, 0, 0, 3, 0, 0, 2, 0x10, 0, 0});
    EXPECT_EQ(sense, 0);
    EXPECT_EQ(read, Bytes(all.begin() + 3 * 2048, all.begin() + 5 * 2048));
  }
  EXPECT_TRUE(Run({0xBE, 0, 0, 0, 0, 3, 0, 0, 2, 0, 0, 0}).empty());
  EXPECT_EQ(sense, 0);
  Run({0xBE, 1 << 2, 0, 0, 0, 3, 0, 0, 2, 0x10, 0, 0});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kIllegalModeForThisTrack)) << "it has no sound";
  for (const uint8_t fields : {0xF8, 0x12, 0x14}) {
    Run({0xBE, 0, 0, 0, 0, 3, 0, 0, 1, fields, 0, 0});
    EXPECT_EQ(sense, illegal_field);
  }
  Run({0xBE, 0, 0, 0, 0, 3, 0, 0, 1, 0x10, 1, 0});
  EXPECT_EQ(sense, illegal_field);
  for (const uint8_t fields : {0x10, 0}) {
    Run({0xBE, 0, 0, 0, 0, kBlocks - 1, 0, 0, 2, fields, 0, 0});
    EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kLbaOutOfRange));
  }
  Run({0xBE, 0, 0, 0, 0, 3, 1, 0, 0, 0x10, 0, 0});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kLbaOutOfRange)) << "all three bytes of the length count";
  ASSERT_TRUE(drive_.Eject(false).ok());
  ASSERT_TRUE(drive_.Insert(std::make_shared<HollowDisk>(uint64_t{2295104} * 2048, BlockStatus::kOk)).ok());
  Run({0x00});
  Run({0xBE, 0, 0, 0, 0, 3, 0, 0, 1, 0x10, 0, 0});
  EXPECT_EQ(sense, Sense(SenseKey::kIllegalRequest, Asc::kInvalidOpCode)) << "a DVD has no such sectors";
}

TEST_F(DvdDriveTest, RandomCommandsAreAnswered) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  const uint32_t count = ScaledCount(20000);
  constexpr uint8_t kOps[] = {0x00, 0x03, 0x12, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2B, 0x43, 0x46,
                              0x4A, 0x51, 0x52, 0x5A, 0xA8, 0xAD, 0xBB, 0xBD, 0xBE, 0x35, 0x1D};
  for (uint32_t i = 0; i < count; ++i) {
    uint8_t cdb[16];
    for (uint8_t& byte : cdb) byte = static_cast<uint8_t>(random() % 3 == 0 ? random() : random() % 4);
    if (random() % 8 != 0) cdb[0] = kOps[random() % std::size(kOps)];
    if (random() % 50 == 0) (void)drive_.Insert(std::make_shared<MemoryDisk>(Contents(1 + random() % 8)));
    if (random() % 50 == 0) (void)drive_.Eject(random() % 2 == 0);
    const size_t room = random() % 3 == 0 ? random() % 64 : random() % 8192;
    Run({cdb[0], cdb[1], cdb[2], cdb[3], cdb[4], cdb[5], cdb[6], cdb[7], cdb[8], cdb[9], cdb[10], cdb[11]}, room,
        static_cast<DataDirection>(random() % 3));
  }
}

}  // namespace
}  // namespace hvsdk::scsi

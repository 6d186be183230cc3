// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/scsi/scsi_disk.h"

#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "hvsdk/image/memory_disk.h"
#include "tests/random_seed.h"

namespace hvsdk::scsi {
namespace {

using hvdef::scsi::Asc;
using hvdef::scsi::SenseKey;
using hvdef::scsi::Status;
using testing::ElementsAre;

// A memory disk that notes what it was asked for and fails on demand.
class WatchedDisk : public BlockDevice {
 public:
  explicit WatchedDisk(std::vector<uint8_t> contents, BlockInfo info = MemoryDisk::DefaultInfo())
      : disk_(std::move(contents), std::move(info)) {}
  const BlockInfo& info() const override { return disk_.info(); }
  void Submit(absl::Span<BlockRequest* const> batch) override {
    for (BlockRequest* request : batch) {
      ops.push_back({request->op, request->fua, request->offset_bytes, request->size_bytes});
      uint64_t buffered = 0;
      for (const HostBuffer& buffer : request->buffers) buffered += buffer.size_bytes;
      const bool transfers = request->op == BlockOp::kRead || request->op == BlockOp::kWrite;
      EXPECT_EQ(buffered, transfers ? request->size_bytes : 0) << "buffers and size agree";
      if (writes_lost && (request->op == BlockOp::kFlush || (request->fua && request->op != BlockOp::kRead))) {
        request->on_complete(*request, BlockStatus::kWritesLost);
      } else if (fail_next != BlockStatus::kOk && succeed_before-- == 0) {
        succeed_before = 0;
        const BlockStatus status = fail_next;
        fail_next = BlockStatus::kOk;
        request->on_complete(*request, status);
      } else {
        disk_.Submit({&request, 1});
      }
    }
  }
  std::vector<uint8_t> Contents() const { return disk_.Contents(); }

  struct Op {
    BlockOp op;
    bool fua;
    uint64_t offset_bytes;
    uint64_t size_bytes;
    bool operator==(const Op&) const = default;
  };
  std::vector<Op> ops;
  BlockStatus fail_next = BlockStatus::kOk;
  size_t succeed_before = 0;  // requests before that one
  bool writes_lost = false;   // a sync has failed: nothing more is said to last

 private:
  MemoryDisk disk_;
};

struct Answer {
  Status status;
  bool data_overrun;
  uint32_t transferred;
  bool has_sense;
  SenseKey key;
  Asc asc;
  hvdef::scsi::FixedSense sense;
};

class ScsiDiskTest : public testing::Test {
 protected:
  static constexpr size_t kBlocks = 4096;

  void SetUp() override { Make(MemoryDisk::DefaultInfo()); }

  void Make(BlockInfo info) {
    std::vector<uint8_t> contents(kBlocks * 512);
    for (size_t i = 0; i < contents.size(); ++i) contents[i] = static_cast<uint8_t>(i / 512 * 7 + i);
    medium_ = std::make_shared<WatchedDisk>(contents, info);
    ScsiDiskOptions options;
    for (size_t i = 0; i < 16; ++i) options.id[i] = static_cast<uint8_t>(0xA0 + i);
    disk_ = std::make_unique<ScsiDisk>(medium_, options);
  }

  // Runs a command whose data is cut into pieces of odd sizes.
  Answer Run(std::vector<uint8_t> cdb, std::vector<uint8_t>* data, DataDirection direction, bool autosense = true) {
    struct Driven : ScsiCommand {
      BlockStatus outcome = BlockStatus::kOk;
    } command;
    std::copy(cdb.begin(), cdb.end(), command.cdb);
    command.cdb_length = static_cast<uint8_t>(cdb.size());
    command.data_direction = direction;
    command.autosense = autosense;
    std::vector<HostBuffer> pieces;
    if (data != nullptr) {
      command.data_bytes = static_cast<uint32_t>(data->size());
      for (size_t at = 0; at < data->size();) {
        const size_t piece = std::min<size_t>(data->size() - at, 1 + random_() % 5000);
        pieces.push_back({data->data() + at, piece});
        at += piece;
      }
    }
    command.data = absl::MakeSpan(pieces);
    command.on_complete = [](BlockRequest& request, BlockStatus status) {
      static_cast<Driven&>(request).outcome = status;
    };
    for (ScsiStep step = disk_->Start(command); step == ScsiStep::kSubmit;
         step = disk_->Continue(command, command.outcome)) {
      BlockRequest* request = &command;
      disk_->device().Submit({&request, 1});
    }
    EXPECT_EQ(command.work, nullptr);
    const auto asc =
        static_cast<Asc>(command.sense.additional_sense_code << 8 | command.sense.additional_sense_qualifier);
    return {command.status,
            command.data_overrun,
            command.transferred,
            command.has_sense,
            static_cast<SenseKey>(command.sense.sense_key),
            asc,
            command.sense};
  }
  Answer In(std::vector<uint8_t> cdb, std::vector<uint8_t>& data) {
    return Run(std::move(cdb), &data, DataDirection::kIn);
  }
  Answer Out(std::vector<uint8_t> cdb, std::vector<uint8_t>& data) {
    return Run(std::move(cdb), &data, DataDirection::kOut);
  }
  Answer None(std::vector<uint8_t> cdb) { return Run(std::move(cdb), nullptr, DataDirection::kNone); }

  static void ExpectSense(const Answer& answer, SenseKey key, Asc asc) {
    EXPECT_EQ(answer.status, Status::kCheckCondition);
    EXPECT_TRUE(answer.has_sense);
    EXPECT_EQ(answer.key, key);
    EXPECT_EQ(answer.asc, asc);
    EXPECT_EQ(answer.transferred, 0u);
    EXPECT_EQ(answer.sense.response_code & 0x7F, 0x70);
    EXPECT_EQ(answer.sense.additional_sense_length, 10);
  }
  static void ExpectGood(const Answer& answer, uint32_t transferred) {
    EXPECT_EQ(answer.status, Status::kGood);
    EXPECT_FALSE(answer.data_overrun);
    EXPECT_FALSE(answer.has_sense);
    EXPECT_EQ(answer.transferred, transferred);
  }

  std::mt19937_64 random_{1};
  std::shared_ptr<WatchedDisk> medium_;
  std::unique_ptr<ScsiDisk> disk_;
};

std::vector<uint8_t> Rw10(uint8_t op, uint32_t lba, uint16_t blocks, uint8_t flags = 0) {
  return {op,           flags, uint8_t(lba >> 24),   uint8_t(lba >> 16), uint8_t(lba >> 8),
          uint8_t(lba), 0,     uint8_t(blocks >> 8), uint8_t(blocks),    0};
}
std::vector<uint8_t> Rw12(uint8_t op, uint32_t lba, uint32_t blocks, uint8_t flags = 0) {
  return {op,
          flags,
          uint8_t(lba >> 24),
          uint8_t(lba >> 16),
          uint8_t(lba >> 8),
          uint8_t(lba),
          uint8_t(blocks >> 24),
          uint8_t(blocks >> 16),
          uint8_t(blocks >> 8),
          uint8_t(blocks),
          0,
          0};
}
std::vector<uint8_t> Rw16(uint8_t op, uint64_t lba, uint32_t blocks, uint8_t flags = 0) {
  std::vector<uint8_t> cdb = {op, flags};
  for (int shift = 56; shift >= 0; shift -= 8) cdb.push_back(uint8_t(lba >> shift));
  for (int shift = 24; shift >= 0; shift -= 8) cdb.push_back(uint8_t(blocks >> shift));
  cdb.insert(cdb.end(), {0, 0});
  return cdb;
}
std::vector<uint8_t> Rw6(uint8_t op, uint32_t lba, uint8_t blocks) {
  return {op, uint8_t(lba >> 16 & 0x1F), uint8_t(lba >> 8), uint8_t(lba), blocks, 0};
}

TEST_F(ScsiDiskTest, InquirySaysAVirtualDiskOfSpc3) {
  std::vector<uint8_t> data(96, 0xEE);
  ExpectGood(In({0x12, 0, 0, 0, 36, 0}, data), 36);
  EXPECT_EQ(data[0], 0);  // direct access, connected
  EXPECT_EQ(data[2], 5);  // SPC-3
  EXPECT_EQ(data[3], 2);
  EXPECT_EQ(data[4], 99);
  EXPECT_EQ(data[7], 2);  // command queuing
  EXPECT_EQ(std::string(data.begin() + 8, data.begin() + 36), "Msft    Virtual Disk    1.0 ");
  EXPECT_EQ(data[36], 0xEE) << "no more than the allocation length";
  ExpectSense(In({0x12, 0, 0x80, 0, 36, 0}, data), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  ExpectSense(In({0x12, 1, 0x85, 0, 36, 0}, data), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
}

TEST_F(ScsiDiskTest, VitalProductData) {
  std::vector<uint8_t> data(255);
  ExpectGood(In({0x12, 1, 0x00, 0, 255, 0}, data), 10);
  EXPECT_THAT(std::vector<uint8_t>(data.begin(), data.begin() + 10),
              ElementsAre(0, 0, 0, 6, 0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2));
  for (size_t i = 4; i < 10; ++i) {  // every page that is listed exists, and says its own length
    std::vector<uint8_t> page(255);
    const Answer answer = In({0x12, 1, data[i], 0, 255, 0}, page);
    EXPECT_EQ(answer.status, Status::kGood);
    EXPECT_EQ(page[1], data[i]);
    EXPECT_EQ(answer.transferred, 4u + (page[2] << 8 | page[3]));
  }
  ExpectGood(In({0x12, 1, 0x80, 0, 255, 0}, data), 36);
  EXPECT_EQ(std::string(data.begin() + 4, data.begin() + 36), "a0a1a2a3a4a5a6a7a8a9aaabacadaeaf");
  ExpectGood(In({0x12, 1, 0x83, 0, 255, 0}, data), 52);
  EXPECT_THAT(std::vector<uint8_t>(data.begin() + 4, data.begin() + 20),
              ElementsAre(1, 1, 0, 24, 'M', 's', 'f', 't', ' ', ' ', ' ', ' ', 0xA0, 0xA1, 0xA2, 0xA3));
  EXPECT_THAT(std::vector<uint8_t>(data.begin() + 32, data.begin() + 52),
              ElementsAre(1, 3, 0, 16, 0x60, 0x02, 0x24, 0x80, 0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0xA5, 0xAA, 0xAB, 0xAC,
                          0xAD, 0xAE, 0xAF));
  ExpectGood(In({0x12, 1, 0xB0, 0, 255, 0}, data), 64);
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint32_t>(&data[8]), (1u << 20) / 512);
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint32_t>(&data[24]), 256u);
  ExpectGood(In({0x12, 1, 0xB2, 0, 255, 0}, data), 8);
  EXPECT_EQ(data[5], 0xE4);  // LBPU, LBPWS, LBPWS10, LBPRZ
}

TEST_F(ScsiDiskTest, ADiskWithoutDiscardDoesNotOfferIt) {
  BlockInfo info = MemoryDisk::DefaultInfo();
  info.can_discard = false;
  Make(info);
  std::vector<uint8_t> data(64);
  ExpectGood(In({0x12, 1, 0xB2, 0, 64, 0}, data), 8);
  EXPECT_EQ(data[5], 0);
  ExpectGood(In({0x12, 1, 0xB0, 0, 64, 0}, data), 64);
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint32_t>(&data[20]), 0u);
  ExpectGood(In({0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, data), 32);
  EXPECT_EQ(data[14], 0);
  std::vector<uint8_t> list(24);
  ExpectSense(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, list), SenseKey::kIllegalRequest, Asc::kInvalidOpCode);
}

TEST_F(ScsiDiskTest, Capacity) {
  std::vector<uint8_t> data(32);
  ExpectGood(In({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, data), 8);
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint32_t>(&data[0]), kBlocks - 1);
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint32_t>(&data[4]), 512u);
  ExpectGood(In({0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, data), 32);
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint64_t>(&data[0]), kBlocks - 1);
  EXPECT_EQ(data[14] >> 6, 3);
  ExpectSense(In({0x9E, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, data), SenseKey::kIllegalRequest,
              Asc::kInvalidFieldInCdb);
}

TEST_F(ScsiDiskTest, CapacityBeyond2TiBNeedsTheLongCommand) {
  class Huge : public BlockDevice {
   public:
    Huge() { info_.size_bytes = uint64_t{3} << 40, info_.physical_block_bytes = 4096; }
    const BlockInfo& info() const override { return info_; }
    void Submit(absl::Span<BlockRequest* const>) override { ADD_FAILURE(); }
    BlockInfo info_;
  };
  disk_ = std::make_unique<ScsiDisk>(std::make_shared<Huge>(), ScsiDiskOptions{});
  std::vector<uint8_t> data(32);
  ExpectGood(In({0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0}, data), 8);
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint32_t>(&data[0]), 0xFFFFFFFF);
  ExpectGood(In({0x9E, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, data), 32);
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint64_t>(&data[0]), (uint64_t{3} << 40) / 512 - 1);
  EXPECT_EQ(data[13], 3) << "eight logical blocks in a physical one";
}

TEST_F(ScsiDiskTest, ModeSense) {
  std::vector<uint8_t> data(192);
  ExpectGood(In({0x1A, 0, 0x3F, 0, 192, 0}, data), 4 + 8 + 12 + 20 + 12);
  EXPECT_EQ(data[0], 4 + 8 + 12 + 20 + 12 - 1);
  EXPECT_EQ(data[2], 0x10);  // DPOFUA, not write protected
  EXPECT_EQ(data[3], 8);
  ExpectGood(In({0x1A, 8, 0x08, 0, 192, 0}, data), 24);
  EXPECT_THAT(std::vector<uint8_t>(data.begin(), data.begin() + 7), ElementsAre(23, 0, 0x10, 0, 8, 18, 4));
  ExpectGood(In({0x5A, 8, 0x08, 0, 0, 0, 0, 0, 192, 0}, data), 28);
  EXPECT_THAT(std::vector<uint8_t>(data.begin(), data.begin() + 11), ElementsAre(0, 26, 0, 0x10, 0, 0, 0, 0, 8, 18, 4));
  ExpectGood(In({0x1A, 8, 0x08, 0, 4, 0}, data), 4);
  ExpectSense(In({0x1A, 8, 0xC8, 0, 192, 0}, data), SenseKey::kIllegalRequest, Asc::kSavingParametersNotSupported);
  ExpectSense(In({0x1A, 8, 0x1C, 0, 192, 0}, data), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
}

TEST_F(ScsiDiskTest, SwitchingTheWriteCacheOffFlushesAndForcesWrites) {
  std::vector<uint8_t> list = {0, 0, 0, 0, 8, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  ExpectGood(Out({0x15, 0x10, 0, 0, 24, 0}, list), 24);
  EXPECT_THAT(medium_->ops, ElementsAre(WatchedDisk::Op{BlockOp::kFlush, false, 0, 0}));
  std::vector<uint8_t> block(512);
  ExpectGood(Out(Rw10(0x2A, 5, 1), block), 512);
  EXPECT_EQ(medium_->ops.back(), (WatchedDisk::Op{BlockOp::kWrite, true, 5 * 512, 512}));
  std::vector<uint8_t> data(24);
  ExpectGood(In({0x1A, 8, 0x08, 0, 24, 0}, data), 24);
  EXPECT_EQ(data[6], 0) << "WCE is off";
  ExpectGood(In({0x1A, 8, 0x88, 0, 24, 0}, data), 24);
  EXPECT_EQ(data[6], 4) << "and on by default";
  list[6] = 4;
  ExpectGood(Out({0x15, 0x10, 0, 0, 24, 0}, list), 24);
  ExpectGood(Out(Rw10(0x2A, 5, 1), block), 512);
  EXPECT_FALSE(medium_->ops.back().fua);
  list[6] = 5;  // RCD cannot be changed
  ExpectSense(Out({0x15, 0x10, 0, 0, 24, 0}, list), SenseKey::kIllegalRequest, Asc::kInvalidFieldInParameterList);
  ExpectSense(Out({0x15, 0x10, 0, 0, 23, 0}, list), SenseKey::kIllegalRequest, Asc::kParameterListLengthError);
}

TEST_F(ScsiDiskTest, ModeSelectChangesNothingButTheWriteCache) {
  // What MODE SENSE (10) returns can be sent back: a header, the blocks, and all pages.
  std::vector<uint8_t> all(8 + 8 + 12 + 20 + 12);
  ExpectGood(In({0x5A, 0, 0x3F, 0, 0, 0, 0, 0, uint8_t(all.size()), 0}, all), static_cast<uint32_t>(all.size()));
  all[0] = all[1] = 0;  // reserved here
  const auto select = [&](const std::vector<uint8_t>& list, size_t size_bytes) {
    std::vector<uint8_t> data = list;
    return Out({0x55, 0x10, 0, 0, 0, 0, 0, 0, uint8_t(size_bytes), 0}, data);
  };
  const auto expect_refused = [&](const std::vector<uint8_t>& list) {
    ExpectSense(select(list, list.size()), SenseKey::kIllegalRequest, Asc::kInvalidFieldInParameterList);
  };
  ExpectGood(select(all, all.size()), static_cast<uint32_t>(all.size()));

  // Another number of blocks, or blocks of another size, is no disk of ours.
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint32_t>(&all[8]), kBlocks);
  for (const size_t byte : {4, 8, 10, 11, 12, 13, 14, 15}) {  // 4: long block descriptors
    std::vector<uint8_t> other = all;
    other[byte] ^= 0x05;
    expect_refused(other);
  }
  for (const uint8_t open : {0x00, 0xFF}) {  // unchanged; as many as there are
    std::vector<uint8_t> other = all;
    std::fill(other.begin() + 8, other.begin() + 12, open);
    ExpectGood(select(other, other.size()), static_cast<uint32_t>(all.size()));
  }
  for (const uint8_t bigger : {0x02, 0x10}) {  // 512, 4096; with one page, and with none
    std::vector<uint8_t> one = {0, 0, 0, 8, 0, 0, 0, 0, 0, 0, bigger, 0, 8, 18, 4, 0};
    one.resize(4 + 8 + 20);
    for (const uint8_t size : {32, 12}) {
      const Answer answer = Out({0x15, 0x10, 0, 0, size, 0}, one);
      if (bigger == 0x02) {
        ExpectGood(answer, size);
      } else {
        ExpectSense(answer, SenseKey::kIllegalRequest, Asc::kInvalidFieldInParameterList);
      }
    }
  }
  std::vector<uint8_t> no_size = all;
  std::fill(no_size.begin() + 8, no_size.begin() + 16, uint8_t{0});
  expect_refused(no_size);
  ExpectSense(select(all, 8 + 7), SenseKey::kIllegalRequest, Asc::kParameterListLengthError);

  // No bit of a page but WCE can be changed.
  for (size_t byte = 16; byte < all.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      const bool is_wce = byte == 16 + 12 + 2 && bit == 2;
      const bool is_ps = bit == 7 && (byte == 16 || byte == 28 || byte == 48);  // reserved here
      if (is_wce || is_ps || byte == 17 || byte == 29 || byte == 49) continue;  // lengths
      std::vector<uint8_t> other = all;
      other[byte] = static_cast<uint8_t>(other[byte] ^ 1 << bit);
      SCOPED_TRACE(testing::Message() << "byte " << byte << " bit " << bit);
      expect_refused(other);
    }
  }
  EXPECT_TRUE(medium_->ops.empty());
  all[16 + 12 + 2] ^= 4;
  ExpectGood(select(all, all.size()), static_cast<uint32_t>(all.size()));
  EXPECT_EQ(medium_->ops.back().op, BlockOp::kFlush);
}

TEST_F(ScsiDiskTest, ReadsAndWritesOfEveryLength) {
  std::vector<uint8_t> block(512 * 3);
  for (auto& byte : block) byte = static_cast<uint8_t>(random_());
  const std::vector<std::vector<uint8_t>> writes = {Rw6(0x0A, 100, 3), Rw10(0x2A, 200, 3), Rw12(0xAA, 300, 3),
                                                    Rw16(0x8A, 400, 3)};
  for (const auto& cdb : writes) ExpectGood(Out(cdb, block), 512 * 3);
  const std::vector<std::vector<uint8_t>> reads = {Rw6(0x08, 400, 3), Rw10(0x28, 300, 3), Rw12(0xA8, 200, 3),
                                                   Rw16(0x88, 100, 3)};
  for (const auto& cdb : reads) {
    std::vector<uint8_t> back(512 * 3);
    ExpectGood(In(cdb, back), 512 * 3);
    EXPECT_EQ(back, block);
  }
  std::vector<uint8_t> many(256 * 512);
  ExpectGood(In(Rw6(0x08, 0, 0), many), 256 * 512);  // 0 means 256 in the short form
  medium_->ops.clear();
  ExpectGood(In(Rw10(0x28, 0, 0), many), 0);  // and nothing in the others
  EXPECT_TRUE(medium_->ops.empty());
}

TEST_F(ScsiDiskTest, ForceUnitAccessReachesTheDevice) {
  std::vector<uint8_t> block(512);
  ExpectGood(Out(Rw10(0x2A, 1, 1, 0x08), block), 512);
  EXPECT_TRUE(medium_->ops.back().fua);
  ExpectGood(Out(Rw16(0x8A, 1, 1, 0x08), block), 512);
  EXPECT_TRUE(medium_->ops.back().fua);
  ExpectGood(Out(Rw6(0x0A, 0x1F0000 & (kBlocks - 1), 1), block), 512);
  EXPECT_FALSE(medium_->ops.back().fua) << "in a short command these bits are part of the address";
  ExpectSense(Out(Rw10(0x2A, 1, 1, 0x20), block), SenseKey::kIllegalRequest,
              Asc::kInvalidFieldInCdb);  // protection information
}

TEST_F(ScsiDiskTest, AForcedReadComesFromTheMedium) {
  using Op = WatchedDisk::Op;
  const auto contents = medium_->Contents();
  for (const auto& cdb : {Rw10(0x28, 9, 3, 0x08), Rw12(0xA8, 9, 3, 0x08), Rw16(0x88, 9, 3, 0x18)}) {
    medium_->ops.clear();
    std::vector<uint8_t> data(4 * 512, 0xEE);
    ExpectGood(In(cdb, data), 3 * 512);
    EXPECT_THAT(medium_->ops,
                ElementsAre(Op{BlockOp::kFlush, false, 0, 0}, Op{BlockOp::kRead, false, 9 * 512, 3 * 512}))
        << "what is in a cache is written out before it is read";
    EXPECT_EQ(std::memcmp(data.data(), &contents[9 * 512], 3 * 512), 0);
    EXPECT_EQ(data[3 * 512], 0xEE);
  }
  medium_->ops.clear();
  std::vector<uint8_t> block(512);
  medium_->fail_next = BlockStatus::kIoError;
  ExpectSense(In(Rw10(0x28, 0, 1, 0x08), block), SenseKey::kMediumError, Asc::kWriteError);
  EXPECT_EQ(medium_->ops.size(), 1u) << "what cannot be written out is not read";
  ExpectGood(In(Rw10(0x28, 0, 0, 0x08), block), 0);
  ExpectGood(In(Rw10(0x28, 0, 1, 0x10), block), 512);  // DPO alone
  EXPECT_EQ(medium_->ops.back().op, BlockOp::kRead);
  EXPECT_EQ(medium_->ops.size(), 2u);

  BlockInfo info = MemoryDisk::DefaultInfo();
  info.read_only = true;
  Make(info);
  ExpectGood(In(Rw10(0x28, 0, 1, 0x08), block), 512);
  EXPECT_EQ(medium_->ops.size(), 1u) << "a disk that is never written has nothing to write out";
}

TEST_F(ScsiDiskTest, AnAddressBeyondTheEndIsNamed) {
  std::vector<uint8_t> data(512 * 2);
  for (const auto& cdb : {Rw10(0x28, kBlocks - 1, 2), Rw12(0xA8, kBlocks - 1, 2), Rw16(0x88, kBlocks - 1, 2),
                          Rw10(0x2F, kBlocks - 1, 2), Rw10(0x35, kBlocks - 1, 2)}) {
    const Answer answer = In(cdb, data);
    ExpectSense(answer, SenseKey::kIllegalRequest, Asc::kLbaOutOfRange);
    EXPECT_EQ(answer.sense.response_code, 0xF0);
    EXPECT_EQ(uint32_t{answer.sense.information}, kBlocks);
  }
  ExpectSense(In(Rw16(0x88, ~uint64_t{0}, 2), data), SenseKey::kIllegalRequest, Asc::kLbaOutOfRange);
  ExpectSense(In(Rw16(0x88, ~uint64_t{0} - 1, 0xFFFFFFFF), data), SenseKey::kIllegalRequest, Asc::kLbaOutOfRange);
  EXPECT_TRUE(medium_->ops.empty());
}

TEST_F(ScsiDiskTest, BuffersThatDoNotFit) {
  std::vector<uint8_t> small(511);
  const Answer overrun = In(Rw10(0x28, 0, 1), small);
  ExpectSense(overrun, SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  EXPECT_TRUE(overrun.data_overrun);
  std::vector<uint8_t> large(1024, 0xEE);
  ExpectGood(In(Rw10(0x28, 0, 1), large), 512);
  EXPECT_EQ(large[512], 0xEE);
  const Answer wrong_way = Out(Rw10(0x28, 0, 1), large);
  ExpectSense(wrong_way, SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  EXPECT_FALSE(wrong_way.data_overrun);
  ExpectSense(In(Rw10(0x2A, 0, 1), large), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
}

TEST_F(ScsiDiskTest, AReadOnlyDiskIsWriteProtected) {
  BlockInfo info = MemoryDisk::DefaultInfo();
  info.read_only = true;
  Make(info);
  const auto before = medium_->Contents();
  std::vector<uint8_t> block(512);
  std::vector<uint8_t> list = {0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0};
  for (const auto& cdb : {Rw6(0x0A, 0, 1), Rw10(0x2A, 0, 1), Rw16(0x8A, 0, 1), Rw10(0x2E, 0, 1), Rw10(0x41, 0, 1)}) {
    ExpectSense(Out(cdb, block), SenseKey::kDataProtect, Asc::kWriteProtected);
  }
  ExpectSense(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, list), SenseKey::kDataProtect, Asc::kWriteProtected);
  EXPECT_EQ(medium_->Contents(), before);
  std::vector<uint8_t> data(4);
  ExpectGood(In({0x1A, 8, 0x3F, 0, 4, 0}, data), 4);
  EXPECT_EQ(data[2], 0x90);
  ExpectGood(None(Rw10(0x35, 0, 0)), 0);
}

TEST_F(ScsiDiskTest, DeviceFailuresBecomeSense) {
  std::vector<uint8_t> block(512);
  medium_->fail_next = BlockStatus::kIoError;
  ExpectSense(In(Rw10(0x28, 0, 1), block), SenseKey::kMediumError, Asc::kUnrecoveredReadError);
  medium_->fail_next = BlockStatus::kIoError;
  ExpectSense(Out(Rw10(0x2A, 0, 1), block), SenseKey::kMediumError, Asc::kWriteError);
  medium_->fail_next = BlockStatus::kNoSpace;
  ExpectSense(Out(Rw10(0x2A, 0, 1), block), SenseKey::kDataProtect, Asc::kSpaceAllocationFailedWriteProtect);
  medium_->fail_next = BlockStatus::kIoError;
  ExpectSense(None(Rw10(0x35, 0, 0)), SenseKey::kMediumError, Asc::kWriteError);
  ExpectGood(In(Rw10(0x28, 0, 1), block), 512);
}

// Every command that touches the medium, failed at every request that it makes of the device.
TEST_F(ScsiDiskTest, WhereverAMediumFailsTheSenseSaysSo) {
  BlockInfo info = MemoryDisk::DefaultInfo();
  info.can_discard = true;
  std::vector<uint8_t> block(512), blocks(300 * 512), list(24);
  list[1] = 22, list[3] = 16, list[8 + 7] = 100, list[8 + 11] = 8;  // blocks 100 to 107
  const struct {
    const char* name;
    std::vector<uint8_t> cdb;
    std::vector<uint8_t>* data;
    DataDirection direction;
  } commands[] = {
      {"READ", Rw10(0x28, 0, 1), &block, DataDirection::kIn},
      {"READ, forced", Rw10(0x28, 0, 1, 0x08), &block, DataDirection::kIn},
      {"WRITE", Rw10(0x2A, 0, 1), &block, DataDirection::kOut},
      {"WRITE, forced", Rw10(0x2A, 0, 1, 0x08), &block, DataDirection::kOut},
      {"VERIFY", Rw10(0x2F, 0, 300), nullptr, DataDirection::kNone},
      {"VERIFY, bytes", Rw10(0x2F, 0, 300, 0x02), &blocks, DataDirection::kOut},
      {"WRITE AND VERIFY", Rw10(0x2E, 0, 300, 0x02), &blocks, DataDirection::kOut},
      {"WRITE SAME", Rw10(0x41, 0, 300), &block, DataDirection::kOut},
      {"UNMAP", {0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, &list, DataDirection::kOut},
      {"SYNCHRONIZE CACHE", Rw10(0x35, 0, 0), nullptr, DataDirection::kNone},
  };
  for (const auto& command : commands) {
    SCOPED_TRACE(command.name);
    Make(info);
    const std::vector<uint8_t> contents = medium_->Contents();
    std::copy_n(contents.begin(), blocks.size(), blocks.begin());
    medium_->ops.clear();
    ASSERT_EQ(Run(command.cdb, command.data, command.direction).status, Status::kGood);
    const std::vector<WatchedDisk::Op> ops = medium_->ops;
    ASSERT_FALSE(ops.empty());
    for (size_t at = 0; at < ops.size(); ++at) {
      SCOPED_TRACE(at);
      const bool reads = ops[at].op == BlockOp::kRead;
      const auto fails = [&](BlockStatus status, SenseKey key, Asc asc) {
        std::copy_n(contents.begin(), blocks.size(), blocks.begin());
        medium_->fail_next = status;
        medium_->succeed_before = at;
        ExpectSense(Run(command.cdb, command.data, command.direction), key, asc);
        EXPECT_EQ(medium_->fail_next, BlockStatus::kOk) << "nothing was to fail";
      };
      fails(BlockStatus::kIoError, SenseKey::kMediumError, reads ? Asc::kUnrecoveredReadError : Asc::kWriteError);
      if (reads) continue;
      fails(BlockStatus::kNoSpace, SenseKey::kDataProtect, Asc::kSpaceAllocationFailedWriteProtect);
      fails(BlockStatus::kWritesLost, SenseKey::kHardwareError, Asc::kPeripheralDeviceWriteFault);
    }
  }
}

TEST_F(ScsiDiskTest, DeclinedSenseIsKeptForRequestSense) {
  std::vector<uint8_t> data(512);
  Answer answer = Run(Rw10(0x28, kBlocks, 1), &data, DataDirection::kIn, /*autosense=*/false);
  EXPECT_EQ(answer.status, Status::kCheckCondition);
  EXPECT_FALSE(answer.has_sense);
  std::vector<uint8_t> sense(18);
  ExpectGood(In({0x03, 0, 0, 0, 18, 0}, sense), 18);
  EXPECT_EQ(sense[0], 0x70);
  EXPECT_EQ(sense[2], 5);
  EXPECT_EQ(sense[12], 0x21);
  ExpectGood(In({0x03, 0, 0, 0, 18, 0}, sense), 18);
  EXPECT_EQ(sense[2], 0) << "it is told once";
  ExpectGood(In({0x03, 1, 0, 0, 18, 0}, sense), 8);
  EXPECT_EQ(sense[0], 0x72);
}

TEST_F(ScsiDiskTest, WriteSame) {
  std::vector<uint8_t> pattern(512);
  for (auto& byte : pattern) byte = static_cast<uint8_t>(random_());
  ExpectGood(Out(Rw10(0x41, 10, 3000), pattern), 512);
  auto contents = medium_->Contents();
  for (size_t block = 10; block < 3010; ++block) {
    ASSERT_EQ(std::memcmp(&contents[block * 512], pattern.data(), 512), 0) << block;
  }
  EXPECT_NE(std::memcmp(&contents[9 * 512], pattern.data(), 512), 0);
  EXPECT_NE(std::memcmp(&contents[3010 * 512], pattern.data(), 512), 0);
  EXPECT_EQ(medium_->ops.size(), 2u) << "one MiB at a time";

  std::vector<uint8_t> zeroes(512);
  ExpectGood(Out(Rw16(0x93, 20, 100), zeroes), 512);
  EXPECT_EQ(medium_->ops.back(), (WatchedDisk::Op{BlockOp::kWriteZeroes, false, 20 * 512, 100 * 512}));
  ExpectGood(Out(Rw16(0x93, 20, 100, 0x08), zeroes), 512);
  EXPECT_EQ(medium_->ops.back().op, BlockOp::kDiscard);
  ExpectGood(None(Rw16(0x93, 200, 100, 0x01)), 0);  // NDOB: zeroes without a buffer
  EXPECT_EQ(medium_->ops.back(), (WatchedDisk::Op{BlockOp::kWriteZeroes, false, 200 * 512, 100 * 512}));
  ExpectGood(Out(Rw16(0x93, 0, 10, 0x08), pattern), 512);
  EXPECT_EQ(medium_->ops.back().op, BlockOp::kWrite) << "a pattern is written even if it may be unmapped";
  ExpectSense(Out(Rw16(0x93, 0, 0), zeroes), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  ExpectSense(Out(Rw16(0x93, 0, (64 << 20) / 512 + 1), zeroes), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  medium_->fail_next = BlockStatus::kIoError;
  ExpectSense(Out(Rw10(0x41, 10, 3000), pattern), SenseKey::kMediumError, Asc::kWriteError);
}

TEST_F(ScsiDiskTest, WriteSameUnmapsOnlyWhereThePageSaysSo) {
  std::vector<uint8_t> zeroes(512);
  for (const bool can_discard : {false, true}) {
    BlockInfo info = MemoryDisk::DefaultInfo();
    info.can_discard = can_discard;
    info.discard_reads_zeroes = false;
    Make(info);
    std::vector<uint8_t> page(8);
    ExpectGood(In({0x12, 1, 0xB2, 0, 8, 0}, page), 8);
    EXPECT_EQ(page[5] & 0x60, 0) << "neither LBPWS nor LBPWS10";
    for (const auto& cdb : {Rw10(0x41, 20, 100, 0x08), Rw16(0x93, 20, 100, 0x08)}) {
      ExpectSense(Out(cdb, zeroes), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    }
    EXPECT_TRUE(medium_->ops.empty());
    ExpectGood(Out(Rw16(0x93, 20, 100), zeroes), 512);
    EXPECT_EQ(medium_->ops.back().op, BlockOp::kWriteZeroes);
  }
}

TEST_F(ScsiDiskTest, WriteSameDoesNotWriteAddresses) {
  std::vector<uint8_t> pattern(512, 7);
  for (const uint8_t flag : {0x02, 0x04}) {  // LBDATA, PBDATA: each block its own contents
    for (const auto& cdb : {Rw10(0x41, 20, 2, flag), Rw16(0x93, 20, 2, flag)}) {
      ExpectSense(Out(cdb, pattern), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    }
  }
  EXPECT_TRUE(medium_->ops.empty());
}

TEST_F(ScsiDiskTest, WithoutWriteCacheADiscardIsOnTheMediumToo) {
  using Op = WatchedDisk::Op;
  std::vector<uint8_t> list = {0, 0, 0, 0, 8, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  ExpectGood(Out({0x15, 0x10, 0, 0, 24, 0}, list), 24);  // WCE off
  medium_->ops.clear();
  std::vector<uint8_t> zeroes(512);
  ExpectGood(Out(Rw16(0x93, 20, 4, 0x08), zeroes), 512);
  EXPECT_THAT(medium_->ops,
              ElementsAre(Op{BlockOp::kDiscard, false, 20 * 512, 4 * 512}, Op{BlockOp::kFlush, false, 0, 0}));
  medium_->ops.clear();
  std::vector<uint8_t> ranges(8 + 16);
  ranges[1] = 6 + 16, ranges[3] = 16, ranges[8 + 7] = 100, ranges[8 + 11] = 4;
  ExpectGood(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, ranges), 24);
  EXPECT_THAT(medium_->ops,
              ElementsAre(Op{BlockOp::kDiscard, false, 100 * 512, 4 * 512}, Op{BlockOp::kFlush, false, 0, 0}));
}

TEST_F(ScsiDiskTest, Unmap) {
  std::vector<uint8_t> list(8 + 16 * 2);
  list[1] = 6 + 32, list[3] = 32;
  list[8 + 7] = 100, list[8 + 11] = 4;
  list[24 + 6] = 1, list[24 + 11] = 8;
  ExpectGood(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0}, list), 40);
  EXPECT_THAT(medium_->ops, ElementsAre(WatchedDisk::Op{BlockOp::kDiscard, false, 100 * 512, 4 * 512},
                                        WatchedDisk::Op{BlockOp::kDiscard, false, 256 * 512, 8 * 512}));
  medium_->ops.clear();
  list[24 + 5] = 1;  // beyond the end: nothing of the list is done
  ExpectSense(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 40, 0}, list), SenseKey::kIllegalRequest, Asc::kLbaOutOfRange);
  EXPECT_TRUE(medium_->ops.empty());
  ExpectSense(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 7, 0}, list), SenseKey::kIllegalRequest, Asc::kParameterListLengthError);
  ExpectGood(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0}, list), 0);
  std::vector<uint8_t> too_many(8 + 16 * 257);
  too_many[2] = (16 * 257) >> 8, too_many[3] = (16 * 257) & 0xFF;
  ExpectSense(Out({0x42, 0, 0, 0, 0, 0, 0, uint8_t(too_many.size() >> 8), uint8_t(too_many.size()), 0}, too_many),
              SenseKey::kIllegalRequest, Asc::kInvalidFieldInParameterList);
}

TEST_F(ScsiDiskTest, Verify) {
  ExpectGood(None(Rw10(0x2F, 0, 1000)), 0);
  EXPECT_EQ(medium_->ops.size(), 9u) << "the medium is read, 64 KiB at a time";
  EXPECT_EQ(medium_->ops.front().op, BlockOp::kFlush) << "and not what has yet to reach it";
  medium_->fail_next = BlockStatus::kIoError;
  ExpectSense(None(Rw10(0x2F, 0, 1000)), SenseKey::kMediumError, Asc::kWriteError);
  const auto contents = medium_->Contents();
  std::vector<uint8_t> same(contents.begin() + 100 * 512, contents.begin() + 400 * 512);
  ExpectGood(Out(Rw10(0x2F, 100, 300, 0x02), same), 300 * 512);
  same[70000] ^= 1;
  const Answer answer = Out(Rw10(0x2F, 100, 300, 0x02), same);
  ExpectSense(answer, SenseKey::kMiscompare, Asc::kMiscompareDuringVerify);
  EXPECT_EQ(uint32_t{answer.sense.information}, 70000u);
  ExpectSense(Out(Rw10(0x2F, 100, 300, 0x06), same), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  ExpectGood(Out(Rw10(0x2E, 100, 300, 0x02), same), 300 * 512);  // write, then compare
  EXPECT_EQ(std::memcmp(&medium_->Contents()[100 * 512], same.data(), same.size()), 0);
  BlockInfo info = MemoryDisk::DefaultInfo();
  info.read_only = true;
  Make(info);
  medium_->fail_next = BlockStatus::kIoError;
  ExpectSense(None(Rw10(0x2F, 0, 1000)), SenseKey::kMediumError, Asc::kUnrecoveredReadError);
  EXPECT_EQ(medium_->ops.size(), 1u);
}

// No command takes long enough to be in the way of anybody: what page B0 says is checked.
TEST_F(ScsiDiskTest, CommandsHaveTheLengthThatTheBlockLimitsSay) {
  ScsiDiskOptions options;
  options.max_transfer_bytes = 128 << 10;  // 256 blocks
  disk_ = std::make_unique<ScsiDisk>(medium_, options);
  std::vector<uint8_t> limits(64);
  ExpectGood(In({0x12, 1, 0xB0, 0, 64, 0}, limits), 64);
  EXPECT_EQ(limits[5], 0) << "COMPARE AND WRITE";
  EXPECT_EQ(hvdef::scsi::LoadBigEndian<uint32_t>(&limits[8]), 256u);
  const auto expect_refused = [&](const Answer& answer, Asc asc = Asc::kInvalidFieldInCdb) {
    ExpectSense(answer, SenseKey::kIllegalRequest, asc);
  };
  std::vector<uint8_t> data(257 * 512);
  for (const uint8_t flags : {0x00, 0x02}) {  // VERIFY, and with a comparison
    const std::vector<uint8_t> long_ones[] = {Rw10(0x2F, 0, 257, flags), Rw12(0xAF, 0, 257, flags),
                                              Rw16(0x8F, 0, 257, flags)};
    for (const auto& cdb : long_ones) expect_refused(Out(cdb, data));
  }
  expect_refused(None(Rw16(0x8F, 0, kBlocks)));
  expect_refused(In(Rw10(0x28, 0, 257), data));
  expect_refused(Out(Rw16(0x8A, 0, 257), data));
  expect_refused(Out(Rw10(0x2E, 0, 257, 0x02), data));
  EXPECT_TRUE(medium_->ops.empty());
  ExpectGood(None(Rw16(0x8F, kBlocks - 256, 256)), 0);
  ExpectGood(In(Rw10(0x28, 0, 256), data), 256 * 512);
  // What would take long by its nature is not there: FORMAT UNIT, SANITIZE, COMPARE AND WRITE, PRE-FETCH,
  // EXTENDED COPY.
  for (const uint8_t op : {0x04, 0x48, 0x89, 0x34, 0x90, 0x83}) {
    expect_refused(None(std::vector<uint8_t>(16, op)), Asc::kInvalidOpCode);
  }
}

// The largest list there may be is many requests, each short enough for a machine to wait for.
TEST_F(ScsiDiskTest, ALargeUnmapIsCutIntoRequests) {
  class Large : public BlockDevice {
   public:
    Large() { info_.size_bytes = uint64_t{1} << 40, info_.can_discard = info_.discard_reads_zeroes = true; }
    const BlockInfo& info() const override { return info_; }
    void Submit(absl::Span<BlockRequest* const> batch) override {
      for (BlockRequest* request : batch) {
        EXPECT_EQ(request->op, BlockOp::kDiscard);
        EXPECT_EQ(request->offset_bytes, end);
        EXPECT_LE(request->size_bytes, 64u << 20);
        end += request->size_bytes;
        ++requests;
        request->on_complete(*request, BlockStatus::kOk);
      }
    }
    uint64_t end = 100 * 512;
    int requests = 0;

   private:
    BlockInfo info_;
  };
  auto large = std::make_shared<Large>();
  disk_ = std::make_unique<ScsiDisk>(large, ScsiDiskOptions{});
  std::vector<uint8_t> list(8 + 16);
  list[1] = 6 + 16, list[3] = 16;
  list[8 + 7] = 100, list[8 + 9] = 0x80;  // 2^23 blocks at block 100
  ExpectGood(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, list), 24);
  EXPECT_EQ(large->end, (100 + (uint64_t{1} << 23)) * 512);
  EXPECT_EQ(large->requests, 65);
}

TEST_F(ScsiDiskTest, OtherCommands) {
  ExpectGood(None({0x00, 0, 0, 0, 0, 0}), 0);
  ExpectGood(None({0x1D, 4, 0, 0, 0, 0}), 0);
  ExpectGood(None({0x1B, 0, 0, 0, 1, 0}), 0);
  EXPECT_TRUE(medium_->ops.empty());
  ExpectGood(None({0x1B, 0, 0, 0, 0, 0}), 0);
  EXPECT_EQ(medium_->ops.back().op, BlockOp::kFlush) << "stopping the unit writes out its cache";
  for (const uint8_t refused : {0x02, 0x30, 0x11}) {  // ejecting; standby; active
    ExpectSense(None({0x1B, 0, 0, 0, refused, 0}), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  }
  ExpectSense(None({0x5E, 0, 0, 0, 0, 0, 0, 0, 0, 0}), SenseKey::kIllegalRequest, Asc::kInvalidOpCode);
  ExpectSense(None({0xFF}), SenseKey::kIllegalRequest, Asc::kInvalidOpCode);
  ExpectSense(None({}), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
  ExpectSense(None({0x28, 0, 0, 0, 0, 0}), SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
}

TEST_F(ScsiDiskTest, AgreesWithAByteArrayOnRandomCommands) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  std::vector<uint8_t> model = medium_->Contents();
  for (int step = 0; step < 20000; ++step) {
    const uint64_t lba = random() % 8 == 0 ? kBlocks - random() % 64 : random() % kBlocks;
    const uint32_t blocks = random() % 64;
    const bool fits = lba + blocks <= kBlocks;
    std::vector<uint8_t> data(blocks * 512);
    const int length = random() % 3;
    const auto cdb = [&](uint8_t ten, uint8_t twelve, uint8_t sixteen, uint8_t flags = 0) {
      const uint32_t low = static_cast<uint32_t>(lba);
      return length == 0   ? Rw10(ten, low, blocks, flags)
             : length == 1 ? Rw12(twelve, low, blocks, flags)
                           : Rw16(sixteen, lba, blocks, flags);
    };
    Answer answer;
    switch (random() % 6) {
      case 0:
      case 1:
        answer = In(cdb(0x28, 0xA8, 0x88), data);
        if (fits) {
          ASSERT_EQ(data, std::vector<uint8_t>(model.begin() + lba * 512, model.begin() + (lba + blocks) * 512));
        }
        break;
      case 2:
      case 3:
        for (auto& byte : data) byte = static_cast<uint8_t>(random());
        answer = Out(cdb(0x2A, 0xAA, 0x8A, random() % 2 ? 0x08 : 0), data);
        if (fits) std::copy(data.begin(), data.end(), model.begin() + lba * 512);
        break;
      case 4: {
        data.assign(512, random() % 2 ? 0 : static_cast<uint8_t>(random()));
        answer = Out(Rw16(0x93, lba, blocks, random() % 2 ? 0x08 : 0), data);
        if (blocks == 0) continue;
        for (uint64_t block = lba; fits && block < lba + blocks; ++block)
          std::copy(data.begin(), data.end(), model.begin() + block * 512);
        break;
      }
      case 5: {
        std::vector<uint8_t> list(24);
        list[1] = 22, list[3] = 16, list[8 + 6] = lba >> 8, list[8 + 7] = lba, list[8 + 11] = blocks;
        answer = Out({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, list);
        if (fits) std::fill(model.begin() + lba * 512, model.begin() + (lba + blocks) * 512, 0);
        break;
      }
    }
    ASSERT_EQ(answer.status == Status::kGood, fits) << step;
    if (!fits) {
      ASSERT_EQ(answer.asc, Asc::kLbaOutOfRange);
    }
  }
  EXPECT_EQ(medium_->Contents(), model);
}

TEST_F(ScsiDiskTest, RandomCommandBlocksEndInAnAnswer) {
  const uint32_t seed = TestSeed();
  std::mt19937_64 random(seed);
  for (int step = 0; step < 100000; ++step) {
    std::vector<uint8_t> cdb(random() % 17);
    for (auto& byte : cdb) byte = random() % 3 ? static_cast<uint8_t>(random()) : 0;
    if (!cdb.empty() && random() % 2) {
      constexpr uint8_t kKnown[] = {0x03, 0x12, 0x15, 0x1A, 0x1B, 0x25, 0x28, 0x2A, 0x2E, 0x2F,
                                    0x35, 0x41, 0x42, 0x55, 0x5A, 0x88, 0x8A, 0x8E, 0x93, 0x9E};
      cdb[0] = kKnown[random() % sizeof(kKnown)];
      if (cdb.size() > 5) cdb[2] = cdb[3] = cdb[4] = 0;
    }
    std::vector<uint8_t> data(random() % 4 ? random() % 600 : 0);
    for (auto& byte : data) byte = static_cast<uint8_t>(random() % 4 ? 0 : random());
    const Answer answer = Run(cdb, &data, static_cast<DataDirection>(random() % 3), random() % 2);
    ASSERT_LE(answer.transferred, data.size());
  }
}

// Whatever command makes writes last. A medium error would be tried again by Linux, and the sense says that it is
// current, since a deferred one would be as well (scsi_check_sense).
TEST_F(ScsiDiskTest, LostWritesAreAHardwareErrorWhateverWasToLast) {
  BlockInfo info = MemoryDisk::DefaultInfo();
  info.can_discard = info.discard_reads_zeroes = true;
  Make(info);
  std::vector<uint8_t> block(512);
  std::vector<uint8_t> other(512, 1);
  std::vector<uint8_t> unmap = {0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 4, 0, 0, 0, 0};
  std::vector<uint8_t> cache_off = {0, 0, 0, 0, 8, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  std::vector<uint8_t> cache_on = cache_off;
  cache_on[6] = 4;
  const auto expect_lost = [](const Answer& answer) {
    ExpectSense(answer, SenseKey::kHardwareError, Asc::kPeripheralDeviceWriteFault);
  };
  medium_->writes_lost = true;
  for (int times = 0; times < 2; ++times) {
    expect_lost(None(Rw10(0x35, 0, 0)));  // SYNCHRONIZE CACHE
    expect_lost(None({0x91, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
    expect_lost(None({0x1B, 0, 0, 0, 0, 0}));         // START STOP UNIT: stop
    expect_lost(In(Rw10(0x28, 0, 1, 0x08), block));   // READ with FUA
    expect_lost(Out(Rw10(0x2A, 0, 1, 0x08), block));  // WRITE with FUA
    expect_lost(Out(Rw10(0x2E, 0, 1), block));        // WRITE AND VERIFY
    expect_lost(None(Rw10(0x2F, 0, 1)));              // VERIFY
    ExpectGood(In(Rw10(0x28, 0, 1), block), 512);
    ExpectGood(Out(Rw10(0x2A, 0, 1), block), 512);
    ExpectGood(Out(Rw10(0x41, 0, 1), block), 512);  // WRITE SAME
    ExpectGood(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, unmap), 24);
    expect_lost(Out({0x15, 0x10, 0, 0, 24, 0}, cache_off));  // MODE SELECT
    expect_lost(Out(Rw10(0x2A, 0, 1), block));
    expect_lost(Out(Rw10(0x41, 0, 1), block));        // zeroes
    expect_lost(Out(Rw10(0x41, 0, 1), other));        // a pattern
    expect_lost(Out(Rw10(0x41, 0, 1, 0x08), block));  // WRITE SAME with UNMAP
    expect_lost(Out({0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0}, unmap));
    ExpectGood(In(Rw10(0x28, 0, 1), block), 512);
    ExpectGood(Out({0x15, 0x10, 0, 0, 24, 0}, cache_on), 24);
  }
}

}  // namespace
}  // namespace hvsdk::scsi

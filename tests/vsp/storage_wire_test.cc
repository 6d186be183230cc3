// SPDX-License-Identifier: Apache-2.0
// Golden bytes: packets and parameter data exactly as they stand on the wire.

#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "hvsdk/hvdef/storvsc.h"

namespace hvsdk::hvdef {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

template <typename T>
std::vector<int> Bytes(const T& object) {
  std::vector<uint8_t> bytes(sizeof(T));
  std::memcpy(bytes.data(), &object, sizeof(T));
  return {bytes.begin(), bytes.end()};
}

TEST(StorvscWire, ExecuteSrbOfARead10) {
  storvsc::Packet packet = {};
  packet.header = {storvsc::Operation::kExecuteSrb, storvsc::kFlagRequestCompletion, storvsc::Status::kSuccess};
  packet.scsi.length = sizeof(storvsc::ScsiRequest);
  packet.scsi.path_id = 1;
  packet.scsi.target_id = 2;
  packet.scsi.lun = 3;
  packet.scsi.cdb_length = 10;
  packet.scsi.sense_info_length = storvsc::kSenseBytes;
  packet.scsi.data_in = storvsc::kDataIn;
  packet.scsi.data_transfer_length = 0x1000;
  const uint8_t cdb[10] = {0x28, 0, 0, 0, 0x12, 0x34, 0, 0, 8, 0};
  std::memcpy(packet.scsi.payload, cdb, sizeof(cdb));
  packet.scsi.queue_tag = 0xFF;
  packet.scsi.queue_action = 0x20;
  packet.scsi.srb_flags = storvsc::kSrbFlagDataIn;
  packet.scsi.time_out_value = 60;
  EXPECT_THAT(
      Bytes(packet),
      ElementsAreArray({0x03, 0, 0,    0,    0x01, 0,    0, 0, 0,  0,    0, 0,                             // header
                        0x34, 0, 0,    0,    0,    1,    2, 3, 10, 0x14, 1, 0, 0, 0x10, 0, 0,              // request
                        0x28, 0, 0,    0,    0x12, 0x34, 0, 0, 8,  0,    0, 0, 0, 0,    0, 0, 0, 0, 0, 0,  // command
                        0,    0, 0xFF, 0x20, 0x40, 0,    0, 0, 60, 0,    0, 0, 0, 0,    0, 0}));           // since 5.1
}

TEST(StorvscWire, VersionAndProperties) {
  EXPECT_THAT(Bytes(storvsc::ProtocolVersion{storvsc::Version::kWin10, 0}), ElementsAre(0x02, 0x06, 0, 0));
  EXPECT_THAT(Bytes(storvsc::ProtocolVersion{storvsc::Version::kWin7, 0}), ElementsAre(0x02, 0x04, 0, 0));
  storvsc::ChannelProperties properties = {};
  properties.maximum_sub_channel_count = 3;
  properties.flags = storvsc::kChannelSupportsMultiChannel;
  properties.max_transfer_bytes = 0x40000;
  EXPECT_THAT(Bytes(properties), ElementsAreArray({0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 4, 0,  //
                                                   0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(ScsiWire, BigEndianNumbers) {
  EXPECT_THAT(Bytes(scsi::Be16(0x1234)), ElementsAre(0x12, 0x34));
  EXPECT_THAT(Bytes(scsi::Be32(0x12345678)), ElementsAre(0x12, 0x34, 0x56, 0x78));
  EXPECT_THAT(Bytes(scsi::Be64(0x0102030405060708)), ElementsAre(1, 2, 3, 4, 5, 6, 7, 8));
  EXPECT_EQ(uint64_t{scsi::Be64(0xFEDCBA9876543210)}, 0xFEDCBA9876543210);
  const uint8_t bytes[] = {0x80, 0x00, 0x00, 0x01};
  EXPECT_EQ(scsi::LoadBigEndian<uint32_t>(bytes), 0x80000001u);
}

TEST(ScsiWire, CommandBlockSizesByGroup) {
  EXPECT_EQ(scsi::CdbBytes(0x12), 6u);
  EXPECT_EQ(scsi::CdbBytes(0x28), 10u);
  EXPECT_EQ(scsi::CdbBytes(0x5A), 10u);
  EXPECT_EQ(scsi::CdbBytes(0x88), 16u);
  EXPECT_EQ(scsi::CdbBytes(0xA8), 12u);
  EXPECT_EQ(scsi::CdbBytes(0xC0), 0u);
}

TEST(ScsiWire, FixedSenseOfAReadBeyondTheEnd) {
  scsi::FixedSense sense = {};
  sense.response_code = scsi::kSenseCurrentFixed | scsi::kSenseInformationValid;
  sense.sense_key = static_cast<uint8_t>(scsi::SenseKey::kIllegalRequest);
  sense.information = 0x01020304;
  sense.additional_sense_length = 10;
  sense.additional_sense_code = static_cast<uint16_t>(scsi::Asc::kLbaOutOfRange) >> 8;
  EXPECT_THAT(Bytes(sense), ElementsAre(0xF0, 0, 5, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0));
}

TEST(ScsiWire, CapacityAndBlockLimits) {
  scsi::ReadCapacity16Data capacity = {};
  capacity.last_lba = 0x1FFFF;
  capacity.block_bytes = 512;
  capacity.physical_exponent = 3;
  capacity.provisioning = scsi::kCapacityThin | scsi::kCapacityReadsZeroes;
  EXPECT_THAT(Bytes(capacity), ElementsAreArray({0, 0, 0, 0, 0, 1, 0xFF, 0xFF, 0, 0, 2, 0, 0, 3, 0xC0, 0,  //
                                                 0, 0, 0, 0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0,    0}));
  scsi::BlockLimits limits = {};
  limits.header = {scsi::kDirectAccessDevice, scsi::VpdPage::kBlockLimits, 60};
  limits.max_unmap_descriptors = 256;
  const std::vector<int> bytes = Bytes(limits);
  EXPECT_THAT(std::vector<int>(bytes.begin(), bytes.begin() + 4), ElementsAre(0, 0xB0, 0, 60));
  EXPECT_EQ(bytes[26], 1);
}

TEST(ScsiWire, UnmapOfOneRange) {
  scsi::UnmapHeader header = {};
  header.data_length = 22;
  header.block_descriptor_length = 16;
  EXPECT_THAT(Bytes(header), ElementsAre(0, 22, 0, 16, 0, 0, 0, 0));
  scsi::UnmapDescriptor descriptor = {};
  descriptor.lba = 0x800;
  descriptor.blocks = 8;
  EXPECT_THAT(Bytes(descriptor), ElementsAre(0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 8, 0, 0, 0, 0));
}

}  // namespace
}  // namespace hvsdk::hvdef

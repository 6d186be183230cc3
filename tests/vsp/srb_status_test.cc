// SPDX-License-Identifier: Apache-2.0
#include "vsp/srb_status.h"

#include "gtest/gtest.h"

namespace hvsdk::vsp {
namespace {

using hvdef::scsi::Asc;
using hvdef::scsi::SenseKey;
using hvdef::storvsc::SrbStatus;
using hvdef::storvsc::Status;

TEST(SrbStatusTest, SaysWhatTheSenseDataMean) {
  const struct {
    SenseKey key;
    Asc asc;
    SrbStatus srb;
    Status packet;
  } kRows[] = {
      {SenseKey::kIllegalRequest, Asc::kInvalidOpCode, SrbStatus::kInvalidRequest, Status::kIoDeviceError},
      {SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb, SrbStatus::kInvalidRequest, Status::kIoDeviceError},
      {SenseKey::kIllegalRequest, Asc::kInvalidFieldInParameterList, SrbStatus::kInvalidRequest,
       Status::kIoDeviceError},
      {SenseKey::kIllegalRequest, Asc::kParameterListLengthError, SrbStatus::kInvalidRequest, Status::kIoDeviceError},
      {SenseKey::kIllegalRequest, Asc::kSavingParametersNotSupported, SrbStatus::kInvalidRequest,
       Status::kIoDeviceError},
      {SenseKey::kIllegalRequest, Asc::kLbaOutOfRange, SrbStatus::kError, Status::kIoDeviceError},
      {SenseKey::kIllegalRequest, Asc::kLogicalUnitNotSupported, SrbStatus::kInvalidLun, Status::kDeviceDoesNotExist},
      {SenseKey::kAbortedCommand, Asc::kPowerOnOrResetOccurred, SrbStatus::kAborted, Status::kIoDeviceError},
      {SenseKey::kDataProtect, Asc::kWriteProtected, SrbStatus::kError, Status::kIoDeviceError},
      {SenseKey::kMediumError, Asc::kUnrecoveredReadError, SrbStatus::kError, Status::kIoDeviceError},
      {SenseKey::kHardwareError, Asc::kPeripheralDeviceWriteFault, SrbStatus::kError, Status::kIoDeviceError},
      {SenseKey::kMiscompare, Asc::kMiscompareDuringVerify, SrbStatus::kError, Status::kIoDeviceError},
  };
  for (const auto& row : kRows) {
    scsi::ScsiCommand command;
    command.Fail(row.key, row.asc);
    EXPECT_EQ(SrbStatusOf(command), row.srb) << static_cast<int>(row.asc);
    EXPECT_EQ(PacketStatusOf(row.srb), row.packet) << static_cast<int>(row.asc);
    command.has_sense = false;  // kept for REQUEST SENSE
    EXPECT_EQ(SrbStatusOf(command), row.srb) << static_cast<int>(row.asc);
    command.data_overrun = true;
    EXPECT_EQ(SrbStatusOf(command), SrbStatus::kDataOverrun);
    command.Succeed();
    EXPECT_EQ(SrbStatusOf(command), SrbStatus::kSuccess) << "sense data of an earlier use of the command";
  }
  EXPECT_EQ(PacketStatusOf(SrbStatus::kDataOverrun), Status::kBufferOverflow);
  EXPECT_EQ(PacketStatusOf(SrbStatus::kSuccess), Status::kSuccess);
}

}  // namespace
}  // namespace hvsdk::vsp

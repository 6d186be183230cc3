// SPDX-License-Identifier: Apache-2.0
#include "vsp/srb_status.h"

#include "hvsdk/hvdef/scsi.h"
#include "hvsdk/hvdef/scsi_data.h"

namespace hvsdk::vsp {

using hvdef::scsi::Asc;
using hvdef::scsi::SenseKey;
using hvdef::storvsc::SrbStatus;
using hvdef::storvsc::Status;

SrbStatus SrbStatusOf(const scsi::ScsiCommand& command) {
  if (command.status == hvdef::scsi::Status::kGood) return SrbStatus::kSuccess;
  if (command.data_overrun) return SrbStatus::kDataOverrun;
  const hvdef::scsi::FixedSense& sense = command.sense;
  switch (static_cast<SenseKey>(sense.sense_key)) {
    case SenseKey::kAbortedCommand:
      return SrbStatus::kAborted;
    case SenseKey::kIllegalRequest:
      switch (static_cast<Asc>(sense.additional_sense_code << 8 | sense.additional_sense_qualifier)) {
        case Asc::kLogicalUnitNotSupported:
          return SrbStatus::kInvalidLun;
        case Asc::kLbaOutOfRange:
          return SrbStatus::kError;
        default:
          return SrbStatus::kInvalidRequest;
      }
    default:
      return SrbStatus::kError;
  }
}

Status PacketStatusOf(SrbStatus srb) {
  switch (srb) {
    case SrbStatus::kSuccess:
      return Status::kSuccess;
    case SrbStatus::kInvalidLun:
      return Status::kDeviceDoesNotExist;
    case SrbStatus::kDataOverrun:
      return Status::kBufferOverflow;
    default:
      return Status::kIoDeviceError;
  }
}

}  // namespace hvsdk::vsp

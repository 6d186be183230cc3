// SPDX-License-Identifier: Apache-2.0
// What logical units of all kinds do with a command.
#include "hvsdk/scsi/scsi_unit.h"

#include <algorithm>

#include "hvsdk/hvdef/scsi.h"
#include "resource/host_buffers.h"
#include "scsi/scsi_work.h"

namespace hvsdk::scsi {

using hvdef::scsi::Asc;
using hvdef::scsi::SenseKey;

ScsiCommand::ScsiCommand() = default;
ScsiCommand::~ScsiCommand() = default;

void ScsiCommand::Fail(SenseKey key, Asc asc) {
  status = hvdef::scsi::Status::kCheckCondition;
  transferred = 0;
  data_overrun = false;
  has_sense = true;
  sense = {};
  sense.response_code = hvdef::scsi::kSenseCurrentFixed;
  sense.sense_key = static_cast<uint8_t>(key);
  sense.additional_sense_length = sizeof(sense) - 8;
  sense.additional_sense_code = static_cast<uint16_t>(asc) >> 8;
  sense.additional_sense_qualifier = static_cast<uint8_t>(asc);
}

void ScsiCommand::Return(const void* bytes, size_t size_bytes, size_t allocation_length) {
  if (allocation_length != 0 && data_bytes != 0 && data_direction != DataDirection::kIn) {
    Fail(SenseKey::kIllegalRequest, Asc::kInvalidFieldInCdb);
    return;
  }
  const size_t room = std::min<size_t>(allocation_length, data_bytes);
  transferred = static_cast<uint32_t>(CopyToBuffers(data, 0, bytes, std::min(size_bytes, room)));
  Succeed();
}

void ScsiUnit::Abort(ScsiCommand& command, SenseKey key, Asc asc) {
  command.Fail(key, asc);
  Finish(command);
}

void ScsiUnit::Finish(ScsiCommand& command) {
  command.work.reset();
  if (!command.has_sense || command.autosense) return;
  kept_sense_.store(uint32_t{command.sense.sense_key} << 16 | uint32_t{command.sense.additional_sense_code} << 8 |
                        command.sense.additional_sense_qualifier,
                    std::memory_order_relaxed);
  command.has_sense = false;
}

void ScsiUnit::RequestSense(ScsiCommand& command) {
  const uint32_t kept = kept_sense_.exchange(0, std::memory_order_relaxed);
  const size_t allocation = command.cdb[4];
  const uint8_t key = static_cast<uint8_t>(kept >> 16);
  const uint8_t code = static_cast<uint8_t>(kept >> 8);
  const uint8_t qualifier = static_cast<uint8_t>(kept);
  if ((command.cdb[1] & 0x01) != 0) {  // DESC
    const hvdef::scsi::DescriptorSense sense = {hvdef::scsi::kSenseCurrentDescriptor, key, code, qualifier, {}, 0};
    command.Return(&sense, sizeof(sense), allocation);
    return;
  }
  hvdef::scsi::FixedSense sense = {};
  sense.response_code = hvdef::scsi::kSenseCurrentFixed;
  sense.sense_key = key;
  sense.additional_sense_length = sizeof(sense) - 8;
  sense.additional_sense_code = code;
  sense.additional_sense_qualifier = qualifier;
  command.Return(&sense, sizeof(sense), allocation);
}

}  // namespace hvsdk::scsi

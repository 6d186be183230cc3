// SPDX-License-Identifier: Apache-2.0
// ScsiUnit: a logical unit of a SCSI controller, as a state machine that performs no I/O of its own. ScsiDisk and
// DvdDrive are two.
//
// Start decodes a command. Either it is done at once, or the command, which is a BlockRequest, has been filled in for
// its target: submit it, alone or in a batch, and give the outcome to Continue, which again is done or wants another
// submission.
//
// Thread-safe for different commands; a command is one thread's at a time. The command's data may be memory that a
// guest is changing meanwhile. What a guest does wrong is answered by status and sense data, never otherwise.
//
//   BlockRequest* const request = &command;
//   if (unit.Start(command) == ScsiStep::kSubmit) unit.target(command).Submit({&request, 1});
//   // in on_complete, until the command is done:
//   if (unit.Continue(command, status) == ScsiStep::kSubmit) unit.target(command).Submit({&request, 1});
//   // then use command.status, command.transferred, command.sense

#ifndef HVSDK_SCSI_SCSI_UNIT_H_
#define HVSDK_SCSI_SCSI_UNIT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "hvsdk/hvdef/scsi.h"
#include "hvsdk/resource/block_device.h"
#include "hvsdk/scsi/scsi_command.h"

namespace hvsdk::scsi {

enum class ScsiStep : uint8_t { kDone, kSubmit };

class ScsiUnit {
 public:
  virtual ~ScsiUnit() = default;

  [[nodiscard]] virtual ScsiStep Start(ScsiCommand& command) = 0;
  [[nodiscard]] virtual ScsiStep Continue(ScsiCommand& command, BlockStatus status) = 0;
  // In place of Continue: ends a command of several steps between two.
  void Abort(ScsiCommand& command, hvdef::scsi::SenseKey key, hvdef::scsi::Asc asc);

  // What a command that is to be submitted is submitted to.
  virtual BlockDevice& target(const ScsiCommand& command) const = 0;
  // All that commands under way may have been submitted to.
  virtual std::vector<std::shared_ptr<BlockDevice>> devices() const = 0;

 protected:
  // What every command ends with. An initiator that declined autosense asks for the sense data later.
  void Finish(ScsiCommand& command);
  // SPC-4 6.39. Sense data that was not delivered with its command is told once.
  void RequestSense(ScsiCommand& command);

  std::atomic<uint32_t> kept_sense_{0};  // key << 16 | code and qualifier, for REQUEST SENSE
};

}  // namespace hvsdk::scsi

#endif  // HVSDK_SCSI_SCSI_UNIT_H_

// SPDX-License-Identifier: Apache-2.0
// ScsiCommand: a command for a logical unit, its answer, and the block request in between. What carries it (VMBus, an
// ATAPI drive, a test) fills in the first part and translates the answer.
//
// Thread-compatible: one thread's at a time.
//
// Source: SAM-5 (status, residuals), SPC-4 4.5 (sense data).

#ifndef HVSDK_SCSI_SCSI_COMMAND_H_
#define HVSDK_SCSI_SCSI_COMMAND_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "hvsdk/hvdef/scsi.h"
#include "hvsdk/hvdef/scsi_data.h"
#include "hvsdk/memory/host_buffer.h"
#include "hvsdk/resource/block_device.h"

namespace hvsdk::scsi {

struct ScsiWork;  // what a command of several steps remembers

// As the initiator sees it.
enum class DataDirection : uint8_t { kNone, kIn, kOut };

inline constexpr size_t kMaxCdbBytes = 16;

struct ScsiCommand : BlockRequest {
  ScsiCommand();
  ~ScsiCommand();

  // Filled in by the caller before ScsiUnit::Start.
  uint8_t cdb[kMaxCdbBytes] = {};
  uint8_t cdb_length = 0;
  DataDirection data_direction = DataDirection::kNone;
  bool autosense = true;        // false: keep sense data for REQUEST SENSE
  uint32_t data_bytes = 0;      // of `data`
  absl::Span<HostBuffer> data;  // Start may shorten its last elements

  // The answer, when a step returned kDone.
  hvdef::scsi::Status status = hvdef::scsi::Status::kGood;
  uint32_t transferred = 0;            // bytes moved between `data` and the disk
  bool data_overrun = false;           // the command was refused because `data` is shorter than what it moves
  bool has_sense = false;              // to be sent with the status
  hvdef::scsi::FixedSense sense = {};  // of a check condition, sent or kept

  // Ends the command without data.
  void Succeed() { status = hvdef::scsi::Status::kGood, data_overrun = false; }
  void Fail(hvdef::scsi::SenseKey key, hvdef::scsi::Asc asc);
  // Copies parameter data to the initiator: as much as the data buffer and the allocation length take.
  void Return(const void* bytes, size_t size_bytes, size_t allocation_length);

  std::unique_ptr<ScsiWork> work;       // ScsiDisk's own
  std::shared_ptr<BlockDevice> medium;  // DvdDrive's own: what was in it when the command came
};

}  // namespace hvsdk::scsi

#endif  // HVSDK_SCSI_SCSI_COMMAND_H_

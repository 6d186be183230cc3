// SPDX-License-Identifier: Apache-2.0
// ScsiWork: what a command of several steps remembers between two.

#ifndef HVSDK_SRC_SCSI_SCSI_WORK_H_
#define HVSDK_SRC_SCSI_SCSI_WORK_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "hvsdk/memory/host_buffer.h"

namespace hvsdk::scsi {

struct ScsiWork {
  enum class Kind : uint8_t { kReadMedium, kVerify, kWriteSame, kUnmap } kind;
  bool flush_first = false;  // what is read must have reached the medium
  bool flush_last = false;   // what was discarded must stay so
  bool nothing_read = true;  // VERIFY: `buffer` holds no bytes of the medium yet
  bool compare = false;      // with the initiator's bytes
  uint64_t lba = 0;          // what remains to be done
  uint64_t blocks = 0;
  uint64_t compared_bytes = 0;
  std::vector<uint8_t> buffer;                        // bytes read back, or the pattern
  std::vector<HostBuffer> list;                       // pieces of `buffer`
  std::vector<std::pair<uint64_t, uint64_t>> ranges;  // UNMAP's, last one first: lba, blocks
};

}  // namespace hvsdk::scsi

#endif  // HVSDK_SRC_SCSI_SCSI_WORK_H_

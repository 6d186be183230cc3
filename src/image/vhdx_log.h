// SPDX-License-Identifier: Apache-2.0
// The log of a VHDX file ([MS-VHDX] 2.3): what is to be changed of its metadata is written there first, so that a loss
// of power in the middle of the change is made good when the file is next opened.

#ifndef HVSDK_SRC_IMAGE_VHDX_LOG_H_
#define HVSDK_SRC_IMAGE_VHDX_LOG_H_

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "hvsdk/image/image_file.h"
#include "image/metadata_cache.h"
#include "image/vhdx_file.h"

namespace hvsdk::internal::vhdx {

// A log is read as a whole; those of Windows have one MiB.
inline constexpr uint32_t kMaxLogBytes = 64 << 20;

// Does what the log says is yet to be done, and empties it. InvalidArgument: the log is damaged or names what cannot
// be, or the file is shorter than the log says. Without a log it does nothing.
absl::Status ReplayLog(ImageFile& file, CurrentHeader& current);

// One entry of these pages; `tail` and `sequence_number` as in the entry's header.
std::vector<uint8_t> EncodeLogEntry(const Guid& log_guid, uint64_t sequence_number, uint32_t tail, uint64_t file_bytes,
                                    const std::map<uint64_t, MetadataCache::Page*>& pages);

// Appends entries. Each is a sequence of its own: when it is written, what the one before changed has been written in
// place and flushed.
class LogWriter {
 public:
  explicit LogWriter(ImageFile& file) : file_(file) {}

  // What an entry may have in a log of this many bytes.
  static size_t MaxPages(uint32_t log_length) { return log_length / kLogSectorBytes / 2 - 4; }

  bool is_used() const { return sequence_number_ != 0; }

  // When it returns the entry lasts, and the header says that there is a log.
  BlockStatus Append(CurrentHeader& current, const std::map<uint64_t, MetadataCache::Page*>& pages);
  // There is nothing more to be done for what was appended.
  BlockStatus Empty(CurrentHeader& current);

 private:
  ImageFile& file_;
  Guid guid_{};
  uint64_t sequence_number_ = 0;  // of the last entry
  uint32_t next_ = 0;             // where the next one goes
};

}  // namespace hvsdk::internal::vhdx

#endif  // HVSDK_SRC_IMAGE_VHDX_LOG_H_

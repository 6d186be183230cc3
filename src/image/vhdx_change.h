// SPDX-License-Identifier: Apache-2.0
// LoggedChange: metadata of a VHDX file changed by a tool, in steps of which each is there as a whole or not at all
// when power is lost ([MS-VHDX] 2.3). VhdxMap does the same for a disk that is in use.
//
// Thread-compatible. Nothing else uses the file meanwhile.

#ifndef HVSDK_SRC_IMAGE_VHDX_CHANGE_H_
#define HVSDK_SRC_IMAGE_VHDX_CHANGE_H_

#include <cstdint>
#include <mutex>

#include "absl/types/span.h"
#include "image/metadata_cache.h"
#include "image/vhdx_file.h"
#include "image/vhdx_log.h"

namespace hvsdk::internal::vhdx {

class LoggedChange {
 public:
  // The log is empty, and there is one. `header` outlives it.
  LoggedChange(ImageFile& file, CurrentHeader& header)
      : file_(file), header_(header), cache_(file, mutex_), log_(file) {}

  BlockStatus GetEntry(uint64_t offset, uint64_t& entry);
  BlockStatus Set(uint64_t offset, absl::Span<const uint8_t> bytes);
  BlockStatus SetEntry(uint64_t offset, uint64_t entry);

  // Pages that were set since the last Commit, which can take so many and one or two more.
  bool wants_commit() const { return cache_.changed().size() >= LogWriter::MaxPages(header_.header.log_length) / 2; }
  // What was written to the file lasts, and then all that was set, as one.
  BlockStatus Commit();
  // Commit, and the log is empty. When it returns all of that lasts.
  BlockStatus Close();

 private:
  ImageFile& file_;
  CurrentHeader& header_;
  std::mutex mutex_;  // the cache's, which nobody else has here
  MetadataCache cache_;
  LogWriter log_;
};

}  // namespace hvsdk::internal::vhdx

#endif  // HVSDK_SRC_IMAGE_VHDX_CHANGE_H_

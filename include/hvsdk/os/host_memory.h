// SPDX-License-Identifier: Apache-2.0
// The host's pages behind a guest's memory. They are promised, not allocated: a page costs the host something from its
// first use on.

#ifndef HVSDK_OS_HOST_MEMORY_H_
#define HVSDK_OS_HOST_MEMORY_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace hvsdk::os {

class HostMemory {
 public:
  // Zeroed, and aligned so that huge pages can back it. InvalidArgument: more than the host has, and it
  // makes no such promises (vm.overcommit_memory). ResourceExhausted: it refuses for another reason.
  static absl::StatusOr<HostMemory> Reserve(uint64_t size_bytes);

  HostMemory() = default;
  HostMemory(HostMemory&& other) noexcept { *this = std::move(other); }
  HostMemory& operator=(HostMemory&& other) noexcept;
  ~HostMemory();

  // Gives every page back to the host: all is zero again.
  absl::Status Clear();

  // Makes [offset, offset + size) what the file has from its `file_offset` on, copied when it is first written: the file
  // never changes, and what is never touched is never read. Whole pages; the file has those bytes, and keeps them as long as
  // this lives.
  absl::Status MapFile(uint64_t offset, uint64_t size_bytes, int fd, uint64_t file_offset);

  // Gives the pages of [offset, offset + size), which are whole ones, back to the host: they are zero again, whatever was there. Answers how
  // many bytes that was; less if the host refuses, or if pages of a file would be torn into more pieces than the host keeps for a
  // process (vm.max_map_count). Thread-safe against itself and against those who use the bytes, who find the old ones or zeros.
  uint64_t Discard(uint64_t offset, uint64_t size_bytes);

  absl::Span<uint8_t> bytes() const { return {data_, size_bytes_}; }

 private:
  // The parts that still are a file's: where each begins and ends, from MapFile on.
  struct FileParts {
    std::mutex mutex;
    std::map<uint64_t, uint64_t> parts;
  };

  void Advise();
  void Advise(uint64_t offset, uint64_t size_bytes);
  bool Replace(uint64_t offset, uint64_t size_bytes);

  uint8_t* data_ = nullptr;
  uint64_t size_bytes_ = 0;
  std::unique_ptr<FileParts> files_;
};

}  // namespace hvsdk::os

#endif  // HVSDK_OS_HOST_MEMORY_H_

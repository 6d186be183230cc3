// SPDX-License-Identifier: Apache-2.0
// A file on a medium that forgets: what is written to it lasts once it was synced, and not before. It loses power,
// fails a sync, hangs, and moves less than it was asked to, each on demand. For disks under test it is an ordinary
// file, at path().
//
// It is a FUSE file system whose root is one file, kept in the memory of this process; the kernel caches nothing of it.
// To mount it takes root (CAP_SYS_ADMIN) and /dev/fuse.
//
// Thread-safe.

#ifndef HVSDK_TESTS_IMAGE_FORGETFUL_FILE_H_
#define HVSDK_TESTS_IMAGE_FORGETFUL_FILE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/types/span.h"

struct fuse_in_header;

namespace hvsdk {

class ForgetfulFile {
 public:
  // Null, and a reason: it cannot be mounted here.
  static std::unique_ptr<ForgetfulFile> Create(uint64_t size_bytes, std::string& reason);
  ~ForgetfulFile();

  const std::string& path() const { return path_; }

  // The next sync forgets what it should have kept, and says so with `error`, once: as Linux does.
  void FailNextSync(int error);
  // Answers nothing until told to go on.
  void Hang();
  void GoOn();
  // Reads move some of the bytes that were asked for, writes some of the blocks.
  void MoveInPieces(bool reads, bool writes);
  // Of each block of 512 bytes that was written and not synced, either is left: what was written, or what was
  // there before.
  void LosePower(std::mt19937_64& random);
  // What is on the medium for good.
  std::vector<uint8_t> Lasting() const;
  uint64_t syncs() const;

 private:
  explicit ForgetfulFile(uint64_t size_bytes) : written_(size_bytes), lasting_(size_bytes) {}

  void Serve();
  // Returns a negated errno, or how many bytes of `answer` are the answer.
  int Handle(const fuse_in_header& header, const uint8_t* argument, std::vector<uint8_t>& answer);
  void Wake();

  std::string path_;
  int fuse_fd_ = -1;
  int wake_fd_ = -1;
  bool is_mounted_ = false;
  std::thread thread_;

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<uint8_t> written_, lasting_;
  int sync_error_ = 0;
  bool hangs_ = false;
  bool reads_in_pieces_ = false;
  bool writes_in_pieces_ = false;
  bool stop_ = false;
  uint64_t syncs_ = 0;
  std::mt19937_64 random_{1};
};

}  // namespace hvsdk

#endif  // HVSDK_TESTS_IMAGE_FORGETFUL_FILE_H_

// SPDX-License-Identifier: Apache-2.0
// A file to write, which is left as it was (or absent) until the program knows that it will run. A regular file is locked (flock), so
// that of several machines which are told to write it, as clones of one state are, one does.
//
// Thread class: thread-compatible.
//
//   vmm::OutputFile file;
//   if (absl::Status opened = file.Open("trace.json"); !opened.ok()) return opened;
//   file.Commit();
//   return tracer.Start(file.fd());

#ifndef HVSDK_VMM_OUTPUT_FILE_H_
#define HVSDK_VMM_OUTPUT_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace hvsdk::vmm {

class OutputFile {
 public:
  OutputFile() = default;
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  // Removes the file if Open made it and Commit was not called.
  ~OutputFile();

  // FailedPrecondition: it is the disk of a machine, or another OutputFile's. InvalidArgument, NotFound, PermissionDenied: it cannot be
  // written, or nobody reads from the pipe that it is. The message does not name it.
  absl::Status Open(const std::string& path);
  // Empties the file.
  void Commit();

  // Leaves it as it is, and the descriptor to the caller.
  int Release();

  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }

 private:
  std::string path_;
  int fd_ = -1;
  bool created_ = false;
};

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_OUTPUT_FILE_H_

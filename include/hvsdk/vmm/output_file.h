// SPDX-License-Identifier: Apache-2.0
// A file to write, which is left as it was (or absent) until the program knows that it will run.

#ifndef HVSDK_EXAMPLES_MINI_VMM_OUTPUT_FILE_H_
#define HVSDK_EXAMPLES_MINI_VMM_OUTPUT_FILE_H_

#include <string>

#include "absl/status/status.h"

namespace mini_vmm {

class OutputFile {
 public:
  OutputFile() = default;
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  // Removes the file if Open made it and Commit was not called.
  ~OutputFile();

  // It cannot be written; the message does not name it.
  absl::Status Open(const std::string& path);
  // Empties the file.
  void Commit();

  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }

 private:
  std::string path_;
  int fd_ = -1;
  bool created_ = false;
};

}  // namespace mini_vmm

#endif  // HVSDK_EXAMPLES_MINI_VMM_OUTPUT_FILE_H_

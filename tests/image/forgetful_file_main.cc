// SPDX-License-Identifier: Apache-2.0
// forgetful_file BYTES
//
// A file on a medium that forgets (forgetful_file.h) for programs under test. The first line of its output is the file's path, or why
// there is none (exit status 77). Then a line of input is a command, each answered by "ok":
//
//   fail-sync   the next sync forgets what it should have kept, and fails, once
//   hang        nothing is answered any more
//   go-on       until now
//   save FILE   what is on the medium for good, into FILE
//
// It ends with its input.

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "tests/image/forgetful_file.h"

int main(int argc, char** argv) {
  const uint64_t size = argc == 2 ? std::strtoull(argv[1], nullptr, 10) : 0;
  if (size == 0) {
    std::fprintf(stderr, "usage: forgetful_file BYTES\n");
    return 2;
  }
  std::string reason;
  const auto file = hvsdk::ForgetfulFile::Create(size, reason);
  if (file == nullptr) {
    std::cout << "no FUSE here: " << reason << std::endl;
    return 77;
  }
  std::cout << file->path() << std::endl;
  for (std::string command; std::getline(std::cin, command);) {
    if (command == "fail-sync") {
      file->FailNextSync(EIO);
    } else if (command == "hang") {
      file->Hang();
    } else if (command == "go-on") {
      file->GoOn();
    } else if (command.rfind("save ", 0) == 0) {
      const std::vector<uint8_t> bytes = file->Lasting();
      std::ofstream(command.substr(5), std::ios::binary)
          .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    } else {
      std::cout << "unknown" << std::endl;
      continue;
    }
    std::cout << "ok" << std::endl;
  }
}

// SPDX-License-Identifier: Apache-2.0
// Other programs' opinions of what we made.

#ifndef HVSDK_TESTS_RUN_COMMAND_H_
#define HVSDK_TESTS_RUN_COMMAND_H_

#include <cstdio>
#include <string>

namespace hvsdk {

// Runs a shell command; returns what it printed on both its outputs, and its status as pclose does.
inline std::string RunCommand(const std::string& command, int& status) {
  std::string output;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  char buffer[4096];
  size_t got;
  while ((got = fread(buffer, 1, sizeof(buffer), pipe)) > 0) output.append(buffer, got);
  status = pclose(pipe);
  return output;
}

}  // namespace hvsdk

#endif  // HVSDK_TESTS_RUN_COMMAND_H_

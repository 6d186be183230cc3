// SPDX-License-Identifier: Apache-2.0
// The engines that the conformance suite runs on. A new engine is one entry in engines.cc; the cases stay as they are.

#ifndef HVSDK_TESTS_BACKEND_ENGINES_H_
#define HVSDK_TESTS_BACKEND_ENGINES_H_

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::backend {

struct Engine {
  std::string name;
  // An error says why the engine cannot run here; its cases are then reported as skipped with that reason.
  std::function<absl::StatusOr<std::unique_ptr<Backend>>()> create;
  // Why this engine is known not to run `test` on this host, or empty. For what the host's kernel gets wrong, never for
  // what the engine does.
  std::function<std::string(Backend& backend, const std::string& test)> known_host_defect =
      [](Backend&, const std::string&) { return ""; };
};

inline std::ostream& operator<<(std::ostream& out, const Engine& engine) { return out << engine.name; }

std::vector<Engine> Engines();
// The same, and once more those with options that change how they work and must not change what they do.
std::vector<Engine> EnginesAndVariants();

}  // namespace hvsdk::backend

#endif  // HVSDK_TESTS_BACKEND_ENGINES_H_

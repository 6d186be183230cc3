// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/block_file/file_engine.h"

#include "block_file/thread_engine.h"
#include "block_file/uring_engine.h"

namespace hvsdk {
namespace {

constexpr size_t kMaxThreads = 4;

}  // namespace

absl::StatusOr<std::shared_ptr<FileEngine>> FileEngine::Create(FileEngineKind kind) {
  if (kind != FileEngineKind::kThreads) {
    auto engine = internal::UringEngine::Create();
    if (engine.ok() || kind == FileEngineKind::kIoUring) return engine;
  }
  return internal::ThreadEngine::Create(kMaxThreads);
}

}  // namespace hvsdk

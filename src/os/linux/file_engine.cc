// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/os/file_engine.h"

#include <utility>

#include "base/status_macros.h"
#include "os/linux/file_queue.h"
#include "os/linux/uring_engine.h"

namespace hvsdk {
namespace {

class ThreadEngine final : public FileEngine {
 public:
  absl::string_view name() const override { return "threads"; }
  absl::StatusOr<std::unique_ptr<File>> Serve(int fd, SyncFailure on_sync_failure) override {
    auto file = std::make_unique<internal::FileQueue>(fd, std::move(on_sync_failure));
    RETURN_IF_ERROR(file->Start());
    return file;
  }
};

}  // namespace

absl::StatusOr<std::shared_ptr<FileEngine>> FileEngine::Create(FileEngineKind kind) {
  if (kind != FileEngineKind::kThreads) {
    auto engine = internal::UringEngine::Create();
    if (engine.ok() || kind == FileEngineKind::kIoUring) return engine;
  }
  return std::make_shared<ThreadEngine>();
}

}  // namespace hvsdk

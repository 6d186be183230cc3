// SPDX-License-Identifier: Apache-2.0
// What a storage command costs: the provider alone (a disk that does nothing), a file below it, and beside the file
// the plainest loops that read it. All reads are 4 KiB from the page cache, so the figures are processor time, not
// the medium's.

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/wait_word.h"
#include "hvsdk/base/queue_executor.h"
#include "hvsdk/image/raw_disk.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsc/loopback_child.h"
#include "hvsdk/vsc/storage_client.h"
#include "hvsdk/vsp/storage.h"

namespace hvsdk {
namespace {

constexpr uint64_t kFileBytes = 64 << 20;
constexpr uint32_t kReadBytes = 4096;
constexpr hvdef::Guid kInstance = hvdef::MakeGuid("01234567-89ab-cdef-0123-456789abcdef");

class NullDisk : public BlockDevice {
 public:
  NullDisk() { info_.size_bytes = kFileBytes; }
  const BlockInfo& info() const override { return info_; }
  void Submit(absl::Span<BlockRequest* const> batch) override {
    for (BlockRequest* request : batch) request->on_complete(*request, BlockStatus::kOk);
  }

 private:
  BlockInfo info_;
};

// A file in the page cache.
class CachedFile {
 public:
  CachedFile() {
    char path[] = "/tmp/hvsdk-bench-XXXXXX";
    const int fd = mkstemp(path);
    path_ = path;
    std::vector<char> chunk(1 << 20, 'x');
    for (uint64_t at = 0; at < kFileBytes; at += chunk.size()) HVSDK_CHECK(write(fd, chunk.data(), chunk.size()) > 0);
    close(fd);
  }
  ~CachedFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

std::shared_ptr<RawDisk> OpenDisk(const CachedFile& file, FileEngineKind kind, benchmark::State& state) {
  auto engine = FileEngine::Create(kind);
  if (!engine.ok()) {
    state.SkipWithError(std::string(engine.status().message()).c_str());
    return nullptr;
  }
  return *RawDisk::Open(file.path(), {}, *engine);
}

// Both ends of the wire in one thread.
class Pair {
 public:
  explicit Pair(std::shared_ptr<BlockDevice> disk)
      : bytes_(static_cast<uint8_t*>(std::aligned_alloc(4096, kMemoryBytes)), std::free), hypervisor_(1) {
    std::memset(bytes_.get(), 0, kMemoryBytes);
    HVSDK_CHECK(memory_.AddRange(0, absl::MakeSpan(bytes_.get(), kMemoryBytes)).ok());
    server_ = std::make_unique<vmbus::Server>(memory_, hypervisor_, vmbus::ServerOptions{});
    HVSDK_CHECK(server_->Start().ok());
    vsp::StorageOptions options;
    options.instance_id = kInstance;
    storage_ = *vsp::StorageController::Create(*server_, executor_, options);
    HVSDK_CHECK(storage_->Attach(0, std::move(disk)).ok());
    child_ = std::make_unique<vsc::LoopbackChild>(hypervisor_, memory_);
    child_->client().Connect();
    Pump();
    child_->client().RequestOffers();
    Pump();
    constexpr uint32_t kRingPages = 33;
    const uint64_t gpa = child_->AllocatePages(2 * kRingPages);
    const vsc::RingPages ring = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * kRingPages},
                                 .outgoing_pages = kRingPages};
    client_ = std::make_unique<vsc::StorageClient>(child_->client(), channel_,
                                                   vsc::ClientRings::Create(child_->host(gpa), ring));
    HVSDK_CHECK(child_->client().Open(channel_, *child_->FindOffer(kInstance), ring));
    Pump();
    client_->Start();
    Pump();
    HVSDK_CHECK(client_->state() == vsc::StorageClient::State::kReady);
  }

  void Pump() {
    do {
      executor_.RunUntilIdle();
    } while (child_->Poll());
  }
  vsc::StorageClient& client() { return *client_; }
  uint64_t AllocatePage() { return child_->AllocatePages(1) / kPageSize; }

 private:
  static constexpr size_t kMemoryBytes = 16 << 20;
  std::unique_ptr<uint8_t, void (*)(void*)> bytes_;
  GuestMemory memory_;
  QueueExecutor executor_;
  vmbus::LoopbackHypervisor hypervisor_;
  std::unique_ptr<vmbus::Server> server_;
  std::unique_ptr<vsp::StorageController> storage_;
  std::unique_ptr<vsc::LoopbackChild> child_;
  vsc::Channel channel_;
  std::unique_ptr<vsc::StorageClient> client_;
};

// `depth` reads are sent, then all of them are waited for.
void RunProvider(benchmark::State& state, std::shared_ptr<BlockDevice> disk) {
  Pair pair(std::move(disk));
  const size_t depth = static_cast<size_t>(state.range(0));
  std::vector<vsc::StorageRequest> requests(depth);
  std::vector<uint64_t> pfns(depth);
  for (size_t i = 0; i < depth; ++i) {
    pfns[i] = pair.AllocatePage();
    requests[i].data = {kReadBytes, 0, &pfns[i]};
  }
  std::mt19937_64 random(1);
  for (auto _ : state) {
    for (auto& request : requests) {
      request.SetRead(random() % (kFileBytes / kReadBytes) * (kReadBytes / 512), kReadBytes / 512);
      HVSDK_CHECK(pair.client().Send(request));
    }
    pair.client().Publish();
    while (pair.client().in_flight() != 0) pair.Pump();
  }
  for (auto& request : requests) HVSDK_CHECK(request.ok());
  state.SetItemsProcessed(state.iterations() * depth);
}

void BM_ProviderNullDisk(benchmark::State& state) { RunProvider(state, std::make_shared<NullDisk>()); }
BENCHMARK(BM_ProviderNullDisk)->Arg(1)->Arg(32);

void BM_ProviderFile(benchmark::State& state) {
  CachedFile file;
  if (auto disk = OpenDisk(file, static_cast<FileEngineKind>(state.range(1)), state)) RunProvider(state, disk);
}
BENCHMARK(BM_ProviderFile)
    ->ArgNames({"depth", "engine"})
    ->ArgsProduct({{1, 32}, {static_cast<int>(FileEngineKind::kIoUring), static_cast<int>(FileEngineKind::kThreads)}})
    ->UseRealTime();

// RawDisk without the provider.
void BM_RawDisk(benchmark::State& state) {
  CachedFile file;
  auto disk = OpenDisk(file, static_cast<FileEngineKind>(state.range(1)), state);
  if (disk == nullptr) return;
  struct Read : BlockRequest {
    HostBuffer buffer;
    WaitWord* left;
  };
  const size_t depth = static_cast<size_t>(state.range(0));
  std::vector<Read> reads(depth);
  std::vector<BlockRequest*> batch;
  std::vector<uint8_t> bytes(depth * kReadBytes);
  WaitWord left;
  for (size_t i = 0; i < depth; ++i) {
    reads[i].buffer = {bytes.data() + i * kReadBytes, kReadBytes};
    reads[i].buffers = absl::MakeConstSpan(&reads[i].buffer, 1);
    reads[i].size_bytes = kReadBytes;
    reads[i].left = &left;
    reads[i].on_complete = [](BlockRequest& request, BlockStatus status) {
      HVSDK_CHECK(status == BlockStatus::kOk);
      WaitWord& count = *static_cast<Read&>(request).left;
      if (count.fetch_sub(1, std::memory_order_acq_rel) == 1) count.WakeOne();
    };
    batch.push_back(&reads[i]);
  }
  std::mt19937_64 random(1);
  for (auto _ : state) {
    left.store(static_cast<uint32_t>(depth), std::memory_order_relaxed);
    for (auto& read : reads) read.offset_bytes = random() % (kFileBytes / kReadBytes) * kReadBytes;
    disk->Submit(batch);
    for (uint32_t now; (now = left.load(std::memory_order_acquire)) != 0;) left.Wait(now);
  }
  state.SetItemsProcessed(state.iterations() * depth);
}
BENCHMARK(BM_RawDisk)
    ->ArgNames({"depth", "engine"})
    ->ArgsProduct({{1, 32}, {static_cast<int>(FileEngineKind::kIoUring), static_cast<int>(FileEngineKind::kThreads)}})
    ->UseRealTime();

// Yardstick: one system call a read.
void BM_PlainPread(benchmark::State& state) {
  CachedFile file;
  const int fd = open(file.path().c_str(), O_RDONLY);
  std::vector<uint8_t> bytes(kReadBytes);
  std::mt19937_64 random(1);
  for (auto _ : state) {
    HVSDK_CHECK(pread(fd, bytes.data(), kReadBytes, random() % (kFileBytes / kReadBytes) * kReadBytes) == kReadBytes);
  }
  state.SetItemsProcessed(state.iterations());
  close(fd);
}
BENCHMARK(BM_PlainPread)->UseRealTime();

// Yardstick: io_uring by hand, `depth` reads a system call, no thread.
void BM_PlainUring(benchmark::State& state) {
  CachedFile file;
  const int fd = open(file.path().c_str(), O_RDONLY);
  io_uring ring;
  if (io_uring_queue_init(64, &ring, 0) != 0) {
    state.SkipWithError("no io_uring");
    return;
  }
  const unsigned depth = static_cast<unsigned>(state.range(0));
  std::vector<uint8_t> bytes(depth * kReadBytes);
  std::mt19937_64 random(1);
  for (auto _ : state) {
    for (unsigned i = 0; i < depth; ++i) {
      io_uring_prep_read(io_uring_get_sqe(&ring), fd, bytes.data() + i * kReadBytes, kReadBytes,
                         random() % (kFileBytes / kReadBytes) * kReadBytes);
    }
    HVSDK_CHECK(io_uring_submit_and_wait(&ring, depth) == static_cast<int>(depth));
    io_uring_cqe* cqe;
    unsigned head;
    io_uring_for_each_cqe(&ring, head, cqe) HVSDK_CHECK(cqe->res == kReadBytes);
    io_uring_cq_advance(&ring, depth);
  }
  state.SetItemsProcessed(state.iterations() * depth);
  io_uring_queue_exit(&ring);
  close(fd);
}
BENCHMARK(BM_PlainUring)->Arg(1)->Arg(32)->UseRealTime();

}  // namespace
}  // namespace hvsdk

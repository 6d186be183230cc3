// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/machine/host.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "base/host_thread.h"
#include "base/status_macros.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/machine/memory_balance.h"
#include "hvsdk/vsp/video.h"

namespace hvsdk::machine {

struct Host::IoThread {
  std::unique_ptr<os::EventLoop> loop;
  HostThread thread;
  size_t machines = 0;

  // The one that runs here, of whatever host.
  static thread_local IoThread* current;
};
thread_local Host::IoThread* Host::IoThread::current = nullptr;

namespace {

// One that did not do what it was asked to is left alone for so many of its reports, of which Linux sends one a second.
constexpr uint32_t kReportsOfRest = 10;
// For what is moved at once, of which a Linux gives up or takes 128 MiB in far less.
constexpr std::chrono::seconds kMoveWithin{30};

}  // namespace

struct Host::Partition final : private Task, private vsp::MemoryBudget {
  Partition(Host& host, IoThread& io) : host(host), io(io) {}
  ~Partition() { io.loop->Drain(aim_); }

  void Start() { io.loop->Schedule(*this); }
  vsp::MemoryBudget& budget() { return *this; }
  // Has the guest come to so much, in a turn of its own.
  void MoveMemory(uint64_t to_bytes) {
    is_moving = true;
    wanted_bytes = to_bytes;
    io.loop->Schedule(aim_);
  }

  Host& host;
  IoThread& io;
  PartitionId id{};
  std::string name;
  // Guarded by the host's lock, but for what does not change.
  uint64_t fixed_bytes = 0;  // a frame buffer
  uint64_t min_bytes = 0, max_bytes = 0;
  uint64_t memory_bytes = 0;  // the guest's, as it counts
  uint64_t needed_bytes = 0;
  bool has_report = false;
  bool is_moving = false;  // to have `wanted_bytes`
  uint64_t wanted_bytes = 0;
  bool is_reliable = true;  // it did what it was asked to the last time
  uint32_t rest = 0;        // reports, until it is asked again
  absl::AnyInvocable<void(const MachineResult&)> on_end;
  PartitionPorts ports;
  std::unique_ptr<Machine> machine;  // used on its thread of I/O; or, under the host's lock, until it ends
  bool started = false;
  bool ending = false;

 private:
  struct Aim final : Task {
    explicit Aim(Partition& of) : of(of) {}
    void Run() override { of.SetTarget(); }
    Partition& of;
  };

  void SetTarget() {
    uint64_t to_bytes;
    {
      std::lock_guard lock(host.mutex_);
      if (ending) return;
      to_bytes = wanted_bytes;
    }
    machine->integration().balloon->SetTarget({.pages = to_bytes >> kPageShift, .within = kMoveWithin},
                                              [this](const absl::Status& status) {
                                                std::lock_guard lock(host.mutex_);
                                                is_moving = false;
                                                is_reliable = status.ok();
                                                if (!is_reliable) rest = kReportsOfRest;
                                              });
  }

  // vsp::MemoryBudget
  uint64_t Take(uint64_t pages) override {
    std::lock_guard lock(host.mutex_);
    const uint64_t taken = std::min(pages, host.MemoryLeft() >> kPageShift);
    memory_bytes += taken << kPageShift;
    host.memory_used_ += taken << kPageShift;
    return taken;
  }
  void OnChange(const vsp::BalloonStatus& status) override {
    std::lock_guard lock(host.mutex_);
    Count(status);
  }
  void OnReport(const vsp::BalloonStatus& status) override {
    std::lock_guard lock(host.mutex_);
    Count(status);
    if (rest != 0) --rest;
    if (host.options_.balance_memory) host.BalanceMemory();
  }
  void Count(const vsp::BalloonStatus& status) {
    const uint64_t now_bytes = status.promised << kPageShift;
    host.memory_used_ += now_bytes - memory_bytes;
    memory_bytes = now_bytes;
    has_report = status.has_report;
    needed_bytes = status.has_report ? status.demand << kPageShift : 0;
  }

  Aim aim_{*this};

  void Run() override {
    HVSDK_CHECK(machine->Start([this](const MachineResult& result) { host.Remove(*this, result); }).ok());
  }
};

namespace {

absl::Status NoSuchPartition(PartitionId id) {
  return absl::NotFoundError(absl::StrFormat("there is no partition %d", ToInt(id)));
}

}  // namespace

Host::Host(const HostOptions& options) : options_(options) {}

Host::~Host() {
  {
    std::lock_guard lock(mutex_);
    ending_ = true;
  }
  for (const PartitionInfo& info : List()) (void)End(info.id);
  Wait();
  for (const auto& io : io_threads_) io->loop->Stop();
  for (const auto& io : io_threads_) io->thread.Join();
}

absl::StatusOr<Host::IoThread*> Host::PickIoThread() {
  const auto is_here = [](const auto& io) { return io.get() == IoThread::current; };
  if (const auto here = std::find_if(io_threads_.begin(), io_threads_.end(), is_here); here != io_threads_.end()) {
    return here->get();
  }
  const auto least = std::min_element(io_threads_.begin(), io_threads_.end(),
                                      [](const auto& a, const auto& b) { return a->machines < b->machines; });
  const bool has_free = least != io_threads_.end() && (*least)->machines == 0;
  if (has_free || (!io_threads_.empty() && io_threads_.size() >= options_.io_threads)) return least->get();
  auto io = std::make_unique<IoThread>();
  ASSIGN_OR_RETURN(io->loop, os::EventLoop::Create());
  RETURN_IF_ERROR(io->thread.Start(absl::StrCat("io", io_threads_.size()).c_str(), [io = io.get()] {
    IoThread::current = io;
    io->loop->Run();
  }));
  io_threads_.push_back(std::move(io));
  return io_threads_.back().get();
}

void Host::CallOn(IoThread& io, absl::FunctionRef<void()> function) {
  if (IoThread::current == &io) return function();
  struct Call final : Task {
    Call(Host& host, absl::FunctionRef<void()> function) : host(host), function(function) {}
    void Run() override {
      function();
      // The last that is seen of the call.
      std::lock_guard lock(host.mutex_);
      done = true;
      host.changed_.notify_all();
    }
    Host& host;
    absl::FunctionRef<void()> function;
    bool done = false;
  };
  Call call(*this, function);
  io.loop->Schedule(call);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return call.done; });
}

absl::StatusOr<PartitionId> Host::Create(HostedMachine machine, boot::LoadInput& blame) {
  blame = boot::LoadInput::kNone;
  if (machine.machine.instruction_time != nullptr) {
    return absl::InvalidArgumentError("a deterministic machine has its loop for itself");
  }
  IoThread* io;
  {
    std::lock_guard lock(mutex_);
    if (ending_) return absl::CancelledError("the host ends");
    ASSIGN_OR_RETURN(io, PickIoThread());
    ++io->machines;
  }
  absl::StatusOr<PartitionId> id = PartitionId{};
  CallOn(*io, [&] { id = CreateOn(*io, std::move(machine), blame); });
  return id;
}

absl::StatusOr<PartitionId> Host::CreateOn(IoThread& io, HostedMachine machine, boot::LoadInput& blame) {
  auto partition = std::make_unique<Partition>(*this, io);
  partition->name = std::move(machine.name);
  partition->on_end = std::move(machine.on_end);
  absl::Status status = machine.prepare ? machine.prepare(*io.loop, machine.machine) : absl::OkStatus();
  if (status.ok()) status = Build(*partition, std::move(machine.machine), blame);
  if (status.ok()) {
    std::lock_guard lock(mutex_);
    if (ending_) {
      status = absl::CancelledError("the host ends");
    } else {
      const PartitionId id = partition->id = PartitionId{next_id_++};
      partitions_[id] = std::move(partition);
      return id;
    }
  }
  partition->machine.reset();
  if (partition->on_end) partition->on_end({.outcome = Outcome::kHostFailure, .status = status});
  std::lock_guard lock(mutex_);
  memory_used_ -= partition->fixed_bytes + partition->memory_bytes;
  --io.machines;
  return status;
}

absl::Status Host::Build(Partition& partition, MachineOptions options, boot::LoadInput& blame) {
  {
    std::lock_guard lock(mutex_);
    const uint64_t left = MemoryLeft();
    const uint64_t video_bytes =
        options.video.has_value() ? vsp::VideoMemoryBytes(options.video->width, options.video->height) : 0;
    const uint64_t wanted = options.memory_bytes + video_bytes;
    if (wanted > left) {
      blame = boot::LoadInput::kMemory;
      return absl::ResourceExhaustedError(absl::StrFormat("%d MiB of guest memory: of the host's %d MiB, %d are left",
                                                          wanted >> 20, options_.memory_bytes >> 20, left >> 20));
    }
    memory_used_ += wanted;
    partition.fixed_bytes = video_bytes;
    partition.memory_bytes = options.memory_bytes;
    partition.min_bytes = std::min(options.integration.balloon_min_bytes, options.memory_bytes);
    partition.max_bytes = std::max(options.memory_bytes, options.max_memory_bytes);
  }
  options.integration.memory_budget = &partition.budget();
  options.parts.push_back(&partition.ports);
  ASSIGN_OR_RETURN(partition.machine, Machine::Create(options, *partition.io.loop, blame));
  return absl::OkStatus();
}

Host::Partition* Host::Find(PartitionId id) const {
  const auto found = partitions_.find(id);
  return found == partitions_.end() || found->second->ending ? nullptr : found->second.get();
}

void Host::StartLocked(Partition& partition) {
  if (!std::exchange(partition.started, true)) partition.Start();
}

absl::Status Host::Start(PartitionId id) {
  std::lock_guard lock(mutex_);
  Partition* const partition = Find(id);
  if (partition == nullptr) return NoSuchPartition(id);
  StartLocked(*partition);
  return absl::OkStatus();
}

// One that has not run begins, and ends before its first instruction: so there is one way to the end.
absl::Status Host::End(PartitionId id) {
  std::lock_guard lock(mutex_);
  Partition* const partition = Find(id);
  if (partition == nullptr) return NoSuchPartition(id);
  partition->machine->Stop();
  StartLocked(*partition);
  return absl::OkStatus();
}

void Host::Remove(Partition& partition, const MachineResult& result) {
  {
    std::lock_guard lock(mutex_);
    partition.ending = true;
    std::erase_if(connections_, [&](const PortConnection& each) {
      if (each.from != partition.id && each.to != partition.id) return false;
      partitions_[each.from]->ports.Disconnect(each.connection);
      return true;
    });
  }
  partition.machine.reset();
  {
    std::lock_guard lock(mutex_);
    memory_used_ -= partition.fixed_bytes + partition.memory_bytes;
    --partition.io.machines;
  }
  if (partition.on_end) partition.on_end(result);
  std::unique_ptr<Partition> gone;
  std::lock_guard lock(mutex_);
  gone = std::move(partitions_[partition.id]);
  partitions_.erase(partition.id);
  changed_.notify_all();
}

absl::Status Host::WithMachine(PartitionId id, absl::FunctionRef<void(Machine&)> use) {
  IoThread* io;
  {
    std::lock_guard lock(mutex_);
    const Partition* const partition = Find(id);
    if (partition == nullptr) return NoSuchPartition(id);
    io = &partition->io;
  }
  absl::Status status;
  CallOn(*io, [&] {
    Machine* machine;
    {
      std::lock_guard lock(mutex_);
      const Partition* const partition = Find(id);
      if (partition == nullptr) {
        status = NoSuchPartition(id);
        return;
      }
      machine = partition->machine.get();
    }
    use(*machine);
  });
  return status;
}

std::vector<PartitionInfo> Host::List() const {
  using enum PartitionInfo::State;
  std::vector<PartitionInfo> list;
  std::lock_guard lock(mutex_);
  for (const auto& [id, partition] : partitions_) {
    if (partition->ending) continue;
    const bool paused = partition->machine->controller().state() == Controller::State::kPaused;
    list.push_back({.id = id,
                    .name = partition->name,
                    .memory_bytes = partition->fixed_bytes + partition->memory_bytes,
                    .memory_needed_bytes = partition->needed_bytes,
                    .state = paused               ? kPaused
                             : partition->started ? kRunning
                                                  : kCreated,
                    .lost_connections = partition->ports.lost()});
  }
  return list;
}

uint64_t Host::memory_left() const {
  std::lock_guard lock(mutex_);
  return MemoryLeft();
}

uint64_t Host::MemoryLeft() const { return options_.memory_bytes - std::min(options_.memory_bytes, memory_used_); }

void Host::BalanceMemory() {
  std::vector<Partition*> partitions;
  std::vector<MemoryHolder> holders;
  for (const auto& [id, partition] : partitions_) {
    const bool runs = !partition->ending && partition->machine->controller().state() != Controller::State::kPaused;
    MemoryHolder& holder = holders.emplace_back();
    holder = {.need = {partition->min_bytes, partition->max_bytes, partition->needed_bytes},
              .fixed_bytes = partition->fixed_bytes,
              .has_bytes = partition->memory_bytes,
              .keeps_all = !partition->has_report || !runs,
              .is_resting = partition->rest != 0,
              .is_reliable = partition->is_reliable};
    if (partition->is_moving) holder.wanted_bytes = partition->wanted_bytes;
    partitions.push_back(partition.get());
  }
  const std::vector<absl::optional<uint64_t>> moves = PlanMoves(options_.memory_bytes, memory_used_, holders);
  for (size_t i = 0; i < moves.size(); ++i) {
    if (moves[i].has_value()) partitions[i]->MoveMemory(*moves[i]);
  }
}

void Host::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return partitions_.empty(); });
}

absl::Status Host::Connect(const PortConnection& connection) {
  std::lock_guard lock(mutex_);
  Partition* const from = Find(connection.from);
  if (from == nullptr) return NoSuchPartition(connection.from);
  Partition* const to = Find(connection.to);
  if (to == nullptr) return NoSuchPartition(connection.to);
  RETURN_IF_ERROR(from->ports.Connect(connection.connection, to->ports, connection.port));
  connections_.push_back(connection);
  return absl::OkStatus();
}

absl::Status Host::Disconnect(PartitionId from, ConnectionId connection) {
  std::lock_guard lock(mutex_);
  Partition* const partition = Find(from);
  if (partition == nullptr) return NoSuchPartition(from);
  partition->ports.Disconnect(connection);
  std::erase_if(connections_,
                [&](const PortConnection& each) { return each.from == from && each.connection == connection; });
  return absl::OkStatus();
}

}  // namespace hvsdk::machine

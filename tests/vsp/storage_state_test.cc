// SPDX-License-Identifier: Apache-2.0
// A guest that goes on with its I/O while the root under it is paused, saved and restored into a fresh one, or reset.

#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/random_seed.h"
#include "tests/state/component_suite.h"
#include "tests/vsp/storage_fixture.h"

namespace hvsdk::vsp {
namespace {

// One root's way to the guest, until it is cut: then another root has it.
class Relay : public Hypervisor {
 public:
  explicit Relay(vmbus::LoopbackHypervisor& to) : to_(&to) {}
  hvdef::HvStatus PostMessage(VpIndex vp, Sint sint, uint32_t type, absl::Span<const uint8_t> payload) override {
    return to_ == nullptr ? hvdef::HvStatus::kInvalidVpIndex : to_->PostMessage(vp, sint, type, payload);
  }
  void SetMessageSlotObserver(MessageSlotObserver* observer) override {
    if (to_ != nullptr) to_->SetMessageSlotObserver(observer);
  }
  hvdef::HvStatus SignalEvent(VpIndex vp, Sint sint, uint16_t flag) override {
    return to_ == nullptr ? hvdef::HvStatus::kInvalidVpIndex : to_->SignalEvent(vp, sint, flag);
  }
  absl::Status RegisterPort(ConnectionId connection, PortHandler* handler) override {
    ports_.push_back(connection);
    return to_->RegisterPort(connection, handler);
  }
  void UnregisterPort(ConnectionId connection) override {
    std::erase(ports_, connection);
    if (to_ != nullptr) to_->UnregisterPort(connection);
  }
  void Cut() {
    for (const ConnectionId connection : ports_) to_->UnregisterPort(connection);
    to_ = nullptr;
  }

 private:
  vmbus::LoopbackHypervisor* to_;
  std::vector<ConnectionId> ports_;
};

class StorageStateTest : public StorageFixture {
 protected:
  static constexpr size_t kDiskBytes = 4 << 20;

  void Start() {
    bytes_ = MakeZeroPages(kMemoryBytes);
    ASSERT_TRUE(memory_.AddRange(0, absl::MakeSpan(bytes_.get(), kMemoryBytes)).ok());
    hypervisor_ = std::make_unique<vmbus::LoopbackHypervisor>(4);
    MakeRoot();
    Boot();
  }
  void Boot() {
    child_ = std::make_unique<vsc::LoopbackChild>(*hypervisor_, memory_);
    child_->client().Connect();
    Pump();
    child_->client().RequestOffers();
    Pump();
  }
  void MakeRoot() {
    relay_ = std::make_unique<Relay>(*hypervisor_);
    server_ = std::make_unique<vmbus::Server>(
        memory_, *relay_, vmbus::ServerOptions{},
        vmbus::ServerResources{.executor = &executor_, .timers = &timers_, .clock = &clock_});
    ASSERT_TRUE(server_->Start().ok());
    auto storage = StorageController::Create(*server_, executor_, {.instance_id = kInstance, .max_subchannels = 2});
    ASSERT_TRUE(storage.ok()) << storage.status();
    storage_ = *std::move(storage);
    ASSERT_TRUE(storage_->Attach(0, disk_).ok());
  }
  // Without the guest's doing.
  void Pause() {
    bool paused = false;
    storage_->Pause([&] { paused = true; });
    executor_.RunUntilIdle();
    while (!paused) {
      ASSERT_NE(disk_->held(), 0u) << "nothing is under way, and it has not paused";
      ++finished_in_pause_;
      disk_->ReleaseOne();
      executor_.RunUntilIdle();
    }
  }
  // The old root is kept until the end, and has no way to the guest any more.
  void Migrate() {
    ASSERT_NO_FATAL_FAILURE(Pause());
    const state::SavedState storage = state::SaveOf(*storage_);
    const state::SavedState server = state::SaveOf(*server_);
    relay_->Cut();
    old_.push_back({std::move(relay_), std::move(server_), std::move(storage_)});
    ASSERT_NO_FATAL_FAILURE(MakeRoot());
    // Either it is restored as it was made, or paused and goes on only when told to.
    const bool stays_paused = old_.size() % 2 == 0;
    if (stays_paused) {
      ASSERT_NO_FATAL_FAILURE(Pause());
    }
    absl::Status status = state::RestoreOf(*storage_, storage);
    ASSERT_TRUE(status.ok()) << status;
    status = state::RestoreOf(*server_, server);
    ASSERT_TRUE(status.ok()) << status;
    server_->CheckInvariants();
    ASSERT_EQ(state::SaveOf(*storage_), storage);
    ASSERT_EQ(state::SaveOf(*server_), server);
    if (!stays_paused) return;
    executor_.RunUntilIdle();
    ASSERT_EQ(state::SaveOf(*storage_), storage) << "said something while paused";
    storage_->Resume();
  }
  void TearDown() override {
    disk_->ReleaseAll();
    executor_.RunUntilIdle();
    StorageFixture::TearDown();
    while (!old_.empty()) old_.pop_back();
  }

  struct Root {
    std::unique_ptr<Relay> relay;
    std::unique_ptr<vmbus::Server> server;
    std::unique_ptr<StorageController> storage;  // declared last: gone first
  };
  std::shared_ptr<HoldingDisk> disk_ = std::make_shared<HoldingDisk>(Pattern(kDiskBytes));
  std::unique_ptr<Relay> relay_;
  std::vector<Root> old_;
  int finished_in_pause_ = 0;
};

struct Io {
  vsc::StorageRequest request;
  GuestBuffer buffer;
  std::vector<uint8_t> contents;  // of its part of the disk
  bool is_busy = false;
  bool is_write = false;
};

TEST_F(StorageStateTest, DataAreRightWhateverTheMomentOfASave) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  auto primary = Open(0, 2);
  primary->client->Start();
  Pump();
  ASSERT_TRUE(primary->client->RequestSubchannels(2));
  Pump();
  auto first = Open(1, 2);
  first->client->StartSubchannel(*primary->client);
  auto second = Open(2, 3);
  second->client->StartSubchannel(*primary->client);
  vsc::StorageClient* const clients[] = {primary->client.get(), first->client.get(), second->client.get()};

  const std::vector<uint8_t> disk = Pattern(kDiskBytes);
  std::vector<std::unique_ptr<Io>> ios;
  for (size_t i = 0; i < 80; ++i) {
    auto io = std::make_unique<Io>();
    io->buffer = Allocate(4096);
    io->contents.assign(disk.begin() + i * 4096, disk.begin() + (i + 1) * 4096);
    ios.push_back(std::move(io));
  }
  int migrations = 0, done = 0;
  const auto check = [&](Io& io) {
    if (!io.is_busy || !io.request.is_done) return;
    io.is_busy = false;
    ++done;
    EXPECT_TRUE(io.request.ok());
    if (!io.is_write) {
      EXPECT_EQ(Get(io.buffer), io.contents);
    }
  };
  for (int step = 0; step < 20'000; ++step) {
    const size_t at = random() % ios.size();
    Io& io = *ios[at];
    switch (random() % 8) {
      case 0:
      case 1:
      case 2: {
        check(io);
        if (io.is_busy) break;
        io.request = {};
        io.is_write = random() % 2 == 0;
        std::vector<uint8_t> bytes = Pattern(4096, static_cast<uint32_t>(random()));
        Put(io.buffer, bytes);
        const uint64_t lba = at * 8;
        io.is_write ? io.request.SetWrite(lba, 8) : io.request.SetRead(lba, 8);
        io.request.data = io.buffer.gpa_buffer();
        vsc::StorageClient& client = *clients[random() % std::size(clients)];
        if (!client.Send(io.request)) break;
        io.is_busy = true;
        if (io.is_write) io.contents = std::move(bytes);
        if (random() % 2 == 0) client.Publish();
        break;
      }
      case 3:
        for (vsc::StorageClient* client : clients) client->Publish();
        break;
      case 4:
        executor_.RunOne();
        break;
      case 5:
        if (random() % 8 == 0) child_->Poll();
        break;
      case 6:
        if (disk_->held() != 0) disk_->ReleaseOne();
        break;
      default:
        if (random() % 50 != 0) break;
        ++migrations;
        ASSERT_NO_FATAL_FAILURE(Migrate());
    }
  }
  for (vsc::StorageClient* client : clients) client->Publish();
  for (int i = 0; i < 1000; ++i) {
    Pump();
    disk_->ReleaseAll();
  }
  for (const auto& io : ios) {
    check(*io);
    EXPECT_FALSE(io->is_busy) << "an answer is missing";
  }
  EXPECT_GT(migrations, 10);
  EXPECT_GT(done, 500);
  EXPECT_GT(finished_in_pause_, 10) << "saves found nothing under way";
}

TEST_F(StorageStateTest, AnswersThatFoundNoRoomComeFromTheNextRoot) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto opened = Open(0, 2);
  opened->client->Start();
  Pump();
  vsc::StorageRequest requests[90];
  for (vsc::StorageRequest& request : requests) {
    request.SetTestUnitReady();
    if (!opened->client->Send(request)) {
      opened->client->Publish();
      executor_.RunUntilIdle();
      ASSERT_TRUE(opened->client->Send(request));
    }
  }
  opened->client->Publish();
  executor_.RunUntilIdle();
  ASSERT_NO_FATAL_FAILURE(Migrate());
  ASSERT_NO_FATAL_FAILURE(Migrate());
  Pump();
  for (const vsc::StorageRequest& request : requests) EXPECT_TRUE(request.ok());
}

TEST_F(StorageStateTest, PacketsWaitInTheRingWhilePaused) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto opened = OpenReady();
  ASSERT_NO_FATAL_FAILURE(Pause());
  vsc::StorageRequest request;
  request.SetTestUnitReady();
  ASSERT_TRUE(opened->client->Send(request));
  opened->client->Publish();
  Pump();
  EXPECT_FALSE(request.is_done);
  storage_->Resume();
  Pump();
  EXPECT_TRUE(request.ok());
}

TEST_F(StorageStateTest, OtherDisksAreRefused) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto opened = OpenReady();
  ASSERT_NO_FATAL_FAILURE(Pause());
  const state::SavedState saved = state::SaveOf(*storage_);
  const auto error = [&](std::vector<std::pair<uint8_t, size_t>> disks) {
    vmbus::LoopbackHypervisor hypervisor(1);
    vmbus::Server server(memory_, hypervisor, {});
    auto storage = *StorageController::Create(server, executor_, {.instance_id = kInstance, .max_subchannels = 2});
    for (const auto& [lun, bytes] : disks) {
      EXPECT_TRUE(storage->Attach(lun, std::make_shared<HoldingDisk>(Pattern(bytes))).ok());
    }
    const absl::Status status = state::RestoreOf(*storage, saved);
    EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  };
  EXPECT_EQ(error({{0, kDiskBytes}}), "");
  EXPECT_EQ(error({}), "state of storage/0, disks: LUN 0 has a disk that is missing here");
  EXPECT_EQ(error({{0, kDiskBytes / 2}}), "state of storage/0, disks: LUN 0 has another disk here");
  EXPECT_EQ(error({{0, kDiskBytes}, {5, kDiskBytes}}), "state of storage/0, disks: LUN 5 has a disk here alone");
}

TEST_F(StorageStateTest, ADiskThatIsLeftOutIsPulled) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto opened = OpenReady();
  ASSERT_NO_FATAL_FAILURE(Pause());
  const state::SavedState saved = state::SaveOf(*storage_);
  vmbus::LoopbackHypervisor hypervisor(1);
  vmbus::Server server(memory_, hypervisor, {});
  auto storage = *StorageController::Create(server, executor_, {.instance_id = kInstance, .max_subchannels = 2});
  storage->LeaveOut(1);
  EXPECT_FALSE(state::RestoreOf(*storage, saved).ok()) << "it is another one that is left out";
  storage->LeaveOut(0);
  const absl::Status status = state::RestoreOf(*storage, saved);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(storage->Detach(0).code(), absl::StatusCode::kNotFound);
}

// A DVD drive is there again with its tray and its lock; of another disc, or none, the guest is told.
TEST_F(StorageStateTest, ADriveMayHaveAnotherDisc) {
  using hvdef::scsi::MediaEventCode;
  ASSERT_NO_FATAL_FAILURE(Start());
  const auto disc = [](size_t bytes) { return std::make_shared<HoldingDisk>(Pattern(bytes)); };
  auto drive = storage_->AttachDvd(3, disc(1 << 20), nullptr);
  ASSERT_TRUE(drive.ok()) << drive.status();
  auto opened = OpenReady();
  (*drive)->SetState({.is_locked = true});
  ASSERT_NO_FATAL_FAILURE(Pause());
  const state::SavedState saved = state::SaveOf(*storage_);
  for (const size_t bytes : {size_t{1} << 20, size_t{2} << 20, size_t{0}}) {
    vmbus::LoopbackHypervisor hypervisor(1);
    vmbus::Server server(memory_, hypervisor, {});
    auto storage = *StorageController::Create(server, executor_, {.instance_id = kInstance, .max_subchannels = 2});
    ASSERT_TRUE(storage->Attach(0, disk_).ok());
    auto other = storage->AttachDvd(3, bytes == 0 ? nullptr : disc(bytes), nullptr);
    ASSERT_TRUE(other.ok());
    const absl::Status status = state::RestoreOf(*storage, saved);
    ASSERT_TRUE(status.ok()) << status;
    const scsi::DvdDrive::State state = (*other)->state();
    const bool is_same = bytes == 1 << 20;
    EXPECT_TRUE(state.is_locked);
    EXPECT_EQ(state.has_attention, !is_same && bytes != 0);
    EXPECT_EQ(state.event, is_same      ? MediaEventCode::kNone
                           : bytes == 0 ? MediaEventCode::kMediaRemoval
                                        : MediaEventCode::kNewMedia);
  }
  // A disk is no drive.
  vmbus::LoopbackHypervisor hypervisor(1);
  vmbus::Server server(memory_, hypervisor, {});
  auto storage = *StorageController::Create(server, executor_, {.instance_id = kInstance, .max_subchannels = 2});
  ASSERT_TRUE(storage->Attach(0, disk_).ok());
  ASSERT_TRUE(storage->Attach(3, disc(1 << 20)).ok());
  EXPECT_FALSE(state::RestoreOf(*storage, saved).ok());
}

TEST_F(StorageStateTest, ADamagedStateIsRefusedAndHarmless) {
  ASSERT_NO_FATAL_FAILURE(Start());
  auto opened = OpenReady();
  ASSERT_TRUE(opened->client->RequestSubchannels(2));
  Pump();
  ASSERT_NO_FATAL_FAILURE(Pause());
  const state::SavedState storage_state = state::SaveOf(*storage_);
  const state::SavedState server_state = state::SaveOf(*server_);
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    vmbus::LoopbackHypervisor hypervisor(1);
    QueueExecutor executor;
    vmbus::Server server(memory_, hypervisor, {});
    auto storage = *StorageController::Create(server, executor, {.instance_id = kInstance, .max_subchannels = 2});
    ASSERT_TRUE(storage->Attach(0, disk_).ok());
    const state::SavedState made = state::SaveOf(*storage);
    const absl::Status status =
        state::RestoreOf(*storage, {storage_state.schema, state::Damage(storage_state.bytes, random)});
    if (!status.ok()) {
      ++refused;
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_EQ(state::SaveOf(*storage), made);
    } else if (state::RestoreOf(server, server_state).ok()) {
      executor.RunUntilIdle();
      server.CheckInvariants();
    }
  }
  EXPECT_GT(refused, 500);
}

TEST_F(StorageStateTest, AResetInPlaceWithIoInFlight) {
  ASSERT_NO_FATAL_FAILURE(Start());
  const state::SavedState storage_made = state::SaveOf(*storage_);
  const state::SavedState server_made = [&] {
    vmbus::LoopbackHypervisor hypervisor(1);
    vmbus::Server server(memory_, hypervisor, {});
    auto storage = *StorageController::Create(server, executor_, {.instance_id = kInstance});
    return state::SaveOf(server);
  }();
  for (int boot = 0; boot < 3; ++boot) {
    auto opened = OpenReady();
    ASSERT_TRUE(opened->client->RequestSubchannels(2));
    Pump();
    auto sub = Open(1);
    sub->client->StartSubchannel(*opened->client);
    vsc::StorageRequest read;
    const GuestBuffer buffer = Allocate(4096);
    read.SetRead(0, 8);
    read.data = buffer.gpa_buffer();
    ASSERT_TRUE(sub->client->Send(read));
    sub->client->Publish();
    Pump();
    ASSERT_EQ(disk_->held(), 1u);

    ASSERT_NO_FATAL_FAILURE(Pause());
    storage_->Reset();
    server_->Reset();
    server_->CheckInvariants();
    EXPECT_EQ(state::SaveOf(*storage_), storage_made);
    EXPECT_EQ(state::SaveOf(*server_), server_made);
    // The guest's side of the hypervisor is reset as well.
    for (uint32_t vp = 0; vp < 4; ++vp) {
      vmbus::LoopbackHypervisor::Message message;
      while (hypervisor_->TakeMessage(VpIndex{vp}, Sint{2}, message)) {
      }
    }
    storage_->Resume();
    Boot();
  }
  // The last guest finds a disk that works.
  auto opened = OpenReady();
  vsc::StorageRequest request;
  request.SetTestUnitReady();
  EXPECT_TRUE(Run(*opened->client, request).ok());
}

}  // namespace
}  // namespace hvsdk::vsp

// SPDX-License-Identifier: Apache-2.0
// What is kept of a state when anything happens to it: damage, kills, full disks.

#include "hvsdk/vmm/state_directory.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <random>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "hvsdk/base/ids.h"
#include "hvsdk/memory/page_set.h"
#include "hvsdk/vmm/new_state.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"
#include "vmm/state_files.h"

namespace {

// Whether the file system exchanges files, which network file systems do not, and how many renames it does before the program is killed.
bool knows_flags = true;
int renames_until_kill = -1;

}  // namespace

// In place of the C library's.
extern "C" int renameat2(int from_directory, const char* from, int to_directory, const char* to,
                         unsigned flags) noexcept {
  if (flags != 0 && !knows_flags) {
    errno = EINVAL;
    return -1;
  }
  if (renames_until_kill-- == 0) raise(SIGKILL);
  return static_cast<int>(syscall(SYS_renameat2, from_directory, from, to_directory, to, flags));
}

namespace hvsdk::vmm {
namespace {

namespace fs = std::filesystem;

// Where tests of thousands of states put them: in memory, for a disk would be waited for with each. What they are about, kills and damage,
// is the same there. HVSDK_TEST_FILES=DIR in the environment has them elsewhere.
std::string FastFolder() {
  const char* const given = std::getenv("HVSDK_TEST_FILES");
  if (given != nullptr) return given;
  return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
}

class StateDirectoryTest : public ::testing::Test {
 protected:
  explicit StateDirectoryTest(const std::string& folder = "/tmp") {
    std::string pattern = folder + "/hvsdk_state_XXXXXX";
    root_ = mkdtemp(pattern.data());
    path_ = root_ + "/state";
  }
  ~StateDirectoryTest() override { fs::remove_all(root_); }

  // Number `n` of many states, of `kib` KiB.
  static machine::SavedMachine Machine(int n) {
    return {.configuration = "number " + std::to_string(n),
            .components = {{"vp/0", 1, std::string(1000, static_cast<char>(n))}, {"uart/0", 1, ""}}};
  }
  static std::vector<uint8_t> Memory(int n, size_t kib = 4096) {
    std::vector<uint8_t> bytes(kib << 10);
    for (size_t at = 5000; at < bytes.size() / 2; at += 70'001) bytes[at] = static_cast<uint8_t>(1 + (n + at) % 255);
    bytes.back() = 1;
    return bytes;
  }
  absl::Status Write(int n, size_t kib = 4096) {
    machine::SavedMachine machine = Machine(n);
    return StateDirectory::Write(path_, machine, Memory(n, kib));
  }
  // State `n` as a difference to the one at `base`, which may be anything.
  absl::Status WriteDifference(int n, const std::string& base, size_t kib = 4096) {
    const std::vector<uint8_t> memory = Memory(n, kib);
    absl::StatusOr<NewState> state = NewState::Create(path_, memory.size(), base);
    if (!state.ok()) return state.status();
    for (uint64_t page = 0; page < memory.size() / kPageSize; ++page) {
      // States differ only where there is something.
      const absl::Span<const uint8_t> bytes = absl::MakeConstSpan(memory).subspan(page * kPageSize, kPageSize);
      if (state->is_difference() && IsZero(bytes)) continue;
      if (absl::Status status = state->WritePages(page, bytes); !status.ok()) return status;
    }
    machine::SavedMachine machine = Machine(n);
    return state->Commit(machine).status();
  }
  static std::string Text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  // In place: file systems that have seen a file cut to nothing wait for the disk when it is closed.
  static void Put(const std::string& path, const std::string& bytes) {
    const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    EXPECT_EQ(pwrite(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
    EXPECT_EQ(ftruncate(fd, static_cast<off_t>(bytes.size())), 0);
    close(fd);
  }
  // Which state it is; -1 if it is none, and then says why on one line.
  int Number(std::string* why = nullptr) {
    const absl::StatusOr<StateDirectory> state = StateDirectory::Open(path_);
    if (!state.ok()) {
      EXPECT_EQ(std::string(state.status().message()).find('\n'), std::string::npos) << state.status();
      EXPECT_TRUE(absl::StrContains(state.status().message(), path_)) << state.status();
      if (why != nullptr) *why = std::string(state.status().message());
      return -1;
    }
    const int n = std::stoi(state->machine().configuration.substr(7));
    absl::StatusOr<os::HostMemory> memory = os::HostMemory::Reserve(state->memory_bytes());
    EXPECT_TRUE(memory.ok() && state->MapMemory(*memory).ok());
    const std::vector<uint8_t> expected = Memory(n, state->memory_bytes() >> 10);
    EXPECT_EQ(std::memcmp(memory->bytes().data(), expected.data(), expected.size()), 0);
    EXPECT_EQ(state->machine().components[0].state, Machine(n).components[0].state);
    return n;
  }

  std::string root_, path_;
};

class ManyStatesTest : public StateDirectoryTest {
 protected:
  ManyStatesTest() : StateDirectoryTest(FastFolder()) {}
};

TEST_F(StateDirectoryTest, WhatWasWrittenIsRead) {
  for (const int n : {1, 2}) {
    ASSERT_TRUE(Write(n).ok());
    EXPECT_EQ(Number(), n);
    EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 1)
        << "something is left beside it";
  }
  struct stat found;
  ASSERT_EQ(stat((path_ + "/memory").c_str(), &found), 0);
  EXPECT_LT(found.st_blocks * 512, 3 << 20) << "memory that is zero takes room";
  EXPECT_EQ(stat(path_.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0700u);
}

TEST_F(StateDirectoryTest, WhatIsAUsersOwnIsKept) {
  ASSERT_TRUE(Write(1).ok());
  Put(path_ + "/disk.img", "a disk");
  EXPECT_EQ(Write(2),
            absl::FailedPreconditionError(path_ + ": is there, and has another file than a state's: disk.img"));
  EXPECT_EQ(WriteDifference(2, path_).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Text(path_ + "/disk.img"), "a disk");
  EXPECT_EQ(Number(), 1);
  fs::remove(path_ + "/disk.img");
  // Other states, whatever they are called, one of which may be the base.
  for (const char* name : {".new", ".old"}) fs::copy(path_, path_ + name);
  ASSERT_TRUE(Write(2).ok());
  ASSERT_TRUE(WriteDifference(3, path_ + ".new").ok());
  EXPECT_EQ(Number(), 3);
  for (const char* name : {".new", ".old"}) {
    const absl::StatusOr<StateDirectory> state = StateDirectory::Open(path_ + name);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(state->machine().configuration, "number 1");
  }
}

TEST_F(StateDirectoryTest, ALinkLeadsToItsState) {
  fs::create_directory(root_ + "/elsewhere");
  ASSERT_TRUE(Write(1).ok());
  fs::rename(path_, root_ + "/elsewhere/real");
  fs::create_directory_symlink("elsewhere/real", path_);
  for (const int n : {2, 3, 4}) {
    ASSERT_TRUE(Write(n).ok());
    EXPECT_EQ(Number(), n);
    EXPECT_TRUE(fs::is_symlink(path_));
    EXPECT_EQ(std::distance(fs::directory_iterator(root_ + "/elsewhere"), fs::directory_iterator()), 1);
  }
  fs::remove_all(root_ + "/elsewhere/real");
  EXPECT_EQ(Write(5).code(), absl::StatusCode::kNotFound) << "a link to nothing";
}

TEST_F(StateDirectoryTest, OneSaveAtATimeToAPlace) {
  ASSERT_TRUE(Write(1).ok());
  for (int round = 0; round < 2; ++round) {
    absl::StatusOr<NewState> state = NewState::Create(path_, 1 << 20, "");
    ASSERT_TRUE(state.ok()) << state.status();
    const std::vector<uint8_t> page = Memory(2, 4);
    ASSERT_TRUE(state->WritePages(0, page).ok());
    const absl::Status second = Write(3);
    EXPECT_TRUE(absl::IsFailedPrecondition(second) && absl::StrContains(second.message(), "under way")) << second;
    EXPECT_EQ(Number(), 1);
  }
  EXPECT_TRUE(Write(4).ok()) << "one that was given up is in the way";
  EXPECT_EQ(Number(), 4);
  // Of many at once, each is refused or whole.
  std::vector<std::thread> threads;
  std::atomic<int> saved{0};
  for (int n = 10; n < 14; ++n) {
    threads.emplace_back([&, n] {
      for (int round = 0; round < 20; ++round) {
        const absl::Status status = Write(n, 256);
        EXPECT_TRUE(status.ok() || absl::StrContains(status.message(), "under way")) << status;
        saved += status.ok();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GT(saved, 0);
  EXPECT_GE(Number(), 10);
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 1);
}

TEST_F(StateDirectoryTest, AMachineWritesToItsOwnCopy) {
  ASSERT_TRUE(Write(1).ok());
  const absl::StatusOr<StateDirectory> state = StateDirectory::Open(path_);
  ASSERT_TRUE(state.ok());
  absl::StatusOr<os::HostMemory> memory = os::HostMemory::Reserve(4 << 20);
  ASSERT_TRUE(memory.ok() && state->MapMemory(*memory).ok());
  std::memset(memory->bytes().data(), 0xAB, memory->bytes().size());
  EXPECT_EQ(Number(), 1);
  ASSERT_TRUE(memory->Clear().ok());
  EXPECT_EQ(memory->bytes()[5000], 0);
  absl::StatusOr<os::HostMemory> other = os::HostMemory::Reserve(8 << 20);
  EXPECT_EQ(state->MapMemory(*other).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StateDirectoryTest, WhatIsNoStateIsNotTouched) {
  Put(path_, "a letter");
  EXPECT_EQ(Write(1).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Text(path_), "a letter");
  EXPECT_EQ(Number(), -1);
  fs::remove(path_);
  fs::create_directory(path_);
  Put(path_ + "/letter", "a letter");
  EXPECT_EQ(Write(1).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Text(path_ + "/letter"), "a letter");
  fs::remove(path_ + "/letter");
  EXPECT_TRUE(Write(1).ok()) << "an empty directory is no obstacle";
  EXPECT_EQ(Number(), 1);
}

// Who begins anew where there is no state does not do so over one that has lost a file.
TEST_F(StateDirectoryTest, OnlyWhatIsNotThereIsNotFound) {
  EXPECT_TRUE(absl::IsNotFound(StateDirectory::Open(path_).status()));
  EXPECT_TRUE(absl::IsNotFound(StateDirectory::Open(path_ + "/a/b").status()));
  fs::create_directory(path_);
  EXPECT_TRUE(absl::IsInvalidArgument(StateDirectory::Open(path_).status()));
  for (const char* const name : {"/manifest", "/state", "/memory"}) {
    ASSERT_TRUE(Write(1).ok());
    fs::remove(path_ + name);
    const absl::Status status = StateDirectory::Open(path_).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_NE(status.message().find(path_ + name), absl::string_view::npos) << status;
    fs::remove_all(path_);
  }
}

// Memory of a chain of states, which are differences to one another, in other directories or in the same, is what it was.
TEST_F(ManyStatesTest, DifferencesAgreeWithAModelOnRandomSteps) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  constexpr uint64_t kPages = 300;
  std::vector<uint8_t> memory(kPages * kPageSize);
  std::string last;
  uint64_t differences = 0, wholes = 0;
  for (int round = 0; round < 100; ++round) {
    PageSet changed(kPages);
    const std::string place = random() % 3 == 0 && !last.empty() ? last : root_ + "/" + std::to_string(round);
    absl::StatusOr<NewState> state = NewState::Create(place, memory.size(), random() % 20 == 0 ? "" : last);
    ASSERT_TRUE(state.ok()) << state.status();
    if (!state->is_difference()) changed.AddAll();
    // Some rounds, between which the guest writes: a page is written again, or becomes zero.
    for (uint32_t writes = random() % 30; writes > 0; --writes) {
      const uint64_t page = random() % kPages;
      std::memset(&memory[page * kPageSize + random() % 4000], static_cast<int>(random() % 3), 96);
      if (random() % 4 == 0) std::memset(&memory[page * kPageSize], 0, kPageSize);
      changed.Add(page);
      if (random() % 10 != 0) continue;
      changed.ForEachRun([&](uint64_t first, uint64_t count) {
        EXPECT_TRUE(
            state->WritePages(first, absl::MakeConstSpan(memory).subspan(first * kPageSize, count * kPageSize)).ok());
        return true;
      });
      changed.Clear();
    }
    changed.ForEachRun([&](uint64_t first, uint64_t count) {
      EXPECT_TRUE(
          state->WritePages(first, absl::MakeConstSpan(memory).subspan(first * kPageSize, count * kPageSize)).ok());
      return true;
    });
    (state->is_difference() ? differences : wholes) += 1;
    machine::SavedMachine machine = Machine(round);
    const absl::StatusOr<std::string> id = state->Commit(machine);
    ASSERT_TRUE(id.ok()) << id.status();
    ASSERT_EQ(*StateId(place), *id);
    if (!last.empty() && place != last && random() % 2 == 0) fs::remove_all(last);
    last = place;
    const absl::StatusOr<StateDirectory> read = StateDirectory::Open(last);
    ASSERT_TRUE(read.ok()) << read.status();
    absl::StatusOr<os::HostMemory> restored = os::HostMemory::Reserve(memory.size());
    ASSERT_TRUE(restored.ok());
    const absl::Status mapped = read->MapMemory(*restored);
    ASSERT_TRUE(mapped.ok()) << mapped;
    ASSERT_EQ(std::memcmp(restored->bytes().data(), memory.data(), memory.size()), 0) << "round " << round;
  }
  EXPECT_GT(differences, 50u);
  EXPECT_GT(wholes, 1u) << "no chain came to its end";
}

TEST_F(StateDirectoryTest, ADifferenceTakesTheRoomOfWhatChanged) {
  ASSERT_TRUE(Write(1, 16 << 10).ok());
  const std::string base = root_ + "/base";
  fs::rename(path_, base);
  {
    const absl::StatusOr<NewState> state = NewState::Create(path_, 16 << 20, base);
    ASSERT_TRUE(state.ok() && state->is_difference()) << state.status();
    EXPECT_EQ(fs::hard_link_count(base + "/memory"), 2u);
  }
  ASSERT_TRUE(WriteDifference(2, base, 16 << 10).ok());
  EXPECT_LT(fs::file_size(path_ + "/memory.1"), 1u << 20);
  fs::remove_all(base);
  EXPECT_EQ(Number(), 2);
}

TEST_F(StateDirectoryTest, WhatIsNoBaseIsSaid) {
  ASSERT_TRUE(Write(1).ok());
  const auto refusal = [&](const std::string& base, size_t kib = 4096) {
    const absl::Status status = WriteDifference(2, base, kib);
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 1) << "something is left";
    return std::string(status.message());
  };
  EXPECT_TRUE(absl::StrContains(refusal(root_ + "/none"), root_ + "/none/manifest: No such file"));
  EXPECT_TRUE(absl::StrContains(refusal(path_, 8192), "of a machine with 4 MiB of memory, not 8"));
  EXPECT_EQ(Number(), 1);
  const std::string memory = Text(path_ + "/memory");
  Put(path_ + "/memory", memory.substr(5000));
  EXPECT_TRUE(absl::StrContains(refusal(path_), path_ + "/memory: 4189304 bytes; the manifest says 4194304"));
  Put(path_ + "/memory", memory);
  EXPECT_EQ(Number(), 1);
}

class DamageTest : public ManyStatesTest, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(States, DamageTest, testing::Bool(), [](const testing::TestParamInfo<bool>& info) {
  return info.param ? "WithDifferences" : "Whole";
});

TEST_P(DamageTest, IsSeen) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  // Two pieces of memory and a half.
  constexpr size_t kKib = 160;
  ASSERT_TRUE(Write(GetParam() ? 5 : 7, kKib).ok());
  std::vector<std::string> names = {"/manifest", "/state", "/memory"};
  if (GetParam()) {
    ASSERT_TRUE(WriteDifference(6, path_, kKib).ok() && WriteDifference(7, path_, kKib).ok());
    names.insert(names.end(), {"/memory.1", "/memory.2"});
  }
  std::vector<std::string> wholes;
  for (const std::string& name : names) wholes.push_back(Text(path_ + name));
  const std::string manifest = wholes[0];
  for (uint32_t i = 0; i < ScaledCount(10'000); ++i) {
    const size_t which = random() % names.size();
    const std::string& whole = wholes[which];
    std::string bytes = whole;
    const size_t at = random() % bytes.size();
    switch (random() % 5) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
        break;
      case 1:
        bytes.resize(at);
        break;
      case 2:
        bytes.insert(at, 1, static_cast<char>(random()));
        break;
      case 3:
        bytes.erase(at, 1 + random() % 100);
        break;
      default:
        bytes = wholes[(which + 1) % names.size()];
    }
    if (bytes == whole) continue;
    Put(path_ + names[which], bytes);
    std::string why;
    ASSERT_EQ(Number(&why), -1) << names[which] << " at " << at << ", seed " << seed;
    Put(path_ + names[which], whole);
  }
  for (const std::string& name : names) {
    fs::rename(path_ + name, root_ + "/away");
    EXPECT_EQ(Number(), -1);
    fs::create_directory(path_ + name);
    EXPECT_EQ(Number(), -1);
    fs::remove(path_ + name);
    ASSERT_EQ(mkfifo((path_ + name).c_str(), 0600), 0);
    EXPECT_EQ(Number(), -1);
    fs::remove(path_ + name);
    fs::rename(root_ + "/away", path_ + name);
  }
  Put(path_ + "/manifest", "hvsdk state 3" + manifest.substr(13));
  std::string why;
  EXPECT_EQ(Number(&why), -1);
  EXPECT_EQ(why, path_ + "/manifest: version 3; 2 is known here");
  Put(path_ + "/manifest", manifest);
  EXPECT_EQ(Number(), 7);
}

// Which memory is read before a machine begins, and which is left for later.
TEST_F(StateDirectoryTest, ChangedMemoryIsChecked) {
  // On a file system whose clock has not gone on since, a state says nothing, and is checked: that may take another try.
  bool is_unchanged = false;
  for (int tries = 0; tries < 500 && !is_unchanged; ++tries) {
    usleep(tries * 100);  // a write that takes as long as the clock does may meet it in the same phase again and again
    ASSERT_TRUE(Write(1).ok());
    const absl::StatusOr<StateDirectory> state = StateDirectory::Open(path_);
    ASSERT_TRUE(state.ok()) << state.status();
    is_unchanged = state->is_unchanged();
  }
  EXPECT_TRUE(is_unchanged);
  const std::string memory = path_ + "/memory";
  const auto open = [&] { return StateDirectory::Open(path_); };
  {
    const absl::StatusOr<StateDirectory> state = open();
    const std::atomic<bool> never = false, at_once = true;
    EXPECT_TRUE(state->CheckMemory(never).ok());
    EXPECT_EQ(state->CheckMemory(at_once).code(), absl::StatusCode::kCancelled);
    // What was not changed by its name either: another link.
    fs::create_hard_link(memory, root_ + "/link");
    std::fstream file(root_ + "/link", std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(5000);
    file.put('x');
    file.close();
    EXPECT_EQ(state->CheckMemory(never).code(), absl::StatusCode::kInvalidArgument);
    std::promise<absl::Status> damage;
    const auto check = state->CheckMeanwhile([&](const absl::Status& status) { damage.set_value(status); });
    ASSERT_TRUE(check.ok()) << check.status();
    EXPECT_EQ(damage.get_future().get().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_FALSE(open().ok());
  }
  ASSERT_TRUE(Write(1).ok());
  // A copy is right, and was checked; with the time of the original, too.
  const fs::file_time_type written = fs::last_write_time(memory);
  fs::copy_file(memory, root_ + "/copy");
  fs::rename(root_ + "/copy", memory);
  fs::last_write_time(memory, written);
  absl::StatusOr<StateDirectory> state = open();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_FALSE(state->is_unchanged());
}

// A copy that goes on, or is taken away, while it is read: an error, or none if it came too late, and never more.
TEST_F(ManyStatesTest, WhatChangesWhileItIsReadHarmsNobody) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  ASSERT_TRUE(Write(1).ok());
  const std::string memory = path_ + "/memory", whole = Text(memory);
  std::atomic<bool> over{false};
  std::thread meddler([&, random]() mutable {
    while (!over) {
      EXPECT_EQ(truncate(memory.c_str(), static_cast<off_t>(random() % whole.size())), 0);
      if (random() % 2 == 0) Put(memory, whole);
    }
  });
  for (uint32_t i = 0; i < ScaledCount(200); ++i) {
    const absl::StatusOr<StateDirectory> state = StateDirectory::Open(path_);
    const std::atomic<bool> never = false;
    const absl::Status status = state.ok() ? state->CheckMemory(never) : state.status();
    EXPECT_TRUE(status.ok() || absl::IsInvalidArgument(status)) << status;
  }
  over = true;
  meddler.join();
  fs::remove(memory);
  fs::create_symlink("memory", memory);
  std::string why;
  EXPECT_EQ(Number(&why), -1);
  EXPECT_EQ(why, memory + ": a symbolic link to itself");
}

TEST_F(ManyStatesTest, AKillLeavesTheOldOrTheNew) {
  const uint32_t seed = TestSeed();
  std::mt19937 random(seed);
  constexpr size_t kKib = 512;
  ASSERT_TRUE(Write(0, kKib).ok());
  int last = 0;
  for (uint32_t i = 0; i < ScaledCount(100); ++i) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int n = last + 1;; ++n) {
        if (!(n % 3 == 0 ? Write(n % 100, kKib) : WriteDifference(n % 100, path_, kKib)).ok()) _exit(1);
      }
    }
    usleep(random() % 15'000);
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    const int now = Number();
    ASSERT_GE(now, 0) << "seed " << seed;
    last = now;
  }
}

// At most one of them is missing from its place for a moment, and then it is beside it.
TEST_F(StateDirectoryTest, AFileSystemNeedNotExchange) {
  knows_flags = false;
  for (int n = 1; n <= 3; ++n) {
    ASSERT_TRUE(Write(n).ok());
    EXPECT_EQ(Number(), n);
    EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 1);
  }
  for (int renames = 0; renames < 5; ++renames) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      renames_until_kill = renames;
      (void)Write(50);
      _exit(1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(WIFSIGNALED(status), renames < 4) << renames;
    if (!fs::exists(path_)) {
      EXPECT_EQ(renames, 2);
      fs::rename(root_ + "/.state.hvsdk-old", path_);
    }
    EXPECT_EQ(Number(), renames < 3 ? 3 : 50) << renames;
    ASSERT_TRUE(Write(3).ok());
    EXPECT_EQ(Number(), 3);
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 1);
  // What was left beside it by a kill is no obstacle.
  fs::copy(path_, root_ + "/.state.hvsdk-old");
  ASSERT_TRUE(Write(4).ok());
  EXPECT_EQ(Number(), 4);
  knows_flags = true;
}

TEST_F(StateDirectoryTest, AFullDiskLeavesTheOld) {
  ASSERT_TRUE(Write(3).ok());
  signal(SIGXFSZ, SIG_IGN);
  rlimit before;
  getrlimit(RLIMIT_FSIZE, &before);
  for (const rlim_t most : {0, 10, 200, 1'000, 100'000}) {
    const rlimit limit{most, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    const absl::Status statuses[] = {Write(4), WriteDifference(4, path_)};
    setrlimit(RLIMIT_FSIZE, &before);
    for (const absl::Status& status : statuses) {
      // A difference is shorter than memory.
      EXPECT_FALSE(status.ok()) << most;
      EXPECT_TRUE(absl::StrContains(status.message(), "/.state.hvsdk-new/memory")) << status;
    }
    EXPECT_EQ(Number(), 3) << most;
    EXPECT_EQ(std::distance(fs::directory_iterator(root_), fs::directory_iterator()), 1);
  }
}

// Wherever in a save it becomes full.
TEST_F(ManyStatesTest, AFullFileSystemLeavesTheOldOrHasTheNew) {
  const uint32_t seed = TestSeed();
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::string medium = root_ + "/medium", filler = medium + "/filler";
  fs::create_directory(medium);
  if (unshare(CLONE_NEWNS) != 0 || mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", medium.c_str(), "tmpfs", 0, "size=16M") != 0) {
    GTEST_SKIP() << "a file system of its own: " << strerror(errno);
  }
  const struct Mounted {
    const std::string& path;
    ~Mounted() { umount2(path.c_str(), MNT_DETACH); }
  } mounted{medium};
  path_ = medium + "/state";
  const uint64_t before = fs::space(medium).available;
  ASSERT_TRUE(Write(0).ok());
  const uint64_t taken = before - fs::space(medium).available;
  int last = 0;
  uint32_t full = 0;
  const uint32_t saves = ScaledCount(200);
  for (uint32_t i = 0; i < saves; ++i) {
    SCOPED_TRACE(testing::Message() << "save " << i);
    const bool whole = random() % 2 == 0;
    const uint64_t room = random() % (whole ? taken * 5 / 4 : taken / 8);
    const int fd = open(filler.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    ASSERT_EQ(posix_fallocate(fd, 0, static_cast<off_t>(fs::space(medium).available - room)), 0);
    close(fd);
    const int next = (last + 1) % 100;
    const absl::Status status = whole ? Write(next) : WriteDifference(next, path_);
    if (status.ok()) {
      last = next;
    } else {
      ++full;
      EXPECT_TRUE(absl::StrContains(status.message(), "/.state.hvsdk-new")) << status;
    }
    fs::remove(filler);
    ASSERT_EQ(Number(), last) << status;
    ASSERT_EQ(std::distance(fs::directory_iterator(medium), fs::directory_iterator()), 1) << status;
  }
  std::printf("%u of %u saves found the file system full\n", full, saves);
  EXPECT_TRUE(saves < 20 || (full > saves / 10 && full < saves)) << full;
}

}  // namespace
}  // namespace hvsdk::vmm

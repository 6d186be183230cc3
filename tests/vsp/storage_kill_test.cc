// SPDX-License-Identifier: Apache-2.0
// What a guest was told is on its disk, is there: whenever the process is killed, and whatever the medium forgets then.
//
// A program of its own is the guest's client, the provider and the disk, and writes to a file on a medium that forgets
// (tests/image/forgetful_file.h). It is killed at a random moment, the medium loses power, and each block must be
// what the last acknowledged flush covered, or written later. HVSDK_KILLS is how often; 50 without it.

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "hvsdk/image/raw_disk.h"
#include "tests/image/forgetful_file.h"
#include "tests/random_seed.h"
#include "tests/test_scale.h"
#include "tests/vsp/storage_fixture.h"

extern char** environ;

namespace {

// As in forgetful_disk_test.cc: has io_uring's ring used for a file on which it would wait.
bool g_never_waits = false;

}  // namespace

extern "C" {

ssize_t __real_preadv2(int, const iovec*, int, off_t, int);
ssize_t __wrap_preadv2(int fd, const iovec* pieces, int count, off_t offset, int flags) {
  if (!g_never_waits || flags == 0) return __real_preadv2(fd, pieces, count, offset, flags);
  errno = EAGAIN;
  return -1;
}

}  // extern "C"

namespace hvsdk::vsp {
namespace {

constexpr uint32_t kBlocks = 1024;

// What the writer says while it lives. A block is at least `lasting`, at most `newest`: numbers that only grow.
struct Diary {
  std::atomic<uint64_t> next;
  std::atomic<uint64_t> acknowledged;
  std::atomic<bool> writes;
  std::atomic<uint64_t> newest[kBlocks];
  std::atomic<uint64_t> lasting[kBlocks];
};

void Fill(uint8_t* block, uint32_t number, uint64_t version) {
  for (size_t at = 0; at < 512; at += 16) {
    const uint64_t words[2] = {version, version == 0 ? 0 : number};
    std::memcpy(block + at, words, sizeof(words));
  }
}

// The program that is killed.
class Writer : public StorageFixture {
 public:
  // Never returns; exit status 0: a sync failed and no flush was acknowledged after it.
  [[noreturn]] void Write(const std::string& path, FileEngineKind kind, uint64_t seed, Diary& diary) {
    std::mt19937_64 random(seed);
    Make();
    auto engine = FileEngine::Create(kind);
    if (!engine.ok()) _exit(2);
    // A killed predecessor's ring may hold the file a little longer than the process is seen.
    absl::StatusOr<std::shared_ptr<RawDisk>> disk;
    for (int tries = 0; tries < 5000; ++tries) {
      disk = RawDisk::Open(path, {}, *engine);
      if (!absl::IsFailedPrecondition(disk.status())) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    if (!disk.ok() || !storage_->Attach(0, *disk).ok()) _exit(3);
    auto opened = OpenReady();
    struct Command {
      vsc::StorageRequest request;
      GuestBuffer buffer;
      uint32_t first = 0, blocks = 0;
      uint64_t version = 0;
      uint64_t covered[kBlocks];  // a flush: what had been written when it was sent
      bool is_sent = false, was_sent_after_failure = false;
    };
    std::vector<Command> commands(8);
    for (Command& command : commands) command.buffer = Allocate(32 * 512, 0, true);
    std::vector<uint64_t> completed(kBlocks);
    for (uint32_t block = 0; block < kBlocks; ++block) completed[block] = diary.newest[block];
    bool failed = false;
    int failures = 0;
    diary.writes = true;
    for (;;) {
      for (size_t i = 0; i < commands.size(); ++i) {
        Command& command = commands[i];
        if (command.is_sent && !command.request.is_done) continue;
        const bool is_flush = command.blocks == 0;
        const bool is_forced = !is_flush && (command.request.cdb[1] & 0x08) != 0;
        if (command.is_sent && command.request.ok()) {
          // One that was under way beside the failure may have been done before it; what it covered is looked at after the kill.
          if ((is_flush || is_forced) && command.was_sent_after_failure) _exit(4);
          if (is_flush) {
            for (uint32_t block = 0; block < kBlocks; ++block) {
              if (diary.lasting[block] < command.covered[block]) diary.lasting[block] = command.covered[block];
            }
            ++diary.acknowledged;
          }
          for (uint32_t block = command.first; block < command.first + command.blocks; ++block) {
            completed[block] = command.version;
            if (is_forced) diary.lasting[block] = command.version;
          }
        } else if (command.is_sent) {
          if (command.request.sense.sense_key != 4) _exit(5);  // HARDWARE ERROR, which a guest does not try again
          failed = true;
          if (++failures == 20) _exit(0);
        }
        command.is_sent = true;
        command.was_sent_after_failure = failed;
        command.request.lun = 0;
        if (random() % 6 == 0) {
          command.first = command.blocks = 0;
          std::copy(completed.begin(), completed.end(), command.covered);
          command.request.SetSynchronizeCache();
          command.request.data = {};
        } else {
          // Each command has a part of the disk to itself, as nobody orders those in flight.
          const uint32_t share = kBlocks / static_cast<uint32_t>(commands.size());
          command.blocks = static_cast<uint32_t>(1 + random() % 32);
          command.first = static_cast<uint32_t>(i * share + random() % (share - command.blocks + 1));
          command.version = ++diary.next;
          std::vector<uint8_t> bytes(command.blocks * 512);
          for (uint32_t j = 0; j < command.blocks; ++j) {
            Fill(&bytes[j * 512], command.first + j, command.version);
            diary.newest[command.first + j] = command.version;
          }
          command.buffer.size_bytes = command.blocks * 512;
          Put(command.buffer, bytes);
          command.request.SetWrite(command.first, command.blocks, random() % 8 == 0);
          command.request.data = command.buffer.gpa_buffer();
        }
        if (!opened->client->Send(command.request)) _exit(6);
      }
      opened->client->Publish();
      executor_.RunUntilIdle();
      if (!child_->Poll()) std::this_thread::yield();
    }
  }

 private:
  void TestBody() override {}
};

TEST(StorageKillTest, WhatAFlushCoveredIsThereWheneverTheProcessIsKilled) {
  std::string reason;
  const auto file = ForgetfulFile::Create(kBlocks * 512, reason);
  if (file == nullptr) GTEST_SKIP() << "no FUSE here: " << reason;
  const int shared = memfd_create("diary", 0);
  ASSERT_GE(shared, 0);
  ASSERT_EQ(ftruncate(shared, sizeof(Diary)), 0);
  void* mapped = mmap(nullptr, sizeof(Diary), PROT_READ | PROT_WRITE, MAP_SHARED, shared, 0);
  ASSERT_NE(mapped, MAP_FAILED);
  Diary& diary = *static_cast<Diary*>(mapped);

  std::mt19937_64 random(TestSeed());
  const char* wanted = std::getenv("HVSDK_KILLS");
  const uint32_t kills = wanted != nullptr ? static_cast<uint32_t>(std::strtoul(wanted, nullptr, 10)) : ScaledCount(50);
  ASSERT_GT(kills, 0u);
  uint32_t ended = 0;
  for (uint32_t kill_number = 0; kill_number < kills; ++kill_number) {
    diary.writes = false;
    const std::string arguments[] = {"writer",
                                     "--writer",
                                     file->path(),
                                     std::to_string(shared),
                                     std::to_string(random()),
                                     std::to_string(kill_number % 3)};
    char* argv[7] = {};
    for (size_t i = 0; i < std::size(arguments); ++i) argv[i] = const_cast<char*>(arguments[i].c_str());
    pid_t writer;
    ASSERT_EQ(posix_spawn(&writer, "/proc/self/exe", nullptr, nullptr, argv, environ), 0);
    // Now and then before it has written anything.
    int status = 0;
    const auto has_ended = [&] { return waitpid(writer, &status, WNOHANG) == writer; };
    bool is_over = false;
    while (random() % 1000 != 0 && !diary.writes && !is_over) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      is_over = has_ended();
    }
    if (random() % 10 == 0) file->FailNextSync(EIO);
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 15000));
    if (!is_over) {
      kill(writer, SIGKILL);
      ASSERT_EQ(waitpid(writer, &status, 0), writer);
    }
    if (WIFEXITED(status)) {
      ++ended;
      ASSERT_EQ(WEXITSTATUS(status), 0) << "the writer, before it was killed";
    }
    file->LosePower(random);
    file->FailNextSync(0);
    const std::vector<uint8_t> left = file->Lasting();
    for (uint32_t block = 0; block < kBlocks; ++block) {
      uint64_t version;
      std::memcpy(&version, &left[block * 512], sizeof(version));
      uint8_t whole[512];
      Fill(whole, block, version);
      ASSERT_EQ(std::memcmp(whole, &left[block * 512], 512), 0)
          << "block " << block << " is torn after kill " << kill_number;
      ASSERT_GE(version, diary.lasting[block]) << "block " << block << " is lost after kill " << kill_number;
      ASSERT_LE(version, diary.newest[block]) << "block " << block << " after kill " << kill_number;
      diary.lasting[block] = diary.newest[block] = version;
    }
  }
  std::printf("%u kills, %llu flushes acknowledged, %u failed syncs, 0 blocks lost\n", kills,
              static_cast<unsigned long long>(diary.acknowledged.load()), ended);
  if (kills >= 50) {
    EXPECT_GT(diary.acknowledged, 0u);
  }
  munmap(mapped, sizeof(Diary));
  close(shared);
}

// ARGUMENTS: --writer FILE DESCRIPTOR SEED WAY.
int WriterMain(char** argv) {
  void* diary = mmap(nullptr, sizeof(Diary), PROT_READ | PROT_WRITE, MAP_SHARED, std::atoi(argv[3]), 0);
  if (diary == MAP_FAILED) return 1;
  const int way = std::atoi(argv[5]);
  g_never_waits = way == 2;
  const FileEngineKind kind = way == 0 ? FileEngineKind::kThreads : FileEngineKind::kAuto;
  Writer().Write(argv[2], kind, std::strtoull(argv[4], nullptr, 10), *static_cast<Diary*>(diary));
}

}  // namespace
}  // namespace hvsdk::vsp

int main(int argc, char** argv) {
  if (argc == 6 && std::strcmp(argv[1], "--writer") == 0) return hvsdk::vsp::WriterMain(argv);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}

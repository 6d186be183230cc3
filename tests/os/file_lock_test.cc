// SPDX-License-Identifier: Apache-2.0
// Who may have a disk image at the same time: two of ours, and one of ours and QEMU's tools, where these are installed.

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "hvsdk/image/raw_disk.h"

extern char** environ;

namespace {

// A file system that answers so to whoever locks. 0: the real one.
std::atomic<int> g_lock_error{0};
// How often it answers so before it is the real one again. Negative: always.
std::atomic<int> g_lock_errors{-1};

}  // namespace

extern "C" {

int __real_fcntl64(int, int, ...);
int __wrap_fcntl64(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  if (g_lock_error != 0 && g_lock_errors != 0 && (command == F_OFD_SETLK || command == F_OFD_GETLK)) {
    if (g_lock_errors > 0) --g_lock_errors;
    errno = g_lock_error;
    return -1;
  }
  return __real_fcntl64(fd, command, argument);
}
int __real_fcntl(int, int, ...);
int __wrap_fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  return __wrap_fcntl64(fd, command, argument);
}

}  // extern "C"

namespace hvsdk {
namespace {

using testing::HasSubstr;

class FileLockTest : public testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/hvsdk-file-lock-XXXXXX";
    const int fd = mkstemp(path);
    ASSERT_GE(fd, 0);
    path_ = path;
    ASSERT_EQ(ftruncate(fd, 1 << 20), 0);
    close(fd);
    auto engine = FileEngine::Create(FileEngineKind::kThreads);
    ASSERT_TRUE(engine.ok());
    engine_ = *engine;
  }
  void TearDown() override {
    g_lock_error = 0;
    g_lock_errors = -1;
    unlink(path_.c_str());
  }

  absl::StatusOr<std::shared_ptr<RawDisk>> Open(bool read_only) {
    return RawDisk::Open(path_, {.read_only = read_only}, engine_);
  }
  static bool HasQemu() { return std::system("command -v qemu-img >/dev/null && command -v qemu-io >/dev/null") == 0; }
  // Exit status of a shell command in which $disk is the file.
  int Shell(const std::string& command) {
    return std::system(("disk=" + path_ + "; " + command + " >/dev/null 2>&1").c_str());
  }

  // A program that keeps the file open: once it holds the lock of `byte`.
  class Holder {
   public:
    Holder(std::vector<std::string> command, const std::string& path, off_t byte) {
      std::vector<char*> argv;
      for (std::string& word : command) argv.push_back(word.data());
      argv.push_back(nullptr);
      EXPECT_EQ(posix_spawnp(&process_, argv[0], nullptr, nullptr, argv.data(), environ), 0);
      const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
      for (int tries = 0; tries < 30000; ++tries) {
        struct flock lock = {};
        lock.l_type = F_WRLCK;
        lock.l_whence = SEEK_SET;
        lock.l_start = byte;
        lock.l_len = 1;
        if (fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK) break;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      close(fd);
      // Locks come first, then the look at others.
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    ~Holder() {
      kill(process_, SIGKILL);
      waitpid(process_, nullptr, 0);
    }

   private:
    pid_t process_ = 0;
  };

  std::string path_;
  std::shared_ptr<FileEngine> engine_;
};

TEST_F(FileLockTest, ReadersShareAndAWriterIsAlone) {
  {
    const auto reader = Open(true);
    ASSERT_TRUE(reader.ok()) << reader.status();
    EXPECT_TRUE(Open(true).ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(Open(false).status()));
    EXPECT_THAT(Open(false).status().message(), HasSubstr("is in use by another program"));
  }
  const auto writer = Open(false);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_TRUE(absl::IsFailedPrecondition(Open(true).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Open(false).status()));
}

TEST_F(FileLockTest, WhoWritesAFileLearnsThatItIsADisk) {
  const int fd = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  EXPECT_TRUE(RawDisk::TestNoDisk(fd).ok());
  for (const bool read_only : {false, true}) {
    const auto disk = Open(read_only);
    ASSERT_TRUE(disk.ok()) << disk.status();
    EXPECT_TRUE(absl::IsFailedPrecondition(RawDisk::TestNoDisk(fd)));
  }
  // It has locked nothing itself.
  EXPECT_TRUE(Open(/*read_only=*/false).ok());
  EXPECT_TRUE(RawDisk::TestNoDisk(fd).ok());
  g_lock_error = ENOLCK;
  EXPECT_TRUE(absl::IsUnimplemented(RawDisk::TestNoDisk(fd)));
  close(fd);
}

TEST_F(FileLockTest, AFileSystemWithoutLocksIsNotALockedFile) {
  for (const int error : {ENOLCK, EINVAL, ENOSYS, EOPNOTSUPP, EIO}) {
    g_lock_error = error;
    for (const bool read_only : {false, true}) {
      const absl::Status status = Open(read_only).status();
      EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
      EXPECT_THAT(status.message(), HasSubstr(path_));
      EXPECT_THAT(status.message(), HasSubstr("its file system refuses locks"));
    }
  }
  for (const int error : {EAGAIN, EACCES}) {
    g_lock_error = error;
    EXPECT_TRUE(absl::IsFailedPrecondition(Open(false).status()));
  }
  g_lock_error = ENOMEM;
  EXPECT_TRUE(absl::IsResourceExhausted(Open(false).status()));
}

TEST_F(FileLockTest, AProcessThatIsGoneMayHoldItAMomentLonger) {
  for (const bool read_only : {false, true}) {
    g_lock_error = EAGAIN;
    g_lock_errors = 3;
    EXPECT_TRUE(Open(read_only).ok());
    EXPECT_EQ(g_lock_errors, 0);
  }
  g_lock_error = 0;
  // Nothing stays locked by one who gave up, however often it tried.
  const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(fd, 0);
  {
    const auto writer = Open(/*read_only=*/false);
    ASSERT_TRUE(writer.ok());
    EXPECT_TRUE(absl::IsFailedPrecondition(Open(/*read_only=*/true).status()));
    EXPECT_TRUE(absl::IsFailedPrecondition(Open(/*read_only=*/false).status()));
  }
  EXPECT_TRUE(RawDisk::TestNoDisk(fd).ok());
  close(fd);
}

TEST_F(FileLockTest, QemuReadsWhatWeRead) {
  if (!HasQemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
  const auto reader = Open(true);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(Shell("qemu-img info -f raw $disk"), 0);
  EXPECT_EQ(Shell("qemu-img convert -f raw -O raw $disk $disk.copy; s=$?; rm -f $disk.copy; (exit $s)"), 0);
  EXPECT_EQ(Shell("qemu-io -r -f raw -c 'read 0 512' $disk"), 0);
  EXPECT_NE(Shell("qemu-io -f raw -c 'write 0 512' $disk"), 0);
  EXPECT_NE(Shell("qemu-img resize -f raw $disk 2M"), 0);
}

TEST_F(FileLockTest, QemuDoesNotTouchWhatWeWrite) {
  if (!HasQemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
  const auto writer = Open(false);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_NE(Shell("qemu-img convert -f raw -O raw $disk $disk.copy; s=$?; rm -f $disk.copy; (exit $s)"), 0);
  EXPECT_NE(Shell("qemu-img compare -f raw -F raw $disk $disk"), 0);
  EXPECT_NE(Shell("qemu-img resize -f raw $disk 2M"), 0);
  EXPECT_NE(Shell("qemu-io -r -f raw -c 'read 0 512' $disk"), 0);
  EXPECT_NE(Shell("qemu-io -f raw -c 'write 0 512' $disk"), 0);
  EXPECT_EQ(Shell("qemu-img info -f raw $disk"), 0) << "asks for its size alone";
}

TEST_F(FileLockTest, WeReadWhatQemuReadsAndNotWhatItWrites) {
  if (!HasQemu()) GTEST_SKIP() << "no qemu-img and qemu-io";
  {
    Holder reader({"qemu-io", "-r", "-f", "raw", "-c", "sleep 60000", path_}, path_, 100);
    EXPECT_TRUE(Open(true).ok()) << Open(true).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(Open(false).status()));
  }
  EXPECT_TRUE(Open(false).ok());
  Holder writer({"qemu-io", "-f", "raw", "-c", "sleep 60000", path_}, path_, 101);
  for (const bool read_only : {false, true}) EXPECT_TRUE(absl::IsFailedPrecondition(Open(read_only).status()));
}

// A machine of QEMU's does not share writing, which its tools do.
TEST_F(FileLockTest, WeDoNotWriteWhatAMachineOfQemuReads) {
  if (std::system("command -v qemu-system-x86_64 >/dev/null") != 0) GTEST_SKIP() << "no qemu-system-x86_64";
  for (const std::string mode : {"on", "off"}) {
    Holder machine({"qemu-system-x86_64", "-accel", "tcg", "-S", "-m", "32M", "-nodefaults", "-display", "none",
                    "-drive", "file=" + path_ + ",format=raw,if=virtio,readonly=" + mode},
                   path_, 201);
    EXPECT_TRUE(absl::IsFailedPrecondition(Open(false).status())) << "readonly=" << mode;
    EXPECT_EQ(Open(true).ok(), mode == "on") << "readonly=" << mode;
  }
}

}  // namespace
}  // namespace hvsdk

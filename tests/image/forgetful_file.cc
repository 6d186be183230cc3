// SPDX-License-Identifier: Apache-2.0
#include "tests/image/forgetful_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

namespace hvsdk {
namespace {

constexpr uint32_t kMaxTransfer = 128 << 10;

template <typename T>
const T& As(const uint8_t* bytes) {
  return *reinterpret_cast<const T*>(bytes);
}

template <typename T>
int Return(const T& value, std::vector<uint8_t>& answer) {
  std::memcpy(answer.data(), &value, sizeof(value));
  return sizeof(value);
}

}  // namespace

std::unique_ptr<ForgetfulFile> ForgetfulFile::Create(uint64_t size_bytes, std::string& reason) {
  auto file = std::unique_ptr<ForgetfulFile>(new ForgetfulFile(size_bytes));
  const auto fail = [&](const char* what) {
    reason = std::string(what) + ": " + std::strerror(errno);
    return nullptr;
  };
  char path[] = "/tmp/hvsdk-forgetful-XXXXXX";
  const int place = mkstemp(path);
  if (place < 0) return fail("mkstemp");
  close(place);
  file->path_ = path;
  file->wake_fd_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  file->fuse_fd_ = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (file->fuse_fd_ < 0) return fail("/dev/fuse");
  const std::string options = "fd=" + std::to_string(file->fuse_fd_) + ",rootmode=100600,user_id=0,group_id=0";
  if (mount("forgetful", path, "fuse.forgetful", MS_NOSUID | MS_NODEV, options.c_str()) != 0) return fail("mount");
  file->is_mounted_ = true;
  file->thread_ = std::thread([f = file.get()] { f->Serve(); });
  // The kernel asks a first close to flush and learns that there is no such thing. A close that waits for a file that hangs cannot be
  // ended, not even by a kill.
  close(open(path, O_RDONLY | O_CLOEXEC));
  return file;
}

ForgetfulFile::~ForgetfulFile() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  Wake();
  if (is_mounted_) umount2(path_.c_str(), MNT_DETACH);
  if (thread_.joinable()) thread_.join();
  // Ends whatever still waits for an answer.
  if (fuse_fd_ >= 0) close(fuse_fd_);
  if (wake_fd_ >= 0) close(wake_fd_);
  if (!path_.empty()) unlink(path_.c_str());
}

void ForgetfulFile::FailNextSync(int error) {
  std::lock_guard lock(mutex_);
  sync_error_ = error;
}

void ForgetfulFile::Hang() {
  std::lock_guard lock(mutex_);
  hangs_ = true;
}

void ForgetfulFile::GoOn() {
  {
    std::lock_guard lock(mutex_);
    hangs_ = false;
  }
  Wake();
}

void ForgetfulFile::MoveInPieces(bool reads, bool writes) {
  std::lock_guard lock(mutex_);
  reads_in_pieces_ = reads;
  writes_in_pieces_ = writes;
}

void ForgetfulFile::LosePower(std::mt19937_64& random) {
  std::lock_guard lock(mutex_);
  for (size_t at = 0; at < written_.size(); at += 512) {
    const size_t size = std::min<size_t>(512, written_.size() - at);
    if (random() % 2 == 0) std::memcpy(&lasting_[at], &written_[at], size);
  }
  written_ = lasting_;
}

std::vector<uint8_t> ForgetfulFile::Lasting() const {
  std::lock_guard lock(mutex_);
  return lasting_;
}

uint64_t ForgetfulFile::syncs() const {
  std::lock_guard lock(mutex_);
  return syncs_;
}

void ForgetfulFile::Wake() {
  const uint64_t one = 1;
  (void)!write(wake_fd_, &one, sizeof(one));
}

void ForgetfulFile::Serve() {
  // Words, for alignment.
  std::vector<uint64_t> request((kMaxTransfer + FUSE_MIN_READ_BUFFER) / 8);
  std::vector<uint8_t> answer(kMaxTransfer);
  for (;;) {
    bool hangs;
    {
      std::lock_guard lock(mutex_);
      if (stop_) return;
      hangs = hangs_;
    }
    // One that hangs leaves requests where they are. There a killed process can take them back.
    pollfd ready[] = {{wake_fd_, POLLIN, 0}, {fuse_fd_, POLLIN, 0}};
    poll(ready, hangs ? 1 : 2, -1);
    uint64_t count;
    (void)!read(wake_fd_, &count, sizeof(count));
    if (hangs || ready[1].revents == 0) continue;
    {
      std::lock_guard lock(mutex_);
      if (hangs_) continue;
    }
    const ssize_t size = read(fuse_fd_, request.data(), request.size() * 8);
    if (size < static_cast<ssize_t>(sizeof(fuse_in_header))) {
      if (size < 0 && errno == ENODEV) return;  // unmounted
      continue;
    }
    const auto* bytes = reinterpret_cast<const uint8_t*>(request.data());
    const auto& header = As<fuse_in_header>(bytes);
    if (header.opcode == FUSE_FORGET || header.opcode == FUSE_BATCH_FORGET || header.opcode == FUSE_INTERRUPT) continue;
    const int result = Handle(header, bytes + sizeof(header), answer);
    fuse_out_header out = {};
    out.unique = header.unique;
    out.error = std::min(result, 0);
    out.len = static_cast<uint32_t>(sizeof(out) + std::max(result, 0));
    const iovec pieces[] = {{&out, sizeof(out)}, {answer.data(), static_cast<size_t>(std::max(result, 0))}};
    (void)!writev(fuse_fd_, pieces, 2);
  }
}

int ForgetfulFile::Handle(const fuse_in_header& header, const uint8_t* argument, std::vector<uint8_t>& answer) {
  std::lock_guard lock(mutex_);
  const auto part = [this](uint64_t size, uint64_t unit) { return unit * (1 + random_() % (size / unit)); };
  switch (header.opcode) {
    case FUSE_INIT: {
      fuse_init_out out = {};
      out.major = FUSE_KERNEL_VERSION;
      out.minor = std::min<uint32_t>(FUSE_KERNEL_MINOR_VERSION, As<fuse_init_in>(argument).minor);
      out.max_readahead = kMaxTransfer;
      out.flags = FUSE_BIG_WRITES | FUSE_MAX_PAGES;
      out.max_background = 64;
      out.max_write = kMaxTransfer;
      out.max_pages = kMaxTransfer / 4096;
      return Return(out, answer);
    }
    case FUSE_GETATTR: {
      fuse_attr_out out = {};
      out.attr.ino = FUSE_ROOT_ID;
      out.attr.size = written_.size();
      out.attr.blocks = written_.size() / 512;
      out.attr.mode = S_IFREG | 0600;
      out.attr.nlink = 1;
      out.attr.blksize = 4096;
      return Return(out, answer);
    }
    case FUSE_OPEN: {
      fuse_open_out out = {};
      out.open_flags = FOPEN_DIRECT_IO;
      return Return(out, answer);
    }
    case FUSE_READ: {
      const auto& in = As<fuse_read_in>(argument);
      if (in.offset >= written_.size()) return 0;
      uint64_t size = std::min<uint64_t>({in.size, kMaxTransfer, written_.size() - in.offset});
      if (reads_in_pieces_ && size > 1) size = part(size, 1);
      std::memcpy(answer.data(), &written_[in.offset], size);
      return static_cast<int>(size);
    }
    case FUSE_WRITE: {
      const auto& in = As<fuse_write_in>(argument);
      if (in.offset >= written_.size()) return -ENOSPC;
      fuse_write_out out = {};
      out.size = static_cast<uint32_t>(std::min<uint64_t>(in.size, written_.size() - in.offset));
      // Power is not lost in the middle of a block; nor is it on a disk.
      if (writes_in_pieces_ && out.size > 512) out.size = static_cast<uint32_t>(part(out.size, 512));
      std::memcpy(&written_[in.offset], argument + sizeof(in), out.size);
      return Return(out, answer);
    }
    case FUSE_FALLOCATE: {
      const auto& in = As<fuse_fallocate_in>(argument);
      if ((in.mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) == 0) return -EOPNOTSUPP;
      if (in.offset > written_.size() || in.length > written_.size() - in.offset) return -ENOSPC;
      std::memset(&written_[in.offset], 0, in.length);
      return 0;
    }
    case FUSE_FSYNC:
      ++syncs_;
      if (sync_error_ != 0) {
        written_ = lasting_;
        return -std::exchange(sync_error_, 0);
      }
      lasting_ = written_;
      return 0;
    case FUSE_RELEASE:
    case FUSE_SETATTR:
    case FUSE_DESTROY:
      return 0;
    default:
      return -ENOSYS;
  }
}

}  // namespace hvsdk

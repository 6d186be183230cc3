// SPDX-License-Identifier: Apache-2.0
#include "unfinished_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace hvimg {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

// What a signal's handler removes; empty: nothing.
char g_path[PATH_MAX];

void RemoveAndEnd(int signal) {
  unlink(g_path);
  std::signal(signal, SIG_DFL);
  raise(signal);
}

void HandleSignals(bool handled) {
  for (const int signal : kSignals) {
    struct sigaction action {};
    // What was ignored before us, as nohup has it, stays so.
    if (sigaction(signal, nullptr, &action) != 0 || action.sa_handler == SIG_IGN) continue;
    action.sa_handler = handled ? RemoveAndEnd : SIG_DFL;
    (void)sigaction(signal, &action, nullptr);
  }
}

absl::Status Error(const std::string& path, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat("disk '", path, "'"));
}

// Never over another file. Where the file system does not know how, nobody but us had this in mind a moment ago.
int Rename(const char* from, const char* to) {
  if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  struct stat there;
  if (lstat(to, &there) == 0) return EEXIST;
  return rename(from, to) == 0 ? 0 : errno;
}

}  // namespace

absl::StatusOr<UnfinishedFile> UnfinishedFile::Create(const std::string& name, const hvsdk::ImageCreateOptions& options,
                                                      std::shared_ptr<hvsdk::FileEngine> engine) {
  struct stat there;
  if (name.empty()) return Error(name, ENOENT);
  if (lstat(name.c_str(), &there) == 0) return Error(name, EEXIST);
  if (errno != ENOENT) return Error(name, errno);
  std::string path = name + ".part";
  if (path.size() >= sizeof(g_path)) return Error(name, ENAMETOOLONG);
  const absl::Status created = hvsdk::CreateImage(path, options, std::move(engine));
  if (absl::IsAlreadyExists(created)) {
    return absl::AlreadyExistsError(
        absl::StrCat(created.message(), "; another conversion writes it, or left it when it was killed"));
  }
  if (!created.ok()) return created;
  std::memcpy(g_path, path.c_str(), path.size() + 1);
  HandleSignals(true);
  return UnfinishedFile(name, std::move(path));
}

UnfinishedFile::~UnfinishedFile() {
  if (path_.empty()) return;
  unlink(path_.c_str());
  HandleSignals(false);
}

absl::Status UnfinishedFile::Finish() {
  const int error = Rename(path_.c_str(), name_.c_str());
  if (error != 0) return Error(name_, error);
  HandleSignals(false);
  path_.clear();
  // The name lasts, too. A file system that knows no such thing has done what it can.
  const size_t slash = name_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : name_.substr(0, slash + 1);
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return absl::OkStatus();
  (void)fsync(fd);
  close(fd);
  return absl::OkStatus();
}

}  // namespace hvimg

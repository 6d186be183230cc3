// SPDX-License-Identifier: Apache-2.0
// The only program of a Linux guest that loses a page: it says where a page of a child's is, and what became of the child when that page
// was lost; then what the kernel had to say, and powers off.
#include <fcntl.h>
#include <signal.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>

namespace {

volatile uint8_t* page;

void OnSigbus(int, siginfo_t* info, void*) {
  std::printf("SIGBUS, code %d, %s\n", info->si_code, info->si_addr == page ? "at the page" : "elsewhere");
  std::fflush(stdout);
  _exit(42);
}

[[noreturn]] void ReadOnePage() {
  page =
      static_cast<volatile uint8_t*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  page[0] = 0xA5;
  struct sigaction action {};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGBUS, &action, nullptr);
  const int map = open("/proc/self/pagemap", O_RDONLY);
  uint64_t entry = 0;
  if (pread(map, &entry, 8, static_cast<off_t>(reinterpret_cast<uintptr_t>(page) / 4096 * 8)) != 8) _exit(1);
  std::printf("page %#llx\n", static_cast<unsigned long long>((entry & ((uint64_t{1} << 55) - 1)) << 12));
  std::fflush(stdout);
  for (;;) {
    if (page[0] != 0xA5) {
      std::printf("silently lost\n");
      std::fflush(stdout);
      _exit(2);
    }
    usleep(1000);
  }
}

}  // namespace

int main() {
  mkdir("/proc", 0755);
  mount("proc", "/proc", "proc", 0, nullptr);
  const pid_t child = fork();
  if (child == 0) ReadOnePage();
  int status = 0;
  waitpid(child, &status, 0);
  std::printf("child: %s %d\n", WIFEXITED(status) ? "exit" : "signal",
              WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
  // The kernel goes on: memory, processes.
  uint64_t sum = 0;
  for (int i = 0; i < 20; ++i) {
    if (fork() == 0) _exit(i);
    int of_one = 0;
    wait(&of_one);
    sum += static_cast<uint64_t>(WEXITSTATUS(of_one));
  }
  std::printf("sum %llu\n", static_cast<unsigned long long>(sum));
  std::string log(1 << 18, '\0');
  constexpr int kReadAll = 3;
  const int size = klogctl(kReadAll, log.data(), static_cast<int>(log.size()));
  log.resize(size > 0 ? static_cast<size_t>(size) : 0);
  for (size_t at = 0; at < log.size();) {
    const size_t end = std::min(log.find('\n', at), log.size());
    const std::string line = log.substr(at, end - at);
    if (line.find("mce") != line.npos || line.find("Memory failure") != line.npos ||
        line.find("Hardware") != line.npos) {
      std::printf("log %s\n", line.c_str());
    }
    at = end + 1;
  }
  std::fflush(stdout);
  sync();
  reboot(RB_POWER_OFF);
  pause();
}

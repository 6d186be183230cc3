// SPDX-License-Identifier: Apache-2.0
// hang SECONDS: takes all processors of a guest for itself, as a driver's or a real-time program's mistake does. Of a Linux that handles
// interrupts in threads (threadirqs) nothing else runs meanwhile, but what an interrupt does at once.
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace {

time_t Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

int Hog(int processor, time_t end) {
  cpu_set_t processors;
  CPU_ZERO(&processors);
  CPU_SET(processor, &processors);
  const sched_param most{.sched_priority = sched_get_priority_max(SCHED_FIFO)};
  if (sched_setaffinity(0, sizeof(processors), &processors) != 0 || mlockall(MCL_CURRENT | MCL_FUTURE) != 0 ||
      sched_setscheduler(0, SCHED_FIFO, &most) != 0) {
    perror("hang");
    return 1;
  }
  while (Now() < end) {
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const int seconds = argc == 2 ? atoi(argv[1]) : 0;
  if (seconds <= 0) return 2;
  // Begun a little later together, or the first keeps the others from being started.
  const time_t begin = Now() + 2;
  const long count = sysconf(_SC_NPROCESSORS_ONLN);
  for (int processor = 0; processor < count; ++processor) {
    const pid_t child = fork();
    if (child < 0) return 1;
    if (child != 0) continue;
    while (Now() < begin) usleep(10'000);
    return Hog(processor, begin + seconds);
  }
  int status = 0, failed = 0;
  while (wait(&status) > 0) failed |= status;
  return failed != 0;
}

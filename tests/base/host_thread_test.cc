// SPDX-License-Identifier: Apache-2.0
// What signals a library's thread takes: faults and profilers', and none of the program's.

#include "base/host_thread.h"

#include <signal.h>

#include "gtest/gtest.h"

namespace hvsdk {
namespace {

TEST(HostThreadTest, TakesNoneOfTheProgramsSignals) {
  sigset_t before, within, after;
  sigemptyset(&within);
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &before), 0);
  HostThread thread;
  ASSERT_TRUE(thread.Start("signals", [&] { pthread_sigmask(SIG_SETMASK, nullptr, &within); }).ok());
  thread.Join();
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGALRM, SIGCHLD, SIGPIPE, SIGXFSZ}) {
    EXPECT_EQ(sigismember(&within, number), 1) << number;
  }
  for (const int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGPROF, SIGTTOU}) {
    EXPECT_EQ(sigismember(&within, number), sigismember(&before, number)) << number;
  }
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &after), 0);
  for (int number = 1; number < SIGRTMAX; ++number) {
    EXPECT_EQ(sigismember(&after, number), sigismember(&before, number)) << "whoever starts it: " << number;
  }
}

}  // namespace
}  // namespace hvsdk

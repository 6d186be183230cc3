// SPDX-License-Identifier: Apache-2.0
// What a guest's programs see of its keyboard and its mouse: waits until Linux has both, says "listening", and then prints each event of
// theirs: "key CODE VALUE", "abs CODE VALUE", "rel CODE VALUE", with Linux' numbers, or "dropped" where Linux has dropped some.
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

namespace {

int Open(const char* wanted) {
  for (;; usleep(100'000)) {
    for (int i = 0; i < 32; ++i) {
      char path[32], name[128] = "";
      snprintf(path, sizeof(path), "/dev/input/event%d", i);
      const int fd = open(path, O_RDONLY);
      if (fd < 0) continue;
      ioctl(fd, EVIOCGNAME(sizeof(name) - 1), name);
      if (strstr(name, wanted) != nullptr) return fd;
      close(fd);
    }
  }
}

void Print(const input_event& event) {
  const char* const kinds[] = {"syn", "key", "rel", "abs"};
  if (event.type == EV_SYN && event.code == SYN_DROPPED) puts("dropped");
  if (event.type >= EV_KEY && event.type <= EV_ABS) printf("%s %d %d\n", kinds[event.type], event.code, event.value);
}

}  // namespace

int main() {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  pollfd devices[] = {{Open("AT Translated Set 2 keyboard"), POLLIN, 0}, {Open("HID-compliant Mouse"), POLLIN, 0}};
  puts("listening");
  while (poll(devices, 2, -1) > 0) {
    for (const pollfd& device : devices) {
      input_event events[64];
      if (device.revents == 0) continue;
      const ssize_t size = read(device.fd, events, sizeof(events));
      if (size <= 0) return 1;
      for (size_t i = 0; i < size / sizeof(events[0]); ++i) Print(events[i]);
    }
  }
  return 1;
}

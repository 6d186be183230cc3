// SPDX-License-Identifier: Apache-2.0
// set_mode WIDTH HEIGHT: has a guest's frame buffer, /dev/fb0, show so much, and Linux' console with it.
#include <fcntl.h>
#include <linux/fb.h>
#include <sys/ioctl.h>

#include <cstdio>
#include <cstdlib>

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const int fd = open("/dev/fb0", O_RDWR);
  fb_var_screeninfo mode;
  if (fd < 0 || ioctl(fd, FBIOGET_VSCREENINFO, &mode) < 0) return perror("/dev/fb0"), 1;
  mode.xres = mode.xres_virtual = static_cast<unsigned>(atoi(argv[1]));
  mode.yres = mode.yres_virtual = static_cast<unsigned>(atoi(argv[2]));
  mode.activate = FB_ACTIVATE_NOW | FB_ACTIVATE_ALL;  // the console, too
  if (ioctl(fd, FBIOPUT_VSCREENINFO, &mode) < 0) return perror("FBIOPUT_VSCREENINFO"), 1;
  return 0;
}

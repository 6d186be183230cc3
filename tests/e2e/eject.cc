// SPDX-License-Identifier: Apache-2.0
// eject DEVICE: opens a drive, as eject(1) does.
#include <fcntl.h>
#include <linux/cdrom.h>
#include <sys/ioctl.h>

#include <cstdio>

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const int drive = open(argv[1], O_RDONLY | O_NONBLOCK);
  if (drive >= 0 && ioctl(drive, CDROM_LOCKDOOR, 0) == 0 && ioctl(drive, CDROMEJECT) == 0) return 0;
  perror("eject");
  return 1;
}

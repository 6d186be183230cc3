// SPDX-License-Identifier: Apache-2.0
// kexec_load KERNEL INITRD COMMAND_LINE: has Linux keep a kernel for its own crash, as kexec -p does.
#include <fcntl.h>
#include <linux/kexec.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int kernel = open(argv[1], O_RDONLY), initrd = open(argv[2], O_RDONLY);
  if (syscall(SYS_kexec_file_load, kernel, initrd, strlen(argv[3]) + 1, argv[3], KEXEC_FILE_ON_CRASH) == 0) return 0;
  perror("kexec_file_load");
  return 1;
}

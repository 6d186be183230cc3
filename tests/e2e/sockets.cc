// SPDX-License-Identifier: Apache-2.0
// A guest's programs on its sockets to the host:
//   sockets echo PORT          gives back what it reads, on each connection by itself, and ends when the other end does
//   sockets count PORT         reads to the end, and then says how many bytes there were
//   sockets listen PORT        takes one connection between it and standard input and output
//   sockets connect PORT       makes one
//   sockets many PORT N BYTES  makes N at once, sends so many bytes on each, and wants them back
//   sockets send PORT MIB      sends so much: pieces of 1 MiB, all alike but for their number in the first 8 bytes
//   sockets flood PORT         writes until it cannot
// Whatever goes wrong is said with errno's text.
#include <arpa/inet.h>
#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

char buffer[64 << 10];

[[noreturn]] void Fail(const char* what) {
  printf("%s: %s\n", what, strerror(errno));
  exit(1);
}

sockaddr_vm Address(unsigned cid, unsigned port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return address;
}

int Connect(unsigned port) {
  const int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  const sockaddr_vm address = Address(VMADDR_CID_HOST, port);
  if (fd < 0 || connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) Fail("connect");
  return fd;
}

int Listen(unsigned port) {
  const int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  const sockaddr_vm address = Address(VMADDR_CID_ANY, port);
  if (fd < 0 || bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 || listen(fd, 128) != 0)
    Fail("listen");
  fprintf(stderr, "listening on %u\n", port);  // standard output is for what comes
  return fd;
}

void WriteAll(int fd, const char* from, size_t size) {
  while (size != 0) {
    const ssize_t written = write(fd, from, size);
    if (written <= 0) Fail("write");
    from += written;
    size -= static_cast<size_t>(written);
  }
}

size_t ReadSome(int fd, char* to, size_t size) {
  const ssize_t got = read(fd, to, size);
  if (got < 0) Fail("read");
  return static_cast<size_t>(got);
}

// Until both directions have ended.
void Relay(int fd) {
  pollfd ready[] = {{STDIN_FILENO, POLLIN, 0}, {fd, POLLIN, 0}};
  while (ready[1].fd >= 0) {
    if (poll(ready, 2, -1) < 0) Fail("poll");
    if (ready[0].revents != 0) {
      const size_t size = ReadSome(STDIN_FILENO, buffer, sizeof(buffer));
      WriteAll(fd, buffer, size);
      if (size == 0) {
        shutdown(fd, SHUT_WR);
        ready[0].fd = -1;
      }
    }
    if (ready[1].revents != 0) {
      const size_t size = ReadSome(fd, buffer, sizeof(buffer));
      WriteAll(STDOUT_FILENO, buffer, size);
      if (size == 0) ready[1].fd = -1;
    }
  }
}

void Many(unsigned port, int count, size_t bytes) {
  std::vector<int> sockets;
  for (int i = 0; i < count; ++i) sockets.push_back(Connect(port));
  std::vector<char> sent(bytes), back(bytes);
  for (int i = 0; i < count; ++i) {
    for (size_t at = 0; at < bytes; ++at) sent[at] = static_cast<char>(at * 31 + static_cast<size_t>(i) * 7);
    WriteAll(sockets[i], sent.data(), bytes);
  }
  for (int i = count; i-- != 0;) {
    for (size_t at = 0; at < bytes; ++at) sent[at] = static_cast<char>(at * 31 + static_cast<size_t>(i) * 7);
    for (size_t at = 0, size; at < bytes; at += size) {
      if ((size = ReadSome(sockets[i], back.data() + at, bytes - at)) == 0) {
        printf("connection %d ended after %zu bytes\n", i, at);
        exit(1);
      }
    }
    if (sent != back) {
      printf("connection %d has other bytes\n", i);
      exit(1);
    }
  }
  for (const int fd : sockets) close(fd);
  printf("%d connections were right\n", count);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  signal(SIGPIPE, SIG_IGN);
  const auto port = static_cast<unsigned>(atoi(argv[2]));
  const bool echo = strcmp(argv[1], "echo") == 0, count = strcmp(argv[1], "count") == 0;
  if (echo || count) {
    const int listener = Listen(port);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
      const int fd = accept(listener, nullptr, nullptr);
      if (fd < 0) Fail("accept");
      if (fork() == 0) {
        close(listener);
        size_t all = 0;
        while (const size_t size = ReadSome(fd, buffer, sizeof(buffer))) {
          all += size;
          if (echo) WriteAll(fd, buffer, size);
        }
        if (count) WriteAll(fd, buffer, static_cast<size_t>(sprintf(buffer, "%zu bytes\n", all)));
        _exit(0);
      }
      close(fd);
    }
  }
  if (strcmp(argv[1], "listen") == 0) {
    const int listener = Listen(port);
    Relay(accept(listener, nullptr, nullptr));
  } else if (strcmp(argv[1], "connect") == 0) {
    Relay(Connect(port));
  } else if (strcmp(argv[1], "many") == 0 && argc == 5) {
    Many(port, atoi(argv[3]), static_cast<size_t>(atoi(argv[4])));
  } else if (strcmp(argv[1], "send") == 0 && argc == 4) {
    const int fd = Connect(port);
    std::vector<char> piece(1 << 20);
    for (size_t at = 0; at < piece.size(); ++at) piece[at] = static_cast<char>(at * 31 + at / 256);
    for (long i = 0; i < atol(argv[3]); ++i) {
      memcpy(piece.data(), &i, sizeof(i));
      WriteAll(fd, piece.data(), piece.size());
    }
    shutdown(fd, SHUT_WR);
    while (ReadSome(fd, buffer, sizeof(buffer)) != 0) {
    }
  } else if (strcmp(argv[1], "flood") == 0) {
    for (const int fd = Connect(port);;) WriteAll(fd, buffer, sizeof(buffer));
  } else {
    return 2;
  }
  return 0;
}

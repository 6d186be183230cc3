// SPDX-License-Identifier: Apache-2.0
// TCP streams of which every byte is known: eight-byte numbers from 0 on, and the complement of their count at the end.
//
//   streams serve ADDRESS PORT                                        for ever; says of each that it has received how it went
//   streams to|from ADDRESS PORT STREAMS BYTES-A-WRITE SECONDS        so many at once; likewise. 1: bytes were lost, or others came
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kMaxWriteBytes = 1 << 20;

// What a client wants, as its first bytes.
struct Request {
  uint64_t server_sends;
  uint64_t write_bytes;
  uint64_t seconds;
};

bool WriteAll(int fd, const void* data, size_t size) {
  const auto* at = static_cast<const char*>(data);
  while (size != 0) {
    const ssize_t done = write(fd, at, size);
    if (done <= 0) return false;
    at += done;
    size -= static_cast<size_t>(done);
  }
  return true;
}

bool Send(int fd, const Request& request) {
  std::vector<uint64_t> words(request.write_bytes / sizeof(uint64_t));
  const auto end = Clock::now() + std::chrono::seconds(request.seconds);
  uint64_t next = 0;
  while (Clock::now() < end) {
    for (uint64_t& word : words) word = next++;
    if (!WriteAll(fd, words.data(), words.size() * sizeof(uint64_t))) return false;
  }
  const uint64_t last = ~next;
  return WriteAll(fd, &last, sizeof(last)) && shutdown(fd, SHUT_WR) == 0;
}

// To the sender's end; says how it went.
bool Receive(int fd) {
  std::vector<uint8_t> buffer(1 << 18);
  uint64_t next = 0, ends_at = 0, bytes = 0;
  size_t kept = 0;  // of a number that is not whole
  bool is_right = true;
  Clock::duration longest{};
  auto before = Clock::now();
  ssize_t got = 0;
  while ((got = read(fd, buffer.data() + kept, buffer.size() - kept)) > 0) {
    const auto now = Clock::now();
    longest = std::max(longest, now - before);
    before = now;
    bytes += static_cast<uint64_t>(got);
    const size_t size = kept + static_cast<size_t>(got);
    size_t at = 0;
    for (; at + sizeof(uint64_t) <= size; at += sizeof(uint64_t)) {
      uint64_t word;
      memcpy(&word, &buffer[at], sizeof(word));
      if (word == ~next) ends_at = bytes - size + at + sizeof(word);
      is_right = is_right && (word == next || word == ~next);
      ++next;
    }
    kept = size - at;
    memmove(buffer.data(), buffer.data() + at, kept);
  }
  is_right = is_right && got == 0 && kept == 0 && ends_at == bytes && bytes != 0;
  printf("stream: %" PRIu64 " bytes, at most %.3f s without any, %s\n", bytes,
         std::chrono::duration<double>(longest).count(), is_right ? "all right" : "WRONG");
  fflush(stdout);
  return is_right;
}

int Connect(const sockaddr_in& address) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const int one = 1;
  if (fd < 0 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0 ||
      connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    perror("streams");
    exit(1);
  }
  return fd;
}

void ServeOne(int fd) {
  Request request{};
  const int one = 1;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  if (recv(fd, &request, sizeof(request), MSG_WAITALL) == sizeof(request) && request.write_bytes <= kMaxWriteBytes) {
    // Whoever has sent all waits for our end.
    (void)(request.server_sends != 0 ? Send(fd, request) : Receive(fd));
  }
  char any;
  if (request.server_sends != 0) (void)!read(fd, &any, 1);
  close(fd);
}

[[noreturn]] void Serve(const sockaddr_in& address) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const int one = 1;
  if (listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
      bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 || listen(listener, 64) != 0) {
    perror("streams");
    exit(1);
  }
  puts("serving");
  fflush(stdout);
  for (;;) {
    const int fd = accept(listener, nullptr, nullptr);
    if (fd >= 0) std::thread(ServeOne, fd).detach();
  }
}

}  // namespace

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  const std::string what = argc > 1 ? argv[1] : "";
  sockaddr_in address{};
  address.sin_family = AF_INET;
  if (argc < 4 || inet_pton(AF_INET, argv[2], &address.sin_addr) != 1) return 2;
  address.sin_port = htons(static_cast<uint16_t>(atoi(argv[3])));
  if (what == "serve") Serve(address);
  if ((what != "to" && what != "from") || argc != 7) return 2;
  const int count = atoi(argv[4]);
  const Request request = {what == "from", strtoull(argv[5], nullptr, 10), strtoull(argv[6], nullptr, 10)};
  if (request.write_bytes < 8 || request.write_bytes % 8 != 0 || request.write_bytes > kMaxWriteBytes) return 2;
  std::atomic<bool> all_right{true};
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&] {
      const int fd = Connect(address);
      bool is_right = WriteAll(fd, &request, sizeof(request));
      if (request.server_sends != 0) {
        is_right = is_right && Receive(fd);
      } else {
        char any;
        is_right = is_right && Send(fd, request) && read(fd, &any, 1) == 0;
      }
      close(fd);
      if (!is_right) all_right = false;
    });
  }
  for (std::thread& thread : threads) thread.join();
  return all_right ? 0 : 1;
}

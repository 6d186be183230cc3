// SPDX-License-Identifier: Apache-2.0
// How many times in a second a byte goes over TCP and one comes back.
//
//   round_trips ADDRESS PORT           answers, one connection after another
//   round_trips ADDRESS PORT SECONDS   asks, and prints the figure

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

[[noreturn]] void Fail(const char* what) {
  std::perror(what);
  std::exit(3);
}

bool Pass(int socket, uint8_t& byte, bool write) {
  return (write ? send(socket, &byte, 1, MSG_NOSIGNAL) : recv(socket, &byte, 1, 0)) == 1;
}

}  // namespace

int main(int argc, char** argv) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  if (argc < 3 || argc > 4 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) {
    std::fputs("usage: round_trips ADDRESS PORT [SECONDS]\n", stderr);
    return 2;
  }
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[2])));
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket < 0) Fail("socket");
  const int one = 1;
  uint8_t byte = 0;
  if (argc == 4) {
    if (connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) Fail("connect");
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const auto end = start + std::chrono::seconds(std::atoi(argv[3]));
    uint64_t trips = 0;
    for (; Clock::now() < end; ++trips) {
      if (!Pass(socket, byte, true) || !Pass(socket, byte, false)) Fail("connection");
    }
    std::printf("%.1f\n", static_cast<double>(trips) / std::chrono::duration<double>(Clock::now() - start).count());
    return 0;
  }
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  if (bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 || listen(socket, 1) != 0) Fail("bind");
  for (;;) {
    const int peer = accept(socket, nullptr, nullptr);
    if (peer < 0) continue;
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    while (Pass(peer, byte, false) && Pass(peer, byte, true)) {
    }
    close(peer);
  }
}

// SPDX-License-Identifier: Apache-2.0
// How fast a stream goes through the socket provider, between a client on the rings of a Linux guest's size and a program's thread at a
// Unix socket; and how fast it goes from one thread to another by that Unix socket alone. Guest and machine share one thread, without a CPU.

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/check.h"
#include "benchmark/benchmark.h"
#include "hvsdk/base/fake_clock.h"
#include "hvsdk/hvdef/socket.h"
#include "hvsdk/memory/guest_memory.h"
#include "hvsdk/network/unix_sockets.h"
#include "hvsdk/os/event_loop.h"
#include "hvsdk/vmbus/loopback_hypervisor.h"
#include "hvsdk/vmbus/server.h"
#include "hvsdk/vsc/client_rings.h"
#include "hvsdk/vsc/loopback_child.h"
#include "hvsdk/vsc/socket_client.h"
#include "hvsdk/vsp/socket.h"

namespace hvsdk {
namespace {

constexpr size_t kPieceBytes = 64 << 10;
constexpr int64_t kBytesEach = 16 << 20;

using hvdef::socket::ServiceOfPort;

void ReadAll(int fd) {
  std::vector<char> piece(kPieceBytes);
  while (recv(fd, piece.data(), piece.size(), 0) > 0) {
  }
}
void WriteAll(int fd, int64_t bytes) {
  const std::vector<char> piece(kPieceBytes, 'x');
  while (bytes > 0) {
    const ssize_t sent = send(fd, piece.data(), piece.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;
    bytes -= sent;
  }
}

// A guest that has connected to a program's Unix socket.
class World {
 public:
  explicit World(uint32_t ring_pages) : bytes_(4 << 20) {
    HVSDK_CHECK(memory_.AddRange(0, absl::MakeSpan(bytes_.data(), bytes_.size())).ok());
    HVSDK_CHECK(server_.Start().ok());
    char folder[] = "/tmp/hvsdk-bench-XXXXXX";
    HVSDK_CHECK(mkdtemp(folder) != nullptr);
    folder_ = folder;
    sockets_ = *vsp::SocketProvider::Create(server_, {.executor = *loop_, .timers = timers_, .clock = clock_}, {});
    unix_sockets_ = *network::UnixSockets::Create(*loop_, *sockets_, {.path = folder_ + "/v"});
    const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::snprintf(address.sun_path, sizeof(address.sun_path), "%s/v_1", folder);
    HVSDK_CHECK(bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0 &&
                listen(listener, 1) == 0);
    child_.client().Connect();
    Settle();
    child_.client().RequestOffers();
    Settle();
    HVSDK_CHECK(child_.client().TlConnect(ServiceOfPort(2), ServiceOfPort(1)));
    Settle();
    HVSDK_CHECK(child_.offers().size() == 1);
    const uint64_t gpa = child_.AllocatePages(2 * ring_pages);
    ring_ = {.pages = {.pfns = nullptr, .first_pfn = gpa / kPageSize, .page_count = 2 * ring_pages},
             .outgoing_pages = ring_pages};
    rings_ = vsc::ClientRings::Create(child_.host(gpa), ring_);
    client = std::make_unique<vsc::SocketClient>(child_.client(), channel_, rings_);
    HVSDK_CHECK(child_.client().Open(channel_, child_.offers()[0], ring_));
    Settle();
    program = accept(listener, nullptr, nullptr);
    close(listener);
    unlink(address.sun_path);
  }
  ~World() {
    client.reset();
    unix_sockets_.reset();
    sockets_.reset();
    close(program);
    rmdir(folder_.c_str());
  }

  void Turn(bool wait) {
    loop_->RunOnce(wait);
    child_.Poll();
  }

  std::unique_ptr<vsc::SocketClient> client;
  int program = -1;

 private:
  void Settle() {
    for (int i = 0; i < 20; ++i) Turn(/*wait=*/false);
  }

  std::vector<uint8_t> bytes_;
  GuestMemory memory_;
  std::unique_ptr<os::EventLoop> loop_ = *os::EventLoop::Create();
  FakeClock clock_;
  FakeTimerQueue timers_{clock_};
  vmbus::LoopbackHypervisor hypervisor_{1};
  vmbus::Server server_{memory_, hypervisor_, {}, {.executor = loop_.get(), .timers = &timers_, .clock = &clock_}};
  vsc::LoopbackChild child_{hypervisor_, memory_};
  std::string folder_;
  std::unique_ptr<vsp::SocketProvider> sockets_;
  std::unique_ptr<network::UnixSockets> unix_sockets_;
  vsc::Channel channel_;
  vsc::RingPages ring_;
  vsc::ClientRings rings_;
};

void BM_UnixSocket(benchmark::State& state) {
  for (auto _ : state) {
    int ends[2];
    HVSDK_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    std::thread program([&] { ReadAll(ends[1]); });
    WriteAll(ends[0], kBytesEach);
    shutdown(ends[0], SHUT_WR);
    program.join();
    close(ends[0]), close(ends[1]);
  }
  state.SetBytesProcessed(state.iterations() * kBytesEach);
}
BENCHMARK(BM_UnixSocket)->UseRealTime();

void BM_GuestToHost(benchmark::State& state) {
  const std::vector<char> piece(kPieceBytes, 'x');
  World world(static_cast<uint32_t>(state.range(0)));
  std::thread program([&] { ReadAll(world.program); });
  for (auto _ : state) {
    for (int64_t left = kBytesEach; left > 0;) {
      const size_t sent = world.client->Send(piece.data(), std::min<size_t>(piece.size(), static_cast<size_t>(left)));
      left -= static_cast<int64_t>(sent);
      world.Turn(/*wait=*/sent == 0);
    }
  }
  while (!world.client->End()) world.Turn(/*wait=*/true);
  for (int i = 0; i < 100; ++i) world.Turn(/*wait=*/false);
  shutdown(world.program, SHUT_RDWR);
  program.join();
  state.SetBytesProcessed(state.iterations() * kBytesEach);
}
BENCHMARK(BM_GuestToHost)->ArgName("ring_pages")->Arg(6)->Arg(64)->UseRealTime();

void BM_HostToGuest(benchmark::State& state) {
  std::vector<char> piece(kPieceBytes);
  World world(static_cast<uint32_t>(state.range(0)));
  std::thread program([&] { WriteAll(world.program, INT64_MAX); });
  for (auto _ : state) {
    for (int64_t left = kBytesEach; left > 0;) {
      const size_t got = world.client->Receive(piece.data(), piece.size());
      left -= static_cast<int64_t>(got);
      world.Turn(/*wait=*/got == 0);
    }
  }
  shutdown(world.program, SHUT_RDWR);
  program.join();
  state.SetBytesProcessed(state.iterations() * kBytesEach);
}
BENCHMARK(BM_HostToGuest)->ArgName("ring_pages")->Arg(6)->Arg(64)->UseRealTime();

}  // namespace
}  // namespace hvsdk

// SPDX-License-Identifier: Apache-2.0
// A command's host and agent, each of which hears anything, in pieces, between which it does what it does.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "fuzz/bytes.h"
#include "hvsdk/vmm/exec_session.h"

namespace hvsdk::vmm::exec {
namespace {

struct Asked {
  int starts = 0;
  void OnStart(std::vector<std::string> arguments) {
    ++starts;
    HVSDK_CHECK(starts == 1 && !arguments.empty() && !arguments[0].empty());
  }
  void OnSignal(uint32_t number) { HVSDK_CHECK(starts == 1 && number >= 1 && number <= kMaxSignal); }
};

std::span<const uint8_t> Some(fuzz::Bytes& input) {
  const auto bytes = input.TakeSpan(input.Take<uint8_t>());
  return {bytes.data(), bytes.size()};
}

void PlayAgent(fuzz::Bytes input) {
  Agent agent;
  Asked asked;
  while (!input.empty()) {
    const uint8_t step = input.Take<uint8_t>();
    switch (step % 8) {
      case 0:
        agent.TakeInput(std::min<size_t>(agent.input().size(), input.Take<uint16_t>()));
        break;
      case 1:
        if (agent.output_room() != 0) agent.Output((step & 8) != 0, Some(input));
        break;
      case 2:
        agent.DropInput();
        break;
      case 3:
        agent.outgoing().erase(0, input.Take<uint16_t>());
        break;
      default:
        if (agent.may_receive() && !agent.Receive(Some(input), asked)) return;
    }
    HVSDK_CHECK(agent.input().size() <= kWindow && agent.outgoing().size() < 200'000);
  }
}

void PlayHost(fuzz::Bytes input) {
  Host host(std::vector<std::string>{"true"});
  size_t shown = 0, received = 0;
  while (!input.empty()) {
    const uint8_t step = input.Take<uint8_t>();
    switch (step % 8) {
      case 0:
        host.Input(Some(input));
        break;
      case 1:
        host.EndInput();
        break;
      case 2:
        host.outgoing().erase(0, input.Take<uint16_t>());
        break;
      default: {
        const auto bytes = Some(input);
        received += bytes.size();
        if (!host.Receive(bytes, [&](bool, std::span<const uint8_t> output) { shown += output.size(); })) return;
      }
    }
    HVSDK_CHECK(host.input_room() <= kWindow && shown <= received);
  }
}

}  // namespace
}  // namespace hvsdk::vmm::exec

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::fuzz::Bytes input({data, size});
  if (input.Take<uint8_t>() % 2 == 0) {
    hvsdk::vmm::exec::PlayAgent(input);
  } else {
    hvsdk::vmm::exec::PlayHost(input);
  }
  return 0;
}

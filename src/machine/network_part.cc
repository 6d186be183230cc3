// SPDX-License-Identifier: Apache-2.0
#include "machine/network_part.h"

#include <algorithm>

#include "base/status_macros.h"

namespace hvsdk::machine {
namespace {

// The same at every start, so that a guest knows its adapters again; the number is added.
constexpr hvdef::Guid kFirstInstance = {0x7D1B9E42, 0x0C5F, 0x4A36, {0xB8, 0x1D, 0x2E, 0x93, 0x44, 0xA0, 0xC7, 0x60}};

}  // namespace

absl::Status NetworkPart::Attach(Board& board) {
  if (board.is_deterministic()) return absl::UnimplementedError("a deterministic machine has no network");
  vsp::NetworkOptions options;
  options.instance_id = kFirstInstance;
  options.instance_id.data1 += number_;
  options.mac_address = network_.mac_address;
  options.name = network_.name;
  options.number = number_;
  const uint32_t queues = network_.queues == 0 ? board.cpus() : std::min(network_.queues, board.cpus());
  options.max_subchannels = static_cast<uint16_t>(std::min<uint32_t>(queues - 1, vsp::NetworkAdapter::kMaxSubchannels));
  ASSIGN_OR_RETURN(adapter_,
                   vsp::NetworkAdapter::Create(board.vmbus(), board.loop(), std::move(network_.port), options));
  return absl::OkStatus();
}

}  // namespace hvsdk::machine

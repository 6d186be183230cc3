// SPDX-License-Identifier: Apache-2.0
#include "vsp/storage_protocol.h"

#include <algorithm>
#include <iterator>

namespace hvsdk::vsp {

using hvdef::storvsc::Operation;
using hvdef::storvsc::Packet;
using hvdef::storvsc::PacketHeader;
using hvdef::storvsc::Status;
using hvdef::storvsc::Version;

namespace {

constexpr Version kVersions[] = {Version::kWin6, Version::kWin7, Version::kWin8, Version::kWin81, Version::kWin10};

}  // namespace

void StorageProtocol::Reset() {
  state_ = State::kBegin;
  version_ = Version::kWin6;
  has_subchannels_ = false;
}

bool StorageProtocol::IsPossible(const Agreed& agreed) const {
  if (agreed.state > State::kReady) return false;
  if (std::find(std::begin(kVersions), std::end(kVersions), agreed.version) == std::end(kVersions)) return false;
  const bool has_version = agreed.state >= State::kProperties;
  if (has_version ? agreed.version > options_.newest_version : agreed.version != Version::kWin6) return false;
  return !agreed.has_subchannels || (agreed.state >= State::kEnd && agreed.version >= Version::kWin8);
}

void StorageProtocol::Handle(Packet& packet, size_t size_bytes, uint16_t& subchannels) {
  subchannels = 0;
  Status status = Status::kInvalidDeviceState;
  const size_t body_bytes = size_bytes - sizeof(PacketHeader);
  switch (packet.header.operation) {
    case Operation::kBeginInitialization:
      if (state_ != State::kBegin) break;
      state_ = State::kVersion;
      status = Status::kSuccess;
      break;
    case Operation::kQueryProtocolVersion:
      if (state_ != State::kVersion) break;
      status = body_bytes < sizeof(packet.version) ? Status::kInvalidParameter : QueryVersion(packet);
      break;
    case Operation::kQueryProperties:
      if (state_ != State::kProperties) break;
      status = body_bytes < sizeof(packet.properties) ? Status::kInvalidParameter : QueryProperties(packet);
      break;
    case Operation::kEndInitialization:
      if (state_ != State::kEnd) break;
      state_ = State::kReady;
      status = Status::kSuccess;
      break;
    case Operation::kCreateSubChannels:
      if (state_ != State::kEnd && state_ != State::kReady) break;
      status = CreateSubchannels(packet.sub_channel_count, subchannels);
      break;
    case Operation::kResetLun:
    case Operation::kResetAdapter:
    case Operation::kResetBus:
      // Nothing can be aborted that a disk has begun; what is in flight completes in the ordinary way.
      if (state_ == State::kReady) status = Status::kSuccess;
      break;
    default:
      status = Status::kInvalidDeviceRequest;
      break;
  }
  packet.header = {Operation::kCompleteIo, 0, status};
}

Status StorageProtocol::QueryVersion(Packet& packet) {
  const Version wanted = packet.version.major_minor;
  const bool known = std::find(std::begin(kVersions), std::end(kVersions), wanted) != std::end(kVersions);
  if (!known || wanted > options_.newest_version) return Status::kRevisionMismatch;
  version_ = wanted;
  state_ = State::kProperties;
  return Status::kSuccess;
}

Status StorageProtocol::QueryProperties(Packet& packet) {
  packet.properties = {};
  packet.properties.max_transfer_bytes = options_.max_transfer_bytes;
  if (version_ >= Version::kWin8) {
    packet.properties.flags = hvdef::storvsc::kChannelSupportsMultiChannel;
    packet.properties.maximum_sub_channel_count = options_.max_subchannels;
  }
  state_ = State::kEnd;
  return Status::kSuccess;
}

Status StorageProtocol::CreateSubchannels(uint16_t wanted, uint16_t& subchannels) {
  if (version_ < Version::kWin8 || has_subchannels_) return Status::kInvalidDeviceState;
  if (wanted > options_.max_subchannels) return Status::kInvalidParameter;
  has_subchannels_ = wanted != 0;
  subchannels = wanted;
  return Status::kSuccess;
}

}  // namespace hvsdk::vsp

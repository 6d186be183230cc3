// SPDX-License-Identifier: Apache-2.0
// How a guest and the storage provider agree on a version, a transfer size and subchannels: a state machine of
// one controller.
//
//   begin ─BEGIN_INITIALIZATION─► version ─QUERY_PROTOCOL_VERSION─► properties ─QUERY_PROPERTIES─►
//   end ─END_INITIALIZATION─► ready
//
// A version that is refused leaves the state. CREATE_SUB_CHANNELS may come in `end` or `ready`. What comes out of order
// is answered with kInvalidDeviceState and changes nothing.

#ifndef HVSDK_SRC_VSP_STORAGE_PROTOCOL_H_
#define HVSDK_SRC_VSP_STORAGE_PROTOCOL_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/storvsc.h"
#include "hvsdk/vsp/storage.h"

namespace hvsdk::vsp {

class StorageProtocol {
 public:
  explicit StorageProtocol(const StorageOptions& options) : options_(options) {}

  // The channel was opened anew.
  void Reset();

  bool is_ready() const { return state_ == State::kReady; }
  // What a notice to the guest is long. Valid once a version is agreed.
  size_t packet_bytes() const {
    return version_ >= hvdef::storvsc::Version::kWin8 ? hvdef::storvsc::kPacketBytes : hvdef::storvsc::kPacketBytesV1;
  }
  bool has_bus_notices() const { return is_ready() && version_ >= hvdef::storvsc::Version::kWin7; }

  // Answers a packet on the primary channel that carries no SCSI command: turns `packet`, zeroed behind `size_bytes`,
  // into its completion. `subchannels` becomes the number to offer if the guest asked for some, else 0; if they cannot
  // be offered the caller puts an error status into the completion and calls SubchannelsFailed.
  void Handle(hvdef::storvsc::Packet& packet, size_t size_bytes, uint16_t& subchannels);
  void SubchannelsFailed() { has_subchannels_ = false; }

  enum class State : uint8_t { kBegin, kVersion, kProperties, kEnd, kReady };
  struct Agreed {
    State state = State::kBegin;
    hvdef::storvsc::Version version = hvdef::storvsc::Version::kWin6;
    bool has_subchannels = false;
  };
  Agreed agreed() const { return {state_, version_, has_subchannels_}; }
  // False: no guest could have come there.
  bool IsPossible(const Agreed& agreed) const;
  void SetAgreed(const Agreed& agreed) {
    state_ = agreed.state;
    version_ = agreed.version;
    has_subchannels_ = agreed.has_subchannels;
  }

 private:
  hvdef::storvsc::Status QueryVersion(hvdef::storvsc::Packet& packet);
  hvdef::storvsc::Status QueryProperties(hvdef::storvsc::Packet& packet);
  hvdef::storvsc::Status CreateSubchannels(uint16_t wanted, uint16_t& subchannels);

  const StorageOptions& options_;
  State state_ = State::kBegin;
  hvdef::storvsc::Version version_ = hvdef::storvsc::Version::kWin6;
  bool has_subchannels_ = false;
};

}  // namespace hvsdk::vsp

#endif  // HVSDK_SRC_VSP_STORAGE_PROTOCOL_H_

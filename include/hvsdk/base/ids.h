// SPDX-License-Identifier: Apache-2.0
// Strong identifiers that more than one library speaks of.

#ifndef HVSDK_BASE_IDS_H_
#define HVSDK_BASE_IDS_H_

#include <cstdint>

namespace hvsdk {

// A virtual processor's index in its partition, from 0, dense (TLFS 7.8.1, HV_VP_INDEX).
enum class VpIndex : uint32_t {};

// Selects a port from the sender's side (TLFS 11.2, HV_CONNECTION_ID; 24 bits).
enum class ConnectionId : uint32_t {};

// Which of a VP's 16 synthetic interrupt sources, SINT0 to SINT15 (TLFS 11.4).
enum class Sint : uint8_t {};

constexpr uint32_t ToInt(VpIndex vp) { return static_cast<uint32_t>(vp); }
constexpr uint32_t ToInt(ConnectionId id) { return static_cast<uint32_t>(id); }
constexpr uint8_t ToInt(Sint sint) { return static_cast<uint8_t>(sint); }

inline constexpr uint64_t kPageSize = 4096;
inline constexpr uint64_t kPageShift = 12;

}  // namespace hvsdk

#endif  // HVSDK_BASE_IDS_H_

// SPDX-License-Identifier: Apache-2.0
// Hyper-V sockets: streams of bytes between a program in the guest and one on the host. Each connection is a VMBus channel of its own,
// whose class is the service that was connected to. All little-endian.
//
// The host connects by an offer, which the guest opens if a program listens there. The guest connects by TlConnectRequest (vmbus.h); its
// host answers with an offer whose instance is the request's endpoint, or refuses. Data are packets in-band with a PipeHeader and up to
// kMaxDataBytes; one without data ends its direction. When both directions have ended, or either end is gone, the host takes the offer
// back: Linux waits for that before it lets go of a socket.
//
// Linux' AF_VSOCK knows those services alone that are a port number in a fixed GUID (ServiceOfPort). Programs listen on ports below 2^31;
// those above are of ends that have connected.
//
// Sources: Linux net/vmw_vsock/hyperv_transport.c and drivers/hv/channel_mgmt.c; OpenVMM vmbus_core/src/protocol.rs
// (HvsockUserDefinedParameters), vmbus_server/src/channels.rs.

#ifndef HVSDK_HVDEF_SOCKET_H_
#define HVSDK_HVDEF_SOCKET_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hvsdk/hvdef/guid.h"
#include "hvsdk/hvdef/integration.h"
#include "hvsdk/hvdef/vmbus.h"

namespace hvsdk::hvdef::socket {

using integration::kPipeData;
using integration::PipeHeader;

// Of a packet. Linux calls it HVS_MTU_SIZE, and takes no more.
inline constexpr uint32_t kMaxDataBytes = 16384;

// Of every offer of a connection.
inline constexpr uint16_t kOfferFlags =
    vmbus::kOfferEnumerateDeviceInterface | vmbus::kOfferNamedPipeMode | vmbus::kOfferTlnpiProvider;

// The first bytes of such an offer's user_defined. Its version and its silo have no alignment.
// Source: OpenVMM, HvsockUserDefinedParameters; Linux reads the first byte behind the mode.
struct OfferParameters {
  uint32_t pipe_mode;       // 0x00  vmbus::kPipeModeByte
  uint8_t is_from_host;     // 0x04  the host connects, and the guest accepts
  uint8_t is_to_container;  // 0x05
  uint8_t version[4];       // 0x06  kOfferParametersVersion
  uint8_t silo[16];         // 0x0A
  uint8_t reserved[2];      // 0x1A
};
static_assert(sizeof(OfferParameters) == 28);
static_assert(offsetof(OfferParameters, pipe_mode) == 0x00 && offsetof(OfferParameters, is_from_host) == 0x04 &&
              offsetof(OfferParameters, is_to_container) == 0x05 && offsetof(OfferParameters, version) == 0x06 &&
              offsetof(OfferParameters, silo) == 0x0A && offsetof(OfferParameters, reserved) == 0x1A);
static_assert(sizeof(OfferParameters) <= vmbus::kUserDefinedSize && std::is_trivially_copyable_v<OfferParameters>);
inline constexpr uint8_t kOfferParametersVersion = 1;  // Windows Server 2019

inline constexpr Guid kPortTemplate = MakeGuid("00000000-facb-11e6-bd58-64006a7986d3");
inline constexpr uint32_t kMaxListenPort = 0x7FFFFFFF;

constexpr Guid ServiceOfPort(uint32_t port) {
  Guid service = kPortTemplate;
  service.data1 = port;
  return service;
}
// False: it is no port's.
constexpr bool PortOfService(const Guid& service, uint32_t& port) {
  if (!(ServiceOfPort(service.data1) == service)) return false;
  port = service.data1;
  return true;
}

}  // namespace hvsdk::hvdef::socket

#endif  // HVSDK_HVDEF_SOCKET_H_

// SPDX-License-Identifier: Apache-2.0
// Key-value pairs: the messages of the integration component by which host and guest know things of each other by name. Each is the body
// of an integration message (hvdef/integration.h); an answer is its request with what was asked for filled in. Texts are UTF-16, with a zero at
// their end that is counted. All little-endian.
//
// Sources: Linux include/uapi/linux/hyperv.h (hv_kvp_*) and drivers/hv/hv_kvp.c, OpenVMM vm/devices/hyperv_ic_protocol/src/kvp.rs.

#ifndef HVSDK_HVDEF_KEY_VALUE_H_
#define HVSDK_HVDEF_KEY_VALUE_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/integration.h"

namespace hvsdk::hvdef::key_value {

inline constexpr integration::Version kVersions[] = {{3, 0}, {4, 0}};
inline constexpr integration::Version kAddressVersion = {4, 0};  // from which on a guest knows of addresses

enum class Operation : uint8_t {
  kGet = 0,           // a Pair
  kSet = 1,           // a Pair
  kDelete = 2,        // a Key
  kEnumerate = 3,     // an IndexedPair; behind the last one the answer is kNoMoreItems
  kGetAddresses = 4,  // an Addresses
  kSetAddresses = 5,  // an Addresses
};

enum class Pool : uint8_t {
  kExternal = 0,      // the host's to write
  kGuest = 1,         // the guest's
  kAuto = 2,          // what the guest is, made when it is asked for
  kAutoExternal = 3,  // what the host is, for the guest
  kAutoInternal = 4,
};
inline constexpr size_t kPools = 5;

// As the registry of Windows has them.
enum class ValueType : uint32_t {
  kText = 1,        // REG_SZ
  kExpandText = 2,  // REG_EXPAND_SZ
  kNumber32 = 4,    // REG_DWORD
  kNumber64 = 11,   // REG_QWORD
};

inline constexpr size_t kMaxKeyBytes = 512;
inline constexpr size_t kMaxValueBytes = 2048;

// Source: Linux, hv_kvp_exchg_msg_value; OpenVMM, Value.
struct Value {
  ValueType type;                 // 0x000
  uint32_t key_bytes;             // 0x004
  uint32_t value_bytes;           // 0x008
  uint8_t key[kMaxKeyBytes];      // 0x00C
  uint8_t value[kMaxValueBytes];  // 0x20C
};
static_assert(sizeof(Value) == 2572);
static_assert(offsetof(Value, type) == 0x000 && offsetof(Value, key_bytes) == 0x004 &&
              offsetof(Value, value_bytes) == 0x008 && offsetof(Value, key) == 0x00C &&
              offsetof(Value, value) == 0x20C);

// Source: Linux, hv_kvp_hdr.
struct Header {
  Operation operation;  // 0x00
  Pool pool;            // 0x01
  uint16_t reserved;    // 0x02
};
static_assert(sizeof(Header) == 4);
static_assert(offsetof(Header, operation) == 0x00 && offsetof(Header, pool) == 0x01 &&
              offsetof(Header, reserved) == 0x02);

// Source: Linux, hv_kvp_msg_get and hv_kvp_msg_set.
struct Pair {
  Header header;  // 0x00
  Value value;    // 0x04
};
static_assert(sizeof(Pair) == 2576);
static_assert(offsetof(Pair, header) == 0x00 && offsetof(Pair, value) == 0x04);

// Source: Linux, hv_kvp_msg_enumerate.
struct IndexedPair {
  Header header;   // 0x00
  uint32_t index;  // 0x04
  Value value;     // 0x08
};
static_assert(sizeof(IndexedPair) == 2580);
static_assert(offsetof(IndexedPair, header) == 0x00 && offsetof(IndexedPair, index) == 0x04 &&
              offsetof(IndexedPair, value) == 0x08);

// Source: Linux, hv_kvp_msg_delete.
struct Key {
  Header header;              // 0x00
  uint32_t key_bytes;         // 0x04
  uint8_t key[kMaxKeyBytes];  // 0x08
};
static_assert(sizeof(Key) == 520);
static_assert(offsetof(Key, header) == 0x00 && offsetof(Key, key_bytes) == 0x04 && offsetof(Key, key) == 0x08);

inline constexpr uint8_t kFamilyIpv4 = 1;
inline constexpr uint8_t kFamilyIpv6 = 2;

// The addresses of a network adapter; lists of them have semicolons between. Its header has no padding.
// Source: Linux, hv_kvp_ip_msg and hv_kvp_ipaddr_value; OpenVMM, KvpMessage2 and MessageIpAddressInfo.
struct Addresses {
  Operation operation;  // 0x0000
  Pool pool;            // 0x0001
  uint8_t
      adapter_id[256];  // 0x0002  Linux looks for a MAC address here when asked, and for the device's GUID when told
  uint8_t family;       // 0x0102
  uint8_t dhcp;         // 0x0103
  uint8_t addresses[2048];     // 0x0104
  uint8_t subnets[2048];       // 0x0904  masks of IPv4, and of IPv6 as in "/64"
  uint8_t gateways[1024];      // 0x1104
  uint8_t name_servers[2048];  // 0x1504
};
static_assert(sizeof(Addresses) == 7428);
static_assert(offsetof(Addresses, operation) == 0x0000 && offsetof(Addresses, pool) == 0x0001 &&
              offsetof(Addresses, adapter_id) == 0x0002 && offsetof(Addresses, family) == 0x0102 &&
              offsetof(Addresses, dhcp) == 0x0103 && offsetof(Addresses, addresses) == 0x0104 &&
              offsetof(Addresses, subnets) == 0x0904 && offsetof(Addresses, gateways) == 0x1104 &&
              offsetof(Addresses, name_servers) == 0x1504);

}  // namespace hvsdk::hvdef::key_value

#endif  // HVSDK_HVDEF_KEY_VALUE_H_

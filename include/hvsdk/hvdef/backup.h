// SPDX-License-Identifier: Apache-2.0
// Backup (Hyper-V's "VSS"): the messages of the integration component by which the host has a guest's file systems stand still while its disks
// are copied or put aside. Each is the body of an integration message (hvdef/integration.h), which the guest sends back with its
// status. All little-endian.
//
// Sources: Linux include/uapi/linux/hyperv.h (hv_vss_hdr and what follows), drivers/hv/hv_snapshot.c and tools/hv/hv_vss_daemon.c.

#ifndef HVSDK_HVDEF_BACKUP_H_
#define HVSDK_HVDEF_BACKUP_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "hvsdk/hvdef/integration.h"

namespace hvsdk::hvdef::backup {

// Hyper-V has others, too. Linux speaks this one alone, and it is the first with kFreeze and kThaw.
inline constexpr integration::Version kVersions[] = {{5, 0}};

enum class Operation : uint8_t {
  kNone = 0,   // "create", which the host never asks for
  kCheck = 2,  // VSS_OP_HOT_BACKUP: can it be backed up while it runs? Linux: does the daemon run?
  kFreeze = 5,
  kThaw = 6,
};

// In a guest's answer to kCheck: its file systems need no recovery when a copy of them is used.
inline constexpr uint32_t kNoAutoRecovery = 5;

// Source: Linux, hv_vss_msg, which is packed.
struct Message {
  Operation operation;  // 0x00
  uint8_t reserved[7];  // 0x01
  uint32_t flags;       // 0x08  of an answer to kCheck
};
static_assert(sizeof(Message) == 12);
static_assert(offsetof(Message, operation) == 0x00 && offsetof(Message, reserved) == 0x01 &&
              offsetof(Message, flags) == 0x08);
static_assert(std::is_trivially_copyable_v<Message>);

}  // namespace hvsdk::hvdef::backup

#endif  // HVSDK_HVDEF_BACKUP_H_

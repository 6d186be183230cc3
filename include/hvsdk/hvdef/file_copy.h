// SPDX-License-Identifier: Apache-2.0
// File copy: the messages of the integration component by which the host writes a file in the guest: one that begins it, pieces, and one that
// completes or cancels it. Each is the body of an integration message (hvdef/integration.h), and the guest's status is its whole answer.
// All little-endian.
//
// Sources: Linux include/uapi/linux/hyperv.h (hv_fcopy_hdr and what follows), drivers/hv/hv_fcopy.c and tools/hv/hv_fcopy_uio_daemon.c.

#ifndef HVSDK_HVDEF_FILE_COPY_H_
#define HVSDK_HVDEF_FILE_COPY_H_

#include <cstddef>
#include <cstdint>

#include "hvsdk/hvdef/integration.h"

namespace hvsdk::hvdef::file_copy {

inline constexpr integration::Version kVersions[] = {{1, 1}};

enum class Operation : uint32_t {
  kBegin = 0,     // a Begin
  kWrite = 1,     // a Write
  kComplete = 2,  // a Header
  kCancel = 3,    // a Header; Linux removes what it has of the file
};

// Source: Linux, hv_fcopy_hdr.
struct Header {
  Operation operation;     // 0x00
  uint8_t service_id[16];  // 0x04  not used
  uint8_t guest_id[16];    // 0x14  not used
};
static_assert(sizeof(Header) == 36);
static_assert(offsetof(Header, operation) == 0x00 && offsetof(Header, service_id) == 0x04 &&
              offsetof(Header, guest_id) == 0x14);

inline constexpr size_t kMaxNameBytes = 520;  // W_MAX_PATH units of UTF-16, the zero at the end with them
inline constexpr uint32_t kOverwrite = 1;
inline constexpr uint32_t kCreatePath = 2;

// Source: Linux, hv_start_fcopy.
struct Begin {
  Header header;                     // 0x000
  uint8_t file_name[kMaxNameBytes];  // 0x024
  uint8_t directory[kMaxNameBytes];  // 0x22C
  uint32_t flags;                    // 0x434
  uint64_t file_bytes;               // 0x438
};
static_assert(sizeof(Begin) == 1088);
static_assert(offsetof(Begin, header) == 0x000 && offsetof(Begin, file_name) == 0x024 &&
              offsetof(Begin, directory) == 0x22C && offsetof(Begin, flags) == 0x434 &&
              offsetof(Begin, file_bytes) == 0x438);

inline constexpr size_t kMaxPieceBytes = 6144;  // DATA_FRAGMENT

// Source: Linux, hv_do_fcopy, which is packed.
struct Write {
  Header header;                 // 0x00
  uint32_t reserved;             // 0x24
  uint32_t offset_low;           // 0x28
  uint32_t offset_high;          // 0x2C
  uint32_t size_bytes;           // 0x30
  uint8_t data[kMaxPieceBytes];  // 0x34
};
static_assert(sizeof(Write) == 6196);
static_assert(offsetof(Write, header) == 0x00 && offsetof(Write, reserved) == 0x24 &&
              offsetof(Write, offset_low) == 0x28 && offsetof(Write, offset_high) == 0x2C &&
              offsetof(Write, size_bytes) == 0x30 && offsetof(Write, data) == 0x34);

}  // namespace hvsdk::hvdef::file_copy

#endif  // HVSDK_HVDEF_FILE_COPY_H_

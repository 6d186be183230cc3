// SPDX-License-Identifier: Apache-2.0
// RETURN_IF_FAILED, which is RETURN_IF_ERROR for BlockStatus. Private to the library's sources.

#ifndef HVSDK_SRC_IMAGE_BLOCK_STATUS_MACROS_H_
#define HVSDK_SRC_IMAGE_BLOCK_STATUS_MACROS_H_

#include "hvsdk/resource/block_device.h"

#define RETURN_IF_FAILED(expression)                                                                     \
  do {                                                                                                   \
    const ::hvsdk::BlockStatus hvsdk_block_status = (expression);                                        \
    if (__builtin_expect(hvsdk_block_status != ::hvsdk::BlockStatus::kOk, 0)) return hvsdk_block_status; \
  } while (false)

#endif  // HVSDK_SRC_IMAGE_BLOCK_STATUS_MACROS_H_

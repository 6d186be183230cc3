// SPDX-License-Identifier: Apache-2.0
// What logical units have in common of the data that they return about themselves.

#ifndef HVSDK_SRC_SCSI_PARAMETER_DATA_H_
#define HVSDK_SRC_SCSI_PARAMETER_DATA_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/strings/string_view.h"
#include "hvsdk/hvdef/scsi_data.h"

namespace hvsdk::scsi {

// Parameter data of up to N bytes, written front to back.
template <size_t N>
class Builder {
 public:
  template <typename T>
  void Add(const T& object) {
    AddBytes(&object, sizeof(T));
  }
  void AddBytes(const void* from, size_t size_bytes) {
    size_bytes = std::min(size_bytes, N - size_);
    std::memcpy(bytes_ + size_, from, size_bytes);
    size_ += size_bytes;
  }
  uint8_t* data() { return bytes_; }
  const uint8_t* data() const { return bytes_; }
  size_t size() const { return size_; }

 private:
  uint8_t bytes_[N];
  size_t size_ = 0;
};

inline void CopyPadded(char* to, size_t size_bytes, const char* text) {
  std::memset(to, ' ', size_bytes);
  absl::string_view(text).copy(to, size_bytes);
}

// SPC-4 7.8.6, page 0x83. Two names for one unit: by T10 vendor, and an NAA 6 identifier under the company id 00-22-48,
// whose vendor specific part holds the ends of the 16 bytes (the middle of a random GUID is not random).
template <size_t N>
void AddDeviceIdentification(uint8_t peripheral, const std::array<uint8_t, 16>& id, Builder<N>& out) {
  uint8_t naa[16] = {0x60, 0x02, 0x24, 0x80};
  std::memcpy(naa + 4, id.data(), 6);
  std::memcpy(naa + 10, id.data() + 10, 6);
  out.Add(hvdef::scsi::VpdHeader{peripheral, hvdef::scsi::VpdPage::kDeviceIdentification, 4 + 8 + 16 + 4 + 16});
  out.Add(hvdef::scsi::DesignatorHeader{hvdef::scsi::kCodeSetBinary, hvdef::scsi::kDesignatorT10VendorId, 0, 8 + 16});
  out.AddBytes("Msft    ", 8);
  out.Add(id);
  out.Add(hvdef::scsi::DesignatorHeader{hvdef::scsi::kCodeSetBinary, hvdef::scsi::kDesignatorNaa, 0, sizeof(naa)});
  out.Add(naa);
}

}  // namespace hvsdk::scsi

#endif  // HVSDK_SRC_SCSI_PARAMETER_DATA_H_

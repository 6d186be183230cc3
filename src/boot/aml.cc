// SPDX-License-Identifier: Apache-2.0
#include "boot/aml.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/check.h"
#include "boot/little_endian.h"

namespace hvsdk::boot::aml {
namespace {

// 20.3: opcodes and prefixes.
enum : uint8_t {
  kZeroOp = 0x00,
  kOneOp = 0x01,
  kNameOp = 0x08,
  kBytePrefix = 0x0A,
  kWordPrefix = 0x0B,
  kDwordPrefix = 0x0C,
  kStringPrefix = 0x0D,
  kQwordPrefix = 0x0E,
  kScopeOp = 0x10,
  kBufferOp = 0x11,
  kPackageOp = 0x12,
  kMethodOp = 0x14,
  kDualNamePrefix = 0x2E,
  kMultiNamePrefix = 0x2F,
  kExtendedPrefix = 0x5B,
  kDeviceOp = 0x82,  // after the prefix
  kNotifyOp = 0x86,
};

// 20.2.4: the length counts itself, so its own size must be known first.
std::string WithLength(absl::string_view body) {
  std::string out;
  if (body.size() + 1 < 0x40) {
    Append<uint8_t>(out, body.size() + 1);
  } else {
    int more = 1;
    while (body.size() + 1 + more >= (uint64_t{1} << (4 + 8 * more))) ++more;
    HVSDK_CHECK(more <= 3);
    const uint64_t length = body.size() + 1 + more;
    Append<uint8_t>(out, more << 6 | (length & 0x0F));
    for (int i = 0; i < more; ++i) Append<uint8_t>(out, length >> (4 + 8 * i));
  }
  return absl::StrCat(out, body);
}

// 20.2.2: name objects.
std::string NameString(absl::string_view name) {
  std::string out;
  if (!name.empty() && name[0] == '\\') {
    out.push_back('\\');
    name.remove_prefix(1);
  }
  const std::vector<absl::string_view> segments = absl::StrSplit(name, '.');
  if (segments.size() == 2) {
    Append<uint8_t>(out, kDualNamePrefix);
  } else if (segments.size() > 2) {
    Append<uint8_t>(out, kMultiNamePrefix);
    Append<uint8_t>(out, segments.size());
  }
  for (absl::string_view segment : segments) {
    HVSDK_CHECK(segment.size() == 4);
    absl::StrAppend(&out, segment);
  }
  return out;
}

std::string Op(uint8_t op, absl::string_view rest) {
  return absl::StrCat(absl::string_view(reinterpret_cast<const char*>(&op), 1), rest);
}

unsigned HexDigit(char c) {
  HVSDK_CHECK((c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'));
  return c <= '9' ? c - '0' : c - 'A' + 10;
}

// 6.4.3.5: address space descriptors differ in the width of their fields alone.
template <typename T>
std::string MemoryWindow(uint8_t tag, T first, T size_bytes) {
  constexpr uint8_t kMemory = 0;
  constexpr uint8_t kProducerFixed = 0x0C;  // minimum and maximum are fixed
  constexpr uint8_t kReadWrite = 0x01;
  std::string out;
  Append<uint8_t>(out, tag);
  Append<uint16_t>(out, 3 + 5 * sizeof(T));
  Append<uint8_t>(out, kMemory);
  Append<uint8_t>(out, kProducerFixed);
  Append<uint8_t>(out, kReadWrite);
  Append<T>(out, 0);  // granularity
  Append<T>(out, first);
  Append<T>(out, first + (size_bytes - 1));
  Append<T>(out, 0);  // translation
  Append<T>(out, size_bytes);
  return out;
}

}  // namespace

std::string Name(absl::string_view name, absl::string_view value) {
  return Op(kNameOp, absl::StrCat(NameString(name), value));
}

std::string Scope(absl::string_view name, absl::string_view terms) {
  return Op(kScopeOp, WithLength(absl::StrCat(NameString(name), terms)));
}

std::string Device(absl::string_view name, absl::string_view terms) {
  return Op(kExtendedPrefix, Op(kDeviceOp, WithLength(absl::StrCat(NameString(name), terms))));
}

std::string Method(absl::string_view name, absl::string_view terms) {
  std::string head = NameString(name);
  Append<uint8_t>(head, 0);  // no arguments, not serialized
  return Op(kMethodOp, WithLength(absl::StrCat(head, terms)));
}

std::string Notify(absl::string_view device, uint8_t what) {
  return Op(kNotifyOp, absl::StrCat(NameString(device), Integer(what)));
}

std::string Integer(uint64_t value) {
  std::string out;
  if (value <= 1) {
    Append<uint8_t>(out, value == 0 ? kZeroOp : kOneOp);
  } else if (value <= 0xFF) {
    Append<uint8_t>(out, kBytePrefix);
    Append<uint8_t>(out, value);
  } else if (value <= 0xFFFF) {
    Append<uint8_t>(out, kWordPrefix);
    Append<uint16_t>(out, value);
  } else if (value <= 0xFFFFFFFF) {
    Append<uint8_t>(out, kDwordPrefix);
    Append<uint32_t>(out, value);
  } else {
    Append<uint8_t>(out, kQwordPrefix);
    Append<uint64_t>(out, value);
  }
  return out;
}

std::string String(absl::string_view text) {
  std::string out = Op(kStringPrefix, text);
  out.push_back('\0');
  return out;
}

std::string EisaId(absl::string_view id) {
  HVSDK_CHECK(id.size() == 7);
  const uint32_t letters = (id[0] - '@') << 10 | (id[1] - '@') << 5 | (id[2] - '@');
  const uint32_t number = HexDigit(id[3]) << 12 | HexDigit(id[4]) << 8 | HexDigit(id[5]) << 4 | HexDigit(id[6]);
  // Each half is big-endian.
  const uint32_t big_endian = letters << 16 | number;
  std::string out;
  Append<uint8_t>(out, kDwordPrefix);
  Append<uint32_t>(out, __builtin_bswap32(big_endian));
  return out;
}

std::string Package(std::initializer_list<std::string> elements) {
  std::string body;
  Append<uint8_t>(body, elements.size());
  for (const std::string& element : elements) body += element;
  return Op(kPackageOp, WithLength(body));
}

std::string ResourceTemplate(absl::string_view descriptors) {
  std::string bytes(descriptors);
  Append<uint8_t>(bytes, 0x79);  // 6.4.2.9: end tag
  Append<uint8_t>(bytes, 0);     // no checksum
  return Op(kBufferOp, WithLength(absl::StrCat(Integer(bytes.size()), bytes)));
}

// 6.4.2.5: I/O port descriptor.
std::string IoPorts(uint16_t first, uint8_t count) {
  std::string out;
  Append<uint8_t>(out, 0x47);
  Append<uint8_t>(out, 1);  // decodes 16 bits
  Append<uint16_t>(out, first);
  Append<uint16_t>(out, first);
  Append<uint8_t>(out, 1);  // alignment
  Append<uint8_t>(out, count);
  return out;
}

// 6.4.2.1: IRQ descriptor without flags: edge, active high, not shared.
std::string Irq(uint8_t irq) {
  std::string out;
  Append<uint8_t>(out, 0x22);
  Append<uint16_t>(out, 1u << irq);
  return out;
}

// 6.4.3.5.3: word address space descriptor.
std::string BusNumbers(uint16_t first, uint16_t count) {
  constexpr uint8_t kBusNumbers = 2, kProducerFixed = 0x0C;
  std::string out;
  Append<uint8_t>(out, 0x88);
  Append<uint16_t>(out, 13);
  Append<uint8_t>(out, kBusNumbers);
  Append<uint8_t>(out, kProducerFixed);
  Append<uint8_t>(out, 0);
  Append<uint16_t>(out, 0);  // granularity
  Append<uint16_t>(out, first);
  Append<uint16_t>(out, first + (count - 1));
  Append<uint16_t>(out, 0);  // translation
  Append<uint16_t>(out, count);
  return out;
}

std::string MemoryWindow32(uint32_t first, uint32_t size_bytes) {
  return MemoryWindow<uint32_t>(0x87, first, size_bytes);
}

std::string MemoryWindow64(uint64_t first, uint64_t size_bytes) {
  return MemoryWindow<uint64_t>(0x8A, first, size_bytes);
}

}  // namespace hvsdk::boot::aml

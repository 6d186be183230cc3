// SPDX-License-Identifier: Apache-2.0
// New VHDX files. The layout, each part at whole MiB: header section, log, metadata, allocation table, blocks.
#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/status_macros.h"
#include "base/utf16.h"
#include "image/blocking.h"
#include "image/image_format.h"
#include "image/vhdx_file.h"

namespace hvsdk::internal {
namespace {

using vhdx::kMiB;

constexpr uint64_t kLogOffset = 1 * kMiB;
constexpr uint32_t kLogBytes = kMiB;
constexpr uint64_t kMetadataOffset = 2 * kMiB;
constexpr uint32_t kMetadataBytes = kMiB;
constexpr uint64_t kBatOffset = 3 * kMiB;

template <typename T>
void Append(std::vector<uint8_t>& bytes, const T& value) {
  bytes.resize(bytes.size() + sizeof(value));
  std::memcpy(bytes.data() + bytes.size() - sizeof(value), &value, sizeof(value));
}

std::vector<uint8_t> EncodeMetadata(const ImageCreateOptions& options, const ParentOfNew* parent) {
  std::vector<uint8_t> table, items;
  std::vector<vhdx::MetadataEntry> entries;
  const auto add = [&](const Guid& id, uint32_t flags, const std::vector<uint8_t>& item) {
    entries.push_back({id, static_cast<uint32_t>(vhdx::kMetadataTableBytes + items.size()),
                       static_cast<uint32_t>(item.size()), flags | vhdx::kItemIsRequired, 0});
    items.insert(items.end(), item.begin(), item.end());
    items.resize((items.size() + 7) / 8 * 8);
  };
  const auto bytes_of = [](const auto& value) {
    std::vector<uint8_t> bytes;
    Append(bytes, value);
    return bytes;
  };
  const uint32_t flags =
      (options.is_fixed ? vhdx::kLeaveBlocksAllocated : 0) | (parent != nullptr ? vhdx::kHasParent : 0);
  add(vhdx::kFileParametersItem, 0, bytes_of(vhdx::FileParameters{options.block_bytes, flags}));
  add(vhdx::kDiskSizeItem, vhdx::kItemIsVirtualDisk, bytes_of(options.disk_bytes));
  add(vhdx::kDiskIdItem, vhdx::kItemIsVirtualDisk, bytes_of(options.id == Guid{} ? NewGuid() : options.id));
  add(vhdx::kLogicalSectorItem, vhdx::kItemIsVirtualDisk, bytes_of(options.logical_sector_bytes));
  add(vhdx::kPhysicalSectorItem, vhdx::kItemIsVirtualDisk, bytes_of(options.physical_sector_bytes));
  if (parent != nullptr) add(vhdx::kParentLocatorItem, 0, EncodeVhdxParent(*parent));
  vhdx::MetadataTableHeader head{};
  std::memcpy(head.signature, vhdx::kMetadataSignature, sizeof(head.signature));
  head.entry_count = static_cast<uint16_t>(entries.size());
  Append(table, head);
  for (const vhdx::MetadataEntry& entry : entries) Append(table, entry);
  table.resize(vhdx::kMetadataTableBytes);
  table.insert(table.end(), items.begin(), items.end());
  return table;
}

// Blocks that lie one behind the other, from `first` on.
BlockStatus WriteFixedTable(ImageFile& file, const vhdx::Geometry& geometry, uint64_t first) {
  constexpr uint64_t kStep = 128 << 10;  // entries at a time
  const uint64_t count = geometry.entry_count();
  for (uint64_t start = 0; start < count; start += kStep) {
    std::vector<uint64_t> entries(std::min(kStep, count - start));
    for (size_t i = 0; i < entries.size(); ++i) {
      const uint64_t group = geometry.chunk_ratio() + 1, index = start + i;
      if (index % group == geometry.chunk_ratio()) continue;  // a sector bitmap's, which there is none of
      const uint64_t block = index - index / group;
      entries[i] = vhdx::MakeEntry(vhdx::BlockState::kFullyPresent, first + block * geometry.block_bytes);
    }
    const auto* const bytes = reinterpret_cast<const uint8_t*>(entries.data());
    const BlockStatus status = Write(file, kBatOffset + start * 8, absl::MakeConstSpan(bytes, entries.size() * 8));
    if (status != BlockStatus::kOk) return status;
  }
  return BlockStatus::kOk;
}

}  // namespace

std::vector<uint8_t> EncodeVhdxParent(const ParentOfNew& parent) {
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"parent_linkage", FormatGuid(parent.id_for_children)},
      {"relative_path", absl::StrReplaceAll(parent.relative_path, {{"/", "\\"}})},
      {"absolute_win32_path", parent.absolute_path},
  };
  if (parent.next_id != Guid{}) pairs.emplace_back("parent_linkage2", FormatGuid(parent.next_id));
  std::vector<uint8_t> table, texts;
  const size_t texts_at = sizeof(vhdx::ParentLocatorHeader) + pairs.size() * sizeof(vhdx::ParentLocatorEntry);
  Append(table, vhdx::ParentLocatorHeader{vhdx::kVhdxParentLocator, 0, static_cast<uint16_t>(pairs.size())});
  for (const auto& [key, value] : pairs) {
    const std::vector<uint8_t> key_text = ToUtf16(key), value_text = ToUtf16(value);
    const auto at = static_cast<uint32_t>(texts_at + texts.size());
    Append(table,
           vhdx::ParentLocatorEntry{at, static_cast<uint32_t>(at + key_text.size()),
                                    static_cast<uint16_t>(key_text.size()), static_cast<uint16_t>(value_text.size())});
    texts.insert(texts.end(), key_text.begin(), key_text.end());
    texts.insert(texts.end(), value_text.begin(), value_text.end());
  }
  table.insert(table.end(), texts.begin(), texts.end());
  return table;
}

absl::Status CreateVhdx(ImageFile& file, const ImageCreateOptions& options, const ParentOfNew* parent) {
  const auto invalid = [](auto... what) { return absl::InvalidArgumentError(absl::StrCat(what...)); };
  const uint32_t block = options.block_bytes;
  if (block < vhdx::kMinBlockBytes || block > vhdx::kMaxBlockBytes || (block & (block - 1)) != 0) {
    return invalid("blocks of ", block, " bytes: VHDX has powers of two from 1 to 256 MiB");
  }
  for (const uint32_t sector : {options.logical_sector_bytes, options.physical_sector_bytes}) {
    if (sector != 512 && sector != 4096) return invalid("sectors of ", sector, " bytes: VHDX has 512 and 4096");
  }
  if (options.disk_bytes == 0 || options.disk_bytes > vhdx::kMaxDiskBytes ||
      options.disk_bytes % options.logical_sector_bytes != 0) {
    return invalid("a disk of ", options.disk_bytes, " bytes: VHDX has whole sectors up to 64 TiB");
  }
  if (parent != nullptr && options.is_fixed) return invalid("a fixed image has no parent");
  vhdx::Geometry geometry;
  geometry.disk_bytes = options.disk_bytes;
  geometry.block_bytes = block;
  geometry.logical_sector_bytes = options.logical_sector_bytes;
  geometry.has_parent = parent != nullptr;
  const uint64_t bat_bytes = (geometry.entry_count() * 8 + kMiB - 1) / kMiB * kMiB;
  const uint64_t first_block = kBatOffset + bat_bytes;
  const uint64_t end = first_block + (options.is_fixed ? geometry.block_count() * block : 0);
  RETURN_IF_ERROR(ToStatus(file.Resize(end), "its room"));
  vhdx::Header header{};
  header.signature = vhdx::kHeaderSignature;
  header.file_write_guid = NewGuid();
  header.data_write_guid = NewGuid();
  header.version = 1;
  header.log_length = kLogBytes;
  header.log_offset = kLogOffset;
  for (const uint64_t offset : vhdx::kHeaderOffsets) {
    ++header.sequence_number;
    RETURN_IF_ERROR(ToStatus(Write(file, offset, vhdx::EncodeHeader(header)), "its header"));
  }
  const std::vector<uint8_t> regions =
      vhdx::EncodeRegionTable(kBatOffset, static_cast<uint32_t>(bat_bytes), kMetadataOffset, kMetadataBytes);
  for (const uint64_t offset : vhdx::kRegionTableOffsets) {
    RETURN_IF_ERROR(ToStatus(Write(file, offset, regions), "its region table"));
  }
  RETURN_IF_ERROR(ToStatus(Write(file, kMetadataOffset, EncodeMetadata(options, parent)), "its metadata"));
  if (options.is_fixed) RETURN_IF_ERROR(ToStatus(WriteFixedTable(file, geometry, first_block), "its table"));
  RETURN_IF_ERROR(ToStatus(Flush(file), "its file"));
  // Last of all what makes it an image.
  std::vector<uint8_t> identifier(8 + 512);
  std::memcpy(identifier.data(), vhdx::kFileSignature, sizeof(vhdx::kFileSignature));
  const std::vector<uint8_t> creator = ToUtf16("hvsdk");
  std::copy(creator.begin(), creator.end(), identifier.begin() + 8);
  RETURN_IF_ERROR(ToStatus(Write(file, 0, identifier), "its identifier"));
  return ToStatus(Flush(file), "its file");
}

}  // namespace hvsdk::internal

// SPDX-License-Identifier: Apache-2.0
// Channel messages as text: one table says what fields a message has, and both directions follow it.

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/guid_text.h"
#include "base/status_macros.h"
#include "hvsdk/hvdef/vmbus.h"
#include "hvsdk/vmbus/transcript.h"
#include "vmbus/text_fields.h"

namespace hvsdk::vmbus {

namespace wire = hvdef::vmbus;
using wire::MessageType;

namespace {

enum class Kind : uint8_t { kDecimal, kHex, kVersion, kGuid, kBytes };

struct FieldInfo {
  const char* name;
  uint8_t offset;
  uint8_t size;  // 0: no more fields
  Kind kind;
  bool optional = false;  // not written when zero
};

struct MessageInfo {
  MessageType type;
  const char* name;
  uint8_t size;
  bool words_follow;  // 64-bit words behind the fixed part
  FieldInfo fields[12];
};

#define FIELD(type, member, kind) \
  { #member, offsetof(wire::type, member), sizeof(wire::type::member), Kind::kind }
#define RARE(type, member, kind) \
  { #member, offsetof(wire::type, member), sizeof(wire::type::member), Kind::kind, true }
#define CHANNEL_ID(type) \
  { "channel", offsetof(wire::type, channel_id), 4, Kind::kDecimal }
#define GPADL_ID(type, member) \
  { "gpadl", offsetof(wire::type, member), 4, Kind::kHex }

constexpr MessageInfo kMessages[] = {
    {MessageType::kOfferChannel,
     "offer-channel",
     sizeof(wire::OfferChannel),
     false,
     {CHANNEL_ID(OfferChannel),
      {"class", offsetof(wire::OfferChannel, class_id), 16, Kind::kGuid},
      {"instance", offsetof(wire::OfferChannel, instance_id), 16, Kind::kGuid},
      FIELD(OfferChannel, connection_id, kHex),
      RARE(OfferChannel, flags, kHex),
      RARE(OfferChannel, subchannel_index, kDecimal),
      RARE(OfferChannel, mmio_megabytes, kDecimal),
      RARE(OfferChannel, mmio_megabytes_optional, kDecimal),
      RARE(OfferChannel, user_defined, kBytes),
      FIELD(OfferChannel, monitor_id, kHex),
      RARE(OfferChannel, monitor_allocated, kHex),
      FIELD(OfferChannel, is_dedicated_interrupt, kHex)}},
    {MessageType::kRescindOffer, "rescind-offer", sizeof(wire::ChannelMessage), false, {CHANNEL_ID(ChannelMessage)}},
    {MessageType::kRequestOffers, "request-offers", sizeof(wire::EmptyMessage), false, {}},
    {MessageType::kAllOffersDelivered, "all-offers-delivered", sizeof(wire::EmptyMessage), false, {}},
    {MessageType::kOpenChannel,
     "open-channel",
     sizeof(wire::OpenChannel),
     false,
     {CHANNEL_ID(OpenChannel),
      FIELD(OpenChannel, open_id, kDecimal),
      GPADL_ID(OpenChannel, ring_gpadl_id),
      {"downstream", offsetof(wire::OpenChannel, downstream_page_offset), 4, Kind::kDecimal},
      FIELD(OpenChannel, target_vp, kDecimal),
      RARE(OpenChannel, user_data, kBytes)}},
    {MessageType::kOpenResult,
     "open-result",
     sizeof(wire::OpenResult),
     false,
     {CHANNEL_ID(OpenResult), FIELD(OpenResult, open_id, kDecimal), FIELD(OpenResult, status, kHex)}},
    {MessageType::kCloseChannel, "close-channel", sizeof(wire::ChannelMessage), false, {CHANNEL_ID(ChannelMessage)}},
    {MessageType::kGpadlHeader,
     "gpadl-header",
     sizeof(wire::GpadlHeader),
     true,
     {CHANNEL_ID(GpadlHeader),
      GPADL_ID(GpadlHeader, gpadl_id),
      {"bytes", offsetof(wire::GpadlHeader, range_buffer_bytes), 2, Kind::kDecimal},
      {"ranges", offsetof(wire::GpadlHeader, range_count), 2, Kind::kDecimal}}},
    {MessageType::kGpadlBody,
     "gpadl-body",
     sizeof(wire::GpadlBody),
     true,
     {GPADL_ID(GpadlBody, gpadl_id), RARE(GpadlBody, message_number, kDecimal)}},
    {MessageType::kGpadlCreated,
     "gpadl-created",
     sizeof(wire::GpadlCreated),
     false,
     {CHANNEL_ID(GpadlCreated), GPADL_ID(GpadlCreated, gpadl_id), FIELD(GpadlCreated, status, kHex)}},
    {MessageType::kGpadlTeardown,
     "gpadl-teardown",
     sizeof(wire::GpadlTeardown),
     false,
     {CHANNEL_ID(GpadlTeardown), GPADL_ID(GpadlTeardown, gpadl_id)}},
    {MessageType::kGpadlTorndown,
     "gpadl-torndown",
     sizeof(wire::GpadlTorndown),
     false,
     {GPADL_ID(GpadlTorndown, gpadl_id)}},
    {MessageType::kRelidReleased, "relid-released", sizeof(wire::ChannelMessage), false, {CHANNEL_ID(ChannelMessage)}},
    {MessageType::kInitiateContact,
     "initiate-contact",
     sizeof(wire::InitiateContact),
     false,
     {FIELD(InitiateContact, version, kVersion),
      {"target_vp", offsetof(wire::InitiateContact, target_message_vp), 4, Kind::kDecimal},
      {"target", offsetof(wire::InitiateContact, interrupt_page_or_target), 8, Kind::kHex},
      RARE(InitiateContact, parent_to_child_monitor_page, kHex),
      RARE(InitiateContact, child_to_parent_monitor_page, kHex)}},
    {MessageType::kVersionResponse,
     "version-response",
     sizeof(wire::VersionResponse),
     false,
     {{"supported", offsetof(wire::VersionResponse, version_supported), 1, Kind::kDecimal},
      {"state", offsetof(wire::VersionResponse, connection_state), 1, Kind::kDecimal},
      {"connection", offsetof(wire::VersionResponse, message_connection_id), 4, Kind::kHex}}},
    {MessageType::kUnload, "unload", sizeof(wire::EmptyMessage), false, {}},
    {MessageType::kUnloadResponse, "unload-response", sizeof(wire::EmptyMessage), false, {}},
    {MessageType::kOpenReservedChannel,
     "open-reserved-channel",
     sizeof(wire::OpenReservedChannel),
     false,
     {CHANNEL_ID(OpenReservedChannel),
      FIELD(OpenReservedChannel, target_vp, kDecimal),
      FIELD(OpenReservedChannel, target_sint, kDecimal),
      GPADL_ID(OpenReservedChannel, ring_gpadl_id),
      {"downstream", offsetof(wire::OpenReservedChannel, downstream_page_offset), 4, Kind::kDecimal}}},
    {MessageType::kCloseReservedChannel,
     "close-reserved-channel",
     sizeof(wire::CloseReservedChannel),
     false,
     {CHANNEL_ID(CloseReservedChannel), FIELD(CloseReservedChannel, target_vp, kDecimal),
      FIELD(CloseReservedChannel, target_sint, kDecimal)}},
    {MessageType::kCloseReservedResponse,
     "close-reserved-response",
     sizeof(wire::ChannelMessage),
     false,
     {CHANNEL_ID(ChannelMessage)}},
    {MessageType::kTlConnectRequest,
     "tl-connect-request",
     sizeof(wire::TlConnectRequest),
     false,
     {{"endpoint", offsetof(wire::TlConnectRequest, endpoint_id), 16, Kind::kGuid},
      {"service", offsetof(wire::TlConnectRequest, service_id), 16, Kind::kGuid}}},
    {MessageType::kModifyChannel,
     "modify-channel",
     sizeof(wire::ModifyChannel),
     false,
     {CHANNEL_ID(ModifyChannel), FIELD(ModifyChannel, target_vp, kDecimal)}},
    {MessageType::kTlConnectResult,
     "tl-connect-result",
     sizeof(wire::TlConnectResult),
     false,
     {{"endpoint", offsetof(wire::TlConnectResult, endpoint_id), 16, Kind::kGuid},
      {"service", offsetof(wire::TlConnectResult, service_id), 16, Kind::kGuid},
      FIELD(TlConnectResult, status, kHex)}},
    {MessageType::kModifyChannelResponse,
     "modify-channel-response",
     sizeof(wire::ModifyChannelResponse),
     false,
     {CHANNEL_ID(ModifyChannelResponse), FIELD(ModifyChannelResponse, status, kHex)}},
};

#undef FIELD
#undef RARE
#undef CHANNEL_ID
#undef GPADL_ID

uint64_t LoadNumber(const uint8_t* bytes, size_t size) {
  uint64_t value = 0;
  std::memcpy(&value, bytes, size);
  return value;
}

bool IsZero(absl::Span<const uint8_t> bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
}

std::string FormatField(const FieldInfo& field, absl::Span<const uint8_t> bytes) {
  switch (field.kind) {
    case Kind::kDecimal:
      return absl::StrCat(LoadNumber(bytes.data(), field.size));
    case Kind::kHex:
      return absl::StrFormat("0x%x", LoadNumber(bytes.data(), field.size));
    case Kind::kVersion: {
      const uint64_t version = LoadNumber(bytes.data(), field.size);
      return absl::StrCat(version >> 16, ".", version & 0xFFFF);
    }
    case Kind::kGuid: {
      hvdef::Guid guid;
      std::memcpy(&guid, bytes.data(), sizeof(guid));
      return GuidText(guid);
    }
    case Kind::kBytes:
      return internal::FormatHexTrimmed(bytes);
  }
  return "";
}

absl::Status ParseField(const FieldInfo& field, internal::TextFields& fields, uint8_t* to) {
  switch (field.kind) {
    case Kind::kDecimal:
    case Kind::kHex: {
      const uint64_t max = field.size == 8 ? ~uint64_t{0} : (uint64_t{1} << field.size * 8) - 1;
      ASSIGN_OR_RETURN(const uint64_t value, fields.Number(field.name, max));
      std::memcpy(to, &value, field.size);
      return absl::OkStatus();
    }
    case Kind::kVersion: {
      const absl::string_view text = fields.Text(field.name);
      const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits('.', 1));
      uint32_t major = 0;
      uint32_t minor = 0;
      if (!absl::SimpleAtoi(parts.first, &major) || !absl::SimpleAtoi(parts.second, &minor) || major > 0xFFFF ||
          minor > 0xFFFF) {
        return absl::InvalidArgumentError(absl::StrCat("bad version \"", text, "\""));
      }
      const uint32_t version = major << 16 | minor;
      std::memcpy(to, &version, sizeof(version));
      return absl::OkStatus();
    }
    case Kind::kGuid: {
      ASSIGN_OR_RETURN(const hvdef::Guid guid, fields.Guid(field.name));
      std::memcpy(to, &guid, sizeof(guid));
      return absl::OkStatus();
    }
    case Kind::kBytes: {
      ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes, fields.Bytes(field.name));
      if (bytes.size() > field.size) return absl::InvalidArgumentError(absl::StrCat("too many bytes in ", field.name));
      std::copy(bytes.begin(), bytes.end(), to);
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

std::string FormatKnown(const MessageInfo& info, absl::Span<const uint8_t> message) {
  std::string text = info.name;
  for (const FieldInfo& field : info.fields) {
    if (field.size == 0) break;
    const auto bytes = message.subspan(field.offset, field.size);
    if (field.optional && IsZero(bytes)) continue;
    absl::StrAppend(&text, " ", field.name, "=", FormatField(field, bytes));
  }
  if (message.size() > info.size) {
    absl::StrAppend(&text, " words=");
    for (size_t at = info.size; at < message.size(); at += sizeof(uint64_t)) {
      absl::StrAppend(&text, at == info.size ? "" : ",", absl::StrFormat("0x%x", LoadNumber(&message[at], 8)));
    }
  }
  return text;
}

absl::StatusOr<std::vector<uint8_t>> ParseKnown(const MessageInfo& info, internal::TextFields fields) {
  std::vector<uint8_t> message(info.size);
  const auto type = static_cast<uint32_t>(info.type);
  std::memcpy(message.data(), &type, sizeof(type));
  for (const FieldInfo& field : info.fields) {
    if (field.size == 0) break;
    RETURN_IF_ERROR(ParseField(field, fields, &message[field.offset]));
  }
  if (info.words_follow) {
    for (const absl::string_view word : absl::StrSplit(fields.Text("words"), ',', absl::SkipEmpty())) {
      uint64_t value = 0;
      const bool good =
          absl::StartsWith(word, "0x") ? absl::SimpleHexAtoi(word.substr(2), &value) : absl::SimpleAtoi(word, &value);
      if (!good) return absl::InvalidArgumentError(absl::StrCat("bad number in words: ", word));
      message.resize(message.size() + sizeof(value));
      std::memcpy(&message[message.size() - sizeof(value)], &value, sizeof(value));
    }
  }
  RETURN_IF_ERROR(fields.CheckAllTaken());
  if (message.size() > wire::kMaxMessageSize) return absl::InvalidArgumentError("a message has at most 240 bytes");
  return message;
}

}  // namespace

std::string FormatMessage(absl::Span<const uint8_t> message) {
  wire::ChannelMessageHeader header = {};
  if (message.size() >= sizeof(header)) {
    std::memcpy(&header, message.data(), sizeof(header));
    for (const MessageInfo& info : kMessages) {
      if (info.type != static_cast<MessageType>(header.message_type)) continue;
      const bool right_size = info.words_follow
                                  ? message.size() >= info.size && (message.size() - info.size) % sizeof(uint64_t) == 0
                                  : message.size() == info.size;
      if (!right_size) break;
      // Only what the fields say in full is written with fields.
      std::string text = FormatKnown(info, message);
      const auto back = ParseMessage(text);
      if (back.ok() && absl::MakeConstSpan(*back) == message) return text;
      break;
    }
  }
  return absl::StrCat("raw ", internal::FormatHex(message));
}

absl::StatusOr<std::vector<uint8_t>> ParseMessage(absl::string_view text) {
  ASSIGN_OR_RETURN(internal::TextFields fields, internal::TextFields::Parse(text));
  if (fields.name() == "raw") {
    ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, internal::ParseHex(fields.rest()));
    if (bytes.size() > wire::kMaxMessageSize) return absl::InvalidArgumentError("a message has at most 240 bytes");
    return bytes;
  }
  for (const MessageInfo& info : kMessages) {
    if (fields.name() == info.name) return ParseKnown(info, std::move(fields));
  }
  return absl::InvalidArgumentError(absl::StrCat("no message \"", fields.name(), "\""));
}

}  // namespace hvsdk::vmbus

// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "hvsdk/network/user_port.h"

namespace hvsdk::network {
namespace {

bool ParseNumber(absl::string_view text, uint32_t most, uint32_t& number) {
  return !text.empty() && text.size() <= 5 && text.find_first_not_of("0123456789") == text.npos &&
         absl::SimpleAtoi(text, &number) && number <= most;
}

absl::Status ParseEnd(absl::string_view text, uint32_t& address, uint16_t& port) {
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  if (text.find(':') == text.npos) return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" has no port"));
  if (!parts.first.empty()) {
    ASSIGN_OR_RETURN(address, ParseIp4(parts.first));
  }
  uint32_t number = 0;
  if (!ParseNumber(parts.second, 65535, number) || number == 0) {
    return absl::InvalidArgumentError(absl::StrCat("\"", parts.second, "\" is not a port, 1 to 65535"));
  }
  port = static_cast<uint16_t>(number);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<uint32_t> ParseIp4(absl::string_view text) {
  uint32_t address = 0;
  int bytes = 0;
  for (const absl::string_view part : absl::StrSplit(text, '.')) {
    uint32_t number = 0;
    if (++bytes > 4 || !ParseNumber(part, 255, number)) break;
    address = address << 8 | number;
    if (bytes == 4 && text.size() == static_cast<size_t>(part.data() + part.size() - text.data())) return address;
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not an IPv4 address"));
}

absl::StatusOr<HostForward> ParseHostForward(absl::string_view text) {
  HostForward forward;
  const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(text, absl::MaxSplits(':', 1));
  if (parts.first != "tcp" && parts.first != "udp") {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", text, "\" is not of the form tcp:127.0.0.1:2222-:22, or with udp"));
  }
  forward.udp = parts.first == "udp";
  const size_t dash = parts.second.find('-');
  if (dash == absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" has no guest's end, as in tcp:127.0.0.1:2222-:22"));
  }
  RETURN_IF_ERROR(ParseEnd(parts.second.substr(0, dash), forward.host_address, forward.host_port));
  RETURN_IF_ERROR(ParseEnd(parts.second.substr(dash + 1), forward.guest_address, forward.guest_port));
  return forward;
}

}  // namespace hvsdk::network

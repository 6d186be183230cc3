// SPDX-License-Identifier: Apache-2.0
#include "os/linux/local_address.h"

#include <arpa/inet.h>

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "os/linux/unix_socket.h"

namespace hvsdk::os {

absl::StatusOr<LocalAddress> ParseLocalAddress(absl::string_view text, bool is_guarded) {
  constexpr absl::string_view kUnix = "unix:";
  LocalAddress address;
  if (text.substr(0, kUnix.size()) == kUnix) {
    address.path = std::string(text.substr(kUnix.size()));
    if (address.path.find('\0') != address.path.npos) return absl::InvalidArgumentError("the path has a zero byte");
    if (const auto path = UnixAddressOf(address.path); !path.ok()) return path.status();
    return address;
  }
  const size_t colon = text.rfind(':');
  const std::string port_text(colon == text.npos ? "" : text.substr(colon + 1));
  uint32_t port = 0;
  if (port_text.empty() || port_text.size() > 5 || port_text.find_first_not_of("0123456789") != port_text.npos ||
      !absl::SimpleAtoi(port_text, &port) || port > 0xFFFF) {
    return absl::InvalidArgumentError(
        absl::StrFormat("\"%s\" is neither ADDRESS:PORT, such as 127.0.0.1:8000, nor unix:PATH", absl::CEscape(text)));
  }
  std::string host(text.substr(0, colon));
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  if (host == "localhost") host = "127.0.0.1";
  sockaddr_in four{};
  sockaddr_in6 six{};
  if (inet_pton(AF_INET, host.c_str(), &four.sin_addr) == 1 &&
      (is_guarded || ntohl(four.sin_addr.s_addr) >> 24 == IN_LOOPBACKNET)) {
    four.sin_family = AF_INET;
    four.sin_port = htons(static_cast<uint16_t>(port));
    std::memcpy(&address.internet, &four, sizeof(four));
    address.size = sizeof(four);
    return address;
  }
  if (inet_pton(AF_INET6, host.c_str(), &six.sin6_addr) == 1 && (is_guarded || IN6_IS_ADDR_LOOPBACK(&six.sin6_addr))) {
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(static_cast<uint16_t>(port));
    std::memcpy(&address.internet, &six, sizeof(six));
    address.size = sizeof(six);
    return address;
  }
  return absl::InvalidArgumentError(
      is_guarded
          ? absl::StrFormat("\"%s\" is no address of IPv4 or IPv6", absl::CEscape(host))
          : absl::StrFormat(
                "\"%s\" is no address of this host's loopback, as 127.0.0.1, [::1] and unix:PATH are, which ssh -L "
                "reaches from elsewhere",
                absl::CEscape(host)));
}

std::string TextOf(const LocalAddress& address) {
  if (!address.path.empty()) return absl::StrCat("unix:", address.path);
  const sockaddr_storage& internet = address.internet;
  char host[INET6_ADDRSTRLEN] = "";
  if (internet.ss_family == AF_INET) {
    sockaddr_in four;
    std::memcpy(&four, &internet, sizeof(four));
    inet_ntop(AF_INET, &four.sin_addr, host, sizeof(host));
    return absl::StrCat(host, ":", ntohs(four.sin_port));
  }
  sockaddr_in6 six;
  std::memcpy(&six, &internet, sizeof(six));
  inet_ntop(AF_INET6, &six.sin6_addr, host, sizeof(host));
  return absl::StrCat("[", host, "]:", ntohs(six.sin6_port));
}

}  // namespace hvsdk::os

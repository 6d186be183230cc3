// SPDX-License-Identifier: Apache-2.0
#include "ctl_guest.h"

#include <algorithm>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace mini_vmm {

using hvsdk::vmm::CopyFileRequest;
using hvsdk::vmm::KeyValueRequest;
using hvsdk::vmm::SnapshotRequest;

namespace {

struct Subcommand {
  absl::string_view name;
  KeyValueRequest::Operation operation;
  size_t least, most;  // words
};

constexpr Subcommand kSubcommands[] = {
    {"list", KeyValueRequest::LIST, 0, 0},
    {"get", KeyValueRequest::GET, 1, 1},
    {"set", KeyValueRequest::SET, 2, 2},
    {"delete", KeyValueRequest::DELETE, 1, 1},
    {"addresses", KeyValueRequest::ADDRESSES, 0, 1},
    {"set-addresses", KeyValueRequest::SET_ADDRESSES, 2, 64},
};

}  // namespace

absl::Status Unexpected(absl::string_view word, absl::string_view arguments) {
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::CHexEscape(word), "\" is not expected; it takes ", arguments));
}

absl::Status ParseKvp(absl::Span<const std::string> words, KeyValueRequest& request, bool& json) {
  const Subcommand* const found = words.empty()
                                      ? std::end(kSubcommands)
                                      : std::find_if(std::begin(kSubcommands), std::end(kSubcommands),
                                                     [&](const Subcommand& each) { return each.name == words[0]; });
  if (found == std::end(kSubcommands)) return absl::InvalidArgumentError(absl::StrCat("it takes ", kKvpArguments));
  request.set_operation(found->operation);
  const bool sets_addresses = found->operation == KeyValueRequest::SET_ADDRESSES;
  const bool is_of_adapter = sets_addresses || found->operation == KeyValueRequest::ADDRESSES;
  std::vector<std::string> values;
  bool only_values = false;  // "--" ends the options, for a key or value that looks like one
  for (const std::string& word : words.subspan(1)) {
    if (!only_values && word == "--") {
      only_values = true;
    } else if (!only_values && word == "--json") {
      json = true;
    } else if (!only_values && absl::StartsWith(word, "--pool=") && word.size() > 7 && request.pool().empty() &&
               !is_of_adapter) {
      request.set_pool(word.substr(7));
    } else if (!only_values && sets_addresses && absl::StartsWith(word, "--gateway=")) {
      request.mutable_addresses()->add_gateways(word.substr(10));
    } else if (!only_values && sets_addresses && absl::StartsWith(word, "--name-server=")) {
      request.mutable_addresses()->add_name_servers(word.substr(14));
    } else if ((!only_values && absl::StartsWith(word, "--")) || values.size() == found->most) {
      return Unexpected(word, kKvpArguments);
    } else {
      values.push_back(word);
    }
  }
  if (sets_addresses && values.size() < found->least) {
    return absl::InvalidArgumentError("set-addresses: an adapter is needed, and its addresses or dhcp");
  }
  if (values.size() < found->least) {
    return absl::InvalidArgumentError(
        absl::StrCat(found->name, ": a key", found->least == 2 ? " and a value are" : " is", " needed"));
  }
  if (is_of_adapter) {
    if (!values.empty()) request.set_adapter(values[0]);
    if (!sets_addresses) return absl::OkStatus();
    hvsdk::vmm::AdapterAddresses& addresses = *request.mutable_addresses();
    addresses.set_dhcp(values[1] == "dhcp");
    for (size_t i = addresses.dhcp() ? 2 : 1; i < values.size(); ++i) addresses.add_addresses(values[i]);
    // What else is wrong with them, the machine says.
    for (const auto* const list : {&addresses.addresses(), &addresses.gateways(), &addresses.name_servers()}) {
      for (const std::string& address : *list) {
        if (absl::c_all_of(address, absl::ascii_isprint)) continue;
        return absl::InvalidArgumentError(
            absl::StrCat("set-addresses: \"", absl::CHexEscape(address), "\" is no address"));
      }
    }
    return absl::OkStatus();
  }
  if (!values.empty()) request.set_key(values[0]);
  if (values.size() > 1) request.set_value(values[1]);
  return absl::OkStatus();
}

absl::Status ParseCopy(absl::Span<const std::string> words, CopyFileRequest& request) {
  for (const std::string& word : words) {
    if (word == "--overwrite") {
      request.set_overwrite(true);
    } else if (word == "--create-path") {
      request.set_create_path(true);
    } else if (word.empty() || absl::StartsWith(word, "--") || !request.guest_path().empty()) {
      return Unexpected(word, kCopyArguments);
    } else if (request.source().empty()) {
      request.set_source(word);
    } else {
      request.set_guest_path(word);
    }
  }
  if (request.guest_path().empty()) return absl::InvalidArgumentError("a file and a path in the guest are needed");
  // Into a directory, under the name that it has here.
  const char last = request.guest_path().back();
  if (last == '/' || last == '\\') {
    const std::string& source = request.source();
    request.set_guest_path(absl::StrCat(request.guest_path(), source.substr(source.rfind('/') + 1)));
  }
  return absl::OkStatus();
}

absl::Status ParseSnapshot(absl::Span<const std::string> words, SnapshotRequest& request, bool& json) {
  for (const std::string& word : words) {
    uint32_t seconds = 0;
    if (word == "--crash-consistent" && request.freeze_seconds() == 0) {
      request.set_crash_consistent(true);
    } else if (word == "--json") {
      json = true;
    } else if (absl::StartsWith(word, "--freeze-within=") && !request.crash_consistent()) {
      const absl::string_view number = absl::string_view(word).substr(16);
      if (!absl::SimpleAtoi(number, &seconds) || seconds == 0 || seconds > 900) {
        return absl::InvalidArgumentError(
            absl::StrCat("--freeze-within: \"", absl::CHexEscape(number), "\" is no number of seconds from 1 to 900"));
      }
      request.set_freeze_seconds(seconds);
    } else if (word.empty() || word[0] == '-' || !request.directory().empty()) {
      return Unexpected(word, kSnapshotArguments);
    } else {
      request.set_directory(word);
    }
  }
  if (request.directory().empty()) return absl::InvalidArgumentError("a directory is needed");
  return absl::OkStatus();
}

// A guest's text: no control characters, those of 0x80 to 0x9F included, and none that turn the direction of writing.
std::string ForTerminal(absl::string_view text) {
  std::string escaped = absl::Utf8SafeCEscape(text), shown;
  for (size_t at = 0; at < escaped.size();) {
    const auto byte = [&](size_t i) { return at + i < escaped.size() ? static_cast<uint8_t>(escaped[at + i]) : 0u; };
    uint32_t character = 0;
    size_t size = 1;
    if (byte(0) == 0xC2) {
      character = byte(1);
      size = 2;
    } else if (byte(0) == 0xE2 && (byte(1) == 0x80 || byte(1) == 0x81)) {
      character = 0x2000 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
      size = 3;
    }
    const bool is_control = (character >= 0x80 && character < 0xA0) || character == 0x200E || character == 0x200F ||
                            (character >= 0x2028 && character <= 0x202E) ||
                            (character >= 0x2066 && character <= 0x2069);
    if (is_control) {
      absl::StrAppendFormat(&shown, "\\u%04x", character);
    } else {
      shown += escaped.substr(at, size);
    }
    at += size;
  }
  return shown;
}

void PrintKeyValues(const KeyValueRequest& request, const hvsdk::vmm::KeyValues& values) {
  for (const hvsdk::vmm::KeyValue& pair : values.pairs()) {
    const std::string value = ForTerminal(pair.value());
    if (request.operation() == KeyValueRequest::GET) {
      absl::PrintF("%s\n", value);
    } else {
      absl::PrintF("%-14s %s = %s\n", pair.pool(), ForTerminal(pair.key()), value);
    }
  }
  for (const hvsdk::vmm::AdapterAddresses& adapter : values.adapters()) {
    const auto print = [](absl::string_view what, const auto& list) {
      if (list.empty()) return;
      absl::PrintF("  %-13s%s\n", what, ForTerminal(absl::StrJoin(list, " ")));
    };
    absl::PrintF("%s%s\n", ForTerminal(adapter.adapter()), adapter.dhcp() ? ", by DHCP" : "");
    print("addresses", adapter.addresses());
    print("subnets", adapter.subnets());
    print("gateways", adapter.gateways());
    print("name servers", adapter.name_servers());
  }
}

void PrintSnapshot(const hvsdk::vmm::SnapshotResult& result) {
  for (const hvsdk::vmm::DiskSnapshot& disk : result.disks()) {
    absl::PrintF("%-10s %s is kept; what is written goes to %s\n", disk.device(), absl::CHexEscape(disk.snapshot()),
                 absl::CHexEscape(disk.path()));
  }
  const auto seconds = [](uint64_t ns) { return static_cast<double>(ns) / 1e9; };
  absl::PrintF("the guest stood still for %.3f s", seconds(result.stood_still_ns()));
  if (result.frozen_ns() == 0) {
    absl::PrintF(", and its file systems are as after a loss of power\n");
  } else {
    absl::PrintF(", and its file systems for %.3f s\n", seconds(result.frozen_ns()));
  }
}

}  // namespace mini_vmm

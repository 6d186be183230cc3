// SPDX-License-Identifier: Apache-2.0
#include "ctl_machine.h"

#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "ctl_guest.h"
#include "flags.h"
#include "hvsdk/vmm/config.h"
#include "paths.h"

namespace mini_vmm {

using absl::InvalidArgumentError;
using hvsdk::vmm::ControlRequest;
using hvsdk::vmm::ShutdownConfig;
using Words = absl::Span<const std::string>;

namespace {

// No option.
bool IsPlain(absl::string_view word) { return !word.empty() && word[0] != '-'; }

// "--base=DIR" with prefix "--base=".
bool TakeValue(absl::string_view word, absl::string_view prefix, std::string& value) {
  if (!absl::ConsumePrefix(&word, prefix) || word.empty() || !value.empty()) return false;
  value = std::string(word);
  return true;
}

// A word of those that are plain, each of which a command takes once, in their order.
bool TakePlain(absl::string_view word, std::string& value) {
  if (!IsPlain(word) || !value.empty()) return false;
  value = std::string(word);
  return true;
}

absl::Status Named(absl::string_view name, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(name, ": ", status.message()));
}

}  // namespace

absl::Status ParseNothing(Words words, absl::string_view arguments, Asked&) {
  return words.empty() ? absl::OkStatus() : Unexpected(words[0], arguments);
}

absl::Status ParseStatus(Words words, absl::string_view arguments, Asked& asked) {
  for (const std::string& word : words) {
    if (word == "--json") {
      asked.json = true;
    } else if (word == "--watch") {
      asked.watch = true;
    } else {
      return Unexpected(word, arguments);
    }
  }
  return absl::OkStatus();
}

absl::Status ParseStats(Words words, absl::string_view arguments, Asked& asked) {
  for (const std::string& word : words) {
    if (word == "--json" && !asked.prometheus) {
      asked.json = true;
    } else if (word == "--prometheus" && !asked.json) {
      asked.prometheus = true;
    } else {
      return Unexpected(word, arguments);
    }
  }
  return absl::OkStatus();
}

absl::Status ParseEvents(Words words, absl::string_view arguments, Asked& asked) {
  for (const std::string& word : words) {
    if (word != "--json") return Unexpected(word, arguments);
    asked.json = true;
  }
  return absl::OkStatus();
}

absl::Status ParseShutdown(Words words, absl::string_view arguments, Asked& asked) {
  hvsdk::vmm::ShutdownConfig& shutdown = *asked.request.mutable_shutdown();
  for (const std::string& word : words) {
    absl::string_view reason = word;
    if (word == "--force") {
      shutdown.set_force(true);
    } else if (word == "--restart" || word == "--hibernate") {
      if (shutdown.action() != ShutdownConfig::POWER_OFF) {
        return InvalidArgumentError("one of --restart and --hibernate, and once");
      }
      shutdown.set_action(word == "--restart" ? ShutdownConfig::RESTART : ShutdownConfig::HIBERNATE);
    } else if (absl::ConsumePrefix(&reason, "--reason=")) {
      shutdown.set_reason(std::string(reason));
    } else {
      return Unexpected(word, arguments);
    }
  }
  return absl::OkStatus();
}

absl::Status ParseBalloon(Words words, absl::string_view arguments, Asked& asked) {
  if (words.empty()) return InvalidArgumentError("a size is needed");
  if (words.size() > 1) return Unexpected(words[1], arguments);
  const absl::StatusOr<uint32_t> mib = hvsdk::vmm::ParseMemoryMib(words[0]);
  if (!mib.ok()) return mib.status();
  if (*mib == 0) return InvalidArgumentError("a guest needs memory");
  asked.request.set_memory_mib(*mib);
  return absl::OkStatus();
}

absl::Status ParseNmi(Words words, absl::string_view arguments, Asked& asked) {
  for (const std::string& word : words) {
    absl::string_view number = word;
    if (!absl::ConsumePrefix(&number, "--vp=")) return Unexpected(word, arguments);
    uint32_t vp = 0;
    if (number.empty() || !absl::c_all_of(number, absl::ascii_isdigit) || !absl::SimpleAtoi(number, &vp)) {
      return InvalidArgumentError(absl::StrCat("--vp: \"", absl::CHexEscape(number), "\" is no processor's number"));
    }
    asked.request.set_vp(vp);
  }
  return absl::OkStatus();
}

absl::Status ParseLosePage(Words words, absl::string_view arguments, Asked& asked) {
  if (words.empty()) return InvalidArgumentError("an address is needed");
  if (words.size() > 1) return Unexpected(words[1], arguments);
  absl::string_view digits = words[0];
  uint64_t gpa = 0;
  if (!absl::ConsumePrefix(&digits, "0x") || !absl::SimpleHexAtoi(digits, &gpa)) {
    return InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(words[0]), "\" is no address, as in 0x12345000"));
  }
  asked.request.set_gpa(gpa);
  return absl::OkStatus();
}

absl::Status ParseSave(Words words, absl::string_view arguments, Asked& asked) {
  ControlRequest& request = asked.request;
  std::string base, directory;
  for (const std::string& word : words) {
    if (word == "--live") {
      request.set_live(true);
    } else if (word == "--pause") {
      request.set_pause(true);
    } else if (!TakeValue(word, "--base=", base) && !TakePlain(word, directory)) {
      return Unexpected(word, arguments);
    }
  }
  if (request.pause() && !request.live()) return InvalidArgumentError("--pause is for --live");
  if (directory.empty()) return InvalidArgumentError("a directory is needed");
  request.set_base(Absolute(base));
  request.set_directory(Absolute(directory));
  return absl::OkStatus();
}

absl::Status ParseAttach(Words words, absl::string_view arguments, Asked& asked) {
  constexpr absl::string_view kNeeded = "--disk=PATH, --dvd= or --net=KIND is needed";
  if (words.empty()) return InvalidArgumentError(kNeeded);
  if (words.size() > 1) return Unexpected(words[1], arguments);
  absl::string_view text = words[0];
  if (absl::ConsumePrefix(&text, "--net=")) {
    absl::StatusOr<hvsdk::vmm::NetworkConfig> network = ParseNetwork(text);
    if (!network.ok()) return Named("--net", network.status());
    if (network->tap().fd_size() != 0 || network->socket().has_fd()) {
      return InvalidArgumentError("--net: fd: a descriptor is the machine's when it starts, or never");
    }
    MakeAbsolute(*network);
    *asked.request.mutable_network() = *std::move(network);
    return absl::OkStatus();
  }
  const bool is_disk = absl::ConsumePrefix(&text, "--disk=");
  if (!is_disk && !absl::ConsumePrefix(&text, "--dvd=")) return Unexpected(words[0], arguments);
  absl::StatusOr<hvsdk::vmm::DiskConfig> disk = is_disk ? ParseDisk(text) : ParseDvd(text);
  if (!disk.ok()) return Named(is_disk ? "--disk" : "--dvd", disk.status());
  if (is_disk && disk->path().empty()) return InvalidArgumentError("--disk: a path is needed");
  disk->set_path(Absolute(disk->path()));
  *asked.request.mutable_disk() = *std::move(disk);
  return absl::OkStatus();
}

absl::Status ParseDetach(Words words, absl::string_view arguments, Asked& asked) {
  for (const std::string& word : words) {
    if (!TakePlain(word, *asked.request.mutable_device())) return Unexpected(word, arguments);
  }
  if (asked.request.device().empty()) {
    return InvalidArgumentError("storage/N, network/N or a name is needed; status lists them");
  }
  return absl::OkStatus();
}

absl::Status ParseInsert(Words words, absl::string_view arguments, Asked& asked) {
  std::string path;
  for (const std::string& word : words) {
    // A file may have any name.
    if (TakePlain(word, *asked.request.mutable_device())) continue;
    if (asked.request.device().empty() || word.empty() || !path.empty()) return Unexpected(word, arguments);
    path = word;
  }
  if (path.empty()) return InvalidArgumentError("a drive and an ISO file are needed");
  asked.request.set_path(Absolute(path));
  return absl::OkStatus();
}

absl::Status ParseEject(Words words, absl::string_view arguments, Asked& asked) {
  for (const std::string& word : words) {
    if (word == "--force") {
      asked.request.set_force(true);
    } else if (!TakePlain(word, *asked.request.mutable_device())) {
      return Unexpected(word, arguments);
    }
  }
  if (asked.request.device().empty()) return InvalidArgumentError("a drive is needed");
  return absl::OkStatus();
}

absl::Status ParseTrace(Words words, absl::string_view arguments, Asked& asked) {
  std::string device, action, path;
  for (const std::string& word : words) {
    if (!TakeValue(word, "--device=", device) && !TakePlain(word, action) && !TakePlain(word, path)) {
      return Unexpected(word, arguments);
    }
  }
  asked.request.set_device(device);
  if (action == "on" && !path.empty()) {
    asked.request.set_path(Absolute(path));
  } else if (action == "off" && path.empty()) {
    asked.request.set_command(hvsdk::vmm::TRACE_OFF);
  } else {
    return InvalidArgumentError("it takes on FILE, or off, and --device");
  }
  return absl::OkStatus();
}

absl::Status ParseFile(Words words, absl::string_view arguments, Asked& asked) {
  std::string path;
  for (const std::string& word : words) {
    if (!TakePlain(word, path)) return Unexpected(word, arguments);
  }
  if (path.empty()) return InvalidArgumentError("a file is needed");
  asked.request.set_path(Absolute(path));
  return absl::OkStatus();
}

absl::Status ParseRecord(Words words, absl::string_view arguments, Asked& asked) {
  if (words.empty()) return InvalidArgumentError("a file, or --end, is needed");
  if (words[0] != "--end") return ParseFile(words, arguments, asked);
  return ParseNothing(words.subspan(1), arguments, asked);
}

}  // namespace mini_vmm

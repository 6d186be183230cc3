// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/config.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "hvsdk/boot/memory_layout.h"
#include "hvsdk/input/keyboard_layout.h"
#include "hvsdk/viewer/rfb_server.h"
#include "hvsdk/vmm/networks.h"
#include "hvsdk/vsp/video.h"
#include "hvsdk/web/web_server.h"
#include "vmm/text_fields.h"

namespace hvsdk::vmm {
namespace {

// Keeps the first error; the parser's later ones are consequences.
class FirstError final : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text.empty()) text = absl::StrFormat("%d:%d: %s", line + 1, column + 1, message);
  }
  std::string text;
};

// What the system would take for a shorter text, and so for another file.
absl::Status CheckNoZeroByte(absl::string_view field, const std::string& text) {
  if (text.find('\0') == std::string::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, ": contains a zero byte"));
}

// A device's name, of which `names` has those so far.
absl::Status CheckName(absl::string_view kind, const std::string& name, std::set<std::string>& names) {
  if (name.size() > 64 || !std::all_of(name.begin(), name.end(), absl::ascii_isgraph)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: name: \"%s\" is not 1 to 64 printable ASCII characters without spaces", kind, absl::CEscape(name)));
  }
  for (const auto& [number, device] : {std::pair("storage/", "disk"), std::pair("network/", "network adapter")}) {
    if (absl::StartsWith(name, number)) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: name: \"%s\" would be a %s's number", kind, name, device));
    }
  }
  if (!name.empty() && !names.insert(name).second) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: name: two are called \"%s\"", kind, name));
  }
  return absl::OkStatus();
}

absl::Status CheckMemoryMax(const MachineConfig& config, bool has_balloon) {
  const uint32_t max_mib = config.memory_max_mib();
  if (max_mib < MemoryMib(config)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory: max: %d MiB is less than the %d MiB of the machine", max_mib, MemoryMib(config)));
  }
  if (uint64_t{max_mib} << 20 > boot::kMaxMemoryBytes) {
    return absl::InvalidArgumentError(absl::StrFormat("memory: max: %d MiB is more than 4 TiB", max_mib));
  }
  if (config.deterministic()) {
    return absl::InvalidArgumentError("deterministic: needs a machine whose memory does not grow, without max");
  }
  if (has_balloon) return absl::OkStatus();
  return absl::InvalidArgumentError("memory: max: is for machines with the balloon among their integration components");
}

}  // namespace

absl::StatusOr<MachineConfig> ParseMachineConfig(const std::string& text) {
  FirstError error;
  google::protobuf::TextFormat::Parser parser;
  parser.RecordErrorsTo(&error);
  parser.SetRecursionLimit(16);
  MachineConfig config;
  if (!parser.ParseFromString(text, &config)) {
    return absl::InvalidArgumentError(error.text.empty() ? "not a machine configuration" : error.text);
  }
  return config;
}

absl::Status ValidateMachineConfig(const MachineConfig& config) {
  RETURN_IF_ERROR(CheckTextFields(config));
  if (config.kernel().empty()) return absl::InvalidArgumentError("kernel: a file is needed");
  const uint64_t memory_bytes = uint64_t{MemoryMib(config)} << 20;
  if (memory_bytes < boot::kMinMemoryBytes || memory_bytes > boot::kMaxMemoryBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("memory: %d MiB is not between 2 MiB and 4 TiB", MemoryMib(config)));
  }
  if (Cpus(config) < 1 || Cpus(config) > kMaxCpus) {
    return absl::InvalidArgumentError(absl::StrFormat("cpus: %d is not between 1 and %d", Cpus(config), kMaxCpus));
  }
  if (config.io_threads() > kMaxIoThreads) {
    return absl::InvalidArgumentError(
        absl::StrFormat("io-threads: %d is not between 0 and %d", config.io_threads(), kMaxIoThreads));
  }
  const std::string& backend = config.backend();
  if (!backend.empty() && backend != "auto" && backend != "kvm" && backend != "software") {
    return absl::InvalidArgumentError(absl::StrFormat("backend: \"%s\" is not auto, kvm or software", backend));
  }
  if (config.disks_size() > static_cast<int>(kMaxDisks)) {
    return absl::InvalidArgumentError(absl::StrFormat("disk: more than %d", kMaxDisks));
  }
  std::set<std::string> names;
  std::set<uint32_t> luns;
  for (const DiskConfig& disk : config.disks()) {
    RETURN_IF_ERROR(CheckName("disk", disk.name(), names));
    if (disk.has_lun() && (disk.lun() >= kMaxDisks || !luns.insert(disk.lun()).second)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("disk: lun: %d is not below 64, or another disk's", disk.lun()));
    }
    if (disk.dvd() && !disk.format().empty() && disk.format() != "raw") {
      return absl::InvalidArgumentError(
          absl::StrFormat("dvd: %s: format \"%s\": a DVD is raw", disk.path(), disk.format()));
    }
    if (disk.path().empty() && !disk.dvd()) return absl::InvalidArgumentError("disk: a path is needed");
    const std::string& format = disk.format();
    if (!format.empty() && format != "raw" && format != "vhd" && format != "vhdx") {
      return absl::InvalidArgumentError(
          absl::StrFormat("disk: %s: format \"%s\" is none of raw, vhd and vhdx", disk.path(), format));
    }
  }
  if (config.networks_size() > static_cast<int>(kMaxNetworks)) {
    return absl::InvalidArgumentError(absl::StrFormat("net: more than %d", kMaxNetworks));
  }
  std::set<std::string> macs;
  std::set<uint32_t> numbers;
  for (const NetworkConfig& network : config.networks()) {
    RETURN_IF_ERROR(CheckName("net", network.name(), names));
    if (network.has_number() && (network.number() >= kMaxNetworks || !numbers.insert(network.number()).second)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("net: number: %d is not below %d, or another adapter's", network.number(), kMaxNetworks));
    }
    if (absl::Status valid = ValidateNetwork(network); !valid.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("net: ", valid.message()));
    }
    if (!network.mac().empty() && !macs.insert(absl::AsciiStrToLower(network.mac())).second) {
      return absl::InvalidArgumentError(absl::StrFormat("net: mac: two adapters have %s", network.mac()));
    }
  }
  if (config.deterministic()) {
    if (config.networks_size() != 0)
      return absl::InvalidArgumentError("deterministic: needs a machine without networks");
    if (backend == "kvm") return absl::InvalidArgumentError("deterministic: needs the software engine");
    if (config.disks_size() != 0) return absl::InvalidArgumentError("deterministic: needs a machine without disks");
    if (config.has_sockets()) return absl::InvalidArgumentError("deterministic: needs a machine without sockets");
    if (config.io_threads() != 0) {
      return absl::InvalidArgumentError("deterministic: needs a machine without threads of I/O beside its own");
    }
  }
  const std::string& processor = config.processor();
  if (!processor.empty() && processor != "host" && processor != "portable") {
    return absl::InvalidArgumentError(absl::StrFormat("processor: \"%s\" is not host or portable", processor));
  }
  const std::string& on_crash = config.on_crash();
  if (!on_crash.empty() && on_crash != "report" && on_crash != "end") {
    return absl::InvalidArgumentError(absl::StrFormat("on_crash: \"%s\" is not report or end", on_crash));
  }
  if (const auto smbios = SmbiosOf(config); !smbios.ok()) return smbios.status();
  const auto video = VideoOf(config);
  if (!video.ok()) return video.status();
  if (config.deterministic() && video->has_value()) {
    return absl::InvalidArgumentError("deterministic: needs a machine without video");
  }
  if (!config.screenshot().empty() && !video->has_value()) {
    return absl::InvalidArgumentError("screenshot: is for machines with video");
  }
  if (!config.vnc().empty()) {
    if (!video->has_value()) return absl::InvalidArgumentError("vnc: is for machines with video");
    const bool is_guarded = !config.vnc_password_file().empty() || !config.vnc_tls().empty();
    const absl::Status valid = viewer::CheckRfbAddress(config.vnc(), is_guarded);
    if (!valid.ok()) return absl::InvalidArgumentError(absl::StrCat("vnc: ", valid.message()));
  } else if (!config.vnc_password_file().empty() || !config.vnc_tls().empty()) {
    return absl::InvalidArgumentError("vnc: a password and TLS need an address");
  }
  if (!config.web().empty()) {
    const absl::Status valid = web::CheckWebAddress(config.web());
    if (!valid.ok()) return absl::InvalidArgumentError(absl::StrCat("web: ", valid.message()));
  }
  if (!config.web_assets().empty() && config.web().empty()) {
    return absl::InvalidArgumentError("web_assets: is for machines with a page, which web gives it");
  }
  const auto integration = IntegrationOf(config);
  if (!integration.ok()) return integration.status();
  const auto input = InputOf(config);
  if (!input.ok()) return input.status();
  if (config.deterministic() && (input->keyboard || input->mouse)) {
    return absl::InvalidArgumentError("deterministic: needs a machine without a keyboard and a mouse");
  }
  if (!config.keyboard_layout().empty()) {
    if (!input->keyboard) return absl::InvalidArgumentError("keyboard_layout: the machine has no keyboard");
    const auto layout = input::KeyboardLayout::Load(config.keyboard_layout());
    if (!layout.ok()) return absl::InvalidArgumentError(absl::StrCat("keyboard_layout: ", layout.status().message()));
  }
  if (config.memory_min_mib() > MemoryMib(config)) {
    return absl::InvalidArgumentError(absl::StrFormat("memory: min: %d MiB is more than the %d MiB of the machine",
                                                      config.memory_min_mib(), MemoryMib(config)));
  }
  if (config.memory_min_mib() != 0 && !integration->balloon) {
    return absl::InvalidArgumentError(
        "memory: min: is for machines with the balloon among their integration components");
  }
  if (config.memory_max_mib() != 0) RETURN_IF_ERROR(CheckMemoryMax(config, integration->balloon));
  for (const DiskConfig& disk : config.disks()) RETURN_IF_ERROR(CheckNoZeroByte("disk", disk.path()));
  RETURN_IF_ERROR(CheckNoZeroByte("kernel", config.kernel()));
  RETURN_IF_ERROR(CheckNoZeroByte("initrd", config.initrd()));
  RETURN_IF_ERROR(CheckNoZeroByte("serial", config.serial().file()));
  RETURN_IF_ERROR(CheckNoZeroByte("trace", config.trace()));
  RETURN_IF_ERROR(CheckNoZeroByte("crash_dump", config.crash_dump()));
  RETURN_IF_ERROR(CheckNoZeroByte("sockets", config.sockets()));
  RETURN_IF_ERROR(CheckNoZeroByte("screenshot", config.screenshot()));
  RETURN_IF_ERROR(CheckNoZeroByte("web_assets", config.web_assets()));
  return CheckNoZeroByte("cmdline", config.cmdline());
}

absl::StatusOr<boot::SmbiosIdentity> SmbiosOf(const MachineConfig& config) {
  const SmbiosConfig& from = config.smbios();
  boot::SmbiosIdentity identity;
  if (!from.uuid().empty()) {
    hvdef::Guid uuid;
    if (!hvdef::ParseGuid(from.uuid().data(), from.uuid().size(), uuid)) {
      return absl::InvalidArgumentError(
          "smbios: uuid: not of the form 4c4c4544-0042-3510-8052-b4c04f4a3132, 32 hexadecimal digits in five groups");
    }
    identity.uuid = uuid;
  }
  if (from.has_manufacturer()) identity.manufacturer = from.manufacturer();
  if (from.has_product()) identity.product = from.product();
  if (from.has_version()) identity.version = from.version();
  identity.serial = from.serial();
  identity.sku = from.sku();
  identity.family = from.family();
  identity.asset_tag = from.asset_tag();
  if (from.has_bios_vendor()) identity.bios_vendor = from.bios_vendor();
  identity.bios_version = from.bios_version();
  const absl::Status valid = boot::ValidateSmbiosIdentity(identity);
  if (!valid.ok()) return absl::InvalidArgumentError(absl::StrCat("smbios: ", valid.message()));
  return identity;
}

absl::StatusOr<machine::MachineIntegration> IntegrationOf(const MachineConfig& config) {
  const std::string& text = config.integration();
  machine::MachineIntegration wanted{.balloon_min_bytes = uint64_t{config.memory_min_mib()} << 20};
  if (text.empty() || text == "all") return wanted;
  wanted.shutdown = wanted.heartbeat = wanted.time_sync = wanted.key_value = wanted.file_copy = wanted.balloon = false;
  wanted.backup = false;
  if (text == "none") return wanted;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    if (name == "shutdown") {
      wanted.shutdown = true;
    } else if (name == "heartbeat") {
      wanted.heartbeat = true;
    } else if (name == "time-sync" || name == "time-samples") {
      const bool samples_only = name == "time-samples";
      if (wanted.time_sync && wanted.time_samples_only != samples_only) {
        return absl::InvalidArgumentError(
            "integration: time-sync sets the guest's clock, and time-samples does not: one of them");
      }
      wanted.time_sync = true;
      wanted.time_samples_only = samples_only;
    } else if (name == "key-value") {
      wanted.key_value = true;
    } else if (name == "file-copy") {
      wanted.file_copy = true;
    } else if (name == "backup") {
      wanted.backup = true;
    } else if (name == "balloon") {
      wanted.balloon = true;
    } else {
      return absl::InvalidArgumentError(absl::StrFormat(
          "integration: \"%s\" is none of shutdown, heartbeat, time-sync, time-samples, key-value, file-copy, "
          "backup and balloon, nor all or none by itself",
          absl::CEscape(name)));
    }
  }
  return wanted;
}

absl::StatusOr<machine::MachineInput> InputOf(const MachineConfig& config) {
  const std::string& text = config.input();
  if (text.empty() || text == "none") return machine::MachineInput{};
  if (text == "all") return machine::MachineInput{.keyboard = true, .mouse = true};
  machine::MachineInput wanted;
  for (const absl::string_view name : absl::StrSplit(text, ',')) {
    if (name != "keyboard" && name != "mouse") {
      return absl::InvalidArgumentError(absl::StrFormat(
          "input: \"%s\" is none of keyboard and mouse, nor all or none by itself", absl::CEscape(name)));
    }
    (name == "keyboard" ? wanted.keyboard : wanted.mouse) = true;
  }
  return wanted;
}

absl::StatusOr<absl::optional<machine::MachineVideo>> VideoOf(const MachineConfig& config) {
  using vsp::kMaxVideoHeight, vsp::kMaxVideoWidth, vsp::kMinVideoHeight, vsp::kMinVideoWidth;
  const std::string& text = config.video();
  if (text.empty() || text == "none") return absl::nullopt;
  const std::vector<std::string> sides = absl::StrSplit(text, 'x');
  machine::MachineVideo video;
  const auto parse = [](const std::string& side, uint32_t& pixels) {
    return side.find_first_not_of("0123456789") == side.npos && absl::SimpleAtoi(side, &pixels);
  };
  if (sides.size() != 2 || !parse(sides[0], video.width) || !parse(sides[1], video.height)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("video: \"%s\" is not none or a size such as 1920x1080", absl::CEscape(text)));
  }
  if (video.width < kMinVideoWidth || video.width > kMaxVideoWidth || video.height < kMinVideoHeight ||
      video.height > kMaxVideoHeight) {
    return absl::InvalidArgumentError(absl::StrFormat("video: %dx%d is not between %dx%d and %dx%d", video.width,
                                                      video.height, kMinVideoWidth, kMinVideoHeight, kMaxVideoWidth,
                                                      kMaxVideoHeight));
  }
  return video;
}

absl::StatusOr<uint32_t> ParseMemoryMib(absl::string_view text) {
  const absl::Status error =
      absl::InvalidArgumentError(absl::StrFormat("\"%s\" is not a size in whole MiB, such as 512M or 4G", text));
  uint64_t unit = 1;
  if (!text.empty()) {
    switch (text.back()) {
      case 'K':
      case 'k':
        unit = uint64_t{1} << 10;
        break;
      case 'M':
      case 'm':
        unit = uint64_t{1} << 20;
        break;
      case 'G':
      case 'g':
        unit = uint64_t{1} << 30;
        break;
      case 'T':
      case 't':
        unit = uint64_t{1} << 40;
        break;
    }
  }
  if (unit != 1) text.remove_suffix(1);
  uint64_t number = 0;
  // SimpleAtoi alone would take spaces and signs.
  if (text.empty() || text.find_first_not_of("0123456789") != text.npos || !absl::SimpleAtoi(text, &number) ||
      number > std::numeric_limits<uint64_t>::max() / unit) {
    return error;
  }
  const uint64_t bytes = number * unit;
  if (bytes % (1 << 20) != 0 || bytes >> 20 > std::numeric_limits<uint32_t>::max()) return error;
  return static_cast<uint32_t>(bytes >> 20);
}

}  // namespace hvsdk::vmm

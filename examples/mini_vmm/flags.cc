// SPDX-License-Identifier: Apache-2.0
#include "flags.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <iterator>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "absl/types/span.h"
#include "files.h"
#include "hvsdk/boot/byte_source.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/networks.h"

namespace mini_vmm {
namespace {

using hvsdk::vmm::MachineConfig;

absl::Status Invalid(absl::string_view what, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", why));
}

// At single commas; a comma in a part is written twice.
std::vector<std::string> SplitAtCommas(absl::string_view text) {
  std::vector<std::string> parts(1);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ',') {
      parts.back() += text[i];
    } else if (i + 1 < text.size() && text[i + 1] == ',') {
      parts.back() += text[i++];
    } else {
      parts.emplace_back();
    }
  }
  return parts;
}

absl::Status AddDvd(absl::string_view text, MachineConfig& config) {
  absl::StatusOr<hvsdk::vmm::DiskConfig> dvd = ParseDvd(text);
  if (!dvd.ok()) return dvd.status();
  *config.add_disks() = *std::move(dvd);
  return absl::OkStatus();
}

absl::Status AddDisk(absl::string_view text, MachineConfig& config) {
  absl::StatusOr<hvsdk::vmm::DiskConfig> disk = ParseDisk(text);
  if (!disk.ok()) return disk.status();
  *config.add_disks() = *std::move(disk);
  return absl::OkStatus();
}

// "KEY=VALUE", or "KEY" for what is on or off, in a message whose fields are the keys. False: it has no such key, or a value of
// another kind.
bool SetKey(absl::string_view text, google::protobuf::Message& message) {
  using Field = google::protobuf::FieldDescriptor;
  const size_t equals = text.find('=');
  const bool has_value = equals != text.npos;
  const std::string value(has_value ? text.substr(equals + 1) : "on");
  const std::string name = absl::StrReplaceAll(text.substr(0, equals), {{"-", "_"}});
  const Field* const field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr || value.empty() || (has_value && text.substr(0, equals).find('_') != text.npos)) return false;
  const google::protobuf::Reflection& set = *message.GetReflection();
  uint32_t number = 0;
  switch (field->cpp_type()) {
    case Field::CPPTYPE_BOOL:
      if (value != "on" && value != "off") return false;
      set.SetBool(&message, field, value == "on");
      return true;
    case Field::CPPTYPE_UINT32:
      if (value.find_first_not_of("0123456789") != value.npos || !absl::SimpleAtoi(value, &number)) return false;
      field->is_repeated() ? set.AddUInt32(&message, field, number) : set.SetUInt32(&message, field, number);
      return true;
    case Field::CPPTYPE_STRING:
      if (!has_value) return false;
      field->is_repeated() ? set.AddString(&message, field, value) : set.SetString(&message, field, value);
      return true;
    default:
      return false;
  }
}

// For messages: "hostfwd=, restrict, dns=".
std::string KeysOf(const google::protobuf::Message& message) {
  using Field = google::protobuf::FieldDescriptor;
  std::vector<std::string> keys;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const Field& field = *message.GetDescriptor()->field(i);
    if (field.cpp_type() == Field::CPPTYPE_MESSAGE) continue;
    keys.push_back(absl::StrCat(absl::StrReplaceAll(field.name(), {{"_", "-"}}),
                                field.cpp_type() == Field::CPPTYPE_BOOL ? "" : "="));
  }
  return absl::StrJoin(keys, ", ");
}

absl::Status AddNetwork(absl::string_view text, MachineConfig& config) {
  absl::StatusOr<hvsdk::vmm::NetworkConfig> network = ParseNetwork(text);
  if (!network.ok()) return network.status();
  *config.add_networks() = *std::move(network);
  return absl::OkStatus();
}

// "KEY=VALUE[,KEY=VALUE]...": the keys are the configuration's own, all of them strings.
absl::Status SetSmbios(absl::string_view text, MachineConfig& config) {
  hvsdk::vmm::SmbiosConfig& smbios = *config.mutable_smbios();
  const google::protobuf::Descriptor& keys = *smbios.GetDescriptor();
  for (const std::string& part : SplitAtCommas(text)) {
    const size_t equals = part.find('=');
    const std::string name = part.substr(0, equals);
    const google::protobuf::FieldDescriptor* const key = keys.FindFieldByName(name);
    if (key == nullptr) {
      std::vector<std::string> names;
      for (int i = 0; i < keys.field_count(); ++i) names.push_back(keys.field(i)->name());
      return absl::InvalidArgumentError(
          absl::StrFormat("unknown key \"%s\"; there are %s", name, absl::StrJoin(names, ", ")));
    }
    if (equals == part.npos)
      return absl::InvalidArgumentError(absl::StrFormat("%s: needs a value: %s=TEXT", name, name));
    smbios.GetReflection()->SetString(&smbios, key, part.substr(equals + 1));
  }
  return absl::OkStatus();
}

absl::Status SetSerial(absl::string_view text, MachineConfig& config) {
  if (text.empty()) return absl::InvalidArgumentError("stdio, none or a file is needed");
  config.mutable_serial()->Clear();
  if (text == "stdio") {
    config.mutable_serial()->set_stdio(true);
  } else if (text != "none") {
    config.mutable_serial()->set_file(std::string(text));
  }
  return absl::OkStatus();
}

absl::Status SetVnc(absl::string_view text, MachineConfig& config) {
  const std::vector<std::string> parts = SplitAtCommas(text);
  config.set_vnc(parts[0] == "none" ? "" : parts[0]);
  config.clear_vnc_password_file();
  config.clear_vnc_tls();
  for (absl::string_view part : absl::MakeConstSpan(parts).subspan(1)) {
    if (absl::ConsumePrefix(&part, "password-file=") && !part.empty()) {
      config.set_vnc_password_file(std::string(part));
    } else if (absl::ConsumePrefix(&part, "tls=") && !part.empty()) {
      config.set_vnc_tls(std::string(part));
    } else {
      return absl::InvalidArgumentError(
          absl::StrFormat("unknown option \"%s\"; there are password-file= and tls=", part));
    }
  }
  return absl::OkStatus();
}

template <void (MachineConfig::*set)(uint32_t)>
absl::Status SetNumber(absl::string_view text, MachineConfig& config) {
  uint32_t number;
  if (text.empty() || text.find_first_not_of("0123456789") != text.npos || !absl::SimpleAtoi(text, &number)) {
    return absl::InvalidArgumentError(absl::StrFormat("\"%s\" is not a number", text));
  }
  (config.*set)(number);
  return absl::OkStatus();
}

absl::Status SetMemory(absl::string_view text, MachineConfig& config) {
  const std::vector<std::string> parts = SplitAtCommas(text);
  const absl::StatusOr<uint32_t> mib = hvsdk::vmm::ParseMemoryMib(parts[0]);
  if (!mib.ok()) return mib.status();
  config.set_memory_mib(*mib);
  config.clear_memory_min_mib();
  config.clear_memory_max_mib();
  for (const std::string& part : absl::MakeConstSpan(parts).subspan(1)) {
    const std::string name = part.substr(0, 4);
    if (name != "min=" && name != "max=") {
      return absl::InvalidArgumentError(absl::StrFormat("unknown option \"%s\"; there are min= and max=", part));
    }
    const absl::StatusOr<uint32_t> bound = hvsdk::vmm::ParseMemoryMib(absl::string_view(part).substr(4));
    if (!bound.ok()) return absl::InvalidArgumentError(absl::StrCat(name.substr(0, 3), ": ", bound.status().message()));
    name == "min=" ? config.set_memory_min_mib(*bound) : config.set_memory_max_mib(*bound);
  }
  return absl::OkStatus();
}

absl::Status SetProcessor(absl::string_view text, MachineConfig& config) {
  if (text != "host" && text != "portable") {
    return absl::InvalidArgumentError(absl::StrFormat("\"%s\" is not host or portable", text));
  }
  config.set_processor(std::string(text));
  return absl::OkStatus();
}

absl::Status SetOnCrash(absl::string_view text, MachineConfig& config) {
  if (text != "report" && text != "end") {
    return absl::InvalidArgumentError(absl::StrFormat("\"%s\" is not report or end", text));
  }
  config.set_on_crash(std::string(text));
  return absl::OkStatus();
}

template <void (*set)(MachineConfig&, std::string)>
absl::Status SetText(absl::string_view text, MachineConfig& config) {
  set(config, std::string(text));
  return absl::OkStatus();
}

struct Flag {
  absl::string_view name;
  absl::string_view value;  // as --help shows it; empty: the flag takes none
  absl::Status (*apply)(absl::string_view text, MachineConfig& config);
  absl::string_view help;
};

const Flag kFlags[] = {
    {"kernel", "FILE", SetText<[](MachineConfig& c, std::string t) { c.set_kernel(std::move(t)); }>,
     "Linux bzImage, or ELF file with a PVH entry point"},
    {"initrd", "FILE", SetText<[](MachineConfig& c, std::string t) { c.set_initrd(std::move(t)); }>,
     "initial RAM disk"},
    {"cmdline", "TEXT", SetText<[](MachineConfig& c, std::string t) { c.set_cmdline(std::move(t)); }>,
     "kernel command line (default: \"console=ttyS0 quiet\")"},
    {"memory", "SIZE[,min=SIZE][,max=SIZE]", SetMemory,
     "guest memory in whole MiB, such as 512M or 4G (default: 512M), and what ctl balloon leaves it and lets it grow "
     "to"},
    {"cpus", "N", SetNumber<&MachineConfig::set_cpus>, "virtual processors (default: 2)"},
    {"io-threads", "N", SetNumber<&MachineConfig::set_io_threads>,
     "threads of I/O beside the machine's own, for the queues of network adapters (default: 0)"},
    {"backend", "NAME", SetText<[](MachineConfig& c, std::string t) { c.set_backend(std::move(t)); }>,
     ""},  // made by HelpText, as builds differ
    {"processor", "host|portable", SetProcessor,
     "all that the engine offers (default), or the processor that is the same on every engine"},
    {"disk", "PATH[,format=raw|vhd|vhdx][,readonly][,name=TEXT]", AddDisk,
     "a SCSI disk; may be repeated; a comma in PATH is written twice"},
    {"dvd", "[PATH][,name=TEXT]", AddDvd, "a DVD drive with an ISO file in it, or an empty one; may be repeated"},
    {"net", "user|tap|socket|switch[,KEY=VALUE]...", AddNetwork,
     "a network adapter, and what it is plugged into; may be repeated"},
    {"serial", "stdio|FILE|none", SetSerial, "where the serial port leads (default: stdio)"},
    {"smbios", "KEY=VALUE[,KEY=VALUE]...", SetSmbios,
     "what the machine says it is: uuid, serial, asset_tag, product, ...; may be repeated"},
    {"video", "WIDTHxHEIGHT|none", SetText<[](MachineConfig& c, std::string t) { c.set_video(std::move(t)); }>,
     "a display, and the size that the guest is to show at first, such as 1920x1080 (default: none)"},
    {"vnc", "ADDRESS:PORT|unix:PATH|none[,password-file=FILE][,tls=DIR]", SetVnc,
     "viewers of the display, who type and point with --input, connect here by VNC; without a password or their "
     "certificates on the loopback alone"},
    {"web", "ADDRESS:PORT|unix:PATH|none",
     SetText<[](MachineConfig& c, std::string t) { c.set_web(t == "none" ? "" : std::move(t)); }>,
     "a page for your browser, with the screen, the console and buttons; on the loopback; its address is printed"},
    {"web-assets", "DIR", SetText<[](MachineConfig& c, std::string t) { c.set_web_assets(std::move(t)); }>,
     "the page's files (default: as installed, or as scripts/web-assets makes them)"},
    {"screenshot", "FILE", SetText<[](MachineConfig& c, std::string t) { c.set_screenshot(std::move(t)); }>,
     "write what the guest has shown last to a PNG file when the machine ends"},
    {"integration", "all|none|NAME[,NAME]...",
     SetText<[](MachineConfig& c, std::string t) { c.set_integration(std::move(t)); }>,
     "integration components: shutdown, heartbeat, time-sync or time-samples, key-value, file-copy, backup, balloon "
     "(default: all)"},
    {"input", "all|none|keyboard|mouse", SetText<[](MachineConfig& c, std::string t) { c.set_input(std::move(t)); }>,
     "what ctl types and points on (default: none)"},
    {"keyboard-layout", "NAME", SetText<[](MachineConfig& c, std::string t) { c.set_keyboard_layout(std::move(t)); }>,
     "the layout that the guest has, as XKB calls it: de, de:nodeadkeys (default: us)"},
    {"sockets", "PATH", SetText<[](MachineConfig& c, std::string t) { c.set_sockets(std::move(t)); }>,
     "sockets to the guest's programs at this Unix socket, and from them at PATH_PORT"},
    {"config", "FILE.textproto", nullptr, "read the machine from a file; other flags change or add to it"},
    {"trace", "FILE", SetText<[](MachineConfig& c, std::string t) { c.set_trace(std::move(t)); }>,
     "write exits, hypercalls and VMBus messages as a Chrome trace"},
    {"control", "PATH", SetText<[](MachineConfig& c, std::string t) { c.set_control(std::move(t)); }>,
     "socket on which the running machine is managed: mini_vmm ctl PATH COMMAND"},
    {"restore", "DIR", nullptr, "go on from a saved state; it knows its machine"},
    {"changed-disks", "accept", nullptr, "with --restore: take disks that were written since the state was saved"},
    {"no-reboot", "", [](absl::string_view, MachineConfig& c) { return c.set_no_reboot(true), absl::OkStatus(); },
     "end when the guest resets, instead of starting again"},
    {"on-crash", "report|end", SetOnCrash,
     "a guest that says it crashed goes on, to dump or restart itself (default), or is ended"},
    {"crash-dump", "FILE", SetText<[](MachineConfig& c, std::string t) { c.set_crash_dump(std::move(t)); }>,
     "write a core file, for gdb and crash, when the guest says it crashed"},
    {"deterministic", "",
     [](absl::string_view, MachineConfig& c) { return c.set_deterministic(true), absl::OkStatus(); },
     "software engine on one thread, time counted in instructions; prints a hash of the final state"},
};

struct Setting {
  const Flag* flag;
  absl::string_view value;
};

absl::StatusOr<Setting> ParseArgument(absl::string_view argument) {
  if (argument.substr(0, 2) != "--")
    return Invalid(absl::StrCat("\"", argument, "\""), "not a flag; --help lists them");
  const size_t equals = argument.find('=');
  const absl::string_view name = argument.substr(2, equals == argument.npos ? argument.npos : equals - 2);
  const bool has_value = equals != argument.npos;
  for (const Flag& flag : kFlags) {
    if (flag.name != name) continue;
    const std::string shown = absl::StrCat("--", name);
    if (flag.value.empty() && has_value) return Invalid(shown, "takes no value");
    if (!flag.value.empty() && !has_value)
      return Invalid(shown, absl::StrCat("needs a value: ", shown, "=", flag.value));
    const absl::string_view value = has_value ? argument.substr(equals + 1) : "";
    if (has_value && value.empty() && name != "cmdline" && name != "dvd") return Invalid(shown, "the value is empty");
    return Setting{&flag, value};
  }
  if (name == "help") return Invalid("--help", "takes no value");
  return Invalid(absl::StrCat("--", name), "no such flag; --help lists them");
}

absl::StatusOr<MachineConfig> ReadConfigFile(const std::string& path) {
  constexpr uint64_t kMaxSize = 1 << 20;
  const std::string shown = absl::StrCat("--config=", path);
  const auto source = hvsdk::boot::OpenFileSource(path);
  if (!source.ok()) return FileError(shown, source.status());
  if ((*source)->size() > kMaxSize) return Invalid(shown, "larger than 1 MiB");
  std::string text((*source)->size(), '\0');
  const absl::Status read = (*source)->Read(0, absl::MakeSpan(reinterpret_cast<uint8_t*>(text.data()), text.size()));
  if (!read.ok()) return FileError(shown, read);
  absl::StatusOr<MachineConfig> config = hvsdk::vmm::ParseMachineConfig(text);
  if (!config.ok()) return Invalid(shown, config.status().message());
  // By itself, so that a flag's mistake is not put down to the file. The kernel alone may be left to a flag.
  MachineConfig complete = *config;
  if (complete.kernel().empty()) complete.set_kernel("named by a flag");
  const absl::Status valid = hvsdk::vmm::ValidateMachineConfig(complete);
  if (!valid.ok()) return Invalid(shown, valid.message());
  return config;
}

// A restore's machine is the saved one; what the host has of it may have moved.
bool MayChangeOnRestore(absl::string_view flag) {
  return flag == "disk" || flag == "net" || flag == "serial" || flag == "trace" || flag == "control" ||
         flag == "sockets" || flag == "keyboard-layout" || flag == "backend" || flag == "kernel" || flag == "initrd" ||
         flag == "no-reboot" || flag == "on-crash" || flag == "crash-dump" || flag == "screenshot" || flag == "vnc" ||
         flag == "web" || flag == "web-assets";
}

// Gives each device of a kind its number, where the configuration leaves it open: the next free one behind the device before it.
template <typename Device>
void ChooseNumbers(google::protobuf::RepeatedPtrField<Device>& devices, uint32_t count, bool (Device::*has)() const,
                   uint32_t (Device::*get)() const, void (Device::*set)(uint32_t)) {
  std::set<uint32_t> taken;
  for (const Device& device : devices) {
    if ((device.*has)()) taken.insert((device.*get)());
  }
  uint32_t next = 0;
  for (Device& device : devices) {
    while (!(device.*has)() && !taken.insert(next).second) next = (next + 1) % count;
    if (!(device.*has)()) (device.*set)(next);
    next = ((device.*get)() + 1) % count;
  }
}

void ChooseNumbers(MachineConfig& config) {
  using hvsdk::vmm::DiskConfig, hvsdk::vmm::NetworkConfig;
  ChooseNumbers(*config.mutable_disks(), hvsdk::vmm::kMaxDisks, &DiskConfig::has_lun, &DiskConfig::lun,
                &DiskConfig::set_lun);
  ChooseNumbers(*config.mutable_networks(), hvsdk::vmm::kMaxNetworks, &NetworkConfig::has_number,
                &NetworkConfig::number, &NetworkConfig::set_number);
}

// "storage/0=NEWPATH": the disk of that number; "storage/0=none" leaves it out.
absl::Status MoveDisk(absl::string_view text, Flags& flags) {
  constexpr absl::string_view kPrefix = "storage/";
  const size_t equals = text.find('=');
  uint32_t lun = 0;
  if (text.substr(0, kPrefix.size()) != kPrefix || equals == text.npos ||
      !absl::SimpleAtoi(text.substr(kPrefix.size(), equals - kPrefix.size()), &lun)) {
    return absl::InvalidArgumentError("with --restore it says which disk has moved: storage/N=PATH, or storage/N=none");
  }
  auto& disks = *flags.config.mutable_disks();
  for (int i = 0; i < disks.size(); ++i) {
    if (disks[i].lun() != lun) continue;
    if (text.substr(equals + 1) != "none") {
      disks[i].set_path(std::string(text.substr(equals + 1)));
      return absl::OkStatus();
    }
    flags.left_out.push_back(static_cast<uint8_t>(lun));
    disks.DeleteSubrange(i, 1);
    flags.saved.mutable_disks()->DeleteSubrange(i, 1);
    flags.saved.mutable_machine()->mutable_disks()->DeleteSubrange(i, 1);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat("the state has no disk %d", lun));
}

// Where the serial port leads now; the guest has one, or has none.
absl::Status MoveSerial(absl::string_view text, Flags& flags) {
  const auto has_port = [&] { return flags.config.serial().stdio() || !flags.config.serial().file().empty(); };
  const bool had_port = has_port();
  if (absl::Status status = SetSerial(text, flags.config); !status.ok()) return status;
  if (has_port() == had_port) return absl::OkStatus();
  return absl::InvalidArgumentError(had_port ? "the state's machine has a serial port; /dev/null takes what it says"
                                             : "the state's machine has no serial port");
}

// Where the sockets are now; "none" leaves them out.
absl::Status MoveSockets(absl::string_view text, Flags& flags) {
  if (!flags.config.has_sockets()) return absl::InvalidArgumentError("the state's machine has none");
  flags.config.set_sockets(text == "none" ? std::string() : std::string(text));
  return absl::OkStatus();
}

// "network/0=user,...": what the adapter of that number is plugged into now; it stays the guest's with its address. "network/0=none"
// leaves it out.
absl::Status MoveNetwork(absl::string_view text, Flags& flags) {
  constexpr absl::string_view kPrefix = "network/";
  const size_t equals = text.find('=');
  uint32_t number = 0;
  if (text.substr(0, kPrefix.size()) != kPrefix || equals == text.npos ||
      !absl::SimpleAtoi(text.substr(kPrefix.size(), equals - kPrefix.size()), &number)) {
    return absl::InvalidArgumentError(
        "with --restore it says what an adapter is plugged into now: network/N=KIND[,KEY=VALUE]..., or network/N=none");
  }
  for (hvsdk::vmm::NetworkConfig& network : *flags.config.mutable_networks()) {
    if (network.number() != number) continue;
    if (text.substr(equals + 1) == "none") {
      flags.left_out_networks.push_back(number);
      return absl::OkStatus();
    }
    absl::StatusOr<hvsdk::vmm::NetworkConfig> moved = ParseNetwork(text.substr(equals + 1));
    if (!moved.ok()) return moved.status();
    if (!moved->mac().empty() || moved->has_number() || moved->queues() != 0) {
      return absl::InvalidArgumentError("mac, number and queues are the guest's, which goes on with what it had");
    }
    moved->set_mac(network.mac());
    moved->set_number(network.number());
    moved->set_queues(network.queues());
    if (moved->mtu() == 0) moved->set_mtu(network.mtu());
    if (moved->name().empty()) moved->set_name(network.name());
    network = *std::move(moved);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat("the state has no network adapter %d", number));
}

// Flags that beside --restore say where something is now, of what the state's machine has.
struct Move {
  absl::string_view flag;
  absl::Status (*apply)(absl::string_view text, Flags& flags);
};
constexpr Move kMoves[] = {{"disk", MoveDisk}, {"net", MoveNetwork}, {"serial", MoveSerial}, {"sockets", MoveSockets}};

// Where somebody looks on.
void ShowProgress(uint64_t done_bytes, uint64_t total_bytes) {
  if (isatty(STDERR_FILENO) == 0) return;
  absl::FPrintF(stderr, "\rmini_vmm: --restore: %d of %d MiB%s", done_bytes >> 20, total_bytes >> 20,
                done_bytes == total_bytes ? "\n" : "");
}

absl::Status ReadState(Flags& flags) {
  const std::string shown = absl::StrCat("--restore=", flags.restore_path);
  absl::StatusOr<hvsdk::vmm::StateDirectory> state = hvsdk::vmm::StateDirectory::Open(flags.restore_path, ShowProgress);
  if (!state.ok()) return FileError("--restore", state.status());
  flags.state = std::make_shared<hvsdk::vmm::StateDirectory>(*std::move(state));
  if (!flags.saved.ParseFromString(flags.state->machine().configuration) || !flags.saved.has_machine() ||
      flags.saved.disks_size() != flags.saved.machine().disks_size()) {
    return Invalid(shown, "the state is of another program");
  }
  flags.config = flags.saved.machine();
  if (const absl::Status status = hvsdk::vmm::ValidateMachineConfig(flags.config); !status.ok()) {
    return Invalid(shown, status.message());
  }
  ChooseNumbers(flags.config);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<hvsdk::vmm::DiskConfig> ParseDisk(absl::string_view text) {
  const std::vector<std::string> parts = SplitAtCommas(text);
  hvsdk::vmm::DiskConfig disk;
  disk.set_path(parts[0]);
  for (size_t i = 1; i < parts.size(); ++i) {
    const absl::string_view option = parts[i];
    if (option == "readonly") {
      disk.set_read_only(true);
    } else if (option.substr(0, 7) == "format=" && option.size() > 7) {
      disk.set_format(std::string(option.substr(7)));
    } else if (option.substr(0, 5) == "name=" && option.size() > 5) {
      disk.set_name(std::string(option.substr(5)));
    } else {
      return absl::InvalidArgumentError(
          absl::StrFormat("unknown option \"%s\"; there are format=, readonly and name=", option));
    }
  }
  return disk;
}

absl::StatusOr<hvsdk::vmm::DiskConfig> ParseDvd(absl::string_view text) {
  const std::vector<std::string> parts = SplitAtCommas(text);
  hvsdk::vmm::DiskConfig dvd;
  dvd.set_dvd(true);
  dvd.set_path(parts[0]);
  for (size_t i = 1; i < parts.size(); ++i) {
    const absl::string_view option = parts[i];
    if (option.substr(0, 5) != "name=" || option.size() == 5) {
      return absl::InvalidArgumentError(absl::StrFormat("unknown option \"%s\"; there is name=", option));
    }
    dvd.set_name(std::string(option.substr(5)));
  }
  return dvd;
}

absl::StatusOr<hvsdk::vmm::NetworkConfig> ParseNetwork(absl::string_view text) {
  hvsdk::vmm::NetworkConfig network;
  const std::vector<std::string> parts = SplitAtCommas(text);
  const google::protobuf::FieldDescriptor* const kind = network.GetDescriptor()->FindFieldByName(parts[0]);
  if (kind == nullptr || kind->containing_oneof() == nullptr) {
    return absl::InvalidArgumentError(absl::StrFormat("\"%s\" is none of user, tap, socket and switch", parts[0]));
  }
  google::protobuf::Message& port = *network.GetReflection()->MutableMessage(&network, kind);
  for (size_t i = 1; i < parts.size(); ++i) {
    if (SetKey(parts[i], port) || SetKey(parts[i], network)) continue;
    return absl::InvalidArgumentError(absl::StrFormat("\"%s\" is no option of %s; there are %s, %s", parts[i], parts[0],
                                                      KeysOf(port), KeysOf(network)));
  }
  return network;
}

absl::StatusOr<Flags> ParseFlags(int argc, char** argv) {
  Flags flags;
  std::vector<Setting> settings;
  for (int i = 1; i < argc; ++i) {
    const absl::string_view argument = argv[i];
    if (argument == "--help" || argument == "-h") {
      flags.help = true;
      return flags;
    }
    absl::StatusOr<Setting> setting = ParseArgument(argument);
    if (!setting.ok()) return setting.status();
    if (setting->flag->name == "config") {
      flags.config_path = std::string(setting->value);
    } else if (setting->flag->name == "restore") {
      flags.restore_path = std::string(setting->value);
    } else if (setting->flag->name == "changed-disks") {
      if (setting->value != "accept") return Invalid("--changed-disks", "there is only accept");
      flags.accept_changed_disks = true;
    } else {
      settings.push_back(*setting);
    }
  }
  if (!flags.config_path.empty()) {
    absl::StatusOr<MachineConfig> config = ReadConfigFile(flags.config_path);
    if (!config.ok()) return config.status();
    flags.config = *std::move(config);
  }
  if (!flags.restore_path.empty()) {
    if (!flags.config_path.empty()) return Invalid("--config", "the state of --restore has its own");
    if (absl::Status status = ReadState(flags); !status.ok()) return status;
  } else if (flags.accept_changed_disks) {
    return Invalid("--changed-disks", "is for --restore");
  }
  for (const Setting& setting : settings) {
    if (flags.state != nullptr && !MayChangeOnRestore(setting.flag->name)) {
      return Invalid(absl::StrCat("--", setting.flag->name), "cannot change with --restore");
    }
    const bool is_restored = flags.state != nullptr;
    if (setting.flag->name == "kernel" || setting.flag->name == "initrd") flags.names_boot_files = is_restored;
    const auto moves = std::find_if(std::begin(kMoves), std::end(kMoves),
                                    [&](const Move& move) { return move.flag == setting.flag->name; });
    const absl::Status status = is_restored && moves != std::end(kMoves)
                                    ? moves->apply(setting.value, flags)
                                    : setting.flag->apply(setting.value, flags.config);
    if (!status.ok()) return Invalid(absl::StrCat("--", setting.flag->name), status.message());
  }
  if (flags.config.cmdline().empty()) flags.config.set_cmdline("console=ttyS0 quiet");
  if (!flags.config.has_serial()) flags.config.mutable_serial()->set_stdio(true);
  const absl::Status status = hvsdk::vmm::ValidateMachineConfig(flags.config);
  if (!status.ok()) {
    // A field is called as its flag is, but for the hyphens.
    std::string text(status.message());
    std::replace(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(std::min(text.find(':'), text.size())), '_',
                 '-');
    return absl::InvalidArgumentError(absl::StrCat("--", text));
  }
  ChooseNumbers(flags.config);
  hvsdk::vmm::ChooseMacs(flags.config);
  return flags;
}

std::string HelpText() {
  std::string text =
      "mini_vmm boots a guest on hvsdk: Hyper-V's hypervisor interface, VMBus and its disks.\n\n"
      "usage: mini_vmm --kernel=FILE [flag]...\n"
      "       mini_vmm --restore=DIR [flag]...\n"
      "       mini_vmm ctl PATH COMMAND\n\n";
  for (const Flag& flag : kFlags) {
    std::string left = absl::StrCat("  --", flag.name);
    if (flag.name == "backend") {
      absl::StrAppend(&left, "=", absl::StrJoin(hvsdk::vmm::BackendNames(), "|"));
    } else if (!flag.value.empty()) {
      absl::StrAppend(&left, "=", flag.value);
    }
    const absl::string_view help =
        flag.name == "backend" ? "processor engine (default: auto, KVM where the processor has vmx or svm)" : flag.help;
    if (left.size() > 24) {
      absl::StrAppend(&text, left, "\n", std::string(26, ' '), help, "\n");
    } else {
      absl::StrAppend(&text, absl::StrFormat("%-26s%s\n", left, help));
    }
  }
  absl::StrAppend(&text,
                  "  --help                  print this\n\n"
                  "On a terminal, Ctrl-A x ends mini_vmm and Ctrl-A Ctrl-A sends Ctrl-A.\n"
                  "SIGUSR1 presses the machine's power button.\n\n"
                  "exit status: 0   the guest powered off, or Ctrl-A x\n"
                  "             2   a mistake in the flags or files\n"
                  "             3   the host failed\n"
                  "             10  the guest reset, with --no-reboot\n"
                  "             11  the guest crashed, however it ended after that\n"
                  "             128+n  signal n ended it\n");
  return text;
}

}  // namespace mini_vmm

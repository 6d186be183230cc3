// SPDX-License-Identifier: Apache-2.0
#include "flags.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "files.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/byte_source.h"

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

// "PATH[,format=raw][,readonly]"
absl::Status AddDisk(absl::string_view text, MachineConfig& config) {
  const std::vector<std::string> parts = SplitAtCommas(text);
  hvsdk::vmm::DiskConfig& disk = *config.add_disks();
  disk.set_path(parts[0]);
  for (size_t i = 1; i < parts.size(); ++i) {
    const absl::string_view option = parts[i];
    if (option == "readonly") {
      disk.set_read_only(true);
    } else if (option.substr(0, 7) == "format=" && option.size() > 7) {
      disk.set_format(std::string(option.substr(7)));
    } else {
      return absl::InvalidArgumentError(
          absl::StrFormat("unknown option \"%s\"; there are format=raw and readonly", option));
    }
  }
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

absl::Status SetCpus(absl::string_view text, MachineConfig& config) {
  uint32_t cpus;
  if (text.empty() || text.find_first_not_of("0123456789") != text.npos || !absl::SimpleAtoi(text, &cpus)) {
    return absl::InvalidArgumentError(absl::StrFormat("\"%s\" is not a number", text));
  }
  config.set_cpus(cpus);
  return absl::OkStatus();
}

absl::Status SetMemory(absl::string_view text, MachineConfig& config) {
  const absl::StatusOr<uint32_t> mib = hvsdk::vmm::ParseMemoryMib(text);
  if (!mib.ok()) return mib.status();
  config.set_memory_mib(*mib);
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
    {"memory", "SIZE", SetMemory, "guest memory in whole MiB, such as 512M or 4G (default: 512M)"},
    {"cpus", "N", SetCpus, "virtual processors (default: 2)"},
    {"backend", "NAME", SetText<[](MachineConfig& c, std::string t) { c.set_backend(std::move(t)); }>,
     ""},  // made by HelpText, as builds differ
    {"disk", "PATH[,format=raw][,readonly]", AddDisk, "a SCSI disk; may be repeated; a comma in PATH is written twice"},
    {"serial", "stdio|FILE|none", SetSerial, "where the serial port leads (default: stdio)"},
    {"smbios", "KEY=VALUE[,KEY=VALUE]...", SetSmbios,
     "what the machine says it is: uuid, serial, asset_tag, product, ...; may be repeated"},
    {"config", "FILE.textproto", nullptr, "read the machine from a file; other flags change or add to it"},
    {"trace", "FILE", SetText<[](MachineConfig& c, std::string t) { c.set_trace(std::move(t)); }>,
     "write exits, hypercalls and VMBus messages as a Chrome trace"},
    {"no-reboot", "", [](absl::string_view, MachineConfig& c) { return c.set_no_reboot(true), absl::OkStatus(); },
     "end when the guest resets, instead of starting again"},
    {"on-crash", "report|end", SetOnCrash,
     "a guest that says it crashed goes on, to dump or restart itself (default), or is ended"},
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
    if (has_value && value.empty() && name != "cmdline") return Invalid(shown, "the value is empty");
    return Setting{&flag, value};
  }
  if (name == "help") return Invalid("--help", "takes no value");
  return Invalid(absl::StrCat("--", name), "no such flag; --help lists them");
}

absl::StatusOr<MachineConfig> ReadConfigFile(const std::string& path) {
  constexpr uint64_t kMaxSize = 1 << 20;
  const std::string shown = absl::StrCat("--config=", path);
  const auto source = hvsdk::vmm::OpenFileSource(path);
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

}  // namespace

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
    if (setting->flag->apply == nullptr) {
      flags.config_path = std::string(setting->value);
    } else {
      settings.push_back(*setting);
    }
  }
  if (!flags.config_path.empty()) {
    absl::StatusOr<MachineConfig> config = ReadConfigFile(flags.config_path);
    if (!config.ok()) return config.status();
    flags.config = *std::move(config);
  }
  for (const Setting& setting : settings) {
    const absl::Status status = setting.flag->apply(setting.value, flags.config);
    if (!status.ok()) return Invalid(absl::StrCat("--", setting.flag->name), status.message());
  }
  if (flags.config.cmdline().empty()) flags.config.set_cmdline("console=ttyS0 quiet");
  if (!flags.config.has_serial()) flags.config.mutable_serial()->set_stdio(true);
  const absl::Status status = hvsdk::vmm::ValidateMachineConfig(flags.config);
  if (!status.ok()) return absl::InvalidArgumentError(absl::StrCat("--", status.message()));
  return flags;
}

std::string HelpText() {
  std::string text =
      "mini_vmm boots a guest on hvsdk: Hyper-V's hypervisor interface, VMBus and its disks.\n\n"
      "usage: mini_vmm --kernel=FILE [flag]...\n\n";
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

// SPDX-License-Identifier: Apache-2.0
#include "ctl.h"

#include <google/protobuf/util/json_util.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"
#include "ctl_exec.h"
#include "ctl_guest.h"
#include "ctl_input.h"
#include "ctl_screen.h"
#include "flags.h"
#include "hvsdk/vmm/config.h"
#include "hvsdk/vmm/control_server.h"
#include "hvsdk/vmm/machine_stats.h"
#include "messages.h"
#include "paths.h"

namespace mini_vmm {
namespace {

using hvsdk::vmm::ControlClient;
using hvsdk::vmm::ControlCommand;
using hvsdk::vmm::ControlReply;
using hvsdk::vmm::ControlRequest;

constexpr int kMistake = 2;
constexpr int kNoMachine = 3;
constexpr int kNotExecuted = 125;  // as env and timeout say it; 126 and more are the command's

struct Command {
  absl::string_view name;
  absl::string_view arguments;
  ControlCommand command;
  absl::string_view help;
};

constexpr Command kCommands[] = {
    {"status", "[--json] [--watch]", hvsdk::vmm::STATUS, "what the machine is and does"},
    {"stats", "[--json|--prometheus]", hvsdk::vmm::STATS,
     "what was counted since its start; for people, or in Prometheus' text format"},
    {"pause", "", hvsdk::vmm::PAUSE, "stop the guest; its disks are quiet then"},
    {"resume", "", hvsdk::vmm::RESUME, "let it go on"},
    {"reset", "", hvsdk::vmm::RESET, "the reset button"},
    {"power-button", "", hvsdk::vmm::POWER_BUTTON, "ask the guest to turn itself off"},
    {"shutdown", "[--restart|--hibernate] [--force] [--reason=TEXT]", hvsdk::vmm::SHUTDOWN,
     "ask the guest's integration driver to shut it down; says whether it begins"},
    {"balloon", "SIZE", hvsdk::vmm::BALLOON,
     "have the guest give memory up, or give it some back or more, until it has that much, such as 512M"},
    {"kvp", kKvpArguments, hvsdk::vmm::KEY_VALUE, "ask the guest about itself, and tell it things, by key and value"},
    {"copy", kCopyArguments, hvsdk::vmm::COPY_FILE, "write a file in the guest; ended, it is taken back"},
    {"exec", kExecArguments, hvsdk::vmm::STATUS,
     "run a command in the guest, by its agent; input, output, signals and the exit status are the command's, or 125"},
    {"type", kTypeArguments, hvsdk::vmm::TYPE, "type a text on the guest's keyboard; returns when the guest has it"},
    {"key", kKeyArguments, hvsdk::vmm::TYPE, "press keys, such as ctrl-alt-delete or f1, one after another"},
    {"mouse", kMouseArguments, hvsdk::vmm::POINT,
     "where the mouse is, from 0,0 to 32767,32767 or in percent, and which buttons are held there; --click lets go"},
    {"screenshot", "FILE", hvsdk::vmm::SCREENSHOT, "write what the guest shows to a PNG file"},
    {"record", "FILE|--end", hvsdk::vmm::RECORD,
     "record what the guest shows to an animated PNG file, which browsers and ffmpeg play; end that"},
    {"screen-text", kScreenTextArguments, hvsdk::vmm::SCREEN_TEXT,
     "print what the guest's text console says, read from its picture by the console's font (PSF)"},
    {"wait-for-text", kWaitForTextArguments, hvsdk::vmm::SCREEN_TEXT,
     "wait until the console says it, for 60 s or so long, and print the line"},
    {"nmi", "[--vp=N]", hvsdk::vmm::NMI, "a non-maskable interrupt to processor N, or 0"},
    {"lose-page", "GPA", hvsdk::vmm::LOSE_PAGE, "fail the memory at that address, to test what the guest makes of it"},
    {"stop", "", hvsdk::vmm::STOP, "end the machine at once"},
    {"save", "[--live [--pause]] [--base=DIR] DIR", hvsdk::vmm::SAVE,
     "save the machine and end it, or with --live let it go on, or with --pause stand still until you resume it; "
     "--base names its last "
     "live state: write what changed"},
    {"dump", "FILE", hvsdk::vmm::DUMP, "write a core file of memory and processors, for gdb and crash"},
    {"snapshot", kSnapshotArguments, hvsdk::vmm::SNAPSHOT,
     "have the disks go on in new images in DIR, and leave theirs as they are at a moment at which the guest's file "
     "systems stand "
     "still, which it may take 60 s for; --crash-consistent: as after a loss of power"},
    {"attach",
     "--disk=PATH[,readonly][,name=TEXT]|--dvd=[PATH][,name=TEXT]|--net=user|tap|socket|switch[,KEY=VALUE]...",
     hvsdk::vmm::ATTACH,
     "plug a disk, a DVD drive or a network adapter in; prints what it is there: storage/N, network/N"},
    {"detach", "storage/N|network/N|NAME", hvsdk::vmm::DETACH, "pull it out, and wait until it is let go of"},
    {"insert", "storage/N|NAME PATH", hvsdk::vmm::INSERT, "put an ISO file into a DVD drive"},
    {"eject", "[--force] storage/N|NAME", hvsdk::vmm::EJECT,
     "take out what is in a DVD drive; --force: although the guest has locked it"},
    {"trace", "on FILE|off [--device=network/N|NAME]", hvsdk::vmm::TRACE_ON,
     "trace what happens between guest and host to a file; end that. With --device, what goes through a network "
     "adapter, for "
     "Wireshark"},
    {"events", "[--json]", hvsdk::vmm::EVENTS,
     "print what has happened and what happens, line by line, until the machine ends"},
};

int Mistake(absl::string_view message) {
  Say(absl::StrCat("ctl: ", message));
  return kMistake;
}

// What a machine refuses is a mistake, unless there is none to do it, or not any more.
int Fail(const absl::Status& status, absl::string_view path) {
  Say(absl::StrCat("ctl ", path, ": ", status.message()));
  return absl::IsUnavailable(status) || absl::IsCancelled(status) ? kNoMachine : kMistake;
}

// Below `column`, so that no line is wider than 120 columns where it can be helped.
std::string Wrapped(absl::string_view text, size_t column) {
  std::string lines;
  size_t width = column;
  for (const absl::string_view word : absl::StrSplit(text, ' ')) {
    if (width > column && width + 1 + word.size() > 120) {
      absl::StrAppend(&lines, "\n", std::string(column, ' '));
      width = column;
    } else if (width > column) {
      lines += ' ';
      ++width;
    }
    absl::StrAppend(&lines, word);
    width += word.size();
  }
  return lines;
}

void Help() {
  absl::PrintF("usage: mini_vmm ctl PATH COMMAND\n\nPATH is what the machine was given as --control.\n\n");
  for (const Command& command : kCommands) {
    constexpr size_t kColumn = 32;
    const std::string left = absl::StrCat("  ", Wrapped(absl::StrCat(command.name, " ", command.arguments), 6));
    const bool has_own_line = left.size() >= kColumn;
    absl::PrintF("%-31s%s%s\n", left, has_own_line ? absl::StrCat("\n", std::string(kColumn, ' ')) : " ",
                 Wrapped(command.help, kColumn));
  }
  absl::PrintF(
      "\nexit status: 0  done\n"
      "             2  a mistake, or what the machine refuses\n"
      "             3  no machine listens at PATH, or it ended or was reset before it had answered\n"
      "exec returns the command's, or 125 if it does not come to that\n");
}

// By which path the machine's programs reach its guest's services.
absl::StatusOr<std::string> SocketsOf(const std::string& control_path) {
  absl::StatusOr<ControlClient> client = ControlClient::Connect(control_path);
  if (!client.ok()) return client.status();
  ControlRequest request;
  request.set_command(hvsdk::vmm::STATUS);
  const absl::StatusOr<ControlReply> reply = client->Ask(request, nullptr);
  if (!reply.ok()) return reply.status();
  const hvsdk::vmm::MachineStatus& status = reply->status();
  if (status.state() == "paused") return absl::FailedPreconditionError("exec: the machine is paused");
  if (!status.sockets().path().empty()) return status.sockets().path();
  return absl::FailedPreconditionError("exec: the machine has no sockets; see --sockets");
}

// `words` is PATH exec and what it takes.
int RunExecCommand(const std::vector<std::string>& words) {
  const absl::StatusOr<absl::Span<const std::string>> arguments = ParseExec(absl::MakeSpan(words).subspan(2));
  if (!arguments.ok()) return Mistake(absl::StrCat("exec: ", arguments.status().message()));
  const absl::StatusOr<std::string> sockets = SocketsOf(words[0]);
  const absl::StatusOr<int> status = sockets.ok() ? RunExec(*sockets, *arguments) : sockets.status();
  if (status.ok()) return *status;
  (void)Fail(status.status(), words[0]);
  return kNotExecuted;
}

void PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string text;
  (void)google::protobuf::util::MessageToJsonString(message, &text, options);
  absl::PrintF("%s", text);
}

void PrintStatus(const hvsdk::vmm::MachineStatus& status) {
  absl::PrintF(
      "state      %s\nbackend    %s\nprocessors %d\nmemory     %d MiB\nresets     %d\ntime       %.3f s\nprocess    "
      "%d\nheartbeat  %s\n",
      status.state(), status.backend(), status.cpus(), status.memory_mib(), status.resets(),
      static_cast<double>(status.reference_time_ns()) / 1e9, status.process(), status.contact());
  if (status.has_video()) {
    absl::PrintF("display    %s\n", status.video().width() == 0
                                        ? "nothing yet"
                                        : absl::StrFormat("%dx%d", status.video().width(), status.video().height()));
  }
  if (!status.video().recording().empty()) {
    absl::PrintF("recording  %s\n", absl::CHexEscape(status.video().recording()));
  }
  if (!status.video().vnc().empty()) {
    absl::PrintF("vnc        %s, %d viewers\n", absl::CHexEscape(status.video().vnc()), status.video().vnc_viewers());
  }
  if (!status.web().empty()) absl::PrintF("page       %s\n", status.web());
  if (status.has_sockets()) {
    absl::PrintF("sockets    %s, %d connections\n",
                 status.sockets().path().empty() ? "nowhere" : absl::CHexEscape(status.sockets().path()),
                 status.sockets().connections());
  }
  if (status.has_input()) PrintInput(status.input());
  if (const hvsdk::vmm::MemoryStatus& memory = status.memory(); memory.version() != 0) {
    absl::PrintF("balloon    %d MiB assigned", memory.assigned());
    if (memory.target() != memory.assigned()) absl::PrintF(" of %d wanted", memory.target());
    if (memory.max() > status.memory_mib()) absl::PrintF(", may have %d MiB", memory.max());
    if (memory.reported()) {
      absl::PrintF(", %d MiB needed, pressure %d %%, %d MiB available", memory.demand(), memory.pressure(),
                   memory.available());
    }
    absl::PrintF("\n");
  }
  for (const hvsdk::vmm::NetworkStatus& network : status.networks()) {
    absl::PrintF("%-10s %s%s%s, %s, link %s", network.device(), network.name(), network.name().empty() ? "" : ": ",
                 network.port(), network.mac(), network.link_up() ? "up" : "down");
    if (network.recorded()) absl::PrintF(", traced");
    if (network.leaving()) absl::PrintF(", is being pulled out");
    if (!network.version().empty()) {
      absl::PrintF("; guest: NVSP %s, MTU %d, %d channels, %s", network.version(), network.mtu(), network.channels(),
                   network.up() ? "up" : "down");
    }
    absl::PrintF("\n");
  }
  for (const hvsdk::vmm::DiskStatus& disk : status.disks()) {
    absl::PrintF("%-10s %s%s%s, %d bytes%s\n", disk.device(), disk.name(), disk.name().empty() ? "" : ": ",
                 disk.path().empty() ? "empty" : absl::CHexEscape(disk.path()), disk.size_bytes(),
                 disk.dvd()         ? ", a DVD"
                 : disk.read_only() ? ", read-only"
                                    : "");
  }
}

void PrintStats(const hvsdk::vmm::MachineStats& stats, bool prometheus) {
  absl::PrintF("%s", prometheus ? hvsdk::vmm::PrometheusText(stats) : hvsdk::vmm::StatsTable(stats));
}

void PrintEvent(const hvsdk::vmm::Event& event, bool json) {
  if (json) {
    std::string text;
    google::protobuf::util::JsonPrintOptions options;
    options.preserve_proto_field_names = true;
    (void)google::protobuf::util::MessageToJsonString(event, &text, options);
    absl::PrintF("%s\n", text);
    return;
  }
  const std::map<std::string, std::string> details(event.details().begin(), event.details().end());
  absl::PrintF("%.6f %s", static_cast<double>(event.reference_time_ns()) / 1e9, event.name());
  for (const auto& [key, value] : details) absl::PrintF(" %s=\"%s\"", key, value);
  absl::PrintF("\n");
}

// A line that goes on by itself, where somebody looks on.
void PrintProgress(const hvsdk::vmm::Progress& progress) {
  if (isatty(STDERR_FILENO) == 0) return;
  const bool is_end = progress.done_bytes() == progress.total_bytes();
  absl::FPrintF(stderr, "\r%d of %d MiB%s", progress.done_bytes() >> 20, progress.total_bytes() >> 20,
                is_end ? "\n" : "");
}

void PrintSaved(const hvsdk::vmm::SaveResult& saved, bool goes_on, bool is_paused) {
  absl::PrintF("%.1f MiB of memory%s, in %d round%s; ", static_cast<double>(saved.written_bytes()) / (1 << 20),
               saved.difference() ? " that changed" : "", saved.rounds(), saved.rounds() == 1 ? "" : "s");
  if (!goes_on) {
    absl::PrintF("the machine has ended\n");
  } else if (is_paused) {
    absl::PrintF("the guest stands still until \"resume\"\n");
  } else {
    absl::PrintF("the guest stood still for %.1f ms\n", static_cast<double>(saved.stood_still_ns()) / 1e6);
  }
}

int Follow(ControlClient& client, bool json) {
  for (;;) {
    const absl::StatusOr<ControlReply> reply = client.Receive();
    if (!reply.ok()) return 0;
    PrintEvent(reply->event(), json);
    // Nobody reads on.
    if (std::fflush(stdout) != 0) return 0;
  }
}

}  // namespace

int RunCtl(int count, char** arguments) {
  const std::vector<std::string> words(arguments, arguments + count);
  if (words.empty() || words[0] == "--help" || words[0] == "-h") return Help(), words.empty() ? kMistake : 0;
  if (words.size() < 2) return Mistake("PATH and COMMAND are needed; --help lists the commands");
  const Command* command = nullptr;
  for (const Command& each : kCommands) {
    if (each.name == words[1]) command = &each;
  }
  if (command == nullptr) return Mistake(absl::StrCat(words[1], ": no such command; --help lists them"));

  if (command->name == "exec") return RunExecCommand(words);

  ControlRequest request;
  request.set_command(command->command);
  bool json = false, watch = false, prometheus = false, has_address = false, has_device = false, ends = false;
  std::vector<std::string> trace;
  ScreenText screen_text;
  absl::Span<const std::string> rest = absl::MakeSpan(words).subspan(2);
  absl::Status parsed;
  if (command->command == hvsdk::vmm::KEY_VALUE) {
    parsed = ParseKvp(std::exchange(rest, {}), *request.mutable_key_value(), json);
  } else if (command->command == hvsdk::vmm::COPY_FILE) {
    parsed = ParseCopy(std::exchange(rest, {}), *request.mutable_copy_file());
    if (parsed.ok()) request.mutable_copy_file()->set_source(Absolute(request.copy_file().source()));
  }
  if (command->command == hvsdk::vmm::SNAPSHOT) {
    parsed = ParseSnapshot(std::exchange(rest, {}), *request.mutable_snapshot(), json);
    if (parsed.ok()) request.mutable_snapshot()->set_directory(Absolute(request.snapshot().directory()));
  } else if (command->name == "type") {
    parsed = ParseType(std::exchange(rest, {}), *request.mutable_typing());
  } else if (command->name == "key") {
    parsed = ParseKey(std::exchange(rest, {}), *request.mutable_typing());
  } else if (command->name == "mouse") {
    parsed = ParseMouse(std::exchange(rest, {}), request);
  } else if (command->command == hvsdk::vmm::SCREEN_TEXT) {
    parsed = ParseScreenText(std::exchange(rest, {}), command->name == "wait-for-text", screen_text, request);
  }
  if (!parsed.ok()) return Mistake(absl::StrCat(command->name, ": ", parsed.message()));
  for (const std::string& word : rest) {
    if (word == "--json" && !prometheus &&
        (command->command == hvsdk::vmm::STATUS || command->command == hvsdk::vmm::STATS ||
         command->command == hvsdk::vmm::EVENTS)) {
      json = true;
    } else if (word == "--prometheus" && !json && command->command == hvsdk::vmm::STATS) {
      prometheus = true;
    } else if (word == "--watch" && command->command == hvsdk::vmm::STATUS) {
      watch = true;
    } else if (absl::StartsWith(word, "--vp=") && command->command == hvsdk::vmm::NMI) {
      const absl::string_view number = absl::string_view(word).substr(5);
      uint32_t vp = 0;
      if (number.empty() || !absl::c_all_of(number, absl::ascii_isdigit) || !absl::SimpleAtoi(number, &vp)) {
        return Mistake(absl::StrCat("nmi: --vp: \"", number, "\" is no processor's number"));
      }
      request.set_vp(vp);
    } else if (command->command == hvsdk::vmm::SHUTDOWN && word == "--force") {
      request.mutable_shutdown()->set_force(true);
    } else if (command->command == hvsdk::vmm::SHUTDOWN && (word == "--restart" || word == "--hibernate") &&
               request.shutdown().action() == hvsdk::vmm::ShutdownConfig::POWER_OFF) {
      request.mutable_shutdown()->set_action(word == "--restart" ? hvsdk::vmm::ShutdownConfig::RESTART
                                                                 : hvsdk::vmm::ShutdownConfig::HIBERNATE);
    } else if (command->command == hvsdk::vmm::SHUTDOWN && absl::StartsWith(word, "--reason=")) {
      request.mutable_shutdown()->set_reason(word.substr(9));
    } else if (command->command == hvsdk::vmm::LOSE_PAGE && !has_address) {
      uint64_t gpa = 0;
      if (!absl::StartsWith(word, "0x") || !absl::SimpleHexAtoi(word, &gpa)) {
        return Mistake(absl::StrCat("lose-page: \"", word, "\" is no address, as in 0x12345000"));
      }
      request.set_gpa(gpa);
      has_address = true;
    } else if (command->command == hvsdk::vmm::BALLOON && request.memory_mib() == 0) {
      const absl::StatusOr<uint32_t> mib = hvsdk::vmm::ParseMemoryMib(word);
      if (!mib.ok()) return Mistake(absl::StrCat("balloon: ", mib.status().message()));
      if (*mib == 0) return Mistake("balloon: a guest needs memory");
      request.set_memory_mib(*mib);
    } else if (word == "--live" && command->command == hvsdk::vmm::SAVE) {
      request.set_live(true);
    } else if (word == "--pause" && command->command == hvsdk::vmm::SAVE) {
      request.set_pause(true);
    } else if (command->command == hvsdk::vmm::SAVE && request.base().empty() && absl::StartsWith(word, "--base=") &&
               word.size() > 7) {
      request.set_base(Absolute(word.substr(7)));
    } else if (command->command == hvsdk::vmm::SAVE && request.directory().empty() && !word.empty() && word[0] != '-') {
      request.set_directory(Absolute(word));
    } else if (command->command == hvsdk::vmm::ATTACH && !has_device && absl::StartsWith(word, "--net=")) {
      has_device = true;
      absl::StatusOr<hvsdk::vmm::NetworkConfig> network = ParseNetwork(absl::string_view(word).substr(6));
      if (!network.ok()) return Mistake(absl::StrCat("attach: --net: ", network.status().message()));
      if (network->tap().fd_size() != 0 || network->socket().has_fd()) {
        return Mistake("attach: --net: fd: a descriptor is the machine's when it starts, or never");
      }
      MakeAbsolute(*network);
      *request.mutable_network() = *std::move(network);
    } else if (command->command == hvsdk::vmm::ATTACH && !has_device && absl::StartsWith(word, "--disk=")) {
      has_device = true;
      absl::StatusOr<hvsdk::vmm::DiskConfig> disk = ParseDisk(absl::string_view(word).substr(7));
      if (!disk.ok()) return Mistake(absl::StrCat("attach: --disk: ", disk.status().message()));
      if (disk->path().empty()) return Mistake("attach: --disk: a path is needed");
      disk->set_path(Absolute(disk->path()));
      *request.mutable_disk() = *std::move(disk);
    } else if (command->command == hvsdk::vmm::TRACE_ON && request.device().empty() &&
               absl::StartsWith(word, "--device=") && word.size() > 9) {
      request.set_device(word.substr(9));
    } else if (command->command == hvsdk::vmm::ATTACH && !has_device && absl::StartsWith(word, "--dvd=")) {
      has_device = true;
      absl::StatusOr<hvsdk::vmm::DiskConfig> dvd = ParseDvd(absl::string_view(word).substr(6));
      if (!dvd.ok()) return Mistake(absl::StrCat("attach: --dvd: ", dvd.status().message()));
      if (!dvd->path().empty()) dvd->set_path(Absolute(dvd->path()));
      *request.mutable_disk() = *std::move(dvd);
    } else if ((command->command == hvsdk::vmm::SCREENSHOT || command->command == hvsdk::vmm::RECORD) &&
               request.path().empty() && !ends && !word.empty() && word[0] != '-') {
      request.set_path(Absolute(word));
    } else if (command->command == hvsdk::vmm::RECORD && word == "--end" && request.path().empty()) {
      ends = true;
    } else if (word == "--force" && command->command == hvsdk::vmm::EJECT) {
      request.set_force(true);
    } else if ((command->command == hvsdk::vmm::INSERT || command->command == hvsdk::vmm::EJECT) &&
               request.device().empty() && !word.empty() && word[0] != '-') {
      request.set_device(word);
    } else if (command->command == hvsdk::vmm::DUMP && request.path().empty() && !word.empty() && word[0] != '-') {
      request.set_path(Absolute(word));
    } else if (command->command == hvsdk::vmm::INSERT && request.path().empty() && !word.empty()) {
      request.set_path(Absolute(word));
    } else if (command->command == hvsdk::vmm::TRACE_ON && trace.size() < 2 && !word.empty() && word[0] != '-') {
      trace.push_back(word);
    } else if (command->command == hvsdk::vmm::DETACH && request.device().empty() && !word.empty() && word[0] != '-') {
      request.set_device(word);
    } else {
      return Mistake(absl::StrCat(command->name, ": \"", word, "\" is not expected; it takes ",
                                  command->arguments.empty() ? "nothing" : command->arguments));
    }
  }
  if (command->command == hvsdk::vmm::LOSE_PAGE && !has_address) return Mistake("lose-page: an address is needed");
  if (command->command == hvsdk::vmm::BALLOON && request.memory_mib() == 0) return Mistake("balloon: a size is needed");
  if (command->command == hvsdk::vmm::SCREENSHOT && request.path().empty())
    return Mistake("screenshot: a file is needed");
  if (command->command == hvsdk::vmm::RECORD && request.path().empty() && !ends) {
    return Mistake("record: a file, or --end, is needed");
  }
  if (request.pause() && !request.live()) return Mistake("save: --pause is for --live");
  if (command->command == hvsdk::vmm::SAVE && request.directory().empty())
    return Mistake("save: a directory is needed");
  if (command->command == hvsdk::vmm::DUMP && request.path().empty()) return Mistake("dump: a file is needed");
  if (command->command == hvsdk::vmm::TRACE_ON) {
    if (trace.size() == 2 && trace[0] == "on") {
      request.set_path(Absolute(trace[1]));
    } else if (trace.size() == 1 && trace[0] == "off") {
      request.set_command(hvsdk::vmm::TRACE_OFF);
    } else {
      return Mistake("trace: it takes on FILE, or off, and --device");
    }
  }
  if (command->command == hvsdk::vmm::ATTACH && !has_device)
    return Mistake("attach: --disk=PATH, --dvd= or --net=KIND is needed");
  if (command->command == hvsdk::vmm::INSERT && request.path().empty())
    return Mistake("insert: a drive and an ISO file are needed");
  if (command->command == hvsdk::vmm::EJECT && request.device().empty()) return Mistake("eject: a drive is needed");
  if (command->command == hvsdk::vmm::DETACH && request.device().empty())
    return Mistake("detach: storage/N, network/N or a name is needed; status lists them");

  absl::StatusOr<ControlClient> client = ControlClient::Connect(words[0]);
  if (!client.ok()) {
    const bool is_none = absl::IsNotFound(client.status());
    return Fail(is_none ? absl::UnavailableError(client.status().message()) : client.status(), words[0]);
  }
  if (command->command == hvsdk::vmm::SCREEN_TEXT) {
    const absl::Status done = PrintScreenText(*client, screen_text, request);
    return done.ok() ? 0 : Fail(done, words[0]);
  }
  for (;;) {
    const absl::StatusOr<ControlReply> reply = client->Ask(request, PrintProgress);
    if (!reply.ok()) {
      return Fail(reply.status(), words[0]);
    }
    if (reply->has_status()) json ? PrintJson(reply->status()) : PrintStatus(reply->status());
    if (!reply->device().empty()) absl::PrintF("%s\n", reply->device());
    if (reply->has_stats()) json ? PrintJson(reply->stats()) : PrintStats(reply->stats(), prometheus);
    if (reply->has_key_values()) {
      json ? PrintJson(reply->key_values()) : PrintKeyValues(request.key_value(), reply->key_values());
    }
    if (reply->has_saved()) PrintSaved(reply->saved(), request.live(), request.pause());
    if (command->command == hvsdk::vmm::SHUTDOWN) absl::PrintF("the guest has begun\n");
    if (reply->has_snapshot()) json ? PrintJson(reply->snapshot()) : PrintSnapshot(reply->snapshot());
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) return Mistake("standard output cannot be written");
    // It is one all the same.
    if (const std::string& error = reply->snapshot().thaw_error(); !error.empty()) {
      return Fail(absl::FailedPreconditionError(absl::StrCat("snapshot: it was taken, but ", error)), words[0]);
    }
    if (command->command == hvsdk::vmm::EVENTS) return Follow(*client, json);
    if (!watch) return 0;
    sleep(1);
    absl::PrintF("\n");
  }
}

}  // namespace mini_vmm

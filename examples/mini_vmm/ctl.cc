// SPDX-License-Identifier: Apache-2.0
#include "ctl.h"

#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"
#include "ctl_exec.h"
#include "ctl_guest.h"
#include "ctl_input.h"
#include "ctl_machine.h"
#include "ctl_screen.h"
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
  Parse parse;  // null: of a program of its own, that of exec
  absl::string_view help;
};

// Those of ctl_guest.h and ctl_input.h know one part of what is asked.
absl::Status ParseKeyValues(absl::Span<const std::string> words, absl::string_view, Asked& asked) {
  return ParseKvp(words, *asked.request.mutable_key_value(), asked.json);
}
absl::Status ParseCopyFile(absl::Span<const std::string> words, absl::string_view, Asked& asked) {
  hvsdk::vmm::CopyFileRequest& copy = *asked.request.mutable_copy_file();
  const absl::Status status = ParseCopy(words, copy);
  copy.set_source(Absolute(copy.source()));
  return status;
}
absl::Status ParseSnapshots(absl::Span<const std::string> words, absl::string_view, Asked& asked) {
  hvsdk::vmm::SnapshotRequest& snapshot = *asked.request.mutable_snapshot();
  const absl::Status status = ParseSnapshot(words, snapshot, asked.json);
  snapshot.set_directory(Absolute(snapshot.directory()));
  return status;
}
absl::Status ParseTyping(absl::Span<const std::string> words, absl::string_view, Asked& asked) {
  return ParseType(words, *asked.request.mutable_typing());
}
absl::Status ParseKeys(absl::Span<const std::string> words, absl::string_view, Asked& asked) {
  return ParseKey(words, *asked.request.mutable_typing());
}
absl::Status ParsePointer(absl::Span<const std::string> words, absl::string_view, Asked& asked) {
  return ParseMouse(words, asked.request);
}
absl::Status ParseReading(absl::Span<const std::string> words, absl::string_view, Asked& asked) {
  return ParseScreenText(words, /*waits=*/false, asked.screen_text, asked.request);
}
absl::Status ParseWaiting(absl::Span<const std::string> words, absl::string_view, Asked& asked) {
  return ParseScreenText(words, /*waits=*/true, asked.screen_text, asked.request);
}

constexpr Command kCommands[] = {
    {"status", "[--json] [--watch]", hvsdk::vmm::STATUS, ParseStatus, "what the machine is and does"},
    {"stats", "[--json|--prometheus]", hvsdk::vmm::STATS, ParseStats,
     "what was counted since its start; for people, or in Prometheus' text format"},
    {"pause", "", hvsdk::vmm::PAUSE, ParseNothing, "stop the guest; its disks are quiet then"},
    {"resume", "", hvsdk::vmm::RESUME, ParseNothing, "let it go on"},
    {"reset", "", hvsdk::vmm::RESET, ParseNothing, "the reset button"},
    {"power-button", "", hvsdk::vmm::POWER_BUTTON, ParseNothing, "ask the guest to turn itself off"},
    {"shutdown", "[--restart|--hibernate] [--force] [--reason=TEXT]", hvsdk::vmm::SHUTDOWN, ParseShutdown,
     "ask the guest's integration driver to shut it down; says whether it begins"},
    {"balloon", "SIZE", hvsdk::vmm::BALLOON, ParseBalloon,
     "have the guest give memory up, or give it some back or more, until it has that much, such as 512M"},
    {"kvp", kKvpArguments, hvsdk::vmm::KEY_VALUE, ParseKeyValues,
     "ask the guest about itself, and tell it things, by key and value"},
    {"copy", kCopyArguments, hvsdk::vmm::COPY_FILE, ParseCopyFile,
     "write a file in the guest; ended, it is taken back"},
    {"exec", kExecArguments, hvsdk::vmm::STATUS, nullptr,
     "run a command in the guest, by its agent; input, output, signals and the exit status are the command's, or 125"},
    {"type", kTypeArguments, hvsdk::vmm::TYPE, ParseTyping,
     "type a text on the guest's keyboard; returns when the guest has it"},
    {"key", kKeyArguments, hvsdk::vmm::TYPE, ParseKeys, "press keys, such as ctrl-alt-delete or f1, one after another"},
    {"mouse", kMouseArguments, hvsdk::vmm::POINT, ParsePointer,
     "where the mouse is, from 0,0 to 32767,32767 or in percent, and which buttons are held there; --click lets go"},
    {"screenshot", "FILE", hvsdk::vmm::SCREENSHOT, ParseFile, "write what the guest shows to a PNG file"},
    {"record", "FILE|--end", hvsdk::vmm::RECORD, ParseRecord,
     "record what the guest shows to an animated PNG file, which browsers and ffmpeg play; end that"},
    {"screen-text", kScreenTextArguments, hvsdk::vmm::SCREEN_TEXT, ParseReading,
     "print what the guest's text console says, read from its picture by the console's font (PSF)"},
    {"wait-for-text", kWaitForTextArguments, hvsdk::vmm::SCREEN_TEXT, ParseWaiting,
     "wait until the console says it, for 60 s or so long, and print the line"},
    {"nmi", "[--vp=N]", hvsdk::vmm::NMI, ParseNmi, "a non-maskable interrupt to processor N, or 0"},
    {"lose-page", "GPA", hvsdk::vmm::LOSE_PAGE, ParseLosePage,
     "fail the memory at that address, to test what the guest makes of it"},
    {"stop", "", hvsdk::vmm::STOP, ParseNothing, "end the machine at once"},
    {"save", "[--live [--pause]] [--base=DIR] DIR", hvsdk::vmm::SAVE, ParseSave,
     "save the machine and end it, or with --live let it go on, or with --pause stand still until you resume it; "
     "--base names its last "
     "live state: write what changed"},
    {"dump", "FILE", hvsdk::vmm::DUMP, ParseFile, "write a core file of memory and processors, for gdb and crash"},
    {"snapshot", kSnapshotArguments, hvsdk::vmm::SNAPSHOT, ParseSnapshots,
     "have the disks go on in new images in DIR, and leave theirs as they are at a moment at which the guest's file "
     "systems stand "
     "still, which it may take 60 s for; --crash-consistent: as after a loss of power"},
    {"attach",
     "--disk=PATH[,readonly][,name=TEXT]|--dvd=[PATH][,name=TEXT]|--net=user|tap|socket|switch[,KEY=VALUE]...",
     hvsdk::vmm::ATTACH, ParseAttach,
     "plug a disk, a DVD drive or a network adapter in; prints what it is there: storage/N, network/N"},
    {"detach", "storage/N|network/N|NAME", hvsdk::vmm::DETACH, ParseDetach,
     "pull it out, and wait until it is let go of"},
    {"insert", "storage/N|NAME PATH", hvsdk::vmm::INSERT, ParseInsert, "put an ISO file into a DVD drive"},
    {"eject", "[--force] storage/N|NAME", hvsdk::vmm::EJECT, ParseEject,
     "take out what is in a DVD drive; --force: although the guest has locked it"},
    {"trace", "on FILE|off [--device=network/N|NAME]", hvsdk::vmm::TRACE_ON, ParseTrace,
     "trace what happens between guest and host to a file; end that. With --device, what goes through a network "
     "adapter, for "
     "Wireshark"},
    {"events", "[--json]", hvsdk::vmm::EVENTS, ParseEvents,
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

// A list of the guest's comes in parts.
absl::StatusOr<ControlReply> AskForAll(ControlClient& client, ControlRequest request) {
  absl::StatusOr<ControlReply> all = client.Ask(request, PrintProgress);
  while (all.ok() && all->next_pair() != 0) {
    request.mutable_key_value()->set_from(all->next_pair());
    const absl::StatusOr<ControlReply> part = client.Ask(request, PrintProgress);
    if (!part.ok()) return part.status();
    all->mutable_key_values()->MergeFrom(part->key_values());
    all->set_next_pair(part->next_pair());
  }
  return all;
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

  if (command->parse == nullptr) return RunExecCommand(words);

  Asked asked;
  asked.request.set_command(command->command);
  const absl::string_view arguments_taken = command->arguments.empty() ? "nothing" : command->arguments;
  const absl::Status parsed = command->parse(absl::MakeSpan(words).subspan(2), arguments_taken, asked);
  if (!parsed.ok()) return Mistake(absl::StrCat(command->name, ": ", parsed.message()));
  const ControlRequest& request = asked.request;
  const bool json = asked.json;

  absl::StatusOr<ControlClient> client = ControlClient::Connect(words[0]);
  if (!client.ok()) {
    const bool is_none = absl::IsNotFound(client.status());
    return Fail(is_none ? absl::UnavailableError(client.status().message()) : client.status(), words[0]);
  }
  if (command->command == hvsdk::vmm::SCREEN_TEXT) {
    const absl::Status done = PrintScreenText(*client, asked.screen_text, request);
    return done.ok() ? 0 : Fail(done, words[0]);
  }
  for (;;) {
    const absl::StatusOr<ControlReply> reply = AskForAll(*client, request);
    if (!reply.ok()) {
      return Fail(reply.status(), words[0]);
    }
    if (reply->has_status()) json ? PrintJson(reply->status()) : PrintStatus(reply->status());
    if (!reply->device().empty()) absl::PrintF("%s\n", reply->device());
    if (reply->has_stats()) json ? PrintJson(reply->stats()) : PrintStats(reply->stats(), asked.prometheus);
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
    if (!asked.watch) return 0;
    sleep(1);
    absl::PrintF("\n");
  }
}

}  // namespace mini_vmm

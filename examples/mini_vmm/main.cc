// SPDX-License-Identifier: Apache-2.0
// mini_vmm: boots a guest from the command line. docs/mini_vmm.md describes the flags, the configuration file and the
// exit status.

#include <errno.h>
#include <fcntl.h>
#include <google/protobuf/stubs/logging.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "ctl.h"
#include "disks.h"
#include "files.h"
#include "flags.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/machine/machine.h"
#include "hvsdk/machine/tracer.h"
#include "hvsdk/network/unix_sockets.h"
#include "hvsdk/os/lost_memory.h"
#include "hvsdk/viewer/rfb_server.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/control_server.h"
#include "hvsdk/vmm/core_dump.h"
#include "hvsdk/vmm/machine_control.h"
#include "hvsdk/vmm/networks.h"
#include "hvsdk/vmm/screenshot.h"
#include "hvsdk/vmm/serial_console.h"
#include "messages.h"
#include "networks.h"
#include "paths.h"
#include "start_pages.h"
#include "viewers.h"
#include "web_page.h"

namespace mini_vmm {
namespace {

using hvsdk::boot::LoadInput;
using hvsdk::machine::Machine;
using hvsdk::machine::Outcome;
using hvsdk::vmm::MachineConfig;

enum ExitStatus : int {
  kPoweredOff = 0,
  kUserMistake = 2,
  kHostFailure = 3,
  kReset = 10,
  kCrashed = 11,
  kSignalBase = 128,
};

int Fail(ExitStatus status, absl::string_view message) {
  Say(message);
  return status;
}

// What the user can mend, as against what the host refuses.
int FailBy(const absl::Status& status, absl::string_view what) {
  const bool mistake =
      status.code() == absl::StatusCode::kInvalidArgument || status.code() == absl::StatusCode::kNotFound ||
      status.code() == absl::StatusCode::kPermissionDenied || status.code() == absl::StatusCode::kFailedPrecondition;
  return Fail(mistake ? kUserMistake : kHostFailure,
              what.empty() ? std::string(status.message()) : absl::StrCat(what, ": ", status.message()));
}

std::string BlamedFlag(LoadInput blame, const MachineConfig& config) {
  switch (blame) {
    case LoadInput::kNone:
      return "";
    case LoadInput::kKernel:
      return absl::StrCat("--kernel=", config.kernel());
    case LoadInput::kInitrd:
      return absl::StrCat("--initrd=", config.initrd());
    case LoadInput::kCommandLine:
      return "--cmdline";
    case LoadInput::kMemory:
      return absl::StrCat("--memory=", hvsdk::vmm::MemoryMib(config), "M",
                          config.memory_max_mib() == 0 ? "" : absl::StrCat(",max=", config.memory_max_mib(), "M"));
    case LoadInput::kCpus:
      return absl::StrFormat("--cpus=%d", hvsdk::vmm::Cpus(config));
    case LoadInput::kProcessor:
      return absl::StrCat("--processor=", config.processor());
    case LoadInput::kSmbios:
      return "--smbios";
    case LoadInput::kState:
      return "--restore";
  }
  return "";
}

void ReportCrash(const hvsdk::partition::CrashReport& crash) {
  std::string text = absl::StrFormat("mini_vmm: the guest crashed on processor %d: parameters", ToInt(crash.vp));
  for (const uint64_t parameter : crash.parameters) absl::StrAppendFormat(&text, " %#x", parameter);
  text += '\n';
  for (const char c : crash.message) {
    const bool printable = c == '\n' || c == '\t' || (c >= ' ' && c <= '~');
    text += printable ? c : '?';
  }
  if (text.back() != '\n') text += '\n';
  SayText(text);
}

// Whoever crashed may be at its restart already: what it is waits for no other device.
void WriteCrashDump(Machine& machine, const std::string& path) {
  const bool was_paused = machine.controller().state() == hvsdk::machine::Controller::State::kPaused;
  machine.board().Pause();
  const absl::Status written = hvsdk::vmm::WriteCoreDump(machine.board(), path);
  if (!was_paused) machine.board().Resume();
  Say(written.ok() ? absl::StrCat("a core file of the guest is in ", path)
                   : absl::StrCat("--crash-dump: ", written.message()));
}

// While the machine runs, in place of an exception: its threads have nobody to catch one.
void OnNoMemory() {
  hvsdk::vmm::RawTerminal::Restore();
  constexpr absl::string_view kLine =
      "mini_vmm: the host refuses memory to the running machine (limits: address space, data)\n";
  pollfd ready{STDERR_FILENO, POLLOUT, 0};
  if (poll(&ready, 1, /*timeout=*/0) == 1) (void)!write(STDERR_FILENO, kLine.data(), kLine.size());
  _exit(kHostFailure);
}

// A standard descriptor that is closed would be the next file that is opened, and the console's output would go into
// a disk.
void OpenStandardDescriptors() {
  int fd;
  do {
    fd = open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

// Processors are descriptors on some engines, and there may be more of them than a shell's usual limit allows.
void RaiseDescriptorLimit() {
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

// For a machine that is still to come. SIGUSR1 is its power button and waits for it.
void PrepareSignals() {
  sigset_t button;
  sigemptyset(&button);
  sigaddset(&button, SIGUSR1);
  pthread_sigmask(SIG_BLOCK, &button, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a disk that may not grow is full, and that is the guest's to know
}

// SIGUSR1 and the signals that ask the program to end, but for those that a shell or nohup has it ignore: blocked, they would come
// to a descriptor nevertheless.
sigset_t SignalsThatCount() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGUSR1, SIGTERM, SIGINT, SIGHUP, SIGQUIT}) {
    struct sigaction action {};
    sigaction(number, nullptr, &action);
    if (action.sa_handler != SIG_IGN || number == SIGUSR1 || number == SIGTERM) sigaddset(&signals, number);
  }
  return signals;
}

// What a state that is saved now carries, so that --restore needs no other flag.
absl::StatusOr<std::string> Configuration(const MachineConfig& config, const Files& files, bool goes_on) {
  hvsdk::vmm::SavedConfig saved;
  *saved.mutable_machine() = config;
  saved.mutable_machine()->clear_control();
  saved.mutable_machine()->clear_vnc();  // where that machine may still be
  saved.mutable_machine()->clear_vnc_password_file();
  saved.mutable_machine()->clear_vnc_tls();
  saved.mutable_machine()->clear_web();
  saved.mutable_machine()->clear_web_assets();
  saved.mutable_machine()->clear_crash_dump();
  saved.mutable_machine()->clear_screenshot();  // or it would be the next one's, too
  MakeAbsolute(*saved.mutable_machine());
  if (const absl::Status status = DescribeDisks(files, /*settle=*/!goes_on, saved); !status.ok()) return status;
  return saved.SerializeAsString();
}

// Returns the exit status.
int RunMachine(const Flags& flags) {
  MachineConfig config = flags.config;
  const sigset_t signals = SignalsThatCount();
  const int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signal_fd < 0) return Fail(kHostFailure, absl::StrCat("signalfd: ", strerror(errno)));
  if (const absl::Status handled = hvsdk::os::HandleLostMemory(); !handled.ok()) {
    return Fail(kHostFailure, handled.message());
  }
  if (!config.crash_dump().empty() && access(config.crash_dump().c_str(), F_OK) == 0) {
    return Fail(kUserMistake, absl::StrCat("--crash-dump=", config.crash_dump(), ": is there already"));
  }
  // When the guest has crashed it is too late to say so.
  const std::string dump_folder = config.crash_dump().substr(0, config.crash_dump().rfind('/') + 1);
  if (!dump_folder.empty() && access(dump_folder.c_str(), W_OK) != 0) {
    return Fail(kUserMistake,
                absl::StrCat("--crash-dump=", config.crash_dump(), ": ", dump_folder, ": ", strerror(errno)));
  }
  Files files;
  if (const absl::Status opened = OpenFiles(flags, files); !opened.ok()) return FailBy(opened, "");

  auto loop = hvsdk::os::EventLoop::Create();
  if (!loop.ok()) return Fail(kHostFailure, loop.status().message());
  hvsdk::machine::MachineOptions options;  // whose network ports are the loop's
  options.kernel = files.kernel.get();
  options.initrd = files.initrd.get();
  options.command_line = config.cmdline();
  options.memory_bytes = uint64_t{hvsdk::vmm::MemoryMib(config)} << 20;
  options.max_memory_bytes = uint64_t{config.memory_max_mib()} << 20;
  options.cpus = hvsdk::vmm::Cpus(config);
  options.io_threads = config.io_threads();
  options.processor =
      config.processor() == "portable" ? hvsdk::machine::Processor::kPortable : hvsdk::machine::Processor::kHost;
  for (size_t i = 0; i < files.disks.size(); ++i) {
    const hvsdk::vmm::DiskConfig& disk = config.disks(static_cast<int>(i));
    options.disks.push_back({files.disks[i], disk.path(), static_cast<uint8_t>(disk.lun())});
    options.disks.back().is_dvd = disk.dvd();
  }
  for (const uint8_t lun : flags.left_out) options.disks.push_back({std::shared_ptr<hvsdk::BlockDevice>(), "", lun});
  options.loopback_ports = config.loopback_ports();
  options.smbios = *hvsdk::vmm::SmbiosOf(config);  // the flags are valid
  options.integration = *hvsdk::vmm::IntegrationOf(config);
  options.input = *hvsdk::vmm::InputOf(config);

  if (config.has_sockets()) options.sockets.emplace();
  options.video = *hvsdk::vmm::VideoOf(config);

  std::string note;
  hvsdk::backend::SoftwareTime instruction_time;
  if (config.deterministic()) options.instruction_time = &instruction_time;
  const auto backend = config.deterministic()
                           ? hvsdk::backend::CreateSoftwareBackend({.instruction_time = &instruction_time})
                           : hvsdk::vmm::CreateBackend(config.backend(), &note);
  if (!backend.ok()) {
    return FailBy(backend.status(), absl::StrCat("--backend=", config.backend().empty() ? "auto" : config.backend()));
  }
  if (!note.empty()) Say(note);
  options.backend = backend->get();

  hvsdk::vmm::NetworkPorts ports(**loop);
  for (const hvsdk::vmm::NetworkConfig& network : config.networks()) {
    const auto& left_out = flags.left_out_networks;
    hvsdk::vmm::NetworkConfig plugged = network;
    if (std::find(left_out.begin(), left_out.end(), network.number()) != left_out.end()) plugged.clear_to();
    auto adapter = ports.Make(plugged);
    if (!adapter.ok()) {
      return FailBy(adapter.status(),
                    flags.state == nullptr ? "--net" : absl::StrCat("--net=network/", network.number()));
    }
    options.networks.push_back(*std::move(adapter));
  }
  Machine* current = nullptr;
  int exit_signal = 0;
  bool quit = false;
  absl::Status watched = (*loop)->Watch(signal_fd, EPOLLIN, [&](uint32_t) {
    signalfd_siginfo info;
    if (read(signal_fd, &info, sizeof(info)) != sizeof(info)) return;
    if (info.ssi_signo == SIGUSR1) return current->PressPowerButton();
    exit_signal = static_cast<int>(info.ssi_signo);
    current->Stop();
  });
  if (!watched.ok()) return Fail(kHostFailure, watched.message());

  const bool stdio = config.serial().stdio();
  absl::optional<hvsdk::vmm::SerialConsole> console;
  if (stdio || files.serial.is_open()) {
    hvsdk::vmm::SerialConsole::Options to;
    to.output_fd = files.serial.fd();
    if (stdio) {
      to.input_fd = STDIN_FILENO;
      to.output_fd = STDOUT_FILENO;
      // Whatever is piped in is the guest's, byte by byte.
      if (isatty(STDIN_FILENO)) {
        to.on_quit = [&] {
          quit = true;
          current->Stop();
        };
      }
    }
    console.emplace(**loop, std::move(to));
    options.serial = &*console;
  }
  absl::optional<hvsdk::machine::Tracer> tracer;
  std::string trace_path = config.trace();
  if (files.trace.is_open()) options.tracer = &tracer.emplace();
  hvsdk::vmm::ControlServer* listeners = nullptr;
  Disks* attached = nullptr;
  options.on_event = [&](const hvsdk::machine::MachineEvent& event) {
    if (event.name == "medium-ejected" && attached != nullptr) attached->OnEjected(event.details[0].second);
    if (listeners != nullptr) listeners->Tell(hvsdk::vmm::ToControlEvent(event));
  };

  bool gave_up = false;
  absl::Status screenshot;
  absl::optional<hvsdk::vmm::RawTerminal> terminal;
  options.on_crash =
      config.on_crash() == "end" ? hvsdk::machine::CrashAction::kEnd : hvsdk::machine::CrashAction::kReport;
  options.crash_observer = [&](const hvsdk::partition::CrashReport& crash) {
    ReportCrash(crash);
    if (!config.crash_dump().empty()) WriteCrashDump(*current, config.crash_dump());
  };
  if (!config.no_reboot() && !config.deterministic() && files.kernel != nullptr) {
    options.on_reset = hvsdk::machine::ResetAction::kRestart;
  }
  if (flags.state != nullptr) {
    options.saved = &flags.state->machine();
    options.map_memory = [&](hvsdk::os::HostMemory& memory) { return flags.state->MapMemory(memory); };
  }
  const auto run = [&]() -> int {
    LoadInput blame{};
    const auto machine = Machine::Create(options, **loop, blame);
    if (!machine.ok()) {
      terminal.reset();
      if (blame == LoadInput::kNone) return Fail(kHostFailure, machine.status().message());
      return FailBy(machine.status(), BlamedFlag(blame, config));
    }
    current = machine->get();
    options.disks.clear();  // they are the machine's, until they are pulled out
    options.networks.clear();
    // Until here signals end the program by themselves, even where it waits for a file that does not answer.
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    if (stdio) terminal.emplace();
    std::set_new_handler(OnNoMemory);
    const auto start_trace = [&](const std::string& path) -> absl::Status {
      if (tracer.has_value()) return absl::FailedPreconditionError("trace: the machine is traced already");
      hvsdk::vmm::OutputFile file;
      if (absl::Status opened = OpenTrace(flags.config_path, config, path, file); !opened.ok()) return opened;
      file.Commit();
      absl::Status status = tracer.emplace().Start(file.fd());
      if (status.ok()) status = current->StartTrace(*tracer);
      if (!status.ok()) tracer.reset();
      trace_path = path;
      return status;
    };
    const auto stop_trace = [&]() -> absl::Status {
      if (absl::Status status = current->StopTrace(); !status.ok()) return status;
      const absl::Status written = tracer->Finish();
      tracer.reset();
      return FileError(absl::StrCat("trace: ", trace_path), written);
    };
    Disks disks(flags.config_path, config, files, *current);
    Networks networks(flags.config_path, config, ports, *current);
    for (const uint32_t number : flags.left_out_networks) (void)networks.Detach(static_cast<uint8_t>(number), nullptr);
    attached = &disks;
    std::unique_ptr<hvsdk::network::UnixSockets> sockets;
    if (!config.sockets().empty()) {
      auto made = hvsdk::network::UnixSockets::Create(**loop, *current->sockets(), {.path = config.sockets()});
      if (!made.ok()) {
        terminal.reset();
        return FailBy(made.status(), absl::StrCat("--sockets=", config.sockets()));
      }
      sockets = *std::move(made);
    }
    std::unique_ptr<hvsdk::viewer::RfbServer> vnc;
    if (current->display() != nullptr && (!config.vnc().empty() || !config.web().empty())) {
      auto listening = ServeVnc(config, *current, **loop);
      if (!listening.ok()) {
        terminal.reset();
        return FailBy(listening.status(), absl::StrCat("--vnc=", config.vnc()));
      }
      vnc = *std::move(listening);
    }
    // A machine that goes on from memory which nobody has changed need not wait until all of it is read.
    absl::Status damage;
    std::unique_ptr<hvsdk::vmm::StateDirectory::Check> check;
    if (flags.state != nullptr && flags.state->is_unchanged()) {
      auto started = flags.state->CheckMeanwhile([&](const absl::Status& status) {
        damage = status;
        current->Stop();
      });
      if (!started.ok()) return FailBy(started.status(), "--restore");
      check = *std::move(started);
    }
    // The control goes first: a save that comes to its end with it tells those who listen.
    std::unique_ptr<hvsdk::vmm::ControlServer> server;
    absl::optional<hvsdk::vmm::MachineControl> control;
    WebPage page;
    if (!config.control().empty() || !config.web().empty()) {
      control.emplace(*current,
                      hvsdk::vmm::MachineControl::Options{
                          .backend = std::string((*backend)->name()),
                          .configuration = [&](bool goes_on) { return Configuration(config, files, goes_on); },
                          .origin = check.get(),
                          .tell =
                              [&](const hvsdk::vmm::Event& event) {
                                if (server != nullptr) server->Tell(event);
                              },
                          .disks = &disks,
                          .networks = &networks,
                          .vnc = config.vnc().empty() ? nullptr : vnc.get(),
                          .page_url = [&] { return page.url(); },
                          .sockets_path = sockets == nullptr ? std::string() : sockets->path(),
                          .keyboard_layout = config.keyboard_layout().empty() ? "us" : config.keyboard_layout(),
                          .open_screenshot = [&](const std::string& path) -> absl::StatusOr<int> {
                            hvsdk::vmm::OutputFile file;
                            const absl::Status opened = OpenScreenshot(flags.config_path, config, path, file);
                            if (!opened.ok()) return opened;
                            return file.Release();
                          },
                          .start_trace = start_trace,
                          .stop_trace = stop_trace});
    }
    if (!config.web().empty()) {
      const absl::Status opened =
          page.Open(config, **loop, *control, *current, vnc.get(), console.has_value() ? &*console : nullptr);
      if (!opened.ok()) {
        terminal.reset();
        return FailBy(opened, "");
      }
      Say(absl::StrCat("the machine's page: ", page.url()));
    }
    if (!config.control().empty()) {
      auto listening = hvsdk::vmm::ControlServer::Listen(**loop, config.control(), *control);
      if (!listening.ok()) {
        terminal.reset();
        return FailBy(listening.status(), absl::StrCat("--control=", config.control()));
      }
      server = *std::move(listening);
      listeners = server.get();
    }
    // Nothing is written before all is there, so that a mistake changes nothing.
    if (files.serial.is_open()) files.serial.Commit();
    if (files.trace.is_open()) {
      files.trace.Commit();
      const absl::Status started = tracer->Start(files.trace.fd());
      if (!started.ok()) return FailBy(started, absl::StrCat("--trace=", config.trace()));
    }
    if (flags.state == nullptr) LetGoOfStart();  // a guest that goes on is waited for
    const hvsdk::machine::MachineResult result = current->Run();
    if (check != nullptr) check->End();
    std::set_new_handler(nullptr);
    // A slow reader gets all that the guest said, but for one that holds up the user's own wish to end.
    if (console.has_value() && result.outcome != Outcome::kStopped) {
      console->Flush([&] {
        (*loop)->RunOnce(/*wait=*/false);
        return exit_signal == 0 && !quit;
      });
    }
    if (files.screenshot.is_open()) {
      screenshot = hvsdk::vmm::Screenshot::Write(*current->display(), files.screenshot.fd());
      if (screenshot.ok()) close(files.screenshot.Release());
    }
    gave_up = result.gave_up;
    if (gave_up) {
      terminal.reset();
      return Fail(kHostFailure, absl::StrCat("--disk: ", result.status.message(),
                                             "; what the guest asked of it last may not have been done"));
    }
    if (config.deterministic()) {
      Say(absl::StrFormat("%d instructions, state hash %016x", result.instructions, result.state_hash));
    }
    if (!damage.ok()) {
      terminal.reset();
      return Fail(kHostFailure, absl::StrCat("--restore: ", damage.message(),
                                             "; the medium has changed it, and the guest ran for a moment"));
    }
    if (exit_signal != 0) return kSignalBase + exit_signal;
    switch (result.outcome) {
      case Outcome::kPoweredOff:
      case Outcome::kStopped:
        return kPoweredOff;
      case Outcome::kCrashed:
        if (result.after_crash == Outcome::kCrashed && options.on_crash == hvsdk::machine::CrashAction::kReport) {
          Say(absl::StrFormat("the crashed guest has been silent for %d seconds", options.crash_silence_ms / 1000));
        }
        return kCrashed;
      case Outcome::kHostFailure:
        terminal.reset();
        return Fail(kHostFailure, result.status.message());
      case Outcome::kReset:
        if (files.kernel == nullptr && !config.no_reboot()) {
          Say(absl::StrCat("the guest has reset itself, and cannot start again: ", files.missing.message()));
        }
        return quit ? kPoweredOff : kReset;
    }
    return kHostFailure;
  };
  int status = run();
  terminal.reset();
  // Output that was lost is a failure, however well the guest ended; unless it was for the signal that nobody waited
  // for its reader.
  const auto check = [&](const absl::Status& written, absl::string_view flag, absl::string_view where) {
    if (written.ok()) return;
    Say(absl::StrCat("--", flag, "=", where, ": ", written.message()));
    if (exit_signal == 0 || !absl::IsDeadlineExceeded(written)) status = kHostFailure;
  };
  if (console.has_value()) check(console->output_status(), "serial", stdio ? "stdio" : config.serial().file());
  if (tracer.has_value()) check(tracer->Finish(), "trace", trace_path);
  // That the guest showed nothing is no failure of the host's.
  if (absl::IsFailedPrecondition(screenshot)) {
    Say(absl::StrCat("--screenshot=", config.screenshot(), ": ", screenshot.message()));
  } else {
    check(screenshot, "screenshot", config.screenshot());
  }
  if (gave_up) {
    // To close a disk that does not answer would wait for it.
    FinishMessages();
    _exit(status);
  }
  return status;
}

int Main(int argc, char** argv) {
  google::protobuf::SetLogHandler(nullptr);  // what cannot be read is said by whoever reads it
  if (argc > 1 && absl::string_view(argv[1]) == "ctl") return RunCtl(argc - 2, argv + 2);
  PrepareSignals();
  OpenStandardDescriptors();
  RaiseDescriptorLimit();
  const absl::StatusOr<Flags> flags = ParseFlags(argc, argv);
  if (!flags.ok()) return FailBy(flags.status(), "");
  if (flags->help) {
    absl::FPrintF(stdout, "%s", HelpText());
    // A text that is longer than the buffer has failed already.
    return fflush(stdout) == 0 && ferror(stdout) == 0 ? kPoweredOff
                                                      : Fail(kHostFailure, absl::StrCat("--help: ", strerror(errno)));
  }
  return RunMachine(*flags);
}

}  // namespace
}  // namespace mini_vmm

int main(int argc, char** argv) {
  int status = mini_vmm::kHostFailure;
  try {
    status = mini_vmm::Main(argc, argv);
  } catch (const std::bad_alloc&) {
    mini_vmm::SayText("mini_vmm: the host refuses memory (limits: address space, data)\n");
  }
  mini_vmm::FinishMessages();
  return status;
}

// SPDX-License-Identifier: Apache-2.0
// mini_vmm: boots a guest from the command line. docs/mini_vmm.md describes the flags, the configuration file and the exit
// status.

#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/optional.h"
#include "flags.h"
#include "output_file.h"
#include "hvsdk/backend_software/software_backend.h"
#include "hvsdk/block_file/raw_disk.h"
#include "hvsdk/vmm/backends.h"
#include "hvsdk/vmm/machine.h"
#include "hvsdk/vmm/serial_console.h"
#include "hvsdk/vmm/tracer.h"

namespace mini_vmm {
namespace {

using hvsdk::vmm::LoadInput;
using hvsdk::vmm::Machine;
using hvsdk::vmm::MachineConfig;
using hvsdk::vmm::Outcome;

enum ExitStatus : int {
  kPoweredOff = 0,
  kUserMistake = 2,
  kHostFailure = 3,
  kReset = 10,
  kCrashed = 11,
  kSignalBase = 128,
};

int Fail(ExitStatus status, absl::string_view message) {
  absl::FPrintF(stderr, "mini_vmm: %s\n", message);
  return status;
}

// What the user can mend, as against what the host refuses.
int FailBy(const absl::Status& status, absl::string_view what) {
  const bool mistake = status.code() == absl::StatusCode::kInvalidArgument ||
                       status.code() == absl::StatusCode::kNotFound ||
                       status.code() == absl::StatusCode::kPermissionDenied ||
                       status.code() == absl::StatusCode::kFailedPrecondition;
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
      return absl::StrFormat("--memory=%dM", hvsdk::vmm::MemoryMib(config));
    case LoadInput::kCpus:
      return absl::StrFormat("--cpus=%d", hvsdk::vmm::Cpus(config));
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
  (void)!write(STDERR_FILENO, text.data(), text.size());
}

// Signals that ask the program to end, as a descriptor. Blocked in every thread from here on.
int OpenSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) sigaddset(&signals, number);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a disk that may not grow is full, and that is the guest's to know
  return signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

int RunMachine(const MachineConfig& config) {
  hvsdk::vmm::MachineOptions options;
  options.command_line = config.cmdline();
  options.memory_bytes = uint64_t{hvsdk::vmm::MemoryMib(config)} << 20;
  options.cpus = hvsdk::vmm::Cpus(config);
  options.loopback_ports = config.loopback_ports();

  const auto kernel = hvsdk::vmm::OpenFileSource(config.kernel());
  if (!kernel.ok()) return FailBy(kernel.status(), absl::StrCat("--kernel=", config.kernel()));
  options.kernel = kernel->get();
  std::unique_ptr<hvsdk::vmm::ByteSource> initrd;
  if (!config.initrd().empty()) {
    auto opened = hvsdk::vmm::OpenFileSource(config.initrd());
    if (!opened.ok()) return FailBy(opened.status(), absl::StrCat("--initrd=", config.initrd()));
    initrd = *std::move(opened);
    options.initrd = initrd.get();
  }
  if (config.disks_size() != 0) {
    const auto engine = hvsdk::FileEngine::Create(hvsdk::FileEngineKind::kAuto);
    if (!engine.ok()) return FailBy(engine.status(), "--disk");
    for (const hvsdk::vmm::DiskConfig& disk : config.disks()) {
      auto opened = hvsdk::RawDisk::Open(disk.path(), {.read_only = disk.read_only()}, *engine);
      if (!opened.ok()) return FailBy(opened.status(), "--disk");
      options.disks.push_back(*std::move(opened));
    }
  }

  std::string note;
  hvsdk::backend::InstructionTime instruction_time;
  if (config.deterministic()) options.instruction_time = &instruction_time;
  const auto backend = config.deterministic()
                           ? hvsdk::backend::CreateSoftwareBackend({.instruction_time = &instruction_time})
                           : hvsdk::vmm::CreateBackend(config.backend(), &note);
  if (!backend.ok()) {
    return FailBy(backend.status(), absl::StrCat("--backend=", config.backend().empty() ? "auto" : config.backend()));
  }
  if (!note.empty()) absl::FPrintF(stderr, "mini_vmm: %s\n", note);
  options.backend = backend->get();

  const int signal_fd = OpenSignals();
  auto loop = hvsdk::vmm::EventLoop::Create();
  if (!loop.ok()) return FailBy(loop.status(), "");
  Machine* current = nullptr;
  int exit_signal = 0;
  absl::Status watched = (*loop)->Watch(signal_fd, EPOLLIN, [&](uint32_t) {
    signalfd_siginfo info;
    if (read(signal_fd, &info, sizeof(info)) != sizeof(info)) return;
    exit_signal = static_cast<int>(info.ssi_signo);
    current->Stop();
  });
  if (!watched.ok()) return FailBy(watched, "");

  const bool stdio = config.serial().stdio();
  absl::optional<hvsdk::vmm::SerialConsole> console;
  if (stdio || !config.serial().file().empty()) {
    hvsdk::vmm::SerialConsole::Options to;
    if (stdio) {
      to.input_fd = STDIN_FILENO;
      to.output_fd = STDOUT_FILENO;
      to.on_quit = [&] { current->Stop(); };
    }
    console.emplace(**loop, std::move(to));
    options.serial = &*console;
  }

  // Nothing is written before the first machine is there, so that a mistake changes nothing.
  OutputFile serial_file, trace_file;
  if (!config.serial().file().empty()) {
    const absl::Status opened = serial_file.Open(config.serial().file());
    if (!opened.ok()) return FailBy(opened, absl::StrCat("--serial=", config.serial().file()));
    console->SetOutput(serial_file.fd());
  }
  absl::optional<hvsdk::vmm::Tracer> tracer;
  if (!config.trace().empty()) {
    const absl::Status opened = trace_file.Open(config.trace());
    if (!opened.ok()) return FailBy(opened, absl::StrCat("--trace=", config.trace()));
    options.tracer = &tracer.emplace();
  }
  absl::optional<hvsdk::vmm::RawTerminal> terminal;
  for (bool first = true;; first = false) {
    LoadInput blame{};
    const auto machine = Machine::Create(options, **loop, blame);
    if (!machine.ok()) {
      if (blame == LoadInput::kNone) return Fail(kHostFailure, machine.status().message());
      return FailBy(machine.status(), BlamedFlag(blame, config));
    }
    current = machine->get();
    if (first) {
      if (serial_file.is_open()) serial_file.Commit();
      if (trace_file.is_open()) {
        trace_file.Commit();
        tracer->Start(trace_file.fd());
      }
      if (stdio) terminal.emplace();
    }
    const hvsdk::vmm::MachineResult result = current->Run();
    if (config.deterministic()) {
      absl::FPrintF(stderr, "mini_vmm: %d instructions, state hash %016x\n", result.instructions, result.state_hash);
    }
    switch (result.outcome) {
      case Outcome::kPoweredOff:
        return kPoweredOff;
      case Outcome::kStopped:
        return exit_signal != 0 ? kSignalBase + exit_signal : kPoweredOff;
      case Outcome::kCrashed:
        terminal.reset();
        ReportCrash(result.crash);
        return kCrashed;
      case Outcome::kHostFailure:
        terminal.reset();
        return Fail(kHostFailure, result.status.message());
      case Outcome::kReset:
        if (config.no_reboot() || config.deterministic()) return kReset;
        break;
    }
  }
}

int Main(int argc, char** argv) {
  const absl::StatusOr<Flags> flags = ParseFlags(argc, argv);
  if (!flags.ok()) return Fail(kUserMistake, flags.status().message());
  if (flags->help) {
    absl::FPrintF(stdout, "%s", HelpText());
    return 0;
  }
  return RunMachine(flags->config);
}

}  // namespace
}  // namespace mini_vmm

int main(int argc, char** argv) { return mini_vmm::Main(argc, argv); }

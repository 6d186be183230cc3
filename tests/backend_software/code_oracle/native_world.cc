// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/code_oracle/native_world.h"

#include <asm/ldt.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "tests/backend_software/host_segment.h"

namespace hvsdk::code_oracle {
namespace {

constexpr int kSignals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP, SIGUSR2};
constexpr int kGregs[kRegisters] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI};
constexpr uint64_t kUserCode64 = 0x33, kUserData = 0x2B;

// The handler works on these; it is entered once to begin a step (SIGUSR2) and once when the code faults.
const Step* g_step;
Outcome* g_outcome;
ucontext_t g_host;  // where Run was

void Handle(int signal, siginfo_t*, void* context_pointer) {
  auto* context = static_cast<ucontext_t*>(context_pointer);
  auto& gregs = context->uc_mcontext.gregs;
  if (signal == SIGUSR2) {
    g_host = *context;
    for (int i = 0; i < kRegisters; ++i) gregs[kGregs[i]] = static_cast<greg_t>(g_step->registers[i]);
    gregs[REG_RIP] = static_cast<greg_t>(g_step->ip);
    gregs[REG_EFL] = static_cast<greg_t>(g_step->rflags | 0x200);
    // CS, GS, FS, SS, 16 bits each.
    const uint64_t cs = g_step->segment < 0 ? kUserCode64 : static_cast<uint64_t>(g_step->segment) << 3 | 7;
    const auto others = static_cast<uint64_t>(gregs[REG_CSGSFS]) & 0x0000FFFFFFFF0000;
    gregs[REG_CSGSFS] = static_cast<greg_t>(others | cs | kUserData << 48);
    return;
  }
  for (int i = 0; i < kRegisters; ++i) g_outcome->registers[i] = static_cast<uint64_t>(gregs[kGregs[i]]);
  g_outcome->ip = static_cast<uint64_t>(gregs[REG_RIP]);
  g_outcome->rflags = static_cast<uint64_t>(gregs[REG_EFL]);
  g_outcome->vector = static_cast<int>(gregs[REG_TRAPNO]);
  g_outcome->error_code = static_cast<uint32_t>(gregs[REG_ERR]);
  g_outcome->address = gregs[REG_TRAPNO] == 14 ? static_cast<uint64_t>(gregs[REG_CR2]) : 0;
  std::memcpy(gregs, g_host.uc_mcontext.gregs, sizeof(gregs));
}

class NativeWorld final : public World {
 public:
  ~NativeWorld() override {
    if (stack_of_signals_ != nullptr) {
      for (int i = 0; i < 6; ++i) sigaction(kSignals[i], &previous_[i], nullptr);
      stack_t none{};
      none.ss_flags = SS_DISABLE;
      sigaltstack(&none, nullptr);
      std::free(stack_of_signals_);
    }
    munmap(Window(0), kWindowPages * kPage);
    munmap(reinterpret_cast<void*>(kStackAddress), kStackSize);
    if (frames_ != MAP_FAILED) munmap(frames_, kFrames * kPage);
    if (file_ >= 0) close(file_);
  }

  bool Initialise(std::string& why) {
    why = "the fixed addresses are taken in this process";
    file_ = memfd_create("code_oracle", 0);
    if (file_ < 0 || ftruncate(file_, kFrames * kPage) != 0) return false;
    frames_ = mmap(nullptr, kFrames * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0);
    constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
    if (frames_ == MAP_FAILED || mmap(Window(0), kWindowPages * kPage, PROT_NONE, kAnonymous, -1, 0) == MAP_FAILED ||
        mmap(reinterpret_cast<void*>(kStackAddress), kStackSize, PROT_READ | PROT_WRITE, kAnonymous, -1, 0) ==
            MAP_FAILED) {
      return false;
    }
    why = "this kernel has no local descriptor tables";
    if (!SetSegment(0, {0, 0}) || !HostHasCodeSegment(7)) return false;
    // Outside 64-bit mode accesses need data segments.
    asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"(static_cast<uint32_t>(kUserData)));
    stack_of_signals_ = std::malloc(kSignalStackSize);
    stack_t stack{};
    stack.ss_sp = stack_of_signals_;
    stack.ss_size = kSignalStackSize;
    if (sigaltstack(&stack, nullptr) != 0) return false;
    struct sigaction action {};
    action.sa_sigaction = Handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 6; ++i) sigaction(kSignals[i], &action, &previous_[i]);
    return true;
  }

  void Begin(const Program& program) override {
    for (int i = 0; i < kFrames; ++i) std::memcpy(FrameAt(i), program.frames[i].data(), kPage);
    std::memcpy(reinterpret_cast<void*>(kStackAddress), program.stack.data(), kStackSize);
    for (int i = 0; i < kSegments; ++i) SetSegment(i, program.segments[i]);
  }

  void Run(const Step& step, Outcome& outcome) override {
    for (const Patch& patch : step.patches)
      std::memcpy(FrameAt(patch.frame) + patch.offset, patch.bytes.data(), patch.bytes.size());
    for (int page = 0; page < kWindowPages; ++page) {
      const int frame = step.mapping[page];
      if (frame == mapped_[page]) continue;
      mapped_[page] = frame;
      if (frame < 0) {
        mmap(Window(page), kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
      } else {
        mmap(Window(page), kPage, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_FIXED, file_,
             static_cast<off_t>(frame * kPage));
      }
    }
    g_step = &step;
    g_outcome = &outcome;
    // The call returns twice over: once the handler has let the code run and its fault has been taken.
    syscall(SYS_tgkill, getpid(), static_cast<pid_t>(syscall(SYS_gettid)), SIGUSR2);
    for (int i = 0; i < kFrames; ++i) std::memcpy(outcome.frames[i].data(), FrameAt(i), kPage);
    std::memcpy(outcome.stack.data(), reinterpret_cast<void*>(kStackAddress), kStackSize);
  }

 private:
  static constexpr size_t kSignalStackSize = 256 << 10;

  static void* Window(int page) { return reinterpret_cast<void*>(kWindowAddress + page * kPage); }
  uint8_t* FrameAt(int i) { return static_cast<uint8_t*>(frames_) + i * kPage; }
  static bool SetSegment(int index, const CodeSegment& segment) {
    user_desc descriptor{};
    descriptor.entry_number = static_cast<unsigned>(index);
    descriptor.base_addr = segment.base;
    descriptor.limit = segment.limit;
    descriptor.seg_32bit = 1;
    descriptor.contents = MODIFY_LDT_CONTENTS_CODE;
    return syscall(SYS_modify_ldt, 0x11, &descriptor, sizeof(descriptor)) == 0;
  }

  int file_ = -1;
  void* frames_ = MAP_FAILED;
  void* stack_of_signals_ = nullptr;
  Mapping mapped_{-1, -1, -1};
  struct sigaction previous_[6] = {};
};

}  // namespace

std::unique_ptr<World> CreateNativeWorld(std::string& why) {
  auto world = std::make_unique<NativeWorld>();
  if (!world->Initialise(why)) return nullptr;
  return world;
}

}  // namespace hvsdk::code_oracle

// SPDX-License-Identifier: Apache-2.0
#include "tests/backend_software/oracle/native_executor.h"

#include <asm/prctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

namespace hvsdk::oracle {
namespace {

constexpr int kSignals[] = {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP, SIGUSR2};
constexpr uint64_t kUserCode32 = 0x23, kUserData = 0x2B, kUserCode64 = 0x33;  // as Linux has them
constexpr int kGregs[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                            REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

// The handler works on these; it is entered once to begin a sequence (SIGUSR2) and once when the sequence faults.
const UserState* g_input;
Outcome* g_outcome;
ucontext_t g_host;  // where Run was
_libc_fpstate g_host_fp;

void Handle(int signal, siginfo_t*, void* context_pointer) {
  auto* context = static_cast<ucontext_t*>(context_pointer);
  auto& gregs = context->uc_mcontext.gregs;
  _libc_fpstate& fp = *context->uc_mcontext.fpregs;
  if (signal == SIGUSR2) {
    g_host = *context;
    g_host_fp = fp;
    for (int i = 0; i < 16; ++i) gregs[kGregs[i]] = static_cast<greg_t>(g_input->gpr[i]);
    gregs[REG_RIP] = static_cast<greg_t>(g_input->rip);
    gregs[REG_EFL] = static_cast<greg_t>(g_input->rflags);
    // CS, GS, FS, SS, 16 bits each.
    const auto others = static_cast<uint64_t>(gregs[REG_CSGSFS]) & 0x0000FFFFFFFF0000;
    gregs[REG_CSGSFS] = static_cast<greg_t>(others | (g_input->is_64bit ? kUserCode64 : kUserCode32) | kUserData << 48);
    fp.mxcsr = g_input->mxcsr;
    fp.cwd = g_input->x87_control;
    fp.swd = g_input->x87_status;
    fp.ftw = g_input->x87_valid;
    for (int i = 0; i < 8; ++i) std::memcpy(&fp._st[i], g_input->st[i].data(), 10);
    for (int i = 0; i < 16; ++i) std::memcpy(&fp._xmm[i], g_input->xmm[i].data(), 16);
    // The kernel restores only what the XSAVE header in the reserved bytes says is not in its initial state.
    auto* xstate = reinterpret_cast<uint8_t*>(&fp) + 512;
    const auto magic = *reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(&fp) + 464);
    if (magic == 0x46505853) *reinterpret_cast<uint64_t*>(xstate) |= 3;
    return;
  }
  UserState& state = g_outcome->state;
  for (int i = 0; i < 16; ++i) state.gpr[i] = static_cast<uint64_t>(gregs[kGregs[i]]);
  state.rip = static_cast<uint64_t>(gregs[REG_RIP]);
  state.rflags = static_cast<uint64_t>(gregs[REG_EFL]);
  state.mxcsr = fp.mxcsr;
  state.x87_control = fp.cwd;
  state.x87_status = fp.swd;
  state.x87_valid = static_cast<uint8_t>(fp.ftw);
  for (int i = 0; i < 8; ++i) std::memcpy(state.st[i].data(), &fp._st[i], 10);
  for (int i = 0; i < 16; ++i) std::memcpy(state.xmm[i].data(), &fp._xmm[i], 16);
  g_outcome->fault = {static_cast<uint8_t>(gregs[REG_TRAPNO]), static_cast<uint32_t>(gregs[REG_ERR]),
                      gregs[REG_TRAPNO] == 14 ? static_cast<uint64_t>(gregs[REG_CR2]) : 0};
  // Back to Run: everything the sequence may have changed is put back, the segment registers included.
  std::memcpy(gregs, g_host.uc_mcontext.gregs, sizeof(gregs));
  fp = g_host_fp;
}

class NativeExecutor : public Executor {
 public:
  ~NativeExecutor() override {
    for (int i = 0; i < 6; ++i) sigaction(kSignals[i], &previous_[i], nullptr);
    stack_t none{};
    none.ss_flags = SS_DISABLE;
    sigaltstack(&none, nullptr);
    std::free(stack_);
    munmap(reinterpret_cast<void*>(kCodeAddress), kCodeSize);
    munmap(reinterpret_cast<void*>(kDataAddress), kDataSize);
    munmap(writable_code_, kCodeSize);
  }

  bool Initialise() {
    // The code is written through a second mapping, so that the first is what the guest's page tables say: read-only.
    const int fd = memfd_create("oracle", 0);
    if (fd < 0 || ftruncate(fd, kCodeSize) != 0) return false;
    writable_code_ = mmap(nullptr, kCodeSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void* code = mmap(reinterpret_cast<void*>(kCodeAddress), kCodeSize, PROT_READ | PROT_EXEC,
                      MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    close(fd);
    void* data = mmap(reinterpret_cast<void*>(kDataAddress), kDataSize, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (writable_code_ == MAP_FAILED || code == MAP_FAILED || data == MAP_FAILED) return false;
    // Outside 64-bit mode accesses need data segments.
    asm volatile("mov %0, %%ds\n mov %0, %%es" ::"r"(static_cast<uint32_t>(kUserData)));
    // Sanitizers may have a handler and an alternate stack already.
    stack_ = std::malloc(256 << 10);
    stack_t stack{};
    stack.ss_sp = stack_;
    stack.ss_size = 256 << 10;
    if (sigaltstack(&stack, nullptr) != 0) return false;
    struct sigaction action {};
    action.sa_sigaction = Handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (int i = 0; i < 6; ++i) sigaction(kSignals[i], &action, &previous_[i]);
    return true;
  }

  void Run(const std::vector<uint8_t>& code, const UserState& state, const std::array<uint8_t, kDataSize>& data,
           Outcome& outcome) override {
    std::memset(writable_code_, 0xCC, kCodeSize);
    std::memcpy(writable_code_, code.data(), code.size());
    std::memcpy(reinterpret_cast<void*>(kDataAddress), data.data(), kDataSize);
    g_input = &state;
    g_outcome = &outcome;
    // The call returns twice over: once the handler has let the sequence run and its fault has been taken.
    syscall(SYS_tgkill, getpid(), static_cast<pid_t>(syscall(SYS_gettid)), SIGUSR2);
    std::memcpy(outcome.data.data(), reinterpret_cast<void*>(kDataAddress), kDataSize);
  }

 private:
  void* writable_code_ = MAP_FAILED;
  void* stack_ = nullptr;
  struct sigaction previous_[6] = {};
};

}  // namespace

std::unique_ptr<Executor> CreateNativeExecutor() {
  auto executor = std::make_unique<NativeExecutor>();
  if (!executor->Initialise()) return nullptr;
  return executor;
}

}  // namespace hvsdk::oracle

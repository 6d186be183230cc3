// SPDX-License-Identifier: Apache-2.0
// The system calls of /dev/kvm with owned descriptors and errors as absl::Status (Linux
// Documentation/virt/kvm/api.rst).

#ifndef HVSDK_SRC_BACKEND_KVM_KVM_API_H_
#define HVSDK_SRC_BACKEND_KVM_KVM_API_H_

#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "hvsdk/backend/backend.h"

namespace hvsdk::backend::kvm {

class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_ = -1;
};

// "KVM_X: Invalid argument", with a code that suits errno.
absl::Status KvmError(absl::string_view what, int error);

template <typename Argument>
absl::Status Ioctl(const Fd& fd, unsigned long request, absl::string_view name, Argument argument) {
  if (::ioctl(fd.get(), request, argument) < 0) return KvmError(name, errno);
  return absl::OkStatus();
}
#define HVSDK_KVM_IOCTL(fd, request, argument) ::hvsdk::backend::kvm::Ioctl(fd, request, #request, argument)

absl::StatusOr<Fd> CreateVm(const Fd& device);

// What the kernel can give a guest, or what a VP shall be given.
absl::StatusOr<std::vector<kvm_cpuid_entry2>> GetSupportedCpuid(const Fd& device);
absl::Status SetCpuid(const Fd& vcpu, absl::Span<const kvm_cpuid_entry2> entries);

absl::StatusOr<std::vector<uint32_t>> GetMsrIndices(const Fd& device);

inline int CheckExtension(const Fd& fd, int capability) {
  const int result = ::ioctl(fd.get(), KVM_CHECK_EXTENSION, capability);
  return result < 0 ? 0 : result;
}

// What a vCPU's TSC is more than the host's, scaled. Kernels since 5.16.
bool HasTscOffset(const Fd& vcpu);
absl::StatusOr<uint64_t> GetTscOffset(const Fd& vcpu);
absl::Status SetTscOffset(const Fd& vcpu, uint64_t offset);

absl::Status EnableCap(const Fd& fd, uint32_t capability, uint64_t argument, absl::string_view name);

// A count and so many elements, as several ioctls want them (struct kvm_cpuid2, struct kvm_msrs).
//
// The kernel's header declares these with an array macro that has a size in C++ and none in C, so neither its
// structures nor the request numbers that contain their sizes can be used here.
template <typename Element>
class List {
 public:
  explicit List(uint32_t count) : words_(1 + (count * sizeof(Element) + 7) / 8) { words_[0] = count; }
  explicit List(absl::Span<const Element> elements) : List(static_cast<uint32_t>(elements.size())) {
    if (!elements.empty()) std::memcpy(this->elements(), elements.data(), elements.size() * sizeof(Element));
  }
  void* get() { return words_.data(); }
  uint32_t count() const { return static_cast<uint32_t>(words_[0]); }
  Element* elements() { return reinterpret_cast<Element*>(words_.data() + 1); }

 private:
  std::vector<uint64_t> words_;  // the count, 32 bits of padding, the elements
};
inline constexpr uint32_t kListHeaderSize = 8;
inline constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, kListHeaderSize);
inline constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, kListHeaderSize);
inline constexpr unsigned long kGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, kListHeaderSize);
// struct kvm_xsave ends in such an array, too.
inline constexpr unsigned long kGetXsave = _IOC(_IOC_READ, KVMIO, 0xA4, 4096);
inline constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xA5, 4096);
inline constexpr unsigned long kGetXsave2 = _IOC(_IOC_READ, KVMIO, 0xCF, 4096);
inline constexpr unsigned long kSetGsiRouting = _IOC(_IOC_WRITE, KVMIO, 0x6A, kListHeaderSize);
inline constexpr unsigned long kSetSignalMask = _IOC(_IOC_WRITE, KVMIO, 0x8B, 4);
inline constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, kListHeaderSize);

}  // namespace hvsdk::backend::kvm

#endif  // HVSDK_SRC_BACKEND_KVM_KVM_API_H_

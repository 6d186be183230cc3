// SPDX-License-Identifier: Apache-2.0
#include "backend_kvm/kvm_api.h"

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace hvsdk::backend::kvm {
namespace {

kvm_device_attr TscOffsetAttribute(uint64_t& offset) {
  kvm_device_attr attr{};
  attr.group = KVM_VCPU_TSC_CTRL;
  attr.attr = KVM_VCPU_TSC_OFFSET;
  attr.addr = reinterpret_cast<uint64_t>(&offset);
  return attr;
}

}  // namespace

bool HasTscOffset(const Fd& vcpu) {
  uint64_t unused = 0;
  kvm_device_attr attr = TscOffsetAttribute(unused);
  return ::ioctl(vcpu.get(), KVM_HAS_DEVICE_ATTR, &attr) == 0;
}

absl::StatusOr<uint64_t> GetTscOffset(const Fd& vcpu) {
  uint64_t offset = 0;
  kvm_device_attr attr = TscOffsetAttribute(offset);
  RETURN_IF_ERROR(HVSDK_KVM_IOCTL(vcpu, KVM_GET_DEVICE_ATTR, &attr));
  return offset;
}

absl::Status SetTscOffset(const Fd& vcpu, uint64_t offset) {
  kvm_device_attr attr = TscOffsetAttribute(offset);
  return HVSDK_KVM_IOCTL(vcpu, KVM_SET_DEVICE_ATTR, &attr);
}

absl::Status KvmError(absl::string_view what, int error) {
  // strerror is safe here for the errors the kernel gives: constant strings.
  const std::string text = absl::StrCat(what, ": ", std::strerror(error));
  switch (error) {
    case EINVAL:
      return absl::InvalidArgumentError(text);
    case ENOMEM:
    case ENOSPC:
      return absl::ResourceExhaustedError(text);
    case EEXIST:
      return absl::AlreadyExistsError(text);
    case ENOENT:
      return absl::NotFoundError(text);
    default:
      return absl::InternalError(text);
  }
}

absl::StatusOr<Fd> CreateVm(const Fd& device) {
  for (;;) {
    const int fd = ::ioctl(device.get(), KVM_CREATE_VM, 0UL);
    if (fd >= 0) return Fd(fd);
    // A pending signal interrupts the creation of a VM, which may take long.
    if (errno != EINTR) return KvmError("KVM_CREATE_VM", errno);
  }
}

absl::Status EnableCap(const Fd& fd, uint32_t capability, uint64_t argument, absl::string_view name) {
  kvm_enable_cap cap{};
  cap.cap = capability;
  cap.args[0] = argument;
  if (::ioctl(fd.get(), KVM_ENABLE_CAP, &cap) < 0) return KvmError(absl::StrCat("KVM_ENABLE_CAP ", name), errno);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<kvm_cpuid_entry2>> GetSupportedCpuid(const Fd& device) {
  for (uint32_t count = 128; count <= 4096; count *= 2) {
    List<kvm_cpuid_entry2> list(count);
    if (::ioctl(device.get(), kGetSupportedCpuid, list.get()) == 0) {
      return std::vector<kvm_cpuid_entry2>(list.elements(), list.elements() + list.count());
    }
    if (errno != E2BIG) return KvmError("KVM_GET_SUPPORTED_CPUID", errno);
  }
  return absl::InternalError("KVM_GET_SUPPORTED_CPUID: no end of leaves");
}

absl::StatusOr<std::vector<uint32_t>> GetMsrIndices(const Fd& device) {
  // struct kvm_msr_list, whose size in C++ is not that in C.
  constexpr unsigned long kGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, sizeof(uint32_t));
  for (uint32_t count = 512; count <= 65536; count *= 2) {
    std::vector<uint32_t> list(1 + count);
    list[0] = count;
    if (::ioctl(device.get(), kGetMsrIndexList, list.data()) == 0) {
      return std::vector<uint32_t>(list.begin() + 1, list.begin() + 1 + list[0]);
    }
    if (errno != E2BIG) return KvmError("KVM_GET_MSR_INDEX_LIST", errno);
  }
  return absl::InternalError("KVM_GET_MSR_INDEX_LIST: no end of MSRs");
}

absl::Status SetCpuid(const Fd& vcpu, absl::Span<const kvm_cpuid_entry2> entries) {
  List<kvm_cpuid_entry2> list(entries);
  return Ioctl(vcpu, kSetCpuid2, "KVM_SET_CPUID2", list.get());
}

}  // namespace hvsdk::backend::kvm

// SPDX-License-Identifier: Apache-2.0
#include "start_pages.h"

#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace mini_vmm {
namespace {

constexpr uintptr_t kPage = 4096;

// Whether a page is a file's still (proc(5), pagemap): one that somebody has written to is the process's own.
bool IsFiles(uint64_t entry) {
  constexpr uint64_t kIsPresent = uint64_t{1} << 63, kIsFile = uint64_t{1} << 61;
  return (entry & kIsPresent) != 0 && (entry & kIsFile) != 0;
}

void LetGoOf(int pagemap, uintptr_t begin, uintptr_t end) {
  uint64_t entries[512];
  while (begin < end) {
    const size_t count = std::min<size_t>(std::size(entries), (end - begin) / kPage);
    const auto size = static_cast<ssize_t>(count * sizeof(entries[0]));
    if (pread(pagemap, entries, count * sizeof(entries[0]), static_cast<off_t>(begin / kPage * sizeof(entries[0]))) !=
        size) {
      return;
    }
    for (size_t first = 0; first < count;) {
      size_t behind = first;
      while (behind < count && IsFiles(entries[behind])) ++behind;
      if (behind != first) {
        madvise(reinterpret_cast<void*>(begin + first * kPage), (behind - first) * kPage, MADV_DONTNEED);
      }
      first = behind + 1;
    }
    begin += count * kPage;
  }
}

}  // namespace

void LetGoOfStart() {
  int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) return;
  dl_iterate_phdr(
      [](dl_phdr_info* object, size_t, void* pagemap) {
        for (int i = 0; i < object->dlpi_phnum; ++i) {
          const ElfW(Phdr)& segment = object->dlpi_phdr[i];
          if (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0) continue;
          const uintptr_t begin = object->dlpi_addr + segment.p_vaddr;
          LetGoOf(*static_cast<const int*>(pagemap), begin & ~(kPage - 1),
                  (begin + segment.p_memsz + kPage - 1) & ~(kPage - 1));
        }
        return 0;
      },
      &pagemap);
  close(pagemap);
}

}  // namespace mini_vmm

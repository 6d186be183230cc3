// SPDX-License-Identifier: Apache-2.0
// A machine's memory and processors as a core file, for debuggers: ELF, with a thread for each processor.
//
// `gdb` shows the processors' registers, and memory at the kernel's addresses as its page tables have them; `crash` takes it as it
// takes a Linux' own dump. For that a Linux guest tells where it lies (VMCOREINFO, Documentation/admin-guide/kdump/vmcoreinfo.rst), which is
// looked for in its memory and is a note of the file; of other guests the first processor's page tables count. Memory is in the file once,
// sparse where it is zero, as segments at the kernel's addresses and at guest physical ones.
//
// Limits: 60000 segments of what page tables map; what is beyond is found by physical address alone.
//
// Thread class: the machine's loop's, while no processor runs (Controller::WhilePaused, Board::Pause).
//
//   machine.controller().WhilePaused([&] { return vmm::WriteCoreDump(machine.board(), "guest.core"); });

#ifndef HVSDK_VMM_CORE_DUMP_H_
#define HVSDK_VMM_CORE_DUMP_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "hvsdk/machine/board.h"

namespace hvsdk::vmm {

// Told some times a second, at most, how much of memory is done. False: nobody wants the dump any more.
using OnDumpProgress = std::function<bool(uint64_t done_bytes, uint64_t total_bytes)>;

// Makes a new file, which only its owner can read; after an error it is gone. AlreadyExists: something is at `path`. Cancelled: by
// `on_progress`. Others: the host or the engine refuses; the message names the file.
absl::Status WriteCoreDump(machine::Board& board, const std::string& path, const OnDumpProgress& on_progress = nullptr);

}  // namespace hvsdk::vmm

#endif  // HVSDK_VMM_CORE_DUMP_H_

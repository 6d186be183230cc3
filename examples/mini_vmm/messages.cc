// SPDX-License-Identifier: Apache-2.0
#include "messages.h"

#include <unistd.h>

#include <chrono>
#include <memory>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "hvsdk/os/output_writer.h"

namespace mini_vmm {
namespace {

using hvsdk::os::OutputWriter;

// Made by the first message. Null: there has been none, or the host refuses what it takes.
std::unique_ptr<OutputWriter> writer;

}  // namespace

void Say(absl::string_view message) {
  std::string line = "mini_vmm: ";
  for (const char c : message) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) {
      absl::StrAppendFormat(&line, "\\x%02x", c);
    } else {
      line += c;
    }
  }
  // Of one that quotes a long text both ends are of use: what is blamed, and why.
  constexpr size_t kEnd = 4096;
  if (line.size() > 2 * kEnd) line.replace(kEnd, line.size() - 2 * kEnd, "[...]");
  SayText(absl::StrCat(line, "\n"));
}

void SayText(absl::string_view text) {
  try {
    if (writer == nullptr) {
      auto made = OutputWriter::Create(STDERR_FILENO, {.thread_name = "messages", .capacity = 65536});
      if (made.ok()) writer = *std::move(made);
    }
    if (writer != nullptr) {
      writer->Put(text);
      return;
    }
  } catch (const std::bad_alloc&) {  // which this may be about
  }
  (void)!write(STDERR_FILENO, text.data(), text.size());
}

void FinishMessages() {
  if (writer != nullptr) writer->Flush(std::chrono::milliseconds(250));
  writer.reset();
}

}  // namespace mini_vmm

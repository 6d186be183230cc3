// SPDX-License-Identifier: Apache-2.0
#include "ctl_screen.h"

#include <unistd.h>

#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "ctl_guest.h"
#include "hvsdk/vmm/console_text.h"

namespace mini_vmm {
namespace {

constexpr absl::Duration kBetweenLooks = absl::Milliseconds(200);

// What Linux has built in, as Debian and Fedora have it as a file.
constexpr const char* kFonts[] = {"/usr/share/consolefonts/Lat15-VGA16.psf.gz",
                                  "/usr/share/kbd/consolefonts/default8x16.psfu.gz",
                                  "/usr/lib/kbd/consolefonts/default8x16.psfu.gz"};

}  // namespace

absl::Status ParseScreenText(absl::Span<const std::string> words, bool waits, ScreenText& options,
                             hvsdk::vmm::ControlRequest& request) {
  const absl::string_view arguments = waits ? kWaitForTextArguments : kScreenTextArguments;
  std::string font;
  for (const std::string& word : words) {
    if (font.empty() && absl::StartsWith(word, "--font=") && word.size() > 7) {
      font = word.substr(7);
    } else if (waits && absl::StartsWith(word, "--timeout=")) {
      const std::string number = word.substr(10);
      if (number.empty() || !absl::ascii_isdigit(static_cast<unsigned char>(number[0])) ||
          !absl::SimpleAtoi(number, &options.timeout_seconds)) {
        return absl::InvalidArgumentError(absl::StrCat("--timeout: \"", number, "\" is no number of seconds"));
      }
    } else if (waits && options.wanted.empty() && !word.empty() && !absl::StartsWith(word, "--")) {
      options.wanted = word;
    } else {
      return Unexpected(word, arguments);
    }
  }
  if (waits && options.wanted.empty()) return absl::InvalidArgumentError("a text is needed");
  if (font.empty()) {
    for (const char* const each : kFonts) {
      if (access(each, R_OK) != 0) continue;
      font = each;
      break;
    }
  }
  if (font.empty()) {
    return absl::InvalidArgumentError(
        "--font=FILE is needed: the console's font (PSF), such as guest/console-font.psf.gz, which "
        "scripts/guest-assets makes, or "
        "Lat15-VGA16.psf.gz of Debian's console-setup-linux");
  }
  absl::StatusOr<std::string> psf = hvsdk::vmm::ConsoleFont::ReadFile(font);
  const absl::Status valid = psf.ok() ? hvsdk::vmm::ConsoleFont::Parse(*psf).status() : psf.status();
  if (!valid.ok()) {
    return absl::Status(valid.code(), absl::StrCat("--font=", font, ": ", absl::CHexEscape(valid.message())));
  }
  request.set_font(*std::move(psf));
  return absl::OkStatus();
}

absl::Status PrintScreenText(hvsdk::vmm::ControlClient& client, const ScreenText& options,
                             const hvsdk::vmm::ControlRequest& request) {
  const absl::Time end = absl::Now() + absl::Seconds(options.timeout_seconds);
  for (;;) {
    const absl::StatusOr<hvsdk::vmm::ControlReply> reply = client.Ask(request, nullptr);
    if (!reply.ok()) return reply.status();
    if (options.wanted.empty()) {
      std::fputs(reply->screen_text().c_str(), stdout);
      return absl::OkStatus();
    }
    for (const absl::string_view line : absl::StrSplit(reply->screen_text(), '\n')) {
      if (!absl::StrContains(line, options.wanted)) continue;
      std::fputs(absl::StrCat(line, "\n").c_str(), stdout);
      return absl::OkStatus();
    }
    if (absl::Now() >= end) {
      return absl::DeadlineExceededError(absl::StrCat("wait-for-text: the guest has not shown \"",
                                                      absl::CHexEscape(options.wanted), "\" for ",
                                                      options.timeout_seconds, " s"));
    }
    absl::SleepFor(kBetweenLooks);
  }
}

}  // namespace mini_vmm

// SPDX-License-Identifier: Apache-2.0
#include "ctl_input.h"

#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "ctl_guest.h"

namespace mini_vmm {

using hvsdk::vmm::ControlRequest;
using hvsdk::vmm::PointerPosition;
using hvsdk::vmm::TypeRequest;

namespace {

constexpr uint32_t kMaxCoordinate = 32767;

// "--layout=NAME".
bool TakeLayout(const std::string& word, TypeRequest& request) {
  if (!absl::StartsWith(word, "--layout=") || word.size() == 9) return false;
  request.set_layout(word.substr(9));
  return true;
}

// "16384", "50%".
bool ParseCoordinate(absl::string_view text, uint32_t& value) {
  const bool is_percent = absl::ConsumeSuffix(&text, "%");
  if (text.empty() || text.find_first_not_of("0123456789.") != text.npos) return false;
  if (is_percent) {
    double percent = 0;
    if (!absl::SimpleAtod(text, &percent) || percent > 100) return false;
    value = static_cast<uint32_t>(percent * kMaxCoordinate / 100 + 0.5);
    return true;
  }
  return absl::SimpleAtoi(text, &value) && value <= kMaxCoordinate;
}

}  // namespace

absl::Status ParseType(absl::Span<const std::string> words, TypeRequest& request) {
  bool enter = false, has_text = false, only_text = false;  // "--" ends the options, for a text that looks like one
  for (const std::string& word : words) {
    if (!only_text && word == "--") {
      only_text = true;
    } else if (!only_text && word == "--enter") {
      enter = true;
    } else if (!only_text && word == "--unicode") {
      request.set_unicode(true);
    } else if (!only_text && TakeLayout(word, request)) {
    } else if (has_text || (!only_text && absl::StartsWith(word, "--"))) {
      return Unexpected(word, kTypeArguments);
    } else {
      has_text = true;
      request.set_text(word);
    }
  }
  if (!has_text && !enter) return absl::InvalidArgumentError("a text is needed");
  if (enter) request.mutable_text()->push_back('\n');
  return absl::OkStatus();
}

absl::Status ParseKey(absl::Span<const std::string> words, TypeRequest& request) {
  for (const std::string& word : words) {
    if ((word == "--press" || word == "--release") && request.action() == TypeRequest::STROKE) {
      request.set_action(word == "--press" ? TypeRequest::PRESS : TypeRequest::RELEASE);
    } else if (TakeLayout(word, request)) {
    } else if (word.empty() || (word.size() > 2 && absl::StartsWith(word, "--"))) {
      return Unexpected(word, kKeyArguments);
    } else {
      request.add_keys(word);
    }
  }
  if (request.keys_size() == 0) return absl::InvalidArgumentError("a key is needed, as in ctrl-alt-delete");
  return absl::OkStatus();
}

absl::Status ParseMouse(absl::Span<const std::string> words, ControlRequest& request) {
  bool click = false;
  PointerPosition position;
  std::string place;
  for (const std::string& word : words) {
    if (word == "--click") {
      click = true;
    } else if (!place.empty() || word.empty() || absl::StartsWith(word, "--")) {
      return Unexpected(word, kMouseArguments);
    } else {
      place = word;
    }
  }
  const std::vector<std::string> parts = absl::StrSplit(place, ',');
  uint32_t x = 0, y = 0;
  if (parts.size() < 2 || !ParseCoordinate(parts[0], x) || !ParseCoordinate(parts[1], y)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", absl::CHexEscape(place), "\" is no place: it is X,Y, each 0 to ", kMaxCoordinate, " or 0% to 100%"));
  }
  position.set_x(x);
  position.set_y(y);
  for (size_t i = 2; i < parts.size(); ++i) {
    const absl::string_view part = parts[i];
    int32_t detents = 0;
    if (absl::StartsWith(part, "wheel=") && absl::SimpleAtoi(part.substr(6), &detents)) {
      position.set_wheel(detents);
    } else if (absl::StartsWith(part, "pan=") && absl::SimpleAtoi(part.substr(4), &detents)) {
      position.set_pan(detents);
    } else {
      position.add_buttons(parts[i]);
    }
  }
  if (click && position.buttons_size() == 0) return absl::InvalidArgumentError("--click: which button?");
  *request.add_pointer() = position;
  if (click) {
    PointerPosition& released = *request.add_pointer();
    released.set_x(x);
    released.set_y(y);
  }
  return absl::OkStatus();
}

void PrintInput(const hvsdk::vmm::InputStatus& input) {
  if (input.keyboard() != "none") {
    absl::PrintF("keyboard   %s", input.keyboard());
    if (input.held_keys() != 0) absl::PrintF(", %d keys held", input.held_keys());
    if (input.leds_size() != 0) absl::PrintF(", %s", absl::StrJoin(input.leds(), ", "));
    absl::PrintF("\n");
  }
  if (input.mouse() != "none") absl::PrintF("mouse      %s\n", input.mouse());
}

}  // namespace mini_vmm

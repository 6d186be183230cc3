// SPDX-License-Identifier: Apache-2.0
#include "hvsdk/vmm/machine_page.h"

#include <google/protobuf/util/json_util.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace hvsdk::vmm {
namespace {

struct Button {
  absl::string_view path;
  ControlCommand command;
};
constexpr Button kButtons[] = {
    {"pause", PAUSE}, {"resume", RESUME}, {"reset", RESET}, {"power-button", POWER_BUTTON}, {"ctrl-alt-delete", TYPE},
};

web::WebResponse ResponseOf(int status, std::string text) {
  return {.status = status, .body = std::make_shared<const std::string>(std::move(text))};
}

web::WebResponse Refusal(absl::string_view line) { return ResponseOf(409, std::string(line)); }

// For who waits for the answer, be it there still or not.
ControlHandler::Reply ControlReplyTo(absl::AnyInvocable<void(const ControlReply&)> take) {
  return ControlHandler::Reply(std::move(take), [] { return true; });
}

}  // namespace

void MachinePage::OnRequest(const web::WebRequest& request, Reply reply) {
  if (request.is_post) return Press(request, std::move(reply));
  Get(request.path, std::move(reply));
}

void MachinePage::Get(absl::string_view path, Reply reply) {
  if (path == "status") return GetStatus(std::move(reply));
  if (path == "screenshot.png") return TakeScreenshot(std::move(reply));
  const PageFiles::File* const file = files_.Find(path.empty() ? "index.html" : path);
  if (file == nullptr) return reply({.status = 404});
  reply({.type = file->type, .body = file->contents});
}

void MachinePage::GetStatus(Reply reply) {
  ControlRequest request;
  request.set_command(STATUS);
  control_.OnRequest(request, ControlReplyTo([this, reply = std::move(reply)](const ControlReply& done) mutable {
                       google::protobuf::util::JsonPrintOptions options;
                       options.always_print_primitive_fields = true;
                       options.preserve_proto_field_names = true;
                       std::string machine;
                       (void)google::protobuf::util::MessageToJsonString(done.status(), &machine, options);
                       const auto text = [](const void* part) { return part == nullptr ? "false" : "true"; };
                       web::WebResponse response = ResponseOf(
                           200, absl::StrCat("{\"screen\":", text(options_.screen),
                                             ",\"console\":", text(options_.console), ",\"machine\":", machine, "}"));
                       response.type = "application/json";
                       reply(std::move(response));
                     }));
}

void MachinePage::TakeScreenshot(Reply reply) {
  if (options_.display == nullptr) return reply({.status = 404});
  if (const absl::Status status = screenshot_.Check(*options_.display); !status.ok()) {
    return reply(Refusal(status.message()));
  }
  screenshot_.Encode(*options_.display, [reply = std::move(reply)](absl::StatusOr<std::string> png) mutable {
    if (!png.ok()) return reply(Refusal(png.status().message()));
    web::WebResponse response = ResponseOf(200, *std::move(png));
    response.type = "image/png";
    reply(std::move(response));
  });
}

void MachinePage::Press(const web::WebRequest& request, Reply reply) {
  ControlRequest command;
  absl::string_view device = request.path;
  for (const Button& button : kButtons) {
    if (request.path == button.path) command.set_command(button.command);
  }
  if (command.command() == TYPE) {
    command.mutable_typing()->add_keys("ctrl-alt-delete");
  } else if (absl::ConsumePrefix(&device, "insert/")) {
    command.set_command(INSERT);
    if (!absl::StartsWith(request.body, "/") || absl::StrContains(request.body, '\0')) {
      return reply(Refusal("insert: an absolute path on the machine's host is needed"));
    }
    command.set_path(request.body);
  } else if (absl::ConsumePrefix(&device, "eject/")) {
    command.set_command(EJECT);
  }
  if (command.command() == CONTROL_COMMAND_UNSPECIFIED) return reply({.status = 404});
  if (device.size() != request.path.size()) command.set_device(std::string(device));
  control_.OnRequest(command, ControlReplyTo([reply = std::move(reply)](const ControlReply& done) mutable {
                       if (done.has_progress()) return;
                       reply(done.code() == 0 ? web::WebResponse() : Refusal(done.error()));
                     }));
}

absl::StatusOr<int> MachinePage::Connect(absl::string_view path) {
  if (path == "screen" && options_.screen != nullptr) return options_.screen->Connect();
  if (path == "console" && options_.console != nullptr) return options_.console->Connect();
  return absl::NotFoundError("there is no such stream");
}

}  // namespace hvsdk::vmm

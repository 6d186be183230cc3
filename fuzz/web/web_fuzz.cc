// SPDX-License-Identifier: Apache-2.0
// Clients that send anything, by HTTP and by WebSocket: pieces of what they send, between which they and the streams behind take and say
// something, and answers come late. The token is "token", so that the fuzzer finds what is behind it.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "fuzz/bytes.h"
#include "web/web_connection.h"

namespace hvsdk::web {
namespace {

class Handler final : public WebHandler {
 public:
  void OnRequest(const WebRequest& request, Reply reply) override {
    HVSDK_CHECK(request.body.size() <= kMaxWebBody && request.path.size() <= kMaxWebHeaders);
    ++asked;
    if (request.path == "late") return late.push_back(std::move(reply));
    reply({.body = std::make_shared<const std::string>(request.body)});
  }
  absl::StatusOr<int> Connect(absl::string_view path) override {
    ++asked;
    return path == "s" ? absl::StatusOr<int>(kStream) : absl::NotFoundError("");
  }

  static constexpr int kStream = 1000;  // which nobody reads from: a number
  int asked = 0;
  std::vector<Reply> late;
};

void Play(fuzz::Bytes input) {
  static const std::string& token = *new std::string("token");
  Handler handler;
  auto connection = std::make_unique<WebConnection>(token, handler, [] {});
  while (!input.empty() && connection != nullptr) {
    const uint8_t step = input.Take<uint8_t>();
    switch (step % 8) {
      case 0:  // the client takes as much
        if (const size_t size = connection->output().size(); size != 0)
          connection->Sent(step % 16 == 0 ? size : size / 2 + 1);
        break;
      case 1:  // the stream does
        if (const size_t size = connection->stream_output().size(); size != 0) connection->StreamSent(size / 2 + 1);
        break;
      case 2: {
        const size_t size = input.Take<uint8_t>();
        const auto said = input.TakeSpan(size);
        if (!connection->wants_stream_input()) break;
        if (said.empty()) {
          connection->ReceiveStreamEnd();
        } else {
          connection->ReceiveFromStream({reinterpret_cast<const char*>(said.data()), said.size()});
        }
        break;
      }
      case 3:
        if (step == 0xFB) connection = nullptr;  // answers find it gone
        for (auto& reply : std::exchange(handler.late, {})) reply({.status = 409});
        break;
      default: {
        const size_t size = input.Take<uint16_t>() % 16384 + size_t{1};
        const auto said = input.TakeSpan(size);
        if (connection->wants_input()) connection->Receive({reinterpret_cast<const char*>(said.data()), said.size()});
      }
    }
    if (connection == nullptr) break;
    HVSDK_CHECK(connection->TakeStream() == -1 || connection->phase() == WebConnection::Phase::kStream ||
                connection->phase() == WebConnection::Phase::kLingering);
    HVSDK_CHECK(handler.asked == 0 || connection->is_trusted());
    // What waits, the piece that went beyond it, and a head.
    HVSDK_CHECK(connection->output().size() <= WebConnection::kMaxWaiting + kMaxWebBody + 4096);
    HVSDK_CHECK(connection->stream_output().size() <= WebConnection::kMaxWaiting + 16384);
  }
  for (auto& reply : handler.late) reply({});
}

}  // namespace
}  // namespace hvsdk::web

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::web::Play(hvsdk::fuzz::Bytes({data, size}));
  return 0;
}

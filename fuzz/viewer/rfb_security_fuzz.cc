// SPDX-License-Identifier: Apache-2.0
// Viewers that have not shown who they are, and send anything: nobody without the password or within TLS gets in.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "base/check.h"
#include "fuzz/bytes.h"
#include "hvsdk/base/fake_clock.h"
#include "tests/viewer/fake_display.h"
#include "tests/viewer/tls_client.h"
#include "viewer/rfb_session.h"

namespace hvsdk::viewer {
namespace {

std::string MakeFolder() {
  char folder[] = "/tmp/rfb_security_fuzz.XXXXXX";
  HVSDK_CHECK(mkdtemp(folder) != nullptr);
  const Certificate certificate("server");
  certificate.WriteTo(absl::StrCat(folder, "/server-cert.pem"));
  certificate.WriteKeyTo(absl::StrCat(folder, "/server-key.pem"));
  return folder;
}

// By a password, by TLS, by both.
RfbGuard& GuardOf(uint8_t kind) {
  static const FakeClock clock;
  static RfbGuard* const guards[] = {[] { return RfbGuard::Create("secret", "", clock)->release(); }(),
                                     [] {
                                       const std::string folder = MakeFolder();
                                       RfbGuard* const guard = RfbGuard::Create("", folder, clock)->release();
                                       std::filesystem::remove_all(folder);
                                       return guard;
                                     }(),
                                     [] {
                                       const std::string folder = MakeFolder();
                                       RfbGuard* const guard = RfbGuard::Create("secret", folder, clock)->release();
                                       std::filesystem::remove_all(folder);
                                       return guard;
                                     }()};
  return *guards[kind % 3];
}

void Play(fuzz::Bytes input) {
  static const input::KeyboardLayout& layout = *new input::KeyboardLayout(*input::KeyboardLayout::Load("us"));
  FakeDisplay display;
  FakeSinks sinks;
  display.Show(64, 32);
  const uint8_t kind = input.Take<uint8_t>();
  RfbSession session(display, &sinks, &sinks, layout, &GuardOf(kind), "vm", [] {});
  std::string output;
  while (!input.empty()) {
    const uint8_t step = input.Take<uint8_t>();
    if (step % 4 == 0) {
      if (output.size() < RfbSession::kMaxOutput) session.Produce(output, /*may_begin=*/true);
      if ((step & 4) != 0) output.clear();
    } else if (!session.Receive(input.TakeSpan(input.Take<uint8_t>() + size_t{1}))) {
      return;
    }
    HVSDK_CHECK(!session.is_admitted());
    HVSDK_CHECK(output.size() < 2 * RfbSession::kMaxOutput);
  }
}

}  // namespace
}  // namespace hvsdk::viewer

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  hvsdk::viewer::Play(hvsdk::fuzz::Bytes({data, size}));
  return 0;
}

// SPDX-License-Identifier: Apache-2.0
#include "viewer/rfb_guard.h"

#include <errno.h>
#include <sys/random.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#if defined(HVSDK_HAVE_OPENSSL)
#define OPENSSL_SUPPRESS_DEPRECATED  // DES, which VNC has and nobody else
#include <openssl/des.h>

#include "base/loaded_library.h"
#endif

namespace hvsdk::viewer {
namespace {

constexpr uint64_t kForgets100ns = 20'000'000;  // one wrong answer
constexpr uint64_t kMostFailures = 5;

#if defined(HVSDK_HAVE_OPENSSL)

struct Des {
  decltype(&::DES_set_key_unchecked) set_key;
  decltype(&::DES_ecb_encrypt) encrypt;

  static const absl::StatusOr<Des>& Load() {
    static const absl::StatusOr<Des> loaded = []() -> absl::StatusOr<Des> {
      absl::StatusOr<LoadedLibrary> library =
          LoadedLibrary::Load("libcrypto.so.3", "OpenSSL's libcrypto", "a password needs");
      if (!library.ok()) return library.status();
      Des des{};
      library->Find("DES_set_key_unchecked", des.set_key);
      library->Find("DES_ecb_encrypt", des.encrypt);
      if (!library->status().ok()) return library->status();
      return des;
    }();
    return loaded;
  }
};

absl::Status CheckCipher() { return Des::Load().status(); }

void Encipher(const std::string& password, RfbGuard::Challenge& block) {
  DES_cblock key = {};
  for (size_t i = 0; i < password.size(); ++i) {
    // In VNC a byte's lowest bit is the first.
    for (int bit = 0; bit < 8; ++bit) key[i] |= static_cast<uint8_t>((password[i] >> bit & 1) << (7 - bit));
  }
  const absl::StatusOr<Des>& des = Des::Load();
  DES_key_schedule schedule;
  des->set_key(&key, &schedule);
  for (size_t at = 0; at < block.size(); at += sizeof(DES_cblock)) {
    auto* const part = reinterpret_cast<DES_cblock*>(block.data() + at);
    des->encrypt(part, part, &schedule, DES_ENCRYPT);
  }
}

#else

absl::Status CheckCipher() { return absl::UnimplementedError("this build is without OpenSSL, so it has no passwords"); }
void Encipher(const std::string&, RfbGuard::Challenge&) {}

#endif

}  // namespace

absl::StatusOr<std::unique_ptr<RfbGuard>> RfbGuard::Create(const std::string& password, const std::string& tls_folder,
                                                           const Clock& clock) {
  std::unique_ptr<RfbGuard> guard(new RfbGuard(clock));
  if (password.size() > kMostPassword) {
    return absl::InvalidArgumentError(absl::StrCat("the password has ", password.size(), " bytes, and VNC knows ",
                                                   kMostPassword, "; what is beyond would count for nothing"));
  }
  if (!password.empty()) RETURN_IF_ERROR(CheckCipher());
  guard->password_ = password;
  if (!tls_folder.empty()) {
    ASSIGN_OR_RETURN(guard->tls_, TlsCredentials::Load(tls_folder));
  }
  return guard;
}

absl::StatusOr<RfbGuard::Challenge> RfbGuard::NewChallenge() const {
  Challenge challenge;
  if (getrandom(challenge.data(), challenge.size(), 0) != static_cast<ssize_t>(challenge.size())) {
    return absl::ErrnoToStatus(errno, "getrandom");
  }
  return challenge;
}

RfbGuard::Verdict RfbGuard::Check(const Challenge& challenge, absl::Span<const uint8_t> response) {
  const uint64_t now = clock_.Now100ns();
  if (failures_until_100ns_ > now + (kMostFailures - 1) * kForgets100ns) return Verdict::kTooOften;
  Challenge expected = challenge;
  Encipher(password_, expected);
  // All of it, so that the time says nothing.
  uint8_t difference = response.size() == expected.size() ? 0 : 1;
  for (size_t i = 0; i < std::min(response.size(), expected.size()); ++i) difference |= response[i] ^ expected[i];
  if (difference == 0) return Verdict::kRight;
  failures_until_100ns_ = std::max(failures_until_100ns_, now) + kForgets100ns;
  return Verdict::kWrong;
}

}  // namespace hvsdk::viewer

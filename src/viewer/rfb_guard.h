// SPDX-License-Identifier: Apache-2.0
// RfbGuard: what viewers of one server have to show before they are let in: a password (RFC 6143 7.2.2), a certificate, or nothing.
//
// VNC's password is a key of DES, of eight bytes, with which the viewer enciphers a challenge. Who listens to a connection without TLS
// can search for it; who guesses may be wrong five times at once, and once in two seconds then, all viewers together.
//
// Thread class: external.

#ifndef HVSDK_SRC_VIEWER_RFB_GUARD_H_
#define HVSDK_SRC_VIEWER_RFB_GUARD_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "hvsdk/base/clock.h"
#include "viewer/tls_stream.h"

namespace hvsdk::viewer {

class RfbGuard {
 public:
  static constexpr size_t kMostPassword = 8;
  static constexpr size_t kChallengeBytes = 16;
  using Challenge = std::array<uint8_t, kChallengeBytes>;
  enum class Verdict : uint8_t { kRight, kWrong, kTooOften };

  // `password` and `tls_folder` (TlsCredentials) are empty if there is none; the clock outlives it. InvalidArgument: a password that is too long, or names
  // the file. Unimplemented: OpenSSL is not there.
  static absl::StatusOr<std::unique_ptr<RfbGuard>> Create(const std::string& password, const std::string& tls_folder,
                                                          const Clock& clock);

  bool asks_for_password() const { return !password_.empty(); }
  // Null: none.
  const TlsCredentials* tls() const { return tls_.get(); }
  // Nobody from anywhere gets in just so.
  bool lets_in_friends_alone() const {
    return asks_for_password() || (tls_ != nullptr && tls_->asks_for_certificate());
  }

  // Nothing: the host has no randomness.
  absl::StatusOr<Challenge> NewChallenge() const;
  // `response`: kChallengeBytes.
  Verdict Check(const Challenge& challenge, absl::Span<const uint8_t> response);

 private:
  explicit RfbGuard(const Clock& clock) : clock_(clock) {}

  const Clock& clock_;
  std::string password_;
  std::unique_ptr<const TlsCredentials> tls_;
  uint64_t failures_until_100ns_ = 0;  // when what was guessed wrong is forgotten
};

}  // namespace hvsdk::viewer

#endif  // HVSDK_SRC_VIEWER_RFB_GUARD_H_

// SPDX-License-Identifier: Apache-2.0
#include "viewer/tls_stream.h"

#if defined(HVSDK_HAVE_OPENSSL)
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/loaded_library.h"
#include "base/status_macros.h"
#endif

namespace hvsdk::viewer {

#if defined(HVSDK_HAVE_OPENSSL)
namespace {

struct OpenSsl {
  decltype(&::TLS_server_method) server_method;
  decltype(&::SSL_CTX_new) context_new;
  decltype(&::SSL_CTX_free) context_free;
  decltype(&::SSL_CTX_ctrl) context_control;
  decltype(&::SSL_CTX_set_options) context_set_options;
  decltype(&::SSL_CTX_set_num_tickets) context_set_tickets;
  decltype(&::SSL_CTX_set_default_passwd_cb) context_set_passphrase;
  decltype(&::SSL_CTX_use_certificate_chain_file) context_use_certificate;
  decltype(&::SSL_CTX_use_PrivateKey_file) context_use_key;
  decltype(&::SSL_CTX_check_private_key) context_check_key;
  decltype(&::SSL_CTX_load_verify_locations) context_load_authority;
  decltype(&::SSL_CTX_set_verify) context_set_verify;
  decltype(&::SSL_new) ssl_new;
  decltype(&::SSL_free) ssl_free;
  decltype(&::SSL_set_bio) set_bio;
  decltype(&::SSL_set_accept_state) set_accept_state;
  decltype(&::SSL_do_handshake) do_handshake;
  decltype(&::SSL_read) read;
  decltype(&::SSL_write) write;
  decltype(&::SSL_get_error) get_error;
  decltype(&::BIO_new) bio_new;
  decltype(&::BIO_free) bio_free;
  decltype(&::BIO_s_mem) bio_memory;
  decltype(&::BIO_read) bio_read;
  decltype(&::BIO_write) bio_write;
  decltype(&::BIO_ctrl_pending) bio_pending;
  decltype(&::ERR_clear_error) clear_errors;
  decltype(&::ERR_peek_last_error) last_error;
  decltype(&::ERR_reason_error_string) reason_of;

  static const absl::StatusOr<OpenSsl>& Load() {
    static const absl::StatusOr<OpenSsl> loaded = []() -> absl::StatusOr<OpenSsl> {
      absl::StatusOr<LoadedLibrary> ssl = LoadedLibrary::Load("libssl.so.3", "OpenSSL", "TLS needs");
      absl::StatusOr<LoadedLibrary> crypto = LoadedLibrary::Load("libcrypto.so.3", "OpenSSL", "TLS needs");
      if (!ssl.ok()) return ssl.status();
      if (!crypto.ok()) return crypto.status();
      OpenSsl library{};
      ssl->Find("TLS_server_method", library.server_method);
      ssl->Find("SSL_CTX_new", library.context_new);
      ssl->Find("SSL_CTX_free", library.context_free);
      ssl->Find("SSL_CTX_ctrl", library.context_control);
      ssl->Find("SSL_CTX_set_options", library.context_set_options);
      ssl->Find("SSL_CTX_set_num_tickets", library.context_set_tickets);
      ssl->Find("SSL_CTX_set_default_passwd_cb", library.context_set_passphrase);
      ssl->Find("SSL_CTX_use_certificate_chain_file", library.context_use_certificate);
      ssl->Find("SSL_CTX_use_PrivateKey_file", library.context_use_key);
      ssl->Find("SSL_CTX_check_private_key", library.context_check_key);
      ssl->Find("SSL_CTX_load_verify_locations", library.context_load_authority);
      ssl->Find("SSL_CTX_set_verify", library.context_set_verify);
      ssl->Find("SSL_new", library.ssl_new);
      ssl->Find("SSL_free", library.ssl_free);
      ssl->Find("SSL_set_bio", library.set_bio);
      ssl->Find("SSL_set_accept_state", library.set_accept_state);
      ssl->Find("SSL_do_handshake", library.do_handshake);
      ssl->Find("SSL_read", library.read);
      ssl->Find("SSL_write", library.write);
      ssl->Find("SSL_get_error", library.get_error);
      crypto->Find("BIO_new", library.bio_new);
      crypto->Find("BIO_free", library.bio_free);
      crypto->Find("BIO_s_mem", library.bio_memory);
      crypto->Find("BIO_read", library.bio_read);
      crypto->Find("BIO_write", library.bio_write);
      crypto->Find("BIO_ctrl_pending", library.bio_pending);
      crypto->Find("ERR_clear_error", library.clear_errors);
      crypto->Find("ERR_peek_last_error", library.last_error);
      crypto->Find("ERR_reason_error_string", library.reason_of);
      if (!ssl->status().ok()) return ssl->status();
      if (!crypto->status().ok()) return crypto->status();
      return library;
    }();
    return loaded;
  }

  std::string Reason() const {
    const char* const reason = reason_of(last_error());
    return reason == nullptr ? "OpenSSL refuses it" : reason;
  }
};

class Stream final : public TlsStream {
 public:
  static constexpr size_t kMostAnswers = 100 << 10;  // a handshake's, with a long chain of certificates

  Stream(const OpenSsl& library, SSL* ssl, BIO* input, BIO* output)
      : library_(library), ssl_(ssl), input_(input), output_(output) {}
  ~Stream() override { library_.ssl_free(ssl_); }

  bool Receive(absl::Span<const uint8_t> bytes, std::string& plain) override {
    // OpenSSL answers a peer's KeyUpdate (RFC 8446, 4.6.3) at once, however many wait already.
    if (library_.bio_pending(output_) > kMostAnswers) return false;
    library_.clear_errors();
    if (library_.bio_write(input_, bytes.data(), static_cast<int>(bytes.size())) != static_cast<int>(bytes.size())) {
      return false;
    }
    if (!is_ready_) {
      const int done = library_.do_handshake(ssl_);
      if (done != 1) return library_.get_error(ssl_, done) == SSL_ERROR_WANT_READ;
      is_ready_ = true;
    }
    for (;;) {
      char buffer[4096];
      const int got = library_.read(ssl_, buffer, sizeof(buffer));
      if (got <= 0) return library_.get_error(ssl_, got) == SSL_ERROR_WANT_READ;
      plain.append(buffer, static_cast<size_t>(got));
    }
  }
  bool is_ready() const override { return is_ready_; }
  bool Send(absl::string_view plain) override {
    library_.clear_errors();
    return plain.empty() || library_.write(ssl_, plain.data(), static_cast<int>(plain.size())) > 0;
  }
  void TakeOutput(std::string& output) override {
    char buffer[4096];
    for (int got; (got = library_.bio_read(output_, buffer, sizeof(buffer))) > 0;) {
      output.append(buffer, static_cast<size_t>(got));
    }
  }

 private:
  const OpenSsl& library_;
  SSL* const ssl_;
  BIO *const input_, *const output_;  // ssl_'s
  bool is_ready_ = false;
};

class Credentials final : public TlsCredentials {
 public:
  Credentials(const OpenSsl& library, SSL_CTX* context) : library_(library), context_(context) {}
  ~Credentials() override { library_.context_free(context_); }

  absl::Status Read(const std::string& folder) {
    const std::string certificate = absl::StrCat(folder, "/server-cert.pem"),
                      key = absl::StrCat(folder, "/server-key.pem");
    const std::string authority = absl::StrCat(folder, "/ca-cert.pem");
    for (const std::string& file : {certificate, key}) {
      if (access(file.c_str(), R_OK) != 0) {
        return absl::InvalidArgumentError(absl::StrCat("tls: ", file, ": ", std::strerror(errno)));
      }
    }
    const auto check = [&](const std::string& file, absl::string_view wanted, int done) {
      return done == 1
                 ? absl::OkStatus()
                 : absl::InvalidArgumentError(absl::StrCat("tls: ", file, ": not ", wanted, ": ", library_.Reason()));
    };
    library_.clear_errors();
    library_.context_control(context_, SSL_CTRL_SET_MIN_PROTO_VERSION, TLS1_2_VERSION, nullptr);
    library_.context_control(context_, SSL_CTRL_SET_SESS_CACHE_MODE, SSL_SESS_CACHE_OFF, nullptr);
    library_.context_set_options(context_, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION);
    // TigerVNC 1.12 takes one for all that has come, and waits for more.
    library_.context_set_tickets(context_, 0);
    // Or else OpenSSL asks for a passphrase on the terminal.
    library_.context_set_passphrase(context_, [](char*, int, int, void*) { return 0; });
    RETURN_IF_ERROR(check(certificate, "a certificate in PEM form",
                          library_.context_use_certificate(context_, certificate.c_str())));
    RETURN_IF_ERROR(check(key, "the certificate's private key in PEM form",
                          library_.context_use_key(context_, key.c_str(), SSL_FILETYPE_PEM)));
    RETURN_IF_ERROR(check(key, "the certificate's private key in PEM form", library_.context_check_key(context_)));
    if (access(authority.c_str(), F_OK) != 0) {
      // A folder that may not be looked at must not open the door.
      return errno == ENOENT ? absl::OkStatus()
                             : absl::InvalidArgumentError(absl::StrCat(authority, ": ", std::strerror(errno)));
    }
    RETURN_IF_ERROR(check(authority, "certificates in PEM form",
                          library_.context_load_authority(context_, authority.c_str(), nullptr)));
    library_.context_set_verify(context_, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    asks_for_certificate_ = true;
    return absl::OkStatus();
  }

  bool asks_for_certificate() const override { return asks_for_certificate_; }

  std::unique_ptr<TlsStream> Accept() const override {
    SSL* const ssl = library_.ssl_new(context_);
    BIO* const input = library_.bio_new(library_.bio_memory());
    BIO* const output = library_.bio_new(library_.bio_memory());
    if (ssl == nullptr || input == nullptr || output == nullptr) {
      library_.bio_free(input);
      library_.bio_free(output);
      library_.ssl_free(ssl);
      return nullptr;
    }
    library_.set_bio(ssl, input, output);
    library_.set_accept_state(ssl);
    return std::make_unique<Stream>(library_, ssl, input, output);
  }

 private:
  const OpenSsl& library_;
  SSL_CTX* const context_;
  bool asks_for_certificate_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<const TlsCredentials>> TlsCredentials::Load(const std::string& folder) {
  const absl::StatusOr<OpenSsl>& library = OpenSsl::Load();
  if (!library.ok()) return library.status();
  SSL_CTX* const context = library->context_new(library->server_method());
  if (context == nullptr) return absl::ResourceExhaustedError(library->Reason());
  auto credentials = std::make_unique<Credentials>(*library, context);
  RETURN_IF_ERROR(credentials->Read(folder));
  return credentials;
}

#else

absl::StatusOr<std::unique_ptr<const TlsCredentials>> TlsCredentials::Load(const std::string&) {
  return absl::UnimplementedError("this build is without OpenSSL, so it has no TLS");
}

#endif

}  // namespace hvsdk::viewer

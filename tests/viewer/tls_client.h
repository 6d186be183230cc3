// SPDX-License-Identifier: Apache-2.0
// Certificates that a test makes for itself, and a client that speaks TLS over strings.

#ifndef HVSDK_TESTS_VIEWER_TLS_CLIENT_H_
#define HVSDK_TESTS_VIEWER_TLS_CLIENT_H_

#include <gtest/gtest.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <memory>
#include <string>

namespace hvsdk::viewer {

class Certificate {
 public:
  // Signed by `issuer`, or by itself.
  explicit Certificate(const char* name, const Certificate* issuer = nullptr)
      : key_(EVP_EC_gen("P-256"), EVP_PKEY_free), x509_(X509_new(), X509_free) {
    ASN1_INTEGER_set(X509_get_serialNumber(x509_.get()), issuer == nullptr ? 1 : 2);
    X509_set_version(x509_.get(), 2);
    X509_gmtime_adj(X509_getm_notBefore(x509_.get()), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x509_.get()), 3600);
    X509_set_pubkey(x509_.get(), key_.get());
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x509_.get()), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name), -1, -1, 0);
    if (issuer == nullptr) {
      const std::unique_ptr<X509_EXTENSION, void (*)(X509_EXTENSION*)> authority(
          X509V3_EXT_conf_nid(nullptr, nullptr, NID_basic_constraints, "critical,CA:TRUE"), X509_EXTENSION_free);
      X509_add_ext(x509_.get(), authority.get(), -1);
    }
    const Certificate& by = issuer == nullptr ? *this : *issuer;
    X509_set_issuer_name(x509_.get(), X509_get_subject_name(by.x509_.get()));
    EXPECT_GT(X509_sign(x509_.get(), by.key_.get(), EVP_sha256()), 0);
  }
  void WriteTo(const std::string& path) const {
    const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen(path.c_str(), "w"), fclose);
    ASSERT_EQ(PEM_write_X509(file.get(), x509_.get()), 1);
  }
  void WriteKeyTo(const std::string& path, const char* passphrase = nullptr) const {
    const std::unique_ptr<FILE, int (*)(FILE*)> file(fopen(path.c_str(), "w"), fclose);
    ASSERT_EQ(PEM_write_PKCS8PrivateKey(file.get(), key_.get(), passphrase == nullptr ? nullptr : EVP_aes_128_cbc(),
                                        passphrase, passphrase == nullptr ? 0 : 4, nullptr, nullptr),
              1);
  }
  EVP_PKEY* key() const { return key_.get(); }
  X509* x509() const { return x509_.get(); }

 private:
  std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key_;
  std::unique_ptr<X509, void (*)(X509*)> x509_;
};

class TlsClient {
 public:
  // Shows `own`, if it is not null.
  explicit TlsClient(const Certificate* own = nullptr)
      : context_(SSL_CTX_new(TLS_client_method()), SSL_CTX_free), ssl_(nullptr, SSL_free) {
    if (own != nullptr) {
      EXPECT_EQ(SSL_CTX_use_certificate(context_.get(), own->x509()), 1);
      EXPECT_EQ(SSL_CTX_use_PrivateKey(context_.get(), own->key()), 1);
    }
    SSL_CTX_set_session_cache_mode(context_.get(), SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context_.get(), [](SSL* ssl, SSL_SESSION*) {
      ++*static_cast<int*>(SSL_get_app_data(ssl));
      return 0;
    });
    ssl_.reset(SSL_new(context_.get()));
    SSL_set_app_data(ssl_.get(), &tickets_);
    SSL_set_bio(ssl_.get(), BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_connect_state(ssl_.get());
    SSL_do_handshake(ssl_.get());
  }
  // What came, and what was in it.
  std::string Open(const std::string& bytes) {
    BIO_write(SSL_get_rbio(ssl_.get()), bytes.data(), static_cast<int>(bytes.size()));
    if (!SSL_is_init_finished(ssl_.get())) SSL_do_handshake(ssl_.get());
    std::string plain;
    char buffer[4096];
    for (int got; (got = SSL_read(ssl_.get(), buffer, sizeof(buffer))) > 0;) {
      plain.append(buffer, static_cast<size_t>(got));
    }
    return plain;
  }
  std::string Seal(const std::string& plain) {
    if (!plain.empty()) {
      EXPECT_EQ(SSL_write(ssl_.get(), plain.data(), static_cast<int>(plain.size())), static_cast<int>(plain.size()));
    }
    return Output();
  }
  std::string Output() {
    std::string bytes;
    char buffer[4096];
    for (int got; (got = BIO_read(SSL_get_wbio(ssl_.get()), buffer, sizeof(buffer))) > 0;) {
      bytes.append(buffer, static_cast<size_t>(got));
    }
    return bytes;
  }
  // Has the server take another key, and answer with its own.
  void ChangeKeys() {
    EXPECT_EQ(SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_REQUESTED), 1);
    SSL_do_handshake(ssl_.get());
  }
  void End() { SSL_shutdown(ssl_.get()); }
  // By which it could take up the session again.
  int tickets() const { return tickets_; }
  bool is_ready() const { return SSL_is_init_finished(ssl_.get()) == 1; }

 private:
  int tickets_ = 0;
  std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context_;
  std::unique_ptr<SSL, void (*)(SSL*)> ssl_;
};

}  // namespace hvsdk::viewer

#endif  // HVSDK_TESTS_VIEWER_TLS_CLIENT_H_

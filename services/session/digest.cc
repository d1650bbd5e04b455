#include "services/session/digest.h"

#include <openssl/evp.h>

#include <array>
#include <stdexcept>

namespace runbus::session {
namespace {

constexpr std::size_t kDigestBytes = 32;

// Looked up once: that costs far more than the digest of a few bytes.
const EVP_MD& sha256() {
  static EVP_MD* const found = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  if (found == nullptr) {
    throw std::runtime_error("OpenSSL has no SHA-256 here");
  }
  return *found;
}

}  // namespace

std::string sha256_hex(std::string_view bytes) {
  std::array<unsigned char, kDigestBytes> digest{};
  if (EVP_Digest(bytes.data(), bytes.size(), digest.data(), nullptr, &sha256(), nullptr) != 1) {
    throw std::runtime_error("SHA-256 failed");
  }
  static constexpr std::string_view kDigits = "0123456789abcdef";
  std::string hex;
  hex.reserve(digest.size() * 2);
  for (const unsigned char byte : digest) {
    hex += kDigits[byte >> 4U];
    hex += kDigits[byte & 15U];
  }
  return hex;
}

}  // namespace runbus::session

// OpenSSL 3 fetches an algorithm by name for every one-shot digest, 0.4 µs each; the low-level
// calls do not, and are the same code underneath.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "core/hash.h"

#include <cryptopp/keccak.h>
#include <openssl/sha.h>
#include <xxhash.h>

namespace leat::core {

Hash Sha256(std::string_view bytes) { return Sha256(bytes, {}, {}); }

Hash Sha256(std::string_view first, std::string_view second, std::string_view third) {
  SHA256_CTX context;
  SHA256_Init(&context);
  SHA256_Update(&context, first.data(), first.size());
  if (!second.empty()) SHA256_Update(&context, second.data(), second.size());
  if (!third.empty()) SHA256_Update(&context, third.data(), third.size());
  Hash out;
  SHA256_Final(out.data.data(), &context);
  return out;
}

Hash Keccak256(std::string_view bytes) {
  CryptoPP::Keccak_256 hasher;
  Hash out;
  hasher.CalculateDigest(out.data.data(), reinterpret_cast<const CryptoPP::byte*>(bytes.data()),
                         bytes.size());
  return out;
}

uint64_t Checksum64(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace leat::core

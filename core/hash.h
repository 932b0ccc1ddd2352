// Digests: SHA-256 (Merkle tree, content keys), Keccak-256 (Ethereum), XXH3 (checksums).
// All functions are pure and thread-safe.
#pragma once

#include <cstdint>
#include <string_view>

#include "core/bytes.h"

namespace leat::core {

Hash Sha256(std::string_view bytes);
// SHA-256 over the concatenation of up to three parts, without copying them.
Hash Sha256(std::string_view first, std::string_view second, std::string_view third = {});
Hash Keccak256(std::string_view bytes);
// XXH3, 64 bits: finds bit rot, not malice.
uint64_t Checksum64(std::string_view bytes);

}  // namespace leat::core

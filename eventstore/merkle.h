// The Merkle tree over a log's entries (RFC 9162, section 2.1): SHA-256, leaves H(0x00 || context || entry), nodes
// H(0x01 || left || right).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/bytes.h"

namespace leat::eventstore {

// `context`: what the leaf covers besides the entry.
Hash LeafHash(std::string_view context, std::string_view entry);

// The right edge of a growing tree: what is needed to append and to name the root. A value type of at most 64 hashes;
// not thread-safe.
class MerkleFrontier {
 public:
  void Append(const Hash& leaf);
  uint64_t size() const { return size_; }
  // The tree hash; of an empty tree SHA-256 of nothing.
  Hash Root() const;

  // For a checkpoint, and back. False when the bytes are none.
  std::string Serialize() const;
  static bool Parse(std::string_view bytes, MerkleFrontier* out);

 private:
  uint64_t size_ = 0;
  std::vector<Hash> peaks_;  // of the perfect subtrees, largest first: one for each bit of size_
};

}  // namespace leat::eventstore

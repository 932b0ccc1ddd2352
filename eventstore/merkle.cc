#include "eventstore/merkle.h"

#include <bit>

#include "core/hash.h"

namespace leat::eventstore {
namespace {

constexpr std::string_view kLeafPrefix{"\x00", 1};
constexpr std::string_view kNodePrefix{"\x01", 1};

Hash NodeHash(const Hash& left, const Hash& right) {
  return core::Sha256(kNodePrefix, left.View(), right.View());
}

}  // namespace

Hash LeafHash(std::string_view context, std::string_view entry) {
  return core::Sha256(kLeafPrefix, context, entry);
}

void MerkleFrontier::Append(const Hash& leaf) {
  Hash node = leaf;
  for (uint64_t bits = size_; bits & 1; bits >>= 1) {
    node = NodeHash(peaks_.back(), node);
    peaks_.pop_back();
  }
  peaks_.push_back(node);
  ++size_;
}

Hash MerkleFrontier::Root() const {
  if (peaks_.empty()) return core::Sha256({});
  Hash root = peaks_.back();
  for (size_t i = peaks_.size() - 1; i-- > 0;) root = NodeHash(peaks_[i], root);
  return root;
}

std::string MerkleFrontier::Serialize() const {
  std::string out;
  core::AppendBigEndian64(size_, &out);
  for (const Hash& peak : peaks_) out.append(peak.View());
  return out;
}

bool MerkleFrontier::Parse(std::string_view bytes, MerkleFrontier* out) {
  core::ByteReader reader(bytes);
  *out = MerkleFrontier();
  if (!reader.TakeBigEndian64(&out->size_)) return false;
  for (int i = std::popcount(out->size_); i > 0; --i) {
    std::string_view peak;
    if (!reader.TakeBytes(Hash::kSize, &peak)) return false;
    out->peaks_.push_back(Hash::From(peak));
  }
  return reader.Empty();
}

}  // namespace leat::eventstore

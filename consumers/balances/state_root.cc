// The state trie of accounts that hold nothing but a balance, built from sorted keys in one pass.
#include <algorithm>

#include "consumers/balances/queries.h"
#include "core/hash.h"

namespace leat::balances {
namespace {

// keccak256(rlp("")), the root of an empty trie, and keccak256(""), the hash of no code.
constexpr std::string_view kEmptyRoot =
    "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421";
constexpr std::string_view kEmptyCode =
    "0xc5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470";

void AppendRlpLength(size_t size, uint8_t short_base, std::string* out) {
  if (size < 56) {
    out->push_back(static_cast<char>(short_base + size));
    return;
  }
  std::string length;
  for (size_t rest = size; rest != 0; rest >>= 8) {
    length.insert(length.begin(), static_cast<char>(rest & 0xff));
  }
  out->push_back(static_cast<char>(short_base + 55 + length.size()));
  out->append(length);
}

void AppendRlpString(std::string_view bytes, std::string* out) {
  if (bytes.size() == 1 && static_cast<uint8_t>(bytes[0]) < 0x80) {
    out->append(bytes);
    return;
  }
  AppendRlpLength(bytes.size(), 0x80, out);
  out->append(bytes);
}

std::string RlpList(std::string_view items) {
  std::string out;
  AppendRlpLength(items.size(), 0xc0, &out);
  return out.append(items);
}

struct Leaf {
  Hash key;
  std::string account;
};

int Nibble(const Hash& key, size_t i) { return key.data[i / 2] >> (i % 2 == 0 ? 4 : 0) & 0xf; }

// Hex-prefix encoding of the nibbles [from, to) of a key.
std::string HexPrefix(const Hash& key, size_t from, size_t to, bool leaf) {
  const bool odd = (to - from) % 2 != 0;
  std::string out(1, static_cast<char>((leaf ? 0x20 : 0) | (odd ? 0x10 | Nibble(key, from) : 0)));
  for (size_t i = from + (odd ? 1 : 0); i < to; i += 2) {
    out.push_back(static_cast<char>(Nibble(key, i) << 4 | Nibble(key, i + 1)));
  }
  return out;
}

// A node as its parent has it: itself when it is short, else its hash.
void AppendReference(const std::string& node, std::string* out) {
  if (node.size() < 32) {
    out->append(node);
  } else {
    AppendRlpString(core::Keccak256(node).View(), out);
  }
}

// The node over leaves that share their first `depth` nibbles. At most 64 levels deep.
std::string Build(const Leaf* begin, const Leaf* end, size_t depth) {
  std::string items;
  if (end - begin == 1) {
    AppendRlpString(HexPrefix(begin->key, depth, 64, true), &items);
    AppendRlpString(begin->account, &items);
    return RlpList(items);
  }
  size_t shared = depth;
  while (Nibble(begin->key, shared) == Nibble((end - 1)->key, shared)) ++shared;
  if (shared > depth) {
    AppendRlpString(HexPrefix(begin->key, depth, shared, false), &items);
    AppendReference(Build(begin, end, shared), &items);
    return RlpList(items);
  }
  for (int nibble = 0; nibble < 16; ++nibble) {
    const Leaf* next = begin;
    while (next != end && Nibble(next->key, depth) == nibble) ++next;
    if (next == begin) {
      AppendRlpString({}, &items);
    } else {
      AppendReference(Build(begin, next, depth + 1), &items);
    }
    begin = next;
  }
  AppendRlpString({}, &items);
  return RlpList(items);
}

}  // namespace

Hash PlainStateRoot(const std::vector<std::pair<Address, Amount>>& balances) {
  if (balances.empty()) return *core::ParseHash(kEmptyRoot);
  const Hash empty_root = *core::ParseHash(kEmptyRoot);
  const Hash empty_code = *core::ParseHash(kEmptyCode);
  std::vector<Leaf> leaves;
  leaves.reserve(balances.size());
  for (const auto& [address, balance] : balances) {
    std::string account;
    AppendRlpString({}, &account);  // nonce 0
    AppendRlpString(balance.Magnitude(), &account);
    AppendRlpString(empty_root.View(), &account);
    AppendRlpString(empty_code.View(), &account);
    leaves.push_back({core::Keccak256(address.View()), RlpList(account)});
  }
  std::sort(leaves.begin(), leaves.end(),
            [](const Leaf& a, const Leaf& b) { return a.key < b.key; });
  return core::Keccak256(Build(leaves.data(), leaves.data() + leaves.size(), 0));
}

}  // namespace leat::balances

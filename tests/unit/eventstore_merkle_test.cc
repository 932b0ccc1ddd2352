#include <doctest/doctest.h>

#include <vector>

#include "core/bytes.h"
#include "core/hash.h"
#include "eventstore/merkle.h"

namespace leat::eventstore {
namespace {

// RFC 9162, 2.1.1, as it is written there.
Hash TreeHash(const std::vector<std::string>& entries, size_t begin, size_t end) {
  const size_t n = end - begin;
  if (n == 0) return core::Sha256("");
  if (n == 1) return core::Sha256(std::string(1, '\x00') + entries[begin]);
  size_t k = 1;
  while (2 * k < n) k *= 2;
  const Hash left = TreeHash(entries, begin, begin + k);
  const Hash right = TreeHash(entries, begin + k, end);
  return core::Sha256(std::string(1, '\x01') + std::string(left.View()) +
                      std::string(right.View()));
}

TEST_CASE("the frontier's root is RFC 9162's for every size to 300") {
  std::vector<std::string> entries;
  MerkleFrontier frontier;
  for (size_t size = 0; size <= 300; ++size) {
    CAPTURE(size);
    REQUIRE(frontier.size() == size);
    REQUIRE(frontier.Root() == TreeHash(entries, 0, size));
    MerkleFrontier parsed;
    REQUIRE(MerkleFrontier::Parse(frontier.Serialize(), &parsed));
    REQUIRE(parsed.Root() == frontier.Root());
    entries.push_back("entry " + std::to_string(size * size));
    frontier.Append(LeafHash({}, entries.back()));
    // A parsed frontier grows as the one it was taken from.
    parsed.Append(LeafHash({}, entries.back()));
    REQUIRE(parsed.Root() == frontier.Root());
  }
}

// The vectors that Certificate Transparency's implementations test with.
TEST_CASE("known roots of Certificate Transparency") {
  const char* const inputs[] = {"0x",
                                "0x00",
                                "0x10",
                                "0x2021",
                                "0x3031",
                                "0x40414243",
                                "0x5051525354555657",
                                "0x606162636465666768696a6b6c6d6e6f"};
  const char* const roots[] = {
      "0x6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
      "0xfac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
      "0xaeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
      "0xd37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
      "0x4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
      "0x76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
      "0xddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
      "0x5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};
  MerkleFrontier frontier;
  CHECK(frontier.Root().Hex() ==
        "0xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  for (size_t i = 0; i < std::size(inputs); ++i) {
    CAPTURE(i);
    frontier.Append(LeafHash({}, *core::FromHex(inputs[i])));
    CHECK(frontier.Root().Hex() == roots[i]);
  }
}

TEST_CASE("bytes that are no frontier") {
  MerkleFrontier frontier;
  for (int i = 0; i < 5; ++i) frontier.Append(LeafHash({}, "x"));
  const std::string good = frontier.Serialize();
  MerkleFrontier parsed;
  for (size_t size = 0; size < good.size(); ++size) {
    CAPTURE(size);
    CHECK_FALSE(MerkleFrontier::Parse(good.substr(0, size), &parsed));
  }
  CHECK_FALSE(MerkleFrontier::Parse(good + "x", &parsed));
}

}  // namespace
}  // namespace leat::eventstore

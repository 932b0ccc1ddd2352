#include "bus/partitioner.h"

#include <doctest/doctest.h>

#include <map>
#include <set>

#include "tests/support/test_support.h"

namespace leat::bus {
namespace {

// From UtilsTest of Apache Kafka's Java client.
TEST_CASE("murmur2 is that of Kafka's Java client") {
  const std::map<std::string, int32_t> vectors = {
      {"21", -973932308},
      {"foobar", -790332482},
      {"a-little-bit-long-string", -985981536},
      {"a-little-bit-longer-string", -1486304829},
      {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
      {"abc", 479470107},
  };
  for (const auto& [key, hash] : vectors) {
    CAPTURE(key);
    CHECK(static_cast<int32_t>(Murmur2(key)) == hash);
  }
}

// Kafka's algorithm once more, on signed bytes and an unsigned shift as Java writes it.
uint32_t JavaMurmur2(const std::string& data) {
  const int32_t length = static_cast<int32_t>(data.size());
  const uint32_t m = 0x5bd1e995;
  uint32_t h = 0x9747b28cu ^ static_cast<uint32_t>(length);
  const auto at = [&](int32_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(data[static_cast<size_t>(i)])); };
  for (int32_t i = 0; i < length / 4; ++i) {
    const int32_t i4 = i * 4;
    uint32_t k = at(i4) + (at(i4 + 1) << 8) + (at(i4 + 2) << 16) + (at(i4 + 3) << 24);
    k *= m;
    k ^= k >> 24;
    k *= m;
    h *= m;
    h ^= k;
  }
  const int32_t tail = length & ~3;
  switch (length % 4) {
    case 3: h ^= at(tail + 2) << 16; [[fallthrough]];
    case 2: h ^= at(tail + 1) << 8; [[fallthrough]];
    case 1: h ^= at(tail); h *= m;
  }
  h ^= h >> 13;
  h *= m;
  h ^= h >> 15;
  return h;
}

TEST_CASE("murmur2 of random bytes, of every length's remainder") {
  const uint64_t seed = test::Seed(5);
  INFO("LEAT_SEED=", seed);
  test::Random random(seed);
  for (int i = 0; i < 2000; ++i) {
    const std::string key = test::RandomBytes(random, test::Below(random, 70));
    REQUIRE(Murmur2(key) == JavaMurmur2(key));
  }
  CHECK(Murmur2("") == JavaMurmur2(""));
}

TEST_CASE("a key's partition is that of the Java client's toPositive(murmur2) % n") {
  // 0x7fffffff & -973932308 = 1173551340
  CHECK(PartitionOf("21", 1) == 0);
  CHECK(PartitionOf("21", 10) == 1173551340 % 10);
  CHECK(PartitionOf("abc", 7) == 479470107 % 7);
  std::set<uint32_t> seen;
  for (int i = 0; i < 1000; ++i) {
    const uint32_t partition = PartitionOf(std::to_string(i), 16);
    CHECK(partition < 16);
    seen.insert(partition);
  }
  CHECK(seen.size() == 16);
}

TEST_CASE("what an event is partitioned by") {
  test::EventParts parts;
  parts.id = "id";
  CHECK(KeyOf(test::MakeEvent(parts).view()) == "id");
  parts.subject = "subject";
  const auto with_subject = test::MakeEvent(parts);
  CHECK(KeyOf(with_subject.view()) == "subject");
  parts.key = "key";
  const auto with_key = test::MakeEvent(parts);
  CHECK(KeyOf(with_key.view()) == "key");
}

}  // namespace
}  // namespace leat::bus

#include "bus/partitioner.h"

namespace leat::bus {

uint32_t Murmur2(std::string_view key) {
  constexpr uint32_t kMultiplier = 0x5bd1e995;
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(key[i])); };
  const size_t words = key.size() / 4;
  uint32_t hash = 0x9747b28c ^ static_cast<uint32_t>(key.size());
  for (size_t i = 0; i < words; ++i) {
    uint32_t word = byte(4 * i) | byte(4 * i + 1) << 8 | byte(4 * i + 2) << 16 |
                    byte(4 * i + 3) << 24;
    word *= kMultiplier;
    word ^= word >> 24;
    word *= kMultiplier;
    hash *= kMultiplier;
    hash ^= word;
  }
  const size_t rest = key.size() % 4;
  if (rest >= 3) hash ^= byte(4 * words + 2) << 16;
  if (rest >= 2) hash ^= byte(4 * words + 1) << 8;
  if (rest >= 1) {
    hash ^= byte(4 * words);
    hash *= kMultiplier;
  }
  hash ^= hash >> 13;
  hash *= kMultiplier;
  hash ^= hash >> 15;
  return hash;
}

std::string_view KeyOf(const events::EventView& event) {
  if (!event.partitionkey.empty()) return event.partitionkey;
  return event.subject.empty() ? event.id : event.subject;
}

}  // namespace leat::bus

// Which events of foreign producers came to a partition lately, so that one that is published again
// counts once. What a shard writes needs none of this: it has positions (inbox.h).
#pragma once

#include <cstdint>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "core/bytes.h"

namespace leat::runtime {

// The window: so many of a partition's newest foreign events that counted. A repetition counts once
// while the first one is among them, and again when it is not any more.
inline constexpr uint32_t kWindowEvents = 65'536;

// About 4 MiB when it is full, and empty as long as there is no such event. Its entries are written
// in the commit that holds the input position behind them: Shard::SetInput. Not thread-safe.
class Window {
 public:
  // Whether it is new; then it is the newest from now on, and the oldest goes when there are more
  // than kWindowEvents.
  bool Add(std::string_view source, std::string_view id);

 private:
  friend class Shard;
  // Of SHA-256 over source and id: nobody can make another event look like a repetition.
  using Key = core::FixedBytes<16>;
  struct KeyHash {
    size_t operator()(const Key& key) const;
  };

  uint64_t count_ = 0;                      // that were ever added; the newest is number count_ - 1
  uint64_t staged_ = 0;                     // of these, how many the shard has been given
  std::vector<Key> ring_;                   // by number modulo kWindowEvents
  std::unordered_set<Key, KeyHash> known_;  // what is in ring_
};

}  // namespace leat::runtime

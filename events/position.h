// Position tokens: opaque to users, one text form everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace leat::events {

// A place in one partition of one topic: that of the event at `offset`. `incarnation` names the log's life: it is new
// when a store is created or restored, so that a token from before is recognised; 0 is unknown and matches any.
struct Position {
  std::string topic;
  uint32_t partition = 0;
  uint64_t offset = 0;
  uint32_t incarnation = 0;

  bool operator==(const Position&) const = default;
};

// "topic/partition@offset~incarnation"; several are joined by ','.
std::string FormatPosition(std::string_view topic, uint32_t partition, uint64_t offset,
                           uint32_t incarnation);
std::string FormatPositions(const std::vector<Position>& positions);
// At least one, at most kPositionsMax. Errors: kInvalid.
inline constexpr size_t kPositionsMax = 256;
Result<std::vector<Position>> ParsePositions(std::string_view token);
// Exactly one. Errors: kInvalid.
Result<Position> ParsePosition(std::string_view token);

// Topic names: letters, digits, '.', '_', '-', 1 to 200 of them, not "." or "..". Errors: kInvalid.
Status CheckTopicName(std::string_view name);

}  // namespace leat::events

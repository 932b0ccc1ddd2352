#include "events/position.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "core/bytes.h"

namespace leat::events {
namespace {

constexpr size_t kTopicBytesMax = 200;

std::unexpected<Error> NotAPosition(std::string_view token) {
  return Invalid("\"" + std::string(token.substr(0, 120)) + "\" is not a position",
                 "use a position as an answer gave it, such as ledger.entries/0@42");
}

}  // namespace

std::string FormatPosition(std::string_view topic, uint32_t partition, uint64_t offset,
                           uint32_t incarnation) {
  std::string out(topic);
  out += "/" + std::to_string(partition) + "@" + std::to_string(offset);
  if (incarnation != 0) {
    char text[12];
    std::snprintf(text, sizeof text, "~%08x", incarnation);
    out += text;
  }
  return out;
}

std::string FormatPositions(const std::vector<Position>& positions) {
  std::string out;
  for (const Position& position : positions) {
    if (!out.empty()) out += ",";
    out += FormatPosition(position.topic, position.partition, position.offset,
                          position.incarnation);
  }
  return out;
}

Result<Position> ParsePosition(std::string_view token) {
  Position position;
  const size_t slash = token.rfind('/');
  const size_t at = token.rfind('@');
  if (slash == std::string_view::npos || at == std::string_view::npos || at < slash) {
    return NotAPosition(token);
  }
  position.topic = token.substr(0, slash);
  std::string_view offset = token.substr(at + 1);
  if (const size_t tilde = offset.find('~'); tilde != std::string_view::npos) {
    const std::string_view hex = offset.substr(tilde + 1);
    const auto [end, error] =
        std::from_chars(hex.data(), hex.data() + hex.size(), position.incarnation, 16);
    if (hex.size() != 8 || error != std::errc() || end != hex.data() + hex.size()) {
      return NotAPosition(token);
    }
    offset = offset.substr(0, tilde);
  }
  const auto partition = core::ParseUint64(token.substr(slash + 1, at - slash - 1));
  const auto number = core::ParseUint64(offset);
  if (!partition || *partition > UINT32_MAX || !number || !CheckTopicName(position.topic)) {
    return NotAPosition(token);
  }
  position.partition = static_cast<uint32_t>(*partition);
  position.offset = *number;
  return position;
}

Result<std::vector<Position>> ParsePositions(std::string_view token) {
  std::vector<Position> out;
  for (;;) {
    const size_t comma = token.find(',');
    if (out.size() == kPositionsMax) return NotAPosition(token);
    LEAT_ASSIGN(Position position, ParsePosition(token.substr(0, comma)));
    out.push_back(std::move(position));
    if (comma == std::string_view::npos) return out;
    token.remove_prefix(comma + 1);
  }
}

Status CheckTopicName(std::string_view name) {
  const bool good = !name.empty() && name.size() <= kTopicBytesMax && name != "." && name != ".." &&
                    std::all_of(name.begin(), name.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                             (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
                    });
  if (!good) {
    return Invalid("\"" + std::string(name.substr(0, 64)) + "\" is not a topic name",
                   "use 1 to 200 letters, digits, '.', '_' and '-'");
  }
  return {};
}

}  // namespace leat::events

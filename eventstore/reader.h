// Reading a log as services want it: the whole log or one stream, forwards or backwards, by type and by category, once
// or as a subscription that catches up and goes live.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "core/result.h"
#include "eventstore/log.h"
#include "events/event.h"

namespace leat::eventstore {

enum class Direction { kForward, kBackward };

struct ReadOptions {
  Direction direction = Direction::kForward;
  // Of the whole log: the first position to give; backwards the one after it.
  uint64_t from_position = 0;
  // Of one stream, where it is named: the first version to give; backwards the one after it. 1 is the stream's first.
  std::string stream;
  uint64_t from_version = 1;
  // Only events of streams of this category ("ledger" for "ledger-eip155:1"); empty: of all.
  std::string category;
  // Only events of this type; a trailing '*' stands for any end; empty: all.
  std::string type;
};

// "abc*" matches what begins with abc; without '*' only itself; empty matches everything.
bool MatchesPattern(std::string_view pattern, std::string_view text);

// Not thread-safe; must not outlive the log. Views that Next gives are valid until the next call.
//
// Forwards it is a subscription: at the end of what is published Next returns false, and after Wait it goes on with what
// came since. Both phases read the same log by position, so there is no seam where an event could be missed or come twice.
class Reader {
 public:
  Reader(const Log* log, ReadOptions options);

  // The next matching event; false at the end, or at the beginning when reading backwards. Errors: kCorrupt.
  Result<bool> Next(LogEvent* event, events::EventView* view);
  // Waits for the log to grow beyond what Next has looked at; false at the timeout. Forwards only.
  bool Wait(std::chrono::milliseconds timeout) const;

 private:
  Result<bool> Step(LogEvent* event);
  Result<bool> StepInStream(LogEvent* event);

  const Log* log_;
  const ReadOptions options_;
  LogCursor cursor_;
  // Of one stream: positions looked up ahead, and the version that follows them.
  std::vector<uint64_t> positions_;
  size_t at_ = 0;
  uint64_t version_;
  bool begun_ = false;
  uint64_t seen_size_ = 0;
};

}  // namespace leat::eventstore

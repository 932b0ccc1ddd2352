// Reads the events of one or all topics in order, page by page or as a stream of JSON lines.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bus/bus.h"
#include "core/result.h"
#include "events/position.h"
#include "runtime/shard.h"

namespace leat::gateway {

struct EventQuery {
  std::string topic;                      // empty: all topics by name
  std::optional<events::Position> from;   // this event and later ones
  std::optional<events::Position> to;     // up to this event
  std::optional<int64_t> since_us;        // what came to `topic` from this time on; beside `from`, behind its partition
  std::string type;                       // empty: all; a trailing '*' stands for any end
  std::string stream;                     // subject; "category-*" for a whole category
  uint64_t limit = UINT64_MAX;
  bool follow = false;                    // goes on with what comes
};

// What does not count on a partition that a shard owns (runtime/inbox.h) is passed over. Topics are read one after the other, partitions in order; following, whatever comes first. Not thread-safe.
class EventReader {
 public:
  // The transport must outlive it. Errors: kNotFound, kInvalid.
  static Result<std::unique_ptr<EventReader>> Open(const EventQuery& query,
                                                   bus::Transport* transport);

  struct Item {
    std::string_view topic;
    uint32_t partition = 0;
    uint32_t incarnation = 0;
    const bus::Message* message = nullptr;
  };
  // Matching events of one more step (at most kStepMessages looked at, maybe none of them a match); views are valid
  // until the next call. Done() and CaughtUp() tell whether there is more.
  static constexpr size_t kStepMessages = 512;
  Status Step(std::vector<Item>* items);
  bool Done() const { return done_; }
  // Following: the last step found nothing to look at.
  bool CaughtUp() const { return caught_up_; }
  // Where a next query has to begin; empty at the end of everything.
  std::string NextToken() const;

 private:
  struct Source {
    std::string topic;
    uint32_t partition = 0;
    uint32_t incarnation = 0;
    uint64_t next = 0;
    uint64_t end = 0;
    std::unique_ptr<bus::Subscription> subscription;
    std::chrono::steady_clock::time_point waits_until;  // for what is there and does not come
    runtime::InputPosition input;  // what of the partition counts
    bool middle = false;           // what was read first is not its beginning
    bool unowned = false;          // there is no telling yet where its owner's log is
    bool guessed = false;          // no claim was read: whose events are read is taken for its owner
    bool begun = false;            // at a position that was asked for, or something was read
    bool Counts(const bus::Message& message);
  };
  EventReader() = default;
  bool Matches(const events::EventView& event) const;

  EventQuery query_;
  bus::Transport* transport_ = nullptr;
  std::vector<Source> sources_;
  size_t current_ = 0;
  uint64_t given_ = 0;
  bool done_ = false;
  bool caught_up_ = false;
  bus::MessageBatch batch_;
};

}  // namespace leat::gateway

// What a service is, to the runtime: functions of its state and its input, without clock, network, broker or chance.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bus/bus.h"
#include "core/result.h"
#include "eventstore/log.h"
#include "events/event.h"
#include "runtime/state.h"

namespace leat::runtime {

// What one input led to: events in order.
class Decision {
 public:
  struct Entry {
    std::string stream;
    std::string_view type;  // of the registry: lives for ever
    int64_t time_us;
    std::string key;        // partitionkey
    std::string id;         // empty: derived from the cause
    std::string data;       // Protobuf
  };

  // `data` is the serialized message of the type.
  void Add(std::string_view stream, std::string_view type, int64_t time_us, std::string_view key,
           std::string data, std::string id = {}) {
    entries_.push_back({std::string(stream), type, time_us, std::string(key), std::move(id),
                        std::move(data)});
  }
  const std::vector<Entry>& entries() const { return entries_; }
  void Clear() { entries_.clear(); }

 private:
  std::vector<Entry> entries_;
};

// The half of a decider that turns its own events into rows. Called by its shard's writer thread alone.
class Evolver {
 public:
  virtual ~Evolver() = default;
  // The only writer of rows. `position` is the event's in the shard's log.
  virtual Status Evolve(State* state, const events::EventView& event, uint64_t position) = 0;
};

// Called by its shard's writer thread alone.
class Decider : public Evolver {
 public:
  // Whether this input may be the first of what is decided in one commit: the rest of what was broken off may not.
  virtual bool Begins(const events::EventView&) const { return true; }
  // This input and the one after it must be decided in one commit.
  virtual bool Continues(const events::EventView&) const { return false; }
  // `next` is the one after `previous`, which continues. When it is not, whoever wrote `previous` lost the partition before the
  // rest was written: all that belongs to it is passed over, as if it had not come.
  virtual bool Continued(const events::EventView& /*previous*/, const events::EventView& /*next*/) const {
    return true;
  }
  // The decision on this input reads the shard's own log: what was decided before must be in it.
  virtual bool NeedsLog(const events::EventView&) const { return false; }
  // Writes nothing. `log` is the shard's own. Errors: kUnsupported (a type that it does not know): the input is passed
  // over. kInvalid (the input is at fault): passed over when a stranger wrote it. Where one passes a stranger's over, it
  // goes to the dead letters. Any other error, and kInvalid for what a shard wrote, stops the shard.
  virtual Status Decide(const State& state, const eventstore::Log& log,
                        const events::EventView& input, Decision* decision) = 0;
};

// Called by its shard's writer thread alone.
class Projection {
 public:
  virtual ~Projection() = default;
  // `offset` is the event's in its topic. Errors as Decider::Decide's. What was staged before the error is forgotten, and
  // Load called, but for kUnsupported of what a shard wrote.
  virtual Status Evolve(State* state, const events::EventView& event, uint64_t offset) = 0;
  // Called after each commit: what queries need of it at hand, given out with the commit's snapshot. May be null.
  virtual std::shared_ptr<const void> Summary() { return nullptr; }
  // Rows were read anew from the database: forget what was kept in memory, and load it.
  virtual Status Load(const State& state) = 0;
};

class Shard;

// Adds a decision to the commit being made: each event is appended to the shard's log and evolved, as it will be read
// from there. `cause` names the input, and its n and m are set here; null for what no topic carried. An event beyond the
// limits (kInvalid) leaves the commit as it was; any other error abandons the whole commit, so that half a decision is
// never written.
Status StageDecision(Shard* shard, Evolver* evolver, const Decision& decision,
                     const events::Cause* cause);

}  // namespace leat::runtime
